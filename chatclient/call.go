package chatclient

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	// turnHeader is the response header that names the turn.
	turnHeader = "chatsvc-turn"
	// maxBroken is how often in a row a call goes on after INTERNAL without a reason. A reset stream looks like that, but so
	// does a message that one side cannot decode, and never will.
	maxBroken = 3
	// maxRestarts is how often a call sends its request again because the turn has FAILED. Each is a generation that may
	// be paid for, and a request that stops every server which takes it must not go round all of them for ever.
	maxRestarts = 3
	// trailerTime is how long the end of an RPC may come after the terminal event.
	trailerTime = time.Second
)

// call is one Create, Stream or Watch, over as many RPCs as it takes.
type call struct {
	client  *Client
	request *chatsvcv1.CreateTurnRequest // nil for Watch
	unary   bool                         // begin with CreateTurn
	detach  bool

	// The rest but for known is the reading goroutine's.
	confirmed bool            // the turn is known to exist; otherwise only an error has named it
	lost      bool            // a request may have become a turn, and no answer said so
	after     int64           // the last sequence number seen
	output    bool            // the reader has output that a reset has to void
	expired   bool            // events are missing: the turn itself has to tell
	tries     int             // repeats since something new came
	broken    int             // those of them after INTERNAL without a reason
	restarts  int             // requests sent again because their turn had FAILED
	last      error           // why the call was repeated last
	turn      *chatsvcv1.Turn // as it ended; nil until then

	known known
}

// known is what has to be known to cancel the turn, at any moment.
type known struct {
	mu   sync.Mutex
	name string // of the turn
	open bool   // a request was sent that may have become a turn whose name did not arrive
}

func (k *known) get() (name string, open bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.name, k.open
}

func (k *known) set(name string, open bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.name, k.open = name, open
}

// send notes that a request is about to be sent, unless ctx has ended, and reports whether it may be. As both happen
// under the lock, whoever cancels the turn after ctx has ended sees every request that was sent.
func (k *known) send(ctx context.Context) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	k.name, k.open = "", true
	return true
}

// name returns the turn's name, or "".
func (c *call) name() string {
	name, _ := c.known.get()
	return name
}

// confirm notes the name of a turn that exists.
func (c *call) confirm(name string) {
	if name != "" {
		c.confirmed = true
		c.known.set(name, false)
	}
}

// forget goes back to where no turn is known.
func (c *call) forget() {
	c.known.set("", false)
	c.confirmed, c.lost, c.expired, c.output, c.after = false, false, false, false, 0
}

// run makes the call and gives its events to yield, the terminal one last. It returns nil if the turn has an answer, and
// errLeft if yield did not want more.
func (c *call) run(ctx context.Context, yield func(*chatsvcv1.TurnEvent) bool) error {
	if err := ctx.Err(); err != nil {
		return &endedError{context: err}
	}
	// The RPCs outlive the cancelling of ctx, until the turn is cancelled: its name may be on its way, or its end. But no
	// request is sent any more.
	rpcs, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		rpcs, cancel = context.WithDeadline(rpcs, deadline)
		defer cancel()
	}
	var cancelled *chatsvcv1.Turn
	var notCancelled error
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		defer hangUp()
		if errors.Is(ctx.Err(), context.Canceled) {
			cancelled, notCancelled = c.cancel(ctx)
		}
	})
	defer stop()

	err := c.follow(ctx, rpcs, yield)
	if !stop() {
		<-done
	} else if errors.Is(err, errLeft) {
		cancelled, notCancelled = c.cancel(ctx)
	}
	if c.turn != nil {
		return c.explain(ctx, err, nil)
	}
	if notCancelled != nil && errors.Is(err, errLeft) { // No error reaches a reader that has left.
		c.client.options.Logger.LogAttrs(ctx, slog.LevelWarn, "chatsvc stream was left", slog.Any("error", notCancelled))
	}
	if !ended(cancelled) {
		return c.explain(ctx, err, notCancelled)
	}
	if errors.Is(err, errLeft) {
		c.turn = cancelled
		return err
	}
	event, err := c.instead(cancelled, yield)
	if err == nil {
		err = c.conclude(event, yield)
	}
	return c.explain(ctx, err, nil)
}

// follow makes RPCs until one shows the end of the turn, or an error that no repeat helps against.
func (c *call) follow(ctx, rpcs context.Context, yield func(*chatsvcv1.TurnEvent) bool) error {
	for {
		terminal, err := c.attempt(ctx, rpcs, yield)
		var wait time.Duration
		switch {
		case err == nil:
			turn := terminal.GetTerminal().GetTurn()
			if !c.startsAgain(turn) || ctx.Err() != nil {
				return c.conclude(terminal, yield)
			}
			err = turnError(turn)
			if !c.reset(yield) {
				return errLeft
			}
			c.forget()
			wait = c.client.options.backoff(c.restarts, retryDelay(err))
			c.restarts++
		case c.repeats(err):
			wait = c.client.options.backoff(c.tries, retryDelay(err))
			c.tries++
		default:
			return err
		}
		if ctx.Err() == nil {
			c.last = err
		}
		c.client.options.Logger.LogAttrs(ctx, slog.LevelDebug, "chatsvc call goes on", slog.Any("after", err),
			slog.String("turn", c.name()), slog.Int64("sequence", c.after), slog.Duration("wait", wait))
		if !pause(rpcs, wait) {
			return status.FromContextError(rpcs.Err()).Err()
		}
	}
}

// startsAgain reports whether the request is to be sent again because its turn FAILED, by no fault of its own or the
// provider's, and not for the last time.
func (c *call) startsAgain(turn *chatsvcv1.Turn) bool {
	return c.request != nil && c.restarts < maxRestarts &&
		turn.GetState() == chatsvcv1.TurnState_TURN_STATE_FAILED && repeatable(Reason(turnError(turn)))
}

// repeats decides whether to go on after an error, and notes what it says about the turn.
func (c *call) repeats(err error) bool {
	if errors.Is(err, errLeft) {
		return false
	}
	name := c.name()
	info := errorInfo(err)
	if info == nil {
		c.lost = true
		switch status.Code(err) {
		case codes.Unavailable:
			return true
		case codes.Internal:
			c.broken++
			return c.broken <= maxBroken
		default:
			return false
		}
	}
	switch reason := Reason(err); {
	case repeatable(reason):
		if name == "" {
			// Of a write that failed, only the store knows whether it happened.
			c.lost = c.lost || reason == chatsvcv1.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE
			c.known.set(info.GetMetadata()["turn"], c.lost)
		}
		return true
	case name == "":
		c.known.set("", c.lost)
		return false
	case reason == chatsvcv1.ErrorReason_ERROR_REASON_EVENTS_EXPIRED:
		c.expired = true
		return true
	case reason == chatsvcv1.ErrorReason_ERROR_REASON_NOT_FOUND && !c.confirmed && c.request != nil:
		c.forget() // It was never recorded.
		return true
	default:
		return false
	}
}

// conclude gives the terminal event and returns the error that the turn stands for.
func (c *call) conclude(terminal *chatsvcv1.TurnEvent, yield func(*chatsvcv1.TurnEvent) bool) error {
	c.turn = terminal.GetTerminal().GetTurn()
	if !yield(terminal) {
		return errLeft
	}
	return turnError(c.turn)
}

// explain returns an error as the caller sees it, together with why the turn was not cancelled, or nil.
func (c *call) explain(ctx context.Context, err, notCancelled error) error {
	if err == nil || errors.Is(err, errLeft) {
		return err
	}
	end := contextEnd(ctx, err)
	if end == nil && notCancelled != nil {
		end = ctx.Err()
	}
	if end == nil {
		return err
	}
	if errorInfo(err) == nil && c.last != nil {
		err = c.last // What gRPC says about a context that has ended, its own error says better.
	}
	return &endedError{context: end, last: err, notCancelled: notCancelled}
}

// reset voids what the reader has of the output, if anything. It reports whether the reader wants more.
func (c *call) reset(yield func(*chatsvcv1.TurnEvent) bool) bool {
	if !c.output {
		return true
	}
	c.output = false
	return yield(&chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_OutputReset{OutputReset: &chatsvcv1.OutputReset{}}})
}

// instead returns a terminal event for a turn whose own will not be read, having voided what its other events gave.
func (c *call) instead(turn *chatsvcv1.Turn, yield func(*chatsvcv1.TurnEvent) bool) (*chatsvcv1.TurnEvent, error) {
	if !c.reset(yield) {
		return nil, errLeft
	}
	return &chatsvcv1.TurnEvent{
		Sequence: turn.GetLastSequence(), EventTime: turn.GetEndTime(),
		Event: &chatsvcv1.TurnEvent_Terminal{Terminal: &chatsvcv1.Terminal{Turn: turn}},
	}, nil
}

// ended reports whether a turn is in a final state.
func ended(turn *chatsvcv1.Turn) bool {
	switch turn.GetState() {
	case chatsvcv1.TurnState_TURN_STATE_UNSPECIFIED, chatsvcv1.TurnState_TURN_STATE_QUEUED, chatsvcv1.TurnState_TURN_STATE_RUNNING:
		return false
	default:
		return true
	}
}
