package chatclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// retryAfter returns a refusal that says when to come back.
func retryAfter(t *testing.T, d time.Duration) error {
	t.Helper()
	s, err := status.New(codes.Unavailable, "later").WithDetails(
		&errdetails.ErrorInfo{Reason: "STORE_UNAVAILABLE", Domain: "chatsvc"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

// endless is a turn that says a little and does not end by itself.
func endless(_ int, turn *fakeTurn) { say(turn, pieces[:3]...) }

// TestStreamStops: how a stream's reader stops, and what becomes of the turn.
func TestStreamStops(t *testing.T) {
	for _, tt := range []struct {
		name    string
		stop    string // "cancel", "deadline", "break"
		options []chatclient.CallOption
		events  string
		cancels int
		state   chatsvcv1.TurnState
		is      error
		code    codes.Code
		reason  chatsvcv1.ErrorReason
	}{
		{
			name: "cancelled", stop: "cancel", cancels: 1, state: chatsvcv1.TurnState_TURN_STATE_CANCELLED,
			is: context.Canceled, code: codes.Canceled, reason: chatsvcv1.ErrorReason_ERROR_REASON_TURN_CANCELLED,
		},
		{
			name: "cancelled, detached", stop: "cancel", options: []chatclient.CallOption{chatclient.Detach()},
			state: chatsvcv1.TurnState_TURN_STATE_RUNNING, is: context.Canceled, code: codes.Canceled,
		},
		{
			name: "out of time", stop: "deadline", state: chatsvcv1.TurnState_TURN_STATE_RUNNING,
			is: context.DeadlineExceeded, code: codes.DeadlineExceeded,
		},
		{name: "left", stop: "break", cancels: 1, state: chatsvcv1.TurnState_TURN_STATE_CANCELLED},
		{
			name: "left, detached", stop: "break", options: []chatclient.CallOption{chatclient.Detach()},
			state: chatsvcv1.TurnState_TURN_STATE_RUNNING,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{plan: endless}
			conn := f.start(t)
			ctx, cancel := context.WithCancel(within(t))
			defer cancel()
			if tt.stop == "deadline" {
				ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
				defer cancel()
			}
			s := newClient(conn).Stream(ctx, &chatsvcv1.CreateTurnRequest{Text: "Bonjour"}, tt.options...)
			var events []*chatsvcv1.TurnEvent
			var err error
			for event, e := range s.Events() {
				if err = e; err != nil {
					break
				}
				events = append(events, event)
				if event.GetSequence() == 4 && tt.stop == "cancel" {
					cancel()
				}
				if event.GetSequence() == 4 && tt.stop == "break" {
					break
				}
			}
			if status.Code(err) != tt.code || chatclient.Reason(err) != tt.reason || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v; want %v, %v", err, tt.code, tt.is)
			}
			if errors.Is(err, chatclient.ErrNotCancelled) {
				t.Errorf("%v, although nothing is left to cancel", err)
			}
			// On a machine that is slow, a second one goes out beside the first.
			if got := f.called("CancelTurn"); min(got, 1) != tt.cancels || f.called("ListTurns") != 0 {
				t.Errorf("%d CancelTurn calls, want %d; %d ListTurns calls", got, tt.cancels, f.called("ListTurns"))
			}
			turn, _ := f.made()[0].snapshot()
			if turn.GetState() != tt.state || s.Name() != turn.GetName() {
				t.Errorf("the turn is %v, want %v; its name %q", turn, tt.state, s.Name())
			}
			if cancelled := tt.cancels > 0; cancelled != (s.Turn().GetState() == chatsvcv1.TurnState_TURN_STATE_CANCELLED) {
				t.Errorf("Turn returns %v", s.Turn())
			}
			if last := events[len(events)-1]; tt.stop == "cancel" && (last.GetTerminal() != nil) != (tt.cancels > 0) {
				t.Errorf("the last of %s", tell(events))
			}
		})
	}
}

// TestCancelFindsTheTurn: the context is cancelled before the turn's name has come.
func TestCancelFindsTheTurn(t *testing.T) {
	for _, unary := range []bool{true, false} {
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		f := &fake{plan: endless}
		recorded := make(chan struct{})
		release := sync.OnceFunc(func() { close(recorded) })
		f.at = func(p point) error {
			switch {
			case p.place == "recorded":
				cancel()
				<-recorded // The header does not come.
			case p.method == "ListTurns" && p.call == 1:
				return status.Error(codes.Unavailable, "a server that is gone")
			case p.method == "CancelTurn":
				release()
			}
			return nil
		}
		c := newClient(f.start(t))
		var err error
		if unary {
			_, err = c.Create(ctx, &chatsvcv1.CreateTurnRequest{})
		} else {
			_, err = c.Stream(ctx, &chatsvcv1.CreateTurnRequest{}).Text()
		}
		turn, _ := f.made()[0].snapshot()
		if !errors.Is(err, context.Canceled) || chatclient.Reason(err) != chatsvcv1.ErrorReason_ERROR_REASON_TURN_CANCELLED ||
			turn.GetState() != chatsvcv1.TurnState_TURN_STATE_CANCELLED || f.called("ListTurns") < 2 {
			t.Errorf("unary %t: %v, %v, %d ListTurns calls", unary, err, turn, f.called("ListTurns"))
		}
	}
}

// TestCancelAfterALoss: the connection is lost before the name has come, and the context is cancelled before the repeat.
func TestCancelAfterALoss(t *testing.T) {
	f := &fake{plan: endless}
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	f.at = func(p point) error {
		switch {
		case p.method == "StreamTurn" && p.place == "recorded":
			return f.cut()
		case p.method == "CancelTurn" && p.call == 1:
			return refusal(codes.Unavailable, "STORE_UNAVAILABLE", "")
		}
		return nil
	}
	conn := f.start(t)
	c := chatclient.New(conn, chatclient.Options{MinBackoff: time.Hour, MaxBackoff: time.Hour})
	time.AfterFunc(300*time.Millisecond, cancel)
	_, err := c.Stream(ctx, &chatsvcv1.CreateTurnRequest{}).Text()
	turn, _ := f.made()[0].snapshot()
	if !errors.Is(err, context.Canceled) || turn.GetState() != chatsvcv1.TurnState_TURN_STATE_CANCELLED || f.called("StreamTurn") != 1 {
		t.Errorf("%v, %v, %d StreamTurn calls", err, turn, f.called("StreamTurn"))
	}
}

// TestCancelAfterALossAndARefusal: that another server refuses the repeat says nothing of what the first one has recorded.
func TestCancelAfterALossAndARefusal(t *testing.T) {
	f := &fake{plan: endless}
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	f.at = func(p point) error {
		switch {
		case p.method == "StreamTurn" && p.call == 1 && p.place == "recorded":
			return f.cut()
		case p.method == "StreamTurn" && p.call > 1:
			return refusal(codes.Unavailable, "DRAINING", "")
		}
		return nil
	}
	conn := f.start(t)
	_, err := newCancellingClient(conn, "DRAINING", cancel).Stream(ctx, &chatsvcv1.CreateTurnRequest{}).Text()
	if turn, _ := f.made()[0].snapshot(); !errors.Is(err, context.Canceled) || turn.GetState() != chatsvcv1.TurnState_TURN_STATE_CANCELLED {
		t.Errorf("%v, %v", err, turn)
	}
}

// TestCancelSendsNothingMore: between two calls, the context is cancelled, and while the turn is looked for, or its
// cancelling is tried, the request is not sent again.
func TestCancelSendsNothingMore(t *testing.T) {
	gone := status.Error(codes.Unavailable, "a server that is gone")
	for _, tt := range []struct {
		name  string
		fail  error  // of the request
		looks string // method
	}{
		{"it is not known whether there is a turn", gone, "ListTurns"},
		{"a turn is named that does not exist", refusal(codes.Unavailable, "STORE_UNAVAILABLE", "turns/none"), "CancelTurn"},
	} {
		for _, unary := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, unary %t", tt.name, unary), func(t *testing.T) {
				f := &fake{plan: endless}
				f.at = func(p point) error {
					switch {
					case p.place != "start":
					case (p.method == "CreateTurn" || p.method == "StreamTurn") && p.call == 1:
						return tt.fail
					case p.method == tt.looks && p.call == 1:
						return gone // The connection tries again after about 0.1 s: time enough to send the request.
					case p.method == tt.looks:
						return refusal(codes.PermissionDenied, "ROLE_MISSING", "")
					}
					return nil
				}
				ctx, cancel := context.WithCancel(within(t))
				defer cancel()
				c := newCancellingClient(f.start(t), "goes on", cancel)
				var err error
				if unary {
					_, err = c.Create(ctx, &chatsvcv1.CreateTurnRequest{})
				} else {
					_, err = c.Stream(ctx, &chatsvcv1.CreateTurnRequest{}).Text()
				}
				if !errors.Is(err, context.Canceled) || status.Code(err) != codes.Canceled || !errors.Is(err, chatclient.ErrNotCancelled) {
					t.Errorf("%v, want %v and %v", err, context.Canceled, chatclient.ErrNotCancelled)
				}
				if sent := f.called("CreateTurn") + f.called("StreamTurn"); sent != 1 || len(f.made()) > 0 {
					t.Errorf("the request was sent %d times, and made %d turns", sent, len(f.made()))
				}
				if got := f.called(tt.looks); got < 2 {
					t.Errorf("%d %s calls, want 2: the test did not test", got, tt.looks)
				}
			})
		}
	}
}

// newCancellingClient returns a client that waits little, and calls cancel between two calls, when it logs that text.
func newCancellingClient(conn grpc.ClientConnInterface, text string, cancel context.CancelFunc) *chatclient.Client {
	logger := slog.New(slog.NewTextHandler(writerFunc(func(line []byte) {
		if bytes.Contains(line, []byte(text)) {
			cancel()
		}
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	return chatclient.New(conn, chatclient.Options{MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond, Logger: logger})
}

type writerFunc func([]byte)

func (w writerFunc) Write(b []byte) (int, error) { w(b); return len(b), nil }

// TestCancelBeforeTheTurn: the call stays until the turn that it asks for is there to be cancelled, so that none comes later.
func TestCancelBeforeTheTurn(t *testing.T) {
	f := &fake{plan: endless}
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	listed := make(chan struct{})
	f.at = func(p point) error {
		switch {
		case p.method == "StreamTurn" && p.place == "start":
			cancel()
			<-listed
		case p.method == "ListTurns" && p.call == 1:
			close(listed)
		}
		return nil
	}
	_, err := newClient(f.start(t)).Stream(ctx, &chatsvcv1.CreateTurnRequest{}).Text()
	if !errors.Is(err, context.Canceled) || chatclient.Reason(err) != chatsvcv1.ErrorReason_ERROR_REASON_TURN_CANCELLED || len(f.made()) != 1 {
		t.Errorf("%v, %d turns", err, len(f.made()))
	}
}

// TestCancelComesTooLate: the turn has its answer before it can be cancelled, and the caller gets it.
func TestCancelComesTooLate(t *testing.T) {
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	f := &fake{plan: endless}
	f.at = func(p point) error {
		if p.method == "CancelTurn" {
			f.made()[0].complete()
		}
		return nil
	}
	s := newClient(f.start(t)).Stream(ctx, &chatsvcv1.CreateTurnRequest{})
	var given strings.Builder
	for piece, err := range s.TextDeltas() {
		if err != nil {
			t.Fatal(err)
		}
		given.WriteString(piece)
		cancel()
	}
	if want := strings.Join(pieces[:3], ""); given.String() != want || s.Turn().GetState() != chatsvcv1.TurnState_TURN_STATE_COMPLETED {
		t.Errorf("%q, want %q; %v", given.String(), want, s.Turn())
	}
}

// TestCancelGivesUp: a service that does not answer holds a caller that has left for no more than the 2 seconds.
func TestCancelGivesUp(t *testing.T) {
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	f := &fake{plan: endless}
	conn := f.start(t)
	var cancelled time.Time
	var err error
	for event, e := range newClient(conn).Stream(ctx, &chatsvcv1.CreateTurnRequest{}).Events() {
		if err = e; event.GetSequence() == 4 {
			f.proxy.Blackhole()
			cancelled = time.Now()
			cancel()
		}
	}
	took := time.Since(cancelled)
	f.proxy.Restore()
	if !errors.Is(err, context.Canceled) || took < time.Second || took > patience/2 {
		t.Errorf("%v after %v, want about 2 s", err, took)
	}
	name := f.made()[0].turn.GetName()
	if !errors.Is(err, chatclient.ErrNotCancelled) || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), name) {
		t.Errorf("%v does not say that %s may go on", err, name)
	}
}

// TestNothingIsLeftBehind: whatever way a call ends, no goroutine of it goes on.
func TestNothingIsLeftBehind(t *testing.T) {
	f := &fake{plan: endless}
	conn := f.start(t)
	c := newClient(conn)
	once := func(stop func(cancel context.CancelFunc) bool, options ...chatclient.CallOption) {
		ctx, cancel := context.WithTimeout(within(t), 200*time.Millisecond)
		defer cancel()
		for event, err := range c.Stream(ctx, &chatsvcv1.CreateTurnRequest{}, options...).Events() {
			if err == nil && event.GetSequence() == 4 && stop(cancel) {
				break
			}
		}
	}
	all := func() {
		for _, options := range [][]chatclient.CallOption{nil, {chatclient.Detach()}} {
			once(func(context.CancelFunc) bool { return true }, options...)
			once(func(cancel context.CancelFunc) bool { cancel(); return false }, options...)
			once(func(cancel context.CancelFunc) bool { cancel(); return true }, options...)
			once(func(context.CancelFunc) bool { return false }, options...)
			func() {
				defer func() { _ = recover() }()
				once(func(context.CancelFunc) bool { panic("the reader") }, options...)
			}()
		}
	}
	all()
	before := runtime.NumGoroutine()
	all()
	settled(t, before)
}
