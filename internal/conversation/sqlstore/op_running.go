package sqlstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// RequestCancel asks the owner of a turn to cancel it.
func (db *DB) RequestCancel(ctx context.Context, team string, id conversation.ID) error {
	return db.committer.do(ctx, "request cancel", &changeRun{turnKey{team, id}, func(r *run) { r.cancel = true }}, 0)
}

// AttachTurn says that a turn is read by its creators in this process.
func (db *DB) AttachTurn(ctx context.Context, team string, id conversation.ID) error {
	return db.committer.do(ctx, "attach to turn", &changeRun{turnKey{team, id}, attach}, 0)
}

func attach(r *run) { r.callersHere = r.counted }

// DetachTurn says that a turn is read by none of its creators in this process any more, and asks for it to be cancelled if
// that is so in all others, too.
func (db *DB) DetachTurn(ctx context.Context, team string, id conversation.ID) error {
	return db.committer.do(ctx, "detach from turn", &changeRun{turnKey{team, id}, detach}, 0)
}

func detach(r *run) {
	r.callersHere = false
	r.cancel = r.cancel || r.counted && !r.callersElsewhere
}

// A changeRun changes what the row of a running turn says to all processes.
type changeRun struct {
	key    turnKey
	change func(*run)
}

func (k *keys) wantRun(key turnKey) {
	k.running = append(k.running, key)
	k.locks = append(k.locks, key.id)
	k.runs = append(k.runs, key.id)
}

func (o *changeRun) want(k *keys) {
	k.wantRun(o.key)
	k.callers = append(k.callers, o.key.id)
}

func (o *changeRun) decide(g *group) error {
	r, err := g.running(o.key)
	if err != nil {
		return err
	}
	asked := r.cancel
	o.change(r)
	g.changeRun(o.key.id, r)
	if r.cancel && !asked {
		g.wake(o.key.id)
		g.woken = append(g.woken, dutiesID)
	}
	return nil
}

// AppendEvents makes events of running turns durable.
func (db *DB) AppendEvents(ctx context.Context, batches []conversation.EventBatch) (lost []conversation.ID, err error) {
	o := &appendEvents{batches: make([]eventBatch, 0, len(batches))}
	n := 0
	for _, b := range batches {
		rows, err := eventRows(b.Events)
		if err != nil {
			return nil, fmt.Errorf("append events: %w", err)
		}
		for _, row := range rows {
			n += len(row.data)
		}
		o.batches = append(o.batches, eventBatch{turnKey{b.Team, b.Turn}, int64(b.Takeovers), rows})
	}
	if err := db.committer.do(ctx, "append events", o, n); err != nil {
		return nil, err
	}
	return o.lost, nil
}

type eventBatch struct {
	key       turnKey
	takeovers int64
	rows      []eventRow
}

type appendEvents struct {
	batches []eventBatch
	lost    []conversation.ID
}

func (o *appendEvents) want(k *keys) {
	for i := range o.batches {
		k.runs = append(k.runs, o.batches[i].key.id)
	}
}

func (o *appendEvents) decide(g *group) error {
	o.lost = nil
	for i := range o.batches {
		id := o.batches[i].key.id
		if r, ok := g.runs[id]; g.begun[id] || ok && r.isLogged {
			return errNextGroup
		}
	}
	for i := range o.batches {
		b := &o.batches[i]
		r := g.runs[b.key.id]
		if r == nil || r.team != b.key.team || !g.owns(r, b.takeovers) {
			if !slices.Contains(o.lost, b.key.id) {
				o.lost = append(o.lost, b.key.id)
			}
			continue
		}
		if len(b.rows) > 0 {
			r.isLogged = true
			g.addEvents(idArg(b.key.id), b.rows)
			g.wake(b.key.id)
		}
	}
	return nil
}

func (g *group) addEvents(turn any, rows []eventRow) {
	for i := range rows {
		g.add(insertEvents, turn, rows[i].first, rows[i].last, rows[i].data)
	}
}
