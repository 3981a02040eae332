package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A postgresWriter sends what was queued in one go, so that many statements cost one round trip; those that are new to the
// connection are prepared in one more before.
type postgresWriter struct {
	server *postgresServer
	conn   *pgx.Conn
	batch  pgx.Batch
	queued []queuedStatement
}

type queuedStatement struct {
	*statement
	each func(row) error
}

func (w *postgresWriter) do(s *statement, args []any, each func(row) error) {
	w.batch.Queue(s.text, args...)
	w.queued = append(w.queued, queuedStatement{s, each})
}

func (w *postgresWriter) flush(ctx context.Context) error {
	if len(w.queued) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, w.server.limit())
	defer cancel()
	results := w.conn.SendBatch(ctx, &w.batch)
	err := w.receive(results)
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	clear(w.queued)
	clear(w.batch.QueuedQueries)
	w.queued, w.batch.QueuedQueries = w.queued[:0], w.batch.QueuedQueries[:0]
	switch {
	case err != nil && w.conn.IsClosed():
		w.server.lost()
		return &lostError{err}
	case isLockTimeout(err):
		return errors.Join(err, w.endStuck(ctx))
	}
	return err
}

// endStuck is for after a lock was waited for in vain: who has it may be waiting for what does not come. It rolls back first,
// because nothing else can be said in a transaction that has failed; to do so twice does no harm.
func (w *postgresWriter) endStuck(ctx context.Context) error {
	w.do(rollbackStatement, nil, nil)
	if err := w.flush(ctx); err != nil {
		return err
	}
	w.do(endStuckSessions, []any{w.server.idleLimit().Seconds()}, nil)
	return w.flush(ctx)
}

var endStuckSessions = &statement{endStuck}

const (
	lockTimedOut = "55P03"
	noPrivilege  = "42501"
)

func isLockTimeout(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == lockTimedOut
}

var errNotCommitted = errors.New("the transaction was rolled back instead")

func (w *postgresWriter) receive(results pgx.BatchResults) error {
	for _, q := range w.queued {
		rows, err := results.Query()
		if err == nil {
			err = eachRow(rows, q.each)
		}
		if err != nil {
			return fmt.Errorf("%.40s…: %w", q.text, err)
		}
		if q.statement == commitStatement && rows.CommandTag().String() != commitStatement.text {
			return errNotCommitted
		}
	}
	return nil
}

func eachRow(rows pgx.Rows, each func(row) error) error {
	defer rows.Close()
	for rows.Next() {
		if each == nil {
			continue
		}
		if err := each(rows); err != nil {
			return err
		}
	}
	rows.Close()
	return rows.Err()
}

func (w *postgresWriter) close() { hangUp(w.conn) }

// A lostError is that of a connection that cannot be used any more. Whether what was sent last was done is not
// known.
type lostError struct{ cause error }

func (e *lostError) Error() string { return "the connection is lost: " + e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }

// A dialError is that of connections that could not be made, in one line.
type dialError struct {
	cause *pgconn.ConnectError
}

// Error leaves out what was tried before, or with TLS, where the server itself has said what is wrong.
func (e *dialError) Error() string {
	text := e.cause.Unwrap().Error()
	if said, ok := errors.AsType[*pgconn.PgError](e.cause); ok {
		text = said.Error()
	}
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

func (e *dialError) Unwrap() error { return e.cause }

// decisive reduces an error to that of a connection, if it comes from one.
func decisive(err error) error {
	if e, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return &dialError{e}
	}
	return err
}

// fault goes by the code that the server gives. What is not the server's is the connection's, or a value that cannot be
// sent or read.
func (*postgresDialect) fault(err error) fault {
	var none *connectError
	var lost *lostError
	var fenced *fencedError
	var e *pgconn.PgError
	switch {
	case errors.As(err, &none):
		return connectFault(err)
	case errors.As(err, &lost), errors.As(err, &fenced):
		return transient
	case !errors.As(err, &e):
		return networkFault(err)
	}
	switch e.Code {
	case lockTimedOut,
		"25P03", // idle_in_transaction_session_timeout
		"57014", // statement_timeout
		"0A000", // a prepared statement that the schema has changed under
		"26000": // a prepared statement that is gone
		return transient
	case "25006", // read only: it is a standby now
		noPrivilege:
		return unusable
	}
	switch e.Code[:min(2, len(e.Code))] {
	case "08", "40", "57": // connection; deadlock and serialization; shutdown
		return transient
	case "53", "58", "F0", "XX": // resources, system, configuration, internal
		return unusable
	default:
		return refused
	}
}

// connectFault tells a connection that was cut while it was made from one that nobody takes.
func connectFault(err error) fault {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if ok && e.Code == "57P01" || // an administrator ended it, and not the server: that says that it cannot be connected to
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return transient
	}
	return unusable
}

// rolledBack goes by the server's word: an error that leaves the connection open ends the transaction, and so does it to idle.
func (*postgresDialect) rolledBack(err error) bool {
	var lost *lostError
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "25P03" || !errors.As(err, &lost))
}

// networkFault tells a connection that could not be made or has broken from all else.
func networkFault(err error) fault {
	var none *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.As(err, &none):
		return connectFault(err)
	case errors.As(err, &network), pgconn.SafeToRetry(err), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, driver.ErrBadConn):
		return transient
	default:
		return refused
	}
}
