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

// newRun returns a run of which only the log is used.
func newRun() *run {
	return &run{turn: &conversation.Turn{ID: newID()}, done: make(chan struct{}), fenced: make(chan struct{})}
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
	t.Parallel()
	e, _ := newEngine(t, says("an answer"), func(_ *Options, f *faulty) {
		f.end = func(*conversation.End) error { return conversation.ErrNotFound }
	})
	reader := mustStart(t, e, say(conversation.ID{}, "hi"))
	var err error
	for err == nil {
		_, err = reader.Next(t.Context())
	}
	if _, end := reader.End(t.Context()); !isReason(err, conversation.TurnInterrupted) || !isReason(end, conversation.TurnInterrupted) {
		t.Errorf("Next: %v, End: %v; want TURN_INTERRUPTED instead of waiting for ever", err, end)
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

// held is a store with one turn, for readers of the store only.
type held struct {
	conversation.Store
	mu     sync.Mutex
	turn   conversation.Turn
	events []conversation.Event
	wake   chan struct{}
	looks  int
}

func (h *held) GetTurn(context.Context, string, conversation.ID, bool) (*conversation.Turn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.turn
	return &t, nil
}

func (h *held) Events(_ context.Context, _ string, _ conversation.ID, after int64, _ int) ([]conversation.Event, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks++
	for i := range h.events {
		if h.events[i].Sequence > after {
			return h.events[i:], nil
		}
	}
	return nil, nil
}

func (h *held) Subscribe(conversation.ID) (<-chan struct{}, func()) { return h.wake, func() {} }

// A reader of the store is woken, looks for itself where it is not, and tells as much as one of the memory.
func TestReaderOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &held{wake: make(chan struct{}, 1), turn: conversation.Turn{ID: newID(), State: conversation.Running}}
		e := New(Options{Store: h})
		defer e.stopAll(nil)
		r := &Reader{e: e, id: h.turn.ID, draining: e.draining}
		next := func(kind conversation.EventKind, sequence int64, after time.Duration) {
			t.Helper()
			began := time.Now()
			got, err := r.Next(t.Context())
			if err != nil || len(got) != 1 || got[0].Kind != kind || got[0].Sequence != sequence {
				t.Fatalf("%+v, %v; want kind %d, sequence %d", got, err, kind, sequence)
			}
			if took := time.Since(began); took != after {
				t.Fatalf("kind %d after %v, want %v", kind, took, after)
			}
		}
		add := func(after time.Duration, s string, wake bool) {
			time.AfterFunc(after, func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				e := text(s)
				e.Sequence = int64(len(h.events)) + 2
				h.events = append(h.events, e)
				if wake {
					h.wake <- struct{}{}
				}
			})
		}
		next(conversation.EventAccepted, 1, 0)
		add(700*time.Millisecond, "woken", true)
		next(conversation.EventTextDelta, 2, 700*time.Millisecond)
		add(lookSoon+lookEvery/2, "not woken", false)
		next(conversation.EventTextDelta, 3, lookSoon+lookEvery)
		before := h.looks
		next(conversation.NoteHeartbeat, 3, heartbeatAfter)
		if looks, most := h.looks-before, int(heartbeatAfter/lookEvery)+1; looks > most {
			t.Errorf("it looked %d times in silence, want at most %d", looks, most)
		}
		close(e.draining)
		next(conversation.NoteDraining, 3, 0)
		time.AfterFunc(time.Second, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.turn.State, h.turn.Result.LastSequence = conversation.Completed, 4
			h.wake <- struct{}{}
		})
		next(conversation.EventTerminal, 4, time.Second)
		if _, err := r.Next(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}

		h.turn.State = conversation.Running
		r = &Reader{e: e, id: h.turn.ID, position: 3}
		time.AfterFunc(time.Second, func() { e.stopAll(errStopping) })
		if _, err := r.Next(t.Context()); !errors.Is(err, &conversation.Error{Reason: conversation.Draining}) {
			t.Errorf("at the stop: %v", err)
		}
	})
}

// Appending and reading a delta costs no allocation besides the log's own growth.
func BenchmarkLog(b *testing.B) {
	r := newRun()
	r.log.sealed = true
	piece := []conversation.Event{text("a few letters")}
	now := time.Now()
	b.ReportAllocs()
	position := int64(0)
	for range b.N {
		r.append(now, piece...)
		v := r.log.after(position)
		position = v.events[len(v.events)-1].Sequence
	}
}
