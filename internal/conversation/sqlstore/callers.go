package sqlstore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// leftByCallers is what is true of a turn r that is to be cancelled because the processes in which it was read have died. A
// turn whose owner has died, too, is not: whoever takes it over ends it.
const leftByCallers = `r.counted = 1 AND r.cancel = 0 AND r.takeovers = 0
	AND EXISTS (SELECT 1 FROM replicas p WHERE p.id = r.owner AND p.epoch = r.epoch)
	AND NOT EXISTS (
		SELECT 1 FROM callers c JOIN replicas p ON p.id = c.replica WHERE c.turn = r.turn AND p.heartbeat > '-infinity')`

// Whoever comes back to a turn locks its row. So rows are locked first, and then looked at again by a statement that sees
// what was committed until then.
const (
	lockLeft   = `SELECT r.turn FROM running r WHERE ` + leftByCallers + ` LIMIT $1 FOR UPDATE SKIP LOCKED`
	cancelLeft = `UPDATE running r SET cancel = 1 WHERE r.turn = ANY($1) AND ` + leftByCallers
)

// forgetCallers asks for turns to be cancelled that nobody reads any more whose process lives.
func (r *replica) forgetCallers(ctx context.Context) error {
	var cancelled int64
	err := pgx.BeginFunc(ctx, r.conn, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, lockLeft, takeAtOnce)
		if err != nil {
			return err
		}
		turns, err := pgx.CollectRows(rows, pgx.RowTo[pgtype.UUID])
		if err != nil || len(turns) == 0 {
			return err
		}
		tag, err := tx.Exec(ctx, cancelLeft, turns)
		cancelled = tag.RowsAffected()
		return err
	})
	if err != nil {
		return fmt.Errorf("forget callers of the dead: %w", err)
	}
	if cancelled > 0 {
		r.db.committer.wake([]conversation.ID{dutiesID})
	}
	return nil
}
