package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// readConns is the size of the pool of reading connections. The work is in this process, so more than a few only wait.
const readConns = 8

// OpenSQLite opens the database file at path, and makes it and its folder if there is none. The schema is brought up to
// date first. While the store is open, a lock on the file path.lock keeps other processes out.
func OpenSQLite(ctx context.Context, path string, o Options) (*DB, error) {
	o = o.withDefaults()
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db, err := openSQLite(ctx, path, o)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return db, nil
}

func openSQLite(ctx context.Context, path string, o Options) (_ *DB, err error) {
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
	// The lock is of the file and not of one of its names.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	lock := flock.New(path+".lock", flock.SetPermissions(0o600))
	if locked, err := lock.TryLock(); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
	} else if !locked {
		return nil, fmt.Errorf("another process uses it (%s is locked)", lock.Path())
	}
	closers := []func() error{lock.Close} // run backwards
	release := func() error {
		var errs []error
		for _, f := range slices.Backward(closers) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			_ = release() // what went wrong first says more
		}
	}()
	// The last connection to be closed empties the write-ahead log into the database.
	pools := make([]*sql.DB, 3)
	for i, pool := range []struct {
		params url.Values
		conns  int
	}{
		{writerParams(), 1},
		{checkpointerParams(), 1},
		{readerParams(), readConns},
	} {
		db, err := sql.Open("sqlite", sqliteDSN(path, pool.params))
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(pool.conns)
		db.SetMaxIdleConns(pool.conns)
		closers = append(closers, db.Close)
		pools[i] = db
	}
	writer, readers := pools[0], pools[2]
	if err := migrate(ctx, goose.DialectSQLite3, writer, "migrations/sqlite", o.Logger); err != nil {
		return nil, err
	}
	cp := &checkpointer{pool: pools[1], wal: path + "-wal", log: o.Logger, wake: make(chan struct{}, 1)}
	db, err := open(ctx, &sqliteDialect{checkpointer: cp}, readers, writer, o, release)
	if err != nil {
		return nil, err
	}
	db.background.Go(func() { cp.run(db.stop, db.committer.exclusively) })
	return db, nil
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

// migrate brings the schema up to date, and refuses one that is newer than this program.
func migrate(ctx context.Context, d goose.Dialect, db *sql.DB, dir string, log *slog.Logger) error {
	files, err := fs.Sub(migrations, dir)
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(d, db, files, goose.WithSlog(log), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if have > want {
		return fmt.Errorf("its schema is version %d, but this program knows only up to %d: run a newer one", have, want)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// sqliteDialect is SQLite's half of the store.
type sqliteDialect struct {
	checkpointer *checkpointer
	pages        int // written since the last checkpoint was asked for
}

func (*sqliteDialect) placeholder(b []byte, _ int) []byte { return append(b, '?') }

// begin takes the write lock at once: a transaction that takes it at its first write can fail there.
func (*sqliteDialect) begin() string { return "BEGIN IMMEDIATE" }

func (*sqliteDialect) unavailable(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone)
	}
	switch e.Code() & 0xff { // the rest is detail
	case sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
		sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_NOTADB:
		return true
	default:
		return false
	}
}

// committed counts pages, because the size of the log's file does not tell how much of it is in use.
func (d *sqliteDialect) committed(c *sql.Conn) {
	_ = c.Raw(func(conn any) error { // fails only if there is no such counter
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

func (*sqliteDialect) shrink(ctx context.Context, c *sql.Conn) (more bool, err error) {
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
