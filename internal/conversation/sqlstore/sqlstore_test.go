package sqlstore

import (
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/chatsvc/chatsvc/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func closeAtCleanup(tb testing.TB, db *DB) *DB {
	tb.Helper()
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

// openAt opens a SQLite file.
func openAt(tb testing.TB, path string, o Options) *DB {
	tb.Helper()
	db, err := OpenSQLite(tb.Context(), path, o)
	if err != nil {
		tb.Fatal(err)
	}
	return closeAtCleanup(tb, db)
}

// openNew opens a new SQLite file.
func openNew(tb testing.TB) *DB {
	tb.Helper()
	return openAt(tb, filepath.Join(tb.TempDir(), "data", "chatsvc.db"), Options{})
}

// pathOf returns the file of db.
func pathOf(db *DB) string {
	return strings.TrimSuffix(db.dialect.(*sqliteDialect).checkpointer.wal, "-wal")
}

// migrated returns a new PostgreSQL database with the schema, on the server that all tests share.
func migrated(tb testing.TB) string {
	tb.Helper()
	return pgtest.Clone(tb, "sqlstore", func(url string) error {
		_, _, err := MigratePostgres(tb.Context(), url, Options{})
		return err
	})
}

// openURL opens a PostgreSQL database.
func openURL(tb testing.TB, url string, o Options) *DB {
	tb.Helper()
	db, err := OpenPostgres(tb.Context(), url, o)
	if err != nil {
		tb.Fatal(err)
	}
	return closeAtCleanup(tb, db)
}

// openNewPostgres opens a new PostgreSQL database.
func openNewPostgres(tb testing.TB) *DB {
	tb.Helper()
	return openURL(tb, migrated(tb), Options{})
}

// onEngines runs a test on a new store of each engine.
func onEngines(t *testing.T, test func(*testing.T, *DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, openNew(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, openNewPostgres(t))
	})
}
