package chatclient

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	// cancelTime is how long a call whose caller has left goes on, to cancel its turn.
	cancelTime = 2 * time.Second
	// cancelPause is the longest wait between two tries within it.
	cancelPause = 200 * time.Millisecond
)

// cancel cancels the call's turn, unless it is to go on, and returns it as it ended; nil if there is nothing to cancel or
// the service does not say in time. It may run beside the RPCs of the call, and on the call's context that has ended.
func (c *call) cancel(ctx context.Context) *chatsvcv1.Turn {
	if c.detach {
		return nil
	}
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	defer done()
	waits := Options{MinBackoff: min(c.client.options.MinBackoff, cancelPause), MaxBackoff: cancelPause}
	for try := 0; ; try++ {
		name, open := c.known.get()
		if name == "" && !open {
			return nil
		}
		turn, err := c.cancelOnce(ctx, name)
		switch {
		case err == nil && turn != nil:
			return turn
		case err != nil && errorInfo(err) == nil && status.Code(err) != codes.Unavailable,
			err != nil && errorInfo(err) != nil && !repeatable(Reason(err)):
			c.client.options.Logger.LogAttrs(ctx, slog.LevelDebug, "chatsvc turn is not cancelled", slog.Any("error", err))
			return nil
		}
		if !pause(ctx, waits.backoff(try, retryDelay(err))) {
			return nil
		}
	}
}

// cancelOnce cancels the turn of that name, or else the one with the request's id. It returns nil without an error if
// there is none yet.
func (c *call) cancelOnce(ctx context.Context, name string) (*chatsvcv1.Turn, error) {
	if name == "" {
		found, err := c.client.chat.ListTurns(ctx, &chatsvcv1.ListTurnsRequest{RequestId: c.request.GetRequestId()})
		if err != nil {
			return nil, err
		}
		for _, turn := range found.GetTurns() {
			if turn.GetState() != chatsvcv1.TurnState_TURN_STATE_FAILED { // At most one.
				name = turn.GetName()
			}
		}
		if name == "" {
			return nil, nil //nolint:nilnil // Neither is the news: it may come.
		}
	}
	return c.client.chat.CancelTurn(ctx, &chatsvcv1.CancelTurnRequest{Name: name})
}
