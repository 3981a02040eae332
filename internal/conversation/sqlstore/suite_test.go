package sqlstore

import (
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/conversation/storetest"
	"github.com/chatsvc/chatsvc/internal/tenant"
	"github.com/chatsvc/chatsvc/internal/tenant/tenanttest"
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

func TestTenantsSQLite(t *testing.T) {
	t.Parallel()
	tenanttest.Run(t, func(t *testing.T) tenant.Store {
		t.Helper()
		return openNew(t)
	})
	tenanttest.RunReopen(t, tenanttest.Factory{
		Open: func(t *testing.T) tenant.Store {
			t.Helper()
			return openNew(t)
		},
		Close: closeTenants,
		Reopen: func(t *testing.T, s tenant.Store) tenant.Store {
			t.Helper()
			return openAt(t, pathOf(s.(*DB)), Options{})
		},
	})
}

func TestTenantsPostgres(t *testing.T) {
	t.Parallel()
	tenanttest.Run(t, func(t *testing.T) tenant.Store {
		t.Helper()
		return openNewPostgres(t)
	})
	tenanttest.RunReopen(t, tenanttest.Factory{
		Open: func(t *testing.T) tenant.Store {
			t.Helper()
			return openNewPostgres(t)
		},
		Close: closeTenants,
		Reopen: func(t *testing.T, s tenant.Store) tenant.Store {
			t.Helper()
			return openURL(t, s.(*DB).dialect.(*postgresDialect).server.config.ConnString(), Options{})
		},
	})
	tenanttest.RunReplicas(t, func(t *testing.T) (first, second tenant.Store) {
		t.Helper()
		url := migrated(t)
		return openURL(t, url, Options{}), openURL(t, url, Options{})
	})
}

func closeTenants(t *testing.T, s tenant.Store) {
	t.Helper()
	closeStore(t, s.(*DB))
}
