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
WHERE t.team = $1 AND t.id = $2 AND ` + turnNotDeleted + ` ORDER BY e.first LIMIT 256`

	getClaim = `SELECT c.turn, c.fingerprint FROM claims c WHERE c.team = $1 AND c.request_id = $2`
)

// Events returns some of the durable events of a turn.
func (db *DB) Events(
	ctx context.Context, team string, turn conversation.ID, after int64, maxBytes int,
) ([]conversation.Event, error) {
	var events []conversation.Event
	known, left := false, max(maxBytes, 1)
	err := db.read(ctx, "read events", readEvents, []any{team, turn[:], after, after + 1}, func(rows *sql.Rows) error {
		known = true
		var data sql.RawBytes
		if err := rows.Scan(&data); err != nil || data == nil {
			return err
		}
		var err error
		events, left, err = decodeEvents(events, data, after, left)
		if err == nil && left <= 0 {
			err = errEnough
		}
		return err
	})
	if err == nil && !known {
		return nil, conversation.ErrNotFound
	}
	return events, err
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
