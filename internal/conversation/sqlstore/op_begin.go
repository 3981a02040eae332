package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// BeginTurn records a turn with its input, or begins one that waited. When it returns ctx's error nothing was written: once
// its transaction has begun it waits for the outcome, because a turn that runs and that nobody knows of would block its
// conversation.
func (db *DB) BeginTurn(ctx context.Context, a *conversation.Admission) error {
	o, err := newBeginTurn(a)
	if err != nil {
		return fmt.Errorf("begin turn: %w", err)
	}
	return db.committer.do(ctx, "begin turn", o, size(o.input))
}

type beginTurn struct {
	key                       turnKey
	takeovers                 int64
	line, parent              conversation.ID
	turnArg, lineArg          any
	claim                     newClaim
	state                     conversation.State
	fork                      bool
	base                      conversation.Place
	input                     []draft
	created, deadline         int64
	client, disconnect, trace any
	counted                   bool // it matters in which processes it is read
	requestID, labels         any
	overrides, result         any
}

func newBeginTurn(a *conversation.Admission) (*beginTurn, error) {
	t := a.Turn
	switch {
	case t.State != conversation.Running && t.State != conversation.Queued:
		return nil, fmt.Errorf("state %d is neither running nor queued", t.State)
	case t.State == conversation.Queued && (t.Conversation.IsZero() || a.Fork):
		return nil, errors.New("a turn waits only for the main line of a conversation")
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
	var overrides any // NULL for none
	if !reflect.ValueOf(&a.Overrides).Elem().IsZero() {
		if overrides, err = encode("overrides", &a.Overrides); err != nil {
			return nil, err
		}
	}
	return &beginTurn{
		key: turnKey{t.Team, t.ID}, line: t.Conversation, parent: t.Parent,
		turnArg: idArg(t.ID), lineArg: idArg(t.Conversation), takeovers: int64(a.Takeovers),
		claim: newClaim{
			claimKey{t.Team, t.RequestID}, conversation.Claim{Turn: t.ID, Fingerprint: a.Fingerprint}, nanos(t.CreateTime),
		},
		state: t.State, fork: a.Fork, base: a.Base, input: input,
		client: t.Client, deadline: nanos(a.Deadline), overrides: overrides, result: result,
		disconnect: int64(t.OnDisconnect), trace: idArg(t.TraceID), created: nanos(t.CreateTime),
		requestID: bytesArg(t.RequestID), labels: labels,
		counted: t.RequestID != "" && t.OnDisconnect == conversation.DisconnectCancel,
	}, nil
}

func (o *beginTurn) want(k *keys) {
	if o.claim.requestID != "" {
		k.claims = append(k.claims, o.claim)
	}
	if o.line.IsZero() {
		return
	}
	k.lines = append(k.lines, o.line)
	if o.state == conversation.Running && !o.fork { // it may be one that waited
		k.turns = append(k.turns, o.key.team, o.turnArg)
		k.locks = append(k.locks, o.key.id)
	}
}

func (o *beginTurn) decide(g *group) error {
	err := o.begin(g)
	g.settle(o.claim.claimKey, o.key.id, err)
	return err
}

func (o *beginTurn) begin(g *group) error {
	if g.owner.epoch == noEpoch {
		return notWritten("begin turn", errReleased)
	}
	if g.begun[o.key.id] {
		return errNextGroup
	}
	var l *line
	var unknown error
	if !o.line.IsZero() {
		l, unknown = g.line(o.key.team, o.line)
	}
	if l != nil && o.state == conversation.Running && !o.fork {
		if i := slices.Index(l.waiting, o.key.id); i >= 0 {
			return o.start(g, l, i)
		}
		if _, ok := g.turns[o.key]; ok {
			return conversation.ErrTurnEnded
		}
	}
	if o.claim.requestID != "" {
		switch c, ok := g.claims[o.claim.claimKey]; {
		case !ok: // somebody gave it up meanwhile
			return errNextGroup
		case c.Turn != o.key.id:
			return &conversation.ClaimedError{Claim: c}
		}
	}
	if unknown != nil {
		return unknown
	}
	if err := o.refused(l); err != nil {
		return err
	}
	o.record(g, l)
	return nil
}

var errReleased = errors.New("this process has given up its turns")

// refused says why the turn cannot be recorded at this moment.
func (o *beginTurn) refused(l *line) error {
	switch {
	case l == nil || o.fork:
		return nil
	case o.state == conversation.Queued:
		if len(l.waiting) < conversation.MaxQueued {
			return nil
		}
		e := conversation.Errorf(conversation.ConversationBusy,
			"%d turns wait in the conversation, and no more can", conversation.MaxQueued)
		e.Turn = l.first()
		return e
	case !l.first().IsZero():
		return busy(l.first())
	default:
		return o.moved(l)
	}
}

// moved returns ErrHeadMoved unless the turn continues the line's end. The branch does not tell: an end is the end of
// several, once a head was selected.
func (o *beginTurn) moved(l *line) error {
	if l.head != o.parent || l.place().Position != o.base.Position || l.place().Tokens != o.base.Tokens {
		return conversation.ErrHeadMoved
	}
	return nil
}

// record records the turn where it goes: to the main line, to its queue, to a branch of its own, or to no line.
func (o *beginTurn) record(g *group, l *line) {
	id := o.key.id
	r := &run{team: o.key.team, conversation: o.line, owner: g.owner, branch: id}
	var lineArg, queueArg any
	switch {
	case l == nil:
	case o.state == conversation.Queued:
		queueArg = o.lineArg
		r.ticket = 1
		if n := len(l.waiting); n > 0 {
			r.ticket = g.runs[l.waiting[n-1]].ticket + 1
		}
		l.waiting = append(l.waiting, id)
	case o.fork:
		r.start, r.tokens = o.base.Position, o.base.Tokens
		l.forks = append(l.forks, id)
	default:
		lineArg, r.main = o.lineArg, true
		r.branch, r.start, r.tokens = l.tip, l.position, l.tokens
		l.active = id
	}
	branch := idArg(r.branch)
	r.position, r.tokens = g.addMessages(branch, o.turnArg, r.start, r.tokens, o.input)
	g.runs[id] = r
	g.begun[id] = true
	if o.fork && l != nil {
		g.addBranch(o.turnArg, o.lineArg, o.base, nil, o.base, o.created, nil)
	}
	g.add(insertTurns, o.key.team, o.turnArg, o.client, o.lineArg, idArg(o.parent), branch, r.start,
		int64(len(o.input)), int64(0), int64(o.state), o.disconnect, o.trace, o.created, o.requestID, o.labels, o.result)
	g.add(insertRuns, o.turnArg, o.key.team, o.lineArg, lineArg, queueArg, r.ticket, idArg(g.owner.id), g.owner.epoch,
		branch, r.start, r.position, r.tokens, flag(o.counted), int64(0), int64(0), o.deadline, o.overrides)
	if o.counted {
		g.add(insertCallers, o.turnArg, idArg(g.owner.id))
	}
}

// start begins the i-th of the turns that wait. Its input moves from its branch to the line.
func (o *beginTurn) start(g *group, l *line, i int) error {
	r := g.runs[o.key.id]
	if !g.owns(r, o.takeovers) {
		return conversation.ErrTurnEnded
	}
	ahead := i
	if !l.active.IsZero() {
		ahead++
	}
	if ahead > 0 {
		return &conversation.QueuedError{Ahead: ahead}
	}
	if err := o.moved(l); err != nil {
		return err
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	l.active = o.key.id
	r.main, r.ticket, r.branch, r.start = true, 0, l.tip, l.position
	branch := idArg(r.branch)
	r.position, r.tokens = g.addMessages(branch, o.turnArg, l.position, l.tokens, o.input)
	g.begun[o.key.id] = true
	g.add(deleteMessages, o.turnArg)
	g.add(startTurns, o.key.team, o.turnArg, idArg(o.parent), branch, r.start, int64(len(o.input)),
		int64(o.state), o.result)
	g.add(startRuns, o.turnArg, o.lineArg, branch, r.start, r.position, r.tokens, o.deadline)
	g.wake(o.key.id)
	g.wake(o.line)
	return nil
}

// addMessages adds messages of a turn to branch, from position and tokens on, and returns where they end.
func (g *group) addMessages(branch, turn any, position, tokens int64, messages []draft) (int64, int64) {
	for i := range messages {
		m := &messages[i]
		g.add(insertMessages, branch, position, m.id, turn, m.role, m.tokens, tokens, m.content)
		position++
		tokens += m.tokens
	}
	return position, tokens
}
