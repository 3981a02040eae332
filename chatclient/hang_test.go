package chatclient_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/netfault"
)

// twoReplicas returns a connection to f by two ways, which look like two replicas with one store, and the first of the ways.
// dial is chatclient.Dial or grpc.NewClient. Both replicas have been called, and calls take turns between them.
func twoReplicas(
	t *testing.T, f *fake, dial func(string, ...grpc.DialOption) (*grpc.ClientConn, error), options ...grpc.DialOption,
) (*grpc.ClientConn, *netfault.Proxy) {
	t.Helper()
	f.start(t)
	first, second := netfault.Listen(t, f.proxy.Addr()), netfault.Listen(t, f.proxy.Addr())
	replicas := manual.NewBuilderWithScheme("replicas")
	replicas.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: first.Addr()}, {Addr: second.Addr()}}})
	conn, err := dial("replicas:///", append(options,
		grpc.WithResolvers(replicas), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	chat := chatsvcv1.NewChatServiceClient(conn)
	for seen := map[string]bool{}; len(seen) < 2; {
		var from peer.Peer
		if _, err := chat.ListTurns(within(t), &chatsvcv1.ListTurnsRequest{}, grpc.Peer(&from)); err != nil {
			t.Fatal(err)
		}
		seen[from.Addr.String()] = true
	}
	return conn, first
}

// awaitTurns waits until f has made n turns.
func awaitTurns(t *testing.T, f *fake, n int) {
	t.Helper()
	for deadline := time.After(patience); len(f.made()) < n; {
		select {
		case <-deadline:
			t.Fatalf("%d turns, want %d", len(f.made()), n)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestCancelPastAServerThatHangs: one of two replicas hangs, and whichever is asked first, every turn is cancelled.
func TestCancelPastAServerThatHangs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		calls int
		unary bool // The turns' names do not come, and have to be looked for.
	}{
		{"streams", 8, false},
		{"calls", 8, true},
		{"one call", 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fake{plan: endless}
			conn, hung := twoReplicas(t, f, chatclient.Dial)
			c := newClient(conn)
			ctx, cancel := context.WithCancel(within(t))
			defer cancel()
			var calls, reading sync.WaitGroup
			for range tt.calls {
				reading.Add(1)
				calls.Go(func() {
					reads := sync.OnceFunc(reading.Done)
					defer reads()
					var err error
					if tt.unary {
						reads()
						_, err = c.Create(ctx, &chatsvcv1.CreateTurnRequest{})
					} else {
						for event, e := range c.Stream(ctx, &chatsvcv1.CreateTurnRequest{}).Events() {
							if err = e; event.GetSequence() == 4 {
								reads()
							}
						}
					}
					if !errors.Is(err, context.Canceled) || chatclient.Reason(err) != chatsvcv1.ErrorReason_ERROR_REASON_TURN_CANCELLED {
						t.Errorf("the call ended with %v", err)
					}
				})
			}
			reading.Wait()
			awaitTurns(t, f, tt.calls)
			hung.Blackhole()
			cancel()
			calls.Wait()
			for _, made := range f.made() {
				if turn, _ := made.snapshot(); turn.GetState() != chatsvcv1.TurnState_TURN_STATE_CANCELLED {
					t.Errorf("%s is %v", turn.GetName(), turn.GetState())
				}
			}
		})
	}
}

// TestLeavingIsNotConfirmed: a reader that has left can be told nothing, so the log says that the turn may go on.
func TestLeavingIsNotConfirmed(t *testing.T) {
	t.Parallel()
	f := &fake{plan: endless}
	conn := f.start(t)
	var log bytes.Buffer
	c := chatclient.New(conn, chatclient.Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	for event, err := range c.Stream(within(t), &chatsvcv1.CreateTurnRequest{}).Events() {
		if err != nil {
			t.Fatal(err)
		}
		if event.GetSequence() == 4 {
			f.proxy.Blackhole()
			break
		}
	}
	f.proxy.Restore()
	if name := f.made()[0].turn.GetName(); !bytes.Contains(log.Bytes(), []byte(name)) {
		t.Errorf("the log does not say that %s may go on: %s", name, log.Bytes())
	}
}

// balanced makes a connection that balances and does not ping, as a caller's own may be.
func balanced(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, append(options, grpc.WithDefaultServiceConfig(chatclient.ServiceConfig))...)
}

// TestSilenceIsALoss: a stream whose server says nothing any more, not even heartbeats, is read on from another.
func TestSilenceIsALoss(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		early bool // It is silent from the beginning.
	}{{"amid the text", false}, {"before the header", true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fake{}
			if !tt.early {
				f.plan = func(_ int, turn *fakeTurn) { say(turn, pieces...) }
			}
			conn, hung := twoReplicas(t, f, balanced)
			c := newClient(conn)
			c.SetSilence(500 * time.Millisecond)
			if tt.early {
				hung.Blackhole()
			}
			var streams, reading sync.WaitGroup
			for range 2 { // One of them on each replica.
				reading.Add(1)
				streams.Go(func() {
					reads := sync.OnceFunc(reading.Done)
					defer reads()
					var events []*chatsvcv1.TurnEvent
					for event, err := range c.Stream(within(t), &chatsvcv1.CreateTurnRequest{}).Events() {
						if err != nil {
							t.Error(err)
							break
						}
						if events = append(events, event); event.GetSequence() == 8 {
							reads()
						}
					}
					if tell(events) != whole {
						t.Errorf("%s\nwant %s", tell(events), whole)
					}
				})
			}
			reading.Wait()
			hung.Blackhole()
			for _, turn := range f.made() {
				turn.complete()
			}
			streams.Wait()
			// What was sent to the silent one in the beginning, it has not read.
			if watches := f.called("WatchTurn"); len(f.made()) != 2 || watches == 0 && !tt.early {
				t.Errorf("%d turns, %d WatchTurn calls", len(f.made()), watches)
			}
		})
	}
}

// TestQuietIsNoLoss: heartbeats keep a stream, and so does a reader that takes its time.
func TestQuietIsNoLoss(t *testing.T) {
	t.Parallel()
	const silence = 500 * time.Millisecond
	f := &fake{plan: func(_ int, turn *fakeTurn) { say(turn, pieces...) }}
	c := newClient(f.start(t))
	c.SetSilence(silence)
	var beating sync.WaitGroup
	defer beating.Wait()
	var events []*chatsvcv1.TurnEvent
	for event, err := range c.Stream(within(t), &chatsvcv1.CreateTurnRequest{}).Events() {
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, event)
		if event.GetSequence() != 8 {
			continue
		}
		<-time.After(2 * silence) // The reader is busy.
		beating.Go(func() {
			turn := f.made()[0]
			tick := time.NewTicker(silence / 10)
			defer tick.Stop()
			for range 25 {
				<-tick.C
				beat := heartbeat()
				beat.Sequence = 8
				turn.add(beat)
			}
			turn.complete()
		})
	}
	if tell(events) != whole || f.called("WatchTurn") > 0 {
		t.Errorf("%s, and %d WatchTurn calls\nwant %s", tell(events), f.called("WatchTurn"), whole)
	}
}

// TestDialNoticesAServerThatHangs: Create hears nothing while it waits, so pings have to find out.
func TestDialNoticesAServerThatHangs(t *testing.T) {
	t.Parallel()
	f := &fake{plan: endless}
	conn, hung := twoReplicas(t, f, chatclient.Dial)
	c := newClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 23*time.Second) // 15 s, and time for a busy machine.
	defer cancel()
	var calls sync.WaitGroup
	for range 2 { // One of them on each replica.
		calls.Go(func() {
			if _, err := c.Create(ctx, &chatsvcv1.CreateTurnRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	awaitTurns(t, f, 2)
	hung.Blackhole()
	for _, turn := range f.made() {
		turn.complete()
	}
	calls.Wait()
	if f.called("CreateTurn")+f.called("WatchTurn") < 3 {
		t.Error("no call went on elsewhere: the test did not test")
	}
}
