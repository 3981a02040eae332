package sqlstore

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// CreateConversation records c.
func (db *DB) CreateConversation(ctx context.Context, c *conversation.Conversation) error {
	o, err := newCreateConversation(c)
	if err != nil {
		return fmt.Errorf("create conversation: %w", err)
	}
	if err := db.committer.do(ctx, "create conversation", o, len(o.spec)); err != nil {
		return err
	}
	o.stored.fill(c)
	return nil
}

// ForkConversation records c as one that shares messages of another.
func (db *DB) ForkConversation(ctx context.Context, c *conversation.Conversation, from, turn conversation.ID) error {
	create, err := newCreateConversation(c)
	if err != nil {
		return fmt.Errorf("fork conversation: %w", err)
	}
	o := &forkConversation{createConversation: *create, from: from, turn: turn}
	if err := db.committer.do(ctx, "fork conversation", o, len(o.spec)); err != nil {
		return err
	}
	o.stored.fill(c)
	return nil
}

// UpdateConversation replaces the spec of a conversation that has not changed, and selects a head.
func (db *DB) UpdateConversation(ctx context.Context, c *conversation.Conversation) (*conversation.Conversation, error) {
	spec, err := encode("spec", &c.Spec)
	if err != nil {
		return nil, fmt.Errorf("update conversation: %w", err)
	}
	branch, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("update conversation: %w", err)
	}
	o := &updateConversation{
		id: c.ID, team: c.Team, version: c.Version, head: c.HeadTurn, branch: conversation.ID(branch),
		time: nanos(db.now()), expireTime: nanos(c.ExpireTime), spec: spec,
	}
	if err := db.committer.do(ctx, "update conversation", o, len(spec)); err != nil {
		return nil, err
	}
	updated := *c
	o.stored.fill(&updated)
	return &updated, nil
}

// DeleteConversation makes a conversation unknown. The rows of its turns and messages go in the background.
func (db *DB) DeleteConversation(ctx context.Context, team string, id conversation.ID, version conversation.Version) error {
	o := &deleteConversation{id: id, team: team, version: version, time: nanos(db.now())}
	if err := db.committer.do(ctx, "delete conversation", o, 0); err != nil {
		return err
	}
	db.wakePurger()
	return nil
}

// fill sets what a line knows of its conversation.
func (l *line) fill(c *conversation.Conversation) {
	c.HeadTurn, c.Head, c.ActiveTurn = l.head, l.place(), l.first()
	c.Version = conversation.Version{Spec: l.spec, Head: l.version}
	c.CreateTime = fromNanos(l.createTime)
	c.UpdateTime = fromNanos(max(l.specTime, l.headTime))
	c.ExpireTime = fromNanos(l.expireTime)
}

func (l *line) is(v conversation.Version) bool { return v.Spec == l.spec && v.Head == l.version }

type createConversation struct {
	id               conversation.ID
	team             string
	time, expireTime int64
	spec             []byte
	stored           line
}

func newCreateConversation(c *conversation.Conversation) (*createConversation, error) {
	spec, err := encode("spec", &c.Spec)
	if err != nil {
		return nil, err
	}
	return &createConversation{
		id: c.ID, team: c.Team, time: nanos(c.CreateTime), expireTime: nanos(c.ExpireTime), spec: spec,
	}, nil
}

func (o *createConversation) want(k *keys) { k.lines = append(k.lines, o.id) }

func (o *createConversation) decide(g *group) error {
	return o.create(g, conversation.ID{}, conversation.Place{})
}

// create has the conversation begin at an end of another, or at nothing.
func (o *createConversation) create(g *group, head conversation.ID, end conversation.Place) error {
	if g.lines[o.id] != nil {
		return fmt.Errorf("create conversation: there is one with the id %x", o.id)
	}
	l := &line{
		team: o.team, spec: 1, createTime: o.time, specTime: o.time, expireTime: o.expireTime, version: 1, headTime: o.time,
		head: head, tip: o.id, position: end.Position, tokens: end.Tokens,
	}
	g.lines[o.id] = l
	o.stored = *l
	g.add(insertConversations, o.id[:], o.team, int64(1), o.time, o.time, o.expireTime, o.spec)
	g.addBranch(o.id[:], o.id[:], end, idArg(head), end, o.time, o.id[:])
	return nil
}

type forkConversation struct {
	createConversation
	from, turn conversation.ID
}

func (o *forkConversation) want(k *keys) {
	k.lines = append(k.lines, o.id, o.from)
	if !o.turn.IsZero() {
		k.turns = append(k.turns, o.team, idArg(o.turn))
	}
}

func (o *forkConversation) decide(g *group) error {
	l, err := g.line(o.team, o.from)
	if err != nil {
		return err
	}
	if o.turn.IsZero() || o.turn == l.head {
		return o.create(g, l.head, l.place())
	}
	end, err := g.endOf(turnKey{o.team, o.turn}, o.from)
	if err != nil {
		return err
	}
	return o.create(g, o.turn, end)
}

// endOf returns where an ended turn of a conversation ends.
func (g *group) endOf(k turnKey, in conversation.ID) (conversation.Place, error) {
	t, ok := g.turns[k]
	switch {
	case g.begun[k.id]:
		return conversation.Place{}, errNextGroup
	case !ok || t.conversation != in:
		return conversation.Place{}, conversation.ErrNotFound
	case !t.state.Ended():
		e := conversation.Errorf(conversation.InvalidState, "the turn has not ended")
		e.Turn = k.id
		return conversation.Place{}, e
	}
	return t.end, nil
}

type updateConversation struct {
	id               conversation.ID
	team             string
	version          conversation.Version
	head             conversation.ID
	branch           conversation.ID // a new one, for a head that is selected
	time, expireTime int64
	spec             []byte
	stored           line
}

func (o *updateConversation) want(k *keys) {
	k.lines = append(k.lines, o.id)
	if !o.head.IsZero() {
		k.turns = append(k.turns, o.team, idArg(o.head))
	}
}

func (o *updateConversation) decide(g *group) error {
	l, err := g.line(o.team, o.id)
	if err != nil {
		return err
	}
	if !l.is(o.version) {
		return conversation.ErrEtagMismatch
	}
	if o.head != l.head {
		if err := o.selectHead(g, l); err != nil {
			return err
		}
	}
	l.spec++
	l.specTime, l.expireTime = o.time, o.expireTime
	l.newSpec = o.spec
	g.changeLine(o.id, l)
	o.stored = *l
	return nil
}

// selectHead has the line go on at the end of a turn, on a new branch that grows out of that end.
func (o *updateConversation) selectHead(g *group, l *line) error {
	end, err := g.endOf(turnKey{o.team, o.head}, o.id)
	if err != nil {
		return err
	}
	if turn := l.first(); !turn.IsZero() {
		return busy(turn)
	}
	l.head, l.tip, l.position, l.tokens, l.headTime = o.head, o.branch, end.Position, end.Tokens, o.time
	l.version++
	l.moved = true
	g.addBranch(o.branch[:], o.id[:], end, idArg(o.head), end, o.time, nil)
	return nil
}

type deleteConversation struct {
	id      conversation.ID
	team    string
	version conversation.Version
	time    int64
}

func (o *deleteConversation) want(k *keys) { k.lines = append(k.lines, o.id) }

func (o *deleteConversation) decide(g *group) error {
	l, err := g.line(o.team, o.id)
	if err != nil {
		return err
	}
	if turn := l.first(); !turn.IsZero() {
		return busy(turn)
	}
	if len(l.forks) > 0 {
		return busy(l.forks[0])
	}
	if o.version != (conversation.Version{}) && !l.is(o.version) {
		return conversation.ErrEtagMismatch
	}
	delete(g.lines, o.id)
	g.add(deleteConversations, o.id[:])
	g.add(insertDeletions, o.id[:], o.time)
	return nil
}

type ping struct{ now int64 }

func (*ping) want(*keys) {}

func (o *ping) decide(g *group) error {
	g.then = append(g.then, func(ctx context.Context, w *setWriter) error {
		return w.exec(ctx, writeProbe, o.now)
	})
	return nil
}

var writeProbe = &statement{
	`INSERT INTO probe (id, time) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET time = excluded.time`,
}
