package sqlstore

import (
	"context"
	"fmt"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// leftByCallers is what is true of a turn r that is to be cancelled because the processes in which it was read have died. A
// turn whose owner has died, too, is not: whoever takes it over ends it.
const leftByCallers = `r.counted = 1 AND r.cancel = 0 AND r.takeovers = 0
	AND EXISTS (SELECT 1 FROM replicas p WHERE p.id = r.owner AND p.epoch = r.epoch)
	AND NOT EXISTS (
		SELECT 1 FROM callers c JOIN replicas p ON p.id = c.replica WHERE c.turn = r.turn AND p.heartbeat > '-infinity')`

// A turn that somebody comes back to at this moment is left for the next round, or it is too late for him.
const cancelLeft = `WITH l AS MATERIALIZED (
	SELECT r.turn FROM running r WHERE ` + leftByCallers + ` LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE running SET cancel = 1 FROM l WHERE running.turn = l.turn`

// forgetCallers asks for turns to be cancelled that nobody reads any more whose process lives.
func (r *replica) forgetCallers(ctx context.Context) error {
	tag, err := r.conn.Exec(ctx, cancelLeft, takeAtOnce)
	if err != nil {
		return fmt.Errorf("forget callers of the dead: %w", err)
	}
	if tag.RowsAffected() > 0 {
		r.db.committer.wake([]conversation.ID{dutiesID})
	}
	return nil
}
