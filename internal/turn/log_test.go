package turn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

func text(s string) conversation.Event {
	return conversation.Event{Kind: conversation.EventTextDelta, Text: s}
}

func newRun() *run {
	return &run{turn: &conversation.Turn{ID: newID()}, done: make(chan struct{})}
}

func TestReadersSeeEveryEventOnceInOrder(t *testing.T) {
	const events, readers = 5000, 8
	r := newRun()
	var wg sync.WaitGroup
	for n := range readers {
		wg.Go(func() {
			reader := &Reader{run: r, position: int64(n)} // each starts at another place
			next := int64(n) + 1
			for {
				got, err := reader.Next(t.Context())
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Errorf("reader %d: %v", n, err)
					return
				}
				for _, e := range got {
					if e.Sequence != next {
						t.Errorf("reader %d: sequence %d, want %d", n, e.Sequence, next)
						return
					}
					if want := fmt.Sprint(next); e.Kind == conversation.EventTextDelta && e.Text != want {
						t.Errorf("reader %d: event %d says %q", n, next, e.Text)
					}
					next++
				}
			}
			if next != events+2 {
				t.Errorf("reader %d: ended before %d, want after %d", n, next, events+1)
			}
		})
	}
	for i := range events {
		r.log.append(time.Now(), text(fmt.Sprint(i+1)))
	}
	r.log.append(time.Now(), conversation.Event{Kind: conversation.EventTerminal, Turn: &conversation.Turn{}})
	wg.Wait()
}

func TestSlowReaderHoldsNobodyUp(t *testing.T) {
	r := newRun()
	slow := &Reader{run: r}
	for range 3 * readBatch {
		r.log.append(time.Now(), text("x")) // would block here if a reader could
	}
	got, err := slow.Next(t.Context())
	if err != nil || len(got) != readBatch {
		t.Fatalf("read %d events, %v; want a bounded batch of %d", len(got), err, readBatch)
	}
	kept := got[0]
	r.log.append(time.Now(), text("y"))
	if got[0] != kept {
		t.Error("an append changed what a reader holds")
	}
}

func TestReaderNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRun()
		draining := make(chan struct{})
		reader := &Reader{run: r, draining: draining}
		r.log.append(time.Now(), text("x"))
		if _, err := reader.Next(t.Context()); err != nil {
			t.Fatal(err)
		}

		began := time.Now()
		got, err := reader.Next(t.Context())
		if err != nil || len(got) != 1 || got[0].Kind != conversation.NoteHeartbeat || got[0].Sequence != 1 {
			t.Fatalf("in silence: %+v, %v; want a heartbeat that repeats sequence 1", got, err)
		}
		if quiet := time.Since(began); quiet != heartbeatAfter {
			t.Errorf("heartbeat after %v, want %v", quiet, heartbeatAfter)
		}

		close(draining)
		got, err = reader.Next(t.Context())
		if err != nil || len(got) != 1 || got[0].Kind != conversation.NoteDraining {
			t.Fatalf("at drain: %+v, %v; want the note", got, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got, err = reader.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("second read at drain: %+v, %v; want the note once, then ctx's error", got, err)
		}
	})
}

func TestReaderOfAnEndThatWasNeverWritten(t *testing.T) {
	r := newRun()
	reader := &Reader{run: r}
	close(r.done)
	if _, err := reader.Next(t.Context()); !errors.Is(err, &conversation.Error{Reason: conversation.TurnInterrupted}) {
		t.Errorf("Next: %v, want TURN_INTERRUPTED instead of waiting for ever", err)
	}
}

func TestOutputPutsDeltasTogether(t *testing.T) {
	var o output
	deltas := []conversation.Event{
		{Kind: conversation.EventReasoningDelta, Text: "hm"},
		{Kind: conversation.EventTextDelta, PartIndex: 1, Text: "Bon"},
		{Kind: conversation.EventTextDelta, PartIndex: 1, Text: "jour"},
		{Kind: conversation.EventToolCallDelta, PartIndex: 2, ToolCallID: "a", ToolName: "f", Text: `{"x"`},
		{Kind: conversation.EventToolCallDelta, PartIndex: 3, ToolCallID: "b", ToolName: "g"},
		{Kind: conversation.EventToolCallDelta, PartIndex: 2, Text: `:1}`},
		{Kind: conversation.EventRefusalDelta, PartIndex: 4, Text: "no"},
	}
	for i := range deltas {
		if !o.add(&deltas[i]) {
			t.Fatalf("delta %d refused", i)
		}
	}
	for _, bad := range []conversation.Event{
		{Kind: conversation.EventTextDelta, PartIndex: 6},
		{Kind: conversation.EventTextDelta, PartIndex: -1},
		{Kind: conversation.EventTextDelta, PartIndex: 2, Text: "text in a tool call"},
	} {
		if o.add(&bad) {
			t.Errorf("accepted %+v", bad)
		}
	}
	m := o.messages(newID())
	if len(m) != 1 || len(m[0].Parts) != 5 || m[0].Role != conversation.RoleAssistant {
		t.Fatalf("messages: %+v", m)
	}
	if got := m[0].Text(); got != "Bonjour" {
		t.Errorf("text %q", got)
	}
	if c := m[0].Parts[2].ToolCall; c.ID != "a" || c.Name != "f" || c.Arguments != `{"x":1}` {
		t.Errorf("tool call %+v", c)
	}
	if want := len("hm" + "Bonjour" + `{"x":1}` + "no"); o.bytes != want {
		t.Errorf("bytes %d, want %d", o.bytes, want)
	}
	if m = withoutToolCalls(m); len(m) != 1 || len(m[0].Parts) != 3 {
		t.Errorf("without tool calls: %+v", m)
	}
	if (&output{}).messages(newID()) != nil {
		t.Error("an empty output is a message")
	}
}

func TestToolCallsMustBeAnswered(t *testing.T) {
	user := conversation.Message{Role: conversation.RoleUser, Parts: []conversation.Part{conversation.TextPart("hi")}}
	call := func(ids ...string) conversation.Message {
		m := conversation.Message{Role: conversation.RoleAssistant}
		for _, id := range ids {
			m.Parts = append(m.Parts, conversation.Part{Kind: conversation.PartToolCall, ToolCall: &conversation.ToolCall{ID: id}})
		}
		return m
	}
	result := func(ids ...string) conversation.Message {
		m := conversation.Message{Role: conversation.RoleTool}
		for _, id := range ids {
			m.Parts = append(m.Parts, conversation.Part{Kind: conversation.PartToolResult, ToolResult: &conversation.ToolResult{ToolCallID: id}})
		}
		return m
	}
	type messages = []conversation.Message
	for name, c := range map[string]struct {
		open  []string
		input messages
		want  string // the ids in the error; "" for none
	}{
		"nothing open":                  {nil, messages{user}, ""},
		"all answered":                  {[]string{"a", "b"}, messages{result("b"), result("a")}, ""},
		"answered and more said":        {[]string{"a"}, messages{result("a"), user}, ""},
		"both in one message":           {[]string{"a", "b"}, messages{result("a", "b")}, ""},
		"ignored":                       {[]string{"a", "b"}, messages{user}, "a,b"},
		"one missing at the end":        {[]string{"a", "b"}, messages{result("a")}, "b"},
		"one missing before the user":   {[]string{"a", "b"}, messages{result("a"), user, result("b")}, "b"},
		"an answer to nothing":          {nil, messages{result("x")}, "x"},
		"answered twice":                {[]string{"a"}, messages{result("a"), result("a")}, "a"},
		"a whole exchange in the input": {nil, messages{user, call("a"), result("a"), user}, ""},
		"input ends with an open call":  {nil, messages{user, call("a")}, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			before := strings.Join(c.open, ",")
			err := answersCalls(c.open, c.input)
			var e *conversation.Error
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (!errors.As(err, &e) || e.Reason != conversation.ToolCallsUnanswered || strings.Join(e.Names, ",") != c.want):
				t.Errorf("got %v, want TOOL_CALLS_UNANSWERED with %s", err, c.want)
			}
			if strings.Join(c.open, ",") != before {
				t.Error("changed its argument")
			}
		})
	}
}
