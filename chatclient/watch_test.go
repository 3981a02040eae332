package chatclient_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

func TestWatch(t *testing.T) {
	t.Run("from the middle, over a cut", func(t *testing.T) {
		f := &fake{}
		f.at = func(p point) error {
			if p.method == "WatchTurn" && p.call == 1 && p.sequence == 7 && p.place == "after" {
				return f.cut()
			}
			return nil
		}
		conn := f.start(t)
		name := create(t, conn)
		events, err := collect(newClient(conn).Watch(within(t), name, 5))
		if want := "6:'qui' 7:'parlait' 8:'peu.' 9:COMPLETED"; err != nil || tell(events) != want {
			t.Errorf("%s, %v\nwant %s", tell(events), err, want)
		}
		if got := fmt.Sprint(f.watched); got != "[5 7]" {
			t.Errorf("WatchTurn after %s", got)
		}
	})
	t.Run("a failed turn is not begun again", func(t *testing.T) {
		f := &fake{plan: func(_ int, turn *fakeTurn) { turn.fail("DRAINING") }}
		conn := f.start(t)
		events, err := collect(newClient(conn).Watch(within(t), create(t, conn), 0))
		if chatclient.Reason(err) != chatsvcv1.ErrorReason_ERROR_REASON_DRAINING || tell(events) != "1:accepted 2:FAILED" || len(f.made()) != 1 {
			t.Errorf("%s, %v, %d turns", tell(events), err, len(f.made()))
		}
	})
	t.Run("no such turn", func(t *testing.T) {
		f := &fake{}
		c := newClient(f.start(t))
		for _, name := range []string{"turns/nowhere", ""} {
			if _, err := c.Watch(within(t), name, 0).Text(); chatclient.Reason(err) != chatsvcv1.ErrorReason_ERROR_REASON_NOT_FOUND {
				t.Errorf("%q: %v", name, err)
			}
		}
		if f.called("StreamTurn") > 0 {
			t.Error("a watcher began a turn")
		}
	})
	t.Run("leaving and cancelling leave the turn alone", func(t *testing.T) {
		f := &fake{plan: func(_ int, turn *fakeTurn) { say(turn, pieces...) }}
		conn := f.start(t)
		name := create(t, conn)
		for _, err := range newClient(conn).Watch(within(t), name, 0).Events() {
			if err != nil {
				t.Error(err)
			}
			break
		}
		ctx, cancel := context.WithCancel(within(t))
		defer cancel()
		var err error
		for _, err = range newClient(conn).Watch(ctx, name, 0).Events() {
			cancel()
		}
		if !errors.Is(err, context.Canceled) || f.called("CancelTurn") > 0 {
			t.Errorf("%v, %d CancelTurn calls", err, f.called("CancelTurn"))
		}
	})
}

// TestTextSoFar: the deadline passes, and what had come of the text is what was said after the last reset.
func TestTextSoFar(t *testing.T) {
	f := &fake{plan: func(_ int, turn *fakeTurn) {
		say(turn, "Il ")
		turn.add(outputReset(1025), textPart(1, "upon"), textPart(0, "Once "))
	}}
	conn := f.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	got, err := newClient(conn).Stream(ctx, &chatsvcv1.CreateTurnRequest{}).Text()
	if got != "Once upon" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestEachEventOnce: a server that sends again what was seen does not reach the reader with it.
func TestEachEventOnce(t *testing.T) {
	f := &fake{forgetful: true}
	f.at = func(p point) error {
		if p.method == "StreamTurn" && p.sequence == 5 && p.place == "after" {
			return f.cut()
		}
		return nil
	}
	events, err := collect(newClient(f.start(t)).Stream(within(t), &chatsvcv1.CreateTurnRequest{}))
	if err != nil || tell(events) != whole || f.called("WatchTurn") != 1 {
		t.Errorf("%s, %v\nwant %s", tell(events), err, whole)
	}
}

// create makes a turn, which need not end, and returns its name.
func create(t *testing.T, conn grpc.ClientConnInterface) string {
	t.Helper()
	turn, err := chatsvcv1.NewChatServiceClient(conn).CreateTurn(within(t), &chatsvcv1.CreateTurnRequest{
		RequestId: "one", Wait: chatsvcv1.Wait_WAIT_NO_WAIT,
	})
	if err != nil {
		t.Fatal(err)
	}
	return turn.GetName()
}
