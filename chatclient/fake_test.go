package chatclient_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/netfault"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// pieces is the text of a turn that says nothing else, as it is streamed.
var pieces = []string{"Il était ", "une fois ", "un ", "roi ", "qui ", "parlait ", "peu."}

// fake is ChatService as far as the client sees it: turns with logs, found by name and by request_id. Tests script
// how turns go and where calls fail.
type fake struct {
	chatsvcv1.UnimplementedChatServiceServer

	// plan makes the n-th turn, from 0; nil answers pieces.
	plan func(n int, turn *fakeTurn)
	// at is told how far each call has got, and ends it by an error. Nil ends none.
	at func(p point) error

	// forgetful is a server that takes no notice of after_sequence.
	forgetful bool
	// unhealthy is a server that does not serve, or so it says.
	unhealthy bool

	proxy  *netfault.Proxy
	client *clientStats

	mu        sync.Mutex
	turns     []*fakeTurn
	calls     map[string]int
	requests  []*chatsvcv1.CreateTurnRequest
	watched   []int64 // after_sequence of the WatchTurn calls
	sent      int     // events
	headers   int
	closed    chan struct{}
	unplanned error
}

// point is a place in a call at which it can fail.
type point struct {
	method   string
	call     int    // the method's calls from 1
	place    string // "start", "recorded", "header", "before" or "after" an event, "end"
	event    *chatsvcv1.TurnEvent
	sequence int64
}

// start serves f on loopback, behind a proxy, until the test ends, and returns a connection to it.
func (f *fake) start(t *testing.T) *grpc.ClientConn {
	t.Helper()
	f.calls, f.closed, f.client = map[string]int{}, make(chan struct{}), newClientStats()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	chatsvcv1.RegisterChatServiceServer(server, f)
	healthy := health.NewServer()
	serves := healthpb.HealthCheckResponse_SERVING
	if f.unhealthy {
		serves = healthpb.HealthCheckResponse_NOT_SERVING
	}
	healthy.SetServingStatus(chatsvcv1.ChatService_ServiceDesc.ServiceName, serves)
	healthpb.RegisterHealthServer(server, healthy)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		close(f.closed)
		server.Stop()
		serving.Wait()
		if f.unplanned != nil {
			t.Error(f.unplanned)
		}
	})
	f.proxy = netfault.Listen(t, listener.Addr().String())
	conn, err := chatclient.Dial(f.proxy.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(f.client))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// cut breaks every connection, once the client has all that was sent.
func (f *fake) cut() error {
	f.mu.Lock()
	headers, events := f.headers, f.sent
	f.mu.Unlock()
	if err := f.client.await(headers, events); err != nil {
		f.mu.Lock()
		f.unplanned = err
		f.mu.Unlock()
	}
	f.proxy.CutAll()
	return status.Error(codes.Aborted, "the connection is cut: nobody reads this")
}

func (f *fake) reach(p point) error {
	if f.at == nil {
		return nil
	}
	p.sequence = p.event.GetSequence()
	return f.at(p)
}

func (f *fake) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	return f.calls[method]
}

// called returns how often a method was called.
func (f *fake) called(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// made returns the turns that were made.
func (f *fake) made() []*fakeTurn {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.turns)
}

// record finds the turn with the request's id, or makes it.
func (f *fake) record(in *chatsvcv1.CreateTurnRequest) *fakeTurn {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, in)
	for _, t := range f.turns {
		if turn, _ := t.snapshot(); turn.GetRequestId() == in.GetRequestId() && turn.GetState() != chatsvcv1.TurnState_TURN_STATE_FAILED {
			return t
		}
	}
	n := len(f.turns)
	t := &fakeTurn{changed: make(chan struct{}), turn: &chatsvcv1.Turn{
		Name: fmt.Sprintf("turns/00000000-0000-7000-8000-%012d", n+1), RequestId: in.GetRequestId(),
		State: chatsvcv1.TurnState_TURN_STATE_RUNNING,
	}}
	f.turns = append(f.turns, t)
	t.add(&chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_Accepted{Accepted: &chatsvcv1.Accepted{Turn: t.turn.GetName()}}})
	if f.plan != nil {
		f.plan(n, t)
	} else {
		say(t, pieces...)
		t.complete()
	}
	return t
}

func (f *fake) named(name string) (*fakeTurn, error) {
	for _, t := range f.made() {
		if turn, _ := t.snapshot(); turn.GetName() == name {
			return t, nil
		}
	}
	return nil, refusal(codes.NotFound, "NOT_FOUND", name)
}

func (f *fake) sendHeader(ctx context.Context, t *fakeTurn) error {
	turn, _ := t.snapshot()
	f.mu.Lock()
	f.headers++
	f.mu.Unlock()
	return grpc.SendHeader(ctx, metadata.Pairs("chatsvc-turn", turn.GetName()))
}

func (f *fake) CreateTurn(ctx context.Context, in *chatsvcv1.CreateTurnRequest) (*chatsvcv1.Turn, error) {
	p := point{method: "CreateTurn", call: f.count("CreateTurn")}
	t, err := f.begin(ctx, in, p)
	if err != nil {
		return nil, err
	}
	if in.GetWait() == chatsvcv1.Wait_WAIT_NO_WAIT {
		turn, _ := t.snapshot()
		return turn, nil
	}
	turn, err := t.wait(ctx)
	if err != nil {
		return nil, err
	}
	return turn, answer(turn)
}

// begin records the turn of a call and sends its header.
func (f *fake) begin(ctx context.Context, in *chatsvcv1.CreateTurnRequest, p point) (*fakeTurn, error) {
	p.place = "start"
	if err := f.reach(p); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err() // The caller has left, and nothing has begun.
	}
	t := f.record(in)
	p.place = "recorded"
	if err := f.reach(p); err != nil {
		return nil, err
	}
	if err := f.sendHeader(ctx, t); err != nil {
		return nil, err
	}
	p.place = "header"
	return t, f.reach(p)
}

// answer returns the error that CreateTurn and StreamTurn end with.
func answer(turn *chatsvcv1.Turn) error {
	if turn.GetState() == chatsvcv1.TurnState_TURN_STATE_CANCELLED {
		return refusal(codes.Canceled, "TURN_CANCELLED", turn.GetName())
	}
	return status.ErrorProto(turn.GetError())
}

func (f *fake) StreamTurn(in *chatsvcv1.CreateTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
	p := point{method: "StreamTurn", call: f.count("StreamTurn")}
	t, err := f.begin(stream.Context(), in, p)
	if err != nil {
		return err
	}
	if err := f.tail(t, 0, stream, p); err != nil {
		return err
	}
	turn, _ := t.snapshot()
	return answer(turn)
}

func (f *fake) WatchTurn(in *chatsvcv1.WatchTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
	p := point{method: "WatchTurn", call: f.count("WatchTurn")}
	f.mu.Lock()
	f.watched = append(f.watched, in.GetAfterSequence())
	f.mu.Unlock()
	p.place = "start"
	if err := f.reach(p); err != nil {
		return err
	}
	t, err := f.named(in.GetName())
	if err != nil {
		return err
	}
	if err := f.sendHeader(stream.Context(), t); err != nil {
		return err
	}
	p.place = "header"
	if err := f.reach(p); err != nil {
		return err
	}
	after := in.GetAfterSequence()
	if f.forgetful {
		after = 0
	}
	return f.tail(t, after, stream, p)
}

// tail sends the log of a turn after a sequence number, until its end.
func (f *fake) tail(t *fakeTurn, after int64, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent], p point) error {
	for {
		t.mu.Lock()
		log, changed, expired, ended, last := slices.Clone(t.log), t.changed, t.expired, t.ended(), t.turn.GetLastSequence()
		t.mu.Unlock()
		if expired && after < last {
			return refusal(codes.OutOfRange, "EVENTS_EXPIRED", t.turn.GetName())
		}
		for _, e := range log {
			note := e.GetHeartbeat() != nil || e.GetDraining() != nil || e.GetQueueUpdate() != nil
			if e.GetSequence() <= after && !note {
				continue
			}
			p.event, p.place = e, "before"
			if err := f.reach(p); err != nil {
				return err
			}
			f.mu.Lock()
			f.sent++
			f.mu.Unlock()
			if err := stream.Send(e); err != nil {
				return err
			}
			p.place = "after"
			if err := f.reach(p); err != nil {
				return err
			}
			after = e.GetSequence()
		}
		if ended {
			p.place = "end"
			return f.reach(p)
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-f.closed:
			return status.Error(codes.Unavailable, "the test is over")
		}
	}
}

func (f *fake) GetTurn(_ context.Context, in *chatsvcv1.GetTurnRequest) (*chatsvcv1.Turn, error) {
	if err := f.reach(point{method: "GetTurn", call: f.count("GetTurn"), place: "start"}); err != nil {
		return nil, err
	}
	t, err := f.named(in.GetName())
	if err != nil {
		return nil, err
	}
	turn, _ := t.snapshot()
	return turn, nil
}

func (f *fake) ListTurns(_ context.Context, in *chatsvcv1.ListTurnsRequest) (*chatsvcv1.ListTurnsResponse, error) {
	if err := f.reach(point{method: "ListTurns", call: f.count("ListTurns"), place: "start"}); err != nil {
		return nil, err
	}
	out := &chatsvcv1.ListTurnsResponse{}
	for _, t := range slices.Backward(f.made()) {
		if turn, _ := t.snapshot(); turn.GetRequestId() == in.GetRequestId() {
			out.Turns = append(out.Turns, turn)
		}
	}
	return out, nil
}

func (f *fake) CancelTurn(_ context.Context, in *chatsvcv1.CancelTurnRequest) (*chatsvcv1.Turn, error) {
	if err := f.reach(point{method: "CancelTurn", call: f.count("CancelTurn"), place: "start"}); err != nil {
		return nil, err
	}
	t, err := f.named(in.GetName())
	if err != nil {
		return nil, err
	}
	t.end(chatsvcv1.TurnState_TURN_STATE_CANCELLED, nil)
	turn, _ := t.snapshot()
	return turn, nil
}
