package sqlstore

import (
	"context"
	"database/sql"
	"iter"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	conversationColumns = `c.id, c.team, c.spec_version, c.create_time, c.update_time, c.expire_time,
	b.head_turn, b.tip, b.head_position, b.head_tokens, b.version, b.update_time,
	coalesce(r.turn, (SELECT q.turn FROM running q WHERE q.queue = c.id ORDER BY q.ticket LIMIT 1)), c.spec`

	getConversation = `SELECT ` + conversationColumns + `
FROM conversations c JOIN branches b ON b.id = c.id LEFT JOIN running r ON r.line = c.id
WHERE c.team = $1 AND c.id = $2`

	listConversations = `SELECT ` + conversationColumns + `
FROM conversations c JOIN branches b ON b.id = c.id LEFT JOIN running r ON r.line = c.id
WHERE c.team = $1 AND c.id < $2 ORDER BY c.id DESC LIMIT $3`

	// The messages from position $5 to before $4 on the line that ends on the branch $3. A branch has those from its fork
	// on, and its parent has those before. There is one lower bound, because SQLite searches by one only; and it takes the
	// tables of a CROSS JOIN as they are written.
	messagesOfLine = `WITH RECURSIVE line (branch, parent, low, high) AS (
	SELECT b.id, b.parent, b.fork_position, CAST($4 AS bigint) FROM conversations c CROSS JOIN branches b
	WHERE c.team = $1 AND c.id = $2 AND b.id = $3
	UNION ALL
	SELECT b.id, b.parent, b.fork_position, CASE WHEN l.low < l.high THEN l.low ELSE l.high END
	FROM line l CROSS JOIN branches b WHERE b.id = l.parent AND l.low > $5
)
SELECT m.position, m.id, m.turn, m.role, m.tokens, m.tokens_before, m.content
FROM line l CROSS JOIN messages m
WHERE m.branch = l.branch AND m.position >= CASE WHEN l.low > $5 THEN l.low ELSE $5 END AND m.position < l.high
ORDER BY m.position `

	// The same where the branch $3 has them all: without a sort.
	branchHistory = `SELECT m.position, m.id, m.turn, m.role, m.tokens, m.tokens_before, m.content
FROM conversations c CROSS JOIN messages m
WHERE c.team = $1 AND c.id = $2 AND m.branch = $3 AND m.position < $4 AND m.position >= $5 ORDER BY m.position DESC`

	history      = messagesOfLine + `DESC`
	listMessages = messagesOfLine + `ASC`

	conversationExists = `SELECT 1 FROM conversations WHERE team = $1 AND id = $2`
)

// readTexts are the statements that are prepared for reading.
func readTexts() []string {
	return []string{
		getConversation, listConversations, history, listMessages, conversationExists, branchHistory,
		getTurn, getTurnContent, listTeamTurns, listConversationTurns, listRequestTurns, listConversationRequestTurns,
		getTaken, readEvents, getClaim,
		readChanges, readHead, newestEntries, oldestEntries, newestTeamEntries, oldestTeamEntries, entriesBetween,
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
func (db *DB) ListConversations(
	ctx context.Context, team string, before conversation.ID, limit int,
) ([]*conversation.Conversation, error) {
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
		if err := rows.Scan((*idColumn)(&c.ID), &c.Team, &l.spec, &l.createTime, &l.specTime, &l.expireTime,
			(*idColumn)(&l.head), (*idColumn)(&l.tip), &l.position, &l.tokens, &l.version, &l.headTime,
			(*idColumn)(&l.active), &spec); err != nil {
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

// History yields the messages before a place backwards.
func (db *DB) History(
	ctx context.Context, team string, id conversation.ID, before conversation.Place,
) iter.Seq2[*conversation.StoredMessage, error] {
	return func(yield func(*conversation.StoredMessage, error) bool) {
		place := before
		if place.Position <= 0 {
			if err := db.mustExist(ctx, team, id); err != nil {
				yield(nil, err)
			}
			return
		}
		text := branchHistory // most often there is no need for more
		for size := int64(firstPiece); place.Position > 0; size = nextPiece {
			piece, err := db.messages(ctx, text, pieceBytes, team, id, place, place.Position-size)
			if err == nil && len(piece) == 0 && text == branchHistory {
				text = history
				piece, err = db.messages(ctx, text, pieceBytes, team, id, place, place.Position-size)
			}
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
			if len(piece) == 0 {
				return
			}
			place.Position = piece[len(piece)-1].Position
		}
	}
}

// ListMessages returns messages before a place.
func (db *DB) ListMessages(
	ctx context.Context, team string, id conversation.ID, before conversation.Place, from int64, limit, maxBytes int,
) ([]*conversation.StoredMessage, error) {
	var ms []*conversation.StoredMessage
	end := before.Position
	for size := 0; limit > 0; {
		before.Position = min(end, from+int64(min(limit, firstPiece)))
		piece, err := db.messages(ctx, listMessages, maxBytes-size, team, id, before, from)
		if err != nil || len(piece) == 0 {
			return ms, err
		}
		for i := range piece {
			size += len(piece[i].content)
			m, err := piece[i].message()
			if err != nil {
				return nil, err
			}
			ms = append(ms, m)
		}
		from += int64(len(piece))
		limit -= len(piece)
		if size > maxBytes || from >= end {
			break
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

// messages returns the messages from position from to before a place, in the order of text, and none after those whose
// content passes maxBytes.
func (db *DB) messages(
	ctx context.Context, text string, maxBytes int, team string, id conversation.ID, before conversation.Place, from int64,
) ([]messageRow, error) {
	var ms []messageRow
	size := 0
	args := []any{team, id[:], before.Branch[:], before.Position, from}
	err := db.read(ctx, "read messages", text, args, func(rows *sql.Rows) error {
		var m messageRow
		err := rows.Scan(&m.Position, (*idColumn)(&m.ID), (*idColumn)(&m.Turn), &m.Role, &m.Tokens, &m.TokensBefore, &m.content)
		if err != nil {
			return err
		}
		ms = append(ms, m)
		if size += len(m.content); size > maxBytes {
			return errEnough
		}
		return nil
	})
	if err == nil && len(ms) == 0 {
		err = db.mustExist(ctx, team, id)
	}
	return ms, err
}

// mustExist returns ErrNotFound unless there is such a conversation.
func (db *DB) mustExist(ctx context.Context, team string, id conversation.ID) error {
	known := false
	err := db.read(ctx, "read conversation", conversationExists, []any{team, id[:]}, func(*sql.Rows) error {
		known = true
		return nil
	})
	if err == nil && !known {
		return conversation.ErrNotFound
	}
	return err
}
