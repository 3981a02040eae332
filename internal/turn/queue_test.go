package turn

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

// gate is a provider whose every answer waits to be let through, and repeats what it was sent.
type gate struct {
	pass chan struct{}
	mu   sync.Mutex
	sent []string
}

func (g *gate) Generate(ctx context.Context, r *provider.Request) (provider.Stream, error) {
	var all []string
	for i := range r.Messages {
		all = append(all, r.Messages[i].Text())
	}
	g.mu.Lock()
	g.sent = append(g.sent, strings.Join(all, "|"))
	g.mu.Unlock()
	select {
	case <-g.pass:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return says("re:"+all[len(all)-1])(ctx, r)
}

func on(r *Request, c OnConflict) *Request {
	r.OnConflict = c
	return r
}

// A turn that waits is put together when it begins, in the order of arrival, and says meanwhile how many are before it.
func TestQueue(t *testing.T) {
	t.Parallel()
	g := &gate{pass: make(chan struct{})}
	e, _ := newEngine(t, g, nil)
	conv := newConversation(t, e)
	var readers []*Reader
	for i := range 3 {
		readers = append(readers, mustStart(t, e, on(say(conv, fmt.Sprint(i)), Queue)))
		stored, err := e.o.Store.GetTurn(t.Context(), "red", readers[i].Turn(), false)
		if want := []conversation.State{conversation.Running, conversation.Queued, conversation.Queued}[i]; err != nil || stored.State != want {
			t.Errorf("turn %d: %v, %v, want %v", i, stored.State, err, want)
		}
		if i == 0 {
			continue
		}
		events, err := readers[i].Next(t.Context())
		if err != nil || events[0].Kind != conversation.EventAccepted {
			t.Fatalf("%+v, %v", events, err)
		}
		events, err = readers[i].Next(t.Context())
		if err != nil || events[0].Kind != conversation.NoteQueueUpdate || events[0].Ahead != i || events[0].Sequence != 1 {
			t.Fatalf("%+v, %v; want the note that %d are before it", events, err, i)
		}
	}
	g.pass <- struct{}{}
	if events, err := readers[2].Next(t.Context()); err != nil || events[0].Kind != conversation.NoteQueueUpdate || events[0].Ahead != 1 {
		t.Errorf("%+v, %v; want the note that 1 is before it", events, err)
	}
	close(g.pass)
	for i, r := range readers {
		turn := mustEnd(t, r)
		if turn.State != conversation.Completed || turn.OutputText() != fmt.Sprint("re:", i) || len(turn.Result.Attempts) != 1 {
			t.Errorf("turn %d: %+v", i, turn)
		}
		if waited := turn.Result.Timing.Queue > 0; waited != (i > 0) {
			t.Errorf("turn %d: queue time %v", i, turn.Result.Timing.Queue)
		}
	}
	if got := strings.Join(g.sent, "; "); got != "0; 0|re:0|1; 0|re:0|1|re:1|2" {
		t.Errorf("sent %s", got)
	}
}

// A turn that waits can be cancelled and can run out of time; neither makes a call.
func TestEndsWhileWaiting(t *testing.T) {
	t.Parallel()
	g := &gate{pass: make(chan struct{})}
	e, _ := newEngine(t, g, nil)
	conv := newConversation(t, e)
	first := mustStart(t, e, say(conv, "first"))
	cancelled := mustStart(t, e, on(say(conv, "cancelled"), Queue))
	late := on(say(conv, "late"), Queue)
	late.Deadline = time.Now().Add(100 * time.Millisecond)
	tooLate := mustStart(t, e, late)
	last := mustStart(t, e, on(say(conv, "last"), Queue))

	turn, err := e.Cancel(t.Context(), "red", cancelled.Turn())
	if err != nil || turn.State != conversation.Cancelled || len(turn.Result.Attempts) != 0 || turn.Result.Usage != nil {
		t.Errorf("cancelled: %+v, %v", turn, err)
	}
	turn = mustEnd(t, tooLate)
	if turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.TurnDeadline || len(turn.Result.Attempts) != 0 {
		t.Errorf("late: %+v", turn)
	}
	close(g.pass)
	mustEnd(t, first)
	if turn = mustEnd(t, last); turn.State != conversation.Completed {
		t.Errorf("last: %+v", turn)
	}
	// A log without anything but its two ends.
	watch, err := e.Watch(t.Context(), "red", cancelled.Turn(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if events := everything(t, watch); len(events) != 2 || events[1].Sequence != 2 || events[1].Turn.State != conversation.Cancelled {
		t.Errorf("the cancelled turn's log: %+v", events)
	}
}

// What is wrong with a turn that waited is found when it begins, and ends it.
func TestQueuedTurnThatCannotBeSent(t *testing.T) {
	t.Parallel()
	g := &gate{pass: make(chan struct{})}
	e, _ := newEngine(t, g, nil)
	conv := newConversation(t, e)
	first := mustStart(t, e, say(conv, "first"))
	r := on(say(conv, ""), Queue)
	r.Input = []conversation.Message{{Role: conversation.RoleTool, Parts: []conversation.Part{{
		Kind: conversation.PartToolResult, Text: "42", ToolResult: &conversation.ToolResult{ToolCallID: "nobody's"},
	}}}}
	second := mustStart(t, e, r)
	close(g.pass)
	mustEnd(t, first)
	turn := mustEnd(t, second)
	if turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.ToolCallsUnanswered || len(turn.Result.Attempts) != 0 {
		t.Errorf("%+v, %v", turn, turn.Result.Error)
	}
	if turn := runTurn(t, e, say(conv, "after")); turn.State != conversation.Completed {
		t.Errorf("the next: %+v", turn)
	}
}

func TestFork(t *testing.T) {
	t.Parallel()
	g := &gate{pass: make(chan struct{}, 100)}
	e, _ := newEngine(t, g, nil)
	conv := newConversation(t, e)
	for range 2 {
		g.pass <- struct{}{}
	}
	one := runTurn(t, e, say(conv, "1"))
	runTurn(t, e, say(conv, "2"))

	// Beside a turn that runs, from the head; and from an earlier turn.
	running := mustStart(t, e, say(conv, "3"))
	eventually(t, "the third turn is sent", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return len(g.sent) == 3 })
	fromHead := mustStart(t, e, on(say(conv, "beside"), Fork))
	earlier := on(say(conv, "earlier"), Fork)
	earlier.BaseTurn = one.ID
	fromOne := mustStart(t, e, earlier)
	for range 10 {
		g.pass <- struct{}{}
	}
	third := mustEnd(t, running)
	branch := mustEnd(t, fromHead)
	mustEnd(t, fromOne)
	// On from a branch: its messages are the history.
	on2 := on(say(conv, "on"), Fork)
	on2.BaseTurn = branch.ID
	runTurn(t, e, on2)
	c, err := e.o.Store.GetConversation(t.Context(), "red", conv)
	if err != nil || c.HeadTurn != third.ID {
		t.Errorf("head %x, %v, want the turn of the main line", c.HeadTurn, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, want := range []string{"1|re:1|2|re:2|beside", "1|re:1|earlier", "1|re:1|2|re:2|beside|re:beside|on"} {
		found := false
		for _, s := range g.sent {
			found = found || s == want
		}
		if !found {
			t.Errorf("%q was not sent: %q", want, g.sent)
		}
	}
}

func TestBaseTurn(t *testing.T) {
	t.Parallel()
	g := &gate{pass: make(chan struct{}, 100)}
	e, _ := newEngine(t, g, nil)
	conv, other := newConversation(t, e), newConversation(t, e)
	for range 3 {
		g.pass <- struct{}{}
	}
	one := runTurn(t, e, say(conv, "1"))
	two := runTurn(t, e, say(conv, "2"))
	foreign := runTurn(t, e, say(other, "1"))
	running := mustStart(t, e, say(other, "2"))
	ask := func(conv, base conversation.ID, c OnConflict) error {
		r := on(say(conv, "x"), c)
		r.BaseTurn = base
		reader, err := e.Start(t.Context(), r)
		if err == nil {
			reader.Close()
		}
		return err
	}
	for name, c := range map[string]struct {
		conv, base conversation.ID
		on         OnConflict
		want       conversation.Reason
	}{
		"not the head":             {conv, one.ID, Reject, conversation.StaleBaseTurn},
		"of another conversation":  {conv, foreign.ID, Fork, conversation.NotFound},
		"unknown":                  {conv, newID(), Reject, conversation.NotFound},
		"runs":                     {other, running.Turn(), Fork, conversation.InvalidState},
		"the head, and it is busy": {other, foreign.ID, Reject, conversation.ConversationBusy},
	} {
		if err := ask(c.conv, c.base, c.on); !isReason(err, c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if err := ask(conv, two.ID, Reject); err != nil {
		t.Errorf("the head: %v", err)
	}
}

// What a turn said before it failed is history where it is asked for, and the call that was cut is not.
func TestFailedTurnAsBase(t *testing.T) {
	t.Parallel()
	var sent []conversation.Message
	e, _ := newEngine(t, generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		if len(r.Messages) == 1 {
			return &cutCall{}, nil
		}
		sent = r.Messages
		return says("fine")(ctx, r)
	}), nil)
	conv := newConversation(t, e)
	failed := runTurn(t, e, say(conv, "hi"))
	if failed.State != conversation.Failed {
		t.Fatalf("%+v", failed)
	}
	r := on(say(conv, "again"), Fork)
	r.BaseTurn = failed.ID
	if turn := runTurn(t, e, r); turn.State != conversation.Completed || len(sent) != 3 || sent[1].Text() != "I call " {
		t.Errorf("%+v after %+v", turn, sent)
	}
}

// cutCall is an answer that is cut in a tool call.
type cutCall struct{ calls }

func (c *cutCall) Next() ([]conversation.Event, error) {
	if c.said {
		return nil, conversation.Errorf(conversation.UpstreamStreamCut, "cut")
	}
	c.said = true
	return []conversation.Event{text("I call "), {Kind: conversation.EventToolCallDelta, PartIndex: 1, ToolCallID: "a", ToolName: "f", Text: "{"}}, nil
}

// At most so many wait, and the error names one of those in the way.
func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	g := &gate{pass: make(chan struct{})}
	e, _ := newEngine(t, g, nil)
	conv := newConversation(t, e)
	for i := range conversation.MaxQueued + 1 {
		mustStart(t, e, on(say(conv, fmt.Sprint(i)), Queue))
	}
	if _, err := e.Start(t.Context(), on(say(conv, "one more"), Queue)); !errors.Is(err, conversation.ErrConversationBusy) {
		t.Errorf("one more: %v", err)
	}
}

// A turn that waited and began, although the store said that it is down, goes on.
func TestBeginOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	g := &gate{pass: make(chan struct{})}
	var begins atomic.Int64
	e, _ := newEngine(t, g, func(_ *Options, f *faulty) {
		f.begin = func(a *conversation.Admission) error {
			if a.Turn.State == conversation.Running && begins.Add(1) == 2 { // the first is the turn before
				return down
			}
			return nil
		}
	})
	conv := newConversation(t, e)
	first := mustStart(t, e, say(conv, "first"))
	second := mustStart(t, e, on(say(conv, "second"), Queue))
	close(g.pass)
	mustEnd(t, first)
	turn := mustEnd(t, second)
	if turn.State != conversation.Completed || turn.OutputText() != "re:second" || turn.Parent != first.Turn() || begins.Load() != 2 {
		t.Errorf("%+v, %v", turn, turn.Result.Error)
	}
}

// Turns that wait do not ask to begin while nothing changes; what they say of the queue still follows it.
func TestWaitingIsNoWriting(t *testing.T) {
	t.Parallel()
	g := &gate{pass: make(chan struct{})}
	e, f := newEngine(t, g, nil)
	conv := newConversation(t, e)
	var readers []*Reader
	for i := range 5 {
		readers = append(readers, mustStart(t, e, on(say(conv, fmt.Sprint(i)), Queue)))
	}
	ahead := func(r *Reader, want int) {
		t.Helper()
		for r.ahead != want {
			if _, err := r.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, r := range readers[1:] {
		ahead(r, i+1)
	}
	look := func() {
		n := f.conversations.Load()
		eventually(t, "all have looked", func() bool { return f.conversations.Load() >= n+8 })
	}
	look() // so that the wake-ups are over
	begins := f.begins.Load()
	look()
	if n := f.begins.Load() - begins; n != 0 {
		t.Errorf("they have asked to begin %d times", n)
	}
	if _, err := e.Cancel(t.Context(), "red", readers[2].Turn()); err != nil {
		t.Fatal(err)
	}
	ahead(readers[3], 2)
	ahead(readers[4], 3)
	close(g.pass)
	for _, r := range readers {
		mustEnd(t, r)
	}
}
