package turn

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

// process is an engine that can die: without a word to the store, which is then opened by the next.
type process struct {
	*Engine
	f  *faulty
	db conversation.Store
}

// processes starts one process after the other on one database.
type processes struct{ path string }

func (p *processes) start(t *testing.T, with provider.Provider) *process {
	t.Helper()
	if p.path == "" {
		p.path = filepath.Join(t.TempDir(), "test.db")
	}
	db := openFile(t, p.path)
	e, f := newEngineOn(t, db, with, nil)
	return &process{e, f, db}
}

func (p *process) die(t *testing.T) {
	t.Helper()
	p.f.dead.Store(true)
	if err := p.db.Close(); err != nil {
		t.Fatal(err)
	}
}

// A turn that outlives its caller outlives its server: it is asked again, and its readers are told to begin anew.
func TestTakeover(t *testing.T) {
	t.Parallel()
	var ps processes
	p := newFed()
	old := ps.start(t, p)
	conv := newConversation(t, old.Engine)
	ask := repeatable(conv, "id", "hi")
	instructions := "Be brief."
	ask.Instructions = &instructions
	first := mustStart(t, old.Engine, ask)
	p.texts <- "what is "
	eventually(t, "it is durable", func() bool { return durable(t, old.Engine, first.Turn()) == 3 })
	old.die(t)

	var sent *provider.Request
	e := ps.start(t, generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		sent = r
		return says("an ", "answer")(ctx, r)
	}))
	again := mustStart(t, e.Engine, ask)
	if again.Turn() != first.Turn() {
		t.Fatal("another turn")
	}
	turn := mustEnd(t, again)
	if turn.State != conversation.Completed || turn.OutputText() != "an answer" {
		t.Fatalf("%+v, %v", turn, turn.Result.Error)
	}
	if sent.Instructions != instructions || len(sent.Messages) != 1 || sent.Messages[0].Text() != "hi" || sent.Model != "sim" {
		t.Errorf("sent %+v", sent)
	}
	a := turn.Result.Attempts
	if len(a) != 2 || a[0].State != conversation.AttemptUnknown || a[1].State != conversation.AttemptSettled || !turn.Result.Usage.Estimated {
		t.Errorf("attempts %+v, usage %+v", a, turn.Result.Usage)
	}
	events := everything(t, fromStore(e.Engine, turn.ID, 0))
	var kinds []conversation.EventKind
	var sequences []int64
	for _, ev := range events {
		kinds = append(kinds, ev.Kind)
		sequences = append(sequences, ev.Sequence)
	}
	const block = conversation.SequenceBlock
	if want := []int64{1, 2, 3, block + 1, block + 2, block + 3, block + 4, block + 5}; !slices.Equal(sequences, want) {
		t.Errorf("sequences %v, want %v", sequences, want)
	}
	if len(kinds) > 4 && (kinds[3] != conversation.EventOutputReset || events[4].Attempt != 2) {
		t.Errorf("events %v", shape(events))
	}
	if c, err := e.db.GetConversation(t.Context(), "red", conv); err != nil || c.HeadTurn != turn.ID {
		t.Errorf("head %x, %v", c.HeadTurn, err)
	}
}

// A reader that comes while the turn that was taken over runs reads the old log from the store and the new one from
// memory.
func TestReaderAcrossATakeover(t *testing.T) {
	t.Parallel()
	var ps processes
	p := newFed()
	old := ps.start(t, p)
	first := mustStart(t, old.Engine, repeatable(conversation.ID{}, "id", "hi"))
	p.texts <- "before"
	eventually(t, "it is durable", func() bool { return durable(t, old.Engine, first.Turn()) == 3 })
	old.die(t)

	next := newFed()
	e := ps.start(t, next)
	eventually(t, "it is taken over", func() bool { return e.readable("red", first.Turn()) != nil })
	readers := []*Reader{mustStart(t, e.Engine, repeatable(conversation.ID{}, "id", "hi"))}
	for _, after := range []int64{0, 2, 50, conversation.SequenceBlock + 1} {
		r, err := e.Watch(t.Context(), "red", first.Turn(), after)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		readers = append(readers, r, fromStore(e.Engine, first.Turn(), after))
	}
	next.texts <- "after"
	close(next.texts)
	all := shape(everything(t, readers[0]))
	if len(all) != 7 {
		t.Fatalf("%v", all)
	}
	for i, r := range readers[1:] {
		skip := []int{0, 2, 3, 4}[i/2]
		if got := shape(everything(t, r)); !slices.Equal(got, all[skip:]) {
			t.Errorf("reader %d: %v, want %v", i, got, all[skip:])
		}
	}
}

// What is taken over and cannot go on ends.
func TestTakeoverThatEndsTheTurn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		early  bool
		change func(*Request)
		before func(t *testing.T, p *process, id conversation.ID)
		state  conversation.State
		want   conversation.Reason
	}{
		"its caller was to cancel it": {
			change: func(r *Request) { r.OnDisconnect = conversation.DisconnectCancel },
			state:  conversation.Failed, want: conversation.TurnInterrupted,
		},
		"an earlier release has recorded it": {
			early: true, state: conversation.Failed, want: conversation.TurnInterrupted,
		},
		"it was cancelled": {
			before: func(t *testing.T, p *process, id conversation.ID) {
				p.f.dead.Store(true) // too late for it to be done
				if err := p.f.Store.RequestCancel(t.Context(), "red", id); err != nil {
					t.Error(err)
				}
			},
			state: conversation.Cancelled,
		},
		"its time is over": {
			change: func(r *Request) {
				r.OnDisconnect, r.Deadline = conversation.DisconnectCancel, time.Now().Add(300*time.Millisecond)
			},
			before: func(t *testing.T, p *process, id conversation.ID) {
				p.f.dead.Store(true)
				deadline, _ := p.known("red", id).ctx.Deadline()
				eventually(t, "it is too late", func() bool { return time.Now().After(deadline) })
			},
			state: conversation.Failed, want: conversation.TurnDeadline,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var ps processes
			old := ps.start(t, generate(hangs))
			old.f.early = c.early
			conv := newConversation(t, old.Engine)
			ask := repeatable(conv, "id", "hi")
			if c.change != nil {
				c.change(ask)
			}
			first := mustStart(t, old.Engine, ask)
			if c.before != nil {
				c.before(t, old, first.Turn())
			}
			old.die(t)
			e := ps.start(t, says("again"))
			turn := mustEnd(t, fromStore(e.Engine, first.Turn(), 0))
			if turn.State != c.state || c.want != "" && turn.Result.Error.Reason != c.want {
				t.Errorf("%+v, %v", turn, turn.Result.Error)
			}
			if a := turn.Result.Attempts; len(a) != 1 || a[0].State != conversation.AttemptUnknown {
				t.Errorf("attempts %+v", a)
			}
			if after := runTurn(t, e.Engine, say(conv, "next")); after.State != conversation.Completed {
				t.Errorf("the conversation is stuck: %+v", after)
			}
		})
	}
}

// A turn that waited waits on, and begins when the one before it has ended.
func TestTakeoverOfTurnsThatWait(t *testing.T) {
	t.Parallel()
	var ps processes
	old := ps.start(t, generate(hangs))
	conv := newConversation(t, old.Engine)
	first := mustStart(t, old.Engine, repeatable(conv, "1", "first"))
	second := mustStart(t, old.Engine, on(repeatable(conv, "2", "second"), Queue))
	third := mustStart(t, old.Engine, on(repeatable(conv, "3", "third"), Queue))
	old.die(t)

	g := &gate{pass: make(chan struct{})}
	e := ps.start(t, g)
	close(g.pass)
	for i, r := range []*Reader{first, second, third} {
		turn := mustEnd(t, fromStore(e.Engine, r.Turn(), 0))
		if want := []string{"re:first", "re:second", "re:third"}[i]; turn.State != conversation.Completed || turn.OutputText() != want {
			t.Errorf("%+v, %v", turn, turn.Result.Error)
		}
	}
	if sent := g.sent[2]; sent != "first|re:first|second|re:second|third" {
		t.Errorf("sent %q", sent)
	}
}

// A turn that kills its servers does not kill them for ever.
func TestTakeoversEnd(t *testing.T) {
	t.Parallel()
	var ps processes
	var calls atomic.Int64
	kills := generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		calls.Add(1)
		return hangs(ctx, r)
	})
	p := ps.start(t, kills)
	id := mustStart(t, p.Engine, repeatable(conversation.ID{}, "id", "hi")).Turn()
	for n := int64(1); ; n++ {
		eventually(t, "the call", func() bool { return calls.Load() == n })
		p.die(t)
		p = ps.start(t, kills)
		if n == maxAttempts {
			break
		}
	}
	turn := mustEnd(t, fromStore(p.Engine, id, 0))
	if turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.TurnInterrupted || calls.Load() != maxAttempts {
		t.Errorf("%+v, %v after %d calls", turn, turn.Result.Error, calls.Load())
	}
}

// What outlives its caller is handed over when the grace is over; the rest ends.
func TestDrainHandsOver(t *testing.T) {
	t.Parallel()
	var ps processes
	old := ps.start(t, generate(hangs))
	conv := newConversation(t, old.Engine)
	goesOn := mustStart(t, old.Engine, repeatable(conv, "id", "hi"))
	waits := mustStart(t, old.Engine, on(repeatable(conv, "id 2", "and"), Queue))
	ends := mustStart(t, old.Engine, say(conversation.ID{}, "hi"))
	far := fromStore(old.Engine, goesOn.Turn(), 0)
	defer far.Close()
	reading := mustStart(t, old.Engine, repeatable(conv, "id", "hi"))
	var last error
	told := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for last == nil {
			var events []conversation.Event
			if events, last = reading.Next(t.Context()); last == nil && events[0].Kind == conversation.NoteDraining {
				told++
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	old.Drain(ctx)
	wg.Wait()
	if !isReason(last, conversation.Draining) || told != 1 {
		t.Errorf("Next: %v; told %d times", last, told)
	}
	for _, r := range []*Reader{goesOn, waits, far} {
		if _, err := r.End(t.Context()); !isReason(err, conversation.Draining) {
			t.Errorf("a reader of what is handed over: %v", err)
		}
	}
	if turn := mustEnd(t, ends); turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.Draining {
		t.Errorf("%+v", turn)
	}
	if _, err := old.Start(t.Context(), say(conv, "more")); !isReason(err, conversation.Draining) {
		t.Errorf("Start while draining: %v", err)
	}
	if err := old.db.Close(); err != nil {
		t.Fatal(err)
	}

	e := ps.start(t, says("an answer"))
	for _, r := range []*Reader{goesOn, waits} {
		if turn := mustEnd(t, fromStore(e.Engine, r.Turn(), 0)); turn.State != conversation.Completed {
			t.Errorf("%+v, %v", turn, turn.Result.Error)
		}
	}
}

// A process that had been given up for dead asks which turns it still has, and stops only the others.
func TestGivenUpForDead(t *testing.T) {
	t.Parallel()
	duties := make(chan *conversation.Duties)
	p := newFed()
	e, f := newEngine(t, p, func(_ *Options, f *faulty) { f.duties = duties })
	reader := mustStart(t, e, say(conversation.ID{}, "hi"))
	p.texts <- "a"
	duties <- &conversation.Duties{Lost: true}
	duties <- &conversation.Duties{} // the one before is being done
	<-e.chores.none()
	p.texts <- "b"
	if p.open.Load() != 1 {
		t.Error("a turn that is still its own was stopped")
	}
	run := e.known("red", reader.Turn())
	eventually(t, "it is durable", func() bool { return durable(t, e, reader.Turn()) == 4 })
	f.dead.Store(true) // so that the store says that it has lost the turn
	duties <- &conversation.Duties{Lost: true}
	<-run.done
	if p.open.Load() != 0 || !isClosed(run.fenced) {
		t.Error("the call is open")
	}
}

// A server that drains goes on with nothing: whoever it is released to does.
func TestDrainingTakesNothing(t *testing.T) {
	t.Parallel()
	p := newFed()
	duties := make(chan *conversation.Duties)
	e, _ := newEngine(t, p, func(_ *Options, f *faulty) { f.duties = duties })
	reader := mustStart(t, e, repeatable(conversation.ID{}, "id", "hi"))
	p.texts <- "a"
	ctx, cancel := context.WithCancel(t.Context())
	var draining sync.WaitGroup
	draining.Go(func() { e.Drain(ctx) })
	<-e.draining
	left := &conversation.Turn{ID: newID(), Team: "red", State: conversation.Running, OnDisconnect: conversation.DisconnectContinue}
	again := *left
	again.ID = reader.Turn()
	duties <- &conversation.Duties{Taken: []*conversation.Taken{
		{Turn: left, Takeovers: 1, Deadline: time.Now().Add(time.Minute)},
		{Turn: &again, Takeovers: 1, Deadline: time.Now().Add(time.Minute)},
	}}
	duties <- &conversation.Duties{} // the one before is done
	if e.known("red", left.ID) != nil {
		t.Error("a turn is taken")
	}
	eventually(t, "what was lost and taken back stops", func() bool { return p.open.Load() == 0 })
	cancel()
	draining.Wait()
	if n := p.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// All that is written for a turn that was taken over says how often it was.
func TestTakeoversAreWritten(t *testing.T) {
	t.Parallel()
	var ps processes
	old := ps.start(t, generate(hangs))
	first := mustStart(t, old.Engine, repeatable(conversation.ID{}, "id", "hi"))
	old.die(t)
	p := newFed()
	e := ps.start(t, p)
	p.texts <- "a"
	eventually(t, "it is durable", func() bool { return durable(t, e.Engine, first.Turn()) > conversation.SequenceBlock })
	close(p.texts)
	mustEnd(t, fromStore(e.Engine, first.Turn(), 0))
	for i, what := range []string{"attempt", "events", "end"} {
		if n := e.f.takeovers[i].Load(); n != 1 {
			t.Errorf("%s: %d takeovers", what, n)
		}
	}
}
