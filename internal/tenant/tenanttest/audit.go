package tenanttest

import (
	"slices"
	"sync"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

func record(b *bench) {
	b.put(&tenant.Change{Team: team("a")})
	before := b.all()
	for range 2 { // without once, the same is recorded again
		e := b.record(denial("10.1.1.1", "ROLE_MISSING", 1), false)
		equal(b.t, "head", b.head(), tenant.Head{Count: e.Sequence, Hash: e.Hash})
	}
	equal(b.t, "entries", len(b.entries()), 3)
	after := b.all()
	equal(b.t, "rows", after.Teams, before.Teams)
	equal(b.t, "revision", after.Head.Count, 3)
}

func once(b *bench) {
	b.record(denial("10.1.1.1", "R", 0), false) // does not count, as it is not written with once
	for _, c := range []struct {
		source, reason string
		seconds        int
		written        bool
	}{
		{"10.1.1.1", "R", 0, true},
		{"10.1.1.1", "R", 0, false},
		{"10.1.1.1", "R", 59, false},
		{"10.1.1.2", "R", 59, true},
		{"10.1.1.1", "S", 59, true},
		{"", "R", 59, true},
		{"", "R", 60, false},
		{"R", "10.1.1.1", 59, true},
		{"10.1.1.1", "R", 60, true}, // a minute after the one that was written last
		{"10.1.1.1", "R", 119, false},
		{"10.1.1.1", "R", 1000, true},
		{"10.1.1.1", "R", 300_000_000, true}, // a clock that is ten years ahead
		{"10.1.1.1", "R", 1059, false},
		{"10.1.1.1", "R", 1060, true},
	} {
		before := b.head()
		e := b.record(denial(c.source, c.reason, c.seconds), true)
		if written := e.Sequence != 0; written != c.written || b.head().Count-before.Count != e.Sequence-before.Count && written {
			b.t.Errorf("%+v: the sequence number is %d after %d", c, e.Sequence, before.Count)
		}
		if !c.written {
			equal(b.t, "head", b.head(), before)
		}
	}
	b.entries()
}

func onceAtOnce(b *bench) {
	var wg sync.WaitGroup
	es := make([]*tenant.Entry, 60)
	for i := range es {
		es[i] = denial([]string{"10.1.1.1", "10.1.1.2", "10.1.1.3"}[i%3], "R", i/3)
		wg.Go(func() {
			if err := b.Record(b.ctx(), es[i], true); err != nil {
				b.t.Error(err)
			}
		})
	}
	wg.Wait()
	written := make(map[string]int)
	for _, e := range es {
		if e.Sequence != 0 {
			written[e.Source]++
		}
	}
	equal(b.t, "written", written, map[string]int{"10.1.1.1": 1, "10.1.1.2": 1, "10.1.1.3": 1})
	equal(b.t, "entries", len(b.entries()), 3)
}

func entryContent(b *bench) {
	e := &tenant.Entry{
		Time:   time.Date(2027, 1, 2, 3, 4, 5, 678_912_345, time.FixedZone("elsewhere", 3600)),
		Action: "chatsvc.v1.KeyService/CreateKey", Outcome: tenant.Changed, Reason: "none", Team: "a",
		Actor:  tenant.Actor{Team: "platform", Client: "admin", Credential: "key:abc"},
		Source: "2001:db8::1", Resource: "teams/a/clients/web/keys/k", TraceID: "0123456789abcdef0123456789abcdef", Count: 7,
		Changes: []tenant.FieldChange{{Field: "display_name", Old: "<é>", New: "\u2028\"\\"}, {Field: "roles", New: "caller"}},
	}
	b.ok(b.Put(b.ctx(), &tenant.Change{Team: team("a")}, e))
	bare := b.record(&tenant.Entry{Time: at(0)}, false)
	es := b.entries()
	equal(b.t, "entry", *es[0], *e)
	equal(b.t, "time", e.Time, time.Date(2027, 1, 2, 2, 4, 5, 678_912_000, time.UTC))
	equal(b.t, "bare entry", *es[1], *bare)
}

// recorded is the sequence numbers of the entries that a filter finds.
func (b *bench) recorded(f tenant.EntryFilter, limit int) []int64 {
	b.t.Helper()
	es, err := b.Entries(b.ctx(), f, limit)
	b.ok(err)
	sequences := make([]int64, len(es))
	for i, e := range es {
		sequences[i] = e.Sequence
	}
	return sequences
}

func entriesFiltered(b *bench) {
	// The clocks of two processes need not agree.
	for i, seconds := range []int{10, 20, 15, 30, 40, 50} {
		e := denial("10.1.1.1", "R", seconds)
		e.Team = []string{"a", "b", ""}[i%3]
		b.record(e, i == 3)
	}
	type filter = tenant.EntryFilter
	year := func(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }
	for _, c := range []struct {
		name  string
		f     filter
		limit int
		want  []int64
	}{
		{"all", filter{}, 10, []int64{6, 5, 4, 3, 2, 1}},
		{"oldest first", filter{Ascending: true}, 10, []int64{1, 2, 3, 4, 5, 6}},
		{"limit", filter{}, 2, []int64{6, 5}},
		{"limit of none", filter{}, 0, []int64{}},
		{"limit below none", filter{}, -1, []int64{}},
		{"after", filter{After: 4}, 10, []int64{3, 2, 1}},
		{"after, oldest first", filter{After: 4, Ascending: true}, 10, []int64{5, 6}},
		{"after the last", filter{After: 1}, 10, []int64{}},
		{"after the last, oldest first", filter{After: 6, Ascending: true}, 10, []int64{}},
		{"after more than there are", filter{After: 100}, 2, []int64{6, 5}},
		{"team", filter{Team: "a"}, 10, []int64{4, 1}},
		{"team, oldest first", filter{Team: "b", Ascending: true}, 1, []int64{2}},
		{"team, after", filter{Team: "b", After: 5}, 10, []int64{2}},
		{"no such team", filter{Team: "c"}, 10, []int64{}},
		{"start", filter{Start: at(20)}, 10, []int64{6, 5, 4, 2}},
		{"just after", filter{Start: at(20).Add(1)}, 10, []int64{6, 5, 4}},
		{"end", filter{End: at(20)}, 10, []int64{3, 1}},
		{"just behind", filter{End: at(20).Add(1), Ascending: true}, 10, []int64{1, 2, 3}},
		{"end, after what is behind it", filter{End: at(20), After: 6}, 10, []int64{3, 1}},
		{"start, after what is before it", filter{Start: at(30), After: 1, Ascending: true}, 10, []int64{4, 5, 6}},
		{"start and end", filter{Start: at(15), End: at(40)}, 10, []int64{4, 3, 2}},
		{"the wrong way round", filter{Start: at(40), End: at(15)}, 10, []int64{}},
		{"everything", filter{Team: "b", Start: at(11), End: at(41), After: 2, Ascending: true}, 10, []int64{5}},
		{"from long ago to long after", filter{Start: year(1), End: year(9999).In(time.FixedZone("", 1))}, 1, []int64{6}},
		{"from long after", filter{Start: year(9999)}, 10, []int64{}},
		{"to long ago", filter{End: year(2).Add(-1)}, 10, []int64{}},
	} {
		equal(b.t, c.name, b.recorded(c.f, c.limit), c.want)
	}
}

func entriesPaged(b *bench) {
	const n = 25
	for i := range n {
		e := denial("10.1.1.1", "R", i)
		e.Team = []string{"a", "b"}[i%2]
		b.record(e, false)
	}
	for _, ascending := range []bool{true, false} {
		for _, team := range []string{"", "a"} {
			f := tenant.EntryFilter{Team: team, Ascending: ascending}
			want := b.recorded(f, n)
			var got []int64
			for {
				page := b.recorded(f, 4)
				if len(page) == 0 {
					break
				}
				got = append(got, page...)
				f.After = page[len(page)-1]
			}
			equal(b.t, "pages", got, want)
			if slices.IsSorted(got) != ascending {
				b.t.Errorf("the order is %v", got)
			}
		}
	}
}

// entriesOfWrongClocks: what a filter asks for can stand anywhere.
func entriesOfWrongClocks(b *bench) {
	const n = 350
	var wg sync.WaitGroup
	for i := range n - 1 {
		wg.Go(func() {
			if err := b.Record(b.ctx(), denial("10.1.1.1", "R", 1000+i), false); err != nil {
				b.t.Error(err)
			}
		})
	}
	wg.Wait()
	b.record(denial("10.1.1.1", "R", 1000), false)
	f := tenant.EntryFilter{Start: at(1000), End: at(1001)}
	newest := b.recorded(f, n)
	if len(newest) != 2 || newest[0] != n || newest[1] >= n {
		b.t.Fatalf("the entries of a second are %v", newest)
	}
	for limit := 1; limit < 4; limit++ {
		f.Ascending = false
		equal(b.t, "newest", b.recorded(f, limit), newest[:min(limit, 2)])
		f.Ascending = true
		equal(b.t, "oldest", b.recorded(f, limit), []int64{newest[1], n}[:min(limit, 2)])
	}
}
