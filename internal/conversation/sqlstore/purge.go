package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// What one transaction removes at most, so that the turns of its group do not wait long for it.
const (
	purgeRows  = 500
	purgeBytes = 8 << 20
)

// purgeRetry is how long the purger waits after an error.
const purgeRetry = 10 * time.Second

func (db *DB) wakePurger() {
	select {
	case db.purge <- struct{}{}:
	default:
	}
}

// purgeDeleted removes the rows of deleted conversations, batch by batch, whenever it is woken.
func (db *DB) purgeDeleted() {
	ctx := context.Background()
	var retry <-chan time.Time
	for {
		select {
		case <-db.stop:
			return
		case <-db.purge:
		case <-retry:
		}
		retry = nil
		for more := true; more; {
			batch := &purgeBatch{rows: purgeRows, bytes: purgeBytes}
			if err := db.committer.do(ctx, "remove deleted rows", batch, 0); err != nil {
				select {
				case <-db.stop:
				default:
					db.log.Warn("rows of deleted conversations are left for later", slog.Any("error", err))
				}
				retry = time.After(purgeRetry)
				break
			}
			more = batch.more
		}
	}
}

// A purgeBatch removes some rows of a deleted conversation, or, when there are none, gives free pages back.
type purgeBatch struct {
	rows, bytes int // what may still be removed
	more        bool
}

func (*purgeBatch) want(*keys) {}

func (o *purgeBatch) decide(g *group) error {
	b := *o // decided again, it starts with the whole allowance
	g.then = append(g.then, func(ctx context.Context, w *writer) (err error) {
		o.more, err = b.run(ctx, w)
		return err
	})
	return nil
}

func (o *purgeBatch) run(ctx context.Context, w *writer) (more bool, err error) {
	var deleted conversation.ID
	err = w.query(ctx, `SELECT conversation FROM deletions ORDER BY conversation LIMIT 1`, func(rows *sql.Rows) error {
		return rows.Scan((*idColumn)(&deleted))
	})
	if err != nil {
		return false, fmt.Errorf("read deletions: %w", err)
	}
	if deleted.IsZero() {
		return w.dialect.shrink(ctx, w.conn)
	}
	if err := o.removeMessages(ctx, w, deleted); err != nil {
		return false, err
	}
	done, err := o.removeTurns(ctx, w, deleted)
	if err != nil || !done {
		return true, err
	}
	if err := w.exec(ctx, `DELETE FROM deletions WHERE conversation = $1`, deleted[:]); err != nil {
		return false, fmt.Errorf("end deletion: %w", err)
	}
	return true, nil
}

func (o *purgeBatch) full() bool { return o.rows <= 0 || o.bytes <= 0 }

// removeMessages removes the first messages of a branch, as many as are allowed.
func (o *purgeBatch) removeMessages(ctx context.Context, w *writer, branch conversation.ID) error {
	last := int64(-1)
	err := w.query(ctx, `SELECT position, length(content) FROM messages WHERE branch = $1 ORDER BY position LIMIT $2`,
		func(rows *sql.Rows) error {
			var position int64
			var size int
			if err := rows.Scan(&position, &size); err != nil || o.full() {
				return err
			}
			last = position
			o.rows--
			o.bytes -= size
			return nil
		}, branch[:], o.rows)
	if err == nil && last >= 0 {
		err = w.exec(ctx, `DELETE FROM messages WHERE branch = $1 AND position <= $2`, branch[:], last)
	}
	if err != nil {
		return fmt.Errorf("remove messages: %w", err)
	}
	return nil
}

// removeTurns removes the first turns of a conversation with the branches of their own, as many as are allowed, and
// reports whether that were all.
func (o *purgeBatch) removeTurns(ctx context.Context, w *writer, deleted conversation.ID) (all bool, err error) {
	if o.full() {
		return false, nil
	}
	var keys []any
	var branches []conversation.ID
	err = w.query(ctx, `SELECT team, id, branch FROM turns WHERE conversation = $1 ORDER BY id LIMIT $2`, func(rows *sql.Rows) error {
		var team string
		var id, branch conversation.ID
		if err := rows.Scan(&team, (*idColumn)(&id), (*idColumn)(&branch)); err != nil {
			return err
		}
		keys = append(keys, team, id[:])
		branches = append(branches, branch)
		return nil
	}, deleted[:], o.rows)
	if err != nil {
		return false, fmt.Errorf("read turns: %w", err)
	}
	turns := 0
	for _, branch := range branches {
		if branch != deleted {
			if err := o.removeMessages(ctx, w, branch); err != nil {
				return false, err
			}
		}
		if o.full() {
			break // there may be more messages
		}
		if branch != deleted {
			if err := w.exec(ctx, `DELETE FROM branches WHERE id = $1`, branch[:]); err != nil {
				return false, fmt.Errorf("remove branch: %w", err)
			}
			o.rows--
		}
		o.rows--
		turns++
	}
	if err := w.execSet(ctx, deleteTurns, keys[:2*turns]); err != nil {
		return false, fmt.Errorf("remove turns: %w", err)
	}
	return turns == len(branches) && !o.full(), nil
}
