package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// BeginTurn records a running turn with its input. When it returns ctx's error nothing was written: once its transaction
// has begun it waits for the outcome, because a turn that runs and that nobody knows of would block its conversation.
func (db *DB) BeginTurn(ctx context.Context, a *conversation.Admission) error {
	o, err := newBeginTurn(a)
	if err != nil {
		return fmt.Errorf("begin turn: %w", err)
	}
	return db.committer.do(ctx, "begin turn", o, size(o.input))
}

// EndTurn records the end of a running turn. Like BeginTurn it waits for the outcome once its transaction has begun,
// because what callers are told next hangs on it.
func (db *DB) EndTurn(ctx context.Context, e *conversation.End) error {
	o, err := newEndTurn(e)
	if err != nil {
		return fmt.Errorf("end turn: %w", err)
	}
	return db.committer.do(ctx, "end turn", o, size(o.output))
}

// DeleteTurn removes an ended one-shot turn.
func (db *DB) DeleteTurn(ctx context.Context, team string, id conversation.ID) error {
	if err := db.committer.do(ctx, "delete turn", &deleteTurn{turnKey{team, id}}, 0); err != nil {
		return err
	}
	db.wakePurger() // gives the pages back
	return nil
}

// Orphans returns the running turns of earlier owners and makes them this one's.
func (db *DB) Orphans(ctx context.Context) ([]*conversation.Turn, error) {
	o := new(adoptOrphans)
	if err := db.committer.do(ctx, "adopt orphans", o, 0); err != nil {
		return nil, err
	}
	return o.turns, nil
}

type beginTurn struct {
	team                     string
	turn, line, parent       conversation.ID
	turnArg, lineArg, client any
	input                    []draft
	// The columns of insertTurns from state on.
	rest []any
}

func newBeginTurn(a *conversation.Admission) (*beginTurn, error) {
	t := a.Turn
	if t.State != conversation.Running {
		return nil, fmt.Errorf("state %d is not running", t.State)
	}
	input, err := drafts("input", t.Input, a.InputTokens)
	if err != nil {
		return nil, err
	}
	labels, err := encodeLabels(t.Labels)
	if err != nil {
		return nil, err
	}
	result, err := encode("result", &t.Result)
	if err != nil {
		return nil, err
	}
	return &beginTurn{
		team: t.Team, turn: t.ID, line: t.Conversation, parent: t.Parent,
		turnArg: idArg(t.ID), lineArg: idArg(t.Conversation), client: t.Client,
		input: input,
		rest: []any{
			int64(t.State), int64(t.OnDisconnect), idArg(t.TraceID), nanos(t.CreateTime), bytesArg(t.RequestID), labels, result,
		},
	}, nil
}

func (o *beginTurn) want(k *keys) {
	if !o.line.IsZero() {
		k.lines = append(k.lines, o.lineArg)
	}
}

func (o *beginTurn) decide(g *group) error {
	branch, start, tokens := o.turnArg, int64(0), int64(0)
	if !o.line.IsZero() {
		l, err := g.line(o.team, o.line)
		if err != nil {
			return err
		}
		if !l.active.IsZero() {
			return busy(l.active)
		}
		if l.head != o.parent {
			return conversation.ErrHeadMoved
		}
		l.active = o.turn
		branch, start, tokens = o.lineArg, l.position, l.tokens
	}
	g.newTurns = append(g.newTurns, o.team, o.turnArg, o.client, o.lineArg, idArg(o.parent), branch, start, int64(len(o.input)), int64(0))
	g.newTurns = append(g.newTurns, o.rest...)
	position, tokens := g.addMessages(branch, o.turnArg, start, tokens, o.input)
	g.newRuns = append(g.newRuns, o.turnArg, o.lineArg, o.team, g.ownerArg, int64(epoch), start, position, tokens)
	g.begun[o.turn] = true
	g.turns[turnKey{o.team, o.turn}] = turnRow{o.line, conversation.Running}
	return nil
}

// addMessages has messages written to branch from position on, and returns the position and the tokens after them.
func (g *group) addMessages(branch, turn any, position, tokens int64, messages []draft) (int64, int64) {
	for i := range messages {
		m := &messages[i]
		g.newMessages = append(g.newMessages, branch, position, m.id, turn, m.role, m.tokens, tokens, m.content)
		position++
		tokens += m.tokens
	}
	return position, tokens
}

type endTurn struct {
	key     turnKey
	turnArg any
	state   conversation.State
	endTime int64
	output  []draft
	result  any
}

func newEndTurn(e *conversation.End) (*endTurn, error) {
	t := e.Turn
	if !t.State.Ended() {
		return nil, fmt.Errorf("state %d is not final", t.State)
	}
	output, err := drafts("output", t.Output, e.OutputTokens)
	if err != nil {
		return nil, err
	}
	result, err := encode("result", &t.Result)
	if err != nil {
		return nil, err
	}
	return &endTurn{
		key: turnKey{t.Team, t.ID}, turnArg: idArg(t.ID), state: t.State, endTime: nanos(t.EndTime), output: output, result: result,
	}, nil
}

func (o *endTurn) want(k *keys) { k.ends = append(k.ends, o.key) }

func (o *endTurn) decide(g *group) error {
	if g.begun[o.key.id] {
		return errNextGroup
	}
	r := g.runs[o.key.id]
	if r == nil || r.team != o.key.team {
		if _, ok := g.turns[o.key]; ok {
			return conversation.ErrTurnEnded
		}
		return conversation.ErrNotFound
	}
	if r.owner != g.owner || r.epoch != epoch {
		return conversation.ErrTurnEnded
	}
	delete(g.runs, o.key.id)
	g.turns[o.key] = turnRow{r.line, o.state}
	g.endedRuns = append(g.endedRuns, o.turnArg)

	branch, lineArg := o.turnArg, idArg(r.line)
	var l *line
	if !r.line.IsZero() {
		l = g.lines[r.line]
		if l == nil || l.active != o.key.id {
			return fmt.Errorf("turn %x runs on a line that it does not hold", o.key.id)
		}
		l.active = conversation.ID{}
		if o.state.Answered() {
			branch = lineArg
		} else {
			g.movedMessages = append(g.movedMessages, lineArg, r.start)
		}
	}
	position, tokens := g.addMessages(branch, o.turnArg, r.position, r.tokens, o.output)
	g.endedTurns = append(g.endedTurns, o.key.team, o.turnArg, branch, int64(len(o.output)), int64(o.state), o.endTime, o.result)
	switch {
	case l == nil:
	case o.state.Answered():
		l.head, l.position, l.tokens, l.headTime = o.key.id, position, tokens, o.endTime
		l.version++
		l.moved = true
		g.change(r.line, l)
	default:
		g.newBranches = append(g.newBranches, o.turnArg, lineArg, lineArg, r.start, o.turnArg, position, tokens, int64(1), o.endTime)
	}
	return nil
}

type deleteTurn struct{ key turnKey }

func (o *deleteTurn) want(k *keys) { k.turns = append(k.turns, o.key.team, idArg(o.key.id)) }

func (o *deleteTurn) decide(g *group) error {
	t, ok := g.turns[o.key]
	switch {
	case !ok:
		return conversation.ErrNotFound
	case !t.conversation.IsZero():
		return conversation.Errorf(conversation.InvalidState, "a turn of a conversation is deleted with its conversation")
	case !t.state.Ended():
		return busyTurn(o.key.id)
	}
	delete(g.turns, o.key)
	id := idArg(o.key.id)
	g.goneTurns = append(g.goneTurns, o.key.team, id)
	g.goneMessages = append(g.goneMessages, id)
	return nil
}

// busy is the refusal of what would disturb turn.
func busy(turn conversation.ID) error {
	e := *conversation.ErrConversationBusy
	e.Turn = turn
	return &e
}

func busyTurn(turn conversation.ID) error {
	e := conversation.Errorf(conversation.ConversationBusy, "the turn is running")
	e.Turn = turn
	return e
}

type adoptOrphans struct{ turns []*conversation.Turn }

func (*adoptOrphans) want(*keys) {}

func (o *adoptOrphans) decide(g *group) error {
	o.turns = nil
	g.then = append(g.then, func(ctx context.Context, w *writer) error {
		err := w.query(ctx, orphansText, func(rows *sql.Rows) error {
			t, err := scanTurn(rows)
			if err != nil {
				return err
			}
			o.turns = append(o.turns, t)
			return nil
		}, g.ownerArg)
		if err != nil {
			return fmt.Errorf("read orphans: %w", err)
		}
		if err := w.exec(ctx, `UPDATE running SET owner = $1, epoch = $2 WHERE owner <> $1`, g.ownerArg, int64(epoch)); err != nil {
			return fmt.Errorf("adopt orphans: %w", err)
		}
		return nil
	})
	return nil
}

// SQLite takes the tables of a CROSS JOIN as they are written: the small one first.
const orphansText = `SELECT ` + turnColumns + ` FROM running r CROSS JOIN turns t
WHERE r.owner <> $1 AND t.team = r.team AND t.id = r.turn ORDER BY t.id`
