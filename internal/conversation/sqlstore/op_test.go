package sqlstore

import (
	"errors"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// The ops of a group see what those before them do, as if each had a transaction of its own; where they would need rows that
// the group writes, they are decided in the next.
func TestOpsOfOneGroup(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T, *DB){
		"claims":  testClaimsOfOneGroup,
		"freed":   testFreedInOneGroup,
		"queue":   testQueueOfOneGroup,
		"run":     testRunOfOneGroup,
		"changes": testChangesOfOneGroup,
		"forks":   testForksOfOneGroup,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEngines(t, test)
		})
	}
}

func withID(a *conversation.Admission, id string) *conversation.Admission {
	a.Turn.RequestID = id
	return a
}

func queued(in conversation.ID) *conversation.Admission {
	a := admission(in, head{}, "waits")
	a.Turn.State = conversation.Queued
	return a
}

// started is a, which waited, about to begin.
func started(a *conversation.Admission, h head) *conversation.Admission {
	turn := *a.Turn
	turn.State, turn.Parent = conversation.Running, h.turn
	return &conversation.Admission{Turn: &turn, Base: h.place, InputTokens: a.InputTokens}
}

func failing(a *conversation.Admission) *conversation.End {
	e := ending(a, "")
	e.Turn.State = conversation.Failed
	return e
}

// decided compares the answers of a group with what they should be: nil, an error to be found by errors.Is, or the turn
// that has a request id.
func decided(t *testing.T, errs []error, want ...any) {
	t.Helper()
	for i, w := range want {
		var claimed *conversation.ClaimedError
		switch w := w.(type) {
		case nil:
			if errs[i] != nil {
				t.Errorf("op %d: %v", i, errs[i])
			}
		case error:
			if !errors.Is(errs[i], w) {
				t.Errorf("op %d: %v, want %v", i, errs[i], w)
			}
		case conversation.ID:
			if !errors.As(errs[i], &claimed) || claimed.Turn != w {
				t.Errorf("op %d: %v, want that the id is that of %x", i, errs[i], w)
			}
		}
	}
}

func testClaimsOfOneGroup(t *testing.T, db *DB) {
	t.Helper()
	c := newConversation(t, db)
	busy := admission(c.ID, head{}, "holds the line")
	refused := withID(admission(c.ID, head{}, "refused"), "id")
	first, second := withID(oneShot("first"), "id"), withID(oneShot("second"), "id")
	unknown := withID(admission(newID(), head{}, "nowhere"), "other")
	decided(t, together(t, db,
		mustBegin(t, busy), mustBegin(t, refused), mustBegin(t, first), mustBegin(t, second), mustBegin(t, unknown)),
		nil, conversation.ErrConversationBusy, nil, first.Turn.ID, conversation.ErrNotFound)
	if _, err := db.GetClaim(t.Context(), "team", "other"); !errors.Is(err, conversation.ErrNotFound) {
		t.Errorf("a turn that was refused has claimed its id: %v", err)
	}
	// One that must wait on has the claim that it made before, be it in the same group.
	waits := withID(queued(c.ID), "waits")
	errs := together(t, db, mustBegin(t, waits), mustBegin(t, started(waits, head{})))
	if wait, ok := errors.AsType[*conversation.QueuedError](errs[1]); errs[0] != nil || !ok || wait.Ahead != 1 {
		t.Errorf("a turn is to wait, and to begin: %v", errs)
	}
	if claim, err := db.GetClaim(t.Context(), "team", "waits"); err != nil || claim.Turn != waits.Turn.ID {
		t.Errorf("the id is that of %+v, %v", claim, err)
	}
}

func testFreedInOneGroup(t *testing.T, db *DB) {
	t.Helper()
	first, early, late := withID(oneShot("first"), "id"), withID(oneShot("early"), "id"), withID(oneShot("late"), "id")
	decided(t, together(t, db, mustBegin(t, first)), nil)
	decided(t, together(t, db, mustBegin(t, early), mustEnd(t, failing(first)), mustBegin(t, late)), first.Turn.ID, nil, nil)
	claim, err := db.GetClaim(t.Context(), "team", "id")
	if err != nil || claim.Turn != late.Turn.ID {
		t.Fatalf("the id is that of %+v, %v", claim, err)
	}
	// An end that comes late frees nothing that is another's.
	decided(t, together(t, db, mustEnd(t, failing(first)), mustEnd(t, ending(late, "")), mustEnd(t, failing(late))),
		conversation.ErrTurnEnded, nil, conversation.ErrTurnEnded)
	if claim, err := db.GetClaim(t.Context(), "team", "id"); err != nil || claim.Turn != late.Turn.ID {
		t.Fatalf("the id is that of %+v, %v", claim, err)
	}
}

func testQueueOfOneGroup(t *testing.T, db *DB) {
	t.Helper()
	c := newConversation(t, db)
	running := admission(c.ID, head{}, "running")
	ops := []op{mustBegin(t, running)}
	want := []any{nil}
	var waiting []*conversation.Admission
	for range conversation.MaxQueued {
		waiting = append(waiting, queued(c.ID))
		ops = append(ops, mustBegin(t, waiting[len(waiting)-1]))
		want = append(want, nil)
	}
	ops = append(ops, mustBegin(t, queued(c.ID)), mustBegin(t, admission(c.ID, head{}, "past the line")))
	want = append(want, conversation.ErrConversationBusy, conversation.ErrConversationBusy)
	decided(t, together(t, db, ops...), want...)

	// The end of the one that runs makes room for the first, and the end of that, which is begun here, for the second.
	h := after(running)
	first, second := started(waiting[0], h), started(waiting[1], h)
	errs := together(t, db, mustEnd(t, ending(running, "answer")), mustBegin(t, second), mustBegin(t, first),
		mustEnd(t, failing(first)), mustBegin(t, second), mustBegin(t, first))
	var wait *conversation.QueuedError
	if !errors.As(errs[1], &wait) || wait.Ahead != 1 {
		t.Errorf("the second of those that wait: %v", errs[1])
	}
	if !errors.As(errs[4], &wait) || wait.Ahead != 1 {
		t.Errorf("the second while the first is begun: %v", errs[4])
	}
	decided(t, errs, nil, errs[1], nil, nil, errs[4], conversation.ErrTurnEnded)
	decided(t, together(t, db, mustBegin(t, second), mustEnd(t, ending(second, "second"))), nil, nil)
	got, err := db.GetConversation(t.Context(), "team", c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.HeadTurn != second.Turn.ID || got.Head.Position != 4 || got.ActiveTurn != waiting[2].Turn.ID {
		t.Fatalf("the conversation is %+v", got)
	}
}

// testRunOfOneGroup has ops about one turn that its row among the running must have in their order.
func testRunOfOneGroup(t *testing.T, db *DB) {
	t.Helper()
	a := oneShot("question")
	key := turnKey{"team", a.Turn.ID}
	attempt := func(model string) op { return &recordAttempt{key, 0, []byte(`{"model":"` + model + `"}`)} }
	log := func(first int64) *appendEvents {
		rows, err := eventRows([]conversation.Event{{Sequence: first, Kind: conversation.EventTextDelta, Text: "x"}})
		if err != nil {
			t.Fatal(err)
		}
		return &appendEvents{batches: []eventBatch{{key, 0, rows}}}
	}
	cancel := func() op { return &changeRun{key, func(r *run) { r.cancel = true }} }
	early := log(2)
	decided(t, together(t, db, early, mustBegin(t, a), attempt("one"), log(3), cancel()), nil, nil, nil, nil, nil)
	if len(early.lost) != 1 {
		t.Error("events of a turn that was not begun yet are kept")
	}
	decided(t, together(t, db, attempt("two"), attempt("three"), log(4), log(4), log(5)), nil, nil, nil, nil, nil)
	turn, err := db.GetTurn(t.Context(), "team", a.Turn.ID, false)
	if err != nil || turn.Result.Model != "three" {
		t.Fatalf("the model is %q, %v", turn.Result.Model, err)
	}
	late := log(9)
	e := ending(a, "answer")
	e.Events = []conversation.Event{{Sequence: 7, Kind: conversation.EventOutputReset}}
	// The end waits for the group after the attempt's and the events', and so comes after what is behind it here.
	decided(t, together(t, db, attempt("four"), log(6), mustEnd(t, e), cancel()), nil, nil, nil, nil)
	decided(t, together(t, db, late, attempt("five"), cancel(), mustEnd(t, ending(a, ""))),
		nil, conversation.ErrTurnEnded, conversation.ErrTurnEnded, conversation.ErrTurnEnded)
	if len(late.lost) != 1 {
		t.Error("events of a turn that has ended are kept")
	}
	events, err := db.Events(t.Context(), "team", a.Turn.ID, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		if e.Sequence != int64(i)+3 {
			t.Fatalf("the log is %+v", events)
		}
	}
	if len(events) != 5 {
		t.Fatalf("%d events, want 5", len(events))
	}
}

func testChangesOfOneGroup(t *testing.T, db *DB) {
	t.Helper()
	a := withID(oneShot("question"), "id")
	a.Turn.OnDisconnect = conversation.DisconnectCancel
	key := turnKey{"team", a.Turn.ID}
	come, leave := func() op { return &changeRun{key, attach} }, func() op { return &changeRun{key, detach} }
	elsewhere := newID()
	comeElsewhere := testOp{decision: func(g *group) error {
		g.add(insertCallers, a.Turn.ID[:], elsewhere[:])
		return nil
	}}
	leaveElsewhere := testOp{decision: func(g *group) error {
		g.add(deleteCallers, a.Turn.ID[:], elsewhere[:])
		return nil
	}}
	cancelled := func() bool {
		taken, _, _, err := db.takenRun(t.Context(), db.ownership.current(), a.Turn.ID)
		if err != nil {
			t.Fatal(err)
		}
		return taken.Cancel
	}
	for i, x := range []struct {
		ops     []op
		callers int
		cancel  bool
	}{
		{[]op{mustBegin(t, a)}, 1, false},
		{[]op{come(), come(), come()}, 1, false},
		{[]op{come(), comeElsewhere}, 2, false},
		{[]op{leave(), leave()}, 1, false},
		{[]op{come(), leave(), come()}, 2, false},
		{[]op{leave(), come()}, 2, false},
		{[]op{leaveElsewhere}, 1, false},
		{[]op{leave(), come()}, 1, true}, // too late
		{[]op{leave(), leave()}, 0, true},
		{[]op{come()}, 1, true},
		{[]op{mustEnd(t, ending(a, "answer"))}, 0, false},
	} {
		decided(t, together(t, db, x.ops...), make([]any, len(x.ops))...)
		if n := number(t, db, `SELECT count(*) FROM callers`); n != x.callers {
			t.Errorf("step %d: %d processes read the turn, want %d", i, n, x.callers)
		}
		if i < 10 && cancelled() != x.cancel {
			t.Errorf("step %d: the turn is to be cancelled: %v", i, !x.cancel)
		}
	}
}

func testForksOfOneGroup(t *testing.T, db *DB) {
	t.Helper()
	c := newConversation(t, db)
	base := turn(t, db, c.ID, head{}, "base")
	fork := admission(c.ID, base, "fork")
	fork.Fork = true
	remove := func() op { return &deleteConversation{id: c.ID, team: "team", time: 1} }
	f := &conversation.Conversation{ID: newID(), Team: "team", CreateTime: time.Now()}
	create, err := newCreateConversation(f)
	if err != nil {
		t.Fatal(err)
	}
	late := *create
	late.id = newID()
	d := newConversation(t, db)
	update := &updateConversation{id: d.ID, team: "team", version: d.Version, branch: newID(), spec: []byte(`{}`)}
	changed := conversation.Version{Spec: 2, Head: 1}
	decided(t, together(t, db, update, &deleteConversation{id: d.ID, team: "team", version: d.Version, time: 1},
		&deleteConversation{id: d.ID, team: "team", version: changed, time: 1}, update),
		nil, conversation.ErrEtagMismatch, nil, conversation.ErrNotFound)

	// The fork of the turn waits for the turn's own group, and then is one of a turn that has not ended.
	decided(t, together(t, db,
		mustBegin(t, fork), remove(),
		&forkConversation{createConversation: *create, from: c.ID},
		&forkConversation{createConversation: late, from: c.ID, turn: fork.Turn.ID},
		&deleteTurn{turnKey{"team", fork.Turn.ID}}),
		nil, conversation.ErrConversationBusy, nil, conversation.ErrInvalidState, conversation.ErrNotFound)
	decided(t, together(t, db, mustEnd(t, ending(fork, "done")), remove(), &forkConversation{createConversation: late, from: c.ID}),
		nil, nil, conversation.ErrNotFound)
	got, err := db.GetConversation(t.Context(), "team", f.ID)
	if err != nil || got.HeadTurn != base.turn {
		t.Fatalf("the fork is %+v, %v", got, err)
	}
	if said := textsBefore(t, db, f.ID, got.Head); len(said) != 2 {
		t.Fatalf("the fork says %q", said)
	}
}

// BenchmarkAppendEvents is a tick of a process that runs a thousand turns, of which each has said ten words.
func BenchmarkAppendEvents(b *testing.B) {
	const turns = 1000
	db := openNew(b)
	batches := make([]conversation.EventBatch, turns)
	for i := range batches {
		a := oneShot("question")
		if err := db.BeginTurn(b.Context(), a); err != nil {
			b.Fatal(err)
		}
		batches[i] = conversation.EventBatch{Team: "team", Turn: a.Turn.ID, Events: make([]conversation.Event, 10)}
	}
	sequence := int64(1)
	b.ReportAllocs()
	for b.Loop() {
		for i := range batches {
			for j := range batches[i].Events {
				batches[i].Events[j] = conversation.Event{
					Sequence: sequence + int64(j), Time: time.Now(), Kind: conversation.EventTextDelta, Text: " words",
				}
			}
		}
		sequence += 10
		if lost, err := db.AppendEvents(b.Context(), batches); err != nil || len(lost) > 0 {
			b.Fatal(lost, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*turns), "µs/turn")
}
