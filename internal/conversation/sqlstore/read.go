package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

var (
	// errEnough ends a read early.
	errEnough = errors.New("enough")

	errNoAnswer = fmt.Errorf("no answer for too long: %w", context.DeadlineExceeded)
)

// read calls row for each row that a statement finds. What the database says becomes StoreUnavailable; the only other
// errors are ctx's and, about a value that cannot be read, row's.
func (db *DB) read(ctx context.Context, doing, text string, args []any, row func(*sql.Rows) error) error {
	db.reading.RLock()
	defer db.reading.RUnlock()
	found, err := db.tryRead(ctx, doing, text, args, row)
	if err == nil || found || ctx.Err() != nil || db.dialect.fault(err) != transient {
		return err
	}
	// The connection may have been dead for long, and others with it: a read is harmless, so it is tried on a new one.
	db.forgetConnections()
	_, err = db.tryRead(ctx, doing, text, args, row)
	return err
}

// forgetConnections has reads make new ones, because those there are may be dead.
func (db *DB) forgetConnections() {
	db.readers.SetMaxIdleConns(0)
	db.readers.SetMaxIdleConns(db.readers.Stats().MaxOpenConnections)
}

// tryRead also reports whether row has been called.
func (db *DB) tryRead(
	caller context.Context, doing, text string, args []any, row func(*sql.Rows) error,
) (found bool, err error) {
	if err := caller.Err(); err != nil {
		return false, err
	}
	// A statement that the driver of SQLite interrupts can keep its connection from ever being closed; and none takes long
	// in the same process. So the caller's end is looked at between rows.
	ctx := context.WithoutCancel(caller)
	goesOn := func() {}
	if limit := db.readLimit(); limit > 0 {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(caller)
		defer cancel(nil)
		timer := time.AfterFunc(limit, func() { cancel(errNoAnswer) })
		defer timer.Stop()
		goesOn = func() { timer.Reset(limit) }
	}
	rows, err := db.query(ctx, text, args)
	if err != nil {
		return false, readError(ctx, caller, doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		found = true
		goesOn()
		switch err := row(rows); {
		case errors.Is(err, errEnough):
			return true, nil
		case err != nil && caller.Err() != nil: // it has closed the rows
			return true, caller.Err()
		case err != nil && ctx.Err() != nil:
			return true, unavailable(doing, context.Cause(ctx))
		case err != nil:
			return true, fmt.Errorf("%s: %w", doing, err)
		case caller.Err() != nil:
			return true, caller.Err()
		}
	}
	if err := rows.Err(); err != nil {
		return found, readError(ctx, caller, doing, err)
	}
	return found, nil
}

// query runs a statement that was prepared, if it was: the driver of PostgreSQL prepares by itself.
func (db *DB) query(ctx context.Context, text string, args []any) (*sql.Rows, error) {
	if stmt := db.reads[text]; stmt != nil {
		return stmt.QueryContext(ctx, args...)
	}
	return db.readers.QueryContext(ctx, text, args...)
}

// readError is what an error of a read within ctx says to its caller.
func readError(ctx, caller context.Context, doing string, err error) error {
	switch {
	case caller.Err() != nil:
		return caller.Err()
	case ctx.Err() != nil:
		return unavailable(doing, context.Cause(ctx))
	}
	return unavailable(doing, err)
}
