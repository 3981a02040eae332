package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// How often the store looks for what has grown too old; and when it comes again if something could not be removed because a
// turn ran or another process was at it, and after an error.
const (
	sweepInterval  = time.Minute
	sweepBusy      = 5 * time.Second
	sweepElsewhere = time.Second
	keepRetry      = 10 * time.Second
)

// keep removes what is deleted, whenever it is woken, and what is too old, at the start and every minute, until the store
// is closed. It goes by small transactions, so it can be stopped anywhere; what is left is found again at the next start.
func (db *DB) keep() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	db.background.Go(func() {
		<-db.stop
		cancel()
	})
	k := &keeper{db: db, retention: db.retention}
	defer k.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	sweep := true
	for {
		if sweep {
			k.close() // it may have been dead for long
			timer.Reset(k.sweepAgain(ctx))
		}
		var soon time.Duration
		more, err := k.purgeSome(ctx)
		switch {
		case errors.Is(err, errKeptElsewhere):
			soon = sweepElsewhere
		case err != nil:
			soon = keepRetry
		}
		k.report("remove deleted rows", err)
		var purge <-chan time.Time
		if more || err != nil {
			purge = time.After(soon)
		}
		sweep = false
		select {
		case <-db.stop:
			return
		case <-db.purge:
		case <-purge:
		case <-timer.C:
			sweep = true
		}
	}
}

// sweepAgain sweeps, and returns when to come again.
func (k *keeper) sweepAgain(ctx context.Context) time.Duration {
	again, err := k.sweep(ctx)
	if err != nil {
		return keepRetry
	}
	return again
}

// report logs what could not be done: when it begins to be so, and then once an hour until it is done.
func (k *keeper) report(what string, err error) {
	select {
	case <-k.db.stop:
		return
	default:
	}
	switch {
	case err == nil:
		k.failing.over(what)
	case !errors.Is(err, errKeptElsewhere) && k.failing.due(what):
		k.db.log.Warn("upkeep of the database is left to be done later", slog.String("upkeep", what), slog.Any("error", err))
	}
}

// A seldom keeps what is true for long from being logged all the time: by one goroutine.
type seldom struct {
	every time.Duration // 0 is an hour
	last  map[string]time.Time
}

// due reports whether what is to be logged now, and takes it as done.
func (s *seldom) due(what string) bool {
	every := s.every
	if every == 0 {
		every = time.Hour
	}
	if last, ok := s.last[what]; ok && time.Since(last) < every {
		return false
	}
	if s.last == nil {
		s.last = make(map[string]time.Time)
	}
	s.last[what] = time.Now()
	return true
}

// over says that what is no longer true; the next time is a change.
func (s *seldom) over(what string) { delete(s.last, what) }

// errKeptElsewhere: another process removes rows at this moment.
var errKeptElsewhere = errors.New("another process is at it")

// A keeper removes what is to go. Two that are at it at once, in one process or in two, do no harm.
type keeper struct {
	db        *DB
	retention Retention
	// writer is the keeper's own connection, where it needs one; nil while there is none.
	writer *setWriter
	// The conversation up to which those that have expired were looked at, in this round.
	expiredTime int64
	expired     conversation.ID
	failing     seldom
}

// batch runs f in a transaction; f may be run twice. Where several processes share the database, only one of them at a time
// does this, on a connection that no turn waits for; the others get errKeptElsewhere. On SQLite there is only one
// connection that writes, so it is an item of a group.
func (k *keeper) batch(ctx context.Context, doing string, f maintenance) error {
	if k.db.dialect.shared() {
		return k.run(ctx, doing, f)
	}
	return k.db.committer.do(ctx, doing, f, 0)
}

// A maintenance is an op that does its work after all others of its group.
type maintenance func(context.Context, *setWriter) error

func (maintenance) want(*keys) {}

func (f maintenance) decide(g *group) error {
	g.then = append(g.then, f)
	return nil
}

// keeperLock is the key of the advisory lock that the process holds that removes rows.
const keeperLock = 0x63686174_6b656570

var lockKeeping = &statement{fmt.Sprintf(`SELECT pg_try_advisory_xact_lock(%d)`, keeperLock)}

// run is batch on the keeper's own connection.
func (k *keeper) run(ctx context.Context, doing string, f maintenance) (err error) {
	if k.writer == nil {
		w, err := k.db.dialect.connect(ctx)
		if err != nil {
			return fmt.Errorf("%s: connect: %w", doing, err)
		}
		k.writer = newSetWriter(w, k.db.dialect)
	}
	defer func() {
		if err != nil && !errors.Is(err, errKeptElsewhere) {
			k.close() // which rolls back
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", doing, err)
		}
	}()
	w := k.writer
	var locked bool
	w.do(k.db.dialect.begin(), nil, nil)
	if err := w.query(ctx, lockKeeping, func(row row) error { return row.Scan(&locked) }); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if !locked {
		return errors.Join(errKeptElsewhere, w.exec(ctx, rollbackStatement))
	}
	if err := f(ctx, w); err != nil {
		return err
	}
	if err := w.exec(ctx, commitStatement); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func (k *keeper) close() {
	if k.writer != nil {
		k.writer.close()
		k.writer = nil
	}
}
