// Package sqlstore keeps conversations, turns and their logs, and who may call, in an SQL database: SQLite, for one process, or
// PostgreSQL, for several.
//
// Reads run on a pool of connections, each a statement or two by key. Writes go through one goroutine, the committer,
// which does what is waiting in one transaction, because a durable commit costs about the same for one turn as for
// hundreds. On PostgreSQL each transaction first makes sure that this process was not given up for dead meanwhile.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// Options are the settings of a store. The zero value is complete.
type Options struct {
	// Logger receives what happens in the background. Default: nothing is logged.
	Logger *slog.Logger
	// Now is the clock of what the store itself dates. Default: time.Now.
	Now func() time.Time

	// Retention is how long content is kept that nobody deletes.
	Retention Retention

	// Retired: no turns are taken over, as after Retire; for a process that runs none.
	Retired bool

	// maxGroup bounds the items of a transaction, for benchmarks. Default: 512.
	maxGroup int
	// lease is how long a process counts as alive after it has last said so. It says so three times as often, and looks for
	// others twice as often as that. Shorter only in tests. Default: 6 s.
	lease time.Duration
	// patience is how long an answer of PostgreSQL is waited for, in addition to what round trips take. Shorter only in tests.
	// Default: 3 s.
	patience time.Duration
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
	if o.lease == 0 {
		o.lease = 6 * time.Second
	}
	if o.patience == 0 {
		o.patience = 3 * time.Second
	}
	o.Retention = o.Retention.withDefaults()
	return o
}

// DB is a conversation.Store and a tenant.Store in an SQL database.
type DB struct {
	log       *slog.Logger
	now       func() time.Time
	retention Retention
	dialect   dialect
	readers   *sql.DB
	reads     map[string]*sql.Stmt // by text; not changed after the start
	// readLimit is how long a read waits for its next row; 0 is for ever. PostgreSQL can be cut off without a word.
	readLimit func() time.Duration
	reading   sync.RWMutex // held by each read, and by Close
	committer *committer
	hub       *hub
	ownership *ownership
	// adopt makes the turns of earlier owners this one's, where there can be no other; nil where others take them.
	adopt   op
	retired atomic.Bool   // no turns are taken over any more
	purge   chan struct{} // wakes the purger; holds at most one

	stop       chan struct{} // closed when the background work is to end
	background sync.WaitGroup
	closeOnce  sync.Once
	closeErr   error
	giveUp     func(context.Context, owner) error // tells the others that the turns of an owner are theirs to take
	release    func() error                       // closes the pools and gives up the lock
}

var _ conversation.Store = (*DB)(nil)

// newDB returns a store on a database whose schema is up to date, not yet at work.
func newDB(d dialect, readers *sql.DB, own *ownership, o Options) *DB {
	db := &DB{
		log:       o.Logger,
		now:       o.Now,
		retention: o.Retention,
		dialect:   d,
		readers:   readers,
		reads:     make(map[string]*sql.Stmt),
		readLimit: func() time.Duration { return 0 },
		hub:       newHub(),
		ownership: own,
		purge:     make(chan struct{}, 1),
		stop:      make(chan struct{}),
		giveUp:    func(context.Context, owner) error { return nil },
	}
	db.retired.Store(o.Retired)
	db.committer = newCommitter(d, own, db.hub.wake, o)
	return db
}

// start begins the work in the background.
func (db *DB) start() {
	db.background.Go(db.committer.run)
	db.background.Go(db.keep)
}

// closePatience is how long Close waits for a database that can go away.
const closePatience = 2 * time.Second

// Close waits for the group of writes that has begun, fails those that wait, and closes the database. Turns that still run
// are given up, as by Release. A PostgreSQL that does not answer is not waited for: whether that group happened, or others
// know that its turns are theirs, is then open, and the lease decides.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		last, ok := db.ownership.release()
		close(db.stop)
		db.committer.close()
		ctx, cancel := context.WithTimeout(context.Background(), closePatience)
		defer cancel()
		if db.dialect.shared() {
			defer context.AfterFunc(ctx, db.committer.cut)()
		}
		db.background.Wait()
		var errs []error
		if ok {
			if err := db.giveUp(ctx, last); err != nil {
				db.log.Warn("the turns of this replica are taken over later: it could not say that it ends", slog.Any("error", err))
			}
		}
		for _, stmt := range db.reads {
			errs = append(errs, stmt.Close())
		}
		// A file is not closed before the last read has ended, and who opens it next would find it locked.
		if !db.dialect.shared() {
			db.reading.Lock()
			defer db.reading.Unlock()
		}
		db.closeErr = errors.Join(append(errs, db.release())...)
	})
	return db.closeErr
}

// Retire ends the taking over of turns.
func (db *DB) Retire() { db.retired.Store(true) }

// Release gives up all turns of this process.
func (db *DB) Release(ctx context.Context) error {
	last, ok := db.ownership.release()
	if !ok {
		return nil
	}
	if err := db.giveUp(ctx, last); err != nil {
		return unavailable("release", err)
	}
	return nil
}

// Subscribe returns a channel that gets a value after something about a turn or a conversation was written.
func (db *DB) Subscribe(id conversation.ID) (wake <-chan struct{}, stop func()) {
	return db.hub.subscribe(id)
}

// Ping writes one row to find out whether the database takes it. It also fails for some seconds after content was not
// taken, unless other content has been since.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.committer.try(ctx, "ping", &ping{now: db.now().UnixNano()}); err != nil {
		return err
	}
	if err := db.committer.takesContent(); err != nil {
		return unavailable("ping", err)
	}
	return nil
}

// unavailable is the error of a database that cannot be used.
func unavailable(doing string, cause error) error {
	e := *conversation.ErrStoreUnavailable
	e.Cause = fmt.Errorf("%s: %w", doing, cause)
	return &e
}

// notWritten is unavailable for a write of which certainly nothing happened.
func notWritten(doing string, cause error) error {
	return unavailable(doing, fmt.Errorf("%w: %w", conversation.ErrNotWritten, cause))
}

var errClosed = errors.New("the store is closed")
