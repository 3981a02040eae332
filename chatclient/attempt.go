package chatclient

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// attempt makes the RPC that the call needs next, on the context rpcs. It returns the terminal event of the turn, not yet
// given to yield, or the error that the RPC ended with. Once ctx, the caller's, has ended, no request is sent any more:
// it could start a turn that nobody wants and nobody cancels.
func (c *call) attempt(ctx, rpcs context.Context, yield func(*chatsvcv1.TurnEvent) bool) (*chatsvcv1.TurnEvent, error) {
	switch name := c.name(); {
	case name != "" && (c.expired || c.waitsNot()):
		return c.get(rpcs, name, yield)
	case name != "", c.request == nil:
		return c.read(rpcs, yield, func(ctx context.Context) (events, error) {
			return c.client.chat.WatchTurn(ctx, &chatsvcv1.WatchTurnRequest{Name: name, AfterSequence: c.after})
		})
	case !c.known.send(ctx):
		return nil, status.FromContextError(ctx.Err()).Err()
	case c.unary:
		return c.create(rpcs, yield)
	default:
		return c.read(rpcs, yield, func(ctx context.Context) (events, error) {
			return c.client.chat.StreamTurn(ctx, c.request)
		})
	}
}

// events is what StreamTurn and WatchTurn return.
type events = grpc.ServerStreamingClient[chatsvcv1.TurnEvent]

// waitsNot reports whether the call is done when the turn is recorded.
func (c *call) waitsNot() bool { return c.unary && c.request.GetWait() == chatsvcv1.Wait_WAIT_NO_WAIT }

// create calls CreateTurn.
func (c *call) create(ctx context.Context, yield func(*chatsvcv1.TurnEvent) bool) (*chatsvcv1.TurnEvent, error) {
	var header metadata.MD
	turn, err := c.client.chat.CreateTurn(ctx, c.request, grpc.Header(&header))
	c.confirmHeader(header)
	if err != nil {
		return nil, err
	}
	return c.instead(turn, yield)
}

// get calls GetTurn, for a turn whose events cannot be had or are not wanted.
func (c *call) get(ctx context.Context, name string, yield func(*chatsvcv1.TurnEvent) bool) (*chatsvcv1.TurnEvent, error) {
	turn, err := c.client.chat.GetTurn(ctx, &chatsvcv1.GetTurnRequest{Name: name, View: chatsvcv1.TurnView_TURN_VIEW_OUTPUT})
	if err != nil {
		return nil, err
	}
	c.confirm(name)
	if !ended(turn) && !c.waitsNot() {
		c.expired = false
		return nil, errNoEnd
	}
	return c.instead(turn, yield)
}

// silence is how long a stream may bring nothing before its connection counts as lost. The server sends a heartbeat after
// 15 s of quiet: two of them are missing then, and were given a moment.
const silence = 2*15*time.Second + 2*time.Second

// read reads the events of StreamTurn or WatchTurn. If it hears nothing for the client's silence, it returns errSilent; the
// time that the reader takes for an event does not count.
func (c *call) read(
	ctx context.Context, yield func(*chatsvcv1.TurnEvent) bool, open func(context.Context) (events, error),
) (*chatsvcv1.TurnEvent, error) {
	ctx, hangUp := context.WithCancelCause(ctx)
	defer hangUp(nil)
	quiet := time.AfterFunc(c.client.silence, func() { hangUp(errSilent) })
	defer quiet.Stop()
	stream, err := open(ctx)
	if err != nil {
		return nil, silentError(ctx, err)
	}
	header, err := stream.Header()
	if err != nil {
		return nil, silentError(ctx, err)
	}
	c.confirmHeader(header)
	for {
		quiet.Reset(c.client.silence)
		event, err := stream.Recv()
		quiet.Stop()
		switch {
		case errors.Is(err, io.EOF):
			c.expired = true // A reader that had the terminal event before gets nothing more.
			return nil, errNoEnd
		case err != nil:
			return nil, silentError(ctx, err)
		case !c.take(event):
			continue
		case event.GetTerminal() != nil:
			awaitTrailer(stream, func() { hangUp(nil) })
			return event, nil
		case !yield(event):
			return nil, errLeft
		}
	}
}

// silentError returns errSilent for what gRPC says when that has ended the RPC's context.
func silentError(ctx context.Context, err error) error {
	if errorInfo(err) == nil && errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

// take notes what an event says and reports whether it is one for the reader: each event of the log once, and of the notes
// those about the turn.
func (c *call) take(event *chatsvcv1.TurnEvent) bool {
	switch event.GetEvent().(type) {
	case *chatsvcv1.TurnEvent_Heartbeat, *chatsvcv1.TurnEvent_Draining:
		return false
	case *chatsvcv1.TurnEvent_QueueUpdate:
		return true
	}
	if event.GetSequence() <= c.after {
		return false
	}
	c.after = event.GetSequence()
	c.tries, c.broken, c.last = 0, 0, nil
	switch e := event.GetEvent().(type) {
	case *chatsvcv1.TurnEvent_Accepted:
		c.confirm(e.Accepted.GetTurn())
	case *chatsvcv1.TurnEvent_OutputReset:
		c.output = false
	case *chatsvcv1.TurnEvent_TextDelta, *chatsvcv1.TurnEvent_ReasoningDelta,
		*chatsvcv1.TurnEvent_RefusalDelta, *chatsvcv1.TurnEvent_ToolCallDelta:
		c.output = true
	}
	return true
}

// confirmHeader notes the turn that a response header names.
func (c *call) confirmHeader(header metadata.MD) {
	if names := header.Get(turnHeader); len(names) > 0 {
		c.confirm(names[0])
	}
}

// awaitTrailer lets the RPC end by itself, so that the server does not count it as one that its caller broke off. How it
// ends does not matter any more.
func awaitTrailer(stream events, hangUp func()) {
	late := time.AfterFunc(trailerTime, hangUp)
	defer late.Stop()
	for {
		if _, err := stream.Recv(); err != nil {
			return
		}
	}
}
