package sqlstore

import (
	"testing"
	"time"
)

// Nobody is given up for dead because the database was away: whoever hears of it first waits for the others.
func TestOutageIsNobodysDeath(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	o := Options{lease: 1800 * time.Millisecond}
	first, firstProxy := proxied(t, url, o)
	second, secondProxy := proxied(t, url, o)
	a := oneShot("goes on")
	if err := first.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	passes := func(d time.Duration) {
		start := time.Now()
		eventually(t, "time passes", func() bool { return time.Since(start) > d })
	}
	firstProxy.Blackhole()
	secondProxy.Blackhole()
	passes(o.lease + time.Second)
	secondProxy.Restore()
	recovers(t, second)
	passes(o.lease / 2) // it has looked some times, and found the first dead by its heartbeat
	firstProxy.Restore()
	recovers(t, first)
	if err := first.EndTurn(t.Context(), ending(a, "done")); err != nil {
		t.Errorf("the end of a turn that nobody should have taken: %v", err)
	}
}

// After the database was away, nobody is given up for a lease. That it is far away is no reason.
func TestHeard(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		silence, trip, usual time.Duration
		waits                bool
	}{
		{time.Second, time.Millisecond, 0, false},
		{4 * time.Second, time.Millisecond, 0, true},
		{time.Second, 2900 * time.Millisecond, 0, true},
		{time.Second, 4 * time.Second, 3900 * time.Millisecond, false},
	} {
		last := time.Now()
		r := &replica{lease: 6 * time.Second, lastHeard: last}
		asked := last.Add(c.silence)
		answered := asked.Add(c.trip)
		r.heard(asked, answered, c.usual)
		if waits := r.takeFrom.Equal(answered.Add(r.lease)); waits != c.waits || !r.lastHeard.Equal(answered) {
			t.Errorf("%+v: %+v", c, r)
		}
	}
}

// A round that fails says that the database is away, and a connection that has broken does not.
func TestRoundThatFails(t *testing.T) {
	t.Parallel()
	db, proxy := proxied(t, migrated(t), Options{patience: 200 * time.Millisecond})
	r := newReplica(db, db.dialect.(*postgresDialect), time.Hour)
	defer r.drop()
	r.takeFrom = time.Time{}
	for range 2 {
		if r.round(t.Context()); r.away || r.conn == nil || !r.takeFrom.IsZero() {
			t.Fatalf("away %v, takes from %v", r.away, r.takeFrom)
		}
		proxy.CutAll()
	}
	proxy.Blackhole()
	if r.round(t.Context()); !r.away || time.Until(r.takeFrom) < r.lease-time.Minute {
		t.Errorf("after an outage: away %v, takes from %v", r.away, r.takeFrom)
	}
	proxy.Restore()
}
