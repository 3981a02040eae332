package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/netfault"
	"github.com/chatsvc/chatsvc/internal/pgtest"
)

// effectiveTime is how soon a revocation is effective, on every replica.
const effectiveTime = 2 * time.Second

// What is revoked or disabled on one replica is refused on all of them within two seconds: also where replicas cannot tell each
// other, and have to look.
func TestRevocationIsEffectiveEverywhere(t *testing.T) {
	t.Parallel()
	t.Run("notified", func(t *testing.T) {
		t.Parallel()
		revokeAll(t, postgres(t))
	})
	t.Run("looking", func(t *testing.T) {
		t.Parallel()
		server := pgtest.Start(t, pgtest.Options{})
		url := server.Clone(t, "chatsvc", migrate)
		deaf := withoutListeners(t, server.Addr())
		revokeAll(t, strings.Replace(url, server.Addr(), deaf.address, 1))
		if deaf.cuts.Load() == 0 {
			t.Error("nobody has listened: this is not what was to be tested")
		}
	})
}

// revokeAll has keys revoked, and clients and teams disabled, on one of two replicas, and watches both refuse them.
func revokeAll(t *testing.T, databaseURL string) {
	t.Helper()
	_, baseURL := simulate(t)
	var replicas []*program
	var governors []*governor
	for range 2 {
		p := serveOn(t, databaseURL, baseURL, governed("log:\n  level: error\n"))
		replicas = append(replicas, p)
		governors = append(governors, p.governs(t, platformKey))
	}
	var known, effective []time.Duration
	const rounds, atOnce = 5, 4
	for round := range rounds {
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range atOnce {
			here := governors[i%2]
			team := fmt.Sprintf("team-%d-%d", round, i)
			here.newTeam(t, team)
			key := here.newKey(t, team+"/web", nil)
			made := time.Now()
			clients := []*client{replicas[0].dial(t, key.GetSecret()), replicas[1].dial(t, key.GetSecret())}
			for _, c := range clients {
				eventually(t, effectiveTime, "the key works", func() bool { return isLetIn(t, c) })
			}
			known = append(known, time.Since(made))
			all.Go(func() {
				if err := end(here, (round+i)%3, key.GetName()); err != nil {
					t.Error(err)
					return
				}
				began := time.Now() // it is acknowledged
				for n, c := range clients {
					took, err := refusedAfter(c, began)
					if err != nil {
						t.Errorf("replica %d: %v", n, err)
					}
					mu.Lock()
					effective = append(effective, took)
					mu.Unlock()
				}
			})
		}
		all.Wait()
	}
	longest := slices.Max(effective)
	if longest > effectiveTime {
		t.Errorf("a revocation took %v", longest)
	}
	t.Logf("%d revocations on 2 replicas: refused after %s; a new key works everywhere after %s", rounds*atOnce, spread(effective), spread(known))
}

// end ends a key in one of three ways.
func end(g *governor, way int, key string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	owner, _, _ := strings.Cut(key, "/keys/")
	team, _, _ := strings.Cut(owner, "/clients/")
	switch way {
	case 0:
		_, err = g.keys.RevokeKey(ctx, &chatsvcv1.RevokeKeyRequest{Name: key})
	case 1:
		_, err = g.teams.UpdateClient(ctx, &chatsvcv1.UpdateClientRequest{Client: &chatsvcv1.Client{Name: owner, Disabled: true}})
	default:
		_, err = g.teams.UpdateTeam(ctx, &chatsvcv1.UpdateTeamRequest{Team: &chatsvcv1.Team{Name: team, Disabled: true}})
	}
	return err
}

// isLetIn reports whether a caller's key is. A refusal for another reason than that it is not known yet fails the test.
func isLetIn(t *testing.T, c *client) bool {
	t.Helper()
	_, err := c.caller.GetCaller(t.Context(), &chatsvcv1.GetCallerRequest{})
	if err != nil {
		if _, why := reason(t, err); why != "CREDENTIAL_INVALID" {
			t.Errorf("a new key: %v", err)
		}
	}
	return err == nil
}

// refusedAfter returns how long after a moment the caller was let in for the last time, at most. It makes sure that this is
// so for good.
func refusedAfter(c *client, began time.Time) (time.Duration, error) {
	var refused time.Duration
	deadline := time.Now().Add(2 * effectiveTime)
	for calls := 0; calls < 20; {
		sent := time.Since(began)
		_, err := c.caller.GetCaller(context.Background(), &chatsvcv1.GetCallerRequest{})
		switch {
		case err == nil && calls > 0:
			return sent, fmt.Errorf("it was refused after %v, and let in after %v", refused, sent)
		case err == nil && time.Now().After(deadline):
			return sent, fmt.Errorf("it is let in after %v", sent)
		case err == nil:
			time.Sleep(2 * time.Millisecond) // a poll of another party, with a deadline
		case status.Code(err) != codes.Unauthenticated || !strings.Contains(fmt.Sprint(status.Convert(err).Details()...), "CREDENTIAL_REVOKED"):
			return sent, fmt.Errorf("refused with %w", err)
		default:
			if calls == 0 {
				refused = time.Since(began)
			}
			calls++
		}
	}
	return refused, nil
}

// deafened is a proxy of a PostgreSQL that cuts each connection that wants to listen, and no other.
type deafened struct {
	address string
	cuts    atomic.Int64
}

func withoutListeners(t *testing.T, target string) *deafened {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &deafened{address: listener.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { d.pass(ctx, conn, target) })
		}
	})
	return d
}

// pass carries a connection until it ends or wants to listen.
func (d *deafened) pass(ctx context.Context, from net.Conn, target string) {
	to, err := (&net.Dialer{}).DialContext(ctx, "tcp", target)
	if err != nil {
		_ = from.Close()
		return
	}
	both := func() { _, _ = from.Close(), to.Close() }
	defer context.AfterFunc(ctx, both)()
	defer both()
	var back sync.WaitGroup
	defer back.Wait()
	back.Go(func() {
		_, _ = io.Copy(from, to)
		both()
	})
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if bytes.Contains(bytes.ToUpper(buffer[:n]), []byte("LISTEN ")) {
			d.cuts.Add(1)
			both()
			return
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				both()
				return
			}
		}
		if err != nil {
			both()
			return
		}
	}
}

// A replica that cannot reach its database lets in nobody whose key could have been revoked meanwhile, and everybody whom its
// configuration names, unless they were disabled before; when the database is back, so is everybody.
func TestRevocationDuringOutage(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	url := server.Clone(t, "chatsvc", migrate)
	proxy := netfault.Listen(t, server.Addr())
	_, baseURL := simulate(t)
	near := serveOn(t, url, baseURL, governed("log:\n  level: error\n"))
	far := serveOn(t, strings.Replace(url, server.Addr(), proxy.Addr(), 1), baseURL, governed("log:\n  level: error\n"))
	platform := near.governs(t, platformKey)
	platform.newTeam(t, "red")
	platform.newTeam(t, "blue") // whose key is in the configuration
	if _, err := platform.teams.UpdateTeam(t.Context(), &chatsvcv1.UpdateTeamRequest{Team: &chatsvcv1.Team{Name: "teams/blue", Disabled: true}}); err != nil {
		t.Fatal(err)
	}
	kept, revoked := platform.newKey(t, "red/web", nil), platform.newKey(t, "red/web", nil)
	configured, disabled := far.dial(t, redKey), far.dial(t, blueKey)
	holder, former := far.dial(t, kept.GetSecret()), far.dial(t, revoked.GetSecret())
	for _, c := range []*client{holder, former} {
		eventually(t, effectiveTime, "the key works", func() bool { return isLetIn(t, c) })
	}

	proxy.Blackhole()
	cut := time.Now()
	if _, err := platform.keys.RevokeKey(t.Context(), &chatsvcv1.RevokeKeyRequest{Name: revoked.GetName()}); err != nil {
		t.Fatal(err)
	}
	ended := time.Now()
	who := func(c *client) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := c.caller.GetCaller(ctx, &chatsvcv1.GetCallerRequest{})
		return err
	}
	var mu sync.Mutex
	var refused, slowest time.Duration // when the last one began to be, and how long a refusal took
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for refusals := 0; refusals < 2; {
				sent := time.Now()
				err := who(former)
				took := time.Since(sent)
				if err == nil {
					if late := sent.Sub(ended); late > effectiveTime {
						t.Errorf("a revoked key is let in %v after it was revoked", late)
						return
					}
					time.Sleep(5 * time.Millisecond) // a poll of another party, with a deadline
					continue
				}
				mu.Lock()
				if refusals == 0 {
					refused = max(refused, time.Since(cut))
				}
				slowest = max(slowest, took)
				mu.Unlock()
				refusals++
				wantReason(t, err, codes.Unavailable, "STORE_UNAVAILABLE")
				wantReason(t, who(holder), codes.Unavailable, "STORE_UNAVAILABLE")
				if err := who(configured); err != nil {
					t.Errorf("a key of the configuration: %v", err)
				}
				wantReason(t, who(disabled), codes.Unauthenticated, "CREDENTIAL_REVOKED")
			}
		})
	}
	all.Wait()
	proxy.Restore()
	back := time.Now()
	eventually(t, recoveryTime, "the key works again", func() bool { return who(holder) == nil })
	recovered := time.Since(back)
	eventually(t, recoveryTime, "the revoked key is refused as such", func() bool {
		err := who(former)
		if err == nil {
			t.Fatal("the revoked key is let in")
		}
		_, why := reason(t, err)
		return why == "CREDENTIAL_REVOKED"
	})
	t.Logf("stored keys were refused %v after the database was gone, a refusal took at most %v, and they were let in %v after it was back",
		refused.Round(time.Millisecond), slowest.Round(time.Millisecond), recovered.Round(time.Millisecond))
}

// A replica whose machine stood still lets in no key that was revoked meanwhile, and refuses nobody for having slept.
func TestRevocationDuringPause(t *testing.T) {
	t.Parallel()
	_, baseURL := simulate(t)
	database := postgres(t)
	here := serveOn(t, database, baseURL, governed("log:\n  level: error\n"))
	sleeper := spawnOn(t, database, baseURL, governed("log:\n  level: error\n"))
	platform := here.governs(t, platformKey)
	platform.newTeam(t, "red")
	kept, revoked := platform.newKey(t, "red/web", nil), platform.newKey(t, "red/web", nil)
	holder, former := sleeper.dial(t, kept.GetSecret()), sleeper.dial(t, revoked.GetSecret())
	for _, c := range []*client{holder, former} {
		if !isLetIn(t, c) {
			t.Error("a key that was just made is refused by the replica that did not make it")
		}
	}

	sleeper.pause(t)
	if _, err := platform.keys.RevokeKey(t.Context(), &chatsvcv1.RevokeKeyRequest{Name: revoked.GetName()}); err != nil {
		t.Fatal(err)
	}
	<-time.After(5 * time.Second) // the pause itself

	// Some are waiting when it wakes up, others come then.
	var all sync.WaitGroup
	var letIn, refused atomic.Int64
	woken := make(chan struct{})
	call := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := holder.caller.GetCaller(ctx, &chatsvcv1.GetCallerRequest{}); err != nil {
			t.Errorf("a key that works: %v", err)
		} else {
			letIn.Add(1)
		}
		_, err := former.caller.GetCaller(ctx, &chatsvcv1.GetCallerRequest{})
		wantReason(t, err, codes.Unauthenticated, "CREDENTIAL_REVOKED")
		refused.Add(1)
	}
	for i := range 20 {
		all.Go(func() {
			if i%2 == 1 {
				<-woken
			}
			for range 10 {
				call()
			}
		})
	}
	sleeper.resume(t)
	close(woken)
	all.Wait()
	t.Logf("after a pause of 5 s, %d calls were let in, and %d with the key that was revoked meanwhile were not", letIn.Load(), refused.Load())
}
