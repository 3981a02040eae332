package chatclient

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	// cancelTime is how long a call whose caller has left goes on, to cancel its turn.
	cancelTime = 2 * time.Second
	// cancelPatience is how long a try may be without an answer before another one goes out beside it.
	cancelPatience = 250 * time.Millisecond
	// cancelPause is the longest wait after a try that failed.
	cancelPause = 200 * time.Millisecond
)

// cancelAnswer is what a try to cancel came to; empty if there is no turn yet.
type cancelAnswer struct {
	turn *chatsvcv1.Turn // as it ended
	name string          // of a turn that was found, still to be cancelled
	err  error
}

// cancel cancels the call's turn, unless it is to go on, and returns it as it ended; nil if there is nothing to cancel. Its
// error is an [ErrNotCancelled]. It may run beside the RPCs of the call, and on the call's context that has ended.
//
// A server that hangs must not have all the time there is, and one that is slow must not be given up: while no answer
// comes, another try goes out beside those before, which a balancer sends to another server, and the first answer counts.
func (c *call) cancel(ctx context.Context) (*chatsvcv1.Turn, error) {
	if c.detach {
		return nil, nil //nolint:nilnil // Nothing is to be cancelled.
	}
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	var tries sync.WaitGroup
	defer tries.Wait()
	defer done()
	waits := Options{MinBackoff: min(c.client.options.MinBackoff, cancelPause), MaxBackoff: cancelPause}
	answers := make(chan cancelAnswer)
	next := time.NewTimer(0)
	defer next.Stop()
	var found string
	for try := 0; ; {
		select {
		case <-next.C:
			name, open := c.known.get()
			name = cmp.Or(name, found)
			if name == "" && !open {
				return nil, nil //nolint:nilnil // There is nothing to cancel.
			}
			tries.Go(func() {
				answer := c.cancelOnce(ctx, name)
				select {
				case answers <- answer:
				case <-ctx.Done():
				}
			})
			next.Reset(cancelPatience)
			try++
		case answer := <-answers:
			switch {
			case answer.turn != nil:
				return answer.turn, nil
			case answer.name != "":
				if found == "" {
					next.Reset(0)
				}
				found = answer.name
			case answer.err != nil && !cancelsAgain(answer.err):
				return nil, c.notCancelled(found, status.Convert(answer.err).Message())
			default:
				next.Reset(min(cancelPause, waits.backoff(try-1, retryDelay(answer.err))))
			}
		case <-ctx.Done():
			return nil, c.notCancelled(found, fmt.Sprintf("no server has said so within %v", cancelTime))
		}
	}
}

// cancelOnce makes one RPC: it cancels the turn of that name, or else looks for the one with the request's id.
func (c *call) cancelOnce(ctx context.Context, name string) cancelAnswer {
	if name != "" {
		turn, err := c.client.chat.CancelTurn(ctx, &chatsvcv1.CancelTurnRequest{Name: name})
		if err != nil {
			return cancelAnswer{err: err}
		}
		return cancelAnswer{turn: turn}
	}
	found, err := c.client.chat.ListTurns(ctx, &chatsvcv1.ListTurnsRequest{RequestId: c.request.GetRequestId()})
	for _, turn := range found.GetTurns() {
		if turn.GetState() != chatsvcv1.TurnState_TURN_STATE_FAILED { // At most one.
			return cancelAnswer{name: turn.GetName()}
		}
	}
	return cancelAnswer{err: err}
}

// cancelsAgain reports whether another try may go better than the one that ended with err.
func cancelsAgain(err error) bool {
	switch code := status.Code(err); {
	case code == codes.DeadlineExceeded: // The server's or ours: there may be time for one that is under way.
		return true
	case errorInfo(err) != nil:
		return repeatable(Reason(err))
	default:
		return code == codes.Unavailable || code == codes.Internal // Internal is what a reset stream looks like.
	}
}

// notCancelled returns the error for a turn that may go on, which it names as well as it can.
func (c *call) notCancelled(found, why string) error {
	name := cmp.Or(c.name(), found)
	if name == "" {
		name = fmt.Sprintf("request_id %q", c.request.GetRequestId())
	}
	return fmt.Errorf("%w (%s): %s", ErrNotCancelled, name, why)
}
