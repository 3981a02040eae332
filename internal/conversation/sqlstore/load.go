package sqlstore

import (
	"bytes"
	"context"
	"slices"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const runColumns = `r.turn, r.team, r.conversation, r.line, r.owner, r.branch, coalesce(r.ticket, 0), coalesce(r.epoch, 0),
	coalesce(r.start, 0), coalesce(r.position, 0), coalesce(r.tokens, 0), coalesce(r.counted, 0), coalesce(r.cancel, 0),
	coalesce(r.takeovers, 0)`

var (
	insertClaims = &set{
		`INSERT INTO claims (team, request_id, turn, fingerprint, create_time) VALUES `,
		` ON CONFLICT DO NOTHING RETURNING team, request_id`, 5, nil,
	}
	claimsByKey = &set{
		`SELECT team, request_id, turn, fingerprint FROM claims WHERE (team, request_id) IN (VALUES `,
		`) ORDER BY request_id, team`, 2,
		[]string{"text", "bytea"},
	}

	lockLines = &set{`SELECT id FROM branches WHERE id IN (`, `) ORDER BY id`, 1, nil}
	lockRuns  = &set{`SELECT turn FROM running WHERE turn IN (`, `) ORDER BY turn`, 1, nil}

	runsByTurn = &set{`SELECT ` + runColumns + ` FROM running r WHERE r.turn IN (`, `)`, 1, nil}

	callersByTurn = &set{`SELECT turn, replica FROM callers WHERE turn IN (`, `)`, 1, nil}

	// A row for each turn that runs or waits in a conversation, or one if there is none.
	linesByID = &set{`SELECT c.id, c.team, c.spec_version, c.create_time, c.update_time,
	b.head_turn, b.tip, b.head_position, b.head_tokens, b.version, b.update_time, ` + runColumns + `
FROM conversations c JOIN branches b ON b.id = c.id LEFT JOIN running r ON r.conversation = c.id
WHERE c.id IN (`, `)`, 1, nil}

	turnsByKey = &set{
		`SELECT t.team, t.id, t.conversation, t.state, t.branch, t.position + t.inputs + t.outputs, t.end_tokens
FROM turns t
WHERE NOT EXISTS (SELECT 1 FROM deletions d WHERE d.conversation = t.conversation) AND (t.team, t.id) IN (VALUES `, `)`, 2,
		[]string{"text", "uuid"},
	}
)

// load locks and reads the rows that keys names. Locks are taken table by table in one order, and rows are read only by
// statements that begin after that: one that waited for a lock would see the other tables as they were before.
func (g *group) load(ctx context.Context, w *setWriter) error {
	k := &g.keys
	g.loadClaims(w)
	k.lines, k.locks, k.runs, k.callers = sorted(k.lines), sorted(k.locks), sorted(k.runs), sorted(k.callers)
	if w.dialect.forUpdate() != "" {
		w.lockSet(lockLines, g.ids(k.lines), ignoreRow)
		w.lockSet(lockRuns, g.ids(k.locks), ignoreRow)
	}
	g.lockTenancy(w)
	w.querySet(linesByID, g.ids(k.lines), g.addLine)
	w.querySet(runsByTurn, g.ids(k.runs), func(row row) error {
		_, _, err := g.addRun(row)
		return err
	})
	w.querySet(callersByTurn, g.ids(k.callers), g.addCaller)
	w.querySet(turnsByKey, k.turns, g.addTurn)
	g.loadTenancy(w)
	if err := w.flush(ctx); err != nil {
		return err
	}
	missing := len(k.turns)
	for _, key := range k.running {
		if g.runs[key.id] == nil {
			k.turns = append(k.turns, key.team, idArg(key.id))
		}
	}
	if missing == len(k.turns) {
		return nil
	}
	w.querySet(turnsByKey, k.turns[missing:], g.addTurn)
	return w.flush(ctx)
}

// loadClaims claims the request ids of turns that are to begin, where they are free, and then reads whose they are. While
// another process is about to write the same claim, it waits.
func (g *group) loadClaims(w *setWriter) {
	k := &g.keys
	if len(k.claims) == 0 && len(k.freed) == 0 {
		return
	}
	slices.SortStableFunc(k.claims, func(a, b newClaim) int { return a.compare(b.claimKey) })
	k.claims = slices.CompactFunc(k.claims, func(a, b newClaim) bool { return a.claimKey == b.claimKey }) // the first has it
	rows := make([]any, 0, 5*len(k.claims))
	for i := range k.claims {
		c := &k.claims[i]
		rows = append(rows, c.team, []byte(c.requestID), c.Turn[:], c.Fingerprint[:], c.time)
		k.freed = append(k.freed, c.claimKey)
	}
	// A row that comes twice, as a set of keys may, is only made once.
	w.querySet(insertClaims, rows, func(row row) error {
		var key claimKey
		var id []byte
		err := row.Scan(&key.team, &id)
		key.requestID = string(id)
		g.made[key] = true
		return err
	})
	slices.SortFunc(k.freed, claimKey.compare)
	k.freed = slices.Compact(k.freed)
	args := make([]any, 0, 2*len(k.freed))
	for _, c := range k.freed {
		args = append(args, c.team, []byte(c.requestID))
	}
	w.lockSet(claimsByKey, args, func(row row) error {
		var key claimKey
		var id, fingerprint []byte
		var c conversation.Claim
		if err := row.Scan(&key.team, &id, (*idColumn)(&c.Turn), &fingerprint); err != nil {
			return err
		}
		key.requestID = string(id)
		copy(c.Fingerprint[:], fingerprint)
		g.claims[key] = c
		return nil
	})
}

func sorted(ids []conversation.ID) []conversation.ID {
	slices.SortFunc(ids, func(a, b conversation.ID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(ids)
}

// ids are ids as arguments; they must not change before the statement has run.
func (g *group) ids(ids []conversation.ID) []any {
	n := len(g.args)
	for i := range ids {
		g.args = append(g.args, ids[i][:])
	}
	return g.args[n:len(g.args):len(g.args)]
}

func ignoreRow(row) error { return nil }

func (g *group) addLine(row row) error {
	var id conversation.ID
	var n line
	turn, r, err := g.addRun(row, (*idColumn)(&id), &n.team, &n.spec, &n.createTime, &n.specTime,
		(*idColumn)(&n.head), (*idColumn)(&n.tip), &n.position, &n.tokens, &n.version, &n.headTime)
	if err != nil {
		return err
	}
	l := g.lines[id]
	if l == nil {
		l = &n
		g.lines[id] = l
	}
	switch {
	case r == nil:
	case r.main:
		l.active = turn
	case r.ticket > 0:
		i := len(l.waiting)
		for i > 0 && g.runs[l.waiting[i-1]].ticket > r.ticket {
			i--
		}
		l.waiting = slices.Insert(l.waiting, i, turn)
	default:
		l.forks = append(l.forks, turn)
	}
	return nil
}

// addRun reads a row of first and then runColumns, which are NULL where there is no turn.
func (g *group) addRun(row row, first ...any) (turn conversation.ID, r *run, err error) {
	var n run
	var team *string
	var line conversation.ID
	var counted, cancel int64
	if err := row.Scan(append(first, (*idColumn)(&turn), &team, (*idColumn)(&n.conversation), (*idColumn)(&line),
		(*idColumn)(&n.owner.id), (*idColumn)(&n.branch), &n.ticket, &n.owner.epoch, &n.start, &n.position, &n.tokens,
		&counted, &cancel, &n.takeovers)...); err != nil {
		return turn, nil, err
	}
	if team == nil {
		return turn, nil, nil
	}
	n.team, n.main, n.cancel = *team, !line.IsZero(), cancel != 0
	n.asked, n.counted = n.cancel, counted != 0
	g.runs[turn] = &n
	return turn, &n, nil
}

// addCaller comes after the turn's addRun.
func (g *group) addCaller(row row) error {
	var turn, replica conversation.ID
	if err := row.Scan((*idColumn)(&turn), (*idColumn)(&replica)); err != nil {
		return err
	}
	switch r := g.runs[turn]; {
	case r == nil:
	case replica == g.owner.id:
		r.callersHere, r.hadCallersHere = true, true
	default:
		r.callersElsewhere = true
	}
	return nil
}

func (g *group) addTurn(row row) error {
	var k turnKey
	var t turnRow
	var state int64
	if err := row.Scan(&k.team, (*idColumn)(&k.id), (*idColumn)(&t.conversation), &state,
		(*idColumn)(&t.end.Branch), &t.end.Position, &t.end.Tokens); err != nil {
		return err
	}
	t.state = conversation.State(state) //nolint:gosec // as stored
	g.turns[k] = t
	return nil
}
