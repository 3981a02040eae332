package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

var _ tenant.Store = (*DB)(nil)

// Put writes rows of the control plane together with the entry of the audit that says so.
func (db *DB) Put(ctx context.Context, c *tenant.Change, e *tenant.Entry) error {
	const doing = "change teams, clients or keys"
	rows, err := tenantRows(c)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	o := &auditOp{rows: rows, entry: *e}
	if err := db.committer.do(ctx, doing, o, 0); err != nil {
		return err
	}
	*e = *o.written
	if c.Team != nil {
		c.Team.Revision = e.Sequence
	}
	if c.Client != nil {
		c.Client.Revision = e.Sequence
	}
	for _, k := range c.Keys {
		k.Revision = e.Sequence
	}
	return nil
}

// Record writes an entry of the audit.
func (db *DB) Record(ctx context.Context, e *tenant.Entry, once bool) error {
	o := &auditOp{entry: *e, once: once}
	if err := db.committer.do(ctx, "record in the audit", o, 0); err != nil {
		return err
	}
	if o.written != nil {
		*e = *o.written
	}
	return nil
}

// tenancyID is no turn's: a Put wakes its subscribers.
var tenancyID = conversation.ID{15: 2}

// Changed returns a channel that gets a value after rows of the control plane were written.
func (db *DB) Changed() (wake <-chan struct{}, stop func()) { return db.hub.subscribe(tenancyID) }

// onceEvery is for how long an entry that was written with once stands for others like it; also for somewhat earlier ones, as
// clocks differ, but not for all there are: a clock can be years ahead.
const onceEvery = time.Minute

// auditOp writes an entry of the audit, and the rows that it is about.
type auditOp struct {
	rows  []tenantRow
	entry tenant.Entry
	once  bool
	// written is the entry as it is stored; nil where it was not to be.
	written *tenant.Entry
}

// A tenantRow is a row of the control plane: a team, a client or a key.
type tenantRow struct {
	tenantKey
	revision int64 // the one that it is to replace, 0 for none
	request  tenant.Digest
	columns  []any // those of table, behind the revision
}

// A tenantKey names a row by the set that writes it and its primary key.
type tenantKey struct {
	table    *set
	team, id string // team is empty but for clients
}

var errTwice = errors.New("a row comes twice")

func tenantRows(c *tenant.Change) ([]tenantRow, error) {
	rows := make([]tenantRow, 0, 2+len(c.Keys))
	if t := c.Team; t != nil {
		spec, err := encode("team", t)
		if err != nil {
			return nil, err
		}
		rows = append(rows, tenantRow{tenantKey: tenantKey{putTeams, "", t.ID}, revision: t.Revision, columns: []any{t.ID, spec}})
	}
	if t := c.Client; t != nil {
		spec, err := encode("client", t)
		if err != nil {
			return nil, err
		}
		rows = append(rows, tenantRow{
			tenantKey: tenantKey{putClients, t.Team, t.ID}, revision: t.Revision, columns: []any{t.Team, t.ID, spec},
		})
	}
	ids, requests := make(map[string]bool), make(map[tenant.Digest]bool)
	for _, k := range c.Keys {
		if ids[k.ID] || !k.Request.IsZero() && requests[k.Request] {
			return nil, errTwice
		}
		ids[k.ID], requests[k.Request] = true, true
		spec, err := encode("key", k)
		if err != nil {
			return nil, err
		}
		digest, request := k.Digest, k.Request
		rows = append(rows, tenantRow{
			tenantKey: tenantKey{putKeys, "", k.ID}, revision: k.Revision, request: request,
			columns: []any{k.ID, k.Team, k.Client, digest[:], digestArg(request), spec},
		})
	}
	return rows, nil
}

// digestArg is d as an argument, or NULL for none.
func digestArg(d tenant.Digest) any {
	if d.IsZero() {
		return nil
	}
	return d[:]
}

// textArg is s as an argument, or NULL for none.
func textArg(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (o *auditOp) want(k *keys) {
	t := &k.tenancy
	t.head = true
	for i := range o.rows {
		r := &o.rows[i]
		switch r.table {
		case putTeams:
			t.teams = append(t.teams, r.id)
		case putClients:
			t.clients = append(t.clients, r.team, r.id)
		case putKeys:
			t.keys = append(t.keys, r.id)
			if !r.request.IsZero() {
				t.requests = append(t.requests, r.request[:])
			}
		}
	}
	if o.once {
		before := o.entry.Time.Truncate(time.Microsecond).Add(onceEvery) // as Follow does
		t.denials = append(t.denials, o.entry.Source, o.entry.Reason, nanos(before))
	}
}

func (o *auditOp) decide(g *group) error {
	t := &g.tenancy
	o.written = nil
	if !t.known {
		return errNoHead
	}
	for i := range o.rows {
		if err := t.check(&o.rows[i]); err != nil {
			return err
		}
	}
	e := o.entry
	head, err := e.Follow(t.head)
	if err != nil {
		return err
	}
	var source, reason any
	if o.once {
		d, at := denial{e.Source, e.Reason}, nanos(e.Time)
		if slices.ContainsFunc(t.denials[d], func(other int64) bool { return at-int64(onceEvery) < other && other < at+int64(onceEvery) }) {
			return nil
		}
		t.denials[d] = append(t.denials[d], at)
		source, reason = e.Source, e.Reason
	}
	t.head, t.moved = head, true
	for i := range o.rows {
		r := &o.rows[i]
		t.put(r, e.Sequence)
		g.add(r.table, e.Sequence)
		g.add(r.table, r.columns...)
		g.wake(tenancyID)
	}
	g.add(insertEntries, e.Sequence, nanos(e.Time), textArg(e.Team), source, reason, e.Hash[:], e.Record)
	o.written = &e
	return nil
}
