package tenant_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// A desk is a registry, and the clock that it goes by.
type desk struct {
	*tenant.Registry
	t     *testing.T
	store tenant.Store
	mu    sync.Mutex
	time  time.Time
}

func newDesk(t *testing.T, store tenant.Store) *desk {
	t.Helper()
	d := &desk{t: t, store: store, time: time.Date(2030, 1, 2, 3, 4, 5, 678_901_000, time.UTC)}
	d.Registry = tenant.NewRegistry(store, tenant.NewDirectory(store, slog.New(slog.DiscardHandler)))
	d.Now = d.now
	return d
}

func (d *desk) now() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.time
}

func (d *desk) pass(period time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.time = d.time.Add(period)
}

// by is a caller of the team ops.
func by(action string) tenant.Entry {
	return tenant.Entry{
		Action: action, Actor: tenant.Actor{Team: "ops", Client: "cli", Credential: "key:x"}, Source: "192.0.2.7", TraceID: "trace",
	}
}

// entries returns the audit, the oldest first.
func (d *desk) entries() []*tenant.Entry {
	d.t.Helper()
	entries, err := d.store.Entries(d.t.Context(), tenant.EntryFilter{Ascending: true}, 1000)
	if err != nil {
		d.t.Fatal(err)
	}
	return entries
}

// last returns the number of entries, and the last one as text without what all have.
func (d *desk) last() (int, string) {
	d.t.Helper()
	entries := d.entries()
	if len(entries) == 0 {
		return 0, ""
	}
	e := entries[len(entries)-1]
	if want := by(""); e.Action != "bootstrap" && (e.Actor != want.Actor || e.Source != want.Source || e.TraceID != want.TraceID) {
		d.t.Errorf("the entry is of %+v", e)
	}
	if e.Outcome != tenant.Changed || !e.Time.Equal(d.now()) || e.Reason != "" || e.Count != 0 {
		d.t.Errorf("the entry is %+v", e)
	}
	return len(entries), e.Action + " " + e.Team + " " + e.Resource + " " + changesOf(e)
}

func changesOf(e *tenant.Entry) string {
	list := make([]string, len(e.Changes))
	for i, c := range e.Changes {
		list[i] = c.Field + ": " + c.Old + " → " + c.New
	}
	return strings.Join(list, "; ")
}

// wantLast fails the test unless there are n entries, of which that is the last.
func (d *desk) wantLast(n int, want string) {
	d.t.Helper()
	if gotN, got := d.last(); gotN != n || got != want {
		d.t.Errorf("%d entries, the last\n  %s\nwant %d\n  %s", gotN, got, n, want)
	}
}

// refused fails the test unless err has a reason, and is a *conversation.Error.
func refused(t *testing.T, err error, reason conversation.Reason) {
	t.Helper()
	e, ok := errors.AsType[*conversation.Error](err)
	if !ok || e.Reason != reason {
		t.Errorf("error %v, want %s", err, reason)
	} else if e.Message == "" {
		t.Errorf("%s says nothing", reason)
	}
}

func (d *desk) team(id string) {
	d.t.Helper()
	if _, err := d.CreateTeam(d.t.Context(), by("t"), tenant.Team{ID: id}); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) client(team, id string) {
	d.t.Helper()
	if d.view().Team(team) == nil {
		d.team(team)
	}
	if _, err := d.CreateClient(d.t.Context(), by("c"), tenant.Client{Team: team, ID: id}); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) view() *tenant.View {
	d.t.Helper()
	v, err := d.View(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return v
}

func TestCreateTeam(t *testing.T) {
	t.Parallel()
	d := newDesk(t, openStore(t))
	made, err := d.CreateTeam(t.Context(), by("CreateTeam"), tenant.Team{
		ID: "shop", Profile: tenant.Profile{DisplayName: "Der Laden", CreateTime: time.Unix(1, 0)}, Revision: 77,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := tenant.Team{ID: "shop", Profile: tenant.Profile{DisplayName: "Der Laden", CreateTime: d.now(), UpdateTime: d.now()}, Revision: 1}
	if *made != want {
		t.Errorf("made %+v, want %+v", *made, want)
	}
	if got := d.view().Team("shop"); got == nil || *got != want {
		t.Errorf("stored %+v", got)
	}
	d.wantLast(1, "CreateTeam shop teams/shop display_name:  → Der Laden")
	if _, err := d.CreateTeam(t.Context(), by("CreateTeam"), tenant.Team{ID: "shop"}); !errors.Is(err, tenant.ErrExists) {
		t.Errorf("again: %v", err)
	}
	if _, err := d.CreateTeam(t.Context(), by("CreateTeam"), tenant.Team{ID: "off", Profile: tenant.Profile{Disabled: true}}); err != nil {
		t.Fatal(err)
	}
	d.wantLast(2, "CreateTeam off teams/off disabled:  → true")
}

func TestIDs(t *testing.T) {
	t.Parallel()
	d := newDesk(t, openStore(t))
	d.team("owner")
	long := strings.Repeat("a", 63)
	for _, id := range []string{"a", "0", "a.b_c-d", "9lives", long} {
		if _, err := d.CreateTeam(t.Context(), by(""), tenant.Team{ID: id}); err != nil {
			t.Errorf("team %q: %v", id, err)
		}
		if _, err := d.CreateClient(t.Context(), by(""), tenant.Client{Team: "owner", ID: id}); err != nil {
			t.Errorf("client %q: %v", id, err)
		}
	}
	n, _ := d.last()
	for _, id := range []string{"", ".a", "-a", "_a", "A", "aB", "a b", "a/b", "ä", "a\n", "a\x00", "{team}", long + "a"} {
		_, err := d.CreateTeam(t.Context(), by(""), tenant.Team{ID: id})
		refused(t, err, conversation.InvalidRequest)
		_, err = d.CreateClient(t.Context(), by(""), tenant.Client{Team: "owner", ID: id})
		refused(t, err, conversation.InvalidRequest)
	}
	for _, name := range []string{strings.Repeat("x", 129), "\xff"} {
		_, err := d.CreateTeam(t.Context(), by(""), tenant.Team{ID: "named", Profile: tenant.Profile{DisplayName: name}})
		refused(t, err, conversation.InvalidRequest)
		_, err = d.UpdateTeam(t.Context(), by(""), "owner", 0, func(t *tenant.Profile) { t.DisplayName = name })
		refused(t, err, conversation.InvalidRequest)
		_, err = d.UpdateClient(t.Context(), by(""), admin, "owner", "a", 0, func(c *tenant.Profile) { c.DisplayName = name })
		refused(t, err, conversation.InvalidRequest)
	}
	if m, _ := d.last(); m != n {
		t.Errorf("what was refused wrote %d entries", m-n)
	}
}

func TestUpdateTeam(t *testing.T) {
	t.Parallel()
	d := newDesk(t, openStore(t))
	d.team("shop")
	made := d.view().Team("shop")
	d.pass(time.Hour)
	disable := func(t *tenant.Profile) { t.Disabled = true }

	updated, err := d.UpdateTeam(t.Context(), by("UpdateTeam"), "shop", made.Revision, func(t *tenant.Profile) {
		t.DisplayName, t.Disabled = "Shop", true
		t.CreateTime, t.UpdateTime = time.Time{}, time.Time{} // not its business
	})
	if err != nil {
		t.Fatal(err)
	}
	want := tenant.Team{
		ID: "shop", Revision: 2,
		Profile: tenant.Profile{DisplayName: "Shop", Disabled: true, CreateTime: made.CreateTime, UpdateTime: d.now()},
	}
	if *updated != want || *d.view().Team("shop") != want {
		t.Errorf("updated to %+v, stored %+v", *updated, *d.view().Team("shop"))
	}
	if made.DisplayName != "" {
		t.Error("a row of an earlier view was changed")
	}
	d.wantLast(2, "UpdateTeam shop teams/shop display_name:  → Shop; disabled: false → true")

	d.pass(time.Hour)
	if same, err := d.UpdateTeam(t.Context(), by("UpdateTeam"), "shop", 0, disable); err != nil || *same != want {
		t.Errorf("a change that changes nothing: %+v, %v", same, err)
	}
	if n := len(d.entries()); n != 2 {
		t.Errorf("it left an entry: there are %d", n)
	}
	_, err = d.UpdateTeam(t.Context(), by("UpdateTeam"), "shop", made.Revision, disable)
	if !errors.Is(err, tenant.ErrChanged) {
		t.Errorf("with an old revision: %v", err)
	}
	_, err = d.UpdateTeam(t.Context(), by("UpdateTeam"), "nobody", 0, disable)
	refused(t, err, conversation.NotFound)
	if _, err = d.UpdateTeam(t.Context(), by("UpdateTeam"), "shop", 0, func(t *tenant.Profile) { t.Disabled = false }); err != nil {
		t.Fatal(err)
	}
	d.wantLast(3, "UpdateTeam shop teams/shop disabled: true → false")
}

func TestClients(t *testing.T) {
	t.Parallel()
	d := newDesk(t, openStore(t))
	_, err := d.CreateClient(t.Context(), by(""), tenant.Client{Team: "shop", ID: "web"})
	refused(t, err, conversation.NotFound)
	d.team("shop")
	d.team("bank")
	made, err := d.CreateClient(t.Context(), by("CreateClient"), tenant.Client{Team: "shop", ID: "web", Profile: tenant.Profile{DisplayName: "Web"}})
	if err != nil {
		t.Fatal(err)
	}
	want := tenant.Client{
		Team: "shop", ID: "web", Profile: tenant.Profile{DisplayName: "Web", CreateTime: d.now(), UpdateTime: d.now()}, Revision: 3,
	}
	if *made != want || *d.view().Client("shop", "web") != want {
		t.Errorf("made %+v", *made)
	}
	d.wantLast(3, "CreateClient shop teams/shop/clients/web display_name:  → Web")
	if _, err := d.CreateClient(t.Context(), by(""), tenant.Client{Team: "shop", ID: "web"}); !errors.Is(err, tenant.ErrExists) {
		t.Errorf("again: %v", err)
	}
	d.client("bank", "web") // another one

	d.pass(time.Minute)
	updated, err := d.UpdateClient(t.Context(), by("UpdateClient"), admin, "shop", "web", made.Revision, func(c *tenant.Profile) {
		c.Disabled = true
		c.CreateTime = time.Time{} // not its business
	})
	if err != nil {
		t.Fatal(err)
	}
	want.Disabled, want.UpdateTime, want.Revision = true, d.now(), 5
	if *updated != want || d.view().Client("bank", "web").Disabled {
		t.Errorf("updated to %+v", *updated)
	}
	d.wantLast(5, "UpdateClient shop teams/shop/clients/web disabled: false → true")
	disable := func(c *tenant.Profile) { c.Disabled = true }
	if same, err := d.UpdateClient(t.Context(), by(""), admin, "shop", "web", updated.Revision, disable); err != nil || *same != want {
		t.Errorf("a change that changes nothing: %+v, %v", same, err)
	}
	if _, err := d.UpdateClient(t.Context(), by(""), admin, "shop", "web", made.Revision, disable); !errors.Is(err, tenant.ErrChanged) {
		t.Errorf("with an old revision: %v", err)
	}
	for _, name := range [][2]string{{"shop", "app"}, {"nobody", "web"}} {
		_, err := d.UpdateClient(t.Context(), by(""), admin, name[0], name[1], 0, disable)
		refused(t, err, conversation.NotFound)
	}
	if n := len(d.entries()); n != 5 {
		t.Errorf("%d entries", n)
	}
}

// Who would shut themselves out is refused; what is theirs to change besides that, they change.
func TestNobodyDisablesTheirOwn(t *testing.T) {
	t.Parallel()
	d := newDesk(t, openStore(t))
	d.client("ops", "cli") // as by has it
	d.client("ops", "other")
	d.client("shop", "cli")
	disable := func(p *tenant.Profile) { p.DisplayName, p.Disabled = "x", true }
	before := d.view()
	_, err := d.UpdateTeam(t.Context(), by(""), "ops", 0, disable)
	refused(t, err, conversation.InvalidState)
	_, err = d.UpdateClient(t.Context(), by(""), admin, "ops", "cli", 0, disable)
	refused(t, err, conversation.InvalidState)
	if v := d.view(); *v.Team("ops") != *before.Team("ops") || *v.Client("ops", "cli") != *before.Client("ops", "cli") || len(d.entries()) != 5 {
		t.Error("what was refused is written")
	}
	rename := func(p *tenant.Profile) { p.DisplayName = "x" }
	_, team := d.UpdateTeam(t.Context(), by(""), "ops", 0, rename)
	_, own := d.UpdateClient(t.Context(), by(""), admin, "ops", "cli", 0, rename)
	_, sibling := d.UpdateClient(t.Context(), by(""), admin, "ops", "other", 0, disable)
	_, namesake := d.UpdateClient(t.Context(), by(""), admin, "shop", "cli", 0, disable)
	if err := errors.Join(team, own, sibling, namesake); err != nil {
		t.Error(err)
	}
}

// A client can be disabled and enabled by who may end its keys, and make them.
func TestDisablingAClientOfAnAdmin(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		key     tenant.Roles
		revoked bool
		granter tenant.Roles
		reason  conversation.Reason
	}{
		"no key":                     {granter: teamAdmin},
		"a key within the team":      {key: tenant.RolesOf(tenant.RoleCaller, tenant.RoleTeamAdmin), granter: teamAdmin},
		"a key of all teams":         {key: tenant.RolesOf(tenant.RolePlatformAdmin), granter: teamAdmin, reason: conversation.RoleMissing},
		"a key of the audit":         {key: tenant.RolesOf(tenant.RoleAuditor), granter: teamAdmin, reason: conversation.RoleMissing},
		"one that has ended":         {key: tenant.RolesOf(tenant.RolePlatformAdmin), revoked: true, granter: teamAdmin},
		"by an admin of all teams":   {key: tenant.RolesOf(tenant.RolePlatformAdmin), granter: admin},
		"by nobody who grants a key": {key: tenant.RolesOf(tenant.RoleCaller), reason: conversation.RoleMissing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := shop(t)
			d.client("shop", "other")
			if c.key != 0 {
				k, _ := d.key(tenant.KeySpec{Roles: c.key})
				d.key(tenant.KeySpec{}) // what counts is all of them
				if c.revoked {
					if _, err := d.RevokeKey(t.Context(), by(""), admin, "shop", "web", k.ID); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, disabled := range []bool{true, false} {
				set := func(p *tenant.Profile) { p.Disabled = disabled }
				got, err := d.UpdateClient(t.Context(), by(""), c.granter, "shop", "web", 0, set)
				switch {
				case c.reason != "":
					refused(t, err, c.reason)
					if d.view().Client("shop", "web").Disabled == disabled {
						t.Error("what was refused is written")
					}
				case err != nil || got.Disabled != disabled:
					t.Errorf("%+v, %v", got, err)
				}
				if _, err := d.UpdateClient(t.Context(), by(""), admin, "shop", "web", 0, set); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := d.UpdateClient(t.Context(), by(""), c.granter, "shop", "web", 0, func(p *tenant.Profile) { p.DisplayName = "x" }); err != nil {
				t.Errorf("the display name: %v", err)
			}
		})
	}
}

func TestHowManyThereCanBe(t *testing.T) {
	t.Parallel()
	d := shop(t)
	d.client("shop", "other")
	d.client("full", "web")
	put := func(c *tenant.Change) {
		t.Helper()
		e := by("put")
		if err := d.store.Put(t.Context(), c, &e); err != nil {
			t.Fatal(err)
		}
	}
	granter := admin
	create := func(team, client string) (*tenant.Key, error) {
		k, _, err := d.CreateKey(t.Context(), by(""), granter, tenant.KeySpec{Team: team, Client: client}, "")
		return k, err
	}
	rotate := func(k *tenant.Key) error {
		_, _, err := d.RotateKey(t.Context(), by(""), granter, k.Team, k.Client, k.ID, 0, "")
		return err
	}
	made := 0
	// keys puts some that have ended, or not, besides one that is not to count: another team's, or another client's.
	keys := func(n int, team, client string, expire time.Time) {
		t.Helper()
		c := &tenant.Change{}
		for range n {
			made++
			c.Keys = append(c.Keys, &tenant.Key{
				ID: fmt.Sprint("k", made), Team: team, Client: client, Digest: tenant.Digest{1, byte(made), byte(made >> 8)}, ExpireTime: expire,
			})
		}
		put(c)
	}
	keys(150, "shop", "web", d.now()) // ended
	keys(998, "shop", "web", d.now().Add(day))
	keys(999, "shop", "other", d.now().Add(day))
	last, err := create("shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	if last, _, err = d.RotateKey(t.Context(), by(""), admin, "shop", "web", last.ID, day, ""); err != nil { // both work
		t.Fatal(err)
	}
	thousandth, err := create("shop", "web")
	if err != nil {
		t.Fatalf("the thousandth key of a client: %v", err)
	}
	_, err = create("shop", "web")
	refused(t, err, conversation.InvalidState)
	if err := rotate(last); err != nil {
		t.Errorf("one in place of another: %v", err)
	}
	if _, err := create("shop", "other"); err != nil {
		t.Errorf("another client's: %v", err)
	}
	if _, err := d.RevokeKey(t.Context(), by(""), admin, "shop", "web", thousandth.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := create("shop", "web"); err != nil {
		t.Errorf("after a revocation: %v", err)
	}

	keys(50, "full", "web", d.now().Add(-31*day)) // do not count any more
	for range 9 {
		keys(1111, "full", "web", d.now().Add(-29*day))
	}
	granter = teamAdmin
	last, err = create("full", "web")
	if err != nil {
		t.Fatalf("the last key of a team: %v", err)
	}
	_, err = create("full", "web")
	refused(t, err, conversation.InvalidState)
	refused(t, rotate(last), conversation.InvalidState)
	granter = admin
	if _, err := create("full", "web"); err != nil {
		t.Errorf("a platform admin's: %v", err)
	}

	for i := range 998 {
		put(&tenant.Change{Client: &tenant.Client{Team: "shop", ID: fmt.Sprint("c", i)}})
	}
	_, err = d.CreateClient(t.Context(), by(""), tenant.Client{Team: "shop", ID: "one-too-many"})
	refused(t, err, conversation.InvalidState)
	if _, err := d.CreateClient(t.Context(), by(""), tenant.Client{Team: "full", ID: "other"}); err != nil {
		t.Errorf("another team's: %v", err)
	}
}

// What databases hold of teams and clients.
func TestProfileIsStoredAs(t *testing.T) {
	t.Parallel()
	const stored = `{"display_name":"x","disabled":true,"create_time":"2030-01-01T00:00:00Z","update_time":"2030-01-02T00:00:00Z"}`
	for _, row := range []any{&tenant.Team{}, &tenant.Client{}} {
		if err := json.Unmarshal([]byte(stored), row); err != nil {
			t.Fatal(err)
		}
		if again, err := json.Marshal(row); err != nil || string(again) != stored {
			t.Errorf("%T: %s, %v", row, again, err)
		}
	}
}

// Many changes of one row all succeed where no revision was given, and one of them where it was.
func TestUpdatesAtOnce(t *testing.T) {
	t.Parallel()
	store := openStore(t)
	first, second := newDesk(t, store), newDesk(t, store) // as two replicas
	first.team("shop")
	revision := first.view().Team("shop").Revision

	const n = 25
	var wg sync.WaitGroup
	var mu sync.Mutex
	lost := 0
	for i := range n {
		for _, d := range []*desk{first, second} {
			wg.Go(func() {
				_, err := d.UpdateTeam(t.Context(), by(""), "shop", 0, func(t *tenant.Profile) { t.DisplayName += "x" })
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			_, err := first.UpdateTeam(t.Context(), by(""), "shop", revision, func(t *tenant.Profile) {
				t.DisplayName = fmt.Sprintf("y%d", i)
			})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				lost++
				refused(t, err, conversation.EtagMismatch)
			}
		})
	}
	wg.Wait()
	got := first.view().Team("shop").DisplayName
	if rest := strings.TrimLeft(got, "y0123456789"); len(rest) > 2*n || strings.Count(got, "x") < n || lost < n-1 {
		t.Errorf("%d lost, and it is called %q", lost, got)
	}
	if changes := len(first.entries()) - 1; changes != 2*n+n-lost {
		t.Errorf("%d changes made %d entries", 2*n+n-lost, changes)
	}
}

func TestWritesGiveUp(t *testing.T) {
	t.Parallel()
	store := &script{Store: openStore(t)}
	d := newDesk(t, store)
	d.team("shop")
	tried := 0
	store.put = func(context.Context, *tenant.Change, *tenant.Entry) error { tried++; return tenant.ErrChanged }
	_, err := d.UpdateTeam(t.Context(), by(""), "shop", 0, func(t *tenant.Profile) { t.Disabled = true })
	if !errors.Is(err, tenant.ErrChanged) || tried < 2 || tried > 20 {
		t.Errorf("after %d tries: %v", tried, err)
	}
	tried = 0
	store.put = func(context.Context, *tenant.Change, *tenant.Entry) error {
		tried++
		return conversation.ErrStoreUnavailable
	}
	_, err = d.UpdateTeam(t.Context(), by(""), "shop", 0, func(t *tenant.Profile) { t.Disabled = true })
	refused(t, err, conversation.StoreUnavailable)
	if tried != 1 {
		t.Errorf("a write whose outcome may be open was tried %d times", tried)
	}
	store.changes = func(context.Context, tenant.Head) (*tenant.Changes, error) {
		return nil, conversation.ErrStoreUnavailable
	}
	_, err = d.CreateTeam(t.Context(), by(""), tenant.Team{ID: "other"})
	refused(t, err, conversation.StoreUnavailable)
}

// A call that ends while others try again does not wait for them.
func TestWritesEndWithTheirContext(t *testing.T) {
	t.Parallel()
	store := &script{Store: openStore(t)}
	d := newDesk(t, store)
	d.team("shop")
	held, release := make(chan struct{}, 1), make(chan struct{})
	puts := make(chan struct{}, 100)
	store.put = func(ctx context.Context, _ *tenant.Change, _ *tenant.Entry) error {
		puts <- struct{}{}
		if len(puts) == 2 { // the second try of the first call
			held <- struct{}{}
			<-release
			return ctx.Err()
		}
		return tenant.ErrChanged
	}
	update := func(ctx context.Context) error {
		_, err := d.UpdateTeam(ctx, by(""), "shop", 0, func(t *tenant.Profile) { t.Disabled = true })
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(release)
	wg.Go(func() { _ = update(t.Context()) })
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	wg.Go(func() { failed <- update(ctx) })
	for len(puts) < 3 {
		select {
		case err := <-failed:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The chain of everything that a registry wrote is whole.
func TestRegistryAuditVerifies(t *testing.T) {
	t.Parallel()
	d := newDesk(t, openStore(t))
	if _, _, err := d.Bootstrap(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	d.client("shop", "web")
	if _, _, err := d.CreateKey(t.Context(), by("k"), admin, tenant.KeySpec{Team: "shop", Client: "web"}, ""); err != nil {
		t.Fatal(err)
	}
	head, err := d.store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var v tenant.Verifier
	var findings []tenant.Finding
	for _, e := range d.entries() {
		findings = append(findings, v.Add(e)...)
	}
	findings = append(findings, v.Finish(&head)...)
	if len(findings) > 0 || v.Head() != head || head.Count != 4 {
		t.Errorf("head %s, found %v", head, findings)
	}
	secrets := func(e *tenant.Entry) bool { return strings.Contains(string(e.Record), tenant.TokenPrefix) }
	if slices.ContainsFunc(d.entries(), secrets) {
		t.Error("the audit holds a token")
	}
}
