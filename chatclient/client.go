package chatclient

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// Client starts turns and reads them. It has no state of its own and is safe for concurrent use.
type Client struct {
	chat    chatsvcv1.ChatServiceClient
	options Options
	silence time.Duration // Shorter in tests, which cannot wait for it.
}

// Options of a Client. The zero value is good for production.
type Options struct {
	// MinBackoff and MaxBackoff bound the wait before a repeat: it is random, between 0 and a limit that begins at
	// MinBackoff and doubles up to MaxBackoff, until something new has come. Unset is 50 ms and 5 s.
	MinBackoff, MaxBackoff time.Duration
	// Logger gets a line at level debug for each repeat, and one at level warn when a stream was left early and its turn
	// could not be cancelled, which nothing else can tell. Nil logs nothing.
	Logger *slog.Logger
}

// New returns a client that calls over conn, which stays the caller's to close. Any connection will do; [Dial] makes a good
// one.
func New(conn grpc.ClientConnInterface, options Options) *Client {
	if options.MinBackoff <= 0 {
		options.MinBackoff = 50 * time.Millisecond
	}
	if options.MaxBackoff <= 0 {
		options.MaxBackoff = 5 * time.Second
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{chat: chatsvcv1.NewChatServiceClient(conn), options: options, silence: silence}
}

// A CallOption changes one call.
type CallOption struct{ detach bool }

// Detach leaves the turn alone when the call's context is cancelled or its stream is left early: it goes on, is paid for,
// and can be read later.
func Detach() CallOption { return CallOption{detach: true} }

// Create starts a turn, waits for its end and returns it, COMPLETED or INCOMPLETE. A turn that ends otherwise gives an error,
// whose ErrorInfo names it. With WAIT_NO_WAIT the turn is returned as soon as it is recorded, in whatever state.
//
// While it waits nothing comes, not even heartbeats: that the server hangs, only the connection's pings show, which [Dial]
// asks for. On a connection without them, give the context a deadline, or use [Client.Stream].
func (c *Client) Create(ctx context.Context, request *chatsvcv1.CreateTurnRequest, options ...CallOption) (*chatsvcv1.Turn, error) {
	call := c.newCall(request, options)
	call.unary = true
	if err := call.run(ctx, func(*chatsvcv1.TurnEvent) bool { return true }); err != nil {
		return nil, err
	}
	return call.turn, nil
}

// Stream starts a turn and reads it while it is generated. Nothing is sent until the stream is read; the request is copied
// now.
func (c *Client) Stream(ctx context.Context, request *chatsvcv1.CreateTurnRequest, options ...CallOption) *Stream {
	return &Stream{ctx: ctx, call: c.newCall(request, options)}
}

// Watch reads a turn that exists, from after the sequence number that was seen last; 0 is from the beginning. It
// ends as the turn does: a FAILED turn ends the stream with its error. Watch starts nothing and cancels nothing.
func (c *Client) Watch(ctx context.Context, name string, afterSequence int64) *Stream {
	call := &call{client: c, detach: true, after: afterSequence}
	call.confirm(name)
	return &Stream{ctx: ctx, call: call}
}

// newCall returns a call for a copy of the request that has an id.
func (c *Client) newCall(request *chatsvcv1.CreateTurnRequest, options []CallOption) *call {
	copied := &chatsvcv1.CreateTurnRequest{}
	proto.Merge(copied, request)
	if copied.GetRequestId() == "" {
		copied.RequestId = uuid.Must(uuid.NewV7()).String() // Fails only without randomness, and then Go has stopped already.
	}
	call := &call{client: c, request: copied}
	for _, o := range options {
		call.detach = call.detach || o.detach
	}
	return call
}
