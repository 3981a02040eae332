package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// Retention says how long things are kept that nobody deletes.
type Retention struct {
	// OneShots is how long the input, the output and the log of a one-shot turn are kept, from when it was made; the turn itself
	// stays. Default: 24 hours.
	OneShots time.Duration
	// Events is how long the log of any turn is kept, from when the turn was made; PostgreSQL may keep it for six hours
	// more. Default: 24 hours.
	Events time.Duration
}

func (r Retention) withDefaults() Retention {
	const day = 24 * time.Hour
	if r.OneShots == 0 {
		r.OneShots = day
	}
	if r.Events == 0 {
		r.Events = day
	}
	return r
}

// claims is how long request ids are claimed: callers are promised a day.
func (r Retention) claims() time.Duration { return max(r.OneShots, 24*time.Hour) }

// sweep removes a bounded part of what has grown too old, of each kind, and returns when to come again.
//
// The age of a turn is that of its id. The time is Options.Now's on SQLite, and the database's where several processes share
// it, because the one with the wrong clock would remove what the others keep.
func (k *keeper) sweep(ctx context.Context) (again time.Duration, err error) {
	now, err := k.db.clock(ctx)
	k.report("read the time", err)
	if err != nil {
		return 0, err
	}
	again = sweepInterval
	var errs []error // what is wrong with one kind does not keep the others
	for _, step := range []struct {
		what   string
		remove func(context.Context, time.Time) (time.Duration, error)
		before time.Time
	}{
		{"delete expired conversations", k.conversations, now},
		{"remove the content of old one-shot turns", k.oneShots, now.Add(-k.retention.OneShots)},
		{"remove old request ids", k.claims, now.Add(-k.retention.claims())},
		{"remove old events", k.events, now.Add(-k.retention.Events)},
		{"make and drop partitions of the table events", k.partitions, now.Add(-k.retention.Events)},
	} {
		wait, err := step.remove(ctx, step.before)
		k.report(step.what, err)
		if errors.Is(err, errKeptElsewhere) {
			wait, err = sweepElsewhere, nil
		}
		errs = append(errs, err)
		again = min(again, wait)
	}
	return again, errors.Join(errs...)
}

// The texts that sweeps read by, outside of any transaction.
const (
	databaseClock = `SELECT (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint`

	expiredConversations = `SELECT c.team, c.id, c.spec_version, b.version, c.expire_time
FROM conversations c JOIN branches b ON b.id = c.id
WHERE c.expire_time > 0 AND c.expire_time <= $1 AND (c.expire_time, c.id) > ($2, $3) ORDER BY c.expire_time, c.id LIMIT $4`

	runsOfConversation = `SELECT turn FROM running WHERE conversation = $1`

	retentionCursor = `SELECT cursor FROM retention WHERE name = $1`

	oldOneShots = `SELECT t.id, r.turn FROM turns t LEFT JOIN running r ON r.turn = t.id
WHERE t.conversation IS NULL AND t.id > $1 AND t.id < $2 ORDER BY t.id LIMIT $3`

	anyOldClaim = `SELECT 1 FROM claims c
WHERE c.create_time < $1 AND NOT EXISTS (SELECT 1 FROM running r WHERE r.turn = c.turn) LIMIT 1`

	oldEvents = `SELECT e.turn, count(*), sum(length(e.data)) FROM events e
WHERE e.turn < $1 AND NOT EXISTS (SELECT 1 FROM running r WHERE r.turn = e.turn) GROUP BY e.turn ORDER BY e.turn LIMIT $2`

	// Whatever is in another partition goes with it.
	oldEventsInDefault = `SELECT e.turn, count(*), sum(length(e.data)) FROM events_default e
WHERE e.turn < $1 AND NOT EXISTS (SELECT 1 FROM running r WHERE r.turn = e.turn) GROUP BY e.turn ORDER BY e.turn LIMIT $2`
)

var (
	moveCursor = &statement{`INSERT INTO retention (name, cursor) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor WHERE retention.cursor < excluded.cursor`}

	removeOldClaims = &statement{`DELETE FROM claims WHERE (team, request_id) IN (
	SELECT c.team, c.request_id FROM claims c
	WHERE c.create_time < $1 AND NOT EXISTS (SELECT 1 FROM running r WHERE r.turn = c.turn) ORDER BY c.create_time LIMIT $2)`}
)

// clock is the time by which things are too old.
func (db *DB) clock(ctx context.Context) (time.Time, error) {
	if !db.dialect.shared() {
		return db.now(), nil
	}
	var nanos int64
	err := db.read(ctx, "read the time", databaseClock, nil, func(rows *sql.Rows) error { return rows.Scan(&nanos) })
	return fromNanos(nanos), err
}

// firstID is below all ids that are made at t or later, and above all others.
func firstID(t time.Time) conversation.ID {
	var id conversation.ID
	binary.BigEndian.PutUint64(id[:], uint64(max(t.UnixMilli(), 0))<<16)
	return id
}

// timeOf is when an id was made.
func timeOf(id conversation.ID) time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:]) >> 16)).UTC()
}

// expiredAtOnce is how many conversations are deleted at once.
const expiredAtOnce = 64

// conversations deletes conversations whose time has come. A turn that runs in one is asked to end first.
func (k *keeper) conversations(ctx context.Context, now time.Time) (again time.Duration, err error) {
	type found struct {
		team    string
		id      conversation.ID
		version conversation.Version
	}
	var all []found
	err = k.db.read(ctx, "read expired conversations", expiredConversations,
		[]any{now.UnixNano(), k.expiredTime, k.expired[:], expiredAtOnce}, func(rows *sql.Rows) error {
			var f found
			if err := rows.Scan(&f.team, (*idColumn)(&f.id), &f.version.Spec, &f.version.Head, &k.expiredTime); err != nil {
				return err
			}
			k.expired = f.id
			all = append(all, f)
			return nil
		})
	if err != nil {
		return 0, err
	}
	again = sweepInterval
	errs := make([]error, len(all))
	var wg sync.WaitGroup // together, so that they are one group
	for i, f := range all {
		wg.Go(func() { errs[i] = k.db.DeleteConversation(ctx, f.team, f.id, f.version) })
	}
	wg.Wait()
	for i, f := range all {
		switch err := errs[i]; {
		case err == nil, errors.Is(err, conversation.ErrNotFound):
		case errors.Is(err, conversation.ErrEtagMismatch): // it may expire later now
			again = sweepBusy
		case errors.Is(err, conversation.ErrConversationBusy):
			again = sweepBusy
			if err := k.cancel(ctx, f.team, f.id); err != nil {
				return 0, err
			}
		default:
			return 0, err
		}
	}
	if len(all) == expiredAtOnce {
		return 0, nil
	}
	k.expiredTime, k.expired = 0, conversation.ID{}
	return again, nil
}

// cancel asks for the end of all turns of a conversation.
func (k *keeper) cancel(ctx context.Context, team string, id conversation.ID) error {
	var turns []conversation.ID
	err := k.db.read(ctx, "read running turns", runsOfConversation, []any{id[:]}, func(rows *sql.Rows) error {
		var turn conversation.ID
		err := rows.Scan((*idColumn)(&turn))
		turns = append(turns, turn)
		return err
	})
	if err != nil {
		return err
	}
	for _, turn := range turns {
		err := k.db.RequestCancel(ctx, team, turn)
		if err != nil && !errors.Is(err, conversation.ErrTurnEnded) && !errors.Is(err, conversation.ErrNotFound) {
			return err
		}
	}
	return nil
}

// oneShots is the name of the cursor that says up to which turn one-shots have no content any more. It cannot be told from
// the turns' own rows, which stay as they are.
const oneShots = "one-shots"

// oneShots removes the content of one-shot turns. One that still runs keeps its own, and that of those after it.
func (k *keeper) oneShots(ctx context.Context, before time.Time) (again time.Duration, err error) {
	var cursor conversation.ID
	err = k.db.read(ctx, "read cursor", retentionCursor, []any{oneShots}, func(rows *sql.Rows) error {
		return rows.Scan((*idColumn)(&cursor))
	})
	if err != nil {
		return 0, err
	}
	var old []conversation.ID
	bound, rows := firstID(before), 0
	err = k.db.read(ctx, "read one-shot turns", oldOneShots, []any{cursor[:], bound[:], purgeRows}, func(row *sql.Rows) error {
		var turn, running conversation.ID
		if err := row.Scan((*idColumn)(&turn), (*idColumn)(&running)); err != nil {
			return err
		}
		rows++
		if !running.IsZero() {
			return errEnough
		}
		old = append(old, turn)
		return nil
	})
	if err != nil || len(old) == 0 {
		return sweepInterval, err
	}
	n := 0
	err = k.batch(ctx, "remove content of one-shot turns", func(ctx context.Context, w *setWriter) (err error) {
		r := removal{setWriter: w, rows: purgeRows, bytes: purgeBytes}
		if n, err = r.contents(ctx, old, true); err != nil {
			return err
		}
		return w.exec(ctx, moveCursor, oneShots, bytes.Clone(old[n-1][:]))
	})
	if err != nil {
		return 0, err
	}
	k.db.wakePurger() // gives the pages back
	if n < len(old) || rows == purgeRows {
		return 0, nil
	}
	return sweepInterval, nil
}

// claims frees request ids.
func (k *keeper) claims(ctx context.Context, before time.Time) (again time.Duration, err error) {
	found := false
	look := func() error {
		found = false
		return k.db.read(ctx, "read old claims", anyOldClaim, []any{before.UnixNano()}, func(*sql.Rows) error {
			found = true
			return nil
		})
	}
	if err := look(); err != nil || !found {
		return sweepInterval, err
	}
	err = k.batch(ctx, "remove old claims", func(ctx context.Context, w *setWriter) error {
		return w.exec(ctx, removeOldClaims, before.UnixNano(), purgeRows)
	})
	if err != nil {
		return 0, err
	}
	if err := look(); err != nil || !found {
		return sweepInterval, err
	}
	return 0, nil
}

// events removes logs, each as a whole.
func (k *keeper) events(ctx context.Context, before time.Time) (again time.Duration, err error) {
	text := oldEvents
	if k.db.dialect.shared() {
		text = oldEventsInDefault
	}
	var turns []any
	bound, left, more := firstID(before), removal{rows: purgeRows, bytes: purgeBytes}, false
	err = k.db.read(ctx, "read old events", text, []any{bound[:], purgeRows}, func(row *sql.Rows) error {
		var turn conversation.ID
		var rows, size int
		if err := row.Scan((*idColumn)(&turn), &rows, &size); err != nil {
			return err
		}
		if left.spent() {
			more = true
			return errEnough
		}
		left.rows -= rows
		left.bytes -= size
		turns = append(turns, idArg(turn))
		return nil
	})
	if err != nil || len(turns) == 0 {
		return sweepInterval, err
	}
	err = k.batch(ctx, "remove old events", func(ctx context.Context, w *setWriter) error {
		w.doSet(removeEvents, turns)
		if err := w.flush(ctx); err != nil {
			return fmt.Errorf("remove events: %w", err)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	k.db.wakePurger() // gives the pages back
	if more || left.spent() {
		return 0, nil
	}
	return sweepInterval, nil
}
