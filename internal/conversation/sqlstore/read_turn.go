package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/uuid"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	narrowTurnColumns = `t.id, t.team, t.client, t.conversation, t.parent, t.state, t.on_disconnect, t.trace_id,
	t.create_time, t.end_time, t.request_id, t.branch, t.position + t.inputs + t.outputs, t.end_tokens`

	turnColumns = narrowTurnColumns + `, t.labels, t.result`

	turnNotDeleted = `NOT EXISTS (SELECT 1 FROM deletions d WHERE d.conversation = t.conversation)`

	getTurn = `SELECT ` + turnColumns + ` FROM turns t WHERE t.team = $1 AND t.id = $2 AND ` + turnNotDeleted

	getNarrowTurn = `SELECT ` + narrowTurnColumns + `, NULL, NULL FROM turns t WHERE t.team = $1 AND t.id = $2 AND ` + turnNotDeleted

	// One statement, because between two the turn could end and its messages move. The wide columns of the turn come with
	// the first message only.
	getTurnContent = `SELECT ` + narrowTurnColumns + `,
	CASE WHEN m.position > t.position THEN NULL ELSE t.labels END,
	CASE WHEN m.position > t.position THEN NULL ELSE t.result END,
	t.inputs, m.position - t.position, m.id, m.role, m.content
FROM turns t LEFT JOIN messages m
	ON m.branch = t.branch AND m.position >= t.position AND m.position < t.position + t.inputs + t.outputs
WHERE t.team = $1 AND t.id = $2 AND ` + turnNotDeleted + ` ORDER BY m.position`

	listTeamTurns = `SELECT ` + turnColumns + ` FROM turns t
WHERE t.team = $1 AND t.id < $2 AND ` + turnNotDeleted + ` ORDER BY t.id DESC LIMIT $3`

	listConversationTurns = `SELECT ` + turnColumns + ` FROM turns t
WHERE t.team = $1 AND t.conversation = $2 AND t.id < $3 AND ` + turnNotDeleted + ` ORDER BY t.id DESC LIMIT $4`

	listRequestTurns = `SELECT ` + turnColumns + ` FROM turns t
WHERE t.team = $1 AND t.request_id = $2 AND t.id < $3 AND ` + turnNotDeleted + ` ORDER BY t.id DESC LIMIT $4`

	listConversationRequestTurns = `SELECT ` + turnColumns + ` FROM turns t
WHERE t.team = $1 AND t.conversation = $2 AND t.request_id = $5 AND t.id < $3 AND ` + turnNotDeleted + `
ORDER BY t.id DESC LIMIT $4`

	// The place before the input is where its first message stands. The input is counted before it is read.
	getTaken = `SELECT r.team, r.conversation, r.line, r.queue, r.branch, r.start, coalesce(m.tokens_before, r.tokens),
	r.cancel, r.takeovers, r.deadline, r.overrides,
	(SELECT sum(length(i.content)) FROM messages i WHERE i.branch = r.branch AND i.position >= r.start AND i.position < r.position)
FROM running r LEFT JOIN messages m ON m.branch = r.branch AND m.position = r.start WHERE r.turn = $1 AND r.owner = $2 AND r.epoch = $3`
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
	ctx context.Context, team string, filter conversation.TurnFilter, before conversation.ID, limit int,
) ([]*conversation.Turn, error) {
	if limit <= 0 {
		return nil, nil
	}
	var turns []*conversation.Turn
	text, args := listTeamTurns, []any{team, bound(before), limit}
	switch in := filter.Conversation; {
	case !in.IsZero() && filter.RequestID != "":
		text, args = listConversationRequestTurns, []any{team, in[:], bound(before), limit, []byte(filter.RequestID)}
	case !in.IsZero():
		text, args = listConversationTurns, []any{team, in[:], bound(before), limit}
	case filter.RequestID != "":
		text, args = listRequestTurns, []any{team, []byte(filter.RequestID), bound(before), limit}
	}
	err := db.read(ctx, "read turns", text, args, func(rows *sql.Rows) error {
		t, err := scanTurn(rows)
		if err == nil {
			turns = append(turns, t)
		}
		return err
	})
	if err == nil && len(turns) == 0 && !filter.Conversation.IsZero() {
		err = db.mustExist(ctx, team, filter.Conversation)
	}
	return turns, err
}

// taken returns the running and waiting turns among ids that an owner has taken over: the first, and then as many as have
// takenBytes of input together.
func (db *DB) taken(ctx context.Context, o owner, ids []conversation.ID) ([]*conversation.Taken, error) {
	taken := make([]*conversation.Taken, 0, len(ids))
	left := takenBytes
	for _, id := range ids {
		t, team, size, err := db.takenRun(ctx, o, id)
		if t == nil && err == nil {
			continue // it has ended, or is another's by now
		}
		if left -= size; left < 0 && len(taken) > 0 {
			break
		}
		if err == nil {
			t.Turn, err = db.GetTurn(ctx, team, id, true)
		}
		if errors.Is(err, errUnreadable) { // which must not keep the others from being taken
			db.log.ErrorContext(ctx, "a turn that was taken over cannot be read, and can only be ended", slog.Any("turn", uuid.UUID(id)), slog.Any("error", err))
			t.Unreadable = true
			t.Turn, err = db.narrowTurn(ctx, team, id)
		}
		switch {
		case errors.Is(err, conversation.ErrNotFound):
			continue // it has ended since, and is deleted
		case err != nil:
			return nil, err
		}
		taken = append(taken, t)
	}
	return taken, nil
}

// narrowTurn returns what identifies a turn, and nothing that was encoded.
func (db *DB) narrowTurn(ctx context.Context, team string, id conversation.ID) (turn *conversation.Turn, err error) {
	err = db.read(ctx, "read turn", getNarrowTurn, []any{team, id[:]}, func(rows *sql.Rows) (err error) {
		turn, err = scanTurn(rows)
		return err
	})
	if err == nil && turn == nil {
		err = conversation.ErrNotFound
	}
	return turn, err
}

// takenRun returns what the row of a running turn of an owner says, and how many bytes of input it has; nil if there is none.
func (db *DB) takenRun(
	ctx context.Context, o owner, id conversation.ID,
) (t *conversation.Taken, team string, size int, err error) {
	err = db.read(ctx, "read taken turn", getTaken, []any{id[:], o.id[:], o.epoch}, func(rows *sql.Rows) error {
		t = new(conversation.Taken)
		var in, line, queue conversation.ID
		var cancel, deadline int64
		var overrides sql.RawBytes
		var input sql.NullInt64
		if err := rows.Scan(&team, (*idColumn)(&in), (*idColumn)(&line), (*idColumn)(&queue), (*idColumn)(&t.Base.Branch),
			&t.Base.Position, &t.Base.Tokens, &cancel, &t.Takeovers, &deadline, &overrides, &input); err != nil {
			return err
		}
		if in.IsZero() || !queue.IsZero() {
			t.Base = conversation.Place{}
		}
		t.Fork = !in.IsZero() && line.IsZero() && queue.IsZero()
		t.Cancel, t.Deadline = cancel != 0, fromNanos(deadline)
		size = int(input.Int64)
		if len(overrides) > 0 {
			return decode("overrides", overrides, &t.Overrides)
		}
		return nil
	})
	return t, team, size, err
}

// scanTurn reads a row of turnColumns, and then more.
func scanTurn(row row, more ...any) (*conversation.Turn, error) {
	t := new(conversation.Turn)
	var created, ended int64
	var requestID, labels, result sql.RawBytes
	var end conversation.Place
	dest := append([]any{
		(*idColumn)(&t.ID), &t.Team, &t.Client, (*idColumn)(&t.Conversation), (*idColumn)(&t.Parent), &t.State, &t.OnDisconnect,
		(*idColumn)(&t.TraceID), &created, &ended, &requestID, (*idColumn)(&end.Branch), &end.Position, &end.Tokens,
		&labels, &result,
	}, more...)
	if err := row.Scan(dest...); err != nil {
		return nil, fmt.Errorf("scan turn: %w", err)
	}
	t.RequestID = string(requestID)
	t.CreateTime, t.EndTime = fromNanos(created), fromNanos(ended)
	if t.State.Ended() {
		t.End = end
	}
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
		t.ContentExpired = inputs > 0
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
