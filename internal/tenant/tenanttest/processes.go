package tenanttest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

func durable(b *bench, f Factory) {
	tm, k := team("a"), key("a", "web", "k")
	b.put(&tenant.Change{Team: tm, Client: client("a", "web"), Keys: []*tenant.Key{k}})
	b.put(&tenant.Change{Team: tm})
	b.record(denial("10.1.1.1", "R", 0), true)
	all, entries, head := b.all(), b.entries(), b.head()
	for range 2 {
		f.Close(b.t, b.Store)
		b.Store = f.Reopen(b.t, b.Store)
		equal(b.t, "rows", b.all(), all)
		equal(b.t, "entries", b.entries(), entries)
		equal(b.t, "head", b.head(), head)
	}
	b.refused("team", &tenant.Change{Team: team("a")}, tenant.ErrExists)
	same := key("b", "other", "same")
	same.Request = k.Request
	b.refused("request", &tenant.Change{Keys: []*tenant.Key{same}}, tenant.ErrExists)
	equal(b.t, "sequence of what was recorded", b.record(denial("10.1.1.1", "R", 59), true).Sequence, 0)
	equal(b.t, "sequence", b.put(&tenant.Change{Team: tm}).Sequence, 4)
	equal(b.t, "entries", len(b.entries()), 4)
}

func closed(b *bench, f Factory) {
	b.put(&tenant.Change{Team: team("a")})
	f.Close(b.t, b.Store)
	for method, err := range b.calls(b.ctx()) {
		b.is(method, err, conversation.ErrStoreUnavailable)
		if method == "Put" || method == "Record" || method == "Record once" {
			b.is(method, err, conversation.ErrNotWritten)
		}
	}
	b.Store = f.Reopen(b.t, b.Store)
	equal(b.t, "entries", len(b.entries()), 1)
	equal(b.t, "teams", len(b.all().Teams), 1)
}

// oneChain has two processes write at the same time, and contend for some of the rows.
func oneChain(first, second *bench) {
	const writers, updates = 20, 10
	shared := team("shared")
	first.put(&tenant.Change{Team: shared})
	var written, lost atomic.Int64
	var wg sync.WaitGroup
	for i := range writers {
		b := []*bench{first, second}[i%2]
		wg.Go(func() {
			own := client("shared", fmt.Sprint("client", i))
			for range updates {
				if err := b.Put(b.ctx(), &tenant.Change{Client: own}, entry("own")); err != nil {
					b.t.Error(err)
					return
				}
				written.Add(1)
				c, err := b.Changes(b.ctx(), tenant.Head{})
				if err != nil {
					b.t.Error(err)
					return
				}
				tm := *c.Teams[0]
				switch err := b.Put(b.ctx(), &tenant.Change{Team: &tm}, entry("shared")); {
				case err == nil:
					written.Add(1)
				case errors.Is(err, tenant.ErrChanged):
					lost.Add(1)
				default:
					b.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	first.t.Logf("%d written, %d lost", written.Load(), lost.Load())
	es := first.entries()
	equal(first.t, "entries", int64(len(es)), written.Load()+1)
	equal(first.t, "entries in the other process", second.entries(), es)
	equal(first.t, "rows in the other process", second.all(), first.all())
	var updated int64
	for _, e := range es {
		if e.Action == "shared" {
			updated = e.Sequence
		}
	}
	equal(first.t, "revision", first.all().Teams[0].Revision, updated)
}

// seenAtOnce: what one process has acknowledged, another finds without having been told.
func seenAtOnce(first, second *bench) {
	var known tenant.Head
	for i := range 20 {
		e := first.put(&tenant.Change{Team: team(fmt.Sprintf("team%02d", i))})
		c := second.changes(known)
		known = tenant.Head{Count: e.Sequence, Hash: e.Hash}
		equal(first.t, "teams", len(c.Teams), 1)
		equal(first.t, "head of the changes", c.Head, known)
		equal(first.t, "head", second.head(), known)
	}
}

// othersWake: a process is told of what another writes, soon after it has come.
func othersWake(first, second *bench) {
	wake, stop := second.Changed()
	defer stop()
	tm := team("a")
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		first.put(&tenant.Change{Team: tm})
		select {
		case <-wake:
			return
		case <-time.After(time.Second): // one can be missed
		}
	}
	first.t.Error("nobody was woken")
}

func onceForAll(first, second *bench) {
	e := first.record(denial("10.1.1.1", "R", 0), true)
	equal(first.t, "sequence", e.Sequence, 1)
	equal(first.t, "sequence of the other's", second.record(denial("10.1.1.1", "R", 59), true).Sequence, 0)
	equal(first.t, "sequence a minute after", second.record(denial("10.1.1.1", "R", 60), true).Sequence, 2)
	equal(first.t, "entries", len(first.entries()), 2)
}
