package tenant

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// View is what a Directory knew at one moment. It is immutable, and so are the rows that it gives out. The zero value knows
// nothing.
type View struct {
	// asOf is when it began to be read: everything that was written before is in it.
	asOf     time.Time
	head     Head // of the audit, which it is up to
	teams    map[string]*Team
	clients  map[string]map[string]*Client // by team and id
	keys     map[string]*Key
	requests map[Digest]*Key
}

// with returns a view with what has changed. It shares with v what has not.
func (v *View) with(c *Changes, asOf time.Time) *View {
	w := *v
	w.asOf, w.head = asOf, c.Head
	if len(c.Teams) > 0 {
		w.teams = cloned(v.teams)
		for _, t := range c.Teams {
			w.teams[t.ID] = t
		}
	}
	if len(c.Clients) > 0 {
		w.clients = cloned(v.clients)
		own := make(map[string]bool) // the teams whose clients are not shared with v any more
		for _, cl := range c.Clients {
			if !own[cl.Team] {
				own[cl.Team] = true
				w.clients[cl.Team] = cloned(v.clients[cl.Team])
			}
			w.clients[cl.Team][cl.ID] = cl
		}
	}
	if len(c.Keys) > 0 {
		w.keys, w.requests = cloned(v.keys), cloned(v.requests)
		for _, k := range c.Keys {
			w.keys[k.ID] = k
			if !k.Request.IsZero() {
				w.requests[k.Request] = k
			}
		}
	}
	return &w
}

// cloned is maps.Clone, but never nil.
func cloned[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return make(map[K]V)
	}
	return maps.Clone(m)
}

// Team returns a team, or nil.
func (v *View) Team(id string) *Team { return v.teams[id] }

// Client returns a client, or nil.
func (v *View) Client(team, id string) *Client { return v.clients[team][id] }

// Key returns a key, or nil.
func (v *View) Key(id string) *Key { return v.keys[id] }

// KeyOfRequest returns the key that a request made, or nil.
func (v *View) KeyOfRequest(request Digest) *Key { return v.requests[request] }

// Teams returns all teams by id.
func (v *View) Teams() []*Team {
	return slices.SortedFunc(maps.Values(v.teams), func(a, b *Team) int { return cmp.Compare(a.ID, b.ID) })
}

// Clients returns the clients of a team by id.
func (v *View) Clients(team string) []*Client {
	return slices.SortedFunc(maps.Values(v.clients[team]), func(a, b *Client) int { return cmp.Compare(a.ID, b.ID) })
}

// Keys returns the keys of a team's client, or of all its clients if client is empty, newest first.
func (v *View) Keys(team, client string) []*Key {
	var keys []*Key
	for _, k := range v.keys {
		if k.Team == team && (client == "" || k.Client == client) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b *Key) int {
		return cmp.Or(b.CreateTime.Compare(a.CreateTime), cmp.Compare(a.ID, b.ID))
	})
	return keys
}
