package sqlstore

import (
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/conversation/storetest"
)

func TestStoreSQLite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) conversation.Store {
		t.Helper()
		return openNew(t)
	})
}

func TestStoreReopenedSQLite(t *testing.T) {
	t.Parallel()
	storetest.RunReopen(t, storetest.Factory{
		Open: func(t *testing.T) conversation.Store {
			t.Helper()
			return openNew(t)
		},
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

func TestStoreReopenedPostgres(t *testing.T) {
	t.Parallel()
	storetest.RunReopen(t, storetest.Factory{
		Open: func(t *testing.T) conversation.Store {
			t.Helper()
			return openNewPostgres(t)
		},
		Reopen: func(t *testing.T, s conversation.Store) conversation.Store {
			t.Helper()
			db := s.(*DB)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			return openURL(t, db.dialect.(*postgresDialect).server.config.ConnString(), Options{})
		},
	})
}

func TestOwnersPostgres(t *testing.T) {
	t.Parallel()
	storetest.RunOwners(t, func(t *testing.T) (first, second conversation.Store) {
		t.Helper()
		url := migrated(t)
		return openURL(t, url, Options{}), openURL(t, url, Options{})
	})
}

func TestStorePostgres(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) conversation.Store {
		t.Helper()
		return openNewPostgres(t)
	})
}
