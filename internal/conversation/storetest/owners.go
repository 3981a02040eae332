package storetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// RunOwners tests stores that several processes can share. Each call of open makes an empty database and opens it twice, as
// two processes would.
func RunOwners(t *testing.T, open func(t *testing.T) (first, second conversation.Store)) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(a, b *bench)
	}{
		{"TakeOver", takeOver},
		{"OthersTurns", othersTurns},
		{"ClaimsBetween", func(a, b *bench) { race(a, b) }},
		{"BeginBetween", beginBetween},
		{"CancelBetween", cancelBetween},
		{"CallersRelease", callersRelease},
		{"WakeBetween", wakeBetween},
		{"QueueBetween", queueBetween},
		{"ReadBetween", readBetween},
		{"StormBetween", stormBetween},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first, second := open(t)
			c.test(newBench(t, first), newBench(t, second))
		})
	}
}

// takeOver has a give its turns up: b gets them, and nothing that a still writes about them takes effect.
func takeOver(a, b *bench) {
	t := a.t
	c := a.create(team)
	base := a.turn(c, conversation.ID{}, conversation.Completed, "base")
	main := newTurn(team, c.ID, base.ID, "main")
	main.RequestID = "id"
	a.ok(a.begin(main))
	fork := newTurn(team, c.ID, base.ID, "fork")
	a.ok(a.fork(fork, a.place(base)))
	waits := a.wait(c, "waits")
	shot := newTurn(other, conversation.ID{}, conversation.ID{}, "shot")
	a.ok(a.begin(shot))
	mine := newTurn(team, conversation.ID{}, conversation.ID{}, "b's own")
	b.ok(b.begin(mine))
	a.appendEvents(main, deltas(2, "x"))

	a.ok(a.Release(a.ctx()))
	late := newTurn(team, conversation.ID{}, conversation.ID{}, "late")
	if err := a.begin(late); err == nil {
		t.Fatal("a process that has given up its turns begins another")
	}
	want := map[conversation.ID]*conversation.Turn{main.ID: main, fork.ID: fork, waits.ID: waits, shot.ID: shot}
	for len(want) > 0 {
		for _, taken := range b.duties().Taken {
			turn := want[taken.Turn.ID]
			if turn == nil {
				t.Fatalf("the turn %x is taken over, or twice", taken.Turn.ID)
			}
			delete(want, turn.ID)
			equal(t, "turn", *taken.Turn, *turn)
			equal(t, "takeovers", taken.Takeovers, 1)
			equal(t, "to be cancelled", taken.Cancel, false) // though nobody reads it as its creator
			equal(t, "fork", taken.Fork, turn == fork)
		}
	}

	for _, turn := range []*conversation.Turn{main, fork, waits, shot} {
		for _, state := range []conversation.State{conversation.Completed, conversation.Failed} {
			void := *turn
			a.is(a.end(&void, state, "void"), conversation.ErrTurnEnded)
		}
		a.is(a.RecordAttempt(a.ctx(), turn, 0), conversation.ErrTurnEnded)
		lost, err := a.AppendEvents(a.ctx(), []conversation.EventBatch{{Team: turn.Team, Turn: turn.ID, Events: deltas(500, "void")}})
		a.ok(err)
		equal(t, "lost turns", lost, []conversation.ID{turn.ID})
		b.stored(turn)
	}
	if err := a.start(waits); err == nil {
		t.Fatal("a turn was begun by a process that has it no more")
	}
	_, err := b.GetClaim(b.ctx(), team, "id")
	b.ok(err)

	b.appendEvents(main, deltas(conversation.SequenceBlock+1, "y"))
	b.log(main, 0, append(deltas(2, "x"), deltas(conversation.SequenceBlock+1, "y")...))
	b.ok(b.end(main, conversation.Completed, "answer"))
	b.ok(b.end(fork, conversation.Failed, ""))
	b.ok(b.end(shot, conversation.Completed, "answer"))
	b.ok(b.start(waits))
	b.ok(b.end(waits, conversation.Completed, "last"))
	b.ok(b.end(mine, conversation.Completed, "mine"))
	for _, turn := range []*conversation.Turn{main, fork, waits, shot, mine} {
		b.stored(turn)
		a.stored(turn)
	}
	b.said(c, b.get(c).Head, "base", "re: base", "main", "answer", "waits", "last")
}

// othersTurns checks that a running turn is its owner's.
func othersTurns(a, b *bench) {
	t := a.t
	c := a.create(team)
	main := newTurn(team, c.ID, conversation.ID{}, "main")
	a.ok(a.begin(main))
	waits := a.wait(c, "waits")
	for _, turn := range []*conversation.Turn{main, waits} {
		void := *turn
		b.is(b.end(&void, conversation.Completed, "void"), conversation.ErrTurnEnded)
		b.is(b.RecordAttempt(b.ctx(), turn, 0), conversation.ErrTurnEnded)
		lost, err := b.AppendEvents(b.ctx(), []conversation.EventBatch{{Team: team, Turn: turn.ID}})
		b.ok(err)
		equal(t, "lost turns", lost, []conversation.ID{turn.ID})
	}
	a.ok(a.end(main, conversation.Completed, "answer"))
	b.is(b.start(waits), conversation.ErrTurnEnded)
	a.ok(a.start(waits))
	a.ok(a.end(waits, conversation.Completed, "answer"))
	equal(t, "messages", len(b.line(c)), 4)
}

// beginBetween has callers of two processes contend for one conversation.
func beginBetween(a, b *bench) {
	t := a.t
	c := a.create(team)
	both := []*bench{a, b}
	var head conversation.ID
	for round := range 8 {
		const callers = 10
		turns, errs := make([]*conversation.Turn, callers), make([]error, callers)
		var wg sync.WaitGroup
		for i := range callers {
			turns[i] = newTurn(team, c.ID, head, "me")
			admission := both[i%2].admission(turns[i])
			wg.Go(func() { errs[i] = both[i%2].BeginTurn(a.ctx(), admission) })
		}
		wg.Wait()
		winner := a.get(c).ActiveTurn
		equal(t, "active turn", b.get(c).ActiveTurn, winner)
		won := 0
		for i, err := range errs {
			if err != nil {
				a.busy(err, winner)
				continue
			}
			won++
			a.ok(both[i%2].end(turns[i], []conversation.State{conversation.Completed, conversation.Failed}[round%2], "you"))
			if turns[i].State == conversation.Completed {
				head = turns[i].ID
			}
			both[(i+1)%2].stored(turns[i])
		}
		equal(t, "winners", won, 1)
	}
	equal(t, "messages", len(b.line(c)), 8)
}

// cancelBetween checks that a request to cancel reaches the owner, whoever asks and whoever leaves last.
func cancelBetween(a, b *bench) {
	t := a.t
	asked := newTurn(team, conversation.ID{}, conversation.ID{}, "asked")
	left := newTurn(team, conversation.ID{}, conversation.ID{}, "left")
	read := newTurn(team, conversation.ID{}, conversation.ID{}, "read")
	for _, turn := range []*conversation.Turn{asked, left, read} {
		turn.RequestID = turn.Input[0].Text()
		a.ok(a.begin(turn))
		b.ok(b.AttachTurn(b.ctx(), team, turn.ID))
		b.ok(b.AttachTurn(b.ctx(), team, turn.ID))
	}
	b.ok(b.RequestCancel(b.ctx(), team, asked.ID))
	a.ok(a.DetachTurn(a.ctx(), team, left.ID))
	b.ok(b.DetachTurn(b.ctx(), team, left.ID))
	for range 3 { // the same as once
		b.ok(b.DetachTurn(b.ctx(), team, read.ID))
	}
	want := map[conversation.ID]*conversation.Turn{asked.ID: asked, left.ID: left}
	for len(want) > 0 {
		for _, id := range a.duties().Cancel {
			if id == read.ID {
				t.Fatal("a turn is to be cancelled that has a caller")
			}
			if want[id] != nil {
				a.ok(a.end(want[id], conversation.Cancelled, ""))
				b.is(b.RequestCancel(b.ctx(), team, id), conversation.ErrTurnEnded)
			}
			delete(want, id)
		}
	}
	ctx, cancel := context.WithTimeout(b.ctx(), 50*time.Millisecond)
	defer cancel()
	if d, err := b.Duties(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the other process has duties too: %+v, %v", d, err)
	}
}

// callersRelease has a process end in which turns of another are read: its callers have left.
func callersRelease(a, b *bench) {
	t := a.t
	before := newTurn(team, conversation.ID{}, conversation.ID{}, "left before")
	after := newTurn(team, conversation.ID{}, conversation.ID{}, "left after")
	read := newTurn(team, conversation.ID{}, conversation.ID{}, "read")
	for _, turn := range []*conversation.Turn{before, after, read} {
		turn.RequestID = turn.Input[0].Text()
		a.ok(a.begin(turn))
		b.ok(b.AttachTurn(b.ctx(), team, turn.ID))
	}
	a.ok(a.DetachTurn(a.ctx(), team, before.ID))
	b.ok(b.Release(b.ctx()))
	a.ok(a.DetachTurn(a.ctx(), team, after.ID))
	want := map[conversation.ID]*conversation.Turn{before.ID: before, after.ID: after}
	for len(want) > 0 {
		for _, id := range a.duties().Cancel {
			if id == read.ID {
				t.Fatal("a turn is to be cancelled that has a caller")
			}
			if want[id] != nil {
				a.ok(a.end(want[id], conversation.Cancelled, ""))
			}
			delete(want, id)
		}
	}
	a.ok(a.end(read, conversation.Completed, "answer"))
}

func wakeBetween(a, b *bench) {
	c := a.create(team)
	turn := newTurn(team, c.ID, conversation.ID{}, "hi")
	a.ok(a.begin(turn))
	waits := b.wait(c, "waits")
	wake, stop := b.Subscribe(turn.ID)
	defer stop()
	line, stopLine := b.Subscribe(c.ID)
	defer stopLine()

	// A process that has just been opened may not be known to the other yet.
	told := false
	for i := int64(2); !told; i++ {
		a.appendEvents(turn, deltas(i, "a"))
		select {
		case <-wake:
			events, err := b.Events(b.ctx(), team, turn.ID, 0, 100)
			b.ok(err)
			told = len(events) > 0
		case <-time.After(200 * time.Millisecond):
			if i > 100 {
				b.t.Fatal("nobody was woken")
			}
		}
	}
	// Values can come late, so readers look whether there is what they wait for.
	a.ok(a.end(turn, conversation.Completed, "answer"))
	for {
		b.awake(wake)
		got, err := b.GetTurn(b.ctx(), team, turn.ID, false)
		b.ok(err)
		if got.State.Ended() {
			break
		}
	}
	for {
		b.awake(line)
		err := b.start(waits)
		if err == nil {
			break
		}
		b.queued(err, 1)
	}
}

func queueBetween(a, b *bench) {
	t := a.t
	c := a.create(team)
	running := newTurn(team, c.ID, conversation.ID{}, "running")
	a.ok(a.begin(running))
	first, second, third := b.wait(c, "first"), a.wait(c, "second"), b.wait(c, "third")
	a.queued(a.start(second), 2)
	b.queued(b.start(first), 1)
	a.ok(a.end(running, conversation.Completed, "answer"))
	a.queued(a.start(second), 1)
	b.ok(b.start(first))
	a.queued(a.start(second), 1)
	b.ok(b.end(first, conversation.Failed, ""))
	b.queued(b.start(third), 1)
	a.ok(a.end(second, conversation.Cancelled, ""))
	b.ok(b.start(third))
	b.ok(b.end(third, conversation.Completed, "answer"))
	a.said(c, a.get(c).Head, "running", "answer", "third", "answer")

	// As many as there is room for get in, from both sides at once.
	d := a.create(team)
	a.ok(a.begin(newTurn(team, d.ID, conversation.ID{}, "running")))
	both := []*bench{a, b}
	errs := make([]error, 2*conversation.MaxQueued)
	var wg sync.WaitGroup
	for i := range errs {
		turn := a.queuedIn(d.ID, team)
		wg.Go(func() { errs[i] = both[i%2].BeginTurn(a.ctx(), a.admission(turn)) })
	}
	wg.Wait()
	in := 0
	for _, err := range errs {
		if err == nil {
			in++
			continue
		}
		a.is(err, conversation.ErrConversationBusy)
	}
	equal(t, "turns that wait", in, conversation.MaxQueued)
}

// readBetween checks that what one process has written the other reads, and changes.
func readBetween(a, b *bench) {
	c := a.create(team)
	turns := a.talk(c, 3)
	for _, turn := range turns {
		b.stored(turn)
	}
	b.turn(c, turns[2].ID, conversation.Completed, "b's")
	a.said(c, a.get(c).Head, "say a", "re: say a", "say b", "re: say b", "say c", "re: say c", "b's", "re: b's")
	change := *b.get(c)
	change.Spec = fullSpec()
	change.HeadTurn = turns[0].ID
	_, err := a.UpdateConversation(a.ctx(), &change)
	a.ok(err)
	_, err = b.UpdateConversation(b.ctx(), &change)
	b.is(err, conversation.ErrEtagMismatch)
	b.said(c, b.get(c).Head, "say a", "re: say a")
	b.turn(c, turns[0].ID, conversation.Completed, "other")
	a.said(c, a.get(c).Head, "say a", "re: say a", "other", "re: other")
	b.ok(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}))
	_, err = a.GetConversation(a.ctx(), team, c.ID)
	a.is(err, conversation.ErrNotFound)
	_, err = a.GetTurn(a.ctx(), team, turns[1].ID, true)
	a.is(err, conversation.ErrNotFound)
}
