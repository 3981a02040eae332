package turn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

// fed is a provider whose answers are what the test feeds; the end of the channel is the end of the answer.
type fed struct {
	texts chan string
	calls atomic.Int64
	open  atomic.Int64
}

func newFed() *fed { return &fed{texts: make(chan string)} }

func (f *fed) Generate(ctx context.Context, _ *provider.Request) (provider.Stream, error) {
	f.calls.Add(1)
	f.open.Add(1)
	return &feeding{fed: f, ctx: ctx}, nil
}

type feeding struct {
	*fed
	ctx context.Context
}

func (f *feeding) Next() ([]conversation.Event, error) {
	select {
	case s, ok := <-f.texts:
		if !ok {
			return nil, io.EOF
		}
		return []conversation.Event{text(s)}, nil
	case <-f.ctx.Done():
		return nil, f.ctx.Err()
	}
}

func (f *feeding) Outcome() provider.Outcome {
	return provider.Outcome{Finish: conversation.FinishStop, Usage: &conversation.Usage{InputTokens: 5, OutputTokens: 2}}
}

func (f *feeding) Close() error {
	f.open.Add(-1)
	return nil
}

// eventually waits until something is true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !is(); time.Sleep(time.Millisecond) { // a poll with a deadline
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s", what)
		}
	}
}

// repeatable is say with a request id.
func repeatable(conv conversation.ID, id, s string) *Request {
	r := say(conv, s)
	r.RequestID, r.OnDisconnect = id, conversation.DisconnectContinue
	copy(r.Fingerprint[:], s)
	return r
}

func mustStart(t *testing.T, e *Engine, r *Request) *Reader {
	t.Helper()
	reader, err := e.Start(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	return reader
}

func mustEnd(t *testing.T, r *Reader) *conversation.Turn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	turn, err := r.End(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return turn
}

// everything reads a log to its end, without the notes.
func everything(t *testing.T, r *Reader) (events []conversation.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		got, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return events
		}
		if err != nil {
			t.Fatalf("Next after %d events: %v", len(events), err)
		}
		for _, e := range got {
			if e.Kind <= conversation.EventTerminal {
				events = append(events, e)
			}
		}
	}
}

// shape is what of events must be the same for every reader.
func shape(events []conversation.Event) (out []string) {
	for _, e := range events {
		s := fmt.Sprintf("%d:%d:%d:%s%s%s:%d:%s", e.Sequence, e.Kind, e.PartIndex, e.Text, e.ToolCallID, e.ToolName, e.Attempt, e.Model)
		if e.Kind == conversation.EventTerminal {
			s += e.Turn.State.String() + e.Turn.OutputText()
		}
		out = append(out, s)
	}
	return out
}

func isReason(err error, reason conversation.Reason) bool {
	return errors.Is(err, &conversation.Error{Reason: reason})
}

func TestManyCallsWithOneRequestID(t *testing.T) {
	t.Parallel()
	p := newFed()
	e, _ := newEngine(t, p, nil)
	conv := newConversation(t, e)
	const callers = 50
	var wg sync.WaitGroup
	turns := make([]*conversation.Turn, callers)
	for i := range callers {
		wg.Go(func() {
			reader, err := e.Start(t.Context(), repeatable(conv, "id", "hi"))
			if err != nil {
				t.Error(err)
				return
			}
			defer reader.Close()
			if turns[i], err = reader.End(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	p.texts <- "one "
	p.texts <- "answer"
	close(p.texts)
	wg.Wait()
	for _, turn := range turns {
		if turn == nil || turn.ID != turns[0].ID || turn.OutputText() != "one answer" {
			t.Fatalf("%+v", turn)
		}
	}
	if n := p.calls.Load(); n != 1 {
		t.Errorf("%d calls to the provider", n)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.claims)+len(e.runs) != 0 {
		t.Errorf("%d claims and %d runs are remembered", len(e.claims), len(e.runs))
	}
}

func TestRepeatOfAnEndedTurn(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	e, _ := newEngine(t, generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		calls.Add(1)
		return says("an ", "answer")(ctx, r)
	}), nil)
	conv := newConversation(t, e)
	first := mustStart(t, e, repeatable(conv, "id", "hi"))
	live := everything(t, first)
	again := mustStart(t, e, repeatable(conv, "id", "hi"))
	if again.Turn() != first.Turn() {
		t.Fatal("another turn")
	}
	if replayed := everything(t, again); !slices.Equal(shape(replayed), shape(live)) {
		t.Errorf("replayed %v, want %v", shape(replayed), shape(live))
	}
	if turn := mustEnd(t, mustStart(t, e, repeatable(conv, "id", "hi"))); turn.OutputText() != "an answer" || turn.Input != nil {
		t.Errorf("%+v", turn)
	}
	_, err := e.Start(t.Context(), repeatable(conv, "id", "something else"))
	var reused *conversation.Error
	if !errors.As(err, &reused) || reused.Reason != conversation.RequestIDReused || reused.Turn != first.Turn() {
		t.Errorf("another content: %v", err)
	}
	if calls.Load() != 1 {
		t.Errorf("%d calls", calls.Load())
	}
}

func TestRepeatWhoseContentIsGone(t *testing.T) {
	t.Parallel()
	e, _ := newEngine(t, says("an answer"), nil)
	turn := mustEnd(t, mustStart(t, e, repeatable(conversation.ID{}, "id", "hi")))
	if err := e.o.Store.DeleteTurn(t.Context(), "red", turn.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(t.Context(), repeatable(conversation.ID{}, "id", "hi")); !isReason(err, conversation.ContentExpired) {
		t.Errorf("%v, want CONTENT_EXPIRED", err)
	}
}

// A turn that failed is no answer: its request id begins a new turn. One that was cancelled is.
func TestWhatFreesARequestID(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	e, _ := newEngine(t, generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		if broken.Load() {
			return nil, conversation.Errorf(conversation.UpstreamUnavailable, "broken")
		}
		return hangs(ctx, r)
	}), nil)
	broken.Store(true)
	failed := mustEnd(t, mustStart(t, e, repeatable(conversation.ID{}, "id", "hi")))
	if failed.State != conversation.Failed {
		t.Fatalf("%+v", failed)
	}
	broken.Store(false)
	second := mustStart(t, e, repeatable(conversation.ID{}, "id", "hi"))
	if second.Turn() == failed.ID {
		t.Fatal("the failed turn is the answer")
	}
	if _, err := e.Cancel(t.Context(), "red", second.Turn()); err != nil {
		t.Fatal(err)
	}
	if third := mustEnd(t, mustStart(t, e, repeatable(conversation.ID{}, "id", "hi"))); third.ID != second.Turn() || third.State != conversation.Cancelled {
		t.Errorf("%+v, want the cancelled turn", third)
	}
}

// The turn that makes the conversation busy can be the one that is asked for.
func TestRepeatWhileItRuns(t *testing.T) {
	t.Parallel()
	p := newFed()
	e, _ := newEngine(t, p, nil)
	conv := newConversation(t, e)
	first := mustStart(t, e, repeatable(conv, "id", "hi"))
	p.texts <- "a"
	again := mustStart(t, e, repeatable(conv, "id", "hi"))
	if again.Turn() != first.Turn() {
		t.Error("another turn")
	}
	if _, err := e.Start(t.Context(), repeatable(conv, "id", "other")); !isReason(err, conversation.RequestIDReused) {
		t.Errorf("another content: %v", err)
	}
	if _, err := e.Start(t.Context(), repeatable(conv, "other id", "hi")); !errors.Is(err, conversation.ErrConversationBusy) {
		t.Errorf("another id: %v", err)
	}
	close(p.texts)
	if a, b := everything(t, first), everything(t, again); !slices.Equal(shape(a), shape(b)) {
		t.Errorf("%v and %v", shape(a), shape(b))
	}
}

// What a call is refused for, the repeats that waited for it are refused for too, and the id stays free.
func TestRepeatsShareARefusal(t *testing.T) {
	t.Parallel()
	e, _ := newEngine(t, says("an answer"), nil)
	conv := newConversation(t, e)
	bad := repeatable(conv, "id", "hi")
	bad.ToolChoice = conversation.ToolChoice{Mode: conversation.ToolChoiceTool, Tool: "nobody's"}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := e.Start(t.Context(), bad); !isReason(err, conversation.InvalidRequest) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if turn := mustEnd(t, mustStart(t, e, repeatable(conv, "id", "hi"))); turn.State != conversation.Completed {
		t.Errorf("the id is not free: %+v", turn)
	}
}

// A turn of which it is not known whether it was recorded does not keep its request id.
func TestRepeatAfterUnknownOutcome(t *testing.T) {
	t.Parallel()
	var begins atomic.Int64
	e, _ := newEngine(t, says("an answer"), func(_ *Options, f *faulty) {
		f.begin = func(*conversation.Admission) error {
			if begins.Add(1) == 1 {
				return down
			}
			return nil
		}
	})
	conv := newConversation(t, e)
	if _, err := e.Start(t.Context(), repeatable(conv, "id", "hi")); !errors.Is(err, conversation.ErrStoreUnavailable) {
		t.Fatalf("Start: %v", err)
	}
	if turn := mustEnd(t, mustStart(t, e, repeatable(conv, "id", "hi"))); turn.State != conversation.Completed || begins.Load() != 2 {
		t.Errorf("%+v after %d begins", turn, begins.Load())
	}
}

// A turn with DisconnectCancel lives for as long as one of its callers reads it.
func TestLastCreatorLeaves(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func() error{
		"store up":    nil,
		"store down":  func() error { return down },
		"store hangs": func() error { time.Sleep(2 * detachPatience); return nil }, // the fault itself
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newFed()
			e, _ := newEngine(t, p, func(_ *Options, f *faulty) { f.detach = fault })
			ask := repeatable(conversation.ID{}, "id", "hi")
			ask.OnDisconnect = conversation.DisconnectCancel
			first, second := mustStart(t, e, ask), mustStart(t, e, ask)
			watcher, err := e.Watch(t.Context(), "red", first.Turn(), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer watcher.Close()
			first.Close()
			p.texts <- "it goes on"
			second.Close()
			began := time.Now()
			eventually(t, "the call is closed", func() bool { return p.open.Load() == 0 })
			if took := time.Since(began); took > time.Second {
				t.Errorf("the call was closed after %v", took)
			}
			if turn := mustEnd(t, watcher); turn.State != conversation.Cancelled || turn.OutputText() != "it goes on" {
				t.Errorf("%+v", turn)
			}
		})
	}
}

// A repeat is the first call's turn also where that could not begin any more.
func TestRepeatThatCouldNotBegin(t *testing.T) {
	t.Parallel()
	e, _ := newEngine(t, generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		if len(r.Messages) == 1 {
			return &calls{}, nil
		}
		return says("done")(ctx, r)
	}), nil)
	conv := newConversation(t, e)
	call := runTurn(t, e, say(conv, "hi"))
	answers := repeatable(conv, "id", "")
	answers.BaseTurn = call.ID
	answers.Input = []conversation.Message{{Role: conversation.RoleTool, Parts: []conversation.Part{{
		Kind: conversation.PartToolResult, Text: "42", ToolResult: &conversation.ToolResult{ToolCallID: "a"},
	}}}}
	first := mustEnd(t, mustStart(t, e, answers))
	if again := mustEnd(t, mustStart(t, e, answers)); again.ID != first.ID || again.OutputText() != "done" {
		t.Errorf("with a stale base_turn: %+v", again)
	}
	headless := *answers
	headless.BaseTurn = conversation.ID{}
	if again := mustEnd(t, mustStart(t, e, &headless)); again.ID != first.ID {
		t.Errorf("with tool calls that are answered: %+v", again)
	}
}

// A panic while a turn is admitted fails that call, and keeps neither its request id nor a place among the turns.
func TestPanicInAdmission(t *testing.T) {
	t.Parallel()
	e, f := newEngine(t, says("an answer"), nil)
	conv := newConversation(t, e)
	inside, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.moved = func() {
		once.Do(func() {
			close(inside)
			<-goOn
			panic("a bug")
		})
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() {
			if recover() == nil { // what the interceptor does
				t.Error("no panic")
			}
		}()
		_, _ = e.Start(t.Context(), repeatable(conv, "id", "hi"))
	})
	<-inside
	c, first := e.claim(claimKey{"red", "id"})
	if first {
		t.Fatal("nobody looks into the request id")
	}
	close(goOn)
	wg.Wait()
	select {
	case <-c.decided:
	case <-time.After(10 * time.Second):
		t.Fatal("those who wait for the call wait for ever")
	}
	if !isReason(c.err, conversation.Internal) {
		t.Errorf("they get %v", c.err)
	}
	if turn := mustEnd(t, mustStart(t, e, repeatable(conv, "id", "hi"))); turn.State != conversation.Completed {
		t.Errorf("the next: %+v", turn)
	}
	select {
	case <-e.running.none():
	case <-time.After(10 * time.Second):
		t.Error("a turn is counted as running for ever")
	}
}

// elsewhere returns an engine to which the turns of e are another process's.
func elsewhere(t *testing.T, e *Engine) (*Engine, *faulty) {
	t.Helper()
	return newEngineOn(t, e.o.Store.(*faulty).Store, generate(hangs), func(_ *Options, f *faulty) {
		f.duties = make(chan *conversation.Duties) // those of the store are the other's
	})
}

// A call that attaches to a running turn reads no content, and one that cannot attach is told to which turn.
func TestAttach(t *testing.T) {
	t.Parallel()
	e, _ := newEngine(t, generate(hangs), nil)
	ask := repeatable(conversation.ID{}, "id", "hi")
	ask.OnDisconnect = conversation.DisconnectCancel
	first := mustStart(t, e, ask)
	other, f := elsewhere(t, e)
	mustStart(t, other, ask)
	if f.turns.Load() != 1 || f.contents.Load() != 0 {
		t.Errorf("%d reads of the turn, %d with content", f.turns.Load(), f.contents.Load())
	}
	for _, fault := range []error{down, context.DeadlineExceeded} {
		third, f := elsewhere(t, e)
		f.attach = func() error { return fault }
		_, err := third.Start(t.Context(), ask)
		if known, ok := errors.AsType[*conversation.Error](err); !ok || known.Turn != first.Turn() {
			t.Errorf("%v does not name the turn", err)
		}
	}
}

// The store hears of callers that leave when the server has drained already.
func TestSettle(t *testing.T) {
	t.Parallel()
	e, _ := newEngine(t, generate(hangs), nil)
	ask := repeatable(conversation.ID{}, "id", "hi")
	ask.OnDisconnect = conversation.DisconnectCancel
	mustStart(t, e, ask)
	other, f := elsewhere(t, e)
	hold := make(chan struct{})
	f.detach = func() error { <-hold; return nil }
	reader := mustStart(t, other, ask)
	f.Store = unreleased{f.Store}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	other.Drain(ctx)
	reader.Close()
	time.AfterFunc(100*time.Millisecond, func() { close(hold) })
	other.Settle(t.Context())
	if f.detaches.Load() != 1 {
		t.Error("the store has not heard of it")
	}
}

// unreleased is a store that another engine goes on with.
type unreleased struct{ conversation.Store }

func (unreleased) Release(context.Context) error { return nil }
