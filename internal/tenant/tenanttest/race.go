package tenanttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

func concurrentPuts(b *bench) {
	const callers = 200
	es := make([]*tenant.Entry, callers)
	var wg sync.WaitGroup
	for i := range callers {
		es[i] = entry(fmt.Sprint("put ", i))
		wg.Go(func() {
			id := fmt.Sprintf("team%03d", i)
			c := &tenant.Change{Team: team(id), Keys: []*tenant.Key{key(id, "web", id)}}
			if err := b.Put(b.ctx(), c, es[i]); err != nil {
				b.t.Error(err)
			}
			equal(b.t, "revisions", revisionsOf(c), []int64{es[i].Sequence, es[i].Sequence})
		})
	}
	wg.Wait()
	stored := b.entries()
	equal(b.t, "entries", len(stored), callers)
	for _, e := range es {
		if e.Sequence < 1 || e.Sequence > callers {
			b.t.Fatalf("the sequence number is %d", e.Sequence)
		}
		equal(b.t, "entry", *stored[e.Sequence-1], *e)
	}
	all := b.all()
	equal(b.t, "revision", all.Head.Count, callers)
	for i, tm := range all.Teams {
		equal(b.t, "team", tm.ID, fmt.Sprintf("team%03d", i))
		equal(b.t, "revision", tm.Revision, es[i].Sequence)
		equal(b.t, "revision of the key", all.Keys[i].Revision, es[i].Sequence)
	}
}

// race has many put what change returns: one wins, and the others get the error lost.
func (b *bench) race(what string, lost error, change func() *tenant.Change) {
	b.t.Helper()
	before := b.head().Count
	var won atomic.Int64
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			switch err := b.Put(b.ctx(), change(), entry(what)); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, lost):
				b.t.Errorf("%s: %v", what, err)
			}
		})
	}
	wg.Wait()
	equal(b.t, what+": winners", won.Load(), 1)
	equal(b.t, what+": entries", b.head().Count-before, 1)
}

func conflictingPuts(b *bench) {
	b.race("create", tenant.ErrExists, func() *tenant.Change { return &tenant.Change{Team: team("a"), Client: client("a", "web")} })
	tm := *b.all().Teams[0]
	b.race("update", tenant.ErrChanged, func() *tenant.Change {
		mine := tm
		return &tenant.Change{Team: &mine}
	})
	var n atomic.Int64
	b.race("request", tenant.ErrExists, func() *tenant.Change {
		k := key("a", "web", fmt.Sprint("key", n.Add(1)))
		k.Request = digest("the same")
		return &tenant.Change{Keys: []*tenant.Key{k}}
	})
	equal(b.t, "keys", len(b.all().Keys), 1)
	b.entries()
}

func changes(b *bench) {
	first, second := team("a"), team("b")
	heads := []tenant.Head{{}}
	for _, write := range []func(){
		func() { b.put(&tenant.Change{Team: first}) },
		func() { b.put(&tenant.Change{Team: second, Client: client("b", "web")}) },
		func() { b.record(denial("10.1.1.1", "R", 0), false) },
		func() { b.put(&tenant.Change{Keys: []*tenant.Key{key("b", "web", "k")}}) },
		func() { b.put(&tenant.Change{Team: first}) },
	} {
		write()
		heads = append(heads, b.head())
	}
	type found struct {
		all                  bool
		teams, clients, keys int
	}
	check := func(after tenant.Head, want found) {
		b.t.Helper()
		c := b.changes(after)
		equal(b.t, fmt.Sprint("after ", after), found{c.All, len(c.Teams), len(c.Clients), len(c.Keys)}, want)
		equal(b.t, fmt.Sprint("head after ", after), c.Head, heads[5])
	}
	all := found{true, 2, 1, 1}
	for i, want := range []found{all, {false, 2, 1, 1}, {false, 1, 0, 1}, {false, 1, 0, 1}, {false, 1, 0, 0}, {}} {
		check(heads[i], want)
	}
	// Of a database that was put back to an earlier one, and may have overtaken what it was since.
	check(tenant.Head{Count: 5, Hash: digest("what it was")}, all)
	check(tenant.Head{Count: 3, Hash: heads[4].Hash}, all)
	check(tenant.Head{Count: 3}, all)
	check(tenant.Head{Count: 9, Hash: digest("what it was")}, all)
	check(tenant.Head{Count: 6, Hash: heads[5].Hash}, all)
	check(tenant.Head{Count: -1, Hash: heads[5].Hash}, all)
	equal(b.t, "the team that was changed last", *b.changes(heads[4]).Teams[0], *first)
}

// changesWhileWriting has a follower that only ever asks for what is new see every change, and each as a whole.
func changesWhileWriting(b *bench) {
	const writers, updates = 8, 15
	var acknowledged [writers]atomic.Int64
	ctx, done := context.WithCancel(b.ctx())
	defer done()
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range writers {
		wg.Go(func() {
			id := fmt.Sprint(i)
			c := &tenant.Change{Team: team(id), Client: client(id, "web"), Keys: []*tenant.Key{key(id, "web", id)}}
			for range updates {
				e := entry("put")
				if err := b.Put(b.ctx(), c, e); err != nil {
					b.t.Error(err)
					return
				}
				acknowledged[i].Store(e.Sequence)
			}
		})
	}
	go func() {
		wg.Wait()
		done()
	}()
	type rows struct{ team, client, key int64 }
	seen := make(map[string]rows)
	var head tenant.Head
	for last := false; !last; {
		last = ctx.Err() != nil // what is written is written then
		var before [writers]int64
		for i := range before {
			before[i] = acknowledged[i].Load()
		}
		c := b.changes(head)
		for i, tm := range c.Teams {
			if len(c.Clients) <= i || len(c.Keys) <= i {
				b.t.Fatalf("%d teams come with %d clients and %d keys", len(c.Teams), len(c.Clients), len(c.Keys))
			}
			seen[tm.ID] = rows{tm.Revision, c.Clients[i].Revision, c.Keys[i].Revision}
		}
		if c.Head.Count < head.Count || c.All != (head == tenant.Head{}) {
			b.t.Fatalf("head %v came after %v, all: %t", c.Head, head, c.All)
		}
		head = c.Head
		for i, want := range before {
			got := seen[fmt.Sprint(i)]
			if got.team < want || got.client != got.team || got.key != got.team {
				b.t.Fatalf("of a change that was acknowledged at %d, the follower has %+v", want, got)
			}
		}
	}
	equal(b.t, "head", head, b.head())
	for i := range acknowledged {
		equal(b.t, "team", seen[fmt.Sprint(i)].team, acknowledged[i].Load())
	}
}

func wakes(b *bench) {
	first, stopFirst := b.Changed()
	second, stopSecond := b.Changed()
	defer stopSecond()
	for i := range 3 {
		b.put(&tenant.Change{Team: team(fmt.Sprint(i))})
		b.awake(first)
		b.awake(second)
	}
	stopFirst()
	b.put(&tenant.Change{Client: client("a", "web")})
	b.awake(second)
	b.put(&tenant.Change{Keys: []*tenant.Key{key("a", "web", "k")}})
	b.awake(second)
}

// calls are all methods that take a context.
func (b *bench) calls(ctx context.Context) map[string]error {
	errs := make(map[string]error)
	errs["Put"] = b.Put(ctx, &tenant.Change{Team: team("never")}, entry("never"))
	errs["Record"] = b.Record(ctx, entry("never"), false)
	errs["Record once"] = b.Record(ctx, denial("10.1.1.1", "R", 0), true)
	_, errs["Changes"] = b.Changes(ctx, tenant.Head{})
	_, errs["Entries"] = b.Entries(ctx, tenant.EntryFilter{}, 1)
	_, errs["Head"] = b.Head(ctx)
	return errs
}

func cancelledContext(b *bench) {
	b.put(&tenant.Change{Team: team("a")})
	ctx, cancel := context.WithCancel(b.ctx())
	cancel()
	for method, err := range b.calls(ctx) {
		b.is(method, err, context.Canceled)
	}
	equal(b.t, "entries", len(b.entries()), 1)
	equal(b.t, "teams", len(b.all().Teams), 1)
}
