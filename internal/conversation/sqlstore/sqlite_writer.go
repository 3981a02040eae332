package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
)

// A sqliteWriter runs each statement at once: there is nothing between it and the database that would make it worth to wait.
type sqliteWriter struct {
	conn     *sql.Conn
	prepared map[*statement]*sql.Stmt
	err      error // of the first statement since the last flush that failed
}

func newSQLiteWriter(conn *sql.Conn) *sqliteWriter {
	return &sqliteWriter{conn: conn, prepared: make(map[*statement]*sql.Stmt)}
}

func (w *sqliteWriter) do(s *statement, args []any, each func(row) error) {
	if w.err != nil {
		return
	}
	if err := w.run(context.Background(), s, args, each); err != nil { // a statement that has begun is not given up
		w.err = fmt.Errorf("%.40s…: %w", s.text, err)
	}
}

func (w *sqliteWriter) run(ctx context.Context, s *statement, args []any, each func(row) error) error {
	stmt, ok := w.prepared[s]
	if !ok {
		var err error
		if stmt, err = w.conn.PrepareContext(ctx, s.text); err != nil {
			return err
		}
		w.prepared[s] = stmt
	}
	if each == nil {
		_, err := stmt.ExecContext(ctx, args...)
		return err
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (w *sqliteWriter) flush(context.Context) error {
	err := w.err
	w.err = nil
	return err
}

// close closes the connection. Its statements come first, because database/sql does not know that they are its, and SQLite
// keeps a connection with open statements.
func (w *sqliteWriter) close() {
	for _, stmt := range w.prepared {
		_ = stmt.Close() // there is nothing more to do about it, here and below
	}
	_ = w.conn.Raw(func(any) error { return driver.ErrBadConn }) // so that the pool does not keep it
	_ = w.conn.Close()
}
