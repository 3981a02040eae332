package sqlstore

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A dialect is what differs between the engines. Statements are the same for both and write their arguments $1, $2, …;
// only sets ask the dialect for placeholders.
type dialect interface {
	// placeholder appends the n-th placeholder of a statement to b; the first is 1. Where typ is not empty, it is the type that
	// PostgreSQL cannot find out by itself.
	placeholder(b []byte, n int, typ string) []byte
	// forUpdate is what stands behind a SELECT whose rows others must not change before the transaction ends.
	forUpdate() string
	// waitBriefly queues what has the locks of this transaction waited for no longer than headTimeout.
	waitBriefly(w *setWriter)
	// connect opens the connection that writes.
	connect(ctx context.Context) (writer, error)
	// begin is the statement that opens a transaction that writes.
	begin() *statement
	// fence queues what stops a group of an owner that was given up for dead, and what outcome needs; it comes right after
	// begin. What it returns says, after the next flush, whether that is so.
	fence(w *setWriter, o owner) (fenced func() bool)
	// reown makes this process an owner again when it is o no more, unless it has been made one since.
	reown(ctx context.Context, o owner) error
	// fault says what an error means for the group of writes that met it.
	fault(err error) fault
	// rolledBack reports whether an error says that the transaction that met it did not happen.
	rolledBack(err error) bool
	// outcome finds out whether the transaction of the last fence was committed, where the answer was lost.
	outcome(ctx context.Context) (committed bool, err error)
	// committed is told of every commit, on the committer's goroutine and with its connection.
	committed(w writer)
	// shared reports whether other processes can use the database at the same time.
	shared() bool
	// shrink gives some free pages of the file back, in one bounded step inside a transaction, and reports whether there
	// are more.
	shrink(ctx context.Context, w writer) (more bool, err error)
}

// A fault is what an error of the database means for a group of writes.
type fault int

const (
	// refused: a row of the group is one that the database does not take.
	refused fault = iota
	// transient: something came between; the same group is likely to succeed when it is run again.
	transient
	// unusable: the database as a whole cannot be used.
	unusable
)

// A statement is a text that is prepared once per connection; it is known by its address.
type statement struct{ text string }

// A row is what a statement returned.
type row interface{ Scan(dest ...any) error }

// A writer is the connection that writes. It is used by one goroutine. Statements can be sent many at a time, so their
// rows and errors are there only after a flush.
type writer interface {
	// do has a statement run, after those before it, and each called for each of its rows, where it is not nil.
	do(s *statement, args []any, each func(row) error)
	// flush waits for all that was queued, and returns the first error; what was queued behind that was not run.
	flush(ctx context.Context) error
	// close closes the connection.
	close()
}

// A set is a statement about any number of rows: tuples of placeholders stand between head and tail.
type set struct {
	head, tail string
	cols       int
	// types are those of the columns, where PostgreSQL cannot find them out by itself.
	types []string
}

// maxRows bounds the rows of one statement; a power of two, so that few different statements are prepared, and far
// below the 32,766 variables that SQLite takes. More rows per statement gain nothing.
const maxRows = 64

func (s *set) text(d dialect, rows int) string {
	b := append(make([]byte, 0, len(s.head)+len(s.tail)+rows*(3*s.cols+2)), s.head...)
	n := 0
	for row := range rows {
		if row > 0 {
			b = append(b, ',')
		}
		b = append(b, '(')
		for col := range s.cols {
			if col > 0 {
				b = append(b, ',')
			}
			n++
			typ := ""
			if row == 0 && s.types != nil {
				typ = s.types[col]
			}
			b = d.placeholder(b, n, typ)
		}
		b = append(b, ')')
	}
	return string(append(b, s.tail...))
}

// A setWriter is a writer that knows sets.
type setWriter struct {
	writer
	dialect    dialect
	statements map[setKey]*statement
}

type setKey struct {
	set  *set
	rows int
	lock bool
}

func newSetWriter(w writer, d dialect) *setWriter {
	return &setWriter{writer: w, dialect: d, statements: make(map[setKey]*statement)}
}

// exec runs a statement whose outcome is needed now.
func (w *setWriter) exec(ctx context.Context, s *statement, args ...any) error {
	w.do(s, args, nil)
	return w.flush(ctx)
}

// query runs a statement whose rows are needed now.
func (w *setWriter) query(ctx context.Context, s *statement, each func(row) error, args ...any) error {
	w.do(s, args, each)
	return w.flush(ctx)
}

// doSet runs s for the rows in args, which stand one behind the other, in statements of a power of two of rows.
func (w *setWriter) doSet(s *set, args []any) {
	for len(args) > 0 {
		rows := min(1<<(bits.Len(uint(len(args)/s.cols))-1), maxRows)
		w.do(w.statement(setKey{set: s, rows: rows}), args[:rows*s.cols:rows*s.cols], nil)
		args = args[rows*s.cols:]
	}
}

// querySet runs s for the keys in args and has each called for each row found. The last key is repeated up to a power of
// two of keys; s must be a test of membership, to which that makes no difference.
func (w *setWriter) querySet(s *set, args []any, each func(row) error) {
	w.queryKeys(s, args, each, false)
}

// lockSet is querySet for rows that others must not change before the transaction ends. Statements of up to maxRows keys
// lock one after the other, so for one order of locks the keys in args are sorted, and s sorts what it finds.
func (w *setWriter) lockSet(s *set, args []any, each func(row) error) {
	w.queryKeys(s, args, each, true)
}

func (w *setWriter) queryKeys(s *set, args []any, each func(row) error, lock bool) {
	for len(args) > 0 {
		keys := min(len(args)/s.cols, maxRows)
		chunk := args[: keys*s.cols : keys*s.cols]
		args = args[keys*s.cols:]
		rows := 1 << bits.Len(uint(keys-1))
		if rows > keys {
			padded := append(make([]any, 0, rows*s.cols), chunk...)
			for len(padded) < rows*s.cols {
				padded = append(padded, chunk[len(chunk)-s.cols:]...)
			}
			chunk = padded
		}
		w.do(w.statement(setKey{set: s, rows: rows, lock: lock}), chunk, each)
	}
}

func (w *setWriter) statement(key setKey) *statement {
	s := w.statements[key]
	if s == nil {
		s = &statement{key.set.text(w.dialect, key.rows)}
		if key.lock {
			s.text += w.dialect.forUpdate()
		}
		w.statements[key] = s
	}
	return s
}

// idArg is id as an argument: 16 bytes, or NULL for none.
func idArg(id conversation.ID) any {
	if id.IsZero() {
		return nil
	}
	return id[:]
}

// An idColumn scans an id, or NULL as the zero id, without the copy that a []byte costs.
type idColumn conversation.ID

// Scan implements sql.Scanner, for the 16 bytes of SQLite and for the text that database/sql gets from PostgreSQL.
func (c *idColumn) Scan(src any) error {
	*c = idColumn{}
	switch v := src.(type) {
	case nil:
		return nil
	case string:
		return c.parse(v)
	case []byte:
		if len(v) == len(c) {
			copy(c[:], v)
			return nil
		}
		return fmt.Errorf("%d bytes are not an id", len(v))
	default:
		return fmt.Errorf("%T is not an id", src)
	}
}

func (c *idColumn) parse(s string) error {
	id, err := uuid.Parse(s)
	*c = idColumn(id)
	return err
}

// ScanUUID implements pgtype.UUIDScanner.
func (c *idColumn) ScanUUID(v pgtype.UUID) error {
	*c = v.Bytes // zero where it is NULL
	return nil
}
