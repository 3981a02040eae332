package sqlstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// EndTurn records the end of a running or waiting turn. Like BeginTurn it waits for the outcome once its transaction has
// begun, because what callers are told next hangs on it.
func (db *DB) EndTurn(ctx context.Context, e *conversation.End) error {
	o, err := newEndTurn(e)
	if err != nil {
		return fmt.Errorf("end turn: %w", err)
	}
	n := size(o.output)
	for i := range o.events {
		n += len(o.events[i].data)
	}
	return db.committer.do(ctx, "end turn", o, n)
}

// RecordAttempt records what is known of a running turn before a further call is made.
func (db *DB) RecordAttempt(ctx context.Context, t *conversation.Turn, takeovers int) error {
	result, err := encode("result", &t.Result)
	if err != nil {
		return fmt.Errorf("record attempt: %w", err)
	}
	return db.committer.do(ctx, "record attempt", &recordAttempt{turnKey{t.Team, t.ID}, int64(takeovers), result}, len(result))
}

// DeleteTurn removes an ended one-shot turn.
func (db *DB) DeleteTurn(ctx context.Context, team string, id conversation.ID) error {
	if err := db.committer.do(ctx, "delete turn", &deleteTurn{turnKey{team, id}}, 0); err != nil {
		return err
	}
	db.wakePurger() // gives the pages back
	return nil
}

type endTurn struct {
	key       turnKey
	takeovers int64
	line      conversation.ID
	turnArg   any
	claim     claimKey
	state     conversation.State
	endTime   int64
	output    []draft
	result    any
	events    []eventRow
	replaces  []int64
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
	events, err := eventRows(e.Events)
	if err != nil {
		return nil, err
	}
	return &endTurn{
		key: turnKey{t.Team, t.ID}, takeovers: int64(e.Takeovers), line: t.Conversation, turnArg: idArg(t.ID),
		claim: claimKey{t.Team, t.RequestID}, state: t.State, endTime: nanos(t.EndTime), output: output, result: result, events: events, replaces: e.Replaces,
	}, nil
}

func (o *endTurn) want(k *keys) {
	k.running = append(k.running, o.key)
	k.locks = append(k.locks, o.key.id)
	if o.line.IsZero() {
		k.runs = append(k.runs, o.key.id)
	} else {
		k.lines = append(k.lines, o.line)
	}
	if o.state == conversation.Failed && o.claim.requestID != "" {
		k.freed = append(k.freed, o.claim)
	}
}

func (o *endTurn) decide(g *group) error {
	r, err := g.mine(o.key, o.takeovers)
	if err != nil {
		return err
	}
	if r.isLogged || r.isRecorded {
		return errNextGroup
	}
	if r.conversation != o.line {
		return fmt.Errorf("turn %x is not of conversation %x", o.key.id, o.line)
	}
	branch := o.turnArg
	if r.main && o.state.Answered() {
		branch = idArg(r.branch)
	}
	position, tokens := g.addMessages(branch, o.turnArg, r.position, r.tokens, o.output)
	if l := g.lines[r.conversation]; l != nil {
		o.leave(g, l, r, conversation.Place{Position: position, Tokens: tokens})
	}
	g.add(endTurns, o.key.team, o.turnArg, branch, int64(len(o.output)), int64(o.state), o.endTime, tokens,
		o.result)
	for _, first := range o.replaces {
		g.add(deleteEvents, o.turnArg, first)
	}
	g.addEvents(o.turnArg, o.events)
	if o.state == conversation.Failed {
		g.free(o.claim, o.key.id)
	}
	delete(g.runs, o.key.id)
	g.add(endRuns, o.turnArg)
	if r.counted {
		g.add(dismissCallers, o.turnArg)
	}
	t := turnRow{r.conversation, o.state, conversation.Place{Branch: o.key.id, Position: position, Tokens: tokens}}
	if r.main && o.state.Answered() {
		t.end.Branch = r.branch
	}
	g.turns[o.key] = t
	g.wake(o.key.id)
	g.wake(o.line)
	return nil
}

// leave takes the turn, whose messages end at end, from the line or the queue or the branch on which it stands. If it is an
// answer on the line, it becomes the head; otherwise its messages stand on a branch with its id.
func (o *endTurn) leave(g *group, l *line, r *run, end conversation.Place) {
	switch {
	case r.main && o.state.Answered():
		l.active = conversation.ID{}
		l.head, l.position, l.tokens, l.headTime = o.key.id, end.Position, end.Tokens, o.endTime
		l.version++
		l.moved = true
		g.changeLine(o.line, l)
		return
	case r.main:
		l.active = conversation.ID{}
		g.add(moveMessages, idArg(r.branch), r.start)
	case r.ticket > 0:
		l.waiting = slices.DeleteFunc(l.waiting, o.is)
	default:
		l.forks = slices.DeleteFunc(l.forks, o.is)
		g.add(moveHeads, o.turnArg, o.turnArg, end.Position, end.Tokens, int64(1), o.endTime, nil)
		return
	}
	from := conversation.Place{Branch: r.branch, Position: r.start}
	g.addBranch(o.turnArg, idArg(o.line), from, o.turnArg, end, o.endTime, nil)
}

func (o *endTurn) is(id conversation.ID) bool { return id == o.key.id }

type recordAttempt struct {
	key       turnKey
	takeovers int64
	result    any
}

func (o *recordAttempt) want(k *keys) { k.wantRun(o.key) }

func (o *recordAttempt) decide(g *group) error {
	r, err := g.mine(o.key, o.takeovers)
	if err != nil {
		return err
	}
	if r.isRecorded {
		return errNextGroup
	}
	r.isRecorded = true
	g.add(recordTurns, o.key.team, idArg(o.key.id), o.result)
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
	g.add(deleteTurns, o.key.team, id)
	g.add(deleteMessages, id)
	g.add(deleteLogs, id)
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
