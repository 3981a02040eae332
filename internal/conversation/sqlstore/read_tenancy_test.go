package sqlstore

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// Entries come as they are stored, whatever was done to them, so that whoever verifies them finds it.
func TestTamperedEntries(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, db *DB) {
		for range 8 {
			e := auditEntry("put")
			e.Source, e.Reason = "10.1.1.1", "R"
			if err := db.Record(t.Context(), &e, false); err != nil {
				t.Fatal(err)
			}
		}
		before := audit(t, db)
		if e := before[2]; e.Source != "10.1.1.1" || e.Reason != "R" {
			t.Errorf("an entry that was not written with once: %+v", e)
		}
		for _, text := range []string{
			`UPDATE audit SET sequence = 100 WHERE sequence = 8`,
			`UPDATE audit SET time = 5000000 WHERE sequence = 1`,
			`UPDATE audit SET team = 'b' WHERE sequence = 2`,
			`UPDATE audit SET team = NULL WHERE sequence = 3`,
			`UPDATE audit SET source = '10.1.1.2', reason = 'OTHER' WHERE sequence = 3`,
		} {
			db.run(t, text)
		}
		junk := []byte("\x00\xff{")
		db.run(t, `UPDATE audit SET record = $1 WHERE sequence = 4`, junk)
		db.run(t, `UPDATE audit SET record = $1 WHERE sequence = 5`, []byte(`{"time":"no time"}`))
		db.run(t, `UPDATE audit SET record = $1 WHERE sequence = 6`, []byte(`null`))
		db.run(t, `UPDATE audit SET hash = $1 WHERE sequence = 7`, append(before[6].Hash[:], 0))
		es, err := db.Entries(t.Context(), tenant.EntryFilter{Ascending: true}, 100)
		if err != nil || len(es) != len(before) {
			t.Fatalf("%d entries, %v", len(es), err)
		}
		if e := es[7]; e.Sequence != 100 || !bytes.Equal(e.Record, before[7].Record) || e.Hash != before[7].Hash {
			t.Errorf("an entry with another number: %+v", e)
		}
		if e := es[0]; !e.Time.Equal(time.UnixMilli(5)) || !bytes.Equal(e.Record, before[0].Record) {
			t.Errorf("an entry with another time: %+v", e)
		}
		if es[1].Team != "b" || es[2].Team != "" {
			t.Errorf("entries with other teams: %+v, %+v", es[1], es[2])
		}
		if e := es[2]; e.Source != "10.1.1.2" || e.Reason != "OTHER" || !bytes.Equal(e.Record, before[2].Record) {
			t.Errorf("an entry with another source and reason: %+v", e)
		}
		if e := es[3]; !bytes.Equal(e.Record, junk) || e.Sequence != 4 || e.Hash != before[3].Hash || e.Action != "" || !e.Time.IsZero() {
			t.Errorf("an entry that cannot be parsed: %+v", e)
		}
		if e := es[4]; string(e.Record) != `{"time":"no time"}` || e.Sequence != 5 {
			t.Errorf("an entry that cannot be parsed: %+v", e)
		}
		if e := es[5]; string(e.Record) != "null" || e.Sequence != 6 {
			t.Errorf("an entry of nothing: %+v", e)
		}
		if e := es[6]; e.Hash != (tenant.Digest{}) || !bytes.Equal(e.Record, before[6].Record) {
			t.Errorf("an entry with too long a hash: %+v", e)
		}
		if of, err := db.Entries(t.Context(), tenant.EntryFilter{Team: "b"}, 100); err != nil || len(of) != 1 || of[0].Sequence != 2 {
			t.Errorf("the entries of a team: %+v, %v", of, err)
		}
	})
}

// Numbers begin with 1: what reads the audit from there on reads all of it.
func TestNoEntryBelowOne(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, db *DB) {
		for _, sequence := range []int64{0, -1} {
			err := db.committer.do(t.Context(), "test", testOp{decision: func(g *group) error {
				g.add(insertEntries, sequence, int64(0), nil, nil, nil, []byte{}, []byte{})
				return nil
			}}, 0)
			if err == nil {
				t.Errorf("there is an entry %d", sequence)
			}
		}
	})
}

// What cannot be read is an error, and never taken for something else. But of the rows of callers, one that cannot be read
// counts as one that lets nobody in, and does not keep the others from being read.
func TestUnreadableTenancy(t *testing.T) {
	t.Parallel()
	setUp := func(t *testing.T, db *DB) {
		t.Helper()
		e := auditEntry("put")
		c := &tenant.Change{
			Team: &tenant.Team{ID: "a"}, Client: &tenant.Client{Team: "a", ID: "web"},
			Keys: []*tenant.Key{{ID: "k", Request: tenant.Digest{1}}},
		}
		if err := db.Put(t.Context(), c, &e); err != nil {
			t.Fatal(err)
		}
	}
	reads := map[string]func(*testing.T, *DB) error{
		"changes": func(t *testing.T, db *DB) error {
			t.Helper()
			_, err := db.Changes(t.Context(), tenant.Head{})
			return err
		},
		"head": func(t *testing.T, db *DB) error {
			t.Helper()
			_, err := db.Head(t.Context())
			return err
		},
		"put": func(t *testing.T, db *DB) error {
			t.Helper()
			e := auditEntry("put")
			return db.Put(t.Context(), &tenant.Change{Keys: []*tenant.Key{{ID: "l", Request: tenant.Digest{1}}}}, &e)
		},
	}
	for name, c := range map[string]struct {
		text  string
		fails []string
	}{
		"head":    {`UPDATE audit_head SET hash = $1`, []string{"head", "put"}},
		"no head": {`DELETE FROM audit_head WHERE hash <> $1`, []string{"changes", "head", "put"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEngines(t, func(t *testing.T, db *DB) {
				setUp(t, db)
				db.run(t, c.text, []byte("no"))
				for read, f := range reads {
					switch err := f(t, db); {
					case slices.Contains(c.fails, read) && !errors.Is(err, errUnreadable):
						t.Errorf("%s: %v", read, err)
					case read != "put" && !slices.Contains(c.fails, read) && err != nil:
						t.Errorf("%s: %v", read, err)
					}
				}
			})
		})
	}
}

func TestUnreadableRows(t *testing.T) {
	t.Parallel()
	const ofLater = `{"display_name":"x","roles":["caller","of_later"],"create_time":17,"revoke_time":"0001-01-01T00:00:00Z"}`
	for name, c := range map[string]struct {
		text, value string
		logged      string
		bad         func(*tenant.Changes) bool
	}{
		"team": {
			`UPDATE teams SET spec = $1 WHERE id = 'a'`, `{"create_time":"no","disabled":false}`, `which="team a"`,
			func(c *tenant.Changes) bool { return c.Teams[0].Disabled },
		},
		"client": {
			`UPDATE clients SET spec = $1 WHERE id = 'a'`, "no", `which="client a/a"`,
			func(c *tenant.Changes) bool { return c.Clients[0].Disabled },
		},
		"key":         {`UPDATE api_keys SET spec = $1 WHERE id = 'a'`, ofLater, `which="key a"`, revoked},
		"key digest":  {`UPDATE api_keys SET digest = $1 WHERE id = 'a'`, "no", `which="key a"`, revoked},
		"key request": {`UPDATE api_keys SET request = $1 WHERE id = 'a'`, "no", `which="key a"`, revoked},
		"all keys":    {`UPDATE api_keys SET spec = $1`, "no", `number=2 which="key a, key b"`, revoked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEngines(t, func(t *testing.T, db *DB) {
				var log logbook
				db.log = log.logger()
				for _, id := range []string{"a", "b"} {
					e := auditEntry("put")
					if err := db.Put(t.Context(), &tenant.Change{
						Team: &tenant.Team{ID: id}, Client: &tenant.Client{Team: id, ID: id},
						Keys: []*tenant.Key{{ID: id, Team: id, Client: id, Request: tenant.Digest{id[0]}, ExpireTime: time.Now().Add(time.Hour)}},
					}, &e); err != nil {
						t.Fatal(err)
					}
				}
				db.run(t, c.text, []byte(c.value))
				got, err := db.Changes(t.Context(), tenant.Head{})
				if err != nil || got.Head.Count != 2 || len(got.Teams) != 2 || len(got.Clients) != 2 || len(got.Keys) != 2 {
					t.Fatalf("%+v, %v", got, err)
				}
				slices.SortFunc(got.Teams, func(a, b *tenant.Team) int { return strings.Compare(a.ID, b.ID) })
				slices.SortFunc(got.Clients, func(a, b *tenant.Client) int { return strings.Compare(a.ID, b.ID) })
				slices.SortFunc(got.Keys, func(a, b *tenant.Key) int { return strings.Compare(a.ID, b.ID) })
				if !c.bad(got) {
					t.Errorf("what cannot be read lets somebody in: %+v, %+v, %+v", got.Teams[0], got.Clients[0], got.Keys[0])
				}
				for _, over := range []*tenant.Change{{Team: got.Teams[0]}, {Client: got.Clients[0]}} {
					unreadable := over.Team != nil && over.Team.Disabled || over.Client != nil && over.Client.Disabled
					e := auditEntry("put")
					if err := db.Put(t.Context(), over, &e); unreadable && !errors.Is(err, tenant.ErrChanged) {
						t.Errorf("what cannot be read was written over: %v", err)
					}
				}
				if k := got.Keys[0]; k.ID != "a" || k.Team != "a" || k.Client != "a" || k.Revision != 1 {
					t.Errorf("the key is %+v", k)
				}
				if got.Teams[1].Disabled || got.Clients[1].Disabled || got.Keys[1].Ended(time.Now()) != (name == "all keys") {
					t.Errorf("what can be read: %+v, %+v, %+v", got.Teams[1], got.Clients[1], got.Keys[1])
				}
				if log.count(c.logged) != 1 || log.count("level=ERROR") != 1 {
					t.Errorf("it was not logged once: %s", log.lines.String())
				}
			})
		})
	}
}

func revoked(c *tenant.Changes) bool { return c.Keys[0].Ended(time.Unix(1, 0)) }

// A head that was put back, and with it some entries, stops what would write others in their place.
func TestHeadPutBack(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, db *DB) {
		team := &tenant.Team{ID: "a"}
		for range 3 {
			e := auditEntry("put")
			if err := db.Put(t.Context(), &tenant.Change{Team: team}, &e); err != nil {
				t.Fatal(err)
			}
		}
		db.run(t, `UPDATE audit_head SET sequence = $1`, int64(1))
		e := auditEntry("put")
		if err := db.Put(t.Context(), &tenant.Change{Team: team}, &e); err == nil || e.Sequence != 0 || team.Revision != 3 {
			t.Errorf("%v, the entry is %+v", err, e)
		}
		db.run(t, `DELETE FROM audit WHERE sequence > $1`, int64(1))
		if err := db.Put(t.Context(), &tenant.Change{Team: team}, &e); err != nil || e.Sequence != 2 || team.Revision != 2 {
			t.Errorf("%v, the entry is %+v", err, e)
		}
	})
}

// Who read a database before it was put back to an earlier one hears that nothing of it is to be relied on, although the database
// has had more changes since than it had then.
func TestDatabasePutBackAndOvertaken(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, db *DB) {
		put := func(id string) *tenant.Team {
			t.Helper()
			e, team := auditEntry("put "+id), &tenant.Team{ID: id}
			if err := db.Put(t.Context(), &tenant.Change{Team: team}, &e); err != nil {
				t.Fatal(err)
			}
			return team
		}
		after := func(h tenant.Head, all bool, teams int) tenant.Head {
			t.Helper()
			c, err := db.Changes(t.Context(), h)
			if err != nil || c.All != all || len(c.Teams) != teams {
				t.Fatalf("after %v: %+v, %v, want %d, all: %t", h, c, err, teams, all)
			}
			return c.Head
		}
		put("a")
		backup := after(tenant.Head{}, true, 1)
		put("b")
		known := after(backup, false, 1)
		db.run(t, `DELETE FROM audit WHERE sequence > $1`, int64(1))
		db.run(t, `DELETE FROM teams WHERE revision > $1`, int64(1))
		db.run(t, `UPDATE audit_head SET sequence = 1, hash = $1`, backup.Hash[:])
		after(known, true, 1)
		put("c")
		after(known, true, 2) // the entry with that number is another one
		put("d")
		after(after(known, true, 3), false, 0)
		after(backup, false, 2)
	})
}

// PostgreSQL finds an index for each of these, too, also if it plans them while it knows nothing of the tables.
func TestTenancyPlansPostgres(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	conn := session(t, url)
	execAll(t, conn, `SET enable_seqscan = off`, `SET plan_cache_mode = force_generic_plan`)
	texts := []string{readChanges, readHead, newestEntries, oldestEntries, newestTeamEntries, oldestTeamEntries, entriesBetween}
	for _, s := range []*set{auditHead, teamRevisions, clientRevisions, keyRevisions, keysByRequest, lastDenials, moveAuditHead} {
		texts = append(texts, s.text(&postgresDialect{}, 1))
	}
	for i, text := range texts {
		var nulls []string
		for strings.Contains(text, fmt.Sprint("$", len(nulls)+1)) {
			nulls = append(nulls, "NULL")
		}
		name := fmt.Sprint("p", i)
		execAll(t, conn, `PREPARE `+name+` AS `+text)
		if len(nulls) > 0 {
			name += "(" + strings.Join(nulls, ", ") + ")"
		}
		rows, err := conn.Query(t.Context(), `EXPLAIN EXECUTE `+name, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		var plan []string
		for rows.Next() {
			var step string
			if err := rows.Scan(&step); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, step)
		}
		if err := rows.Err(); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if all := strings.Join(plan, "\n"); !strings.Contains(all, "Index") || strings.Contains(all, "Seq Scan") || strings.Contains(all, "Sort") {
			t.Errorf("%s\n%s", text, all)
		}
	}
}

func TestTimeBound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		t    time.Time
		want int64
	}{
		{time.Time{}, 7},
		{time.Unix(0, 42), 42},
		{time.Unix(0, -42), -42},
		{time.Unix(0, math.MaxInt64), math.MaxInt64},
		{time.Unix(0, math.MinInt64), math.MinInt64},
		{time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), math.MaxInt64},
		{time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC), math.MinInt64},
	} {
		if got := timeBound(c.t, 7); got != c.want {
			t.Errorf("%v is %d, want %d", c.t, got, c.want)
		}
	}
}
