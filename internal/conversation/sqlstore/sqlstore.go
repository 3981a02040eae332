// Package sqlstore keeps conversations and turns in an SQL database: SQLite, for one process.
//
// Reads run on a pool of connections, each a statement or two by key. Writes go through one goroutine, the committer,
// which does what is waiting in one transaction, because a durable commit costs about the same for one turn as for
// hundreds.
package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

//go:embed migrations
var migrations embed.FS

// Options are the settings of a store. The zero value is complete.
type Options struct {
	// Logger receives what happens in the background. Default: nothing is logged.
	Logger *slog.Logger
	// Now is the clock of what the store itself dates. Default: time.Now.
	Now func() time.Time

	// maxGroup bounds the items of a transaction, for benchmarks. Default: 512.
	maxGroup int
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.maxGroup == 0 {
		o.maxGroup = 512
	}
	return o
}

// DB is a conversation.Store in an SQL database.
type DB struct {
	log       *slog.Logger
	now       func() time.Time
	readers   *sql.DB
	reads     map[string]*sql.Stmt // by text; not changed after the start
	committer *committer
	purge     chan struct{} // wakes the purger; holds at most one

	stop       chan struct{} // closed when the background work is to end
	background sync.WaitGroup
	closeOnce  sync.Once
	closeErr   error
	release    func() error // closes the pools and gives up the lock
}

var _ conversation.Store = (*DB)(nil)

// open starts a store on a database whose schema is up to date. release is called last by Close.
func open(ctx context.Context, d dialect, readers, writer *sql.DB, o Options, release func() error) (*DB, error) {
	db := &DB{
		log:     o.Logger,
		now:     o.Now,
		readers: readers,
		reads:   make(map[string]*sql.Stmt),
		purge:   make(chan struct{}, 1),
		stop:    make(chan struct{}),
		release: release,
	}
	for _, text := range readTexts() {
		stmt, err := readers.PrepareContext(ctx, text) //nolint:sqlclosecheck // Close does
		if err != nil {
			return nil, fmt.Errorf("prepare %q: %w", text, err)
		}
		db.reads[text] = stmt
	}
	var owner conversation.ID
	_, _ = rand.Read(owner[:]) // never fails
	db.committer = newCommitter(d, writer, owner, o)
	db.background.Go(db.committer.run)
	db.background.Go(db.purgeDeleted)
	db.wakePurger() // what an earlier process left
	return db, nil
}

// Close waits for the group of writes that has begun, fails those that wait, and closes the database.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		close(db.stop)
		db.committer.close()
		db.background.Wait()
		var errs []error
		for _, stmt := range db.reads {
			errs = append(errs, stmt.Close())
		}
		db.closeErr = errors.Join(append(errs, db.release())...)
	})
	return db.closeErr
}

// Ping writes one row to find out whether the database takes it.
func (db *DB) Ping(ctx context.Context) error {
	return db.committer.try(ctx, "ping", &ping{now: db.now().UnixNano()})
}

// unavailable is the error of a database that cannot be used.
func unavailable(doing string, cause error) error {
	e := *conversation.ErrStoreUnavailable
	e.Cause = fmt.Errorf("%s: %w", doing, cause)
	return &e
}

var errClosed = errors.New("the store is closed")
