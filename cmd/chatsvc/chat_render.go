package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// isTerminal reports whether stream, a reader or writer, is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// ink is how text looks on a terminal.
type ink string

const (
	inkPlain ink = ""
	inkDim   ink = "\x1b[2m"
	inkRed   ink = "\x1b[31m"
	inkCyan  ink = "\x1b[36m"
)

// display is an output stream and what it can show. It keeps the first error, after which it writes nothing more.
type display struct {
	w        io.Writer
	terminal bool // it obeys control characters, so only ours may reach it
	colored  bool
	midLine  bool // the last line that was written has no end yet
	err      error
}

func newDisplay(w io.Writer) *display {
	terminal := isTerminal(w)
	return &display{w: w, terminal: terminal, colored: terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// write writes text from wherever it may come: on a terminal its control characters are shown and not obeyed.
func (d *display) write(with ink, text string) {
	if text == "" || d.err != nil {
		return
	}
	if d.terminal {
		text = visible(text)
	}
	d.midLine = !strings.HasSuffix(text, "\n")
	if d.colored && with != inkPlain {
		text = string(with) + text + "\x1b[0m"
	}
	_, d.err = io.WriteString(d.w, text)
}

// line writes a line of its own.
func (d *display) line(with ink, format string, args ...any) {
	d.endLine()
	d.write(with, fmt.Sprintf(format, args...))
	d.write(inkPlain, "\n")
}

// lead begins a line that whatever is written next goes on.
func (d *display) lead(with ink, text string) {
	d.endLine()
	d.write(with, text)
	d.midLine = false
}

// endLine ends a line that has no end yet.
func (d *display) endLine() {
	if d.midLine {
		d.write(inkPlain, "\n")
	}
}

// visible replaces control characters, of which a terminal would obey some: by their picture (␛) or, where Unicode has
// none, by U+FFFD. Line feeds and tabs stay; carriage returns go, since they can write over what stands there.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r == '\r':
			return -1
		case r < 0x20:
			return '\u2400' + r
		case r == 0x7f:
			return '\u2421'
		case 0x80 <= r && r < 0xa0:
			return '\ufffd'
		default:
			return r
		}
	}, text)
}

// pieceKind is what a piece of an answer is.
type pieceKind int

const (
	noPiece pieceKind = iota
	textPiece
	reasoningPiece
	refusalPiece
	callPiece
)

// answerPrinter writes an answer as it comes: to out what the model says, to notes what happens meanwhile. Reasoning
// is shown to people only; a file or a pipe gets the answer and nothing else.
type answerPrinter struct {
	out, notes *display
	kind       pieceKind
	part       int32
}

// event shows one event of a turn.
func (p *answerPrinter) event(e *chatsvcv1.TurnEvent) {
	switch e := e.GetEvent().(type) {
	case *chatsvcv1.TurnEvent_TextDelta:
		p.text(e.TextDelta.GetText())
	case *chatsvcv1.TurnEvent_RefusalDelta:
		p.refusal(e.RefusalDelta.GetText())
	case *chatsvcv1.TurnEvent_ReasoningDelta:
		p.reasoning(e.ReasoningDelta.GetText())
	case *chatsvcv1.TurnEvent_ToolCallDelta:
		p.call(e.ToolCallDelta.GetPartIndex(), e.ToolCallDelta.GetName(), e.ToolCallDelta.GetArgumentsJson())
	case *chatsvcv1.TurnEvent_OutputReset:
		p.end()
		p.notes.line(inkDim, "the answer begins anew; what stands above is void")
	case *chatsvcv1.TurnEvent_AttemptStarted:
		if n := e.AttemptStarted.GetAttempt(); n > 1 {
			p.note("attempt %d", n)
		}
	case *chatsvcv1.TurnEvent_QueueUpdate:
		p.note("turns before this one: %d", e.QueueUpdate.GetPosition())
	case *chatsvcv1.TurnEvent_Draining:
		p.note("the server is about to stop")
	}
}

// message shows a whole message.
func (p *answerPrinter) message(m *chatsvcv1.Message) {
	for i, part := range m.GetParts() {
		switch part := part.GetPart().(type) {
		case *chatsvcv1.Part_Text:
			p.text(part.Text)
		case *chatsvcv1.Part_Refusal:
			p.refusal(part.Refusal.GetText())
		case *chatsvcv1.Part_Reasoning:
			p.reasoning(part.Reasoning.GetSummary())
		case *chatsvcv1.Part_ToolCall:
			p.call(int32(i), part.ToolCall.GetName(), part.ToolCall.GetArgumentsJson())
		case *chatsvcv1.Part_ToolResult:
			p.text(part.ToolResult.GetText())
		case *chatsvcv1.Part_Image:
			p.text("[image]")
		}
	}
	p.end()
}

func (p *answerPrinter) text(more string) {
	p.begin(textPiece)
	p.out.write(inkPlain, more)
}

func (p *answerPrinter) refusal(more string) {
	if p.begin(refusalPiece) && p.out.terminal {
		p.out.write(inkRed, "declined: ")
	}
	p.out.write(inkPlain, more)
}

func (p *answerPrinter) reasoning(more string) {
	if more != "" && p.out.terminal {
		p.begin(reasoningPiece)
		p.out.write(inkDim, more)
	}
}

func (p *answerPrinter) call(part int32, name, arguments string) {
	if p.kind == callPiece && part != p.part {
		p.end()
	}
	if p.begin(callPiece) {
		p.part = part
		p.out.write(inkCyan, "→ "+name+"(")
	}
	p.out.write(inkCyan, arguments)
}

// begin reports whether a piece of this kind begins, on a line of its own, or goes on.
func (p *answerPrinter) begin(kind pieceKind) bool {
	if kind == p.kind {
		return false
	}
	p.end()
	p.kind = kind
	return true
}

// end ends the piece that was begun, and its line.
func (p *answerPrinter) end() {
	if p.kind == callPiece {
		p.out.write(inkCyan, ")")
	}
	p.kind = noPiece
	p.out.endLine()
}

// note tells a person what happens; a log gets none of it.
func (p *answerPrinter) note(format string, args ...any) {
	if p.notes.terminal {
		p.end()
		p.notes.line(inkDim, format, args...)
	}
}

// turnSummary returns the line below an answer: model, tokens, latency.
func turnSummary(r turnResult) string {
	var facts []string
	add := func(format string, args ...any) { facts = append(facts, fmt.Sprintf(format, args...)) }
	if model := r.turn.GetModel(); model != "" {
		add("%s", model)
	}
	if usage := r.turn.GetUsage(); usage != nil {
		about := ""
		if usage.GetEstimated() {
			about = "about "
		}
		in := fmt.Sprintf("%s%d tokens in", about, usage.GetInputTokens())
		if cached := usage.GetCachedInputTokens(); cached > 0 {
			in += fmt.Sprintf(" (%d cached)", cached)
		}
		out := fmt.Sprintf("%d out", usage.GetOutputTokens())
		if thought := usage.GetReasoningTokens(); thought > 0 {
			out += fmt.Sprintf(" (%d reasoning)", thought)
		}
		add("%s, %s", in, out)
	}
	if r.firstDelta > 0 {
		add("first token %v, total %v", roundTime(r.firstDelta), roundTime(r.total))
	} else {
		add("total %v", roundTime(r.total))
	}
	if why := ending(r.turn.GetFinishReason()); why != "" {
		add("%s", why)
	}
	return strings.Join(facts, " · ")
}

// ending says why an answer ended, where that is not simply its end.
func ending(reason chatsvcv1.FinishReason) string {
	switch reason {
	case chatsvcv1.FinishReason_FINISH_REASON_LENGTH:
		return "cut at the token limit"
	case chatsvcv1.FinishReason_FINISH_REASON_CONTENT_FILTER:
		return "cut by the provider's filter"
	case chatsvcv1.FinishReason_FINISH_REASON_SCHEMA_MISMATCH:
		return "does not follow the schema"
	case chatsvcv1.FinishReason_FINISH_REASON_REFUSAL:
		return "the model declined"
	case chatsvcv1.FinishReason_FINISH_REASON_TOOL_CALLS:
		return "the model waits for results"
	default:
		return ""
	}
}

// roundTime rounds d to what a person cares about.
func roundTime(d time.Duration) time.Duration {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond)
	case d < time.Second:
		return d.Round(time.Millisecond)
	case d < time.Minute:
		return d.Round(10 * time.Millisecond)
	default:
		return d.Round(time.Second)
	}
}
