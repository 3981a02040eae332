package tenant_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

func TestBootstrap(t *testing.T) {
	t.Parallel()
	d := newDesk(t, openStore(t))
	k, token, err := d.Bootstrap(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	roles := tenant.RolesOf(tenant.RolePlatformAdmin, tenant.RoleTeamAdmin, tenant.RoleAuditor)
	if k.Team != "platform" || k.Client != "admin" || k.Roles != roles || !k.Is(token) || !k.ExpireTime.Equal(d.now().Add(60*day)) {
		t.Errorf("made %+v", k)
	}
	if v := d.view(); v.Team("platform") == nil || v.Client("platform", "admin") == nil || !v.Key(k.ID).Is(token) {
		t.Error("not all of it is stored")
	}
	const last = "bootstrap platform teams/platform/clients/admin/keys/"
	const changes = " state:  → active; display_name:  → bootstrap; roles:  → team_admin, platform_admin, auditor; " +
		"expire_time:  → 2030-03-03T03:04:05.678901Z"
	d.wantLast(1, last+k.ID+changes)
	_, _, err = d.Bootstrap(t.Context(), false)
	refused(t, err, conversation.InvalidState)
	second, _, err := d.Bootstrap(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	d.wantLast(2, last+second.ID+changes)

	// When the last admin's key has ended, it is as in the beginning.
	d.pass(60*day - time.Second)
	_, _, err = d.Bootstrap(t.Context(), false)
	refused(t, err, conversation.InvalidState)
	d.pass(time.Second)
	if _, _, err = d.Bootstrap(t.Context(), false); err != nil {
		t.Error(err)
	}
}

func TestBootstrapBesideOtherAdmins(t *testing.T) {
	t.Parallel()
	d := shop(t)
	d.key(tenant.KeySpec{Roles: tenant.RolesOf(tenant.RoleTeamAdmin, tenant.RoleAuditor)})
	boss, _ := d.key(tenant.KeySpec{Roles: admin})
	_, _, err := d.Bootstrap(t.Context(), false)
	refused(t, err, conversation.InvalidState)
	if _, err := d.RevokeKey(t.Context(), by(""), admin, "shop", "web", boss.ID); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Bootstrap(t.Context(), false); err != nil {
		t.Error(err)
	}
}

func TestBootstrapWhereSomeIsThere(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(d *desk){
		"the team": func(d *desk) { d.team("platform") },
		"both":     func(d *desk) { d.client("platform", "admin") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, openStore(t))
			prepare(d)
			before := d.view()
			for _, again := range []bool{false, true} {
				k, _, err := d.Bootstrap(t.Context(), again)
				if err != nil {
					t.Error(err)
				} else if d.view().Key(k.ID) == nil {
					t.Error("there is no key")
				}
			}
			if was, is := before.Team("platform"), d.view().Team("platform"); was.Revision != is.Revision {
				t.Error("the team was written")
			}
			if was, is := before.Client("platform", "admin"), d.view().Client("platform", "admin"); was != nil && was.Revision != is.Revision {
				t.Error("the client was written")
			}
		})
	}
}

// The only admin has lost its team or client: only again gives them back, and the audit says so.
func TestBootstrapWhereTheAdminIsDisabled(t *testing.T) {
	t.Parallel()
	disable := func(p *tenant.Profile) { p.Disabled = true }
	for name, c := range map[string]struct {
		disable func(d *desk) error
		want    string
	}{
		"team": {func(d *desk) error {
			_, err := d.UpdateTeam(d.t.Context(), by(""), "platform", 0, disable)
			return err
		}, "; team.disabled: true → false"},
		"client": {func(d *desk) error {
			_, err := d.UpdateClient(d.t.Context(), by(""), admin, "platform", "admin", 0, disable)
			return err
		}, "; client.disabled: true → false"},
		"both": {func(d *desk) error {
			_, err := d.UpdateTeam(d.t.Context(), by(""), "platform", 0, disable)
			_, clientErr := d.UpdateClient(d.t.Context(), by(""), admin, "platform", "admin", 0, disable)
			return errors.Join(err, clientErr)
		}, "; team.disabled: true → false; client.disabled: true → false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, openStore(t))
			if _, _, err := d.Bootstrap(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			if err := c.disable(d); err != nil {
				t.Fatal(err)
			}
			before := d.view()
			_, _, err := d.Bootstrap(t.Context(), false)
			refused(t, err, conversation.InvalidState)
			if !strings.Contains(err.Error(), "disabled") {
				t.Errorf("it says %v", err)
			}
			d.pass(time.Hour)
			k, token, err := d.Bootstrap(t.Context(), true)
			if err != nil {
				t.Fatal(err)
			}
			v := d.view()
			team, client := v.Team("platform"), v.Client("platform", "admin")
			if team.Disabled || client.Disabled || !v.Key(k.ID).Is(token) {
				t.Errorf("there are %+v, %+v and %+v", team, client, v.Key(k.ID))
			}
			if was := before.Team("platform"); team.DisplayName != was.DisplayName || !team.CreateTime.Equal(was.CreateTime) {
				t.Errorf("the team is %+v, and was %+v", team, was)
			}
			if _, last := d.last(); !strings.HasSuffix(last, c.want) {
				t.Errorf("the audit has %s, want %s", last, c.want)
			}
		})
	}
}

// Of many who run it at the same time, one gets a key.
func TestBootstrapAtOnce(t *testing.T) {
	t.Parallel()
	for _, there := range []bool{false, true} {
		store := openStore(t)
		d := newDesk(t, store)
		if there {
			d.client("platform", "admin")
		}
		var mu sync.Mutex
		made := 0
		var wg sync.WaitGroup
		for range 8 {
			other := newDesk(t, store)
			wg.Go(func() {
				_, _, err := other.Bootstrap(t.Context(), false)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					made++
				} else {
					refused(t, err, conversation.InvalidState)
				}
			})
		}
		wg.Wait()
		if made != 1 || len(d.view().Keys("platform", "")) != 1 {
			t.Errorf("team and client there: %t: %d got a key of %d", there, made, len(d.view().Keys("platform", "")))
		}
	}
}
