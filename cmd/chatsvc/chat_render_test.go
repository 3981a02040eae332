package main

import (
	"strings"
	"testing"
	"time"
	"unicode"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

func TestAnswerPrinter(t *testing.T) {
	reasoning := func(s string) *chatsvcv1.TurnEvent {
		return &chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_ReasoningDelta{ReasoningDelta: &chatsvcv1.ReasoningDelta{Text: s}}}
	}
	refusal := func(s string) *chatsvcv1.TurnEvent {
		return &chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_RefusalDelta{RefusalDelta: &chatsvcv1.RefusalDelta{Text: s}}}
	}
	call := func(part int32, name, arguments string) *chatsvcv1.TurnEvent {
		return &chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_ToolCallDelta{
			ToolCallDelta: &chatsvcv1.ToolCallDelta{PartIndex: part, Name: name, ArgumentsJson: arguments},
		}}
	}
	reset := &chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_OutputReset{}}
	draining := &chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_Draining{}}
	again := &chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_AttemptStarted{AttemptStarted: &chatsvcv1.AttemptStarted{Attempt: 2}}}

	for _, tt := range []struct {
		name        string
		events      []*chatsvcv1.TurnEvent
		tty, pipe   string
		notes, logs string // of a terminal, and of a file
	}{
		{"text in pieces", []*chatsvcv1.TurnEvent{textDelta("Bon"), textDelta("jour")}, "Bonjour\n", "Bonjour\n", "", ""},
		{"own line end", []*chatsvcv1.TurnEvent{textDelta("Bonjour\n")}, "Bonjour\n", "Bonjour\n", "", ""},
		{"nothing", nil, "", "", "", ""},
		{"escapes", []*chatsvcv1.TurnEvent{textDelta("a\x1b"), textDelta("]52;c;x\a\u009b\r\n\tb")}, "a␛]52;c;x␇\ufffd\n\tb\n", "a\x1b]52;c;x\a\u009b\r\n\tb\n", "", ""},
		{"reasoning", []*chatsvcv1.TurnEvent{reasoning("Hm"), reasoning("m."), textDelta("Yes.")}, "Hmm.\nYes.\n", "Yes.\n", "", ""},
		{"refusal", []*chatsvcv1.TurnEvent{refusal("I ca"), refusal("n't.")}, "declined: I can't.\n", "I can't.\n", "", ""},
		{
			"calls",
			[]*chatsvcv1.TurnEvent{textDelta("I look."), call(1, "weather", `{"at":`), call(1, "", `"Paris"}`), call(2, "time\x1b", "")},
			"I look.\n→ weather({\"at\":\"Paris\"})\n→ time␛()\n", "I look.\n→ weather({\"at\":\"Paris\"})\n→ time\x1b()\n", "", "",
		},
		{
			"reset",
			[]*chatsvcv1.TurnEvent{textDelta("One"), reset, textDelta("Two")},
			"One\nTwo\n", "One\nTwo\n", "the answer begins anew; what stands above is void\n", "the answer begins anew; what stands above is void\n",
		},
		{"notes", []*chatsvcv1.TurnEvent{again, draining}, "", "", "attempt 2\nthe server is about to stop\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, terminal := range []bool{true, false} {
				var out, notes strings.Builder
				p := &answerPrinter{out: &display{w: &out, terminal: terminal}, notes: &display{w: &notes, terminal: terminal}}
				for _, e := range tt.events {
					p.event(e)
				}
				p.end()
				want, wantNotes := tt.pipe, tt.logs
				if terminal {
					want, wantNotes = tt.tty, tt.notes
				}
				if out.String() != want || notes.String() != wantNotes {
					t.Errorf("terminal %t: %q, want %q; notes %q, want %q", terminal, &out, want, &notes, wantNotes)
				}
			}
		})
	}
}

func TestDisplayColor(t *testing.T) {
	var out strings.Builder
	d := &display{w: &out, terminal: true, colored: true}
	d.write(inkDim, "a\x1b")
	d.write(inkPlain, "b")
	if want := "\x1b[2ma␛\x1b[0mb"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestSummary(t *testing.T) {
	for _, tt := range []struct {
		result turnResult
		want   string
	}{
		{turnResult{total: 1234 * time.Millisecond}, "total 1.23s"},
		{
			turnResult{
				turn: &chatsvcv1.Turn{
					Model: "sim", FinishReason: chatsvcv1.FinishReason_FINISH_REASON_LENGTH,
					Usage: &chatsvcv1.Usage{InputTokens: 200, CachedInputTokens: 128, OutputTokens: 50, ReasoningTokens: 8, Estimated: true},
				},
				firstDelta: 210_400 * time.Microsecond, total: 61_200 * time.Millisecond,
			},
			"sim · about 200 tokens in (128 cached), 50 out (8 reasoning) · first token 210ms, total 1m1s · cut at the token limit",
		},
	} {
		if got := turnSummary(tt.result); got != tt.want {
			t.Errorf("turnSummary = %q, want %q", got, tt.want)
		}
	}
}

// FuzzVisible: whatever a model says, a terminal is told nothing but to begin a line and to move to a tab stop.
func FuzzVisible(f *testing.F) {
	for _, s := range []string{"", "Bonjour\n\tvous", "\x1b]0;title\a", "\u009b2J", "a\rb", "\x7f\x00\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := visible(s)
		if i := strings.IndexFunc(got, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }); i >= 0 {
			t.Errorf("visible(%q) = %q holds a control character", s, got)
		}
		if again := visible(got); again != got {
			t.Errorf("visible(%q) = %q", got, again)
		}
	})
}
