package tenant_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/chatsvc/chatsvc/internal/conversation/sqlstore"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openStore returns an empty store.
func openStore(t *testing.T) tenant.Store {
	t.Helper()
	db, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "chatsvc.db"), sqlstore.Options{})
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

var errDown = errors.New("the database is down")

// A script is a Store that answers as a test says; what it does not say is asked of the Store that is embedded, if there is one.
type script struct {
	tenant.Store
	changes func(ctx context.Context, after tenant.Head) (*tenant.Changes, error)
	put     func(ctx context.Context, c *tenant.Change, e *tenant.Entry) error
	record  func(ctx context.Context, e *tenant.Entry, once bool) error
	head    func(ctx context.Context) (tenant.Head, error)
	wake    chan struct{}
}

func (s *script) Changes(ctx context.Context, after tenant.Head) (*tenant.Changes, error) {
	if s.changes == nil {
		return s.Store.Changes(ctx, after)
	}
	return s.changes(ctx, after)
}

func (s *script) Put(ctx context.Context, c *tenant.Change, e *tenant.Entry) error {
	if s.put == nil {
		return s.Store.Put(ctx, c, e)
	}
	return s.put(ctx, c, e)
}

func (s *script) Record(ctx context.Context, e *tenant.Entry, once bool) error {
	if s.record == nil {
		return s.Store.Record(ctx, e, once)
	}
	return s.record(ctx, e, once)
}

func (s *script) Head(ctx context.Context) (tenant.Head, error) {
	if s.head == nil {
		return s.Store.Head(ctx)
	}
	return s.head(ctx)
}

func (s *script) Changed() (<-chan struct{}, func()) {
	if s.wake == nil {
		return s.Store.Changed()
	}
	return s.wake, func() {}
}

// A logBook is where a logger of a test writes.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// count is how many lines have a text in them.
func (b *logBook) count(text string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.text.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}
