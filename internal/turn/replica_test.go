package turn

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

// replicas are two engines on one database.
func replicas(t *testing.T, p provider.Provider) (a, b *Engine, stores []conversation.Store) {
	t.Helper()
	stores = openReplicas(t, 2)
	a, _ = newEngineOn(t, stores[0], p, nil)
	b, _ = newEngineOn(t, stores[1], p, nil)
	return a, b, stores
}

func TestOneRequestIDOnTwoReplicas(t *testing.T) {
	t.Parallel()
	p := newFed()
	a, b, _ := replicas(t, p)
	conv := newConversation(t, a)
	const callers = 100
	var wg sync.WaitGroup
	logs := make([][]string, callers)
	started := make(chan struct{}, callers)
	for i := range callers {
		wg.Go(func() {
			r, err := []*Engine{a, b}[i%2].Start(t.Context(), repeatable(conv, "id", "hi"))
			started <- struct{}{}
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if i%4 < 2 {
				logs[i] = shape(everything(t, r))
			} else {
				turn := mustEnd(t, r)
				logs[i] = []string{turn.OutputText()}
			}
		})
	}
	for range callers / 2 {
		<-started
	}
	for range 20 {
		p.texts <- "piece "
	}
	close(p.texts)
	wg.Wait()
	for i, log := range logs {
		if !slices.Equal(log, logs[i%4/2*2]) {
			t.Errorf("caller %d: %v", i, log)
		}
	}
	if n := p.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

func TestCancelOnTheOtherReplica(t *testing.T) {
	t.Parallel()
	p := newFed()
	a, b, _ := replicas(t, p)
	r := mustStart(t, a, repeatable(conversation.ID{}, "id", "hi"))
	p.texts <- "so "
	began := time.Now()
	turn, err := b.Cancel(t.Context(), "red", r.Turn())
	if err != nil || turn.State != conversation.Cancelled || turn.OutputText() != "so " {
		t.Errorf("%+v, %v", turn, err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if turn, err = b.Cancel(t.Context(), "red", r.Turn()); err != nil || turn.State != conversation.Cancelled {
		t.Errorf("again: %+v, %v", turn, err)
	}
}

// The callers of a turn that is to be cancelled when they have left can be on both replicas.
func TestCreatorsOnTwoReplicas(t *testing.T) {
	t.Parallel()
	p := newFed()
	a, b, _ := replicas(t, p)
	ask := repeatable(conversation.ID{}, "id", "hi")
	ask.OnDisconnect = conversation.DisconnectCancel
	owner, other, another := mustStart(t, a, ask), mustStart(t, b, ask), mustStart(t, b, ask)
	owner.Close()
	<-a.chores.none()
	p.texts <- "it "
	other.Close()
	<-b.chores.none()
	p.texts <- "goes on"
	began := time.Now()
	another.Close()
	eventually(t, "the call is closed", func() bool { return p.open.Load() == 0 })
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the call was closed after %v", took)
	}
	if turn := mustEnd(t, fromStore(b, owner.Turn(), 0)); turn.State != conversation.Cancelled || turn.OutputText() != "it goes on" {
		t.Errorf("%+v", turn)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.foreign) != 0 {
		t.Error("the other replica still counts")
	}
}

// A server that has lost its turns without knowing it writes nothing more of them, and its readers follow the new owner.
func TestFencedOwner(t *testing.T) {
	t.Parallel()
	p := newFed()
	a, b, stores := replicas(t, p)
	conv := newConversation(t, a)
	reader := mustStart(t, a, repeatable(conv, "id", "hi"))
	p.texts <- "old"
	eventually(t, "it is durable", func() bool { return durable(t, a, reader.Turn()) == 3 })
	if err := stores[0].Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is taken over", func() bool { return b.readable("red", reader.Turn()) != nil && p.calls.Load() == 2 })
	// Either call may get the next pieces: what the old one gets is void.
	for range 3 {
		p.texts <- "new"
		time.Sleep(3 * appendEvery) // so that the old owner finds out
	}
	close(p.texts)
	seen := everything(t, reader)
	stored := everything(t, fromStore(b, reader.Turn(), 0))
	last := seen[len(seen)-1]
	if last.Turn.State != conversation.Completed || last.Turn.OutputText() == "" || len(last.Turn.Result.Attempts) != 2 {
		t.Errorf("%+v", last.Turn)
	}
	// After the reset a reader of the old owner has seen what is stored.
	after := func(events []conversation.Event) []conversation.Event {
		return events[slices.IndexFunc(events, func(e conversation.Event) bool { return e.Kind == conversation.EventOutputReset }):]
	}
	if !slices.Equal(shape(after(seen)), shape(after(stored))) {
		t.Errorf("seen %v, stored %v", shape(seen), shape(stored))
	}
	text := ""
	for _, e := range after(seen) {
		text += e.Text
	}
	if text != last.Turn.OutputText() {
		t.Errorf("the pieces say %q, the turn %q", text, last.Turn.OutputText())
	}
}

// A watcher on the other replica follows a turn as it comes, and through the death of its server.
func TestWatcherOnTheOtherReplica(t *testing.T) {
	t.Parallel()
	stores := openReplicas(t, 2)
	p := newFed()
	a, f := newEngineOn(t, stores[0], p, nil)
	var calls atomic.Int64
	b, _ := newEngineOn(t, stores[1], generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		calls.Add(1)
		return says("an ", "answer")(ctx, r)
	}), nil)
	r := mustStart(t, a, repeatable(conversation.ID{}, "id", "hi"))
	watcher, err := b.Watch(t.Context(), "red", r.Turn(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	var took time.Duration
	seen := int64(0)
	for n := int64(3); n < 6; n++ { // the first can have come before the replicas knew of each other
		p.texts <- "live"
		began := time.Now()
		for seen < n {
			events, err := watcher.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			seen = events[len(events)-1].Sequence
		}
		took = time.Since(began)
	}
	if took > lookEvery/2 {
		t.Errorf("an event took %v to the other replica", took)
	}
	f.dead.Store(true)
	if err := stores[0].Close(); err != nil {
		t.Fatal(err)
	}
	events := everything(t, watcher)
	last := events[len(events)-1]
	if events[0].Kind != conversation.EventOutputReset || last.Turn.OutputText() != "an answer" || calls.Load() != 1 {
		t.Errorf("%v", shape(events))
	}
}

// Turns wait for each other wherever they run.
func TestQueueOnTwoReplicas(t *testing.T) {
	t.Parallel()
	g := &gate{pass: make(chan struct{})}
	a, b, _ := replicas(t, g)
	conv := newConversation(t, a)
	first := mustStart(t, a, say(conv, "1"))
	second := mustStart(t, b, on(say(conv, "2"), Queue))
	third := mustStart(t, a, on(say(conv, "3"), Queue))
	elsewhere := fromStore(a, second.Turn(), 0)
	defer elsewhere.Close()
	close(g.pass)
	mustEnd(t, first)
	mustEnd(t, second)
	if turn := mustEnd(t, third); turn.State != conversation.Completed || turn.Parent != second.Turn() {
		t.Errorf("%+v", turn)
	}
	if events := everything(t, elsewhere); events[0].Turn.ID != second.Turn() || events[len(events)-1].Turn.OutputText() != "re:2" {
		t.Errorf("%v", shape(events))
	}
}
