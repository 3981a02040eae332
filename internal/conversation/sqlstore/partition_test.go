package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// partitionOf names the table that has the events of a turn, or is empty.
func partitionOf(t *testing.T, db *DB, turn conversation.ID) string {
	t.Helper()
	names, err := scanAll(t.Context(), db.readers, `SELECT tableoid::regclass::text || ' ' || turn::text FROM events`, scanString)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		table, id, _ := strings.Cut(name, " ")
		var got idColumn
		if err := got.parse(id); err != nil {
			t.Fatal(err)
		}
		if conversation.ID(got) == turn {
			return table
		}
	}
	return ""
}

func scanString(rows *sql.Rows) (s string, err error) { return s, rows.Scan(&s) }

func mustPartitions(t *testing.T, db *DB) []time.Time {
	t.Helper()
	have, err := partitionStarts(t.Context(), db.readers)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(have, time.Time.Compare)
	return have
}

// logOf begins a one-shot turn that was made at t, and gives it a log.
func logOf(t *testing.T, db *DB, at time.Time) *conversation.Admission {
	t.Helper()
	a := oneShot("say")
	a.Turn.ID = idFrom(at)
	if err := db.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	_, err := db.AppendEvents(t.Context(), []conversation.EventBatch{{Team: "team", Turn: a.Turn.ID, Events: []conversation.Event{
		{Sequence: 2, Time: at, Kind: conversation.EventTextDelta, Text: "answer"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// unlessElsewhere runs f until no other process is at it.
func unlessElsewhere(t *testing.T, f func() error) (err error) {
	t.Helper()
	eventually(t, "no other process is at it", func() bool {
		err = f()
		return !errors.Is(err, errKeptElsewhere)
	})
	return err
}

func mustAdd(t *testing.T, db *DB, from, to time.Time) {
	t.Helper()
	if err := unlessElsewhere(t, func() error { return addPartitions(t.Context(), db.readers, from, to) }); err != nil {
		t.Fatal(err)
	}
}

// removeEventsBefore is what a sweep does about events.
func removeEventsBefore(t *testing.T, k *keeper, before time.Time) {
	t.Helper()
	for _, step := range []func(context.Context, time.Time) (time.Duration, error){k.events, k.partitions} {
		err := unlessElsewhere(t, func() error {
			_, err := step(t.Context(), before)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestPartitionsAreMadeAhead(t *testing.T) {
	t.Parallel()
	db := openNewPostgres(t)
	have := mustPartitions(t, db)
	now := time.Now()
	if len(have) < 9 || have[0].After(now) || have[len(have)-1].Add(partitionLength).Before(now.Add(partitionsAhead)) {
		t.Fatalf("at %v there are the partitions %v", now, have)
	}
	for i := range have[1:] {
		if !have[i].Add(partitionLength).Equal(have[i+1]) {
			t.Errorf("there is a gap after %v", have[i])
		}
	}
	for _, at := range []time.Time{now, now.Add(47 * time.Hour)} {
		a := logOf(t, db, at)
		if got, want := partitionOf(t, db, a.Turn.ID), at.UTC().Truncate(partitionLength).Format(partitionName); got != want {
			t.Errorf("events of a turn of %v are in %s, want %s", at, got, want)
		}
	}
	// More are made at once by several; those that are there are left alone.
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			err := addPartitions(t.Context(), db.readers, now, now.Add(partitionsAhead+partitionLength))
			if err != nil && !errors.Is(err, errKeptElsewhere) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := mustPartitions(t, db); len(got) != len(have)+1 {
		t.Errorf("there are %d partitions, want one more than %d", len(got), len(have))
	}
}

func TestPartitionsAreDropped(t *testing.T) {
	t.Parallel()
	db := openURL(t, migrated(t), Options{Retention: foreverKept})
	k := keeperOf(t, db)
	now := time.Now().UTC().Truncate(partitionLength)
	mustAdd(t, db, now.Add(-60*time.Hour), now)
	before := mustPartitions(t, db)
	old, running, young := logOf(t, db, now.Add(-55*time.Hour)), logOf(t, db, now.Add(-40*time.Hour)), logOf(t, db, now.Add(-20*time.Hour))
	outside := logOf(t, db, now.Add(-90*time.Hour)) // before all partitions
	if got := partitionOf(t, db, outside.Turn.ID); got != "events_default" {
		t.Fatalf("events of no partition's time are in %s", got)
	}
	for _, a := range []*conversation.Admission{old, young, outside} {
		e := ending(a, "answer")
		if err := db.EndTurn(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	removeEventsBefore(t, k, time.Now().Add(-24*time.Hour))
	for _, c := range []struct {
		turn *conversation.Admission
		kept bool
	}{{old, false}, {outside, false}, {running, true}, {young, true}} {
		if got := partitionOf(t, db, c.turn.Turn.ID); (got != "") != c.kept {
			t.Errorf("events of a turn of %v are in %q", timeOf(c.turn.Turn.ID), got)
		}
	}
	if got := mustPartitions(t, db); !got[0].Equal(now.Add(-42 * time.Hour)) {
		t.Errorf("the first partition is that of %v, want that of the turn that runs", got[0])
	}
	if err := db.EndTurn(t.Context(), ending(running, "answer")); err != nil {
		t.Fatal(err)
	}
	removeEventsBefore(t, k, time.Now().Add(-24*time.Hour))
	got := mustPartitions(t, db)
	if len(got) >= len(before) || got[0].Add(partitionLength).Before(now.Add(-24*time.Hour)) || partitionOf(t, db, running.Turn.ID) != "" {
		t.Errorf("the partitions %v are left", got)
	}
	if partitionOf(t, db, young.Turn.ID) == "" {
		t.Error("the log of a young turn is gone")
	}
}

// Where events of its time have gone to the default partition, none is made, and they go row by row.
func TestPartitionThatComesTooLate(t *testing.T) {
	t.Parallel()
	db := openURL(t, migrated(t), Options{Retention: foreverKept})
	k := keeperOf(t, db)
	at := time.Now().UTC().Truncate(partitionLength).Add(-60 * time.Hour)
	a := logOf(t, db, at)
	mustAdd(t, db, at.Add(-partitionLength), at.Add(partitionLength))
	if have := mustPartitions(t, db); slices.ContainsFunc(have, at.Equal) || !have[0].Equal(at.Add(-partitionLength)) {
		t.Errorf("there are the partitions %v", have)
	}
	if err := db.EndTurn(t.Context(), ending(a, "answer")); err != nil {
		t.Fatal(err)
	}
	removeEventsBefore(t, k, time.Now().Add(-24*time.Hour))
	if got := partitionOf(t, db, a.Turn.ID); got != "" {
		t.Errorf("old events are still in %s", got)
	}
}

// Partitions change only when that holds nobody up.
func TestPartitionsWaitForNobody(t *testing.T) {
	t.Parallel()
	db := openURL(t, migrated(t), Options{Retention: foreverKept})
	old := time.Now().UTC().Truncate(partitionLength).Add(-60 * time.Hour)
	mustAdd(t, db, old, old)
	// A session that writes events and does not come to its end.
	tx, err := db.readers.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	for _, text := range []string{"SET TRANSACTION READ WRITE", "SET LOCAL idle_in_transaction_session_timeout = 0"} {
		if _, err := tx.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	id := newID()
	if _, err := tx.ExecContext(t.Context(), `INSERT INTO events (turn, first, last, data) VALUES ($1, 1, 1, '')`, id[:]); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, db, old.Add(-partitionLength), old)
	drop := func() error { return dropPartitions(t.Context(), db.readers, old.Add(24*time.Hour)) }
	start := time.Now()
	if err := unlessElsewhere(t, drop); err == nil {
		t.Error("a partition was dropped under a transaction that writes events")
	}
	if waited := time.Since(start); waited > 5*time.Second {
		t.Errorf("it waited %v", waited)
	}
	logOf(t, db, time.Now())
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := unlessElsewhere(t, drop); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if have := mustPartitions(t, db); !have[0].After(old) {
		t.Errorf("there are the partitions %v", have)
	}
}
