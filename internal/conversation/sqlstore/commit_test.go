package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// testOp is an op made of functions.
type testOp struct {
	keys     func(*keys)
	decision func(*group) error
}

func (o testOp) want(k *keys) {
	if o.keys != nil {
		o.keys(k)
	}
}

func (o testOp) decide(g *group) error { return o.decision(g) }

// nothing is an op that writes nothing.
func nothing() op { return testOp{decision: func(*group) error { return nil }} }

// poison is an op whose row the database refuses.
func poison() op {
	return testOp{decision: func(g *group) error {
		g.add(insertMessages, nil, int64(0), nil, nil, nil, nil, nil, nil)
		return nil
	}}
}

// stall keeps the committer in a group of its own until the function that it returns is called.
func stall(db *DB) (resume func()) {
	begun, end := make(chan struct{}), make(chan struct{})
	db.committer.queue <- &item{done: make(chan error, 1), op: testOp{decision: func(*group) error {
		close(begun)
		<-end
		return nil
	}}}
	<-begun
	return func() { close(end) }
}

// together has ops committed as one group, in their order, and those of the audit as the next, and returns their answers.
func together(t *testing.T, db *DB, ops ...op) []error {
	t.Helper()
	resume := stall(db)
	items := make([]*item, len(ops))
	for i, o := range ops {
		items[i] = &item{op: o, doing: "test", done: make(chan error, 1)}
		db.committer.queueOf(o) <- items[i]
	}
	resume()
	errs := make([]error, len(ops))
	for i, it := range items {
		errs[i] = <-it.done
	}
	return errs
}

// eventually waits until is says true, for at most ten seconds.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); runtime.Gosched() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within 10 s: %s", what)
		}
	}
}

// settled returns db once its keeper has nothing left to do.
func settled(t *testing.T, db *DB) *DB {
	t.Helper()
	if !db.dialect.shared() { // there, it does not go through the committer
		eventually(t, "the keeper has looked", func() bool { return db.committer.items.Load() > 0 })
	}
	return db
}

func mustBegin(t *testing.T, a *conversation.Admission) op {
	t.Helper()
	o, err := newBeginTurn(a)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func mustEnd(t *testing.T, e *conversation.End) op {
	t.Helper()
	o, err := newEndTurn(e)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestPoisonHarmsOnlyItself(t *testing.T) {
	t.Parallel()
	onEngines(t, testPoisonHarmsOnlyItself)
}

func testPoisonHarmsOnlyItself(t *testing.T, db *DB) {
	t.Helper()
	settled(t, db)
	c := newConversation(t, db)
	ops := make([]op, 512)
	turns := make([]*conversation.Admission, len(ops))
	bad := map[int]bool{0: true, 17: true, 300: true, 301: true, 511: true}
	for i := range ops {
		turns[i] = oneShot(fmt.Sprint("turn ", i))
		ops[i] = mustBegin(t, turns[i])
		if bad[i] {
			ops[i] = poison()
		}
	}
	turns[100].Turn.Conversation = c.ID // decided more than once, as its group is halved
	ops[100] = mustBegin(t, turns[100])
	again := *turns[5]
	ops[301] = mustBegin(t, &again) // a turn that is there already

	for i, err := range together(t, db, ops...) {
		if bad[i] {
			if err == nil || errors.Is(err, conversation.ErrStoreUnavailable) {
				t.Errorf("bad item %d: %v", i, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("good item %d: %v", i, err)
			continue
		}
		if _, err := db.GetTurn(t.Context(), "team", turns[i].Turn.ID, true); err != nil {
			t.Errorf("good item %d: %v", i, err)
		}
	}
	for i := range bad {
		if i == 301 {
			continue // has the id of a good one
		}
		if _, err := db.GetTurn(t.Context(), "team", turns[i].Turn.ID, true); !errors.Is(err, conversation.ErrNotFound) {
			t.Errorf("bad item %d left something: %v", i, err)
		}
	}
	if got, err := db.GetConversation(t.Context(), "team", c.ID); err != nil || got.ActiveTurn != turns[100].Turn.ID {
		t.Errorf("active turn %x, %v", got.ActiveTurn, err)
	}
}

// The items of a group see what the earlier ones do.
func TestGroupSeesItself(t *testing.T) {
	t.Parallel()
	onEngines(t, testGroupSeesItself)
}

func testGroupSeesItself(t *testing.T, db *DB) {
	t.Helper()
	settled(t, db)
	c := newConversation(t, db)
	var none head

	first, second := admission(c.ID, none, "1"), admission(c.ID, none, "2")
	created := &createConversation{id: newID(), team: "team", time: 1, spec: []byte("{}")}
	inCreated := admission(created.id, none, "new")
	errs := together(t, db, mustBegin(t, first), mustBegin(t, second), created, mustBegin(t, inCreated))
	want(t, errs, nil, conversation.ErrConversationBusy, nil, nil)
	var busy *conversation.Error
	if !errors.As(errs[1], &busy) || busy.Turn != first.Turn.ID {
		t.Errorf("the refusal %v does not name the turn of its own group", errs[1])
	}

	// An end makes room for a begin on what it leaves as the head, and a second end finds the first.
	next, stale := admission(c.ID, after(first), "3"), admission(c.ID, none, "4")
	errs = together(t, db, mustBegin(t, stale), mustEnd(t, ending(first, "a")), mustBegin(t, stale), mustEnd(t, ending(first, "b")),
		mustBegin(t, next), mustBegin(t, stale))
	want(t, errs, conversation.ErrConversationBusy, nil, conversation.ErrHeadMoved, conversation.ErrTurnEnded, nil,
		conversation.ErrConversationBusy)

	// A failed end leaves the head, and its messages make place for those of the next turn.
	failed := ending(next, "partial")
	failed.Turn.State = conversation.Failed
	fifth := admission(c.ID, after(first), "5")
	errs = together(t, db, mustEnd(t, failed), mustBegin(t, fifth), nothing())
	want(t, errs, nil, nil, nil)

	// An end that comes in the group of its begin waits for the next group.
	shot := oneShot("shot")
	errs = together(t, db, mustEnd(t, ending(fifth, "c")), mustBegin(t, shot), mustEnd(t, ending(shot, "d")))
	want(t, errs, nil, nil, nil)

	// What a group changes and then deletes is gone.
	last := admission(c.ID, after(fifth), "6")
	want(t, together(t, db, mustBegin(t, last)), nil)
	errs = together(t, db, mustEnd(t, ending(last, "e")),
		&updateConversation{id: c.ID, team: "team", head: last.Turn.ID, version: conversation.Version{Spec: 1, Head: 4}, time: 2, spec: []byte("{}")},
		&updateConversation{id: c.ID, team: "team", head: last.Turn.ID, version: conversation.Version{Spec: 1, Head: 4}, time: 2, spec: []byte("{}")},
		&updateConversation{id: c.ID, team: "team", head: last.Turn.ID, version: conversation.Version{Spec: 2, Head: 4}, time: 3, spec: []byte("{}")},
		&deleteConversation{id: c.ID, team: "team", time: 4},
		mustBegin(t, admission(c.ID, after(last), "7")),
		&deleteTurn{turnKey{"team", shot.Turn.ID}},
		&deleteTurn{turnKey{"team", shot.Turn.ID}})
	want(t, errs, nil, nil, conversation.ErrEtagMismatch, nil, nil, conversation.ErrNotFound, nil, conversation.ErrNotFound)
	if _, err := db.GetConversation(t.Context(), "team", c.ID); !errors.Is(err, conversation.ErrNotFound) {
		t.Errorf("the deleted conversation: %v", err)
	}
	if got, err := db.GetConversation(t.Context(), "team", created.id); err != nil || got.ActiveTurn != inCreated.Turn.ID {
		t.Errorf("the created conversation: %v, %v", got, err)
	}
	if n := db.committer.halved.Load(); n != 0 {
		t.Errorf("%d groups were refused by the database: their statements are in the wrong order", n)
	}
}

func want(t *testing.T, got []error, want ...error) {
	t.Helper()
	for i := range want {
		if !errors.Is(got[i], want[i]) || (want[i] == nil) != (got[i] == nil) {
			t.Fatalf("item %d: got %v, want %v", i, got[i], want[i])
		}
	}
}

// A caller that leaves before its group begins leaves nothing, and learns so at once.
func TestAbandonedItemIsDropped(t *testing.T) {
	t.Parallel()
	onEngines(t, testAbandonedItemIsDropped)
}

func testAbandonedItemIsDropped(t *testing.T, db *DB) {
	t.Helper()
	settled(t, db)
	gone, stays := oneShot("gone"), oneShot("stays")
	ctx, cancel := context.WithCancel(t.Context())
	resume := stall(db)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := db.BeginTurn(t.Context(), stays); err != nil {
			t.Error(err)
		}
	})
	left := make(chan error)
	wg.Go(func() { left <- db.BeginTurn(ctx, gone) })
	eventually(t, "both are queued", func() bool { return len(db.committer.queue) == 2 })
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that left got %v", err)
	}
	resume()
	wg.Wait()
	if _, err := db.GetTurn(t.Context(), "team", stays.Turn.ID, false); err != nil {
		t.Error(err)
	}
	if _, err := db.GetTurn(t.Context(), "team", gone.Turn.ID, false); !errors.Is(err, conversation.ErrNotFound) {
		t.Errorf("the abandoned turn: %v", err)
	}
}

// A caller that leaves while its group is committed gets the outcome all the same; only a Ping is let go.
func TestContextEndsDuringCommit(t *testing.T) {
	t.Parallel()
	onEngines(t, testContextEndsDuringCommit)
}

func testContextEndsDuringCommit(t *testing.T, db *DB) {
	t.Helper()
	settled(t, db)
	a := oneShot("hi")
	if err := db.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	c := &conversation.Conversation{ID: newID(), Team: "team"}
	begun := oneShot("begun")
	ctx, cancel := context.WithCancel(t.Context())
	createErr, beginErr, endErr, pingErr := make(chan error, 1), make(chan error, 1), make(chan error, 1), make(chan error, 1)
	var wg sync.WaitGroup
	resumeFirst := stall(db)
	wg.Go(func() { createErr <- db.CreateConversation(ctx, c) })
	wg.Go(func() { beginErr <- db.BeginTurn(ctx, begun) })
	wg.Go(func() { endErr <- db.EndTurn(ctx, ending(a, "ho")) })
	wg.Go(func() { pingErr <- db.Ping(ctx) })
	eventually(t, "all are queued", func() bool { return len(db.committer.queue) == 4 })
	reached, resume := make(chan struct{}), make(chan struct{})
	db.committer.queue <- &item{done: make(chan error, 1), op: testOp{decision: func(*group) error {
		close(reached)
		<-resume
		return nil
	}}}
	resumeFirst()
	<-reached // their group has begun
	cancel()
	if err := <-pingErr; !errors.Is(err, context.Canceled) { // nobody needs its outcome
		t.Errorf("ping: %v", err)
	}
	close(resume)
	if err := <-createErr; err != nil {
		t.Errorf("create: %v", err)
	}
	if err := <-beginErr; err != nil {
		t.Errorf("begin: %v", err)
	}
	if err := <-endErr; err != nil {
		t.Errorf("end: %v", err)
	}
	wg.Wait()
	if got, err := db.GetTurn(t.Context(), "team", a.Turn.ID, false); err != nil || got.State != conversation.Completed {
		t.Errorf("the turn: %+v, %v", got, err)
	}
}

func TestCloseFailsWhatWaits(t *testing.T) {
	t.Parallel()
	db := settled(t, openNew(t))
	var wg sync.WaitGroup
	errs := make(chan error, 2000)
	acknowledged := make(chan *conversation.Admission, 100_000)
	for range 20 {
		wg.Go(func() {
			for {
				a := oneShot("hi")
				if err := db.BeginTurn(t.Context(), a); err != nil {
					errs <- err
					return
				}
				acknowledged <- a
			}
		})
	}
	eventually(t, "turns are written", func() bool { return len(acknowledged) > 100 })
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	close(errs)
	close(acknowledged)
	for err := range errs {
		if !errors.Is(err, conversation.ErrStoreUnavailable) {
			t.Errorf("got %v, want StoreUnavailable", err)
		}
	}
	again := openAt(t, pathOf(db), Options{})
	for a := range acknowledged {
		if _, err := again.GetTurn(t.Context(), "team", a.Turn.ID, false); err != nil {
			t.Fatalf("an acknowledged turn: %v", err)
		}
	}
}

// 256 callers share their commits.
func TestCommitsPerTurn(t *testing.T) {
	t.Parallel()
	onEngines(t, testCommitsPerTurn)
}

func testCommitsPerTurn(t *testing.T, db *DB) {
	t.Helper()
	settled(t, db)
	const callers, turns = 256, 6
	before := db.committer.groups.Load()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range turns {
				a := oneShot("hi")
				if err := db.BeginTurn(t.Context(), a); err != nil {
					t.Error(err)
				}
				if err := db.EndTurn(t.Context(), ending(a, "ho")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := float64(db.committer.groups.Load()-before) / (callers * turns); got > 0.05 {
		t.Errorf("%.3f commits per turn, want at most 0.05", got)
	}
}

func TestSetText(t *testing.T) {
	t.Parallel()
	s := &set{"INSERT INTO x (a, b) VALUES ", " RETURNING a", 2, []string{"", "uuid"}}
	if got, want := s.text(&sqliteDialect{}, 3), "INSERT INTO x (a, b) VALUES (?,?),(?,?),(?,?) RETURNING a"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	const want = "INSERT INTO x (a, b) VALUES ($1,$2::uuid),($3,$4),($5,$6) RETURNING a"
	if got := s.text(&postgresDialect{}, 3); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Groups of any size are written and read whole, whatever statements they are cut into.
func TestGroupSizes(t *testing.T) {
	t.Parallel()
	onEngines(t, testGroupSizes)
}

func testGroupSizes(t *testing.T, db *DB) {
	t.Helper()
	settled(t, db)
	for _, n := range []int{1, 2, 3, 63, 64, 65, 127, 129, 200 + rand.IntN(300)} {
		ops, ends := make([]op, n), make([]op, n)
		turns := make([]*conversation.Admission, n)
		for i := range ops {
			turns[i] = admission(newConversation(t, db).ID, head{}, "hi")
			ops[i], ends[i] = mustBegin(t, turns[i]), mustEnd(t, ending(turns[i], "ho"))
		}
		for i, err := range append(together(t, db, ops...), together(t, db, ends...)...) {
			if err != nil {
				t.Fatalf("%d of %d: %v", i, n, err)
			}
		}
		for _, a := range turns {
			c, err := db.GetConversation(t.Context(), "team", a.Turn.Conversation)
			if err != nil || c.HeadTurn != a.Turn.ID || c.Head.Position != 2 {
				t.Fatalf("%d: %+v, %v", n, c, err)
			}
		}
	}
}
