package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// epoch tells the lives of one owner apart. A process that opens a file is a new owner, so there is one.
const epoch = 1

// keys are the rows that the ops of a group look at.
type keys struct {
	lines []any     // conversation ids
	ends  []turnKey // turns that should be running; looked up in turns where they are not
	turns []any     // team and id
}

// A group is what one transaction knows, as its ops see it one after the other, and what it is going to write.
type group struct {
	owner    conversation.ID
	ownerArg any
	keys     keys
	lines    map[conversation.ID]*line
	runs     map[conversation.ID]*run
	turns    map[turnKey]turnRow
	begun    map[conversation.ID]bool

	// Rows to write, flat, in the order of the columns of the set of the same name.
	endedRuns, movedMessages, newConversations, newBranches, endedTurns, newTurns, newMessages, newRuns,
	newSpecs, heads, goneConversations, deletions, goneTurns, goneMessages []any
	changed []conversation.ID // the lines with something to write
	// then runs after all else has been written.
	then []func(context.Context, *writer) error
}

// A line is a conversation's main line, with what identifies the conversation.
type line struct {
	team                 string
	spec                 int64
	createTime, specTime int64
	head                 conversation.ID
	position, tokens     int64
	version, headTime    int64
	active               conversation.ID

	changed bool // is in group.changed
	moved   bool // the head is to be written
	newSpec any  // what is to be written of the spec; nil for nothing
}

// A run is a row of running.
type run struct {
	team                    string
	line                    conversation.ID
	owner                   conversation.ID
	epoch                   int64
	start, position, tokens int64
}

type turnKey struct {
	team string
	id   conversation.ID
}

type turnRow struct {
	conversation conversation.ID
	state        conversation.State
}

func newGroup(owner conversation.ID) *group {
	return &group{
		owner:    owner,
		ownerArg: idArg(owner),
		lines:    make(map[conversation.ID]*line),
		runs:     make(map[conversation.ID]*run),
		turns:    make(map[turnKey]turnRow),
		begun:    make(map[conversation.ID]bool),
	}
}

// reset empties g but keeps the memory; it lets go of the values, which hold content.
func (g *group) reset() {
	clear(g.lines)
	clear(g.runs)
	clear(g.turns)
	clear(g.begun)
	g.keys.ends = g.keys.ends[:0]
	for _, s := range []*[]any{
		&g.keys.lines, &g.keys.turns,
		&g.endedRuns, &g.movedMessages, &g.newConversations, &g.newBranches, &g.endedTurns, &g.newTurns, &g.newMessages,
		&g.newRuns, &g.newSpecs, &g.heads, &g.goneConversations, &g.deletions, &g.goneTurns, &g.goneMessages,
	} {
		clear(*s)
		*s = (*s)[:0]
	}
	g.changed = g.changed[:0]
	clear(g.then)
	g.then = g.then[:0]
}

// line returns the main line of a conversation of the team, as the ops before have left it.
func (g *group) line(team string, id conversation.ID) (*line, error) {
	l := g.lines[id]
	if l == nil || l.team != team {
		return nil, conversation.ErrNotFound
	}
	return l, nil
}

// change has what is to be written of a line written at the end of the group, once.
func (g *group) change(id conversation.ID, l *line) {
	if !l.changed {
		l.changed = true
		g.changed = append(g.changed, id)
	}
}

var (
	runsByTurn = &set{`SELECT turn, team, line, owner, epoch, start, position, tokens FROM running WHERE turn IN (`, `)`, 1}

	linesByID = &set{`SELECT c.id, c.team, c.spec_version, c.create_time, c.update_time,
	b.head_turn, b.head_position, b.head_tokens, b.version, b.update_time, r.turn
FROM conversations c JOIN branches b ON b.id = c.id LEFT JOIN running r ON r.line = c.id
WHERE c.id IN (`, `)`, 1}

	turnsByKey = &set{`SELECT t.team, t.id, t.conversation, t.state FROM turns t
WHERE NOT EXISTS (SELECT 1 FROM deletions d WHERE d.conversation = t.conversation) AND (t.team, t.id) IN (VALUES `, `)`, 2}
)

// load reads the rows that keys names.
func (g *group) load(ctx context.Context, w *writer) error {
	ends := make([]any, 0, len(g.keys.ends))
	for i := range g.keys.ends {
		ends = append(ends, g.keys.ends[i].id[:])
	}
	err := w.querySet(ctx, runsByTurn, ends, func(rows *sql.Rows) error {
		var turn conversation.ID
		r := new(run)
		if err := rows.Scan((*idColumn)(&turn), &r.team, (*idColumn)(&r.line), (*idColumn)(&r.owner),
			&r.epoch, &r.start, &r.position, &r.tokens); err != nil {
			return err
		}
		g.runs[turn] = r
		if !r.line.IsZero() {
			g.keys.lines = append(g.keys.lines, idArg(r.line))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read running turns: %w", err)
	}
	for _, k := range g.keys.ends {
		if g.runs[k.id] == nil {
			g.keys.turns = append(g.keys.turns, k.team, idArg(k.id))
		}
	}
	err = w.querySet(ctx, linesByID, g.keys.lines, func(rows *sql.Rows) error {
		var id conversation.ID
		l := new(line)
		if err := rows.Scan((*idColumn)(&id), &l.team, &l.spec, &l.createTime, &l.specTime,
			(*idColumn)(&l.head), &l.position, &l.tokens, &l.version, &l.headTime, (*idColumn)(&l.active)); err != nil {
			return err
		}
		g.lines[id] = l
		return nil
	})
	if err != nil {
		return fmt.Errorf("read conversations: %w", err)
	}
	err = w.querySet(ctx, turnsByKey, g.keys.turns, func(rows *sql.Rows) error {
		var k turnKey
		var t turnRow
		if err := rows.Scan(&k.team, (*idColumn)(&k.id), (*idColumn)(&t.conversation), &t.state); err != nil {
			return err
		}
		g.turns[k] = t
		return nil
	})
	if err != nil {
		return fmt.Errorf("read turns: %w", err)
	}
	return nil
}
