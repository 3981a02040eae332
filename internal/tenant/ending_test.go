package tenant_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// remind runs the reminder over some keys of shop/web for a time, and returns the log.
func remind(t *testing.T, keys []*tenant.Key, period time.Duration) *logBook {
	t.Helper()
	off := tenant.Profile{Disabled: true}
	all := &tenant.Changes{
		Head:    upTo(1),
		Teams:   []*tenant.Team{{ID: "shop"}, {ID: "off", Profile: off}},
		Clients: []*tenant.Client{{Team: "shop", ID: "web"}, {Team: "shop", ID: "off", Profile: off}, {Team: "off", ID: "web"}},
		Keys:    keys,
	}
	for _, k := range keys {
		if k.Team == "" {
			k.Team = "shop"
		}
		if k.Client == "" {
			k.Client = "web"
		}
	}
	book := &logBook{}
	reads := 0
	d := tenant.NewDirectory(&script{changes: func(context.Context, tenant.Head) (*tenant.Changes, error) { reads++; return all, nil }}, book.logger())
	if _, err := d.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), period)
	defer stop()
	d.RemindOfEnds(ctx)
	if reads != 1 {
		t.Errorf("it read %d times", reads-1)
	}
	return book
}

func TestKeysThatEndAreInTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const last = 7*day + 12*time.Hour + time.Minute
		book := remind(t, []*tenant.Key{{ID: "a", ExpireTime: time.Now().Add(last)}}, 9*day)
		// After a day, and daily until there is a day and a half left; then hourly.
		if n := book.count(`level=WARN msg="keys end soon`); n != 6+24 {
			t.Errorf("%d lines", n)
		}
		line := fmt.Sprintf("count=1 first_end=%s keys=[teams/shop/clients/web/keys/a]", time.Now().Add(last-9*day).Format("2006-01-02T15:04:05.000Z07:00"))
		if n := book.count(line); n != 6+24 {
			t.Errorf("%d lines are %s", n, line)
		}
	})
}

func TestKeysThatMayEndAreNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		end := now.Add(3 * time.Hour)
		book := remind(t, []*tenant.Key{
			{ID: "later", ExpireTime: now.Add(30 * day)},
			{ID: "ended", ExpireTime: now},
			{ID: "revoked", ExpireTime: end, RevokeTime: now},
			{ID: "rotated", ExpireTime: end, ReplacedBy: "later"},
			{ID: "disabled", Client: "off", ExpireTime: end},
			{ID: "disabled too", Team: "off", ExpireTime: end},
		}, 5*time.Hour)
		if n := book.count("keys end soon"); n != 0 {
			t.Errorf("%d lines", n)
		}
	})
}

func TestManyKeysThatEndAreOneLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var keys []*tenant.Key
		for i := range 100 {
			keys = append(keys, &tenant.Key{ID: fmt.Sprintf("%03d", i), ExpireTime: time.Now().Add(6*day - time.Duration(i)*time.Minute)})
		}
		book := remind(t, keys, time.Minute)
		const k = "teams/shop/clients/web/keys/"
		if n := book.count("count=100 first_end="); n != 1 || book.count("["+k+"099 "+k+"098 "+k+"097 "+k+"096 "+k+"095]") != 1 {
			t.Errorf("%d lines", n)
		}
	})
}
