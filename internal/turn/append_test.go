package turn

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

// fromStore returns a reader that reads from the store although the turn runs here.
func fromStore(e *Engine, id conversation.ID, after int64) *Reader {
	return &Reader{e: e, team: "red", id: id, position: after, draining: e.draining}
}

// durable returns the last sequence number that the store has.
func durable(t *testing.T, e *Engine, id conversation.ID) (last int64) {
	t.Helper()
	events, err := e.o.Store.Events(t.Context(), "red", id, 0, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if len(events) > 0 {
		last = events[len(events)-1].Sequence
	}
	return last
}

// A turn that is over before anybody looked writes its log with its end; nothing else is written of it.
func TestShortTurnHasTwoCommits(t *testing.T) {
	t.Parallel()
	var appends, begins, ends atomic.Int64
	e, _ := newEngine(t, says("a", "b"), func(_ *Options, f *faulty) {
		f.append = func([]conversation.EventBatch) error { appends.Add(1); return nil }
		f.begin = func(*conversation.Admission) error { begins.Add(1); return nil }
		f.end = func(e *conversation.End) error {
			ends.Add(1)
			if len(e.Events) != 3 || e.Events[0].Sequence != 2 || e.Replaces != nil {
				t.Errorf("the end has %+v, replaces %v", e.Events, e.Replaces)
			}
			return nil
		}
	})
	turn := runTurn(t, e, say(conversation.ID{}, "hi"))
	<-e.chores.none()
	if appends.Load() != 0 || begins.Load() != 1 || ends.Load() != 1 {
		t.Errorf("%d appends, %d begins, %d ends", appends.Load(), begins.Load(), ends.Load())
	}
	if last := durable(t, e, turn.ID); last != turn.Result.LastSequence-1 {
		t.Errorf("durable to %d of %d", last, turn.Result.LastSequence)
	}
}

func TestEventsBecomeDurableWhileTheTurnRuns(t *testing.T) {
	t.Parallel()
	p := newFed()
	var firsts []int64
	e, _ := newEngine(t, p, func(_ *Options, f *faulty) {
		f.after = func(batches []conversation.EventBatch) error {
			for _, b := range batches {
				firsts = append(firsts, b.Events[0].Sequence)
			}
			return nil
		}
		f.end = func(e *conversation.End) error {
			if !slices.Equal(e.Replaces, firsts) || e.Events[0].Sequence != 2 {
				t.Errorf("the end replaces %v with events from %d on, want %v", e.Replaces, e.Events[0].Sequence, firsts)
			}
			return nil
		}
	})
	reader := mustStart(t, e, say(conversation.ID{}, "hi"))
	for i, s := range []string{"a", "b", "c"} {
		p.texts <- s
		eventually(t, "it is durable", func() bool { return durable(t, e, reader.Turn()) == int64(i)+3 })
	}
	close(p.texts)
	live := everything(t, reader)
	<-e.chores.none() // the appender has nothing more to do, and is gone
	if stored := everything(t, fromStore(e, reader.Turn(), 0)); !slices.Equal(shape(stored), shape(live)) {
		t.Errorf("stored %v, want %v", shape(stored), shape(live))
	}
}

// A log that is too large for one row stays as it was written.
func TestLargeLogIsNotCompacted(t *testing.T) {
	t.Parallel()
	p := newFed()
	e, _ := newEngine(t, p, func(_ *Options, f *faulty) {
		f.end = func(e *conversation.End) error {
			if len(e.Replaces) != 0 {
				t.Errorf("replaces %v", e.Replaces)
			}
			return nil
		}
	})
	reader := mustStart(t, e, say(conversation.ID{}, "hi"))
	for range 3 {
		p.texts <- strings.Repeat("x", 100<<10)
	}
	eventually(t, "it is durable", func() bool { return durable(t, e, reader.Turn()) == 5 })
	close(p.texts)
	live := everything(t, reader)
	if stored := everything(t, fromStore(e, reader.Turn(), 0)); !slices.Equal(shape(stored), shape(live)) {
		t.Error("the stored log is another one")
	}
}

// An append that happened although the store said that it is down leaves each event in the log once.
func TestAppendOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		faults   func(try int64) bool
		upTo     int64 // is durable before the end
		ofPieces string
	}{
		"appended again":            {func(try int64) bool { return try == 1 }, 4, "x"},
		"ended before":              {func(int64) bool { return true }, 0, "x"},
		"ended before, second":      {func(try int64) bool { return try > 1 }, 0, "x"},
		"ended before, in few rows": {func(int64) bool { return true }, 0, strings.Repeat("x", batchBytes)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newFed()
			var tries atomic.Int64
			e, _ := newEngine(t, p, func(_ *Options, f *faulty) {
				f.after = func([]conversation.EventBatch) error {
					if c.faults(tries.Add(1)) {
						return down
					}
					return nil
				}
			})
			reader := mustStart(t, e, say(conversation.ID{}, "hi"))
			p.texts <- c.ofPieces + "a"
			if len(c.ofPieces) == batchBytes {
				p.texts <- c.ofPieces + "another batch of the same try"
			}
			eventually(t, "a first try", func() bool { return tries.Load() >= 1 })
			p.texts <- c.ofPieces + "b"
			eventually(t, "a second try", func() bool { return tries.Load() >= 2 })
			p.texts <- c.ofPieces + "c"
			if c.upTo > 0 {
				eventually(t, "all of it", func() bool { return durable(t, e, reader.Turn()) == c.upTo+1 })
			}
			close(p.texts)
			live := everything(t, reader)
			if stored := everything(t, fromStore(e, reader.Turn(), 0)); !slices.Equal(shape(stored), shape(live)) {
				t.Errorf("stored %v, want %v", shape(stored), shape(live))
			}
		})
	}
}

// While events cannot be written the answer goes on, until too much waits or for too long.
func TestStoreDownWhileTheAnswerComes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		patience time.Duration
		text     string
	}{
		"for too long": {300 * time.Millisecond, "x"},
		"too much":     {time.Hour, strings.Repeat("x", maxPendingBytes/2)},
	} {
		for how, fault := range map[string]func(free chan struct{}) error{
			"fails": func(chan struct{}) error { return down },
			"hangs": func(free chan struct{}) error { <-free; return down },
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				p := newFed()
				free := make(chan struct{})
				var freed sync.Once
				e, _ := newEngine(t, p, func(o *Options, f *faulty) {
					o.StorePatience = c.patience
					f.append = func([]conversation.EventBatch) error { return fault(free) }
				})
				t.Cleanup(func() { freed.Do(func() { close(free) }) })
				reader := mustStart(t, e, say(conversation.ID{}, "hi"))
				p.texts <- c.text
				if c.patience == time.Hour { // what waited before does not count
					log := &e.known("red", reader.Turn()).log
					eventually(t, "it is noticed", func() bool { log.mu.Lock(); defer log.mu.Unlock(); return log.limit > 0 })
					p.texts <- c.text
				}
				p.texts <- c.text
				p.texts <- "the last"
				eventually(t, "the call is closed", func() bool { return p.open.Load() == 0 })
				freed.Do(func() { close(free) })
				turn := mustEnd(t, reader)
				if turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.StoreUnavailable {
					t.Errorf("%+v", turn)
				}
				if stored := everything(t, fromStore(e, turn.ID, 0)); stored[len(stored)-2].Text != "the last" {
					t.Error("the log does not have what was sent")
				}
			})
		}
	}
}

// A run whose turn is another's stops at once, and its readers read on in the store.
func TestFencedByAnAppend(t *testing.T) {
	t.Parallel()
	p := newFed()
	e, f := newEngine(t, p, nil)
	reader := mustStart(t, e, say(conversation.ID{}, "hi"))
	p.texts <- "a"
	run := e.known("red", reader.Turn())
	eventually(t, "it is durable", func() bool { return durable(t, e, reader.Turn()) == 3 })
	f.dead.Store(true) // so that the store says that it has lost the turn
	p.texts <- "void"
	<-run.done
	if p.open.Load() != 0 {
		t.Error("the call is open")
	}
	// Nobody else ends it in this test; the reader must say what is there and then wait.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	var last int64
	for {
		events, err := reader.Next(ctx)
		if err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Next: %v", err)
			}
			break
		}
		last = events[len(events)-1].Sequence
	}
	if last != 4 {
		t.Errorf("read to %d", last)
	}
	if turn, err := e.o.Store.GetTurn(t.Context(), "red", reader.Turn(), false); err != nil || turn.State != conversation.Running {
		t.Errorf("%+v, %v: a fenced run has written", turn, err)
	}
}

// All readers of a turn see the same, wherever they read, whenever they come and however slow they are.
func TestAllReadersAgree(t *testing.T) {
	t.Parallel()
	p := newFed()
	e, _ := newEngine(t, p, nil)
	first := mustStart(t, e, say(conversation.ID{}, "hi"))
	const pieces = 400
	seen := make(map[int64][][]conversation.Event)
	var mu sync.Mutex
	var wg sync.WaitGroup
	read := func(r *Reader, after int64, slow bool) {
		defer r.Close()
		var events []conversation.Event
		for {
			got, err := r.Next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Errorf("after %d: %v", after, err)
				return
			}
			events = append(events, got...)
			if slow {
				select {
				case <-time.After(time.Duration(len(got)) * time.Millisecond): // the slowness that is tested
				case <-t.Context().Done():
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		seen[after] = append(seen[after], events)
	}
	wg.Go(func() { read(first, 0, false) })
	for i := range pieces {
		p.texts <- strings.Repeat("é", i%7)
		if i%40 != 0 {
			continue
		}
		for _, after := range []int64{0, int64(i / 2), int64(i + 20)} {
			live, err := e.Watch(t.Context(), "red", first.Turn(), after)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { read(live, after, i%80 == 0) })
			wg.Go(func() { read(fromStore(e, first.Turn(), after), after, i%80 != 0) })
		}
		time.Sleep(20 * time.Millisecond) // the pace of the answer
	}
	close(p.texts)
	wg.Wait()
	all := shape(seen[0][0])
	if len(all) != pieces+3 {
		t.Errorf("%d events", len(all))
	}
	for after, readers := range seen {
		for _, events := range readers {
			if !slices.Equal(shape(events), all[min(after, int64(len(all))):]) {
				t.Errorf("a reader from %d has seen something else: %d events", after, len(events))
			}
		}
	}
}

func TestEventsThatAreGone(t *testing.T) {
	t.Parallel()
	var gone atomic.Bool
	e, f := newEngine(t, says("a", "b"), nil)
	f.pruned = func(events []conversation.Event) []conversation.Event {
		if gone.Load() {
			return slices.DeleteFunc(slices.Clone(events), func(e conversation.Event) bool { return e.Sequence < 4 })
		}
		return events
	}
	turn := mustEnd(t, mustStart(t, e, repeatable(conversation.ID{}, "id", "hi")))
	last := turn.Result.LastSequence
	gone.Store(true)
	watch := func(after int64) *Reader {
		r, err := e.Watch(t.Context(), "red", turn.ID, after)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	for _, after := range []int64{0, 1, 2} {
		if _, err := watch(after).Next(t.Context()); !isReason(err, conversation.EventsExpired) {
			t.Errorf("after %d: %v, want EVENTS_EXPIRED", after, err)
		}
	}
	if events := everything(t, watch(3)); len(events) != 2 || events[1].Turn.OutputText() != "ab" {
		t.Errorf("what is still there: %+v", events)
	}
	if events := everything(t, watch(last-1)); len(events) != 1 || events[0].Kind != conversation.EventTerminal {
		t.Errorf("the end: %+v", events)
	}
	if events := everything(t, watch(last)); len(events) != 0 {
		t.Errorf("after the end: %+v", events)
	}
	if _, err := watch(last + 1).Next(t.Context()); !isReason(err, conversation.EventsExpired) {
		t.Errorf("beyond the end: %v", err)
	}
	// A repeat of the call needs only the answer.
	events := everything(t, mustStart(t, e, repeatable(conversation.ID{}, "id", "hi")))
	if len(events) != 2 || events[0].Kind != conversation.EventAccepted || events[1].Turn.OutputText() != "ab" {
		t.Errorf("a repeat: %+v", events)
	}
}

// An answer that would take more sequence numbers than an owner has ends like one that is too long.
func TestTooManyEvents(t *testing.T) {
	t.Parallel()
	piece := slices.Repeat([]conversation.Event{text("")}, 100)
	e, _ := newEngine(t, generate(func(context.Context, *provider.Request) (provider.Stream, error) {
		return &endless{piece}, nil
	}), nil)
	e.o.MaxOutputBytes = 1 << 30
	r := newRun()
	r.e = e
	r.log.events = make([]conversation.Event, maxLogEvents-1050, conversation.SequenceBlock)
	r.request, r.turn, r.now = &provider.Request{Model: "sim"}, &conversation.Turn{}, &conversation.Turn{}
	r.ctx = t.Context()
	r.log.sealed = true
	end := r.attempt()
	if _, n := r.log.size(); !errors.Is(end.err, errOutputFull) || n != maxLogEvents {
		t.Errorf("%v after %d events", end.err, n)
	}
}

// endless is a stream without an end.
type endless struct{ piece []conversation.Event }

func (e *endless) Next() ([]conversation.Event, error) { return e.piece, nil }
func (*endless) Outcome() provider.Outcome             { return provider.Outcome{} }
func (*endless) Close() error                          { return nil }

// An end that comes too late, because another owner has ended the turn, is void, and so is what came before it.
func TestEndedByAnotherOwner(t *testing.T) {
	t.Parallel()
	const block = conversation.SequenceBlock
	var once sync.Once
	var store conversation.Store
	e, f := newEngine(t, says("void"), func(_ *Options, f *faulty) {
		f.end = func(end *conversation.End) error {
			once.Do(func() { // what the other one does
				other := *end.Turn
				other.Output, other.State = nil, conversation.Failed
				other.Result.Error = conversation.Errorf(conversation.TurnInterrupted, "interrupted")
				other.Result.LastSequence = block + 2
				reset := conversation.Event{Sequence: block + 1, Time: time.Now(), Kind: conversation.EventOutputReset}
				if err := store.EndTurn(context.Background(), &conversation.End{Turn: &other, Events: []conversation.Event{reset}}); err != nil {
					t.Error(err)
				}
			})
			return nil
		}
	})
	store = f.Store
	events := everything(t, mustStart(t, e, say(conversation.ID{}, "hi")))
	n := len(events)
	if events[n-2].Kind != conversation.EventOutputReset || events[n-1].Sequence != block+2 || events[n-1].Turn.State != conversation.Failed {
		t.Errorf("%v", shape(events))
	}
}

// An answer that is ahead of the store is not given up because one append failed.
func TestFastAnswerOutlivesAFault(t *testing.T) {
	t.Parallel()
	var tries atomic.Int64
	e, _ := newEngine(t, generate(func(ctx context.Context, _ *provider.Request) (provider.Stream, error) {
		return &slowEnd{answer{ctx, slices.Repeat([]string{strings.Repeat("x", 100<<10)}, 20), io.EOF}, &tries}, nil
	}), func(_ *Options, f *faulty) {
		f.append = func([]conversation.EventBatch) error {
			if tries.Add(1) == 1 {
				return down
			}
			return nil
		}
	})
	if turn := runTurn(t, e, say(conversation.ID{}, "hi")); turn.State != conversation.Completed || tries.Load() < 2 {
		t.Errorf("%v, %v after %d appends", turn.State, turn.Result.Error, tries.Load())
	}
}

// slowEnd is an answer whose end comes after the second append.
type slowEnd struct {
	answer
	tries *atomic.Int64
}

func (s *slowEnd) Next() ([]conversation.Event, error) {
	if len(s.texts) == 0 {
		for s.tries.Load() < 2 && s.ctx.Err() == nil {
			pause(s.ctx, time.Millisecond)
		}
		if s.ctx.Err() != nil {
			return nil, s.ctx.Err()
		}
	}
	return s.answer.Next()
}

// What one append cannot take is first in the next.
func TestAppenderServesAll(t *testing.T) {
	t.Parallel()
	served := make(map[conversation.ID]int)
	e := New(Options{Store: appended{counts: served}})
	var runs []*run
	for range 3 * appendBytes / takeBytes / 2 {
		r := newRun()
		r.log.events = make([]conversation.Event, 2*takeBytes/batchBytes)
		for i := range r.log.events {
			r.log.events[i] = conversation.Event{Sequence: int64(i) + 1, Kind: conversation.EventTextDelta, Text: strings.Repeat("x", batchBytes)}
		}
		r.e, r.cancel = e, func(error) {}
		runs = append(runs, r)
	}
	fenced := newRun() // another run of this process may have its turn
	fenced.log.events, fenced.cancel = runs[0].log.events, func(error) {}
	fenced.fence()
	runs = append([]*run{fenced}, runs...)
	again, full, ok := e.appender.tick(slices.Clone(runs))
	if !full || !ok || len(again) != len(runs) {
		t.Fatalf("%d runs, %t, %t", len(again), full, ok)
	}
	e.appender.tick(again)
	if len(served) != len(runs)-1 || served[fenced.turn.ID] != 0 {
		t.Errorf("%d of %d turns were served, the fenced one %d times", len(served), len(runs)-1, served[fenced.turn.ID])
	}
}

// appended is a store that counts what is appended to a turn.
type appended struct {
	conversation.Store
	counts map[conversation.ID]int
}

func (a appended) AppendEvents(_ context.Context, batches []conversation.EventBatch) ([]conversation.ID, error) {
	for _, b := range batches {
		a.counts[b.Turn]++
	}
	return nil, nil
}

// Of a turn that runs elsewhere only what is new is read, and of one that has ended as little.
func TestReadsOfTheStore(t *testing.T) {
	t.Parallel()
	p := newFed()
	e, _ := newEngine(t, p, nil)
	reader := mustStart(t, e, say(conversation.ID{}, "hi"))
	other, f := elsewhere(t, e)
	w, err := other.Watch(t.Context(), "red", reader.Turn(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i := range int64(5) {
		p.texts <- "piece"
		eventually(t, "it is durable", func() bool { return durable(t, e, reader.Turn()) == i+3 })
		for w.position < i+3 {
			if _, err := w.look(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if turns, reads := f.turns.Load(), f.reads.Load(); turns != 1 || reads != 5 {
		t.Errorf("while it runs, the turn is read %d times, and its events %d times", turns, reads)
	}
	close(p.texts)
	live := everything(t, reader)
	everything(t, w)
	f.turns.Store(0)
	f.reads.Store(0)
	w, err = other.Watch(t.Context(), "red", reader.Turn(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if seen := everything(t, w); !slices.Equal(shape(seen), shape(live)) {
		t.Errorf("%v, want %v", shape(seen), shape(live))
	}
	if turns, reads := f.turns.Load(), f.reads.Load(); turns != 2 || reads != 1 {
		t.Errorf("when it has ended, the turn is read %d times, and its events %d times", turns, reads)
	}
}

// The wake-up that tells of a turn's last events can be the one that tells of its end.
func TestEndWithoutAWakeUp(t *testing.T) {
	t.Parallel()
	p := newFed()
	e, _ := newEngine(t, p, nil)
	reader := mustStart(t, e, say(conversation.ID{}, "hi"))
	w := fromStore(e, reader.Turn(), 1)
	defer w.Close()
	p.texts <- "all"
	close(p.texts)
	mustEnd(t, reader)
	w.subscribe()
	if _, err := w.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if events, err := w.Next(t.Context()); err != nil || events[0].Kind != conversation.EventTerminal {
		t.Errorf("%v, %v", shape(events), err)
	}
	if took := time.Since(began); took > lookEvery/2 {
		t.Errorf("the end came after %v", took)
	}
}
