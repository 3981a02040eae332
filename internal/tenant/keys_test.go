package tenant_test

import (
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

var (
	admin     = tenant.RolesOf(tenant.RolePlatformAdmin)
	teamAdmin = tenant.RolesOf(tenant.RoleTeamAdmin)
)

const day = 24 * time.Hour

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// key makes a key of the client web of the team shop.
func (d *desk) key(spec tenant.KeySpec) (*tenant.Key, string) {
	d.t.Helper()
	spec.Team, spec.Client = "shop", "web"
	k, token, err := d.CreateKey(d.t.Context(), by("k"), admin, spec, "")
	if err != nil {
		d.t.Fatal(err)
	}
	return k, token
}

// shop is a desk with the team shop and its client web.
func shop(t *testing.T) *desk {
	t.Helper()
	d := newDesk(t, openStore(t))
	d.client("shop", "web")
	return d
}

func TestCreateKey(t *testing.T) {
	t.Parallel()
	d := shop(t)
	spec := tenant.KeySpec{
		Team: "shop", Client: "web", DisplayName: "CI", Roles: tenant.RolesOf(tenant.RoleViewer, tenant.RoleAuditor),
		AllowedModels: []string{"gpt-5", "gpt-4o", "gpt-5"},
		AllowedCIDRs:  prefixes("10.1.2.3/8", "10.0.0.0/8", "::ffff:192.0.2.1/120", "2001:db8::1/32"),
		ExpireTime:    d.now().Add(day),
	}
	k, token, err := d.CreateKey(t.Context(), by("CreateKey"), admin, spec, "")
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := tenant.ParseToken(token); !ok || id != k.ID || !k.Is(token) {
		t.Errorf("token %s of key %s", token, k.ID)
	}
	want := &tenant.Key{
		ID: k.ID, Team: "shop", Client: "web", Digest: k.Digest, DisplayName: "CI", Roles: spec.Roles,
		AllowedModels: []string{"gpt-5", "gpt-4o"}, AllowedCIDRs: prefixes("10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"),
		CreateTime: d.now(), ExpireTime: d.now().Add(day), Revision: 3,
	}
	if !reflect.DeepEqual(k, want) {
		t.Errorf("made %+v, want %+v", k, want)
	}
	if got := d.view().Key(k.ID); !reflect.DeepEqual(got, want) {
		t.Errorf("stored %+v, want %+v", got, want)
	}
	d.wantLast(3, "CreateKey shop teams/shop/clients/web/keys/"+k.ID+
		" state:  → active; display_name:  → CI; roles:  → viewer, auditor; allowed_models:  → gpt-5, gpt-4o; "+
		"allowed_cidrs:  → 10.0.0.0/8, 192.0.2.0/24, 2001:db8::/32; expire_time:  → 2030-01-03T03:04:05.678901Z")

	other, otherToken := d.key(tenant.KeySpec{})
	if other.Roles != tenant.RolesOf(tenant.RoleCaller) || !other.ExpireTime.Equal(d.now().Add(60*day)) {
		t.Errorf("defaults: %+v", other)
	}
	if other.ID == k.ID || otherToken == token || other.Is(token) {
		t.Error("two keys are one")
	}
}

func TestCreateKeyRefused(t *testing.T) {
	t.Parallel()
	d := shop(t)
	d.team("off")
	d.client("off", "web")
	d.client("shop", "app")
	off := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := d.UpdateTeam(t.Context(), by(""), "off", 0, func(t *tenant.Profile) { t.Disabled = true })
	off(err)
	_, err = d.UpdateClient(t.Context(), by(""), admin, "shop", "app", 0, func(c *tenant.Profile) { c.Disabled = true })
	off(err)
	before := len(d.entries())

	spec := func(change func(*tenant.KeySpec)) tenant.KeySpec {
		s := tenant.KeySpec{Team: "shop", Client: "web"}
		change(&s)
		return s
	}
	models := make([]string, 65)
	for name, c := range map[string]struct {
		granter tenant.Roles
		spec    tenant.KeySpec
		request string
		want    conversation.Reason
	}{
		"unknown team":        {admin, spec(func(s *tenant.KeySpec) { s.Team = "x" }), "", conversation.NotFound},
		"unknown client":      {admin, spec(func(s *tenant.KeySpec) { s.Client = "x" }), "", conversation.NotFound},
		"disabled team":       {admin, spec(func(s *tenant.KeySpec) { s.Team = "off" }), "", conversation.InvalidState},
		"disabled client":     {admin, spec(func(s *tenant.KeySpec) { s.Client = "app" }), "", conversation.InvalidState},
		"expired":             {admin, spec(func(s *tenant.KeySpec) { s.ExpireTime = d.now() }), "", conversation.InvalidRequest},
		"just after no time":  {admin, spec(func(s *tenant.KeySpec) { s.ExpireTime = time.Time{}.Add(500) }), "", conversation.InvalidRequest},
		"for too long":        {admin, spec(func(s *tenant.KeySpec) { s.ExpireTime = d.now().Add(366*day + time.Second) }), "", conversation.InvalidRequest},
		"no CIDR":             {admin, spec(func(s *tenant.KeySpec) { s.AllowedCIDRs = make([]netip.Prefix, 1) }), "", conversation.InvalidRequest},
		"too many CIDRs":      {admin, spec(func(s *tenant.KeySpec) { s.AllowedCIDRs = make([]netip.Prefix, 65) }), "", conversation.InvalidRequest},
		"an empty model":      {admin, spec(func(s *tenant.KeySpec) { s.AllowedModels = models[:1] }), "", conversation.InvalidRequest},
		"too many models":     {admin, spec(func(s *tenant.KeySpec) { s.AllowedModels = models }), "", conversation.InvalidRequest},
		"a long name":         {admin, spec(func(s *tenant.KeySpec) { s.DisplayName = strings.Repeat("x", 129) }), "", conversation.InvalidRequest},
		"more than one has":   {teamAdmin, spec(func(s *tenant.KeySpec) { s.Roles = admin }), "", conversation.RoleMissing},
		"an auditor":          {teamAdmin, spec(func(s *tenant.KeySpec) { s.Roles = tenant.RolesOf(tenant.RoleCaller, tenant.RoleAuditor) }), "", conversation.RoleMissing},
		"by a mere caller":    {tenant.RolesOf(tenant.RoleCaller), spec(func(*tenant.KeySpec) {}), "", conversation.RoleMissing},
		"a request of v7":     {admin, spec(func(*tenant.KeySpec) {}), uuid.Must(uuid.NewV7()).String(), conversation.InvalidRequest},
		"the zero request":    {admin, spec(func(*tenant.KeySpec) {}), uuid.UUID{}.String(), conversation.InvalidRequest},
		"another spelling":    {admin, spec(func(*tenant.KeySpec) {}), "{" + uuid.NewString() + "}", conversation.InvalidRequest},
		"no UUID":             {admin, spec(func(*tenant.KeySpec) {}), "again", conversation.InvalidRequest},
		"Microsoft's":         {admin, spec(func(*tenant.KeySpec) {}), "11111111-1111-4111-c111-111111111111", conversation.InvalidRequest},
		"a model's long name": {admin, spec(func(s *tenant.KeySpec) { s.AllowedModels = []string{strings.Repeat("x", 129)} }), "", conversation.InvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			k, token, err := d.CreateKey(t.Context(), by("CreateKey"), c.granter, c.spec, c.request)
			refused(t, err, c.want)
			if k != nil || token != "" {
				t.Errorf("made %v %q", k, token)
			}
		})
	}
	if n := len(d.entries()); n != before {
		t.Errorf("what was refused wrote %d entries", n-before)
	}
	for name, end := range map[string]time.Time{"a moment": d.now().Add(time.Second), "366 days": d.now().Add(366 * day)} {
		if _, _, err := d.CreateKey(t.Context(), by(""), teamAdmin, spec(func(s *tenant.KeySpec) { s.ExpireTime = end }), ""); err != nil {
			t.Errorf("for %s: %v", name, err)
		}
	}
}

// request is CreateKey or RotateKey with a request_id, for what they have in common.
type request func(by tenant.Entry, id string) (*tenant.Key, string, error)

func requests(t *testing.T, d *desk) map[string]request {
	t.Helper()
	old, _ := d.key(tenant.KeySpec{})
	return map[string]request{
		"create": func(by tenant.Entry, id string) (*tenant.Key, string, error) {
			return d.CreateKey(t.Context(), by, admin, tenant.KeySpec{Team: "shop", Client: "web", DisplayName: "same"}, id)
		},
		"rotate": func(by tenant.Entry, id string) (*tenant.Key, string, error) {
			return d.RotateKey(t.Context(), by, admin, "shop", "web", old.ID, time.Minute, id)
		},
	}
}

func TestRepeatedRequest(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"create", "rotate"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := shop(t)
			issue := requests(t, d)[name]
			id := uuid.NewString()
			k, token, err := issue(by(name), id)
			if err != nil {
				t.Fatal(err)
			}
			if parsed, ok := tenant.ParseToken(token); !ok || parsed != k.ID || !k.Is(token) {
				t.Errorf("token %s of key %s", token, k.ID)
			}
			n := len(d.entries())
			again := func(id string) {
				t.Helper()
				k2, token2, err := issue(by(name), id)
				if err != nil {
					t.Error(err)
				} else if k2.ID != k.ID || token2 != token {
					t.Errorf("the repeat gave %s %s, want %s %s", k2.ID, token2, k.ID, token)
				}
			}
			again(id)
			again(strings.ToUpper(id))
			d.pass(time.Hour)
			again(id)
			if got := len(d.entries()); got != n {
				t.Errorf("repeats wrote %d entries", got-n)
			}
			d.pass(time.Second)
			_, _, err = issue(by(name), id)
			refused(t, err, conversation.ContentExpired)
		})
	}
}

func TestRepeatedRequestRefused(t *testing.T) {
	t.Parallel()
	d := shop(t)
	spec := tenant.KeySpec{Team: "shop", Client: "web", AllowedModels: []string{"a"}, ExpireTime: d.now().Add(time.Minute)}
	id := uuid.NewString()
	k, token, err := d.CreateKey(t.Context(), by(""), admin, spec, id)
	if err != nil {
		t.Fatal(err)
	}
	d.client("shop", "app")
	for name, change := range map[string]func(*tenant.KeySpec){
		"client":      func(s *tenant.KeySpec) { s.Client = "app" },
		"name":        func(s *tenant.KeySpec) { s.DisplayName = "x" },
		"roles":       func(s *tenant.KeySpec) { s.Roles = tenant.RolesOf(tenant.RoleViewer) },
		"models":      func(s *tenant.KeySpec) { s.AllowedModels = []string{"a", "b"} },
		"no models":   func(s *tenant.KeySpec) { s.AllowedModels = nil },
		"addresses":   func(s *tenant.KeySpec) { s.AllowedCIDRs = prefixes("10.0.0.0/8") },
		"expire time": func(s *tenant.KeySpec) { s.ExpireTime = s.ExpireTime.Add(time.Second) },
		"no expiry":   func(s *tenant.KeySpec) { s.ExpireTime = time.Time{} },
	} {
		other := spec
		change(&other)
		if _, _, err := d.CreateKey(t.Context(), by(""), admin, other, id); err == nil {
			t.Errorf("another %s is the same request", name)
		} else {
			refused(t, err, conversation.RequestIDReused)
		}
	}
	// Somebody else's repeat, or of another method, is another request.
	stranger := by("")
	stranger.Actor.Team = "bank"
	if other, otherToken, err := d.CreateKey(t.Context(), stranger, admin, spec, id); err != nil || other.ID == k.ID || otherToken == token {
		t.Errorf("of another team: %v, %v", other, err)
	}
	if other, _, err := d.RotateKey(t.Context(), by(""), admin, "shop", "web", k.ID, day, id); err != nil || other.ID == k.ID {
		t.Errorf("of another method: %v, %v", other, err)
	}
	// Whoever may not make it may not have it again.
	_, _, err = d.CreateKey(t.Context(), by(""), tenant.RolesOf(tenant.RoleViewer), spec, id)
	refused(t, err, conversation.RoleMissing)

	if again, _, err := d.CreateKey(t.Context(), by(""), admin, spec, id); err != nil || again.ID != k.ID {
		t.Errorf("rotated since, and still in its overlap: %v, %v", again, err)
	}
	d.pass(time.Minute)
	_, _, err = d.CreateKey(t.Context(), by(""), admin, spec, id)
	refused(t, err, conversation.InvalidState) // it has expired, and that is not the request's fault
}

func TestRepeatedRequestOfARevokedKey(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"create", "rotate"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := shop(t)
			issue, id := requests(t, d)[name], uuid.NewString()
			k, _, err := issue(by(""), id)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.RevokeKey(t.Context(), by(""), admin, "shop", "web", k.ID); err != nil {
				t.Fatal(err)
			}
			_, _, err = issue(by(""), id)
			refused(t, err, conversation.InvalidState)
		})
	}
}

// Requests that come at the same time, on two replicas, make one key.
func TestRepeatedRequestAtOnce(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"create", "rotate"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := openStore(t)
			one, two := newDesk(t, store), newDesk(t, store)
			one.client("shop", "web")
			old, _ := one.key(tenant.KeySpec{})
			before := len(one.entries())
			id := uuid.NewString()
			var mu sync.Mutex
			tokens := make(map[string]int)
			var wg sync.WaitGroup
			for range 16 {
				for _, d := range []*desk{one, two} {
					wg.Go(func() {
						var token string
						var err error
						if name == "create" {
							_, token, err = d.CreateKey(t.Context(), by(""), admin, tenant.KeySpec{Team: "shop", Client: "web"}, id)
						} else {
							_, token, err = d.RotateKey(t.Context(), by(""), admin, "shop", "web", old.ID, 0, id)
						}
						if err != nil {
							t.Error(err)
						}
						mu.Lock()
						defer mu.Unlock()
						tokens[token]++
					})
				}
			}
			wg.Wait()
			if len(tokens) != 1 {
				t.Errorf("%d tokens: %v", len(tokens), tokens)
			}
			if n := len(one.entries()) - before; n != 1 {
				t.Errorf("%d entries", n)
			}
		})
	}
}

func TestRotateKey(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lifetime, after, overlap time.Duration
		oldEnds, newEnds         time.Duration // after the rotation
	}{
		"the old one goes on for the overlap": {60 * day, 10 * day, day, day, 60 * day},
		"it ends before":                      {60 * day, 60*day - time.Hour, day, time.Hour, 60 * day},
		"no overlap":                          {day, time.Hour, 0, 0, day},
		"the longest":                         {366 * day, time.Second, 30 * day, 30 * day, 366 * day},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := shop(t)
			old, oldToken := d.key(tenant.KeySpec{
				DisplayName: "CI", Roles: tenant.RolesOf(tenant.RoleViewer), AllowedModels: []string{"m"}, AllowedCIDRs: prefixes("10.0.0.0/8"),
				ExpireTime: d.now().Add(c.lifetime),
			})
			d.pass(c.after)
			made, token, err := d.RotateKey(t.Context(), by("RotateKey"), teamAdmin, "shop", "web", old.ID, c.overlap, "")
			if err != nil {
				t.Fatal(err)
			}
			want := &tenant.Key{
				ID: made.ID, Team: "shop", Client: "web", Digest: made.Digest, DisplayName: "CI", Roles: old.Roles,
				AllowedModels: old.AllowedModels, AllowedCIDRs: old.AllowedCIDRs,
				CreateTime: d.now(), ExpireTime: d.now().Add(c.newEnds), Revision: 4,
			}
			if v := d.view(); !reflect.DeepEqual(made, want) || !reflect.DeepEqual(v.Key(made.ID), want) {
				t.Errorf("made %+v, want %+v", made, want)
			}
			if made.ID == old.ID || token == oldToken || !made.Is(token) {
				t.Error("it is not a new key")
			}
			replaced := d.view().Key(old.ID)
			if replaced.ReplacedBy != made.ID || !replaced.ExpireTime.Equal(d.now().Add(c.oldEnds)) || !replaced.Is(oldToken) {
				t.Errorf("the old one is %+v", replaced)
			}
			if ended := c.oldEnds == 0; replaced.Ended(d.now()) != ended {
				t.Errorf("ended: %t", !ended)
			}
			_, _, err = d.RotateKey(t.Context(), by("RotateKey"), admin, "shop", "web", old.ID, c.overlap, "")
			refused(t, err, conversation.InvalidState) // rotated already
			if _, _, err := d.RotateKey(t.Context(), by("RotateKey"), admin, "shop", "web", made.ID, c.overlap, ""); err != nil {
				t.Errorf("the new one: %v", err)
			}
		})
	}
}

func TestRotateKeyAudit(t *testing.T) {
	t.Parallel()
	d := shop(t)
	old, _ := d.key(tenant.KeySpec{ExpireTime: d.now().Add(2 * day)})
	made, _, err := d.RotateKey(t.Context(), by("RotateKey"), admin, "shop", "web", old.ID, time.Hour, uuid.NewString())
	if err != nil {
		t.Fatal(err)
	}
	const keys = "teams/shop/clients/web/keys/"
	d.wantLast(4, "RotateKey shop "+keys+old.ID+" expire_time: 2030-01-04T03:04:05.678901Z → 2030-01-02T04:04:05.678901Z; "+
		"replaced_by:  → "+keys+made.ID+"; replaced_by.expire_time:  → 2030-01-04T03:04:05.678901Z")
	last, _, err := d.RotateKey(t.Context(), by("RotateKey"), admin, "shop", "web", made.ID, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	d.wantLast(5, "RotateKey shop "+keys+made.ID+" state: active → expired; "+
		"expire_time: 2030-01-04T03:04:05.678901Z → 2030-01-02T03:04:05.678901Z; replaced_by:  → "+keys+last.ID+
		"; replaced_by.expire_time:  → 2030-01-04T03:04:05.678901Z")
}

func TestRotateKeyRefused(t *testing.T) {
	t.Parallel()
	d := shop(t)
	d.client("shop", "app")
	d.client("bank", "web")
	short, _ := d.key(tenant.KeySpec{ExpireTime: d.now().Add(time.Second)})
	revoked, _ := d.key(tenant.KeySpec{})
	boss, _ := d.key(tenant.KeySpec{Roles: admin})
	good, _ := d.key(tenant.KeySpec{})
	if _, err := d.RevokeKey(t.Context(), by(""), admin, "shop", "web", revoked.ID); err != nil {
		t.Fatal(err)
	}
	d.pass(time.Second)
	before := len(d.entries())
	for name, c := range map[string]struct {
		granter      tenant.Roles
		team, client string
		id           string
		overlap      time.Duration
		want         conversation.Reason
	}{
		"expired":             {admin, "shop", "web", short.ID, day, conversation.InvalidState},
		"revoked":             {admin, "shop", "web", revoked.ID, day, conversation.InvalidState},
		"unknown":             {admin, "shop", "web", "aaaaaaaaaaaaaaaa", day, conversation.NotFound},
		"of another client":   {admin, "shop", "app", good.ID, day, conversation.NotFound},
		"of another team":     {admin, "bank", "web", good.ID, day, conversation.NotFound},
		"of a platform admin": {teamAdmin, "shop", "web", boss.ID, day, conversation.RoleMissing},
		"by a mere caller":    {tenant.RolesOf(tenant.RoleCaller), "shop", "web", good.ID, day, conversation.RoleMissing},
		"a negative overlap":  {admin, "shop", "web", good.ID, -1, conversation.InvalidRequest},
		"too long an overlap": {admin, "shop", "web", good.ID, 30*day + 1, conversation.InvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			k, token, err := d.RotateKey(t.Context(), by(""), c.granter, c.team, c.client, c.id, c.overlap, "")
			refused(t, err, c.want)
			if k != nil || token != "" {
				t.Errorf("made %v %q", k, token)
			}
		})
	}
	id := uuid.NewString()
	if _, _, err := d.RotateKey(t.Context(), by(""), admin, "shop", "web", good.ID, day, id); err != nil {
		t.Fatal(err)
	}
	_, _, err := d.RotateKey(t.Context(), by(""), admin, "shop", "web", good.ID, 2*day, id)
	refused(t, err, conversation.RequestIDReused)
	_, _, err = d.RotateKey(t.Context(), by(""), admin, "shop", "web", boss.ID, day, id)
	refused(t, err, conversation.RequestIDReused)
	_, err = d.UpdateClient(t.Context(), by(""), admin, "shop", "web", 0, func(c *tenant.Profile) { c.Disabled = true })
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = d.RotateKey(t.Context(), by(""), admin, "shop", "web", boss.ID, day, "")
	refused(t, err, conversation.InvalidState)
	if n := len(d.entries()) - before; n != 2 {
		t.Errorf("%d entries, want that of the rotation and that of the client", n)
	}
}

func TestRevokeKey(t *testing.T) {
	t.Parallel()
	d := shop(t)
	k, _ := d.key(tenant.KeySpec{})
	boss, _ := d.key(tenant.KeySpec{Roles: tenant.RolesOf(tenant.RolePlatformAdmin, tenant.RoleTeamAdmin)})
	d.pass(time.Minute)
	revoked, err := d.RevokeKey(t.Context(), by("RevokeKey"), teamAdmin, "shop", "web", k.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !revoked.RevokeTime.Equal(d.now()) || !revoked.Ended(d.now()) || !revoked.ExpireTime.Equal(k.ExpireTime) {
		t.Errorf("revoked: %+v", revoked)
	}
	if got := d.view().Key(k.ID); !reflect.DeepEqual(got, revoked) {
		t.Errorf("stored: %+v", got)
	}
	d.wantLast(5, "RevokeKey shop teams/shop/clients/web/keys/"+k.ID+
		" state: active → revoked; revoke_time:  → 2030-01-02T03:05:05.678901Z")
	d.pass(time.Minute)
	if again, err := d.RevokeKey(t.Context(), by("RevokeKey"), teamAdmin, "shop", "web", k.ID); err != nil ||
		!again.RevokeTime.Equal(revoked.RevokeTime) {
		t.Errorf("again: %+v, %v", again, err)
	}
	_, err = d.RevokeKey(t.Context(), by(""), teamAdmin, "shop", "web", boss.ID)
	refused(t, err, conversation.RoleMissing)
	for _, name := range [][3]string{{"shop", "web", "aaaaaaaaaaaaaaaa"}, {"shop", "app", boss.ID}, {"bank", "web", boss.ID}} {
		_, err := d.RevokeKey(t.Context(), by(""), admin, name[0], name[1], name[2])
		refused(t, err, conversation.NotFound)
	}
	if n := len(d.entries()); n != 5 {
		t.Errorf("%d entries", n)
	}
	// What is disabled can still be revoked.
	if _, err := d.UpdateTeam(t.Context(), by(""), "shop", 0, func(t *tenant.Profile) { t.Disabled = true }); err != nil {
		t.Fatal(err)
	}
	if _, err := d.RevokeKey(t.Context(), by(""), admin, "shop", "web", boss.ID); err != nil {
		t.Error(err)
	}
}

// A revocation and a rotation at the same time leave no key behind that nobody knows of.
func TestRevokeWhileRotating(t *testing.T) {
	t.Parallel()
	d := shop(t)
	for range 10 {
		k, _ := d.key(tenant.KeySpec{})
		var wg sync.WaitGroup
		var rotated error
		wg.Go(func() { _, _, rotated = d.RotateKey(t.Context(), by(""), admin, "shop", "web", k.ID, day, "") })
		wg.Go(func() {
			if _, err := d.RevokeKey(t.Context(), by(""), admin, "shop", "web", k.ID); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		got := d.view().Key(k.ID)
		if got.RevokeTime.IsZero() {
			t.Errorf("not revoked: %+v", got)
		}
		if rotated != nil {
			refused(t, rotated, conversation.InvalidState)
		}
		if (rotated == nil) != (got.ReplacedBy != "") {
			t.Errorf("rotated: %v, replaced by %q", rotated, got.ReplacedBy)
		}
	}
}
