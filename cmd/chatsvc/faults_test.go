package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// Whatever the provider does, the caller gets one code and reason in time, the stored turn says the same, and the conversation
// takes the next turn.
func TestFaults(t *testing.T) {
	t.Parallel()
	p := serve(t, "upstream:\n  first_event_timeout: 700ms\n  idle_timeout: 700ms\n")
	c := p.dial(t, redKey)

	const failed, completed, incomplete = chatsvcv1.TurnState_TURN_STATE_FAILED, chatsvcv1.TurnState_TURN_STATE_COMPLETED, chatsvcv1.TurnState_TURN_STATE_INCOMPLETE
	for _, f := range []struct {
		directive string
		state     chatsvcv1.TurnState
		code      codes.Code
		reason    string
		partial   bool // some of the answer is kept
	}{
		{"fault=401", failed, codes.Unavailable, "UPSTREAM_CREDENTIAL_REJECTED", false},
		{"fault=429-rate", failed, codes.Unavailable, "UPSTREAM_RATE_LIMITED", false},
		{"fault=429-quota", failed, codes.Unavailable, "UPSTREAM_ACCOUNT_EXHAUSTED", false},
		{"fault=400", failed, codes.InvalidArgument, "UPSTREAM_REJECTED", false},
		{"fault=404", failed, codes.InvalidArgument, "UPSTREAM_REJECTED", false},
		{"fault=500", failed, codes.Unavailable, "UPSTREAM_UNAVAILABLE", false},
		{"fault=503", failed, codes.Unavailable, "UPSTREAM_UNAVAILABLE", false},
		{"fault=context", failed, codes.FailedPrecondition, "CONTEXT_TOO_LONG", false},
		{"fault=html", failed, codes.Unavailable, "UPSTREAM_UNAVAILABLE", false},
		{"delay=10s", failed, codes.Unavailable, "UPSTREAM_STALLED", false},
		{"fault=stall after=0", failed, codes.Unavailable, "UPSTREAM_STALLED", false},
		{"fault=stall after=3 tokens=9", failed, codes.Unavailable, "UPSTREAM_STALLED", true},
		{"fault=cut", failed, codes.Unavailable, "UPSTREAM_UNAVAILABLE", false},
		{"fault=cut after=0", failed, codes.Unavailable, "UPSTREAM_STREAM_CUT", false},
		{"fault=cut after=3 tokens=9", failed, codes.Unavailable, "UPSTREAM_STREAM_CUT", true},
		{"fault=eof after=3 tokens=9", failed, codes.Unavailable, "UPSTREAM_STREAM_CUT", true},
		{"fault=no-finish tokens=9", failed, codes.Unavailable, "UPSTREAM_STREAM_CUT", true},
		{"fault=garbage after=3 tokens=9", failed, codes.Unavailable, "UPSTREAM_UNAVAILABLE", true},
		{"fault=error after=3 tokens=9", failed, codes.Unavailable, "UPSTREAM_UNAVAILABLE", true},
		{"fault=huge after=3 tokens=9 size=3", failed, codes.Unavailable, "UPSTREAM_UNAVAILABLE", true},
		{"fault=endless burst=500", incomplete, codes.OK, "", true},
		{"fault=no-usage tokens=9", completed, codes.OK, "", true},
		{"fault=no-done tokens=9", completed, codes.OK, "", true},
		{"split=1 comments=3 answer='héllo 🌍'", completed, codes.OK, "", true},
		{"finish=length tokens=9", incomplete, codes.OK, "", true},
		{"finish=content_filter tokens=9", incomplete, codes.OK, "", true},
	} {
		t.Run(f.directive, func(t *testing.T) {
			t.Parallel()
			bound := 15 * time.Second
			if strings.Contains(f.directive, "endless") {
				bound = 2 * time.Minute // ends by its size, which takes as long as the machine is slow
			}
			for _, streamed := range []bool{false, true} {
				conv := c.newConversation(t)
				request := &chatsvcv1.CreateTurnRequest{Conversation: conv, Text: "[[sim " + f.directive + "]]"}
				began := time.Now()
				name, err := make1(t, c, request, streamed)
				if took := time.Since(began); took > bound {
					t.Errorf("streamed %v: took %v", streamed, took)
				}
				if f.code == codes.OK && err != nil {
					t.Errorf("streamed %v: %v", streamed, err)
				} else if f.code != codes.OK {
					wantReason(t, err, f.code, f.reason)
					if text := status.Convert(err).Message(); strings.Contains(text, "sim") || strings.Contains(text, "sk-") {
						t.Errorf("the provider's words or key reach the caller: %s", text)
					}
				}

				turn, err := c.chat.GetTurn(t.Context(), &chatsvcv1.GetTurnRequest{Name: name, View: chatsvcv1.TurnView_TURN_VIEW_FULL})
				if err != nil {
					t.Fatal(err)
				}
				if turn.GetState() != f.state || codes.Code(turn.GetError().GetCode()) != f.code {
					t.Errorf("streamed %v: the stored turn is %v with error %v", streamed, turn.GetState(), turn.GetError())
				}
				if (textOf(turn) != "") != f.partial {
					t.Errorf("streamed %v: %d bytes of output kept", streamed, len(textOf(turn)))
				}
				if n := len(turn.GetAttempts()); n != 1 || turn.GetAttempts()[0].GetState() != chatsvcv1.Attempt_STATE_SETTLED {
					t.Errorf("attempts %v", turn.GetAttempts())
				}
				if f.partial && turn.GetUsage().GetOutputTokens() == 0 {
					t.Errorf("streamed %v: what came was not counted: %v", streamed, turn.GetUsage())
				}
				if got := c.say(t, conv, "and now?"); got == "" {
					t.Error("the conversation does not go on")
				}
			}
		})
	}
	t.Cleanup(func() {
		if log := p.logs.String(); strings.Contains(log, "sk-canary") {
			t.Error("the upstream key is in the log")
		}
	})
}

// make1 makes one turn and returns its name and how it ended.
func make1(t *testing.T, c *client, request *chatsvcv1.CreateTurnRequest, streamed bool) (string, error) {
	t.Helper()
	if streamed {
		stream, err := c.chat.StreamTurn(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		events, err := collect(stream)
		if len(events) == 0 || events[len(events)-1].GetTerminal() == nil {
			t.Fatalf("the stream does not end with terminal: %v, %v", events, err)
		}
		var text strings.Builder
		for _, e := range events {
			text.WriteString(e.GetTextDelta().GetText())
		}
		if last := textOf(events[len(events)-1].GetTerminal().GetTurn()); last != text.String() {
			t.Errorf("streamed %d bytes, the terminal has %d", text.Len(), len(last))
		}
		return events[0].GetAccepted().GetTurn(), err
	}
	header := grpcHeader{}
	_, err := c.chat.CreateTurn(t.Context(), request, header.option())
	return header.turn(t), err
}

// An upstream that is not there at all.
func TestUpstreamDown(t *testing.T) {
	t.Parallel()
	p := launch(t, "serve", "--config", writeConfig(t, t.TempDir(), "http://127.0.0.1:1/v1", ""))
	c := p.dial(t, redKey)
	_, err := c.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Text: "hi"})
	wantReason(t, err, codes.Unavailable, "UPSTREAM_UNAVAILABLE")
}
