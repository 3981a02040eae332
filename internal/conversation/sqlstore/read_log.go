package sqlstore

import (
	"context"
	"database/sql"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	// A row without events says that the turn is known. The search begins at the row in which the next event is, or would be.
	readEvents = `SELECT e.data FROM turns t LEFT JOIN events e
	ON e.turn = $2 AND e.last > $3
	AND e.first >= coalesce((SELECT max(x.first) FROM events x WHERE x.turn = $2 AND x.first <= $4), 0)
WHERE t.team = $1 AND t.id = $2 AND ` + turnNotDeleted + ` ORDER BY e.first LIMIT $5`

	getClaim = `SELECT c.turn, c.fingerprint FROM claims c WHERE c.team = $1 AND c.request_id = $2`
)

// maxEventRows is how many rows of events are read at once at most.
const maxEventRows = 256

// Events returns some of the durable events of a turn. What is not needed is not asked for, because PostgreSQL sends it all the
// same. So it first asks for no more rows than are needed if they are full, and if they were not, for many.
func (db *DB) Events(
	ctx context.Context, team string, turn conversation.ID, after int64, maxBytes int,
) ([]conversation.Event, error) {
	var events []conversation.Event
	known, left := false, max(maxBytes, 1)
	for limit := min(1+maxBytes/eventRowBytes, maxEventRows); ; limit = maxEventRows {
		n := 0
		err := db.read(ctx, "read events", readEvents, []any{team, turn[:], after, after + 1, limit}, func(rows *sql.Rows) error {
			known = true
			var data sql.RawBytes
			if err := rows.Scan(&data); err != nil || data == nil {
				return err
			}
			n++
			var err error
			events, left, err = decodeEvents(events, data, after, left)
			if err == nil && left <= 0 {
				err = errEnough
			}
			return err
		})
		switch {
		case err != nil:
			return nil, err
		case !known:
			return nil, conversation.ErrNotFound
		case left <= 0 || n < limit || limit == maxEventRows || len(events) == 0:
			return events, nil
		}
		after = events[len(events)-1].Sequence
	}
}

// GetClaim returns which turn has a request id.
func (db *DB) GetClaim(ctx context.Context, team, requestID string) (*conversation.Claim, error) {
	var claim *conversation.Claim
	err := db.read(ctx, "read claim", getClaim, []any{team, []byte(requestID)}, func(rows *sql.Rows) error {
		c := new(conversation.Claim)
		var fingerprint sql.RawBytes
		if err := rows.Scan((*idColumn)(&c.Turn), &fingerprint); err != nil {
			return err
		}
		copy(c.Fingerprint[:], fingerprint)
		claim = c
		return nil
	})
	if err == nil && claim == nil {
		return nil, conversation.ErrNotFound
	}
	return claim, err
}
