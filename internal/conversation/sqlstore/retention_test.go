package sqlstore

import (
	"database/sql"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// idFrom returns an id that was made at t.
func idFrom(t time.Time) conversation.ID {
	id, first := newID(), firstID(t)
	copy(id[:6], first[:6])
	return id
}

func TestFirstID(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1_800_000_000_123)
	for _, c := range []struct {
		made  time.Time
		below bool
	}{
		{at, false}, {at.Add(time.Millisecond), false}, {at.Add(-time.Millisecond), true}, {at.Add(-time.Hour), true},
	} {
		id := idFrom(c.made)
		first := firstID(at)
		if got := string(id[:]) < string(first[:]); got != c.below {
			t.Errorf("an id of %v is below the first of %v: %v", c.made, at, got)
		}
		if !timeOf(id).Equal(c.made) {
			t.Errorf("an id of %v is said to be of %v", c.made, timeOf(id))
		}
	}
}

// shots records ended one-shot turns with a log, that were made one after the other from at on.
func shots(t *testing.T, db *DB, n int, at time.Time) []conversation.ID {
	t.Helper()
	ids := make([]conversation.ID, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		ids[i] = idFrom(at.Add(time.Duration(i) * time.Millisecond))
		wg.Go(func() { errs[i] = shoot(t, db, ids[i]) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return ids
}

func shoot(t *testing.T, db *DB, id conversation.ID) error {
	t.Helper()
	a := oneShot("say")
	a.Turn.ID = id
	if err := db.BeginTurn(t.Context(), a); err != nil {
		return err
	}
	e := ending(a, "answer")
	e.Events = []conversation.Event{{Sequence: 2, Time: time.Now(), Kind: conversation.EventTextDelta, Text: "answer"}}
	return db.EndTurn(t.Context(), e)
}

// sweepAll sweeps until there is nothing more to do, and returns how often that was.
func sweepAll(t *testing.T, k *keeper) (sweeps int) {
	t.Helper()
	eventually(t, "there is nothing more to sweep", func() bool {
		again, err := k.sweep(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sweeps++
		return again >= sweepBusy
	})
	return sweeps
}

func cursor(t *testing.T, db *DB) (id conversation.ID) {
	t.Helper()
	err := db.read(t.Context(), "read cursor", retentionCursor, []any{oneShots}, func(row *sql.Rows) error {
		return row.Scan((*idColumn)(&id))
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Content goes in bounded steps, and no turn is looked at twice.
func TestOneShotsBehindCursor(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, open func() *DB) {
		db := open()
		k := keeperOf(t, db)
		const n = 1200
		old := shots(t, db, n, time.Now().Add(-30*time.Hour))
		young := shots(t, db, 3, time.Now())
		if n := number(t, db, "SELECT count(*) FROM messages"); n != 2406 {
			t.Fatalf("there are %d messages", n)
		}
		if sweeps := sweepAll(t, k); sweeps < 2*n/purgeRows {
			t.Errorf("%d sweeps were enough for %d turns", sweeps, n)
		}
		if got := cursor(t, db); got != old[n-1] {
			t.Errorf("the cursor is at %x, want %x", got, old[n-1])
		}
		if n, m := number(t, db, "SELECT count(*) FROM messages"), number(t, db, "SELECT count(*) FROM events"); n != 6 || m != 3 {
			t.Errorf("%d messages and %d batches of events are left, want those of the young turns", n, m)
		}
		if m := number(t, db, "SELECT count(*) FROM turns"); m != n+len(young) {
			t.Errorf("%d turns are left", m)
		}
		// What has an id from before the cursor now is not looked for: nothing is recorded with so old an id.
		late := shots(t, db, 1, time.Now().Add(-40*time.Hour))
		sweepAll(t, k)
		if got, err := db.GetTurn(t.Context(), "team", late[0], true); err != nil || got.ContentExpired {
			t.Errorf("a turn before the cursor was looked at: %+v, %v", got, err)
		}
	})
}

// Two processes that sweep at the same time disturb neither each other nor the turns.
func TestSweepsAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, open func() *DB) {
		db := open()
		dbs := []*DB{db, db}
		if db.dialect.shared() {
			dbs[1] = open()
		}
		shots(t, db, 600, time.Now().Add(-30*time.Hour))
		c := newConversation(t, db)
		fill(t, db, c.ID, 2000, 10)
		deleteQuietly(t, db, c.ID)
		keepers := []*keeper{keeperOf(t, dbs[0]), keeperOf(t, dbs[1])}
		errs := make([]error, len(keepers))
		var wg sync.WaitGroup
		for i, k := range keepers {
			wg.Go(func() {
				for more := true; more; {
					again, err := k.sweep(t.Context())
					purging, purgeErr := k.purgeSome(t.Context())
					if err = errors.Join(err, purgeErr); err != nil && !errors.Is(err, errKeptElsewhere) {
						errs[i] = err
						return
					}
					more = err != nil || purging || again < sweepBusy
				}
			})
		}
		shots(t, db, 20, time.Now())
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if n, m := number(t, db, "SELECT count(*) FROM messages"), number(t, db, "SELECT count(*) FROM events"); n != 40 || m != 20 {
			t.Errorf("%d messages and %d batches of events are left", n, m)
		}
	})
}

// The settings are taken, the clock is the one that was given, and request ids stay claimed for a day whatever is set.
func TestRetentionSettings(t *testing.T) {
	t.Parallel()
	var now time.Time
	path := filepath.Join(t.TempDir(), "settings.db")
	db := openAt(t, path, Options{
		Now:       func() time.Time { return now },
		Retention: Retention{OneShots: 2 * time.Hour, Events: time.Hour},
	})
	k := keeperOf(t, db)
	k.retention = db.retention
	made := time.Now()
	a := oneShot("say")
	a.Turn.ID, a.Turn.CreateTime, a.Turn.RequestID = idFrom(made), made, "request"
	if err := db.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	e := ending(a, "answer")
	e.Events = []conversation.Event{{Sequence: 2, Time: made, Kind: conversation.EventTextDelta, Text: "answer"}}
	if err := db.EndTurn(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		after                    time.Duration
		messages, events, claims int
	}{
		{59 * time.Minute, 2, 1, 1},
		{61 * time.Minute, 2, 0, 1},
		{119 * time.Minute, 2, 0, 1},
		{121 * time.Minute, 0, 0, 1},
		{24*time.Hour - time.Minute, 0, 0, 1},
		{24*time.Hour + time.Minute, 0, 0, 0},
	} {
		now = made.Add(step.after)
		sweepAll(t, k)
		for table, want := range map[string]int{"messages": step.messages, "events": step.events, "claims": step.claims, "turns": 1} {
			if got := number(t, db, "SELECT count(*) FROM "+table); got != want {
				t.Errorf("after %v there are %d rows in %s, want %d", step.after, got, table, want)
			}
		}
	}
}

// Expired conversations in which turns run do not keep those behind them, and the turns are asked to end.
func TestExpiredBehindBusyOnes(t *testing.T) {
	t.Parallel()
	db := settled(t, openNew(t))
	k := keeperOf(t, db)
	const busyOnes = expiredAtOnce + 6
	expired := func(n int) *conversation.Conversation {
		at := time.Now().Add(-time.Hour).Add(time.Duration(n) * time.Second)
		c := &conversation.Conversation{ID: newID(), Team: "team", CreateTime: at, ExpireTime: at}
		if err := db.CreateConversation(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for i := range busyOnes {
		if err := db.BeginTurn(t.Context(), admission(expired(i).ID, head{}, "runs")); err != nil {
			t.Fatal(err)
		}
	}
	free := expired(busyOnes)
	if sweeps := sweepAll(t, k); sweeps != 2 {
		t.Errorf("it took %d sweeps", sweeps)
	}
	if _, err := db.GetConversation(t.Context(), "team", free.ID); !errors.Is(err, conversation.ErrNotFound) {
		t.Errorf("the last conversation is there: %v", err)
	}
	if n := number(t, db, "SELECT count(*) FROM running WHERE cancel <> 0"); n != busyOnes {
		t.Errorf("%d turns are asked to end, want %d", n, busyOnes)
	}
}
