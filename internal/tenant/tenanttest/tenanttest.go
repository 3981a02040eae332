// Package tenanttest is the suite that every tenant.Store passes. It covers each sentence of the contract.
package tenanttest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// Run tests the stores that open makes. Each call of open makes an empty one, to be closed by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) tenant.Store) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*bench)
	}{
		{"Empty", empty},
		{"Create", create},
		{"Update", update},
		{"SeveralRows", severalRows},
		{"Exists", exists},
		{"Changed", changed},
		{"Requests", requests},
		{"AllOrNothing", allOrNothing},
		{"Record", record},
		{"Once", once},
		{"OnceAtOnce", onceAtOnce},
		{"ConcurrentPuts", concurrentPuts},
		{"ConflictingPuts", conflictingPuts},
		{"Changes", changes},
		{"ChangesWhileWriting", changesWhileWriting},
		{"Wakes", wakes},
		{"EntryContent", entryContent},
		{"EntriesFiltered", entriesFiltered},
		{"EntriesPaged", entriesPaged},
		{"EntriesOfWrongClocks", entriesOfWrongClocks},
		{"CancelledContext", cancelledContext},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(&bench{open(t), t})
		})
	}
}

// A Factory makes stores that outlive their process.
type Factory struct {
	// Open makes an empty store.
	Open func(t *testing.T) tenant.Store
	// Close closes s; t.Cleanup may do so again.
	Close func(t *testing.T, s tenant.Store)
	// Reopen returns a store on the data of s, which is closed, as the next process would.
	Reopen func(t *testing.T, s tenant.Store) tenant.Store
}

// RunReopen tests what a store keeps for the next process, and what it does after its end.
func RunReopen(t *testing.T, f Factory) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*bench, Factory)
	}{
		{"Durable", durable},
		{"Closed", closed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(&bench{f.Open(t), t}, f)
		})
	}
}

// RunReplicas tests stores that share their data with those of other processes. Each call of open makes two on the same, empty
// data.
func RunReplicas(t *testing.T, open func(t *testing.T) (first, second tenant.Store)) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(first, second *bench)
	}{
		{"OneChain", oneChain},
		{"SeenAtOnce", seenAtOnce},
		{"OthersWake", othersWake},
		{"OnceForAll", onceForAll},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first, second := open(t)
			c.test(&bench{first, t}, &bench{second, t})
		})
	}
}

// A bench is a store with what the cases do to it all the time.
type bench struct {
	tenant.Store
	t *testing.T
}

func (b *bench) ctx() context.Context { return b.t.Context() }

// at is a time with the resolution that entries keep.
func at(seconds int) time.Time { return time.Unix(1_800_000_000+int64(seconds), 123_456_000).UTC() }

func digest(s string) tenant.Digest { return sha256.Sum256([]byte(s)) }

func team(id string) *tenant.Team {
	return &tenant.Team{ID: id, Profile: tenant.Profile{DisplayName: "Team <" + id + ">", CreateTime: at(1), UpdateTime: at(2)}}
}

func client(team, id string) *tenant.Client {
	return &tenant.Client{Team: team, ID: id, Profile: tenant.Profile{DisplayName: "é", Disabled: true, CreateTime: at(1), UpdateTime: at(2)}}
}

// key has every field set.
func key(team, client, id string) *tenant.Key {
	return &tenant.Key{
		ID: id, Team: team, Client: client, Digest: digest(id), Request: digest("request of " + id), Fingerprint: digest("content"),
		Salt: []byte{0, 1, 255}, DisplayName: "for the shop", Roles: tenant.RolesOf(tenant.RoleCaller, tenant.RoleTeamAdmin),
		AllowedModels: []string{"small", "large"},
		AllowedCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
		CreateTime:    at(1), ExpireTime: at(1000), RevokeTime: at(500), ReplacedBy: "next",
	}
}

// entry is what a Put of a test says.
func entry(action string) *tenant.Entry {
	return &tenant.Entry{Time: at(0), Action: action, Outcome: tenant.Changed, Team: "team", Actor: tenant.Actor{Team: "platform"}}
}

// denial is an entry that is recorded once.
func denial(source, reason string, seconds int) *tenant.Entry {
	return &tenant.Entry{Time: at(seconds), Action: "Method", Outcome: tenant.Denied, Reason: reason, Source: source}
}

func (b *bench) put(c *tenant.Change) *tenant.Entry {
	b.t.Helper()
	e := entry("put")
	b.ok(b.Put(b.ctx(), c, e))
	return e
}

func (b *bench) record(e *tenant.Entry, once bool) *tenant.Entry {
	b.t.Helper()
	b.ok(b.Record(b.ctx(), e, once))
	return e
}

// all is everything that is stored, in order.
func (b *bench) all() *tenant.Changes {
	b.t.Helper()
	return b.changes(tenant.Head{})
}

func (b *bench) changes(after tenant.Head) *tenant.Changes {
	b.t.Helper()
	c, err := b.Changes(b.ctx(), after)
	b.ok(err)
	slices.SortFunc(c.Teams, func(x, y *tenant.Team) int { return cmp.Compare(x.ID, y.ID) })
	slices.SortFunc(c.Clients, func(x, y *tenant.Client) int {
		return cmp.Or(cmp.Compare(x.Team, y.Team), cmp.Compare(x.ID, y.ID))
	})
	slices.SortFunc(c.Keys, func(x, y *tenant.Key) int { return cmp.Compare(x.ID, y.ID) })
	return c
}

func (b *bench) head() tenant.Head {
	b.t.Helper()
	h, err := b.Head(b.ctx())
	b.ok(err)
	return h
}

// entries returns the whole audit, and checks that it is one chain that ends at the head.
func (b *bench) entries() []*tenant.Entry {
	b.t.Helper()
	es, err := b.Entries(b.ctx(), tenant.EntryFilter{Ascending: true}, 100_000)
	b.ok(err)
	var h tenant.Head
	for i, e := range es {
		h = tenant.Head{Count: h.Count + 1, Hash: tenant.ChainHash(h.Hash, e.Record)}
		said, err := tenant.ParseEntry(e.Record)
		if err != nil || e.Sequence != h.Count || e.Hash != h.Hash || said.Sequence != h.Count {
			b.t.Fatalf("entry %d is %+v, %v; want the hash %x", i, e, err, h.Hash)
		}
	}
	equal(b.t, "head", b.head(), h)
	return es
}

// refused checks that a Put is refused with an error, and that nothing of it is written.
func (b *bench) refused(what string, c *tenant.Change, want error) {
	b.t.Helper()
	head, all, revisions := b.head(), b.all(), revisionsOf(c)
	e := entry("refused")
	if err := b.Put(b.ctx(), c, e); !errors.Is(err, want) {
		b.t.Errorf("%s: %v, want %v", what, err, want)
	}
	equal(b.t, what+": head", b.head(), head)
	equal(b.t, what+": rows", b.all(), all)
	equal(b.t, what+": revisions", revisionsOf(c), revisions)
	equal(b.t, what+": sequence", e.Sequence, 0)
}

func revisionsOf(c *tenant.Change) (all []int64) {
	if c.Team != nil {
		all = append(all, c.Team.Revision)
	}
	if c.Client != nil {
		all = append(all, c.Client.Revision)
	}
	for _, k := range c.Keys {
		all = append(all, k.Revision)
	}
	return all
}

// awake fails unless wake has a value within half a minute.
func (b *bench) awake(wake <-chan struct{}) {
	b.t.Helper()
	select {
	case <-wake:
	case <-time.After(30 * time.Second):
		b.t.Fatal("nobody was woken")
	}
}

func (b *bench) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) is(what string, err, target error) {
	b.t.Helper()
	if !errors.Is(err, target) {
		b.t.Errorf("%s: got error %v, want %v", what, err, target)
	}
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %s, want %s", what, show(got), show(want))
	}
}

func show(v any) string { return fmt.Sprintf("%+v", v) }
