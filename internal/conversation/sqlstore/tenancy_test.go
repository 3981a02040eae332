package sqlstore

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

func auditEntry(action string) tenant.Entry {
	return tenant.Entry{Time: time.Unix(1_800_000_000, 0).UTC(), Action: action, Outcome: tenant.Changed, Team: "a"}
}

// putting is the op of a Put.
func putting(t *testing.T, c *tenant.Change) *auditOp {
	t.Helper()
	rows, err := tenantRows(c)
	if err != nil {
		t.Fatal(err)
	}
	return &auditOp{rows: rows, entry: auditEntry("put")}
}

// audit returns the whole audit, and checks that it is one chain that ends at the head.
func audit(t *testing.T, db *DB) []*tenant.Entry {
	t.Helper()
	es, err := db.Entries(t.Context(), tenant.EntryFilter{Ascending: true}, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	var h tenant.Head
	for _, e := range es {
		h = tenant.Head{Count: h.Count + 1, Hash: tenant.ChainHash(h.Hash, e.Record)}
		if e.Sequence != h.Count || e.Hash != h.Hash {
			t.Fatalf("entry %d is %+v, want the hash %x", h.Count, e, h.Hash)
		}
	}
	if got, err := db.Head(t.Context()); err != nil || got != h {
		t.Fatalf("the head is %v, %v, want %v", got, err, h)
	}
	return es
}

// The ops of one group see what those before them write, be they of the control plane or not, and make one chain.
func TestTenancyOfOneGroup(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, db *DB) {
		settled(t, db)
		team, client := &tenant.Team{ID: "a"}, &tenant.Client{Team: "a", ID: "web"}
		key, same := &tenant.Key{ID: "k", Team: "a", Request: tenant.Digest{1}}, &tenant.Key{ID: "l", Team: "a", Request: tenant.Digest{1}}
		guessed, stale := &tenant.Team{ID: "a", Revision: 1, Profile: tenant.Profile{DisplayName: "guessed"}}, &tenant.Team{ID: "a", Revision: 7}
		denied := func(after time.Duration) *auditOp {
			e := auditEntry("denied")
			e.Source, e.Reason, e.Time = "10.1.1.1", "R", e.Time.Add(after)
			return &auditOp{entry: e, once: true}
		}
		shot := oneShot("shot")
		ops := []op{
			putting(t, &tenant.Change{Team: team}), putting(t, &tenant.Change{Team: team}), mustBegin(t, shot),
			putting(t, &tenant.Change{Client: client, Keys: []*tenant.Key{key}}), putting(t, &tenant.Change{Keys: []*tenant.Key{same}}),
			putting(t, &tenant.Change{Team: guessed}), putting(t, &tenant.Change{Team: stale}),
			denied(0), denied(onceEvery - 1000), denied(onceEvery), nothing(), mustEnd(t, ending(oneShot("unknown"), "")),
			putting(t, &tenant.Change{Client: client, Team: &tenant.Team{ID: "b"}}),
		}
		want(t, together(t, db, ops...), nil, tenant.ErrExists, nil, nil, tenant.ErrExists, nil, tenant.ErrChanged,
			nil, nil, nil, nil, conversation.ErrNotFound, tenant.ErrExists)
		written := map[int]int64{0: 1, 3: 2, 7: 3, 9: 4, 5: 5} // the one who guessed is decided in the next group
		for i, o := range ops {
			if o, ok := o.(*auditOp); ok {
				if got := o.written; (got == nil) != (written[i] == 0) || got != nil && got.Sequence != written[i] {
					t.Errorf("op %d has written %+v, want entry %d", i, got, written[i])
				}
			}
		}
		if n := len(audit(t, db)); n != len(written) {
			t.Errorf("%d entries", n)
		}
		c, err := db.Changes(t.Context(), tenant.Head{})
		if err != nil || len(c.Teams) != 1 || c.Teams[0].Revision != 5 || c.Teams[0].DisplayName != "guessed" || len(c.Clients) != 1 ||
			len(c.Keys) != 1 || c.Keys[0].ID != "k" {
			t.Errorf("the rows are %+v, %v", c, err)
		}
		if _, err := db.GetTurn(t.Context(), "team", shot.Turn.ID, false); err != nil {
			t.Error(err)
		}
		if n := db.committer.halved.Load(); n != 0 {
			t.Errorf("%d groups were refused by the database", n)
		}
	})
}

// A row that comes twice in one change is refused before anything is sent.
func TestRowTwice(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	for name, keys := range map[string][]*tenant.Key{
		"id":      {{ID: "k"}, {ID: "k"}},
		"request": {{ID: "k", Request: tenant.Digest{1}}, {ID: "l", Request: tenant.Digest{1}}},
	} {
		e := auditEntry("put")
		if err := db.Put(t.Context(), &tenant.Change{Keys: keys}, &e); !errors.Is(err, errTwice) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(audit(t, db)); n != 0 {
		t.Errorf("%d entries", n)
	}
}

// What is decided again, because another of its group was refused by the database, is as if it had been decided once.
func TestTenancyBesidePoison(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, db *DB) {
		settled(t, db)
		spoiled := func() op {
			o := putting(t, &tenant.Change{Team: &tenant.Team{ID: "spoiled"}})
			o.rows[0].columns[1] = nil
			return o
		}
		const puts = 50
		ops := make([]op, puts, puts+2)
		for i := range ops {
			ops[i] = putting(t, &tenant.Change{Team: &tenant.Team{ID: fmt.Sprint(i)}})
		}
		ops = append(ops[:30:30], append([]op{spoiled()}, append(ops[30:], spoiled())...)...)
		bad := map[int]bool{30: true, puts + 1: true}
		for i, err := range together(t, db, ops...) {
			if bad[i] != (err != nil) || !bad[i] && ops[i].(*auditOp).written.Sequence == 0 {
				t.Errorf("op %d: %v", i, err)
			}
		}
		if n := len(audit(t, db)); n != puts {
			t.Errorf("%d entries, want %d", n, puts)
		}
		for i, o := range ops {
			if o := o.(*auditOp); !bad[i] {
				if es, err := db.Entries(t.Context(), tenant.EntryFilter{After: o.written.Sequence + 1}, 1); err != nil || es[0].Hash != o.written.Hash {
					t.Errorf("entry %d is %+v, %v", o.written.Sequence, es, err)
				}
			}
		}
		if db.committer.halved.Load() == 0 {
			t.Error("nothing was decided again")
		}
	})
}

// A denial that was to be written, until another process wrote one like it first, is not.
func TestOnceDecidedAgain(t *testing.T) {
	t.Parallel()
	o := &auditOp{entry: auditEntry("denied"), once: true}
	g := newGroup(owner{})
	for _, writes := range []bool{true, false, true} {
		g.tenancy.known = true
		if !writes {
			g.tenancy.denials[denial{}] = []int64{nanos(o.entry.Time)}
		}
		if err := o.decide(g); err != nil || (o.written != nil) != writes || g.tenancy.moved != writes {
			t.Errorf("it has written %+v, %v", o.written, err)
		}
		g.reset()
	}
}

// A clock that was years ahead once does not keep others from being written, be they of the same group or not.
func TestOnceWithClockAhead(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, db *DB) {
		const year = 365 * 24 * time.Hour
		var ops []op
		var want []bool
		add := func(after time.Duration, writes bool) {
			o := denied("10.1.1.1")
			o.entry.Time = o.entry.Time.Add(after)
			ops, want = append(ops, o), append(want, writes)
		}
		check := func() {
			t.Helper()
			decided(t, together(t, db, ops...), make([]any, len(ops))...)
			for i, o := range ops {
				if o := o.(*auditOp); (o.written != nil) != want[i] {
					t.Errorf("op %d, at %v, has written %+v", i, o.entry.Time, o.written)
				}
			}
			ops, want = nil, nil
		}
		settled(t, db)
		add(10*year, true)
		add(0, true)
		add(10*year+1, false)
		add(59*time.Second, false)
		check()
		add(10*year+59*time.Second, false)
		add(time.Minute, true)
		add(time.Second, false)
		add(10*year-59*time.Second, false) // clocks differ
		add(-time.Minute+999, true)        // which is stored as a minute before
		check()
		add(-time.Minute, false)
		add(5*year, true)
		check()
		audit(t, db)
	})
}

// A connection that is lost at the COMMIT neither loses an entry nor writes it twice.
func TestTenancyCutAtCommit(t *testing.T) {
	t.Parallel()
	for name, action := range map[string]wireAction{"before": cut, "answer": cutAnswer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, url := tap(t, migrated(t))
			db := openURL(t, url, Options{})
			again := db.committer.again.Load()
			team := &tenant.Team{ID: "a"}
			for i := range int64(10) {
				var cuts atomic.Int64
				w.when("INSERT INTO audit ", func() wireAction {
					cuts.Add(1)
					return action
				})
				e := auditEntry("put")
				if err := db.Put(t.Context(), &tenant.Change{Team: team}, &e); err != nil { // not ErrChanged because of itself
					t.Fatal(err)
				}
				if cuts.Load() == 0 || e.Sequence != i+1 || team.Revision != i+1 {
					t.Fatalf("%d cuts, the entry is %+v, the revision %d", cuts.Load(), e, team.Revision)
				}
			}
			if n := len(audit(t, db)); n != 10 {
				t.Errorf("%d entries", n)
			}
			if runs := db.committer.again.Load() - again; (runs > 0) != (action == cut) {
				t.Errorf("%d groups were run again", runs)
			}
		})
	}
}

// Where the outcome cannot be found out, nothing is said of what may have been written, nor that it was not.
func TestTenancyOutcomeUnknown(t *testing.T) {
	t.Parallel()
	target := migrated(t)
	w, url := tap(t, target)
	db := openURL(t, url, Options{})
	w.when("INSERT INTO audit ", func() wireAction { return cutAnswer })
	execAll(t, session(t, target), `DELETE FROM outcomes`)
	e, team := auditEntry("put"), &tenant.Team{ID: "a"}
	err := db.Put(t.Context(), &tenant.Change{Team: team}, &e)
	if !errors.Is(err, conversation.ErrStoreUnavailable) || errors.Is(err, conversation.ErrNotWritten) || e.Sequence != 0 || team.Revision != 0 {
		t.Errorf("%v, the entry is %+v", err, e)
	}
	if n := len(audit(t, db)); n != 1 {
		t.Errorf("%d entries: it was committed", n)
	}
}

// A replica that was given up for dead goes on with the same chain.
func TestTenancyFenced(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	db, other := openURL(t, url, Options{lease: time.Hour}), openURL(t, url, Options{lease: time.Hour})
	conn := session(t, url)
	team := &tenant.Team{ID: "a"}
	for i := range int64(3) {
		epoch := db.ownership.current().epoch
		execAll(t, conn, `UPDATE replicas SET epoch = epoch + 1`)
		e, theirs := auditEntry("put"), auditEntry("theirs")
		if err := db.Put(t.Context(), &tenant.Change{Team: team}, &e); err != nil || e.Sequence != 2*i+1 {
			t.Errorf("%v, the entry is %+v", err, e)
		}
		if err := other.Record(t.Context(), &theirs, false); err != nil || theirs.Sequence != 2*i+2 {
			t.Errorf("%v, the entry is %+v", err, theirs)
		}
		if now := db.ownership.current().epoch; now <= epoch {
			t.Errorf("the epoch was %d, and is %d", epoch, now)
		}
	}
	if n := len(audit(t, db)); n != 6 {
		t.Errorf("%d entries", n)
	}
}

// A replica that stands still with the head of the audit locked holds others up for two seconds at most, and turns not at all.
func TestPausedAuditor(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	other := openURL(t, url, Options{})
	w, tapped := tap(t, url)
	paused := openURL(t, tapped, Options{})
	reached, resumed := make(chan struct{}), make(chan struct{})
	var stopped atomic.Bool
	w.watch(func(sql string) wireAction {
		if strings.HasPrefix(sql, "INSERT INTO audit ") && stopped.CompareAndSwap(false, true) {
			close(reached)
		}
		if stopped.Load() {
			<-resumed
		}
		return forward
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(resumed)
	wg.Go(func() {
		e := auditEntry("paused")
		_ = paused.Put(t.Context(), &tenant.Change{Team: &tenant.Team{ID: "a"}}, &e) // whatever comes of it
	})
	<-reached
	timed(t, "a turn", time.Second, func() {
		if err := other.BeginTurn(t.Context(), oneShot("goes on")); err != nil {
			t.Error(err)
		}
	})
	timed(t, "a change", 3*time.Second, func() {
		e := auditEntry("put")
		if err := other.Put(t.Context(), &tenant.Change{Team: &tenant.Team{ID: "a"}}, &e); err != nil {
			t.Error(err)
		}
	})
	if n := len(audit(t, other)); n != 1 {
		t.Errorf("%d entries", n)
	}
}

// Turns ask nothing of the control plane.
func TestTurnsWithoutTenancy(t *testing.T) {
	t.Parallel()
	w, url := tap(t, migrated(t))
	db := openURL(t, url, Options{})
	var mu sync.Mutex
	var texts, tenancies []string
	w.watch(func(sql string) wireAction {
		mu.Lock()
		defer mu.Unlock()
		texts = append(texts, sql)
		for _, table := range []string{"audit", "teams", "clients", "api_keys"} {
			if strings.Contains(sql, table) {
				tenancies = append(tenancies, sql)
			}
		}
		return forward
	})
	c := newConversation(t, db)
	turn(t, db, c.ID, head{}, "question")
	mu.Lock()
	if len(texts) == 0 || len(tenancies) != 0 {
		t.Errorf("of %d statements, these are of the control plane: %q", len(texts), tenancies)
	}
	mu.Unlock()
	e := auditEntry("put")
	if err := db.Record(t.Context(), &e, false); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(tenancies) != 3 { // the head is read, the entry is written, and the head is
		t.Errorf("an entry takes %q", tenancies)
	}
}
