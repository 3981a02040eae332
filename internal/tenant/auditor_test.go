package tenant_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// A ledger is the audit of a test under virtual time: it keeps what it is told, by the rule of Record.
type ledger struct {
	mu      sync.Mutex
	entries []tenant.Entry
	last    map[[2]string]time.Time // what others wrote, or this one, with once
	asked   atomic.Int64
	down    atomic.Bool
	hangs   atomic.Bool
	refuses atomic.Bool
	slow    atomic.Int64 // how long it takes, a time.Duration
}

func (l *ledger) record(ctx context.Context, e *tenant.Entry, once bool) error {
	if l.hangs.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	time.Sleep(time.Duration(l.slow.Load()))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked.Add(1)
	if l.down.Load() {
		return errDown
	}
	if l.refuses.Load() {
		return &conversation.Error{Reason: conversation.StoreUnavailable, Cause: conversation.ErrNotWritten}
	}
	key := [2]string{e.Source, e.Reason}
	if last, ok := l.last[key]; once && ok && e.Time.Sub(last) < time.Minute {
		return nil
	}
	if once {
		l.last[key] = e.Time
	}
	e.Sequence = int64(len(l.entries) + 1)
	l.entries = append(l.entries, *e)
	return nil
}

// at returns an entry that was written.
func (l *ledger) at(i int) tenant.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries[i]
}

// wrote says that there was an entry at a time, of this replica or another.
func (l *ledger) wrote(source, reason string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last[[2]string{source, reason}] = at
}

// has reports whether there is an entry.
func (l *ledger) has(source, reason string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.last[[2]string{source, reason}].IsZero()
}

// take returns what was written since the last take, as source/reason×count.
func (l *ledger) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]string, len(l.entries))
	for i, e := range l.entries {
		list[i] = fmt.Sprintf("%s/%s×%d", e.Source, e.Reason, e.Count)
	}
	l.entries = nil
	return strings.Join(list, " ")
}

// counts returns how many entries there are, and for how many denials they stand.
func (l *ledger) counts() (entries int, denials int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		denials += e.Count
	}
	return len(l.entries), denials
}

// An office is an auditor at work, in a bubble of synctest.
type office struct {
	*tenant.Auditor
	ledger ledger
	book   logBook
	end    func()
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{ledger: ledger{last: make(map[[2]string]time.Time)}}
	o.Auditor = tenant.NewAuditor(&script{
		record: o.ledger.record,
		head: func(context.Context) (tenant.Head, error) {
			if o.ledger.down.Load() {
				return tenant.Head{}, errDown
			}
			return tenant.Head{Count: 7, Hash: tenant.Digest{0xab}}, nil
		},
	}, o.book.logger())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { o.Run(ctx) })
	o.end = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(o.end)
	return o
}

func denial(source, reason string) tenant.Entry {
	return tenant.Entry{Action: "chatsvc.v1.ChatService/CreateTurn", Source: source, Reason: reason, TraceID: "trace"}
}

func named(client, source, reason string) tenant.Entry {
	e := denial(source, reason)
	e.Actor, e.Team = tenant.Actor{Team: "shop", Client: client, Credential: "key:" + client}, "shop"
	return e
}

func TestDenials(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(t *testing.T, o *office){
		"the first at once, those in its minute together when it is over": func(t *testing.T, o *office) {
			for range 3 {
				o.DeniedData(denial("192.0.2.1", "A"))
				synctest.Wait() // no time passes
			}
			if got := o.ledger.take(); got != "192.0.2.1/A×1" {
				t.Errorf("at once: %s", got)
			}
			time.Sleep(59 * time.Second)
			o.DeniedData(denial("192.0.2.1", "A"))
			synctest.Wait()
			if got := o.ledger.take(); got != "" {
				t.Errorf("within the minute: %s", got)
			}
			time.Sleep(10 * time.Second)
			if got := o.ledger.take(); got != "192.0.2.1/A×3" {
				t.Errorf("when it was over: %s", got)
			}
			time.Sleep(10 * time.Minute)
			if got := o.ledger.take(); got != "" {
				t.Errorf("of nothing: %s", got)
			}
			o.DeniedData(denial("192.0.2.1", "A"))
			synctest.Wait()
			if got := o.ledger.take(); got != "192.0.2.1/A×1" {
				t.Errorf("much later: %s", got)
			}
		},
		"sources and reasons are told apart": func(t *testing.T, o *office) {
			for _, d := range [][2]string{{"192.0.2.1", "A"}, {"192.0.2.1", "B"}, {"192.0.2.2", "A"}} {
				o.DeniedData(denial(d[0], d[1]))
			}
			synctest.Wait()
			if got := o.ledger.take(); got != "192.0.2.1/A×1 192.0.2.1/B×1 192.0.2.2/A×1" {
				t.Error(got)
			}
		},
		"an IPv6 source is its network": func(t *testing.T, o *office) {
			for _, source := range []string{
				"2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:db8:1:3::", "fe80::1%eth0", "::ffff:192.0.2.1", "192.0.2.1", "a'; DROP", "",
			} {
				o.DeniedData(denial(source, "A"))
			}
			synctest.Wait()
			if got := o.ledger.take(); got != "2001:db8:1:2::/64/A×2 2001:db8:1:3::/64/A×1 fe80::/64/A×1 192.0.2.1/A×2 /A×2" {
				t.Error(got)
			}
		},
		"an entry says what all have in common": func(t *testing.T, o *office) {
			o.DeniedData(named("web", "192.0.2.1", "A"))
			o.DeniedData(named("web", "192.0.2.1", "A"))
			o.DeniedData(named("web", "192.0.2.2", "A"))
			o.DeniedData(named("app", "192.0.2.2", "A"))
			o.DeniedData(denial("192.0.2.2", "A"))
			time.Sleep(time.Second)
			want := named("web", "192.0.2.1", "A")
			same, mixed := o.ledger.at(0), o.ledger.at(1)
			if same.Actor != want.Actor || same.Team != "shop" || same.Action != want.Action || same.TraceID != "trace" ||
				same.Outcome != tenant.Denied || same.Count != 2 || time.Since(same.Time) != time.Second {
				t.Errorf("of one client: %+v", same)
			}
			if mixed.Actor != (tenant.Actor{}) || mixed.Team != "" || mixed.Action != want.Action || mixed.Count != 3 {
				t.Errorf("of several: %+v", mixed)
			}
		},
		"many addresses make few entries, and none is lost": func(t *testing.T, o *office) {
			const minutes, perSecond = 10, 200
			n := 0
			for range minutes * 60 {
				for range perSecond {
					n++
					o.DeniedData(denial(fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255), "A"))
				}
				time.Sleep(time.Second)
			}
			o.DeniedData(named("web", "192.0.2.1", "A")) // still told apart
			time.Sleep(2 * time.Minute)
			if !o.ledger.has("192.0.2.1", "A") {
				t.Error("a caller with a name drowned")
			}
			entries, denials := o.ledger.counts()
			if denials != int64(n)+1 {
				t.Errorf("%d denials were counted of %d", denials, n+1)
			}
			if most := (minutes + 2) * 60; entries > most || o.ledger.asked.Load() > int64(most) {
				t.Errorf("%d entries, %d writes, want at most %d", entries, o.ledger.asked.Load(), most)
			}
			if !o.ledger.has("others", "A") {
				t.Error("nothing is of others")
			}
		},
		"another replica's entry is waited for": func(t *testing.T, o *office) {
			o.ledger.wrote("192.0.2.1", "A", time.Now().Add(-time.Second))
			o.DeniedData(denial("192.0.2.1", "A"))
			o.DeniedData(denial("192.0.2.1", "A"))
			time.Sleep(58 * time.Second)
			if got := o.ledger.take(); got != "" {
				t.Errorf("within its minute: %s", got)
			}
			o.DeniedData(denial("192.0.2.1", "A"))
			time.Sleep(20 * time.Second)
			if got := o.ledger.take(); got != "192.0.2.1/A×3" {
				t.Errorf("after it: %s", got)
			}
			if o.ledger.asked.Load() > 15 {
				t.Errorf("it asked %d times", o.ledger.asked.Load())
			}
		},
		"counted while the store is down": func(t *testing.T, o *office) {
			o.ledger.down.Store(true)
			for range 300 {
				o.DeniedData(denial("192.0.2.1", "A"))
				o.DeniedData(denial("192.0.2.2", "A"))
				time.Sleep(time.Second)
			}
			if o.ledger.asked.Load() > 301 {
				t.Errorf("it tried %d times in 300 s", o.ledger.asked.Load())
			}
			if n := o.book.count("denials cannot be written"); n != 1 {
				t.Errorf("it logged %d times", n)
			}
			o.ledger.down.Store(false)
			time.Sleep(2 * time.Minute)
			if _, denials := o.ledger.counts(); denials != 600 {
				t.Errorf("%d denials were counted", denials)
			}
			if n := o.book.count("denials can be written to the audit again"); n != 1 {
				t.Errorf("it logged %d times that it is over", n)
			}
		},
		"an outage does not take their sources away": func(t *testing.T, o *office) {
			o.ledger.down.Store(true)
			for i := range 10 {
				o.DeniedData(denial(fmt.Sprintf("192.0.2.%d", i), "A"))
			}
			time.Sleep(50 * time.Second)
			o.ledger.down.Store(false)
			time.Sleep(20 * time.Second)
			if got := o.ledger.take(); strings.Contains(got, "others") || strings.Count(got, "/A×1") != 10 {
				t.Error(got)
			}
		},
		"another replica's entries do not take their sources away": func(t *testing.T, o *office) {
			for i := range 20 {
				source := fmt.Sprintf("192.0.2.%d", i)
				o.ledger.wrote(source, "A", time.Now())
				o.DeniedData(denial(source, "A"))
			}
			time.Sleep(2 * time.Minute)
			if got := o.ledger.take(); strings.Contains(got, "others") || strings.Count(got, "/A×1") != 20 {
				t.Error(got)
			}
		},
		"DeniedData does not wait for a store that hangs": func(t *testing.T, o *office) {
			o.ledger.hangs.Store(true)
			begin := time.Now()
			for i := range 10_000 {
				o.DeniedData(denial(fmt.Sprintf("192.0.%d.%d", i>>8, i&255), "A"))
			}
			if took := time.Since(begin); took != 0 {
				t.Errorf("it took %s", took)
			}
			o.DeniedData(named("web", "198.51.100.1", "A")) // there is still room for it
			o.ledger.hangs.Store(false)
			time.Sleep(2 * time.Minute)
			if !o.ledger.has("198.51.100.1", "A") {
				t.Error("a caller with a name drowned")
			}
			if _, denials := o.ledger.counts(); denials != 10_001 {
				t.Errorf("%d denials were counted", denials)
			}
		},
		"what comes while an entry is written": func(t *testing.T, o *office) {
			for _, fails := range []bool{false, true} {
				o.ledger.slow.Store(int64(1500 * time.Millisecond))
				o.ledger.down.Store(fails)
				before := o.ledger.asked.Load()
				for range 3 {
					o.DeniedData(denial("192.0.2.1", fmt.Sprint(fails)))
					synctest.Wait()
				}
				time.Sleep(4 * time.Second) // it has been written, or not
				if asked := o.ledger.asked.Load() - before; asked != 1 && !fails {
					t.Errorf("it asked %d times", asked)
				}
				o.ledger.slow.Store(0)
				o.ledger.down.Store(false)
				time.Sleep(2 * time.Minute)
			}
			if got := o.ledger.take(); got != "192.0.2.1/false×1 192.0.2.1/false×2 192.0.2.1/true×3" {
				t.Error(got)
			}
		},
		"the end writes what waits": func(t *testing.T, o *office) {
			o.DeniedData(denial("192.0.2.1", "A"))
			synctest.Wait()
			o.DeniedData(denial("192.0.2.1", "A")) // may not be written for a minute
			o.DeniedData(denial("192.0.2.2", "A")) // may be, at once
			o.DeniedData(denial("192.0.2.1", "A"))
			o.end()
			if got := o.ledger.take(); got != "192.0.2.1/A×1 192.0.2.2/A×1 others/A×2" {
				t.Error(got)
			}
		},
		"the end leaves the only source of a reason its name": func(t *testing.T, o *office) {
			for _, reason := range []string{"A", "B"} { // another replica was first, a minute ago when this one ends
				o.ledger.wrote("192.0.2.1", reason, time.Now().Add(-59*time.Second))
				o.DeniedData(denial("192.0.2.1", reason))
			}
			o.ledger.wrote("192.0.2.2", "B", time.Now().Add(-59*time.Second))
			o.DeniedData(denial("192.0.2.2", "B"))
			synctest.Wait()
			time.Sleep(1500 * time.Millisecond) // the next try would be later
			o.end()
			if got := o.ledger.take(); got != "192.0.2.1/A×1 others/B×2" {
				t.Error(got)
			}
		},
		"the end logs what cannot be written": func(t *testing.T, o *office) {
			o.DeniedData(denial("192.0.2.1", "A"))
			synctest.Wait()
			o.ledger.down.Store(true)
			o.DeniedData(denial("192.0.2.1", "A"))
			o.DeniedData(denial("192.0.2.1", "A"))
			begin := time.Now()
			o.end()
			if n := o.book.count(`msg="denials are not in the audit" reason=A count=2`); n != 1 {
				t.Errorf("it logged %d times", n)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		},
		"the head is logged": func(t *testing.T, o *office) {
			line := `level=INFO msg="audit head" count=7 head=7:ab` + strings.Repeat("0", 62)
			synctest.Wait()
			if n := o.book.count(line); n != 1 {
				t.Errorf("at the start: %d", n)
			}
			time.Sleep(10*time.Minute + time.Second)
			if n := o.book.count(line); n != 11 {
				t.Errorf("in ten minutes: %d", n)
			}
			o.end()
			if n := o.book.count(line); n != 12 {
				t.Errorf("at the end: %d", n)
			}
		},
		"a head that cannot be read is logged once": func(t *testing.T, o *office) {
			o.ledger.down.Store(true)
			time.Sleep(10*time.Minute + time.Second)
			if n := o.book.count("head of the audit cannot be read"); n != 1 {
				t.Errorf("%d times", n)
			}
			before := o.book.count("audit head")
			o.ledger.down.Store(false)
			time.Sleep(time.Minute)
			if n := o.book.count("audit head") - before; n != 1 {
				t.Errorf("and then the head %d times", n)
			}
		},
		"on the control plane, one by one": func(t *testing.T, o *office) {
			for range 20 {
				o.DeniedControl(t.Context(), named("web", "192.0.2.1", "A"))
			}
			for range 100 {
				time.Sleep(time.Second)
				o.DeniedControl(t.Context(), named("web", "192.0.2.1", "A"))
			}
			if entries, denials := o.ledger.counts(); entries != 120 || denials != 120 {
				t.Errorf("%d entries for %d denials", entries, denials)
			}
			if e := o.ledger.at(0); e.Outcome != tenant.Denied || e.Actor.Client != "web" || e.Source != "192.0.2.1" {
				t.Errorf("%+v", e)
			}
		},
		"on the control plane, so many of each credential": func(t *testing.T, o *office) {
			for range 500 {
				o.DeniedControl(t.Context(), named("web", "192.0.2.1", "ROLE_MISSING"))
				o.DeniedControl(t.Context(), named("app", "192.0.2.2", "OTHER_TEAM"))
			}
			synctest.Wait()
			if entries, _ := o.ledger.counts(); entries != 42 {
				t.Errorf("%d entries, want twenty of each, and one of each for the rest", entries)
			}
			time.Sleep(2 * time.Minute)
			if entries, denials := o.ledger.counts(); entries > 44 || denials != 1000 {
				t.Errorf("%d entries for %d denials", entries, denials)
			}
		},
		"on the control plane, so many of strangers": func(t *testing.T, o *office) {
			for range 500 {
				o.DeniedControl(t.Context(), denial("2001:db8::1", "A"))
			}
			synctest.Wait()
			if entries, _ := o.ledger.counts(); entries != 101 {
				t.Errorf("%d entries, want a hundred, and one for the rest", entries)
			}
			time.Sleep(2 * time.Minute)
			if _, denials := o.ledger.counts(); denials != 500 {
				t.Errorf("%d denials were counted", denials)
			}
			for range 50 {
				o.DeniedControl(t.Context(), denial("2001:db8::1", "A"))
			}
			if entries, _ := o.ledger.counts(); entries < 150 {
				t.Errorf("%d entries after a rest", entries)
			}
		},
		"on the control plane, whoever's credential does not work is a stranger": func(t *testing.T, o *office) {
			for i, reason := range []string{
				"CREDENTIAL_MISSING", "CREDENTIAL_INVALID", "CREDENTIAL_EXPIRED", "CREDENTIAL_REVOKED", "IP_NOT_ALLOWED",
			} {
				for n := range 100 {
					o.DeniedControl(t.Context(), named(fmt.Sprint(i, n), "192.0.2.1", reason))
				}
			}
			synctest.Wait()
			if entries, _ := o.ledger.counts(); entries != 104 {
				t.Errorf("%d entries, want a hundred, and one for each reason of the rest", entries)
			}
			time.Sleep(2 * time.Minute)
			if _, denials := o.ledger.counts(); denials != 500 {
				t.Errorf("%d denials were counted", denials)
			}
		},
		"on the control plane, more credentials than are told apart": func(t *testing.T, o *office) {
			for range 2 {
				for i := range 1200 {
					o.DeniedControl(t.Context(), named(fmt.Sprint(i), "192.0.2.1", "A"))
				}
				synctest.Wait()
				if entries, _ := o.ledger.counts(); entries < 1100 || entries > 1101 { // one for the rest, now or in a minute
					t.Errorf("%d entries, want one for each of a thousand, a hundred of strangers, and one for the rest", entries)
				}
				time.Sleep(2 * time.Minute)
				if _, denials := o.ledger.counts(); denials != 1200 {
					t.Errorf("%d denials were counted", denials)
				}
				o.ledger.take() // those of then are forgotten by now
			}
		},
		"on the control plane, what the database did not take is counted": func(t *testing.T, o *office) {
			o.ledger.refuses.Store(true)
			for range 3 {
				o.DeniedControl(t.Context(), named("web", "192.0.2.1", "A"))
			}
			if n := o.book.count("a denial is not in the audit"); n != 0 {
				t.Errorf("it was logged %d times", n)
			}
			o.ledger.refuses.Store(false)
			time.Sleep(2 * time.Minute)
			if _, denials := o.ledger.counts(); denials != 3 {
				t.Errorf("%d denials were counted", denials)
			}
		},
		"on the control plane, of a caller that has gone": func(t *testing.T, o *office) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			o.DeniedControl(ctx, named("web", "192.0.2.1", "A"))
			if entries, _ := o.ledger.counts(); entries != 1 {
				t.Errorf("%d entries", entries)
			}
		},
		"on the control plane, a store that hangs is not waited for": func(t *testing.T, o *office) {
			o.ledger.hangs.Store(true)
			begin := time.Now()
			o.DeniedControl(t.Context(), named("web", "192.0.2.1", "A"))
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("it took %s", took)
			}
			o.ledger.hangs.Store(false)
			time.Sleep(2 * time.Minute)
			if _, denials := o.ledger.counts(); denials != 1 {
				t.Errorf("%d denials were counted, of one that had not been written", denials)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := newOffice(t)
				test(t, o)
				o.end()
			})
		})
	}
}

// Two replicas make one entry for one source and reason.
func TestDenialsOfTwoReplicas(t *testing.T) {
	t.Parallel()
	store := openStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	auditors := make([]*tenant.Auditor, 2)
	for i := range auditors {
		auditors[i] = tenant.NewAuditor(store, slog.New(slog.DiscardHandler))
		wg.Go(func() { auditors[i].Run(ctx) })
	}
	for range 100 {
		for _, a := range auditors {
			a.DeniedData(denial("192.0.2.1", "A"))
		}
	}
	entries := func() []*tenant.Entry {
		list, err := store.Entries(t.Context(), tenant.EntryFilter{Ascending: true}, 100)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	for begin := time.Now(); len(entries()) == 0; {
		if time.Since(begin) > 10*time.Second {
			t.Fatal("nothing was written")
		}
	}
	cancel()
	wg.Wait()
	seen := make(map[string]int)
	for _, e := range entries() {
		seen[e.Source+"/"+e.Reason]++
	}
	if seen["192.0.2.1/A"] != 1 || seen["others/A"] > 1 || len(seen) > 2 {
		t.Errorf("entries: %v", seen)
	}
}
