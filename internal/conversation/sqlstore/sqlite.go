package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// readConns is the size of the pool of reading connections. The work is in this process, so more than a few only wait.
const readConns = 8

// OpenSQLite opens the database file at path, and makes it and its folder if there is none. The schema is brought up to
// date first. While the store is open, a lock on the file path.lock keeps other processes out.
func OpenSQLite(ctx context.Context, path string, o Options) (*DB, error) {
	o = o.withDefaults()
	db, err := openSQLite(ctx, path, o)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return db, nil
}

func openSQLite(ctx context.Context, path string, o Options) (_ *DB, err error) {
	f, err := openSQLiteFile(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.close() // what went wrong first says more
		}
	}()
	// The last connection to be closed empties the write-ahead log into the database.
	writer, err := f.pool(writerParams(), 1)
	if err != nil {
		return nil, err
	}
	if _, _, err := migrate(ctx, sqliteSchema, writer, o.Logger); err != nil {
		return nil, err
	}
	if err := checkSchema(ctx, sqliteSchema, writer); err != nil {
		return nil, err
	}
	checkpoints, err := f.pool(checkpointerParams(), 1)
	if err != nil {
		return nil, err
	}
	readers, err := f.pool(readerParams(), readConns)
	if err != nil {
		return nil, err
	}
	cp := &checkpointer{pool: checkpoints, wal: f.path + "-wal", log: o.Logger, wake: make(chan struct{}, 1)}
	db := newDB(&sqliteDialect{checkpointer: cp, pool: writer}, readers, newOwnership(), o)
	db.release, db.adopt = f.close, adoption{}
	for _, text := range readTexts() {
		if db.reads[text], err = readers.PrepareContext(ctx, text); err != nil { //nolint:sqlclosecheck // Close does
			return nil, fmt.Errorf("prepare %q: %w", text, err)
		}
	}
	db.start()
	db.background.Go(func() { cp.run(db.stop, db.committer.exclusively) })
	return db, nil
}

// A sqliteFile is a database file that this process has for itself.
type sqliteFile struct {
	path    string
	closers []func() error // run backwards
}

// openSQLiteFile locks the file at path, and makes it and its folder if there is none.
func openSQLiteFile(path string) (*sqliteFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil { //nolint:gosec // the operator names the file
		return nil, err
	}
	// SQLite gives its other files the mode of this one. A file that is there is not opened before it is locked: to close it
	// again would drop the locks that a store in this process has on it.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the operator names the file
	if err == nil {
		err = file.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// The lock is of the file and not of one of its names; and SQLite's URIs have no relative paths.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	lock := flock.New(path+".lock", flock.SetPermissions(0o600))
	if locked, err := lock.TryLock(); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
	} else if !locked {
		return nil, fmt.Errorf("another process uses it (%s is locked)", lock.Path())
	}
	// SQLite would say no more than that it cannot. Nobody else in this process has the file open now, see above.
	file, err = os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // the operator names the file
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			err = e.Err // the path is named by the caller
		}
		return nil, errors.Join(fmt.Errorf("it cannot be read and written as a file: %w", err), lock.Close())
	}
	return &sqliteFile{path: path, closers: []func() error{lock.Close}}, nil
}

// pool returns a pool of connections to the file; close closes it.
func (f *sqliteFile) pool(params url.Values, conns int) (*sql.DB, error) {
	db, err := sql.Open("sqlite", sqliteDSN(f.path, params))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	f.closers = append(f.closers, db.Close)
	return db, nil
}

func (f *sqliteFile) close() error {
	var errs []error
	for _, closer := range slices.Backward(f.closers) {
		errs = append(errs, closer())
	}
	return errors.Join(errs...)
}

func sqliteDSN(path string, params url.Values) string {
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: params.Encode()}
	return u.String()
}

func writerParams() url.Values {
	return url.Values{
		"_auto_vacuum": {"incremental"}, // takes effect only before the first table is made
		"_pragma": {
			"busy_timeout(5000)",
			"journal_mode(wal)",
			"synchronous(full)",
			"wal_autocheckpoint(0)", // see checkpointer
			fmt.Sprintf("journal_size_limit(%d)", walTruncateBytes),
			"cache_size(-32768)", // KiB
			"temp_store(memory)",
		},
	}
}

func checkpointerParams() url.Values {
	return url.Values{"_pragma": {"busy_timeout(200)", "synchronous(full)", "wal_autocheckpoint(0)"}}
}

func readerParams() url.Values {
	return url.Values{
		"_pragma":     {"busy_timeout(5000)", "wal_autocheckpoint(0)", "cache_size(-4096)", "temp_store(memory)"},
		"_query_only": {"1"},
	}
}

// sqliteDialect is SQLite's half of the store.
type sqliteDialect struct {
	pool         *sql.DB // of the connection that writes
	checkpointer *checkpointer
	pages        int // written since the last checkpoint was asked for
}

func (*sqliteDialect) placeholder(b []byte, _ int, _ string) []byte { return append(b, '?') }

func (*sqliteDialect) forUpdate() string { return "" } // who writes, writes alone

func (*sqliteDialect) waitBriefly(*setWriter) {}

func (*sqliteDialect) shared() bool { return false }

func (*sqliteDialect) fence(*setWriter, owner) (fenced func() bool) {
	return func() bool { return false }
}

func (*sqliteDialect) reown(context.Context, owner) error { return nil } // fence is never

func (*sqliteDialect) rolledBack(error) bool { return false }

func (*sqliteDialect) outcome(context.Context) (committed bool, err error) { return false, nil } // no error is transient

func (d *sqliteDialect) connect(ctx context.Context) (writer, error) {
	conn, err := d.pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return newSQLiteWriter(conn), nil
}

// begin takes the write lock at once: a transaction that takes it at its first write can fail there.
func (*sqliteDialect) begin() *statement { return beginImmediate }

var beginImmediate = &statement{"BEGIN IMMEDIATE"}

func (*sqliteDialect) fault(err error) fault {
	var e *sqlite.Error
	var none *connectError
	if !errors.As(err, &e) {
		if errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.As(err, &none) {
			return unusable
		}
		return refused
	}
	switch e.Code() & 0xff { // the rest is detail
	case sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
		sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_NOTADB:
		return unusable
	default:
		return refused
	}
}

// committed counts pages, because the size of the log's file does not tell how much of it is in use.
func (d *sqliteDialect) committed(w writer) {
	_ = w.(*sqliteWriter).conn.Raw(func(conn any) error { // fails only if there is no such counter
		pages, _, err := conn.(sqlite.DBStatus).Status(sqlite.DBStatusCacheWrite, true)
		d.pages += pages
		return err
	})
	if d.pages >= walPages {
		d.pages = 0
		d.checkpointer.ask()
	}
}

// Free pages that are left in the file for what comes next, and those that one step gives back.
const (
	freePages   = 256
	shrinkPages = 256
)

func (*sqliteDialect) shrink(ctx context.Context, w writer) (more bool, err error) {
	c := w.(*sqliteWriter).conn
	var free int
	if err := c.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&free); err != nil {
		return false, fmt.Errorf("count free pages: %w", err)
	}
	if free <= freePages {
		return false, nil
	}
	if _, err := c.ExecContext(ctx, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", min(free-freePages, shrinkPages))); err != nil {
		return false, fmt.Errorf("give free pages back: %w", err)
	}
	// A file that was made elsewhere may not be able to: there it would be asked for ever.
	before := free
	if err := c.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&free); err != nil {
		return false, fmt.Errorf("count free pages: %w", err)
	}
	return free < before && free > freePages, nil
}
