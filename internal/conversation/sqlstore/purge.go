package sqlstore

import (
	"context"
	"fmt"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// What one transaction removes at most, so that the turns of its group do not wait long for it.
const (
	purgeRows  = 500
	purgeBytes = 8 << 20
)

func (db *DB) wakePurger() {
	select {
	case db.purge <- struct{}{}:
	default:
	}
}

// purgeSome removes a bounded number of rows of deleted conversations, and reports whether there is more to do.
func (k *keeper) purgeSome(ctx context.Context) (more bool, err error) {
	err = k.batch(ctx, "remove deleted rows", func(ctx context.Context, w *setWriter) (err error) {
		r := removal{setWriter: w, rows: purgeRows, bytes: purgeBytes}
		more, err = r.run(ctx)
		return err
	})
	return more, err
}

// A branch of a deleted conversation is kept for as long as another branch grows out of it, because whoever reads that one
// reads on here; but not what stands behind the last place where one does. So branches go leaves first. The table deletions
// is what the purger has to look at: a conversation all of whose branches must wait is taken out of it, and is put in again
// by the transaction that removes what one of them waited for. Nobody else needs to look for it.
var (
	nextDeletion   = &statement{`SELECT conversation, create_time FROM deletions ORDER BY conversation LIMIT 1`}
	endDeletion    = &statement{`DELETE FROM deletions WHERE conversation = $1`}
	repeatDeletion = &statement{`INSERT INTO deletions (conversation, create_time) VALUES ($1, $2)
ON CONFLICT (conversation) DO NOTHING`}

	turnsOfConversation = &statement{`SELECT team, id FROM turns WHERE conversation = $1 ORDER BY id LIMIT $2`}

	// Leaves of a conversation, each with the other deleted conversation that it grows out of, if any.
	leavesOfConversation = &statement{`SELECT b.id, p.conversation
FROM branches b LEFT JOIN branches p ON p.id = b.parent AND p.conversation <> b.conversation
	AND NOT EXISTS (SELECT 1 FROM conversations c WHERE c.id = p.conversation)
WHERE b.conversation = $1 AND NOT EXISTS (SELECT 1 FROM branches k WHERE k.parent = b.id) LIMIT $2`}

	// Messages of a conversation behind the last places where other branches begin, in no order that matters: all can go.
	messagesBehindForks = &statement{`WITH w AS MATERIALIZED (
	SELECT b.id, (SELECT max(k.fork_position) FROM branches k WHERE k.parent = b.id) AS fork
	FROM branches b WHERE b.conversation = $1
)
SELECT m.branch, m.position, length(m.content) FROM w JOIN messages m ON m.branch = w.id AND m.position >= w.fork LIMIT $2`}

	messagesOfBranch = &statement{`SELECT branch, position, length(content) FROM messages
WHERE branch = $1 ORDER BY position LIMIT $2`}
	removeMessages = &statement{`DELETE FROM messages WHERE branch = $1 AND position >= $2 AND position <= $3`}

	countEvents = &set{
		head: `SELECT turn, count(*), sum(length(data)) FROM events WHERE turn IN (`, tail: `) GROUP BY turn`, cols: 1,
	}
	countMessages = &set{
		head: `SELECT branch, count(*), sum(length(content)) FROM messages WHERE branch IN (`, tail: `) GROUP BY branch`, cols: 1,
	}

	removeTurns = &set{
		head: `DELETE FROM turns WHERE (team, id) IN (VALUES `, tail: `)`, cols: 2, types: []string{"text", "uuid"},
	}
	removeEvents    = &set{head: `DELETE FROM events WHERE turn IN (`, tail: `)`, cols: 1}
	removeContents  = &set{head: `DELETE FROM messages WHERE branch IN (`, tail: `)`, cols: 1}
	removeBranchSet = &set{head: `DELETE FROM branches WHERE id IN (`, tail: `)`, cols: 1}
)

// A removal is what one transaction removes: rows and bytes are what it still may. What must go as a whole can pass them
// once.
type removal struct {
	*setWriter
	rows, bytes int
}

func (r *removal) spent() bool { return r.rows <= 0 || r.bytes <= 0 }

// run removes rows of deleted conversations, as many as are allowed; when there are none, it gives free pages back.
func (r *removal) run(ctx context.Context) (more bool, err error) {
	for !r.spent() {
		var deleted conversation.ID
		var time int64
		err := r.query(ctx, nextDeletion, func(row row) error { return row.Scan((*idColumn)(&deleted), &time) })
		if err != nil {
			return false, fmt.Errorf("read deletions: %w", err)
		}
		if deleted.IsZero() {
			return r.dialect.shrink(ctx, r.writer)
		}
		for _, step := range []func(context.Context, conversation.ID, int64) (bool, error){r.turns, r.leaves, r.behindForks} {
			if done, err := step(ctx, deleted, time); err != nil || !done {
				return true, err
			}
		}
		r.do(endDeletion, []any{deleted[:]}, nil)
		r.rows--
	}
	return true, r.flush(ctx)
}

// turns removes turns of a conversation with their logs, and reports whether those were all.
func (r *removal) turns(ctx context.Context, deleted conversation.ID, _ int64) (done bool, err error) {
	for !r.spent() {
		var turns []conversation.ID
		var keys []any
		err := r.query(ctx, turnsOfConversation, func(row row) error {
			var team string
			var turn conversation.ID
			if err := row.Scan(&team, (*idColumn)(&turn)); err != nil {
				return err
			}
			turns = append(turns, turn)
			keys = append(keys, team, idArg(turn))
			return nil
		}, deleted[:], r.rows)
		if err != nil {
			return false, fmt.Errorf("read turns: %w", err)
		}
		if len(turns) == 0 {
			return true, nil
		}
		n, err := r.contents(ctx, turns, false)
		if err != nil {
			return false, err
		}
		r.doSet(removeTurns, keys[:2*n])
		if err := r.flush(ctx); err != nil {
			return false, fmt.Errorf("remove turns: %w", err)
		}
	}
	return false, nil
}

// contents removes the logs of the first of some turns and, where messages says so, the messages of the branches with their
// ids: each as a whole and with a row of the turn's own counted, as many as are allowed. It returns how many; at least one.
func (r *removal) contents(ctx context.Context, turns []conversation.ID, messages bool) (int, error) {
	type amount struct{ rows, bytes int }
	sizes := make(map[conversation.ID]amount)
	add := func(row row) error {
		var id conversation.ID
		var s amount
		if err := row.Scan((*idColumn)(&id), &s.rows, &s.bytes); err != nil {
			return err
		}
		have := sizes[id]
		sizes[id] = amount{have.rows + s.rows, have.bytes + s.bytes}
		return nil
	}
	ids := make([]any, 0, len(turns))
	for i := range turns {
		ids = append(ids, turns[i][:])
	}
	r.querySet(countEvents, ids, add)
	if messages {
		r.querySet(countMessages, ids, add)
	}
	if err := r.flush(ctx); err != nil {
		return 0, fmt.Errorf("count what turns have: %w", err)
	}
	ids = ids[:0]
	n := 0
	for ; n < len(turns) && !r.spent(); n++ {
		s := sizes[turns[n]]
		r.rows -= 1 + s.rows
		r.bytes -= s.bytes
		if s.rows > 0 {
			ids = append(ids, turns[n][:])
		}
	}
	r.doSet(removeEvents, ids)
	if messages {
		r.doSet(removeContents, ids)
	}
	if err := r.flush(ctx); err != nil {
		return 0, fmt.Errorf("remove what turns have: %w", err)
	}
	return n, nil
}

// leavesAtOnce is how many branches are looked for at once.
const leavesAtOnce = 64

// leaves removes the branches of a conversation that no other grows out of, until there is none, and reports whether it
// came so far.
func (r *removal) leaves(ctx context.Context, deleted conversation.ID, time int64) (done bool, err error) {
	for !r.spent() {
		var leaves, parents []conversation.ID
		err := r.query(ctx, leavesOfConversation, func(row row) error {
			var leaf, parent conversation.ID
			if err := row.Scan((*idColumn)(&leaf), (*idColumn)(&parent)); err != nil {
				return err
			}
			leaves, parents = append(leaves, leaf), append(parents, parent)
			return nil
		}, deleted[:], min(leavesAtOnce, r.rows))
		if err != nil {
			return false, fmt.Errorf("read branches: %w", err)
		}
		if len(leaves) == 0 {
			return true, nil
		}
		var gone []any
		for i, leaf := range leaves {
			if err := r.messages(ctx, messagesOfBranch, leaf); err != nil {
				return false, err
			}
			if r.spent() {
				break // there may be more messages
			}
			gone = append(gone, idArg(leaf))
			r.rows--
			if parent := parents[i]; !parent.IsZero() {
				r.do(repeatDeletion, []any{idArg(parent), time}, nil)
				r.rows--
			}
		}
		r.doSet(removeBranchSet, gone)
		if err := r.flush(ctx); err != nil {
			return false, fmt.Errorf("remove branches: %w", err)
		}
	}
	return false, nil
}

// behindForks removes messages of a conversation that no branch refers to, and reports whether those were all.
func (r *removal) behindForks(ctx context.Context, deleted conversation.ID, _ int64) (done bool, err error) {
	if r.spent() {
		return false, nil
	}
	if err := r.messages(ctx, messagesBehindForks, deleted); err != nil {
		return false, err
	}
	return !r.spent(), r.flush(ctx)
}

// messages removes messages that find finds, as many as are allowed. It leaves an allowance only if those were all.
func (r *removal) messages(ctx context.Context, find *statement, id conversation.ID) error {
	type span struct {
		branch      conversation.ID
		first, last int64
	}
	var spans []span
	err := r.query(ctx, find, func(row row) error {
		var branch conversation.ID
		var position int64
		var size int
		if err := row.Scan((*idColumn)(&branch), &position, &size); err != nil || r.spent() {
			return err
		}
		r.rows--
		r.bytes -= size
		if n := len(spans); n > 0 && spans[n-1].branch == branch {
			spans[n-1].first, spans[n-1].last = min(spans[n-1].first, position), max(spans[n-1].last, position)
		} else {
			spans = append(spans, span{branch, position, position})
		}
		return nil
	}, id[:], r.rows)
	if err != nil {
		return fmt.Errorf("read messages: %w", err)
	}
	for i := range spans {
		r.do(removeMessages, []any{spans[i].branch[:], spans[i].first, spans[i].last}, nil)
	}
	if err := r.flush(ctx); err != nil {
		return fmt.Errorf("remove messages: %w", err)
	}
	return nil
}
