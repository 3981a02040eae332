package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"math/bits"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A dialect is what differs between the engines. Texts with a fixed number of arguments are the same for both and write
// them $1, $2, …; only sets ask the dialect for placeholders.
type dialect interface {
	// placeholder appends the n-th placeholder of a statement to b; the first is 1.
	placeholder(b []byte, n int) []byte
	// begin is the statement that opens a transaction that writes.
	begin() string
	// unavailable reports whether err says that the database as a whole cannot be used, and not that it refuses a row.
	unavailable(err error) bool
	// committed is told of every commit, on the committer's goroutine and with its connection.
	committed(c *sql.Conn)
	// shrink gives some free pages of the file back, in one bounded step inside a transaction, and reports whether there
	// are more.
	shrink(ctx context.Context, c *sql.Conn) (more bool, err error)
}

// A set is a statement about any number of rows: tuples of placeholders stand between head and tail.
type set struct {
	head, tail string
	cols       int
}

// maxRows bounds the rows of one statement; below a power of two, so that few different statements are prepared, and far
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
			b = d.placeholder(b, n)
		}
		b = append(b, ')')
	}
	return string(append(b, s.tail...))
}

// A writer is the connection that writes, with its prepared statements. It is used by one goroutine.
type writer struct {
	conn    *sql.Conn
	dialect dialect
	sets    map[setKey]*sql.Stmt
	texts   map[string]*sql.Stmt
}

type setKey struct {
	set  *set
	rows int
}

func newWriter(conn *sql.Conn, d dialect) *writer {
	return &writer{conn: conn, dialect: d, sets: make(map[setKey]*sql.Stmt), texts: make(map[string]*sql.Stmt)}
}

// close closes the connection. Its statements come first, because database/sql does not know that they are its, and SQLite
// keeps a connection with open statements.
func (w *writer) close() {
	for _, stmt := range w.sets {
		_ = stmt.Close() // there is nothing more to do about it, here and below
	}
	for _, stmt := range w.texts {
		_ = stmt.Close()
	}
	_ = w.conn.Raw(func(any) error { return driver.ErrBadConn }) // so that the pool does not keep it
	_ = w.conn.Close()
}

// exec runs a statement of fixed size.
func (w *writer) exec(ctx context.Context, text string, args ...any) error {
	stmt, err := w.prepare(ctx, text) //nolint:sqlclosecheck // w.close does
	if err != nil {
		return err
	}
	_, err = stmt.ExecContext(ctx, args...)
	return err
}

// query runs a statement of fixed size and calls row for each of its rows.
func (w *writer) query(ctx context.Context, text string, row func(*sql.Rows) error, args ...any) error {
	stmt, err := w.prepare(ctx, text)
	if err != nil {
		return err
	}
	return queryRows(ctx, stmt, args, row)
}

func (w *writer) prepare(ctx context.Context, text string) (*sql.Stmt, error) {
	if stmt, ok := w.texts[text]; ok {
		return stmt, nil
	}
	stmt, err := w.conn.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	w.texts[text] = stmt
	return stmt, nil
}

// execSet runs s for the rows in args, which stand one behind the other, in statements of a power of two of rows.
func (w *writer) execSet(ctx context.Context, s *set, args []any) error {
	for len(args) > 0 {
		rows := min(1<<(bits.Len(uint(len(args)/s.cols))-1), maxRows)
		stmt, err := w.prepareSet(ctx, s, rows) //nolint:sqlclosecheck // w.close does
		if err != nil {
			return err
		}
		if _, err := stmt.ExecContext(ctx, args[:rows*s.cols]...); err != nil {
			return err
		}
		args = args[rows*s.cols:]
	}
	return nil
}

// querySet runs s for the keys in args and calls row for each row found. The last key is repeated up to a power of two
// of keys; s must be a test of membership, to which that makes no difference.
func (w *writer) querySet(ctx context.Context, s *set, args []any, row func(*sql.Rows) error) error {
	for len(args) > 0 {
		keys := min(len(args)/s.cols, maxRows)
		chunk := args[:keys*s.cols]
		args = args[keys*s.cols:]
		rows := 1 << bits.Len(uint(keys-1))
		if rows > keys {
			padded := append(make([]any, 0, rows*s.cols), chunk...)
			for len(padded) < rows*s.cols {
				padded = append(padded, chunk[len(chunk)-s.cols:]...)
			}
			chunk = padded
		}
		stmt, err := w.prepareSet(ctx, s, rows)
		if err != nil {
			return err
		}
		if err := queryRows(ctx, stmt, chunk, row); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) prepareSet(ctx context.Context, s *set, rows int) (*sql.Stmt, error) {
	key := setKey{s, rows}
	if stmt, ok := w.sets[key]; ok {
		return stmt, nil
	}
	stmt, err := w.conn.PrepareContext(ctx, s.text(w.dialect, rows))
	if err != nil {
		return nil, err
	}
	w.sets[key] = stmt
	return stmt, nil
}

func queryRows(ctx context.Context, stmt *sql.Stmt, args []any, row func(*sql.Rows) error) error {
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// idArg is id as an argument: 16 bytes, or NULL for none.
func idArg(id conversation.ID) any {
	if id.IsZero() {
		return nil
	}
	return id[:]
}

// An idColumn scans 16 bytes, or NULL as the zero id, without the copy that a []byte costs.
type idColumn conversation.ID

// Scan implements sql.Scanner.
func (c *idColumn) Scan(src any) error {
	b, ok := src.([]byte)
	if (src != nil && !ok) || (ok && len(b) != len(c)) {
		return fmt.Errorf("%T of %d bytes is not an id", src, len(b))
	}
	*c = idColumn{}
	copy(c[:], b)
	return nil
}
