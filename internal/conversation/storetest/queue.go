package storetest

import (
	"errors"
	"sync"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// wait records a turn that waits in c.
func (b *bench) wait(c *conversation.Conversation, say string) *conversation.Turn {
	b.t.Helper()
	turn := newTurn(c.Team, c.ID, conversation.ID{}, say)
	turn.State = conversation.Queued
	b.ok(b.begin(turn))
	return turn
}

// start has a turn that waits begin on the head of its conversation.
func (b *bench) start(turn *conversation.Turn) error {
	b.t.Helper()
	c, err := b.GetConversation(b.ctx(), turn.Team, turn.Conversation)
	b.ok(err)
	running := *turn
	running.State, running.Parent = conversation.Running, c.HeadTurn
	running.Result.Model = "asked when it began"
	err = b.begin(&running)
	if err == nil {
		*turn = running
	}
	return err
}

// queued checks that err says how many turns are ahead.
func (b *bench) queued(err error, ahead int) {
	b.t.Helper()
	e, ok := errors.AsType[*conversation.QueuedError](err)
	if !ok {
		b.t.Fatalf("got error %v, want that the turn has to wait", err)
	}
	equal(b.t, "turns ahead", e.Ahead, ahead)
}

func queue(b *bench) {
	t := b.t
	c := b.create(team)
	running := newTurn(team, c.ID, conversation.ID{}, "running")
	b.ok(b.begin(running))
	waiting := []*conversation.Turn{b.wait(c, "first"), b.wait(c, "second"), b.wait(c, "third"), b.wait(c, "fourth")}
	for i, turn := range waiting {
		b.stored(turn)
		b.queued(b.start(turn), i+1)
	}
	equal(t, "active turn", b.get(c).ActiveTurn, running.ID)
	equal(t, "messages", len(b.line(c)), 0)

	b.ok(b.end(running, conversation.Completed, "answer"))
	equal(t, "active turn while the first waits", b.get(c).ActiveTurn, waiting[0].ID)
	b.busy(b.begin(newTurn(team, c.ID, running.ID, "not in the line")), waiting[0].ID)
	b.queued(b.start(waiting[2]), 2)
	b.ok(b.end(waiting[1], conversation.Cancelled, "")) // one that waits can end
	b.stored(waiting[1])
	b.queued(b.start(waiting[2]), 1)
	b.is(b.start(waiting[1]), conversation.ErrTurnEnded)

	stale := *waiting[0]
	stale.State = conversation.Running
	b.is(b.begin(&stale), conversation.ErrHeadMoved)
	b.ok(b.start(waiting[0]))
	b.stored(waiting[0])
	equal(t, "active turn once the first runs", b.get(c).ActiveTurn, waiting[0].ID)
	b.queued(b.start(waiting[2]), 1)
	b.ok(b.end(waiting[0], conversation.Failed, "partial"))
	b.stored(waiting[0])
	equal(t, "head", b.get(c).HeadTurn, running.ID)
	b.ok(b.start(waiting[2]))
	late := b.wait(c, "late") // behind the last, though others have gone
	b.ok(b.end(waiting[2], conversation.Incomplete, "cut"))
	b.queued(b.start(late), 1)
	b.ok(b.start(waiting[3]))
	b.ok(b.end(waiting[3], conversation.Completed, "answer"))
	b.ok(b.start(late))
	b.ok(b.end(late, conversation.Completed, "answer"))
	b.is(b.start(late), conversation.ErrTurnEnded)

	line := b.line(c)
	var said []string
	for _, m := range line {
		said = append(said, m.Text())
	}
	equal(t, "what was said", said, []string{"running", "answer", "third", "cut", "fourth", "answer", "late", "answer"})
	for _, turn := range append(waiting, running, late) {
		b.stored(turn)
	}
	equal(t, "active turn at the end", b.get(c).ActiveTurn, conversation.ID{})

	b.is(b.begin(b.queuedIn(newID(), team)), conversation.ErrNotFound)
	b.is(b.begin(b.queuedIn(c.ID, other)), conversation.ErrNotFound)
}

func (b *bench) queuedIn(in conversation.ID, owner string) *conversation.Turn {
	turn := newTurn(owner, in, conversation.ID{}, "hi")
	turn.State = conversation.Queued
	return turn
}

func queueFull(b *bench) {
	t := b.t
	c := b.create(team)
	running := newTurn(team, c.ID, conversation.ID{}, "running")
	b.ok(b.begin(running))
	const callers = conversation.MaxQueued + 14
	turns, errs := make([]*conversation.Turn, callers), make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		turns[i] = b.queuedIn(c.ID, team)
		turns[i].RequestID = string(rune('a' + i))
		a := b.admission(turns[i])
		wg.Go(func() { errs[i] = b.BeginTurn(b.ctx(), a) })
	}
	wg.Wait()
	var waiting []*conversation.Turn
	for i, err := range errs {
		if err == nil {
			waiting = append(waiting, turns[i])
			continue
		}
		b.busy(err, running.ID)
		if err.Error() == conversation.ErrConversationBusy.Error() {
			t.Fatal("the error does not say that too many turns wait")
		}
		b.free(turns[i].RequestID)
		_, err := b.GetTurn(b.ctx(), team, turns[i].ID, false)
		b.is(err, conversation.ErrNotFound)
	}
	equal(t, "number of turns that wait", len(waiting), conversation.MaxQueued)
	places := make(map[int]*conversation.Turn)
	for _, turn := range waiting {
		err := b.start(turn)
		e, ok := errors.AsType[*conversation.QueuedError](err)
		if !ok {
			t.Fatalf("got error %v, want that the turn has to wait", err)
		}
		places[e.Ahead] = turn
	}
	equal(t, "number of places", len(places), conversation.MaxQueued)
	b.is(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}), conversation.ErrConversationBusy)
	b.ok(b.end(running, conversation.Cancelled, ""))
	b.busy(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}), places[1].ID)
	b.ok(b.end(places[5], conversation.Failed, "")) // makes room
	b.wait(c, "one more")
	for i := 1; i <= conversation.MaxQueued; i++ {
		if i != 5 {
			b.ok(b.start(places[i]))
			b.ok(b.end(places[i], conversation.Completed, ""))
		}
	}
	equal(t, "messages", len(b.line(c)), 2*(conversation.MaxQueued-1))
}

// cancelRequests has turns of every kind asked to end, by request or because the last caller has left.
func cancelRequests(b *bench) {
	t := b.t
	c := b.create(team)
	main := newTurn(team, c.ID, conversation.ID{}, "main")
	main.RequestID = "main"
	b.ok(b.begin(main))
	shot := newTurn(other, conversation.ID{}, conversation.ID{}, "shot")
	b.ok(b.begin(shot))
	waits := b.wait(c, "waits")
	fork := newTurn(team, c.ID, conversation.ID{}, "fork")
	fork.RequestID = "fork"
	b.ok(b.fork(fork, conversation.Place{}))
	goesOn := newTurn(team, conversation.ID{}, conversation.ID{}, "goes on")
	goesOn.RequestID, goesOn.OnDisconnect = "goes on", conversation.DisconnectContinue
	b.ok(b.begin(goesOn))

	b.is(b.RequestCancel(b.ctx(), team, shot.ID), conversation.ErrNotFound)
	b.ok(b.RequestCancel(b.ctx(), other, shot.ID))
	b.ok(b.RequestCancel(b.ctx(), other, shot.ID))
	b.ok(b.RequestCancel(b.ctx(), team, waits.ID))
	b.ok(b.AttachTurn(b.ctx(), team, main.ID))
	b.ok(b.AttachTurn(b.ctx(), team, main.ID)) // this process has been counted: nothing changes
	b.ok(b.DetachTurn(b.ctx(), team, main.ID))
	b.ok(b.DetachTurn(b.ctx(), team, main.ID))
	b.ok(b.AttachTurn(b.ctx(), team, main.ID)) // too late
	b.ok(b.AttachTurn(b.ctx(), team, fork.ID))
	b.ok(b.DetachTurn(b.ctx(), team, goesOn.ID))

	want := map[conversation.ID]*conversation.Turn{main.ID: main, shot.ID: shot, waits.ID: waits}
	for len(want) > 0 {
		for _, id := range b.duties().Cancel {
			if id == fork.ID || id == goesOn.ID {
				t.Fatal("a turn is to be cancelled that has a caller, or needs none")
			}
			if turn := want[id]; turn != nil {
				b.ok(b.end(turn, conversation.Cancelled, ""))
				b.stored(turn)
			}
			delete(want, id)
		}
	}
	b.ok(b.end(fork, conversation.Completed, ""))
	b.ok(b.end(goesOn, conversation.Completed, ""))
	for _, turn := range []*conversation.Turn{main, waits, fork, goesOn} {
		b.is(b.RequestCancel(b.ctx(), team, turn.ID), conversation.ErrTurnEnded)
		b.is(b.AttachTurn(b.ctx(), team, turn.ID), conversation.ErrTurnEnded)
		b.is(b.DetachTurn(b.ctx(), team, turn.ID), conversation.ErrTurnEnded)
	}
}
