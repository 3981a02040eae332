package sqlstore

import (
	"fmt"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// tenancyKeys are the rows of the control plane that the ops of a group look at.
type tenancyKeys struct {
	head     bool // that of the audit: set in its groups, of which some want nothing else here
	teams    []any
	clients  []any // team and id
	keys     []any
	requests []any
	denials  []any // source, reason, and before when
}

func (k *tenancyKeys) reset() {
	k.head = false
	for _, s := range []*[]any{&k.teams, &k.clients, &k.keys, &k.requests, &k.denials} {
		clear(*s)
		*s = (*s)[:0]
	}
}

// tenancy is what a group knows of the control plane, as its ops see it one after the other.
type tenancy struct {
	head      tenant.Head
	known     bool // there is a head
	moved     bool // it is to be written
	revisions map[tenantKey]int64
	written   map[tenantKey]bool       // by this group
	requests  map[tenant.Digest]string // the ids of the keys that they made
	denials   map[denial][]int64       // the times of some entries that were written with once
}

type denial struct{ source, reason string }

func newTenancy() tenancy {
	return tenancy{
		revisions: make(map[tenantKey]int64),
		written:   make(map[tenantKey]bool),
		requests:  make(map[tenant.Digest]string),
		denials:   make(map[denial][]int64),
	}
}

func (t *tenancy) reset() {
	t.head, t.known, t.moved = tenant.Head{}, false, false
	clear(t.revisions)
	clear(t.written)
	clear(t.requests)
	clear(t.denials)
}

// check returns why a row may not be written.
func (t *tenancy) check(r *tenantRow) error {
	known := t.revisions[r.tenantKey]
	switch {
	case r.revision == 0 && known != 0:
		return tenant.ErrExists
	case r.revision != known:
		return tenant.ErrChanged
	case t.written[r.tenantKey]:
		return errNextGroup // its revision was guessed: a statement writes a row only once
	}
	if id, taken := t.requests[r.request]; taken && id != r.id {
		return tenant.ErrExists
	}
	return nil
}

func (t *tenancy) put(r *tenantRow, revision int64) {
	t.revisions[r.tenantKey] = revision
	t.written[r.tenantKey] = true
	if !r.request.IsZero() {
		t.requests[r.request] = r.id
	}
}

var (
	auditHead = &set{`SELECT sequence, hash FROM audit_head WHERE id IN (`, `)`, 1, nil}

	teamRevisions   = &set{`SELECT '', id, revision FROM teams WHERE id IN (`, `)`, 1, nil}
	clientRevisions = &set{
		`SELECT team, id, revision FROM clients WHERE (team, id) IN (VALUES `, `)`, 2, []string{"text", "text"},
	}
	keyRevisions  = &set{`SELECT '', id, revision FROM api_keys WHERE id IN (`, `)`, 1, nil}
	keysByRequest = &set{`SELECT request, id FROM api_keys WHERE request IN (`, `)`, 1, nil}

	lastDenials = &set{`SELECT v.column1, v.column2,
	(SELECT max(a.time) FROM audit a WHERE a.source = v.column1 AND a.reason = v.column2 AND a.time < v.column3)
FROM (VALUES `, `) AS v`, 3, []string{"text", "text", "bigint"}}

	// What these write besides the revision, tenantRows knows.
	putTeams = &set{
		`INSERT INTO teams (revision, id, spec) VALUES `,
		` ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, spec = excluded.spec`, 3, nil,
	}
	putClients = &set{
		`INSERT INTO clients (revision, team, id, spec) VALUES `,
		` ON CONFLICT (team, id) DO UPDATE SET revision = excluded.revision, spec = excluded.spec`, 4, nil,
	}
	putKeys = &set{
		`INSERT INTO api_keys (revision, id, team, client, digest, request, spec) VALUES `,
		` ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, team = excluded.team, client = excluded.client,
	digest = excluded.digest, request = excluded.request, spec = excluded.spec`, 7, nil,
	}

	insertEntries = &set{
		`INSERT INTO audit (sequence, time, team, source, reason, hash, record) VALUES `, ``, 7, nil,
	}

	moveAuditHead = &set{
		`UPDATE audit_head SET sequence = v.column2, hash = v.column3 FROM (VALUES `, `) AS v WHERE audit_head.id = v.column1`, 3,
		[]string{"bigint", "bigint", "bytea"},
	}
)

// auditHeadID is that of the only row.
const auditHeadID = int64(1)

// headTimeout is how long a group of the audit waits for a lock, besides the round trips of who has it: so long may turns of
// this process have to wait for it, each time that it is tried while another session does not go on.
const headTimeout = 100 * time.Millisecond

// lockTenancy is for groups of the audit: those of all processes wait for each other here, and need no other locks on the
// tables of the control plane.
func (g *group) lockTenancy(w *setWriter) {
	if g.keys.tenancy.head {
		w.dialect.waitBriefly(w)
		w.lockSet(auditHead, []any{auditHeadID}, func(row row) (err error) {
			g.tenancy.head, err = scanHead(row)
			g.tenancy.known = true
			return err
		})
	}
}

// loadTenancy comes after all locks.
func (g *group) loadTenancy(w *setWriter) {
	k, t := &g.keys.tenancy, &g.tenancy
	for _, q := range []struct {
		read, table *set
		keys        []any
	}{{teamRevisions, putTeams, k.teams}, {clientRevisions, putClients, k.clients}, {keyRevisions, putKeys, k.keys}} {
		w.querySet(q.read, q.keys, func(row row) error {
			key := tenantKey{table: q.table}
			var revision int64
			if err := row.Scan(&key.team, &key.id, &revision); err != nil {
				return err
			}
			t.revisions[key] = revision
			return nil
		})
	}
	w.querySet(keysByRequest, k.requests, func(row row) error {
		var raw []byte
		var id string
		if err := row.Scan(&raw, &id); err != nil {
			return err
		}
		request, err := parseDigest(raw)
		if err == nil {
			t.requests[request] = id
		}
		return err
	})
	w.querySet(lastDenials, k.denials, func(row row) error {
		var d denial
		var last *int64
		if err := row.Scan(&d.source, &d.reason, &last); err != nil {
			return err
		}
		if last != nil {
			t.denials[d] = append(t.denials[d], *last)
		}
		return nil
	})
}

// collectTenancy is collect for the head of the audit.
func (g *group) collectTenancy() {
	if g.tenancy.moved {
		head := &g.tenancy.head
		g.add(moveAuditHead, auditHeadID, head.Count, head.Hash[:])
	}
}

func scanHead(row row) (head tenant.Head, err error) {
	var hash []byte
	if err = row.Scan(&head.Count, &hash); err != nil {
		return head, err
	}
	head.Hash, err = parseDigest(hash)
	return head, err
}

func parseDigest(b []byte) (d tenant.Digest, err error) {
	if len(b) != len(d) {
		return d, fmt.Errorf("%d bytes are not a digest: %w", len(b), errUnreadable)
	}
	return tenant.Digest(b), nil
}
