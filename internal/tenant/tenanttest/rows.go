package tenanttest

import (
	"fmt"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

func empty(b *bench) {
	equal(b.t, "rows", b.all(), &tenant.Changes{All: true})
	equal(b.t, "head", b.head(), tenant.Head{})
	equal(b.t, "entries", len(b.entries()), 0)
}

func create(b *bench) {
	c := &tenant.Change{Team: team("a"), Client: client("a", "web"), Keys: []*tenant.Key{key("a", "web", "k")}}
	e := b.put(c)
	equal(b.t, "sequence", e.Sequence, 1)
	equal(b.t, "revisions", revisionsOf(c), []int64{1, 1, 1})
	all := b.all()
	equal(b.t, "revision", all.Head.Count, 1)
	equal(b.t, "teams", all.Teams, []*tenant.Team{c.Team})
	equal(b.t, "clients", all.Clients, []*tenant.Client{c.Client})
	equal(b.t, "key", *all.Keys[0], *c.Keys[0])
	equal(b.t, "entry", *b.entries()[0], *e)
	equal(b.t, "head", b.head(), tenant.Head{Count: 1, Hash: e.Hash})

	// A key with nothing but what it must have.
	bare := &tenant.Key{ID: "bare", Team: "a", Client: "web", Digest: digest("bare"), CreateTime: at(1), ExpireTime: at(2)}
	b.put(&tenant.Change{Keys: []*tenant.Key{bare}})
	equal(b.t, "bare key", *b.all().Keys[0], *bare)
}

func update(b *bench) {
	tm, cl, k := team("a"), client("a", "web"), key("a", "web", "k")
	b.put(&tenant.Change{Team: tm, Client: cl, Keys: []*tenant.Key{k}})
	b.put(&tenant.Change{Team: team("b")})
	for i := range 3 {
		tm.DisplayName, cl.DisplayName, k.DisplayName = fmt.Sprint("team ", i), fmt.Sprint("client ", i), fmt.Sprint("key ", i)
		tm.Disabled = !tm.Disabled
		cl.Disabled, k.AllowedModels, k.AllowedCIDRs = tm.Disabled, nil, nil
		for _, c := range []*tenant.Change{{Team: tm}, {Client: cl}, {Keys: []*tenant.Key{k}}} {
			e := b.put(c)
			equal(b.t, "revision", revisionsOf(c), []int64{e.Sequence})
		}
	}
	all := b.all()
	equal(b.t, "teams", len(all.Teams), 2)
	equal(b.t, "team", *all.Teams[0], *tm)
	equal(b.t, "clients", all.Clients, []*tenant.Client{cl})
	equal(b.t, "key", *all.Keys[0], *k)
	equal(b.t, "entries", len(b.entries()), 11)
}

func severalRows(b *bench) {
	old := key("a", "web", "old")
	b.put(&tenant.Change{Keys: []*tenant.Key{old}})
	old.ReplacedBy = "new"
	c := &tenant.Change{Keys: []*tenant.Key{key("a", "web", "new"), old}}
	for i := range 100 {
		c.Keys = append(c.Keys, key("a", "web", fmt.Sprintf("other%03d", i)))
	}
	e := b.put(c)
	for _, r := range revisionsOf(c) {
		equal(b.t, "revision", r, e.Sequence)
	}
	all := b.all()
	equal(b.t, "keys", len(all.Keys), 102)
	equal(b.t, "old key", *all.Keys[1], *old)
	equal(b.t, "entries", len(b.entries()), 2)
}

func exists(b *bench) {
	b.put(&tenant.Change{Team: team("a"), Client: client("a", "web"), Keys: []*tenant.Key{key("a", "web", "k")}})
	other := key("b", "other", "k")
	other.Request = tenant.Digest{}
	b.refused("team", &tenant.Change{Team: team("a")}, tenant.ErrExists)
	b.refused("client", &tenant.Change{Client: client("a", "web")}, tenant.ErrExists)
	b.refused("key", &tenant.Change{Keys: []*tenant.Key{other}}, tenant.ErrExists)
	// The same id is that of another client in another team, and there are teams, clients and keys of the same id.
	b.put(&tenant.Change{Team: team("web"), Client: client("web", "web"), Keys: []*tenant.Key{key("web", "web", "web")}})
	b.put(&tenant.Change{Client: client("a", "a")})
	equal(b.t, "clients", len(b.all().Clients), 3)
}

func changed(b *bench) {
	tm, cl, k := team("a"), client("a", "web"), key("a", "web", "k")
	b.put(&tenant.Change{Team: tm, Client: cl, Keys: []*tenant.Key{k}})
	b.put(&tenant.Change{Team: tm, Client: cl, Keys: []*tenant.Key{k}})
	for _, revision := range []int64{1, 3, 4, -1} { // of before, and others that it has never had
		tm, cl, k := *tm, *cl, *k
		tm.Revision, cl.Revision, k.Revision = revision, revision, revision
		b.refused("team", &tenant.Change{Team: &tm}, tenant.ErrChanged)
		b.refused("client", &tenant.Change{Client: &cl}, tenant.ErrChanged)
		b.refused("key", &tenant.Change{Keys: []*tenant.Key{&k}}, tenant.ErrChanged)
	}
	gone, goneClient, goneKey := team("gone"), client("gone", "web"), key("a", "web", "gone")
	gone.Revision, goneClient.Revision, goneKey.Revision = 2, 2, 2
	b.refused("no such team", &tenant.Change{Team: gone}, tenant.ErrChanged)
	b.refused("no such client", &tenant.Change{Client: goneClient}, tenant.ErrChanged)
	b.refused("no such key", &tenant.Change{Keys: []*tenant.Key{goneKey}}, tenant.ErrChanged)
}

func requests(b *bench) {
	k, without, other := key("a", "web", "k"), key("a", "web", "without"), key("a", "web", "without either")
	without.Request, other.Request = tenant.Digest{}, tenant.Digest{}
	b.put(&tenant.Change{Keys: []*tenant.Key{k, without, other}}) // any number has none
	same := key("b", "other", "same")
	same.Request = k.Request
	b.refused("a request that has made a key", &tenant.Change{Keys: []*tenant.Key{same}}, tenant.ErrExists)
	k.RevokeTime = at(7)
	b.put(&tenant.Change{Keys: []*tenant.Key{k}}) // its own
	b.refused("a request of a key that was updated", &tenant.Change{Keys: []*tenant.Key{same}}, tenant.ErrExists)
	equal(b.t, "keys", len(b.all().Keys), 3)
}

// allOrNothing has one row after the other be the one that is refused.
func allOrNothing(b *bench) {
	b.put(&tenant.Change{Team: team("a"), Client: client("a", "web"), Keys: []*tenant.Key{key("a", "web", "k")}})
	good := func() *tenant.Change {
		return &tenant.Change{Team: team("b"), Client: client("b", "web"), Keys: []*tenant.Key{key("b", "web", "l"), key("b", "web", "m")}}
	}
	for what, spoil := range map[string]func(*tenant.Change){
		"team":      func(c *tenant.Change) { c.Team = team("a") },
		"client":    func(c *tenant.Change) { c.Client = client("a", "web") },
		"first key": func(c *tenant.Change) { c.Keys[0].ID = "k" },
		"last key":  func(c *tenant.Change) { c.Keys[1].ID = "k" },
		"request":   func(c *tenant.Change) { c.Keys[1].Request = key("a", "web", "k").Request },
	} {
		c := good()
		spoil(c)
		b.refused(what, c, tenant.ErrExists)
	}
	stale := good()
	stale.Keys[1].Revision = 1
	b.refused("key that is not there", stale, tenant.ErrChanged)
	b.put(good())
}
