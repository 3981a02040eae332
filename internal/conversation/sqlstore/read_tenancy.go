package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// One statement sees one moment, so the head is exactly that of the rows, and whether the audit has the entry that they are asked
// after is looked at then, too. Keys come first because they have all columns.
const (
	knownRevision = `coalesce((SELECT sequence FROM audit WHERE sequence = $1 AND hash = $2), 0)`
	readChanges   = `SELECT 'key', id, team, client, revision, digest, request, spec FROM api_keys WHERE revision > ` + knownRevision + `
UNION ALL SELECT 'client', id, team, '', revision, NULL, NULL, spec FROM clients WHERE revision > ` + knownRevision + `
UNION ALL SELECT 'team', id, '', '', revision, NULL, NULL, spec FROM teams WHERE revision > ` + knownRevision + `
UNION ALL SELECT 'head', CASE ` + knownRevision + ` WHEN 0 THEN 'all' ELSE '' END, '', '', sequence, hash, NULL, NULL
FROM audit_head WHERE id = 1`

	readHead = `SELECT sequence, hash FROM audit_head WHERE id = 1`

	// Of a range of sequence numbers PostgreSQL thinks that it is short, and sorts it: so these have no other end.
	someEntries       = `SELECT sequence, time, team, source, reason, hash, record FROM audit WHERE sequence `
	newestEntries     = someEntries + `< $1 ORDER BY sequence DESC LIMIT $2`
	oldestEntries     = someEntries + `> $1 ORDER BY sequence LIMIT $2`
	newestTeamEntries = someEntries + `< $1 AND team = $3 ORDER BY sequence DESC LIMIT $2`
	oldestTeamEntries = someEntries + `> $1 AND team = $3 ORDER BY sequence LIMIT $2`

	// Of which times entries are is found out from an index alone; a sum keeps PostgreSQL from walking the table for the least
	// sequence number of a time instead.
	entriesBetween = `SELECT min(sequence + 0), max(sequence + 0) FROM audit WHERE time >= $1 AND time < $2`
)

// Changes returns the rows of the control plane after a head of the audit. One that cannot be read, as one of a later release, lets
// nobody in, and keeps nobody else out: a key is revoked, and a team or a client disabled.
func (db *DB) Changes(ctx context.Context, after tenant.Head) (*tenant.Changes, error) {
	c := new(tenant.Changes)
	known := false
	var unreadable []string
	var because error
	note := func(err error, kind, id string) (failed bool) {
		if err != nil {
			unreadable, because = append(unreadable, kind+" "+id), err
		}
		return err != nil
	}
	err := db.read(ctx, "read changes", readChanges, []any{after.Count, after.Hash[:]}, func(rows *sql.Rows) error {
		var kind, id, team, client string
		var revision int64
		var digest, request, spec sql.RawBytes
		if err := rows.Scan(&kind, &id, &team, &client, &revision, &digest, &request, &spec); err != nil {
			return err
		}
		switch kind {
		case "team":
			t := &tenant.Team{}
			if note(decode("team", spec, t), kind, id) {
				t.Disabled, revision = true, -revision // which is never the stored one, so that nothing is written over it
			}
			t.ID, t.Revision = id, revision
			c.Teams = append(c.Teams, t)
		case "client":
			t := &tenant.Client{}
			if note(decode("client", spec, t), kind, team+"/"+id) {
				t.Disabled, revision = true, -revision
			}
			t.Team, t.ID, t.Revision = team, id, revision
			c.Clients = append(c.Clients, t)
		case "key":
			k, err := parseKey(digest, request, spec)
			if note(err, kind, id) && k.RevokeTime.IsZero() {
				k.RevokeTime = unreadableSince
			}
			k.ID, k.Team, k.Client, k.Revision = id, team, client, revision
			c.Keys = append(c.Keys, k)
		default:
			c.All, c.Head.Count, known = id == "all", revision, true
			// A hash that cannot be read is one that no entry has.
			c.Head.Hash, _ = parseDigest(digest)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, errNoHead
	}
	if n := len(unreadable); n > 0 {
		db.log.ErrorContext(ctx, "some teams, clients or keys cannot be read: such keys count as revoked, the others as disabled",
			"number", n, "which", strings.Join(unreadable[:min(n, 20)], ", "), "error", because)
	}
	return c, nil
}

// unreadableSince is when a key counts as revoked that cannot be read: nobody knows.
var unreadableSince = time.Unix(0, 0).UTC()

var errNoHead = fmt.Errorf("the audit has no head: %w", errUnreadable)

// parseKey returns what can be parsed, also with an error.
func parseKey(digest, request, spec []byte) (*tenant.Key, error) {
	k := &tenant.Key{}
	err := decode("key", spec, k)
	if err != nil {
		return k, err
	}
	if k.Digest, err = parseDigest(digest); err == nil && request != nil {
		k.Request, err = parseDigest(request)
	}
	return k, err
}

// Entries returns entries of the audit as they are stored, whatever was done to them: to find that out is for who verifies
// them. So one whose record cannot be parsed is one without content, and a hash that is none is zero.
//
// The clocks of those who wrote them need not agree, so times are nearly in the order of the sequence numbers, but not quite: what
// is outside of f is left out among those between the first and the last inside.
func (db *DB) Entries(ctx context.Context, f tenant.EntryFilter, limit int) ([]*tenant.Entry, error) {
	if limit <= 0 {
		return nil, ctx.Err()
	}
	first, last, err := db.entrySpan(ctx, f)
	if err != nil || last < first {
		return nil, err
	}
	after, rows := f.After, limit
	if hasTime(f) {
		rows = max(rows, entriesAtOnce)
	}
	switch {
	case f.Ascending:
		after = max(after, first-1)
	case after == 0 || after-1 > last:
		after = last + 1
	}
	text, teamText := newestEntries, newestTeamEntries
	if f.Ascending {
		text, teamText = oldestEntries, oldestTeamEntries
	}
	args := []any{after, rows}
	if f.Team != "" {
		text, args = teamText, append(args, f.Team)
	}
	var entries []*tenant.Entry
	for enough := false; !enough; {
		n := 0
		args[0] = after
		err := db.read(ctx, "read the audit", text, args, func(row *sql.Rows) error {
			e, at, err := scanEntry(row)
			if err != nil {
				return err
			}
			n, after = n+1, e.Sequence
			switch {
			case after < first, last < after:
				enough = true
			case timeWithin(at, f):
				entries = append(entries, e)
				enough = len(entries) == limit
			}
			if enough {
				return errEnough
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		enough = enough || n < rows
	}
	return entries, nil
}

// entriesAtOnce is how many rows a statement reads at least where some may be left out.
const entriesAtOnce = 100

func hasTime(f tenant.EntryFilter) bool { return !f.Start.IsZero() || !f.End.IsZero() }

// entrySpan returns between which sequence numbers the entries of a filter's time are: last is below first if there are none.
func (db *DB) entrySpan(ctx context.Context, f tenant.EntryFilter) (first, last int64, err error) {
	if !hasTime(f) {
		return 1, math.MaxInt64 - 1, nil
	}
	args := []any{timeBound(f.Start, math.MinInt64), timeBound(f.End, math.MaxInt64)}
	err = db.read(ctx, "read the audit", entriesBetween, args, func(rows *sql.Rows) error {
		var least, most sql.NullInt64
		err := rows.Scan(&least, &most)
		first, last = max(least.Int64, 1), most.Int64
		return err
	})
	return first, last, err
}

func scanEntry(rows *sql.Rows) (e *tenant.Entry, at int64, err error) {
	var sequence int64
	var team, source, reason sql.NullString
	var hash, record []byte
	if err := rows.Scan(&sequence, &at, &team, &source, &reason, &hash, &record); err != nil {
		return nil, 0, err
	}
	if e, err = tenant.ParseEntry(record); err == nil {
		e.Time, e.Team = fromNanos(at), team.String
		if source.Valid { // they are only where once was asked for
			e.Source = source.String
		}
		if reason.Valid {
			e.Reason = reason.String
		}
	} else {
		e = &tenant.Entry{Record: record}
	}
	e.Sequence = sequence
	e.Hash, _ = parseDigest(hash)
	return e, at, nil
}

func timeWithin(at int64, f tenant.EntryFilter) bool {
	return at >= timeBound(f.Start, math.MinInt64) && (f.End.IsZero() || at < timeBound(f.End, math.MaxInt64))
}

// timeBound is t as it is stored, also if that has no room for it, or none where t is zero.
func timeBound(t time.Time, none int64) int64 {
	switch {
	case t.IsZero():
		return none
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// Head returns the head of the audit.
func (db *DB) Head(ctx context.Context) (tenant.Head, error) {
	var head tenant.Head
	known := false
	err := db.read(ctx, "read the head of the audit", readHead, nil, func(rows *sql.Rows) (err error) {
		head, err = scanHead(rows)
		known = true
		return err
	})
	if err == nil && !known {
		err = errNoHead
	}
	return head, err
}
