package sqlstore

import (
	"context"
	"fmt"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// CreateConversation records c.
func (db *DB) CreateConversation(ctx context.Context, c *conversation.Conversation) error {
	spec, err := encode("spec", &c.Spec)
	if err != nil {
		return fmt.Errorf("create conversation: %w", err)
	}
	created := nanos(c.CreateTime)
	if err := db.committer.do(ctx, "create conversation", &createConversation{c.ID, c.Team, created, spec}, len(spec)); err != nil {
		return err
	}
	c.Version = conversation.Version{Spec: 1, Head: 1}
	c.CreateTime = fromNanos(created)
	c.UpdateTime = c.CreateTime
	return nil
}

// UpdateConversation replaces the spec of a conversation that has not changed.
func (db *DB) UpdateConversation(ctx context.Context, c *conversation.Conversation) (*conversation.Conversation, error) {
	spec, err := encode("spec", &c.Spec)
	if err != nil {
		return nil, fmt.Errorf("update conversation: %w", err)
	}
	updated := *c
	o := &updateConversation{id: c.ID, team: c.Team, version: c.Version, time: nanos(db.now()), spec: spec}
	if err := db.committer.do(ctx, "update conversation", o, len(spec)); err != nil {
		return nil, err
	}
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
	c.HeadTurn, c.HeadPosition, c.HeadTokens, c.ActiveTurn = l.head, l.position, l.tokens, l.active
	c.Version = conversation.Version{Spec: l.spec, Head: l.version}
	c.CreateTime = fromNanos(l.createTime)
	c.UpdateTime = fromNanos(max(l.specTime, l.headTime))
}

func (l *line) is(v conversation.Version) bool { return v.Spec == l.spec && v.Head == l.version }

type createConversation struct {
	id   conversation.ID
	team string
	time int64
	spec []byte
}

func (o *createConversation) want(k *keys) { k.lines = append(k.lines, o.id[:]) }

func (o *createConversation) decide(g *group) error {
	if g.lines[o.id] != nil {
		return fmt.Errorf("create conversation: there is one with the id %x", o.id)
	}
	g.lines[o.id] = &line{team: o.team, spec: 1, createTime: o.time, specTime: o.time, version: 1, headTime: o.time}
	g.newConversations = append(g.newConversations, o.id[:], o.team, int64(1), o.time, o.time, o.spec)
	g.newBranches = append(g.newBranches, o.id[:], o.id[:], nil, int64(0), nil, int64(0), int64(0), int64(1), o.time)
	return nil
}

type updateConversation struct {
	id      conversation.ID
	team    string
	version conversation.Version
	time    int64
	spec    []byte
	stored  line
}

func (o *updateConversation) want(k *keys) { k.lines = append(k.lines, o.id[:]) }

func (o *updateConversation) decide(g *group) error {
	l, err := g.line(o.team, o.id)
	if err != nil {
		return err
	}
	if !l.is(o.version) {
		return conversation.ErrEtagMismatch
	}
	l.spec++
	l.specTime = o.time
	o.stored = *l
	l.newSpec = o.spec
	g.change(o.id, l)
	return nil
}

type deleteConversation struct {
	id      conversation.ID
	team    string
	version conversation.Version
	time    int64
}

func (o *deleteConversation) want(k *keys) { k.lines = append(k.lines, o.id[:]) }

func (o *deleteConversation) decide(g *group) error {
	l, err := g.line(o.team, o.id)
	if err != nil {
		return err
	}
	if !l.active.IsZero() {
		return busy(l.active)
	}
	if o.version != (conversation.Version{}) && !l.is(o.version) {
		return conversation.ErrEtagMismatch
	}
	delete(g.lines, o.id)
	g.goneConversations = append(g.goneConversations, o.id[:])
	g.deletions = append(g.deletions, o.id[:], o.time)
	return nil
}

type ping struct{ now int64 }

func (*ping) want(*keys) {}

func (o *ping) decide(g *group) error {
	g.then = append(g.then, func(ctx context.Context, w *writer) error {
		return w.exec(ctx, `INSERT INTO probe (id, time) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET time = excluded.time`, o.now)
	})
	return nil
}
