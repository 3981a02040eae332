package turn

import (
	"path/filepath"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/conversation/sqlstore"
	"github.com/chatsvc/chatsvc/internal/pgtest"
)

// openStore opens a store of its own for a test.
func openStore(t *testing.T) conversation.Store {
	t.Helper()
	return openFile(t, filepath.Join(t.TempDir(), "test.db"))
}

func openFile(t *testing.T, path string) conversation.Store {
	t.Helper()
	db, err := sqlstore.OpenSQLite(t.Context(), path, sqlstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// openReplicas opens a database for several processes, in each of n of them.
func openReplicas(t *testing.T, n int) (stores []conversation.Store) {
	t.Helper()
	url := pgtest.Clone(t, "turn", func(url string) error {
		_, _, err := sqlstore.MigratePostgres(t.Context(), url, sqlstore.Options{})
		return err
	})
	for range n {
		db, err := sqlstore.OpenPostgres(t.Context(), url, sqlstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		stores = append(stores, db)
	}
	return stores
}
