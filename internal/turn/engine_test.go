package turn

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
	"github.com/chatsvc/chatsvc/internal/provider/catalog"
	"github.com/chatsvc/chatsvc/internal/tokens"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// generate is a provider that calls a function.
type generate func(ctx context.Context, r *provider.Request) (provider.Stream, error)

func (g generate) Generate(ctx context.Context, r *provider.Request) (provider.Stream, error) {
	return g(ctx, r)
}

// answer is a stream of texts, then of end; without an end it then waits for the end of ctx.
type answer struct {
	ctx   context.Context
	texts []string
	end   error
}

func (a *answer) Next() ([]conversation.Event, error) {
	if len(a.texts) > 0 {
		e := text(a.texts[0])
		a.texts = a.texts[1:]
		return []conversation.Event{e}, nil
	}
	if a.end == nil {
		<-a.ctx.Done()
		return nil, a.ctx.Err()
	}
	return nil, a.end
}

func (a *answer) Outcome() provider.Outcome {
	o := provider.Outcome{Model: "model-1", RequestID: "req_1"}
	if len(a.texts) == 0 && errors.Is(a.end, io.EOF) {
		o.Finish, o.Usage = conversation.FinishStop, &conversation.Usage{InputTokens: 5, OutputTokens: 2}
	}
	return o
}

func (*answer) Close() error { return nil }

// says is a provider whose every answer is texts.
func says(texts ...string) generate {
	return func(ctx context.Context, _ *provider.Request) (provider.Stream, error) {
		return &answer{ctx, texts, io.EOF}, nil
	}
}

// hangs is a provider that says something and then nothing more.
func hangs(ctx context.Context, _ *provider.Request) (provider.Stream, error) {
	return &answer{ctx, []string{"so "}, nil}, nil
}

// faulty is a store that can be made to fail. The store itself is a real one.
type faulty struct {
	conversation.Store
	dead   atomic.Bool                                     // its process is: nothing is written any more
	early  bool                                            // it is of a release that recorded no deadlines
	begin  func(a *conversation.Admission) error           // after it was recorded
	end    func(e *conversation.End) error                 // instead of recording
	append func(batches []conversation.EventBatch) error   // instead of recording
	after  func(batches []conversation.EventBatch) error   // after it was recorded
	moved  func()                                          // after a conversation was read
	detach func() error                                    // instead of recording
	pruned func([]conversation.Event) []conversation.Event // what is left of the events that were read
	duties chan *conversation.Duties                       // instead of those of the store
	attach func() error                                    // instead of recording

	// How often it was called, and how often for content.
	begins, conversations, turns, contents, reads, detaches atomic.Int64
	// The takeovers with which attempts, events and ends came.
	takeovers [3]atomic.Int64
}

func (f *faulty) RecordAttempt(ctx context.Context, t *conversation.Turn, takeovers int) error {
	f.takeovers[0].Add(int64(takeovers))
	return f.Store.RecordAttempt(ctx, t, takeovers)
}

func (f *faulty) GetTurn(ctx context.Context, team string, id conversation.ID, content bool) (*conversation.Turn, error) {
	f.turns.Add(1)
	if content {
		f.contents.Add(1)
	}
	return f.Store.GetTurn(ctx, team, id, content)
}

func (f *faulty) AttachTurn(ctx context.Context, team string, id conversation.ID) error {
	if f.attach != nil {
		return f.attach()
	}
	return f.Store.AttachTurn(ctx, team, id)
}

func (f *faulty) BeginTurn(ctx context.Context, a *conversation.Admission) error {
	if f.early {
		a.Deadline = time.Time{}
	}
	f.begins.Add(1)
	err := f.Store.BeginTurn(ctx, a)
	if err == nil && f.begin != nil {
		err = f.begin(a)
	}
	return err
}

func (f *faulty) EndTurn(ctx context.Context, e *conversation.End) error {
	if f.dead.Load() {
		return conversation.ErrNotFound
	}
	f.takeovers[2].Store(int64(e.Takeovers))
	if f.end != nil {
		if err := f.end(e); err != nil {
			return err
		}
	}
	return f.Store.EndTurn(ctx, e)
}

func (f *faulty) AppendEvents(ctx context.Context, batches []conversation.EventBatch) ([]conversation.ID, error) {
	if f.dead.Load() {
		var lost []conversation.ID
		for _, b := range batches {
			lost = append(lost, b.Turn)
		}
		return lost, nil
	}
	for _, b := range batches {
		f.takeovers[1].Store(int64(b.Takeovers))
	}
	if f.append != nil {
		if err := f.append(batches); err != nil {
			return nil, err
		}
	}
	lost, err := f.Store.AppendEvents(ctx, batches)
	if err == nil && f.after != nil {
		err = f.after(batches)
	}
	return lost, err
}

func (f *faulty) Events(ctx context.Context, team string, turn conversation.ID, after int64, maxBytes int) ([]conversation.Event, error) {
	f.reads.Add(1)
	events, err := f.Store.Events(ctx, team, turn, after, maxBytes)
	if f.pruned != nil {
		events = f.pruned(events)
	}
	return events, err
}

func (f *faulty) Duties(ctx context.Context) (*conversation.Duties, error) {
	if f.duties == nil {
		return f.Store.Duties(ctx)
	}
	select {
	case d := <-f.duties:
		return d, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *faulty) DetachTurn(ctx context.Context, team string, id conversation.ID) error {
	if f.detach != nil {
		if err := f.detach(); err != nil {
			return err
		}
	}
	f.detaches.Add(1)
	return f.Store.DetachTurn(ctx, team, id)
}

func (f *faulty) GetConversation(ctx context.Context, team string, id conversation.ID) (*conversation.Conversation, error) {
	f.conversations.Add(1)
	c, err := f.Store.GetConversation(ctx, team, id)
	if f.moved != nil {
		f.moved()
	}
	return c, err
}

// newEngine returns an engine on a store of its own.
func newEngine(t *testing.T, p provider.Provider, change func(o *Options, f *faulty)) (*Engine, *faulty) {
	t.Helper()
	return newEngineOn(t, openStore(t), p, change)
}

// newEngineOn returns an engine that does its duties until the test ends.
func newEngineOn(t *testing.T, store conversation.Store, p provider.Provider, change func(o *Options, f *faulty)) (*Engine, *faulty) {
	t.Helper()
	models, err := catalog.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{Store: store}
	o := Options{
		Store: f, Provider: p, Catalog: models, Tokens: tokens.NewCounter(), DefaultModel: "sim",
		Logger: slog.New(slog.DiscardHandler), Tracer: noop.NewTracerProvider().Tracer(""),
	}
	if change != nil {
		change(&o, f)
	}
	e := New(o)
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { e.Serve(ctx) })
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		e.Drain(now)
		stop()
		serving.Wait()
	})
	return e, f
}

func newConversation(t *testing.T, e *Engine) conversation.ID {
	t.Helper()
	c := &conversation.Conversation{ID: newID(), Team: "red", CreateTime: time.Now()}
	if err := e.o.Store.CreateConversation(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c.ID
}

func say(conv conversation.ID, s string) *Request {
	return &Request{
		Team: "red", Client: "web", Conversation: conv, OnDisconnect: conversation.DisconnectCancel,
		Input: []conversation.Message{{Role: conversation.RoleUser, Parts: []conversation.Part{conversation.TextPart(s)}}},
	}
}

// runTurn runs a turn to its end.
func runTurn(t *testing.T, e *Engine, r *Request) *conversation.Turn {
	t.Helper()
	reader, err := e.Start(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	return terminal(t, reader)
}

func terminal(t *testing.T, reader *Reader) *conversation.Turn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		events, err := reader.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if last := events[len(events)-1]; last.Kind == conversation.EventTerminal {
			return last.Turn
		}
	}
}

var down = &conversation.Error{Reason: conversation.StoreUnavailable, Message: "down"}

// While the store is down an answer that has come waits, and nobody is told that the turn has ended.
func TestAnswerWaitsForTheStore(t *testing.T) {
	t.Parallel()
	var isDown atomic.Bool
	isDown.Store(true)
	e, _ := newEngine(t, says("an ", "answer"), func(_ *Options, f *faulty) {
		f.end = func(*conversation.End) error {
			if isDown.Load() {
				return down
			}
			return nil
		}
	})
	conv := newConversation(t, e)
	reader, err := e.Start(t.Context(), say(conv, "hi"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for {
		events, err := reader.Next(ctx)
		if err != nil {
			break
		}
		if events[len(events)-1].Kind == conversation.EventTerminal {
			t.Fatal("the end was told before it was durable")
		}
	}
	isDown.Store(false)
	if turn := terminal(t, reader); turn.State != conversation.Completed || turn.OutputText() != "an answer" {
		t.Errorf("turn %+v", turn)
	}
	stored, err := e.o.Store.GetTurn(t.Context(), "red", reader.Turn(), true)
	if err != nil || stored.OutputText() != "an answer" {
		t.Errorf("stored %+v, %v", stored, err)
	}
}

func TestPatienceWithTheStoreEnds(t *testing.T) {
	t.Parallel()
	e, _ := newEngine(t, says("an answer"), func(o *Options, f *faulty) {
		o.StorePatience = 50 * time.Millisecond
		f.end = func(e *conversation.End) error {
			if e.Turn.State == conversation.Completed {
				return down
			}
			return nil
		}
	})
	conv := newConversation(t, e)
	reader, err := e.Start(t.Context(), say(conv, "hi"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for err == nil { // the reader is let go, with a reason
		_, err = reader.Next(t.Context())
	}
	if !errors.Is(err, conversation.ErrStoreUnavailable) && !errors.Is(err, io.EOF) {
		t.Errorf("Next: %v", err)
	}
	<-e.running.none()
	turn, err := e.o.Store.GetTurn(t.Context(), "red", reader.Turn(), true)
	if err != nil || turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.StoreUnavailable || turn.Output != nil {
		t.Errorf("turn %+v, %v", turn, err)
	}
}

// A BeginTurn that is reported to have failed, but was recorded, must not block the conversation for ever.
func TestTurnOfUnknownOutcomeIsEnded(t *testing.T) {
	t.Parallel()
	var calls, begins atomic.Int64
	e, _ := newEngine(t, generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		calls.Add(1)
		return says("hello")(ctx, r)
	}), func(_ *Options, f *faulty) {
		f.begin = func(*conversation.Admission) error {
			if begins.Add(1) == 1 {
				return down
			}
			return nil
		}
	})
	conv := newConversation(t, e)
	if _, err := e.Start(t.Context(), say(conv, "hi")); !errors.Is(err, conversation.ErrStoreUnavailable) {
		t.Fatalf("Start: %v", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := e.o.Store.GetConversation(t.Context(), "red", conv)
		if err != nil {
			t.Fatal(err)
		}
		if c.ActiveTurn.IsZero() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the conversation is still busy")
		}
		time.Sleep(time.Millisecond) // a poll of the store, with a deadline
	}
	if turn := runTurn(t, e, say(conv, "again")); turn.State != conversation.Completed || calls.Load() != 1 {
		t.Errorf("turn %+v after %d calls", turn, calls.Load())
	}
}

// A turn that may have been recorded is known until it is ended: cancelling it waits for that, and content that it was to
// send is let go at once.
func TestDisownedTurnCanBeCancelled(t *testing.T) {
	t.Parallel()
	var isDown atomic.Bool
	isDown.Store(true)
	recorded := make(chan *conversation.Turn, 1)
	e, _ := newEngine(t, says("never"), func(_ *Options, f *faulty) {
		f.begin = func(a *conversation.Admission) error {
			recorded <- a.Turn
			return down
		}
		f.end = func(*conversation.End) error {
			if isDown.Load() {
				return down
			}
			return nil
		}
	})
	conv := newConversation(t, e)
	if _, err := e.Start(t.Context(), say(conv, "hi")); !errors.Is(err, conversation.ErrStoreUnavailable) {
		t.Fatalf("Start: %v", err)
	}
	turn := <-recorded
	if turn.Input != nil {
		t.Error("its input is kept")
	}
	if _, err := e.Cancel(t.Context(), "red", turn.ID); !errors.Is(err, conversation.ErrStoreUnavailable) {
		t.Errorf("Cancel while the store is down: %v, want no RUNNING turn as if that were its end", err)
	}
	isDown.Store(false)
	<-e.chores.none()
	if e.known("red", turn.ID) != nil {
		t.Error("the turn is known for ever")
	}
	ended, err := e.Cancel(t.Context(), "red", turn.ID)
	if err != nil || ended.State != conversation.Failed || ended.Result.Error.Reason != conversation.StoreUnavailable {
		t.Errorf("%+v, %v", ended, err)
	}
}

// A stop does not wait for each of the turns that cannot be ended.
func TestDrainWithDisownedTurns(t *testing.T) {
	t.Parallel()
	e, _ := newEngine(t, says("never"), func(_ *Options, f *faulty) {
		f.begin = func(*conversation.Admission) error { return down }
		f.end = func(*conversation.End) error { return down }
	})
	for range 5 {
		if _, err := e.Start(t.Context(), say(conversation.ID{}, "hi")); !errors.Is(err, conversation.ErrStoreUnavailable) {
			t.Fatalf("Start: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	e.Drain(ctx)
	<-e.chores.none()
	if took := time.Since(began); took > 2*endPatience {
		t.Errorf("stopping took %v", took)
	}
}

// A head that moves between reading and admitting means that what was assembled is stale: it is assembled again.
func TestAssembledAgainWhenTheHeadMoves(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	var e *Engine
	var f *faulty
	e, f = newEngine(t, generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		sent.Store(int64(len(r.Messages)))
		return says("ok")(ctx, r)
	}), nil)
	conv := newConversation(t, e)
	moved := false
	f.moved = func() {
		if moved {
			return
		}
		moved = true
		if turn := runTurn(t, e, say(conv, "the one that was faster")); turn.State != conversation.Completed {
			t.Errorf("turn %+v", turn)
		}
	}
	runTurn(t, e, say(conv, "the one that was slower"))
	if got := sent.Load(); got != 3 {
		t.Errorf("%d messages were sent, want the faster turn's two and the input", got)
	}
}

func TestPanicEndsOneTurn(t *testing.T) {
	t.Parallel()
	e, _ := newEngine(t, generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		if strings.Contains(r.Messages[len(r.Messages)-1].Text(), "panic") {
			panic("a bug")
		}
		return says("fine")(ctx, r)
	}), nil)
	conv := newConversation(t, e)
	turn := runTurn(t, e, say(conv, "panic"))
	if turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.Internal || strings.Contains(turn.Result.Error.Message, "bug") {
		t.Errorf("turn %+v, %v", turn, turn.Result.Error)
	}
	if turn := runTurn(t, e, say(conv, "hello")); turn.State != conversation.Completed {
		t.Errorf("the next turn %+v", turn)
	}
}

func TestTheLargestAnswer(t *testing.T) {
	t.Parallel()
	endless := generate(func(ctx context.Context, _ *provider.Request) (provider.Stream, error) {
		return &answer{ctx, slices.Repeat([]string{"0123456789"}, 1000), io.EOF}, nil
	})
	e, _ := newEngine(t, endless, func(o *Options, _ *faulty) { o.MaxOutputBytes = 95 })
	turn := runTurn(t, e, say(conversation.ID{}, "hi"))
	if turn.State != conversation.Incomplete || turn.Result.FinishReason != conversation.FinishLength || len(turn.OutputText()) != 100 {
		t.Errorf("turn %+v with %d bytes", turn, len(turn.OutputText()))
	}
	if u := turn.Result.Usage; u == nil || !u.Estimated || u.OutputTokens == 0 || u.InputTokens == 0 {
		t.Errorf("usage %+v, want our own count", u)
	}
}

func TestCancelAndDeadline(t *testing.T) {
	t.Parallel()
	e, _ := newEngine(t, generate(hangs), nil)
	conv := newConversation(t, e)

	reader, err := e.Start(t.Context(), say(conv, "hi"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := e.Start(t.Context(), say(conv, "me too")); !errors.Is(err, conversation.ErrConversationBusy) {
		t.Errorf("a second turn: %v", err)
	}
	if _, err := e.Cancel(t.Context(), "blue", reader.Turn()); !errors.Is(err, conversation.ErrNotFound) {
		t.Errorf("another team's Cancel: %v", err)
	}
	cancelled, err := e.Cancel(t.Context(), "red", reader.Turn())
	if err != nil || cancelled.State != conversation.Cancelled || cancelled.OutputText() != "so " || cancelled.Result.Error != nil {
		t.Errorf("cancelled %+v, %v", cancelled, err)
	}

	late := say(conv, "hi")
	late.Deadline = time.Now().Add(20 * time.Millisecond)
	if turn := runTurn(t, e, late); turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.TurnDeadline {
		t.Errorf("turn %+v", turn)
	}

	// A reader that leaves cancels, or does not.
	for _, on := range []conversation.OnDisconnect{conversation.DisconnectCancel, conversation.DisconnectContinue} {
		want := conversation.Cancelled
		r := say(conversation.ID{}, "hi")
		r.OnDisconnect = on
		reader, err := e.Start(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		watcher, err := e.Watch(t.Context(), "red", reader.Turn(), 0)
		if err != nil {
			t.Fatal(err)
		}
		reader.Close()
		reader.Close()
		if on == conversation.DisconnectContinue {
			if e.known("red", reader.Turn()).ctx.Err() != nil {
				t.Error("CONTINUE was cancelled")
			}
			if _, err := e.Cancel(t.Context(), "red", reader.Turn()); err != nil {
				t.Error(err)
			}
		}
		if turn := terminal(t, watcher); turn.State != want {
			t.Errorf("on disconnect %d: %v, want %v", on, turn.State, want)
		}
	}
}

// An end that the store refuses for what is in it still ends the turn, without its answer.
func TestEndThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	e, _ := newEngine(t, says("an answer"), func(_ *Options, f *faulty) {
		f.end = func(e *conversation.End) error {
			if len(e.Turn.Output) > 0 {
				return errors.New("this row is not to the database's liking")
			}
			return nil
		}
	})
	conv := newConversation(t, e)
	turn := runTurn(t, e, say(conv, "hi"))
	if turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.Internal {
		t.Errorf("turn %+v", turn)
	}
	c, err := e.o.Store.GetConversation(t.Context(), "red", conv)
	if err != nil || !c.ActiveTurn.IsZero() {
		t.Errorf("the conversation: %+v, %v", c, err)
	}
}

// What is cancelled stays cancelled, however long the store takes; only an answer is given up. Whoever waits is told.
func TestPatienceKeepsTheReason(t *testing.T) {
	t.Parallel()
	var isDown atomic.Bool
	isDown.Store(true)
	e, _ := newEngine(t, generate(hangs), func(o *Options, f *faulty) {
		o.StorePatience = 50 * time.Millisecond
		f.end = func(*conversation.End) error {
			if isDown.Load() {
				return down
			}
			return nil
		}
	})
	reader, err := e.Start(t.Context(), say(conversation.ID{}, "hi"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := e.Cancel(t.Context(), "red", reader.Turn()); !errors.Is(err, conversation.ErrStoreUnavailable) {
		t.Errorf("Cancel while the store is down: %v", err)
	}
	isDown.Store(false)
	<-e.running.none()
	turn, err := e.Cancel(t.Context(), "red", reader.Turn())
	if err != nil || turn.State != conversation.Cancelled {
		t.Errorf("%+v, %v", turn, err)
	}
}

// An end that was written although the store said that it is down is the end.
func TestEndOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	var ends atomic.Int64
	var store conversation.Store
	e, f := newEngine(t, says("an answer"), func(_ *Options, f *faulty) {
		f.end = func(e *conversation.End) error {
			if ends.Add(1) > 1 {
				return nil
			}
			if err := store.EndTurn(context.Background(), e); err != nil {
				t.Error(err)
			}
			return down
		}
	})
	store = f.Store
	turn := runTurn(t, e, say(newConversation(t, e), "hi"))
	if turn.State != conversation.Completed || turn.OutputText() != "an answer" || ends.Load() != 2 {
		t.Errorf("%+v after %d tries", turn, ends.Load())
	}
}

// A turn can be cancelled from the moment on that others can find it, and a call that may have reached the provider is counted.
func TestCancelAtAdmission(t *testing.T) {
	t.Parallel()
	var e *Engine
	found := make(chan conversation.ID, 1)
	e, _ = newEngine(t, generate(func(ctx context.Context, _ *provider.Request) (provider.Stream, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}), func(_ *Options, f *faulty) {
		f.begin = func(a *conversation.Admission) error {
			found <- a.Turn.ID // recorded, and Start has not returned
			return nil
		}
	})
	cancelled := make(chan *conversation.Turn, 1)
	go func() {
		turn, err := e.Cancel(t.Context(), "red", <-found)
		if err != nil {
			t.Error(err)
		}
		cancelled <- turn
	}()
	reader, err := e.Start(t.Context(), say(conversation.ID{}, "hi"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if turn := <-cancelled; turn.State != conversation.Cancelled || turn.Result.Usage == nil || turn.Result.Usage.InputTokens == 0 {
		t.Errorf("%+v", turn)
	}
}

// Of a model that nobody knows it is not known what fits: what must be sent is sent.
func TestUnknownModelGetsTheToolResult(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	e, _ := newEngine(t, generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		sent.Store(int64(len(r.Messages)))
		if len(r.Messages) == 1 {
			return &calls{}, nil
		}
		return says("done")(ctx, r)
	}), nil)
	conv := newConversation(t, e)
	ask := say(conv, "hi")
	ask.Model = "nobody-knows-it"
	if turn := runTurn(t, e, ask); turn.Result.FinishReason != conversation.FinishToolCalls {
		t.Fatalf("%+v", turn)
	}
	result := &Request{Team: "red", Conversation: conv, Model: ask.Model, OnDisconnect: conversation.DisconnectCancel, Input: []conversation.Message{{
		Role: conversation.RoleTool,
		Parts: []conversation.Part{{
			Kind: conversation.PartToolResult, Text: strings.Repeat("word ", 20_000), ToolResult: &conversation.ToolResult{ToolCallID: "a"},
		}},
	}}}
	if turn := runTurn(t, e, result); turn.State != conversation.Completed || sent.Load() != 3 {
		t.Errorf("%+v with %d messages", turn, sent.Load())
	}
}

// calls is an answer that is one tool call.
type calls struct{ said bool }

func (c *calls) Next() ([]conversation.Event, error) {
	if c.said {
		return nil, io.EOF
	}
	c.said = true
	return []conversation.Event{{Kind: conversation.EventToolCallDelta, ToolCallID: "a", ToolName: "f", Text: "{}"}}, nil
}

func (*calls) Outcome() provider.Outcome {
	return provider.Outcome{Finish: conversation.FinishToolCalls}
}

func (*calls) Close() error { return nil }

// Images of the past take room by their bytes: a request must not grow with their number.
func TestImagesOfThePastAreBounded(t *testing.T) {
	t.Parallel()
	var bytes, largest int
	e, _ := newEngine(t, generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		bytes = 0
		for i := range r.Messages {
			bytes += imageBytes(&r.Messages[i])
		}
		largest = max(largest, bytes)
		return says("a picture")(ctx, r)
	}), nil)
	conv := newConversation(t, e)
	for range 6 {
		r := say(conv, "look")
		r.Input[0].Parts = append(r.Input[0].Parts, conversation.Part{
			Kind: conversation.PartImage, Image: &conversation.Image{Data: make([]byte, 3<<20), MIMEType: "image/png"},
		})
		runTurn(t, e, r)
	}
	if largest < 6<<20 || largest > 16<<20 {
		t.Errorf("the largest request has %d bytes of images", largest)
	}
}

// However many turns of unknown outcome there are, each is ended.
func TestManyDisownedTurns(t *testing.T) {
	t.Parallel()
	var isDown atomic.Bool
	isDown.Store(true)
	var last conversation.ID
	e, _ := newEngine(t, says("an answer"), func(_ *Options, f *faulty) {
		f.begin = func(a *conversation.Admission) error {
			if isDown.Load() {
				last = a.Turn.ID
				return down
			}
			return nil
		}
		f.end = func(*conversation.End) error {
			if isDown.Load() {
				return down
			}
			return nil
		}
	})
	for range maxDisowned {
		if _, err := e.Start(t.Context(), say(conversation.ID{}, "hi")); !errors.Is(err, conversation.ErrStoreUnavailable) {
			t.Fatalf("Start: %v", err)
		}
	}
	conv := newConversation(t, e)
	if _, err := e.Start(t.Context(), repeatable(conv, "id", "hi")); !errors.Is(err, conversation.ErrStoreUnavailable) {
		t.Fatalf("Start: %v", err)
	}
	if e.known("red", last) != nil {
		t.Error("all of it is kept")
	}
	isDown.Store(false)
	<-e.chores.none()
	turn, err := e.o.Store.GetTurn(t.Context(), "red", last, false)
	if err != nil || turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.StoreUnavailable {
		t.Errorf("the last: %+v, %v", turn, err)
	}
	if turn := mustEnd(t, mustStart(t, e, repeatable(conv, "id", "hi"))); turn.State != conversation.Completed {
		t.Errorf("a repeat of it: %+v", turn)
	}
}

// What was certainly not recorded is not ended.
func TestTurnThatWasNotWritten(t *testing.T) {
	t.Parallel()
	e, f := newEngine(t, says("never"), nil)
	if err := f.Store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := e.Start(t.Context(), repeatable(conversation.ID{}, "id", "hi"))
	if !errors.Is(err, conversation.ErrStoreUnavailable) || !errors.Is(err, conversation.ErrNotWritten) {
		t.Errorf("Start: %v", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.disowned)+len(e.runs)+len(e.claims) != 0 {
		t.Errorf("%d turns are to be ended, %d runs and %d claims are remembered", len(e.disowned), len(e.runs), len(e.claims))
	}
}

// A turn that others are faster than for too long is told who.
func TestHeadThatKeepsMoving(t *testing.T) {
	t.Parallel()
	var e *Engine
	var f *faulty
	e, f = newEngine(t, says("ok"), nil)
	conv := newConversation(t, e)
	var inner atomic.Bool
	f.moved = func() {
		if inner.CompareAndSwap(false, true) {
			runTurn(t, e, say(conv, "the one that was faster"))
			inner.Store(false)
		}
	}
	_, err := e.Start(t.Context(), say(conv, "the one that is slower"))
	if known, ok := errors.AsType[*conversation.Error](err); !ok || known.Reason != conversation.ConversationBusy || known.Turn.IsZero() {
		t.Errorf("%v", err)
	}
}

// Who cancels a turn is not kept waiting by a store that hangs.
func TestCancelWhileTheStoreHangs(t *testing.T) {
	t.Parallel()
	hold, hangs := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p := newFed()
	e, _ := newEngine(t, p, func(_ *Options, f *faulty) {
		f.append = func([]conversation.EventBatch) error {
			once.Do(func() { close(hangs) })
			<-hold
			return nil
		}
	})
	reader := mustStart(t, e, say(conversation.ID{}, "hi"))
	p.texts <- "so "
	<-hangs
	ctx, cancel := context.WithTimeout(t.Context(), 10*storeGrace)
	defer cancel()
	if _, err := e.Cancel(ctx, "red", reader.Turn()); !errors.Is(err, conversation.ErrStoreUnavailable) {
		t.Errorf("Cancel: %v", err)
	}
	close(hold)
	if turn := mustEnd(t, reader); turn.State != conversation.Cancelled {
		t.Errorf("%+v", turn)
	}
}
