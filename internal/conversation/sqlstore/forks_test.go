package sqlstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A world is conversations that turn, fork and are deleted at random, and what each of their turns should read.
type world struct {
	t    *testing.T
	db   *DB
	open func() *DB
	k    *keeper
	rng  *rand.Rand
	live []*livingConversation
	n    int // of what was said
}

type livingConversation struct {
	conversation.Conversation
	turns []livingTurn // that ended in it
	head  []string     // what its main line says
}

type livingTurn struct {
	id   conversation.ID
	said []string // up to its end
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// one returns a random living conversation.
func (w *world) one() *livingConversation {
	if len(w.live) == 0 {
		w.create()
	}
	return w.live[w.rng.IntN(len(w.live))]
}

func (w *world) create() {
	w.live = append(w.live, &livingConversation{Conversation: *newConversation(w.t, w.db)})
}

func (w *world) get(c *livingConversation) *conversation.Conversation {
	w.t.Helper()
	got, err := w.db.GetConversation(w.t.Context(), "team", c.ID)
	w.check(err)
	return got
}

// turn runs a turn in c: on the main line or, as a fork, at the end of a random turn.
func (w *world) turn(c *livingConversation, fork bool) {
	w.t.Helper()
	w.n++
	at := w.get(c)
	a := admission(c.ID, head{at.HeadTurn, at.Head}, fmt.Sprint("question ", w.n))
	a.Fork = fork
	said := c.head
	if fork && len(c.turns) > 0 && w.rng.IntN(4) > 0 {
		base := c.turns[w.rng.IntN(len(c.turns))]
		t, err := w.db.GetTurn(w.t.Context(), "team", base.id, false)
		w.check(err)
		a.Turn.Parent, a.Base, said = base.id, t.End, base.said
	}
	w.check(w.db.BeginTurn(w.t.Context(), a))
	_, err := w.db.AppendEvents(w.t.Context(), []conversation.EventBatch{{Team: "team", Turn: a.Turn.ID, Events: []conversation.Event{
		{Sequence: 2, Time: time.Now(), Kind: conversation.EventTextDelta, Text: "answer"},
	}}})
	w.check(err)
	e := ending(a, fmt.Sprint("answer ", w.n))
	e.Turn.State = []conversation.State{
		conversation.Completed, conversation.Completed, conversation.Failed, conversation.Cancelled,
	}[w.rng.IntN(4)]
	w.check(w.db.EndTurn(w.t.Context(), e))
	said = append(slices.Clip(said), fmt.Sprint("question ", w.n), fmt.Sprint("answer ", w.n))
	c.turns = append(c.turns, livingTurn{a.Turn.ID, said})
	if !fork && e.Turn.State.Answered() {
		c.head = said
	}
}

// wait has a turn wait behind another in c until it is cancelled.
func (w *world) wait(c *livingConversation) {
	w.t.Helper()
	at := w.get(c)
	running, waiting := admission(c.ID, head{at.HeadTurn, at.Head}, "runs"), admission(c.ID, head{}, "waits")
	waiting.Turn.State = conversation.Queued
	for _, a := range []*conversation.Admission{running, waiting} {
		w.check(w.db.BeginTurn(w.t.Context(), a))
	}
	for _, a := range []*conversation.Admission{waiting, running} {
		e := ending(a, "nothing")
		e.Turn.State, e.Turn.Output, e.OutputTokens = conversation.Cancelled, nil, nil
		w.check(w.db.EndTurn(w.t.Context(), e))
	}
}

// fork makes a conversation that goes on where another stands, or where a turn of it ended.
func (w *world) fork(c *livingConversation) {
	w.t.Helper()
	f := &livingConversation{
		Conversation: conversation.Conversation{ID: newID(), Team: "team", CreateTime: time.Now()}, head: c.head,
	}
	var at conversation.ID
	if len(c.turns) > 0 && w.rng.IntN(2) == 0 {
		base := c.turns[w.rng.IntN(len(c.turns))]
		at, f.head = base.id, base.said
	}
	w.check(w.db.ForkConversation(w.t.Context(), &f.Conversation, c.ID, at))
	w.live = append(w.live, f)
}

// choose selects the end of a random turn as the head of c.
func (w *world) choose(c *livingConversation) {
	w.t.Helper()
	if len(c.turns) == 0 {
		return
	}
	turn := c.turns[w.rng.IntN(len(c.turns))]
	got := w.get(c)
	got.HeadTurn = turn.id
	_, err := w.db.UpdateConversation(w.t.Context(), got)
	w.check(err)
	c.head = turn.said
}

func (w *world) forget(i int) {
	w.t.Helper()
	deleteQuietly(w.t, w.db, w.live[i].ID)
	w.live = slices.Delete(w.live, i, i+1)
}

func (w *world) reopen() {
	w.t.Helper()
	w.k.close()
	closeStore(w.t, w.db)
	w.db = w.open()
	w.k.db = w.db
}

// read checks that c reads as it did, on its main line and before the ends of its turns.
func (w *world) read(c *livingConversation) {
	w.t.Helper()
	same := func(what string, before conversation.Place, want []string) {
		w.t.Helper()
		if got := said(w.t, w.db, c.ID, before); !slices.Equal(got, want) {
			w.t.Fatalf("%s of %x reads\n%q, want\n%q", what, c.ID, got, want)
		}
	}
	same("the main line", w.get(c).Head, c.head)
	for _, turn := range c.turns {
		t, err := w.db.GetTurn(w.t.Context(), "team", turn.id, true)
		w.check(err)
		same("a turn", t.End, turn.said)
		if len(t.Input) != 1 || t.Input[0].Text() != turn.said[len(turn.said)-2] {
			w.t.Fatalf("the input of a turn is %+v", t.Input)
		}
	}
}

// Whatever the order in which conversations and their forks are deleted, and wherever the removal stops: those that live read
// the same, and when none does, nothing is left.
func TestForksAreDeletedInAnyOrder(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, open func() *DB) {
		for seed := range uint64(3) {
			w := &world{t: t, db: open(), open: open, rng: rand.New(rand.NewPCG(seed, 1))}
			if seed > 0 && w.db.dialect.shared() {
				return // it takes longer there
			}
			w.k = keeperOf(t, w.db)
			t.Logf("seed %d", seed)
			for range 250 {
				switch n := w.rng.IntN(100); {
				case n < 8:
					w.create()
				case n < 40:
					w.turn(w.one(), w.rng.IntN(3) == 0)
				case n < 43:
					w.wait(w.one())
				case n < 58:
					w.fork(w.one())
				case n < 64:
					w.choose(w.one())
				case n < 76 && len(w.live) > 0:
					w.forget(w.rng.IntN(len(w.live)))
				case n < 90:
					removeSome(t, w.k, 1+w.rng.IntN(8), 1+w.rng.IntN(60))
				case n < 91:
					w.reopen()
				default:
					w.read(w.one())
				}
			}
			for len(w.live) > 0 {
				for _, c := range w.live {
					w.read(c)
				}
				for range 1 + w.rng.IntN(3) {
					if len(w.live) > 0 {
						w.forget(w.rng.IntN(len(w.live)))
					}
				}
				for range w.rng.IntN(20) {
					removeSome(t, w.k, 1+w.rng.IntN(8), 1+w.rng.IntN(60))
				}
			}
			batches := 0
			for rows := left(t, w.db); removeSome(t, w.k, 3, 1<<20); batches++ {
				if batches > rows {
					t.Fatalf("%d transactions for %d rows", batches, rows)
				}
			}
			for _, table := range contentTables {
				if n := number(t, w.db, "SELECT count(*) FROM "+table); n != 0 {
					t.Errorf("%d rows are left in %s", n, table)
				}
			}
			w.k.close()
			closeStore(t, w.db)
		}
	})
}

// A deletion that waits for a fork costs nothing until the fork is deleted, and what is behind the fork goes at once.
func TestDeletionWaitsForFork(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, open func() *DB) {
		db := open()
		k := keeperOf(t, db)
		w := &world{t: t, db: db, k: k, rng: rand.New(rand.NewPCG(1, 1))}
		origin := newConversation(t, db)
		var at head
		for i := range 10 {
			at = turn(t, db, origin.ID, at, fmt.Sprint(i))
			if i == 3 {
				for range 3 {
					c := &conversation.Conversation{ID: newID(), Team: "team", CreateTime: time.Now()}
					w.check(db.ForkConversation(t.Context(), c, origin.ID, conversation.ID{}))
					w.live = append(w.live, &livingConversation{Conversation: *c})
				}
			}
		}
		deleteQuietly(t, db, origin.ID)
		for removeSome(t, k, 5, 1<<20) {
		}
		if n := number(t, db, "SELECT count(*) FROM deletions"); n != 0 {
			t.Errorf("%d deletions are still looked at", n)
		}
		if n, m := number(t, db, "SELECT count(*) FROM messages"), number(t, db, "SELECT count(*) FROM turns"); n != 8 || m != 0 {
			t.Errorf("%d messages and %d turns are left, want the 8 messages that the forks share", n, m)
		}
		for len(w.live) > 0 {
			if n := number(t, db, "SELECT count(*) FROM messages"); n != 8 {
				t.Errorf("%d messages are left for %d forks", n, len(w.live))
			}
			w.forget(0)
			for removeSome(t, k, 5, 1<<20) {
			}
		}
		if n := left(t, db); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}

// Forks that are made while their origins are deleted and removed, in two processes where the engine allows it, are refused or
// read all that they share.
func TestForksDuringDeletion(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, open func() *DB) {
		dbs := []*DB{open()}
		if dbs[0].dialect.shared() {
			dbs = append(dbs, open())
		}
		origin := newConversation(t, dbs[0])
		var at head
		var want []string
		for i := range 4 {
			at = turn(t, dbs[0], origin.ID, at, fmt.Sprint(i))
			want = append(want, fmt.Sprint(i), fmt.Sprint(i))
		}
		var mu sync.Mutex
		live := []conversation.ID{origin.ID}
		// fork forks a random conversation and deletes another, or that one.
		fork := func(db *DB, rng *rand.Rand) error {
			mu.Lock()
			from, gone := rng.IntN(len(live)), rng.IntN(len(live))
			source, victim := live[from], live[gone]
			if len(live) > 5 {
				live = slices.Delete(live, gone, gone+1)
			} else {
				victim = conversation.ID{}
			}
			mu.Unlock()
			c := &conversation.Conversation{ID: newID(), Team: "team", CreateTime: time.Now()}
			var forked, deleted error
			var wg sync.WaitGroup
			wg.Go(func() { forked = db.ForkConversation(t.Context(), c, source, conversation.ID{}) })
			if !victim.IsZero() {
				wg.Go(func() { deleted = db.DeleteConversation(t.Context(), "team", victim, conversation.Version{}) })
			}
			wg.Wait()
			if errors.Is(forked, conversation.ErrNotFound) {
				return deleted // another has deleted the source
			}
			if err := errors.Join(forked, deleted); err != nil {
				return err
			}
			mu.Lock()
			live = append(live, c.ID)
			mu.Unlock()
			return nil
		}
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), 2))
				for range 40 {
					if err := fork(dbs[i%len(dbs)], rng); err != nil {
						errs[i] = err
						return
					}
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		for _, id := range live {
			c, err := dbs[0].GetConversation(t.Context(), "team", id)
			if err != nil {
				t.Fatal(err)
			}
			if got := said(t, dbs[0], id, c.Head); !slices.Equal(got, want) {
				t.Errorf("a fork reads %q", got)
			}
			if err := dbs[0].DeleteConversation(t.Context(), "team", id, conversation.Version{}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "nothing is left", func() bool { return left(t, dbs[0]) == 0 })
	})
}

// said returns the texts of the messages before a place.
func said(t *testing.T, db *DB, id conversation.ID, before conversation.Place) []string {
	t.Helper()
	var got []string
	for m, err := range db.History(t.Context(), "team", id, before) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.Text())
	}
	slices.Reverse(got)
	return got
}
