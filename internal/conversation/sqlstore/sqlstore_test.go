package sqlstore

import (
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/conversation/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openAt(tb testing.TB, path string, o Options) *DB {
	tb.Helper()
	db, err := OpenSQLite(tb.Context(), path, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

func openNew(tb testing.TB) *DB {
	tb.Helper()
	return openAt(tb, filepath.Join(tb.TempDir(), "data", "chatsvc.db"), Options{})
}

// pathOf returns the file of db.
func pathOf(db *DB) string {
	return strings.TrimSuffix(db.committer.dialect.(*sqliteDialect).checkpointer.wal, "-wal")
}

func openStore(t *testing.T) conversation.Store {
	t.Helper()
	return openNew(t)
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, openStore)
}

func TestStoreReopened(t *testing.T) {
	t.Parallel()
	storetest.RunReopen(t, storetest.Factory{
		Open: openStore,
		Reopen: func(t *testing.T, s conversation.Store) conversation.Store {
			t.Helper()
			db := s.(*DB)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			return openAt(t, pathOf(db), Options{})
		},
	})
}
