package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
)

const (
	// walPages is the number of pages in the write-ahead log that makes it worth emptying: 16 MiB.
	walPages = 4096
	// walTruncateBytes is the size of the log's file above which it is not kept for reuse.
	walTruncateBytes = 64 << 20
)

// A checkpointer moves what stands in SQLite's write-ahead log to the database file, off the committing path. Left to
// SQLite, a commit now and then would do it, and all that wait for the commit with it.
type checkpointer struct {
	pool *sql.DB
	wal  string
	log  *slog.Logger
	wake chan struct{} // holds at most one
}

func (c *checkpointer) ask() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run makes a checkpoint whenever it is asked to, until stop is closed. exclusively keeps the committer waiting.
func (c *checkpointer) run(stop <-chan struct{}, exclusively func(func())) {
	ctx := context.Background()
	for {
		select {
		case <-stop:
			return
		case <-c.wake:
		}
		// The bulk is copied while commits go on; the rest, and the log's start from its beginning, take a moment without.
		// The second time, only what was committed during the first is left.
		err := errors.Join(c.checkpoint(ctx, "PASSIVE"), c.checkpoint(ctx, "PASSIVE"))
		if err == nil {
			exclusively(func() {
				mode := "RESTART"
				if info, err := os.Stat(c.wal); err == nil && info.Size() > walTruncateBytes {
					mode = "TRUNCATE"
				}
				err = c.checkpoint(ctx, mode)
			})
		}
		if err != nil {
			c.log.Warn("the write-ahead log was not checkpointed and grows on", slog.Any("error", err))
		}
	}
}

// checkpoint reports no error when readers keep it from finishing: the next one does.
func (c *checkpointer) checkpoint(ctx context.Context, mode string) error {
	var busy, frames, done int
	if err := c.pool.QueryRowContext(ctx, "PRAGMA wal_checkpoint("+mode+")").Scan(&busy, &frames, &done); err != nil {
		return fmt.Errorf("checkpoint %s: %w", mode, err)
	}
	return nil
}
