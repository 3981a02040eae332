package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	narrowTurnColumns = `t.id, t.team, t.client, t.conversation, t.parent, t.state, t.on_disconnect, t.trace_id, t.create_time, t.end_time,
	t.request_id`

	turnColumns = narrowTurnColumns + `, t.labels, t.result`

	turnNotDeleted = `NOT EXISTS (SELECT 1 FROM deletions d WHERE d.conversation = t.conversation)`

	getTurn = `SELECT ` + turnColumns + ` FROM turns t WHERE t.team = $1 AND t.id = $2 AND ` + turnNotDeleted

	// One statement, because between two the turn could end and its messages move. The wide columns of the turn come with
	// the first message only.
	getTurnContent = `SELECT ` + narrowTurnColumns + `,
	CASE WHEN m.position > t.position THEN NULL ELSE t.labels END, CASE WHEN m.position > t.position THEN NULL ELSE t.result END,
	t.inputs, m.position - t.position, m.id, m.role, m.content
FROM turns t LEFT JOIN messages m
	ON m.branch = t.branch AND m.position >= t.position AND m.position < t.position + t.inputs + t.outputs
WHERE t.team = $1 AND t.id = $2 AND ` + turnNotDeleted + ` ORDER BY m.position`

	listTeamTurns = `SELECT ` + turnColumns + ` FROM turns t
WHERE t.team = $1 AND t.id < $2 AND ` + turnNotDeleted + ` ORDER BY t.id DESC LIMIT $3`

	listConversationTurns = `SELECT ` + turnColumns + ` FROM turns t
WHERE t.team = $1 AND t.conversation = $2 AND t.id < $3 AND ` + turnNotDeleted + ` ORDER BY t.id DESC LIMIT $4`
)

// GetTurn returns a turn.
func (db *DB) GetTurn(ctx context.Context, team string, id conversation.ID, content bool) (*conversation.Turn, error) {
	var turn *conversation.Turn
	var err error
	if content {
		err = db.read(ctx, "read turn", getTurnContent, []any{team, id[:]}, func(rows *sql.Rows) error {
			return addTurnRow(&turn, rows)
		})
	} else {
		err = db.read(ctx, "read turn", getTurn, []any{team, id[:]}, func(rows *sql.Rows) (err error) {
			turn, err = scanTurn(rows)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	if turn == nil {
		return nil, conversation.ErrNotFound
	}
	return turn, nil
}

// ListTurns returns turns by falling id.
func (db *DB) ListTurns(
	ctx context.Context, team string, in conversation.ID, before conversation.ID, limit int,
) ([]*conversation.Turn, error) {
	if limit <= 0 {
		return nil, nil
	}
	var turns []*conversation.Turn
	text, args := listTeamTurns, []any{team, bound(before), limit}
	if !in.IsZero() {
		text, args = listConversationTurns, []any{team, in[:], bound(before), limit}
	}
	err := db.read(ctx, "read turns", text, args, func(rows *sql.Rows) error {
		t, err := scanTurn(rows)
		if err == nil {
			turns = append(turns, t)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(turns) == 0 && !in.IsZero() {
		known := false
		err := db.read(ctx, "read conversation", conversationExists, []any{team, in[:]}, func(*sql.Rows) error {
			known = true
			return nil
		})
		if err != nil {
			return nil, err
		}
		if !known {
			return nil, conversation.ErrNotFound
		}
	}
	return turns, nil
}

// scanTurn reads a row of turnColumns, and then more.
func scanTurn(rows *sql.Rows, more ...any) (*conversation.Turn, error) {
	t := new(conversation.Turn)
	var created, ended int64
	var requestID, labels, result sql.RawBytes
	dest := append([]any{
		(*idColumn)(&t.ID), &t.Team, &t.Client, (*idColumn)(&t.Conversation), (*idColumn)(&t.Parent), &t.State, &t.OnDisconnect,
		(*idColumn)(&t.TraceID), &created, &ended, &requestID, &labels, &result,
	}, more...)
	if err := rows.Scan(dest...); err != nil {
		return nil, fmt.Errorf("scan turn: %w", err)
	}
	t.RequestID = string(requestID)
	t.CreateTime, t.EndTime = fromNanos(created), fromNanos(ended)
	if len(labels) > 0 {
		if err := decode("labels", labels, &t.Labels); err != nil {
			return nil, err
		}
	}
	if len(result) > 0 {
		if err := decode("result", result, &t.Result); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// addTurnRow reads a row of getTurnContent: the first makes *turn, all add their message to it.
func addTurnRow(turn **conversation.Turn, rows *sql.Rows) error {
	var inputs int64
	var index, role sql.NullInt64
	var m conversation.Message
	var content sql.RawBytes
	t, err := scanTurn(rows, &inputs, &index, (*idColumn)(&m.ID), &role, &content)
	if err != nil {
		return err
	}
	if *turn == nil {
		*turn = t
	}
	if !index.Valid {
		return nil
	}
	m.Role = conversation.Role(role.Int64) //nolint:gosec // as stored
	if err := decodeMessage(content, &m); err != nil {
		return err
	}
	if index.Int64 < inputs {
		(*turn).Input = append((*turn).Input, m)
	} else {
		(*turn).Output = append((*turn).Output, m)
	}
	return nil
}
