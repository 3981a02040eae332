package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// On PostgreSQL the events of turns that were made in the same hours are a partition, so that old ones go by dropping it: to
// delete them row by row would cost as much as to write them did. They are made long before they are needed; where that
// did not happen, events go to the default partition, from which they are removed row by row.
const (
	partitionLength = 6 * time.Hour
	partitionsAhead = 2 * 24 * time.Hour

	partitionName = "events_20060102_15" // UTC
)

// What may be waited for to change the partitions: those who write events wait behind it.
const partitionWait = `SET LOCAL lock_timeout = '200ms'`

const (
	// lockPartitions keeps two processes from making the same partition.
	lockPartitions = `SELECT pg_try_advisory_xact_lock(1667785076)`

	partitionNames = `SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'events'::regclass`

	defaultHasEvents = `SELECT EXISTS (SELECT 1 FROM events_default WHERE turn >= $1 AND turn < $2)`

	oldestRun = `SELECT turn FROM running ORDER BY turn LIMIT 1`
)

// makePartitions makes those partitions of events that will be needed in the next days and are not there. An error leaves
// the store usable, and the next sweep tries again.
func makePartitions(ctx context.Context, pool *sql.DB) error {
	var nanos int64
	if err := pool.QueryRowContext(ctx, databaseClock).Scan(&nanos); err != nil {
		return fmt.Errorf("read the time: %w", err)
	}
	now := fromNanos(nanos)
	if err := addPartitions(ctx, pool, now, now.Add(partitionsAhead)); !errors.Is(err, errKeptElsewhere) {
		return err
	}
	return nil
}

// partitions makes the partitions that will be needed and drops those that have only turns made before a time. A turn that
// still runs keeps the partition of its events.
func (k *keeper) partitions(ctx context.Context, before time.Time) (again time.Duration, err error) {
	if !k.db.dialect.shared() {
		return sweepInterval, nil
	}
	// Where none can be made, those that there are are still to go.
	return sweepInterval, errors.Join(makePartitions(ctx, k.db.readers), dropPartitions(ctx, k.db.readers, before))
}

// addPartitions makes the partitions for turns made from one time until after another.
func addPartitions(ctx context.Context, pool *sql.DB, from, to time.Time) error {
	have, err := partitionStarts(ctx, pool)
	if err != nil {
		return err
	}
	var missing []time.Time
	for start := from.UTC().Truncate(partitionLength); !start.After(to); start = start.Add(partitionLength) {
		if !slices.ContainsFunc(have, start.Equal) {
			missing = append(missing, start)
		}
	}
	for _, start := range missing {
		if err := changePartitions(ctx, pool, func(tx *sql.Tx) error { return addPartition(ctx, tx, start) }); err != nil {
			return fmt.Errorf("make partition %s%s: %w", start.Format(partitionName), byOwner(err), err)
		}
	}
	return nil
}

// addPartition makes a partition, unless another process has, or there are events in the default partition that would belong
// to it. Made first and attached then, it needs no lock that writers of events would wait for, but one of the default
// partition.
func addPartition(ctx context.Context, tx *sql.Tx, start time.Time) error {
	name := start.Format(partitionName)
	have, err := partitionStarts(ctx, tx)
	if err != nil || slices.ContainsFunc(have, start.Equal) {
		return err
	}
	from, to := firstID(start), firstID(start.Add(partitionLength))
	var taken bool
	if err := tx.QueryRowContext(ctx, defaultHasEvents, from[:], to[:]).Scan(&taken); err != nil || taken {
		return err
	}
	for _, text := range []string{
		`CREATE TABLE ` + name + ` (LIKE events INCLUDING ALL)`,
		fmt.Sprintf(`ALTER TABLE events ATTACH PARTITION %s FOR VALUES FROM ('%x') TO ('%x')`, name, from, to),
	} {
		if _, err := tx.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// dropPartitions drops the partitions all of whose turns were made before old.
func dropPartitions(ctx context.Context, pool *sql.DB, old time.Time) error {
	have, err := partitionStarts(ctx, pool)
	if err != nil {
		return err
	}
	have = slices.DeleteFunc(have, func(start time.Time) bool { return start.Add(partitionLength).After(old) })
	if len(have) == 0 {
		return nil
	}
	runs, err := scanAll(ctx, pool, oldestRun, func(rows *sql.Rows) (id conversation.ID, err error) {
		return id, rows.Scan((*idColumn)(&id))
	})
	if err != nil {
		return fmt.Errorf("read the oldest turn that runs: %w", err)
	}
	for _, start := range have {
		if len(runs) > 0 && timeOf(runs[0]).Before(start.Add(partitionLength)) {
			continue
		}
		name := start.Format(partitionName)
		err := changePartitions(ctx, pool, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `DROP TABLE IF EXISTS `+name)
			return err
		})
		if err != nil {
			return fmt.Errorf("drop partition %s%s: %w", name, byOwner(err), err)
		}
	}
	return nil
}

// byOwner says what a role lacks that may not change partitions.
func byOwner(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == noPrivilege {
		return " (the role of the database URL must own the table events, and may create tables in its schema)"
	}
	return ""
}

// partitionStarts returns the starts of the partitions of events other than the default one.
func partitionStarts(ctx context.Context, q querier) ([]time.Time, error) {
	names, err := scanAll(ctx, q, partitionNames, func(rows *sql.Rows) (name string, err error) {
		return name, rows.Scan(&name)
	})
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	var starts []time.Time
	for _, name := range names {
		if start, err := time.Parse(partitionName, name); err == nil {
			starts = append(starts, start)
		}
	}
	return starts, nil
}

// changePartitions runs f in a transaction that waits for nothing for long. errKeptElsewhere: another process is at it.
func changePartitions(ctx context.Context, pool *sql.DB, f func(tx *sql.Tx) error) error {
	tx, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	for _, text := range []string{`SET TRANSACTION READ WRITE`, partitionWait} {
		if _, err := tx.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	var locked bool
	if err := tx.QueryRowContext(ctx, lockPartitions).Scan(&locked); err != nil {
		return err
	}
	if !locked {
		return errKeptElsewhere
	}
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// A querier is a pool or a transaction.
type querier interface {
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

func scanAll[T any](ctx context.Context, q querier, text string, scan func(*sql.Rows) (T, error)) ([]T, error) {
	rows, err := q.QueryContext(ctx, text)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}
