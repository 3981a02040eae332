package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	conversationColumns = `c.id, c.team, c.spec_version, c.create_time, c.update_time,
	b.head_turn, b.head_position, b.head_tokens, b.version, b.update_time, r.turn, c.spec`

	getConversation = `SELECT ` + conversationColumns + `
FROM conversations c JOIN branches b ON b.id = c.id LEFT JOIN running r ON r.line = c.id
WHERE c.team = $1 AND c.id = $2`

	listConversations = `SELECT ` + conversationColumns + `
FROM conversations c JOIN branches b ON b.id = c.id LEFT JOIN running r ON r.line = c.id
WHERE c.team = $1 AND c.id < $2 ORDER BY c.id DESC LIMIT $3`

	// The two that read messages leave out those behind the head, which can change, and return one row without a message
	// where there are none, so that it can be told from an unknown conversation.
	messageColumns = `m.position, m.id, m.turn, m.role, m.tokens, m.tokens_before, m.content`

	// The plus keeps the head, which is far above $3 in all pieces but the first, from being the bound of the search.
	history = `SELECT ` + messageColumns + `
FROM conversations c JOIN branches b ON b.id = c.id
LEFT JOIN messages m ON m.branch = c.id AND m.position < $3 AND +m.position < b.head_position
WHERE c.team = $1 AND c.id = $2 ORDER BY m.position DESC LIMIT $4`

	listMessages = `SELECT ` + messageColumns + `
FROM conversations c JOIN branches b ON b.id = c.id
LEFT JOIN messages m ON m.branch = c.id AND m.position >= $3 AND m.position < b.head_position
WHERE c.team = $1 AND c.id = $2 ORDER BY m.position LIMIT $4`

	conversationExists = `SELECT 1 FROM conversations WHERE team = $1 AND id = $2`
)

// readTexts are the statements that are prepared for reading.
func readTexts() []string {
	return []string{
		getConversation, listConversations, history, listMessages, conversationExists,
		getTurn, getTurnContent, listTeamTurns, listConversationTurns,
	}
}

// GetConversation returns a conversation with its head and its active turn.
func (db *DB) GetConversation(ctx context.Context, team string, id conversation.ID) (*conversation.Conversation, error) {
	cs, err := db.conversations(ctx, getConversation, team, id[:])
	if err != nil {
		return nil, err
	}
	if len(cs) == 0 {
		return nil, conversation.ErrNotFound
	}
	return cs[0], nil
}

// ListConversations returns conversations by falling id.
func (db *DB) ListConversations(ctx context.Context, team string, before conversation.ID, limit int) ([]*conversation.Conversation, error) {
	if limit <= 0 {
		return nil, nil
	}
	return db.conversations(ctx, listConversations, team, bound(before), limit)
}

// bound is before, or an id above all others where it is zero.
func bound(before conversation.ID) []byte {
	if before.IsZero() {
		for i := range before {
			before[i] = 0xff
		}
	}
	return before[:]
}

func (db *DB) conversations(ctx context.Context, text string, args ...any) ([]*conversation.Conversation, error) {
	var cs []*conversation.Conversation
	err := db.read(ctx, "read conversations", text, args, func(rows *sql.Rows) error {
		c := new(conversation.Conversation)
		var l line
		var spec sql.RawBytes
		if err := rows.Scan((*idColumn)(&c.ID), &c.Team, &l.spec, &l.createTime, &l.specTime, (*idColumn)(&l.head), &l.position,
			&l.tokens, &l.version, &l.headTime, (*idColumn)(&l.active), &spec); err != nil {
			return err
		}
		l.fill(c)
		cs = append(cs, c)
		return decode("spec", spec, &c.Spec)
	})
	return cs, err
}

// The pieces in which History reads: a window is most often filled by the first.
const (
	firstPiece = 32
	nextPiece  = 128
	pieceBytes = 1 << 20
)

// History yields messages of the main line backwards.
func (db *DB) History(
	ctx context.Context, team string, id conversation.ID, upTo int64,
) iter.Seq2[*conversation.StoredMessage, error] {
	return func(yield func(*conversation.StoredMessage, error) bool) {
		for size := firstPiece; ; size = nextPiece {
			piece, err := db.messages(ctx, history, pieceBytes, team, id[:], upTo, size)
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range piece {
				m, err := piece[i].message() // here, because the caller seldom wants the whole piece
				if !yield(m, err) || err != nil {
					return
				}
			}
			if len(piece) == 0 || piece[len(piece)-1].Position == 0 {
				return
			}
			upTo = piece[len(piece)-1].Position
		}
	}
}

// ListMessages returns messages of the main line.
func (db *DB) ListMessages(
	ctx context.Context, team string, id conversation.ID, from int64, limit, maxBytes int,
) ([]*conversation.StoredMessage, error) {
	if limit <= 0 {
		return nil, nil
	}
	rows, err := db.messages(ctx, listMessages, maxBytes, team, id[:], from, limit)
	if err != nil {
		return nil, err
	}
	ms := make([]*conversation.StoredMessage, len(rows))
	for i := range rows {
		if ms[i], err = rows[i].message(); err != nil {
			return nil, err
		}
	}
	return ms, nil
}

// A messageRow is a message that has not been decoded yet.
type messageRow struct {
	conversation.StoredMessage
	content []byte
}

func (r *messageRow) message() (*conversation.StoredMessage, error) {
	if err := decodeMessage(r.content, &r.Message); err != nil {
		return nil, err
	}
	m := r.StoredMessage // without it, the row would hold its content as long as the caller holds the message
	return &m, nil
}

// errEnough ends a read early.
var errEnough = errors.New("enough")

// messages returns the messages that text finds, and none after those whose content passes maxBytes.
func (db *DB) messages(ctx context.Context, text string, maxBytes int, args ...any) ([]messageRow, error) {
	var ms []messageRow
	size, found := 0, false
	err := db.read(ctx, "read messages", text, args, func(rows *sql.Rows) error {
		found = true
		var m messageRow
		var position, role, tokens, before sql.NullInt64
		if err := rows.Scan(&position, (*idColumn)(&m.ID), (*idColumn)(&m.Turn), &role, &tokens, &before, &m.content); err != nil {
			return err
		}
		if !position.Valid {
			return nil
		}
		m.Position, m.Tokens, m.TokensBefore = position.Int64, tokens.Int64, before.Int64
		m.Role = conversation.Role(role.Int64) //nolint:gosec // as stored
		ms = append(ms, m)
		if size += len(m.content); size > maxBytes {
			return errEnough
		}
		return nil
	})
	if err == nil && !found {
		return nil, conversation.ErrNotFound
	}
	return ms, err
}

// read calls row for each row of the prepared text. What the database says becomes StoreUnavailable; the only other
// errors are ctx's and, about a value that cannot be read, row's.
func (db *DB) read(ctx context.Context, doing, text string, args []any, row func(*sql.Rows) error) error {
	rows, err := db.reads[text].QueryContext(ctx, args...)
	if err != nil {
		return db.readError(ctx, doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		switch err := row(rows); {
		case errors.Is(err, errEnough):
			return nil
		case err != nil && ctx.Err() != nil: // it has closed the rows
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	if err := rows.Err(); err != nil {
		return db.readError(ctx, doing, err)
	}
	return nil
}

func (*DB) readError(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return unavailable(doing, err)
}
