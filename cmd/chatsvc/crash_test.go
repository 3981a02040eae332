package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/pgtest"
)

var (
	crashKills = flag.Int("crash.kills", 6, "how often TestCrash kills a server, on each database")
	crashSeed  = flag.Uint64("crash.seed", 0, "the seed of TestCrash, as an earlier run has printed it; 0 takes one from the clock")
)

const (
	crashCallers = 40
	// settleTime is how long everything may take to end after the last fault.
	settleTime = 20 * time.Second
	// takeoverTime is how long a turn may lie before somebody goes on with it.
	takeoverTime = 10 * time.Second
)

// Servers are killed with SIGKILL, and paused, under callers that repeat their requests until they are answered. Afterwards
// every request has one answer, which is what its caller was told, whoever it was, however often; nothing is left running;
// what was streamed is what is stored; and nothing was generated more often than servers died.
func TestCrash(t *testing.T) {
	t.Parallel()
	seed := *crashSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-crash.seed=%d", seed)
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		url := pgtest.Start(t, pgtest.Options{}).Database(t) // the kills are of ours, so that nothing is lost without fsync
		if err := migrate(url); err != nil {
			t.Fatal(err)
		}
		crash(t, seed, url, 2)
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		crash(t, seed, "sqlite:"+filepath.Join(t.TempDir(), "chatsvc.db"), 1)
	})
}

// storm is replicas on one database, callers, and what is done to the replicas.
type storm struct {
	t        *testing.T
	seed     uint64
	random   *rand.Rand
	upstream *upstream
	replicas []*program
	direct   []*client // to each replica
	any      *client   // to all of them, by turns
	helper   *chatclient.Client
	ledger   *ledger
	places   atomic.Pointer[[]place]
	over     chan struct{} // closed when callers are to stop

	all    []place
	faults []fault
}

// place is a conversation that callers share.
type place struct {
	name       string
	onConflict chatsvcv1.OnConflict
}

// fault is something that was done to a replica.
type fault struct {
	replica int
	kill    bool // or else a pause
	at      time.Time
	until   time.Time // of the fault: the server is back
	running []string  // the requests that the replica was generating answers to
}

func crash(t *testing.T, seed uint64, databaseURL string, replicas int) {
	t.Helper()
	s := newStorm(t, seed, databaseURL, replicas)
	s.run(crashCallers, s.rage)
}

// newStorm starts replicas, and nothing else yet. Its randomness comes from the seed.
func newStorm(t *testing.T, seed uint64, databaseURL string, replicas int) *storm {
	t.Helper()
	s := &storm{
		t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 0)), upstream: newUpstream(t), ledger: newLedger(), over: make(chan struct{}),
	}
	for i := range replicas {
		p := spawnOn(t, databaseURL, s.upstream.at(i), "log:\n  level: error\n")
		s.replicas = append(s.replicas, p)
		s.direct = append(s.direct, p.dial(t, redKey))
	}
	s.any = dialAll(t, redKey, s.replicas...)
	s.helper = chatclient.New(dialAll(t, redKey, s.replicas...).conn, chatclient.Options{MaxBackoff: time.Second})
	return s
}

// run has callers call while rage does what it does, waits until all is over, and checks and reports what came of it.
func (s *storm) run(callers int, rage func()) {
	s.furnish()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var all sync.WaitGroup
	for i := range callers {
		c := &caller{storm: s, number: i, random: rand.New(rand.NewPCG(s.seed, uint64(i)+1)), ctx: ctx}
		all.Go(c.run)
	}
	began := time.Now()
	rage()
	raged := time.Since(began)

	close(s.over)
	calm := time.Now()
	time.AfterFunc(settleTime, cancel)
	all.Wait()
	for unfinished := s.unfinished(); len(unfinished) > 0; unfinished = s.unfinished() {
		if time.Since(calm) > settleTime {
			for _, turn := range unfinished {
				s.ledger.violation("stuck", "%s of %s is %v", turn.GetName(), turn.GetRequestId(), turn.GetState())
			}
			break
		}
		time.Sleep(20 * time.Millisecond) // a poll, with a deadline
	}
	settled := time.Since(calm)
	s.t.Logf("it raged for %v and settled in %v\n%s", raged.Round(time.Second), settled.Round(100*time.Millisecond), s.check())
	s.t.Logf("violations: %s", s.ledger.report(s.t))
}

// furnish gives callers new conversations to share, so that histories stay short and there are many.
func (s *storm) furnish() {
	var places []place
	for i := range 6 {
		onConflict := chatsvcv1.OnConflict(1 + i%3)
		eventually(s.t, settleTime, "a conversation is created", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			conv, err := s.any.conv.CreateConversation(ctx, &chatsvcv1.CreateConversationRequest{})
			if err == nil {
				places = append(places, place{conv.GetName(), onConflict})
			}
			return err == nil
		})
	}
	s.all = append(s.all, places...)
	s.places.Store(&places)
}

// rage kills and pauses replicas. Most kills follow each other closely; after every fourth there is time to see the end of
// what it began.
func (s *storm) rage() {
	var paused *fault // not resumed yet
	wait := func(d time.Duration) {
		deadline := time.Now().Add(d)
		if paused != nil && paused.until.Before(deadline) {
			time.Sleep(time.Until(paused.until)) // the pace of the faults
			s.replicas[paused.replica].resume(s.t)
			paused = nil
		}
		time.Sleep(time.Until(deadline)) // the pace of the faults
	}
	for n := range *crashKills {
		gap := time.Duration(1500+s.random.IntN(2500)) * time.Millisecond
		if len(s.replicas) > 1 && n%4 == 3 {
			gap = takeoverTime + 2*time.Second
		}
		wait(gap / 2)
		if len(s.replicas) > 1 && paused == nil && s.random.IntN(2) == 0 {
			victim := s.random.IntN(len(s.replicas))
			f := fault{replica: victim, at: time.Now(), running: s.upstream.open(victim)}
			f.until = f.at.Add(time.Duration(1000+s.random.IntN(11_000)) * time.Millisecond)
			s.replicas[victim].pause(s.t)
			s.faults = append(s.faults, f)
			paused = &f
		}
		wait(gap - gap/2)

		victim := s.random.IntN(len(s.replicas))
		f := fault{replica: victim, kill: true, running: s.upstream.open(victim), at: time.Now()}
		s.replicas[victim].kill()
		if paused != nil && paused.replica == victim {
			paused = nil
		}
		wait(time.Duration(s.random.IntN(700)) * time.Millisecond)
		if err := s.replicas[victim].restart(); err != nil {
			s.t.Errorf("after kill %d: %v", n+1, err)
			return
		}
		f.until = time.Now()
		s.faults = append(s.faults, f)
		if n < *crashKills-1 {
			s.furnish()
		}
	}
	if paused != nil {
		s.replicas[paused.replica].resume(s.t)
	}
}

// turns returns all turns, the newest first.
func (s *storm) turns() (turns []*chatsvcv1.Turn) {
	for token := ""; ; {
		page, err := s.direct[0].chat.ListTurns(context.Background(), &chatsvcv1.ListTurnsRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			s.t.Errorf("list the turns: %v", err)
			return turns
		}
		turns = append(turns, page.GetTurns()...)
		if token = page.GetNextPageToken(); token == "" {
			return turns
		}
	}
}

// unfinished returns the turns that have not ended.
func (s *storm) unfinished() []*chatsvcv1.Turn {
	return slices.DeleteFunc(s.turns(), func(turn *chatsvcv1.Turn) bool { return turn.GetEndTime() != nil })
}

// takeovers returns how long the turns that ran on a killed replica lay until somebody went on with them or ended them:
// those after kills that no other fault followed meanwhile, and the others, which can take as much longer as there are faults.
func (s *storm) takeovers(byAsk map[string][]*chatsvcv1.Turn) (alone, disturbed []time.Duration) {
	for i, f := range s.faults {
		if !f.kill {
			continue
		}
		for _, id := range f.running {
			next := time.Duration(-1)
			for _, turn := range byAsk[id] {
				if turn.GetCreateTime().AsTime().After(f.at) {
					continue
				}
				signs := []time.Time{turn.GetEndTime().AsTime()}
				for _, a := range turn.GetAttempts() {
					signs = append(signs, a.GetCreateTime().AsTime())
				}
				for _, sign := range signs {
					if took := sign.Sub(f.at); took > 0 && (next < 0 || took < next) {
						next = took
					}
				}
			}
			others := 0
			for j, g := range s.faults {
				if j != i && g.at.Before(f.at.Add(next)) && g.until.After(f.at) {
					others++
				}
			}
			switch {
			case next < 0: // it had ended before the kill
			case others == 0:
				alone = append(alone, next)
			default:
				disturbed = append(disturbed, next)
			}
			if bound := takeoverTime * time.Duration(1+others); next > bound {
				s.ledger.violation("takeover", "%s lay for %v after a kill with %d more faults meanwhile", id, next, others)
			}
		}
	}
	return alone, disturbed
}

// spread describes durations.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	slices.Sort(all)
	round := func(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
	return fmt.Sprintf("%d, median %v, longest %v", len(all), round(all[len(all)/2]), round(all[len(all)-1]))
}
