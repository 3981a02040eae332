package chatclient_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

func TestCreateFillsTheRequestID(t *testing.T) {
	f := &fake{}
	c := newClient(f.start(t))
	request := &chatsvcv1.CreateTurnRequest{Text: "Bonjour", Labels: map[string]string{"a": "b"}}
	before := proto.CloneOf(request)
	turn, err := c.Create(within(t), request)
	if err != nil || turn.GetOutputText() != strings.Join(pieces, "") {
		t.Fatalf("%v, %v", turn, err)
	}
	if !proto.Equal(request, before) {
		t.Errorf("the caller's request was changed: %v", request)
	}
	id, err := uuid.Parse(f.requests[0].GetRequestId())
	if err != nil || id.Version() != 7 || turn.GetRequestId() != id.String() {
		t.Errorf("request_id %q, %v: want a UUIDv7", f.requests[0].GetRequestId(), err)
	}
	if f.requests[0].RequestId = ""; !proto.Equal(f.requests[0], before) {
		t.Errorf("sent %v, want %v and an id", f.requests[0], before)
	}
	request.RequestId = "mine"
	if _, err := c.Create(within(t), request); err != nil || f.requests[1].GetRequestId() != "mine" {
		t.Errorf("%v, request_id %q", err, f.requests[1].GetRequestId())
	}
	if _, err := c.Create(within(t), nil); err != nil {
		t.Errorf("nil is an empty request, which is the service's to refuse: %v", err)
	}
}

func TestCreateRepeats(t *testing.T) {
	const other = "turns/00000000-0000-7000-8000-999999999999"
	once := func(place string, err func(f *fake) error) func(*fake, point) error {
		return func(f *fake, p point) error {
			if p.method == "CreateTurn" && p.call == 1 && p.place == place {
				return err(f)
			}
			return nil
		}
	}
	refuse := func(reason, turn string) func(*fake) error {
		return func(*fake) error { return refusal(codes.Unavailable, reason, turn) }
	}
	failing := func(times int, reason string) func(int, *fakeTurn) {
		return func(n int, turn *fakeTurn) {
			if n < times {
				turn.fail(reason)
			} else {
				turn.complete()
			}
		}
	}
	for _, tt := range []struct {
		name    string
		plan    func(int, *fakeTurn)
		at      func(*fake, point) error
		wait    chatsvcv1.Wait
		creates int
		watches int
		gets    int
		turns   int
		code    codes.Code
		reason  chatsvcv1.ErrorReason
	}{
		{name: "cut before the request was read", at: once("start", (*fake).cut), creates: 2, turns: 1},
		{name: "cut before the header", at: once("recorded", (*fake).cut), creates: 2, turns: 1},
		{name: "cut after the header", at: once("header", (*fake).cut), creates: 1, watches: 1, turns: 1},
		{name: "cut, not waiting", at: once("header", (*fake).cut), wait: chatsvcv1.Wait_WAIT_NO_WAIT, creates: 1, gets: 1, turns: 1},
		{name: "draining", at: once("start", refuse("DRAINING", "")), creates: 2, turns: 1},
		{name: "no store", at: once("start", refuse("STORE_UNAVAILABLE", "")), creates: 2, turns: 1},
		{name: "no store, nothing recorded", at: once("start", refuse("STORE_UNAVAILABLE", other)), creates: 2, watches: 1, turns: 1},
		{name: "a reset stream", at: once("start", func(*fake) error { return status.Error(codes.Internal, "RST_STREAM") }), creates: 2, turns: 1},
		{name: "interrupted", plan: failing(1, "TURN_INTERRUPTED"), creates: 2, watches: 1, turns: 2},
		{name: "interrupted as often as it may be", plan: failing(3, "TURN_INTERRUPTED"), creates: 4, watches: 3, turns: 4},
		{
			name: "interrupted again and again", plan: failing(100, "TURN_INTERRUPTED"), creates: 4, watches: 4, turns: 4,
			code: codes.Unavailable, reason: chatsvcv1.ErrorReason_ERROR_REASON_TURN_INTERRUPTED,
		},
		{
			name: "interrupted again and again, not waiting", plan: failing(100, "TURN_INTERRUPTED"), wait: chatsvcv1.Wait_WAIT_NO_WAIT,
			creates: 4, turns: 4, code: codes.Unavailable, reason: chatsvcv1.ErrorReason_ERROR_REASON_TURN_INTERRUPTED,
		},
		{name: "drained", plan: failing(1, "DRAINING"), creates: 2, watches: 1, turns: 2},
		{
			name: "upstream", plan: failing(1, "UPSTREAM_UNAVAILABLE"), creates: 1, turns: 1,
			code: codes.Unavailable, reason: chatsvcv1.ErrorReason_ERROR_REASON_UPSTREAM_UNAVAILABLE,
		},
		{
			name: "upstream, seen after a cut", plan: failing(1, "UPSTREAM_STALLED"), at: once("header", (*fake).cut), creates: 1, watches: 1,
			turns: 1, code: codes.Unavailable, reason: chatsvcv1.ErrorReason_ERROR_REASON_UPSTREAM_STALLED,
		},
		{
			name: "upstream before the turn", at: once("start", refuse("UPSTREAM_RATE_LIMITED", "")), creates: 1,
			code: codes.Unavailable, reason: chatsvcv1.ErrorReason_ERROR_REASON_UPSTREAM_RATE_LIMITED,
		},
		{
			name: "refused", at: once("start", func(*fake) error { return refusal(codes.ResourceExhausted, "RATE_LIMITED", "") }), creates: 1,
			code: codes.ResourceExhausted, reason: chatsvcv1.ErrorReason_ERROR_REASON_RATE_LIMITED,
		},
		{name: "another service's reason", at: once("start", func(*fake) error { return foreign() }), creates: 2, turns: 1},
		{name: "a closed connection", at: once("start", func(*fake) error { return status.Error(codes.Canceled, "closing") }), creates: 1, code: codes.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{plan: tt.plan}
			if tt.at != nil {
				f.at = func(p point) error { return tt.at(f, p) }
			}
			turn, err := newClient(f.start(t)).Create(within(t), &chatsvcv1.CreateTurnRequest{Text: "Bonjour", Wait: tt.wait})
			if status.Code(err) != tt.code || chatclient.Reason(err) != tt.reason || (turn == nil) != (err != nil) {
				t.Errorf("%v, %v; want %v %v", turn, err, tt.code, tt.reason)
			}
			if c, w, g := f.called("CreateTurn"), f.called("WatchTurn"), f.called("GetTurn"); c != tt.creates || w != tt.watches || g != tt.gets {
				t.Errorf("calls: %d CreateTurn, %d WatchTurn, %d GetTurn; want %d, %d, %d", c, w, g, tt.creates, tt.watches, tt.gets)
			}
			if got := len(f.made()); got != tt.turns {
				t.Errorf("%d turns, want %d", got, tt.turns)
			}
			for _, r := range f.requests {
				if r.GetRequestId() != f.requests[0].GetRequestId() {
					t.Errorf("ids differ: %q, %q", r.GetRequestId(), f.requests[0].GetRequestId())
				}
			}
		})
	}
}

// foreign returns the error of a gateway before the service, whose reasons are its own.
func foreign() error {
	s, err := status.New(codes.Unavailable, "no backend").WithDetails(&errdetails.ErrorInfo{Reason: "UPSTREAM_UNAVAILABLE", Domain: "gateway"})
	if err != nil {
		return err
	}
	return s.Err()
}

func TestCreateHonoursRetryInfo(t *testing.T) {
	var refused time.Time
	f := &fake{at: func(p point) error {
		if p.method == "CreateTurn" && p.place == "start" && p.call == 1 {
			refused = time.Now()
			return retryAfter(t, 300*time.Millisecond)
		}
		return nil
	}}
	if _, err := newClient(f.start(t)).Create(within(t), &chatsvcv1.CreateTurnRequest{}); err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(refused); waited < 300*time.Millisecond {
		t.Errorf("repeated after %v", waited)
	}
}

// TestCreateUntilTheDeadline: nothing listens, and the error says both that time was up and why nothing came.
func TestCreateUntilTheDeadline(t *testing.T) {
	f := &fake{at: func(p point) error {
		if p.method == "CreateTurn" {
			return refusal(codes.Unavailable, "STORE_UNAVAILABLE", "")
		}
		return nil
	}}
	conn := f.start(t)
	dead, err := chatclient.Dial("127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dead.Close() })
	for name, tt := range map[string]struct {
		conn   grpc.ClientConnInterface
		reason chatsvcv1.ErrorReason
		says   string
	}{
		"no store":   {conn, chatsvcv1.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE, "STORE_UNAVAILABLE"},
		"no service": {dead, chatsvcv1.ErrorReason_ERROR_REASON_UNSPECIFIED, "refused"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := newClient(tt.conn).Create(ctx, &chatsvcv1.CreateTurnRequest{})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || status.Code(err) != codes.DeadlineExceeded ||
			chatclient.Reason(err) != tt.reason || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f.called("CreateTurn") < 3 || f.called("CancelTurn")+f.called("ListTurns") > 0 {
		t.Errorf("calls: %v", f.calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := f.called("CreateTurn")
	if _, err := newClient(conn).Create(ctx, &chatsvcv1.CreateTurnRequest{}); !errors.Is(err, context.Canceled) || f.called("CreateTurn") != before {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// TestTurnDeadline: the service says that time is up a little before it is, which is the context's end all the same; and
// that a turn had no more time, which is not.
func TestTurnDeadline(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limit  time.Duration // of the context; 0 is none
		cancel bool          // before the answer comes
		fails  bool          // the turn does, and not only the call
		is     error
		code   codes.Code
	}{
		{name: "just before the context's", limit: 900 * time.Millisecond, is: context.DeadlineExceeded, code: codes.DeadlineExceeded},
		{
			name: "just before the context's, the turn's too", limit: 900 * time.Millisecond, fails: true,
			is: context.DeadlineExceeded, code: codes.DeadlineExceeded,
		},
		{name: "long before the context's", limit: patience, code: codes.DeadlineExceeded},
		{name: "long before the context's, the turn's", limit: patience, fails: true, code: codes.DeadlineExceeded},
		{name: "without one of the context's", code: codes.DeadlineExceeded},
		{name: "after the context was cancelled", limit: 900 * time.Millisecond, cancel: true, is: context.Canceled, code: codes.Canceled},
	} {
		for _, unary := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, unary %t", tt.name, unary), func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.limit > 0 {
					ctx, cancel = context.WithTimeout(ctx, tt.limit)
					defer cancel()
				}
				f := &fake{plan: func(_ int, turn *fakeTurn) {
					if tt.fails {
						turn.end(chatsvcv1.TurnState_TURN_STATE_FAILED, status.Convert(timeIsUp(turn)).Proto())
					}
				}}
				f.at = func(p point) error {
					if p.place != "header" || p.method == "WatchTurn" {
						return nil
					}
					if tt.cancel {
						cancel()
					}
					if tt.fails {
						return nil
					}
					return timeIsUp(f.made()[0])
				}
				c := newClient(f.start(t))
				var err error
				if unary {
					_, err = c.Create(ctx, &chatsvcv1.CreateTurnRequest{}, chatclient.Detach())
				} else {
					_, err = c.Stream(ctx, &chatsvcv1.CreateTurnRequest{}, chatclient.Detach()).Text()
				}
				ended := ctx.Err()
				for _, end := range []error{context.DeadlineExceeded, context.Canceled} {
					if errors.Is(err, end) != errors.Is(tt.is, end) || status.Code(err) != tt.code {
						t.Errorf("%v; want %v, %v", err, tt.code, tt.is)
					}
				}
				if ended != nil {
					return // Cancelled, or on a machine that is slow: what the service said may not have come.
				}
				if chatclient.Reason(err) != chatsvcv1.ErrorReason_ERROR_REASON_TURN_DEADLINE || !strings.Contains(err.Error(), "TURN_DEADLINE") {
					t.Errorf("%v does not say what the service said", err)
				}
			})
		}
	}
}

// timeIsUp returns the service's error for a turn that had no more time.
func timeIsUp(turn *fakeTurn) error {
	return refusal(codes.DeadlineExceeded, "TURN_DEADLINE", turn.turn.GetName())
}
