package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	// adminChanges is how many changes are made at once.
	adminChanges = 200
	// ofEach is how many of them there are of each kind, but for a few of the last one's.
	ofEach = adminChanges/6 + 1
)

// adminChange is something that is done once, however often it is asked for.
type adminChange struct {
	action, resource string // as the audit has it; the resource is empty until it is known
	// ask asks for it, again and again if need be, and returns what was made. It is not there before the answer, or after one that
	// was lost.
	ask func(context.Context, *governor) (*chatsvcv1.Key, error)
	// there reports whether it has happened, from what is there.
	there func(*inventory) bool

	acknowledged bool
	key          *chatsvcv1.Key
}

// Servers are killed with SIGKILL under two hundred changes of teams, clients and keys. Every change that was acknowledged is
// there; the audit has an entry for each that is there, and for no other; and a repeat of what was not acknowledged makes
// nothing twice.
func TestAdminChangesSurviveKills(t *testing.T) {
	t.Parallel()
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		killDuringChanges(t, postgres(t), 2)
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		killDuringChanges(t, "sqlite:"+filepath.Join(t.TempDir(), "chatsvc.db"), 1)
	})
}

func killDuringChanges(t *testing.T, databaseURL string, servers int) {
	t.Helper()
	_, baseURL := simulate(t)
	var replicas []*program
	var governors []*governor
	for range servers {
		p := spawnOn(t, databaseURL, baseURL, governed("log:\n  level: error\n"))
		replicas = append(replicas, p)
		governors = append(governors, p.governs(t, platformKey))
	}
	first := governors[0]
	for _, team := range []string{"red", "blue"} {
		first.newTeam(t, team)
	}
	var report []string
	made := 0 // keys, besides those that were prepared
	for round, killAfter := range []int{0, 1, 20, 60, 120} {
		changes := prepare(t, first, round)
		before := headOf(t, first)
		victim := round % servers
		acknowledged := changeAll(changes, governors, killAfter, replicas[victim])
		if err := replicas[victim].restart(); err != nil {
			t.Fatal(err)
		}
		now := governors[victim]
		eventually(t, 10*time.Second, "the server that was killed is back", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := now.audit.GetAuditHead(ctx, &chatsvcv1.GetAuditHeadRequest{})
			return err == nil
		})

		// What was acknowledged is there, and the audit has what is there.
		there := takeInventory(t, now)
		entries := auditOf(t, now)
		wantChain(t, entries, headOf(t, now))
		happened := make(map[string]int)
		for _, c := range changes {
			if c.there(there) {
				happened[c.action]++
			} else if c.acknowledged {
				t.Errorf("round %d: %s of %s was acknowledged, and is not there", round, c.action, c.resource)
			}
		}
		audited := make(map[string]int)
		for _, e := range changed(entries[before.Count:]) {
			audited[e.GetAction()]++
		}
		if !maps.Equal(happened, audited) {
			t.Errorf("round %d: there are %v, and the audit has %v", round, happened, audited)
		}
		all := 0
		for _, n := range happened {
			all += n
		}

		// The others are repeated, and those whose answer came, too: it is the same.
		changeAll(changes, governors, -1, nil)
		entries = auditOf(t, now)
		wantChain(t, entries, headOf(t, now))
		audited, resources := make(map[string]int), make(map[string]int)
		for _, e := range changed(entries[before.Count:]) {
			resources[e.GetAction()+" "+e.GetResource()]++
		}
		for _, c := range changes {
			if !c.acknowledged {
				t.Errorf("round %d: %s of %s is still not acknowledged", round, c.action, c.resource)
			}
			if n := resources[c.action+" "+c.resource]; n != 1 {
				t.Errorf("round %d: the audit has %s of %s %d times", round, c.action, c.resource, n)
			}
			audited[c.action]++
		}
		if rows := len(changed(entries[before.Count:])); rows != len(changes) {
			t.Errorf("round %d: %d changes, and %d entries", round, len(changes), rows)
		}
		made += audited["chatsvc.v1.KeyService/CreateKey"] + audited["chatsvc.v1.KeyService/RotateKey"]
		if want := made + (round+1)*2*ofEach; len(takeInventory(t, now).keys) != want {
			t.Errorf("round %d: there are %d keys, want %d", round, len(takeInventory(t, now).keys), want)
		}
		checkKeys(t, changes, replicas)
		report = append(report, fmt.Sprintf("killed after %d answers: %d were acknowledged, %d had happened", killAfter, acknowledged, all))
	}
	t.Logf("%d changes each time; %s", adminChanges, strings.Join(report, "; "))
}

// Two hundred repeats of one request for a key, on two servers at once, make one key, and all get its secret.
func TestOneRequestIDOneKey(t *testing.T) {
	t.Parallel()
	_, baseURL := simulate(t)
	database := postgres(t)
	var governors []*governor
	for range 2 {
		governors = append(governors, serveOn(t, database, baseURL, governed("log:\n  level: error\n")).governs(t, platformKey))
	}
	governors[0].newTeam(t, "red")
	first := governors[0].newKey(t, "red/web", nil)
	before := headOf(t, governors[0])
	asks := map[string]func(context.Context, *governor) (*chatsvcv1.Key, error){
		"CreateKey": func(ctx context.Context, g *governor) (*chatsvcv1.Key, error) {
			return g.keys.CreateKey(ctx, &chatsvcv1.CreateKeyRequest{Parent: "teams/red/clients/web", RequestId: "7f4ccd3a-3a27-4f34-9d0d-5a2f0a0b8b1e"})
		},
		"RotateKey": func(ctx context.Context, g *governor) (*chatsvcv1.Key, error) {
			return g.keys.RotateKey(ctx, &chatsvcv1.RotateKeyRequest{Name: first.GetName(), RequestId: "7f4ccd3a-3a27-4f34-9d0d-5a2f0a0b8b1e"})
		},
	}
	for method, ask := range asks {
		var mu sync.Mutex
		var all sync.WaitGroup
		answers := make(map[string]int)
		for i := range 200 {
			all.Go(func() {
				key, err := ask(t.Context(), governors[i%2])
				if err != nil {
					t.Errorf("%s: %v", method, err)
				}
				mu.Lock()
				defer mu.Unlock()
				answers[key.GetName()+" "+key.GetSecret()]++
			})
		}
		all.Wait()
		if len(answers) != 1 {
			t.Errorf("%s made %v", method, answers)
		}
	}
	if entries := changed(auditOf(t, governors[1])[before.Count:]); len(entries) != 2 {
		t.Errorf("the audit has %v, want one entry for each method", entries)
	}
}

// prepare makes what the changes of a round need, and returns the changes.
func prepare(t *testing.T, g *governor, round int) (changes []*adminChange) {
	t.Helper()
	for i := range ofEach {
		id := fmt.Sprintf("of-%d-%d", round, i)
		g.newClient(t, "red", id)
		revoked := g.newKey(t, "red/web", nil).GetName()
		rotated := g.newKey(t, "red/web", nil).GetName()
		request, another := uuid.NewString(), uuid.NewString()
		team, newClient, oldClient := "new-"+id, "teams/blue/clients/"+id, "teams/red/clients/"+id
		changes = append(changes,
			&adminChange{
				action: "chatsvc.v1.TeamService/CreateTeam", resource: "teams/" + team,
				ask: func(ctx context.Context, g *governor) (*chatsvcv1.Key, error) {
					_, err := g.teams.CreateTeam(ctx, &chatsvcv1.CreateTeamRequest{TeamId: team})
					return nil, unlessThere(err)
				},
				there: func(v *inventory) bool { return v.teams["teams/"+team] != nil },
			},
			&adminChange{
				action: "chatsvc.v1.TeamService/CreateClient", resource: newClient,
				ask: func(ctx context.Context, g *governor) (*chatsvcv1.Key, error) {
					_, err := g.teams.CreateClient(ctx, &chatsvcv1.CreateClientRequest{Parent: "teams/blue", ClientId: id})
					return nil, unlessThere(err)
				},
				there: func(v *inventory) bool { return v.clients[newClient] != nil },
			},
			&adminChange{
				action: "chatsvc.v1.TeamService/UpdateClient", resource: oldClient,
				ask: func(ctx context.Context, g *governor) (*chatsvcv1.Key, error) {
					_, err := g.teams.UpdateClient(ctx, &chatsvcv1.UpdateClientRequest{Client: &chatsvcv1.Client{Name: oldClient, DisplayName: "changed"}})
					return nil, err
				},
				there: func(v *inventory) bool { return v.clients[oldClient].GetDisplayName() == "changed" },
			},
			&adminChange{
				action: "chatsvc.v1.KeyService/CreateKey",
				ask: func(ctx context.Context, g *governor) (*chatsvcv1.Key, error) {
					return g.keys.CreateKey(ctx, &chatsvcv1.CreateKeyRequest{
						Parent: "teams/red/clients/web", Key: &chatsvcv1.Key{DisplayName: id}, RequestId: request,
					})
				},
				there: func(v *inventory) bool {
					return slices.ContainsFunc(slices.Collect(maps.Values(v.keys)), func(k *chatsvcv1.Key) bool { return k.GetDisplayName() == id })
				},
			},
			&adminChange{
				action: "chatsvc.v1.KeyService/RotateKey", resource: rotated,
				ask: func(ctx context.Context, g *governor) (*chatsvcv1.Key, error) {
					return g.keys.RotateKey(ctx, &chatsvcv1.RotateKeyRequest{Name: rotated, RequestId: another})
				},
				there: func(v *inventory) bool { return v.keys[v.keys[rotated].GetReplacedBy()] != nil },
			},
			&adminChange{
				action: "chatsvc.v1.KeyService/RevokeKey", resource: revoked,
				ask: func(ctx context.Context, g *governor) (*chatsvcv1.Key, error) {
					_, err := g.keys.RevokeKey(ctx, &chatsvcv1.RevokeKeyRequest{Name: revoked})
					return nil, err
				},
				there: func(v *inventory) bool { return v.keys[revoked].GetRevokeTime() != nil },
			},
		)
	}
	return changes[:adminChanges]
}

// unlessThere takes it for an answer that what is to be made is there.
func unlessThere(err error) error {
	if status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return err
}

// changeAll asks for all changes at once, each of one of the servers, and kills one of them after so many answers: with 0, it
// races with the questions. It returns how many were answered. With a negative number nobody is killed, and what fails is
// asked for again, of the others too.
func changeAll(changes []*adminChange, governors []*governor, killAfter int, victim *program) int {
	var answers atomic.Int64
	var all, killed sync.WaitGroup
	kill := sync.OnceFunc(func() { killed.Go(victim.kill) })
	for i, c := range changes {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			for attempt := range 20 {
				key, err := c.ask(ctx, governors[(i+attempt)%len(governors)])
				if err == nil {
					c.answered(key)
					if answers.Add(1) == int64(killAfter) {
						kill()
					}
					return
				}
				if killAfter >= 0 {
					return
				}
			}
		})
	}
	if killAfter == 0 {
		kill()
	}
	all.Wait()
	if killAfter >= 0 {
		kill() // if so many were never answered
	}
	killed.Wait()
	return int(answers.Load())
}

// answered takes the answer of a change. A second one has to be the first one: if not, the change counts as not acknowledged.
func (c *adminChange) answered(key *chatsvcv1.Key) {
	switch {
	case key == nil:
		c.acknowledged = true
	case c.key == nil:
		c.acknowledged, c.key = true, key
		if c.resource == "" {
			c.resource = key.GetName()
		}
	case c.key.GetName() != key.GetName() || c.key.GetSecret() != key.GetSecret() || key.GetSecret() == "":
		c.acknowledged = false
	}
}

// checkKeys fails the test unless the keys that were made work, on each server.
func checkKeys(t *testing.T, changes []*adminChange, replicas []*program) {
	t.Helper()
	tried := 0
	for _, c := range changes {
		if c.key == nil || tried == 12 {
			continue
		}
		tried++
		for _, p := range replicas {
			caller := p.dial(t, c.key.GetSecret()).caller
			eventually(t, 2*time.Second, "the key works", func() bool {
				_, err := caller.GetCaller(t.Context(), &chatsvcv1.GetCallerRequest{})
				return err == nil
			})
		}
	}
	if tried == 0 {
		t.Error("no key was made")
	}
}

// changed returns the entries of changes.
func changed(entries []*chatsvcv1.AuditEntry) []*chatsvcv1.AuditEntry {
	return slices.DeleteFunc(slices.Clone(entries), func(e *chatsvcv1.AuditEntry) bool { return e.GetOutcome() != outcomeChanged })
}

// inventory is what there is, by name.
type inventory struct {
	teams   map[string]*chatsvcv1.Team
	clients map[string]*chatsvcv1.Client
	keys    map[string]*chatsvcv1.Key // of teams/red/clients/web
}

func takeInventory(t *testing.T, g *governor) *inventory {
	t.Helper()
	v := &inventory{make(map[string]*chatsvcv1.Team), make(map[string]*chatsvcv1.Client), make(map[string]*chatsvcv1.Key)}
	ctx := t.Context()
	teams, err := g.teams.ListTeams(ctx, &chatsvcv1.ListTeamsRequest{PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, team := range teams.GetTeams() {
		v.teams[team.GetName()] = team
	}
	for _, parent := range []string{"teams/red", "teams/blue"} {
		clients, err := g.teams.ListClients(ctx, &chatsvcv1.ListClientsRequest{Parent: parent, PageSize: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range clients.GetClients() {
			v.clients[c.GetName()] = c
		}
	}
	for token := ""; ; {
		keys, err := g.keys.ListKeys(ctx, &chatsvcv1.ListKeysRequest{Parent: "teams/red/clients/web", PageSize: 1000, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys.GetKeys() {
			v.keys[k.GetName()] = k
		}
		if token = keys.GetNextPageToken(); token == "" {
			return v
		}
	}
}
