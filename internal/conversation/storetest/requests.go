package storetest

import (
	"errors"
	"sync"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// request returns a running turn with a request id, and its admission.
func (b *bench) request(in, parent conversation.ID, id string) (*conversation.Turn, *conversation.Admission) {
	b.t.Helper()
	t := newTurn(team, in, parent, "with an id")
	t.RequestID = id
	a := b.admission(t)
	copy(a.Fingerprint[:], id)
	a.Fingerprint[31] = 1
	return t, a
}

// claimed checks that err says that the request id is that of a's turn.
func (b *bench) claimed(err error, a *conversation.Admission) {
	b.t.Helper()
	e, ok := errors.AsType[*conversation.ClaimedError](err)
	if !ok {
		b.t.Fatalf("got error %v, want that the request id is taken", err)
	}
	equal(b.t, "claim", e.Claim, conversation.Claim{Turn: a.Turn.ID, Fingerprint: a.Fingerprint})
}

// free checks that nobody has a request id.
func (b *bench) free(id string) {
	b.t.Helper()
	_, err := b.GetClaim(b.ctx(), team, id)
	b.is(err, conversation.ErrNotFound)
}

func claims(b *bench) {
	t := b.t
	c := b.create(team)
	const id = "an id with \x00 and \xff"
	b.free(id)
	turn, a := b.request(c.ID, conversation.ID{}, id)
	b.ok(b.BeginTurn(b.ctx(), a))
	for _, state := range []conversation.State{conversation.Running, conversation.Completed} {
		if state.Ended() {
			b.ok(b.end(turn, state, "answer"))
		}
		claim, err := b.GetClaim(b.ctx(), team, id)
		b.ok(err)
		equal(t, "claim", *claim, conversation.Claim{Turn: turn.ID, Fingerprint: a.Fingerprint})
		for _, in := range []conversation.ID{c.ID, {}, newID()} { // before all else, also before what is unknown
			again, second := b.request(in, conversation.ID{}, id)
			b.claimed(b.BeginTurn(b.ctx(), second), a)
			_, err := b.GetTurn(b.ctx(), team, again.ID, false)
			b.is(err, conversation.ErrNotFound)
			if !in.IsZero() {
				again.State = conversation.Queued
				b.claimed(b.BeginTurn(b.ctx(), second), a)
			}
		}
	}
	_, err := b.GetClaim(b.ctx(), other, id)
	b.is(err, conversation.ErrNotFound)
	theirs := newTurn(other, conversation.ID{}, conversation.ID{}, "another team's")
	theirs.RequestID = id
	b.ok(b.begin(theirs))

	list, err := b.ListTurns(b.ctx(), team, conversation.TurnFilter{RequestID: id}, conversation.ID{}, 10)
	b.ok(err)
	equal(t, "number of turns with the id", len(list), 1)
	equal(t, "turn with the id", list[0].ID, turn.ID)
}

func claimsEnd(b *bench) {
	t := b.t
	var all []conversation.ID // by rising id
	for _, x := range []struct {
		state conversation.State
		free  bool
	}{{conversation.Failed, true}, {conversation.Failed, true}, {conversation.Cancelled, false}} {
		turn, a := b.request(conversation.ID{}, conversation.ID{}, "id")
		b.ok(b.BeginTurn(b.ctx(), a))
		all = append(all, turn.ID)
		b.ok(b.end(turn, x.state, ""))
		if x.free {
			b.free("id")
			continue
		}
		_, again := b.request(conversation.ID{}, conversation.ID{}, "id")
		b.claimed(b.BeginTurn(b.ctx(), again), a)
		b.ok(b.DeleteTurn(b.ctx(), team, turn.ID))
		b.claimed(b.BeginTurn(b.ctx(), again), a) // also where the turn is gone
	}
	shot := newTurn(team, conversation.ID{}, conversation.ID{}, "without an id")
	b.ok(b.begin(shot))
	b.ok(b.end(shot, conversation.Failed, "")) // frees nothing

	c := b.create(team)
	turn, a := b.request(c.ID, conversation.ID{}, "id 2")
	b.ok(b.BeginTurn(b.ctx(), a))
	b.ok(b.end(turn, conversation.Completed, ""))
	for _, x := range []struct {
		filter conversation.TurnFilter
		want   []conversation.ID
	}{
		{conversation.TurnFilter{RequestID: "id"}, []conversation.ID{all[1], all[0]}},
		{conversation.TurnFilter{RequestID: "id 2"}, []conversation.ID{turn.ID}},
		{conversation.TurnFilter{RequestID: "id 2", Conversation: c.ID}, []conversation.ID{turn.ID}},
		{conversation.TurnFilter{RequestID: "id", Conversation: c.ID}, nil},
		{conversation.TurnFilter{RequestID: "none"}, nil},
	} {
		var got []conversation.ID
		var before conversation.ID
		for {
			page, err := b.ListTurns(b.ctx(), team, x.filter, before, 1)
			b.ok(err)
			if len(page) == 0 {
				break
			}
			before = page[0].ID
			got = append(got, before)
		}
		equal(t, "turns", got, x.want)
	}
}

// claimsRefused checks that a turn that is refused for another reason has claimed nothing.
func claimsRefused(b *bench) {
	c := b.create(team)
	head := b.turn(c, conversation.ID{}, conversation.Completed, "head")
	_, moved := b.request(c.ID, conversation.ID{}, "id")
	b.is(b.BeginTurn(b.ctx(), moved), conversation.ErrHeadMoved)
	b.free("id")
	_, unknown := b.request(newID(), conversation.ID{}, "id")
	b.is(b.BeginTurn(b.ctx(), unknown), conversation.ErrNotFound)
	b.free("id")
	running := newTurn(team, c.ID, head.ID, "running")
	b.ok(b.begin(running))
	turn, busy := b.request(c.ID, head.ID, "id")
	b.busy(b.BeginTurn(b.ctx(), busy), running.ID)
	b.free("id")

	// One that waits keeps its claim while it has to wait on, and when it begins.
	turn.State = conversation.Queued
	b.ok(b.BeginTurn(b.ctx(), busy))
	turn.State = conversation.Running
	b.queued(b.BeginTurn(b.ctx(), busy), 1)
	_, other := b.request(conversation.ID{}, conversation.ID{}, "id")
	b.claimed(b.BeginTurn(b.ctx(), other), busy)
	b.ok(b.end(running, conversation.Completed, ""))
	b.is(b.BeginTurn(b.ctx(), busy), conversation.ErrHeadMoved)
	b.claimed(b.BeginTurn(b.ctx(), other), busy)
	turn.Parent = running.ID
	begun := b.admission(turn)
	begun.Fingerprint = busy.Fingerprint
	b.ok(b.BeginTurn(b.ctx(), begun))
	b.claimed(b.BeginTurn(b.ctx(), other), busy)
	b.ok(b.end(turn, conversation.Failed, ""))
	b.free("id")
	b.ok(b.BeginTurn(b.ctx(), other))
}

func claimsAtOnce(b *bench) {
	race(b)
}

// race has callers of all stores claim a request id, end their turns as FAILED and begin again.
func race(stores ...*bench) {
	t := stores[0].t
	t.Helper()
	const rounds, callers = 5, 20
	for round := range rounds {
		admissions := make([]*conversation.Admission, callers*len(stores))
		errs := make([]error, len(admissions))
		var wg sync.WaitGroup
		for i := range admissions {
			b := stores[i%len(stores)]
			_, admissions[i] = b.request(conversation.ID{}, conversation.ID{}, "id")
			wg.Go(func() { errs[i] = b.BeginTurn(b.ctx(), admissions[i]) })
		}
		wg.Wait()
		winner := -1
		for i, err := range errs {
			if err == nil && winner >= 0 {
				t.Fatalf("two turns have the request id in round %d", round)
			}
			if err == nil {
				winner = i
			}
		}
		if winner < 0 {
			t.Fatalf("no turn has the request id: %v", errs[0])
		}
		for i, err := range errs {
			if i == winner {
				continue
			}
			b := stores[i%len(stores)]
			b.claimed(err, admissions[winner])
			_, err := b.GetTurn(b.ctx(), team, admissions[i].Turn.ID, false)
			b.is(err, conversation.ErrNotFound)
		}
		// While the claim is given up, others try: one of them can have it, or none.
		b := stores[winner%len(stores)]
		var ended error
		wg.Go(func() { ended = b.end(admissions[winner].Turn, conversation.Failed, "") })
		next, begun := make([]*conversation.Admission, len(stores)), make([]error, len(stores))
		for i, s := range stores {
			_, next[i] = s.request(conversation.ID{}, conversation.ID{}, "id")
			wg.Go(func() { begun[i] = s.BeginTurn(s.ctx(), next[i]) })
		}
		wg.Wait()
		b.ok(ended)
		for i, s := range stores {
			if begun[i] == nil {
				s.ok(s.end(next[i].Turn, conversation.Failed, ""))
			}
		}
		b.free("id")
	}
}

// claimsBegunLate has a turn begin that has failed while it waited: it has no claim to its request id any more.
func claimsBegunLate(b *bench) {
	c := b.create(team)
	turn, a := b.request(c.ID, conversation.ID{}, "id")
	turn.State = conversation.Queued
	b.ok(b.BeginTurn(b.ctx(), a))
	failed := *turn
	b.ok(b.end(&failed, conversation.Failed, ""))
	b.free("id")
	turn.State = conversation.Running
	b.is(b.BeginTurn(b.ctx(), a), conversation.ErrTurnEnded)
	b.free("id")
	_, again := b.request(conversation.ID{}, conversation.ID{}, "id")
	b.ok(b.BeginTurn(b.ctx(), again))
	b.is(b.BeginTurn(b.ctx(), a), conversation.ErrTurnEnded) // whoever has the id by now
	claim, err := b.GetClaim(b.ctx(), team, "id")
	b.ok(err)
	equal(b.t, "whose the id is", claim.Turn, again.Turn.ID)

	// One that must wait on keeps its claim.
	running := newTurn(team, c.ID, conversation.ID{}, "running")
	b.ok(b.begin(running))
	waits, a := b.request(c.ID, conversation.ID{}, "id 2")
	waits.State = conversation.Queued
	b.ok(b.BeginTurn(b.ctx(), a))
	b.queued(b.start(waits), 1)
	_, err = b.GetClaim(b.ctx(), team, "id 2")
	b.ok(err)
}

// claimsReleased has turns begin in a process that takes none any more.
func claimsReleased(b *bench) {
	b.ok(b.Release(b.ctx()))
	_, a := b.request(conversation.ID{}, conversation.ID{}, "id")
	b.is(b.BeginTurn(b.ctx(), a), conversation.ErrStoreUnavailable)
	b.free("id")
}
