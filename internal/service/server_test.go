package service

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
	"github.com/chatsvc/chatsvc/internal/turn"
)

// client is a connection to a server with all three services.
type client struct {
	chatsvcv1.ChatServiceClient
	chatsvcv1.ConversationServiceClient
	chatsvcv1.CallerServiceClient
	conn *grpc.ClientConn
}

// serve serves the data plane.
func serve(t *testing.T, e engine, s Store) client {
	t.Helper()
	conn := serveOn(t, func(r grpc.ServiceRegistrar) { register(r, e, s) }, nil)
	return client{
		chatsvcv1.NewChatServiceClient(conn), chatsvcv1.NewConversationServiceClient(conn), chatsvcv1.NewCallerServiceClient(conn), conn,
	}
}

// serveOn serves on loopback until the test ends. The interceptors do what the handlers rely on, and no more: they name the
// caller by the metadata of the call, see as, and turn errors into statuses. failed, if set, sees those errors.
func serveOn(t *testing.T, register func(grpc.ServiceRegistrar), failed func(error)) *grpc.ClientConn {
	t.Helper()
	toStatus := func(err error) error {
		if err != nil && failed != nil {
			failed(err)
		}
		return ToStatus(err)
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			resp, err := next(withCaller(ctx), req)
			return resp, toStatus(err)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return toStatus(next(srv, callerStream{stream, withCaller(stream.Context())}))
		}),
		grpc.MaxRecvMsgSize(16<<20),
		grpc.WaitForHandlers(true),
	)
	register(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return conn
}

// withCaller returns the context of a call with the principal that as has asked for.
func withCaller(ctx context.Context) context.Context {
	team := metadata.ValueFromIncomingContext(ctx, "team")
	if len(team) != 1 {
		return ctx
	}
	p := auth.Principal{Team: team[0], Client: "checkout", CredentialID: "key:test", AllowedModels: metadata.ValueFromIncomingContext(ctx, "model")}
	for _, name := range metadata.ValueFromIncomingContext(ctx, "role") {
		role, err := tenant.ParseRole(name)
		if err != nil {
			panic(err)
		}
		p.Roles |= tenant.RolesOf(role)
	}
	return auth.NewContext(ctx, p)
}

type callerStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // A stream's context is how gRPC hands it on.
}

func (s callerStream) Context() context.Context { return s.ctx }

// as returns the context of a call by a team's client with some roles.
func as(t *testing.T, team string, roles ...tenant.Role) context.Context {
	t.Helper()
	pairs := []string{"team", team}
	for _, role := range roles {
		pairs = append(pairs, "role", role.String())
	}
	return metadata.AppendToOutgoingContext(t.Context(), pairs...)
}

// engineStub is an engine whose methods a test sets; one that is not set must not be called.
type engineStub struct {
	start  func(ctx context.Context, r *turn.Request) (reader, error)
	watch  func(ctx context.Context, team string, id conversation.ID, after int64) (reader, error)
	cancel func(ctx context.Context, team string, id conversation.ID) (*conversation.Turn, error)
}

func (e *engineStub) Start(ctx context.Context, r *turn.Request) (reader, error) {
	return e.start(ctx, r)
}

func (e *engineStub) Watch(ctx context.Context, team string, id conversation.ID, after int64) (reader, error) {
	return e.watch(ctx, team, id, after)
}

func (e *engineStub) Cancel(ctx context.Context, team string, id conversation.ID) (*conversation.Turn, error) {
	return e.cancel(ctx, team, id)
}

// storeStub is a store whose methods a test sets; one that is not set must not be called.
type storeStub struct {
	Store
	getConversation    func(team string, id conversation.ID) (*conversation.Conversation, error)
	createConversation func(c *conversation.Conversation) error
	forkConversation   func(c *conversation.Conversation, from, turn conversation.ID) error
	listConversations  func(team string, before conversation.ID, limit int) ([]*conversation.Conversation, error)
	updateConversation func(c *conversation.Conversation) (*conversation.Conversation, error)
	deleteConversation func(team string, id conversation.ID, version conversation.Version) error
	listMessages       func(team string, id conversation.ID, before conversation.Place, from int64, limit, maxBytes int) ([]*conversation.StoredMessage, error)
	getTurn            func(team string, id conversation.ID, content bool) (*conversation.Turn, error)
	listTurns          func(team string, filter conversation.TurnFilter, before conversation.ID, limit int) ([]*conversation.Turn, error)
	deleteTurn         func(team string, id conversation.ID) error
}

func (s *storeStub) GetConversation(_ context.Context, team string, id conversation.ID) (*conversation.Conversation, error) {
	return s.getConversation(team, id)
}

func (s *storeStub) CreateConversation(_ context.Context, c *conversation.Conversation) error {
	return s.createConversation(c)
}

func (s *storeStub) ForkConversation(_ context.Context, c *conversation.Conversation, from, turn conversation.ID) error {
	return s.forkConversation(c, from, turn)
}

func (s *storeStub) ListConversations(_ context.Context, team string, before conversation.ID, limit int) ([]*conversation.Conversation, error) {
	return s.listConversations(team, before, limit)
}

func (s *storeStub) UpdateConversation(_ context.Context, c *conversation.Conversation) (*conversation.Conversation, error) {
	return s.updateConversation(c)
}

func (s *storeStub) DeleteConversation(_ context.Context, team string, id conversation.ID, version conversation.Version) error {
	return s.deleteConversation(team, id, version)
}

func (s *storeStub) ListMessages(
	_ context.Context, team string, id conversation.ID, before conversation.Place, from int64, limit, maxBytes int,
) ([]*conversation.StoredMessage, error) {
	return s.listMessages(team, id, before, from, limit, maxBytes)
}

func (s *storeStub) GetTurn(_ context.Context, team string, id conversation.ID, content bool) (*conversation.Turn, error) {
	return s.getTurn(team, id, content)
}

func (s *storeStub) ListTurns(
	_ context.Context, team string, filter conversation.TurnFilter, before conversation.ID, limit int,
) ([]*conversation.Turn, error) {
	return s.listTurns(team, filter, before, limit)
}

func (s *storeStub) DeleteTurn(_ context.Context, team string, id conversation.ID) error {
	return s.deleteTurn(team, id)
}

// tape is a reader of events that are there already. Without a terminal event among them it waits at the end, like the
// reader of a turn that runs.
type tape struct {
	events []conversation.Event
	closed chan struct{} // closed by Close
}

func newTape(events ...conversation.Event) *tape {
	for i := range events {
		events[i].Sequence = int64(i) + 1
	}
	return &tape{events: events, closed: make(chan struct{})}
}

func (r *tape) Turn() conversation.ID { return testID(1) }

func (r *tape) Next(ctx context.Context) ([]conversation.Event, error) {
	if len(r.events) == 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	next := r.events[:min(2, len(r.events))]
	r.events = r.events[len(next):]
	return next, nil
}

func (r *tape) End(ctx context.Context) (*conversation.Turn, error) {
	if n := len(r.events); n > 0 && r.events[n-1].Kind == conversation.EventTerminal {
		return r.events[n-1].Turn, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (r *tape) Close() { close(r.closed) }

// spent is a reader that is past the terminal event.
type spent struct{ *tape }

func (spent) Next(context.Context) ([]conversation.Event, error) { return nil, io.EOF }
