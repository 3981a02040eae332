package interceptor

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/telemetry"
)

// toStatus stands in for the mapping of internal/service.
func toStatus(err error) error {
	domain := &conversation.Error{Reason: conversation.Internal, Message: "a fault in chatsvc"}
	errors.As(err, &domain)
	code, ok := map[conversation.Reason]codes.Code{
		conversation.InvalidRequest:      codes.InvalidArgument,
		conversation.CredentialMissing:   codes.Unauthenticated,
		conversation.CredentialInvalid:   codes.Unauthenticated,
		conversation.NotFound:            codes.NotFound,
		conversation.UpstreamUnavailable: codes.Unavailable,
	}[domain.Reason]
	if !ok {
		code = codes.Internal
	}
	info := &errdetails.ErrorInfo{Reason: string(domain.Reason), Domain: "chatsvc"}
	if domain.Turn != (conversation.ID{}) {
		info.Metadata = map[string]string{"turn": "turns/from-the-error"}
	}
	st, err := status.New(code, domain.Message).WithDetails(info)
	if err != nil {
		return err
	}
	return st.Err()
}

// chat is a ChatService whose methods do what the test says.
type chat struct {
	chatsvcv1.UnimplementedChatServiceServer
	handler func(ctx context.Context) error
}

func (c *chat) CreateTurn(ctx context.Context, _ *chatsvcv1.CreateTurnRequest) (*chatsvcv1.Turn, error) {
	if err := c.handler(ctx); err != nil {
		return nil, err
	}
	return &chatsvcv1.Turn{}, nil
}

func (c *chat) StreamTurn(_ *chatsvcv1.CreateTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
	if err := c.handler(stream.Context()); err != nil {
		return err
	}
	return stream.Send(&chatsvcv1.TurnEvent{})
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// take returns the lines so far, parsed, and forgets them.
func (l *lines) take(t *testing.T) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var parsed []map[string]any
	for line := range strings.Lines(l.buf.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, m)
	}
	l.buf.Reset()
	return parsed
}

// fixture is a real server on loopback and a client of it.
type fixture struct {
	server *grpc.Server
	addr   string
	conn   *grpc.ClientConn
	chat   *chat
	log    *lines
}

func start(t *testing.T, change func(*Options)) *fixture {
	t.Helper()
	keys, err := auth.NewAPIKeys([]auth.APIKey{{SHA256: auth.Digest("sk-red"), Team: "red", Client: "web"}})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{chat: &chat{handler: func(context.Context) error { return nil }}, log: &lines{}}
	opts := Options{
		Logger:        telemetry.NewLogger(f.log, slog.LevelDebug, false),
		Authenticator: keys,
		ToStatus:      toStatus,
	}
	if change != nil {
		change(&opts)
	}
	serverOptions, err := ServerOptions(opts)
	if err != nil {
		t.Fatal(err)
	}
	f.server = grpc.NewServer(serverOptions...)
	chatsvcv1.RegisterChatServiceServer(f.server, f.chat)
	healthpb.RegisterHealthServer(f.server, health.NewServer())
	reflection.RegisterV1(f.server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = listener.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f.server.Serve(listener); err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	f.conn, err = grpc.NewClient(f.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.conn.Close(); err != nil {
			t.Error(err)
		}
		f.server.Stop()
		wg.Wait()
	})
	return f
}

// twins are the two kinds of RPC with the same request.
type twin struct {
	method string
	call   func(ctx context.Context, conn *grpc.ClientConn, req *chatsvcv1.CreateTurnRequest) error
}

func twins() []twin {
	return []twin{
		{method: chatsvcv1.ChatService_CreateTurn_FullMethodName, call: func(ctx context.Context, conn *grpc.ClientConn, req *chatsvcv1.CreateTurnRequest) error {
			_, err := chatsvcv1.NewChatServiceClient(conn).CreateTurn(ctx, req)
			return err
		}},
		{method: chatsvcv1.ChatService_StreamTurn_FullMethodName, call: func(ctx context.Context, conn *grpc.ClientConn, req *chatsvcv1.CreateTurnRequest) error {
			stream, err := chatsvcv1.NewChatServiceClient(conn).StreamTurn(ctx, req)
			if err != nil {
				return err
			}
			for {
				if _, err := stream.Recv(); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
			}
		}},
	}
}

func reasonOf(err error) string {
	return errorInfo(err).GetReason()
}

func TestOrder(t *testing.T) {
	chain, err := newChain(&Options{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range chain {
		names = append(names, l.name)
		if l.unary == nil || l.stream == nil {
			t.Errorf("%s lacks a twin", l.name)
		}
	}
	if want := []string{"log", "recover", "auth", "validate"}; !slices.Equal(names, want) {
		t.Errorf("order %v, want %v", names, want)
	}
}

// TestChain runs each case over both kinds of RPC: they must not differ.
func TestChain(t *testing.T) {
	good := &chatsvcv1.CreateTurnRequest{Text: "a secret prompt"}
	bad := &chatsvcv1.CreateTurnRequest{Conversation: "a secret prompt", Model: "a secret model"}
	tests := []struct {
		name          string
		authorization []string
		req           *chatsvcv1.CreateTurnRequest
		handler       func(ctx context.Context) error
		code          codes.Code
		reason        string
		called        bool
		line          map[string]any // what the log line has beside what every line has
		stack         bool
	}{
		{
			name: "success", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			line: map[string]any{"level": "INFO", "team": "red", "client": "web"},
		},
		{
			name: "the handler names the turn", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(ctx context.Context) error { FieldsFrom(ctx).SetTurn("turns/1"); return nil },
			line:    map[string]any{"level": "INFO", "team": "red", "client": "web", "turn": "turns/1"},
		},
		{
			name: "no credential and a bad request", req: bad, code: codes.Unauthenticated, reason: "CREDENTIAL_MISSING",
			line: map[string]any{"level": "INFO"},
		},
		{
			name: "unknown key", authorization: []string{"Bearer sk-blue"}, req: good, code: codes.Unauthenticated, reason: "CREDENTIAL_INVALID",
			line: map[string]any{"level": "INFO"},
		},
		{
			name: "two headers", authorization: []string{"Bearer sk-red", "Bearer sk-red"}, req: good, code: codes.Unauthenticated, reason: "CREDENTIAL_INVALID",
			line: map[string]any{"level": "INFO"},
		},
		{
			name: "bad request", authorization: []string{"Bearer sk-red"}, req: bad, code: codes.InvalidArgument, reason: "INVALID_REQUEST",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web"},
		},
		{
			name: "domain error", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error { return conversation.ErrNotFound },
			code:    codes.NotFound, reason: "NOT_FOUND",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web"},
		},
		{
			name: "domain error with a cause and a turn", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error {
				return &conversation.Error{
					Reason: conversation.UpstreamUnavailable, Message: "the provider answers with an error", Turn: conversation.ID{1}, Cause: errors.New("502"),
				}
			},
			code: codes.Unavailable, reason: "UPSTREAM_UNAVAILABLE",
			line: map[string]any{"level": "WARN", "team": "red", "client": "web", "error": "502", "turn": "turns/from-the-error"},
		},
		{
			name: "any other error", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error { return errors.New("disk on fire") },
			code:    codes.Internal, reason: "INTERNAL",
			line: map[string]any{"level": "ERROR", "team": "red", "client": "web", "error": "disk on fire"},
		},
		{
			name: "a status of the handler's own", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error { return status.Error(codes.OutOfRange, "beyond") },
			code:    codes.OutOfRange,
			line:    map[string]any{"level": "INFO", "team": "red", "client": "web"},
		},
		{
			name: "panic", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error { panic("at the disco" + strings.Repeat(" again", 1000)) },
			code:    codes.Internal, reason: "INTERNAL", stack: true,
			line: map[string]any{
				"level": "ERROR", "team": "red", "client": "web",
				"error": "panic: " + ("at the disco" + strings.Repeat(" again", 1000))[:maxPanicText] + "…",
			},
		},
	}
	for _, tw := range twins() {
		t.Run(tw.method[strings.LastIndex(tw.method, "/")+1:], func(t *testing.T) {
			f := start(t, nil)
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					called := false
					f.chat.handler = func(ctx context.Context) error {
						called = true
						if p, ok := auth.FromContext(ctx); !ok || p.Team != "red" || p.Client != "web" {
							t.Errorf("the handler sees the principal %+v", p)
						}
						if tt.handler == nil {
							return nil
						}
						return tt.handler(ctx)
					}
					ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{"authorization": tt.authorization})
					err := tw.call(ctx, f.conn, tt.req)
					if status.Code(err) != tt.code || reasonOf(err) != tt.reason {
						t.Errorf("answer %v with reason %q, want %s with %q", err, reasonOf(err), tt.code, tt.reason)
					}
					if called != tt.called {
						t.Errorf("handler called: %t", called)
					}
					if text := status.Convert(err).Message(); strings.Contains(text, "sk-") || strings.Contains(text, "disco") || strings.Contains(text, "fire") {
						t.Errorf("the answer tells too much: %s", text)
					}

					logged := f.log.take(t)
					if len(logged) != 1 {
						t.Fatalf("%d log lines: %v", len(logged), logged)
					}
					line := logged[0]
					want := map[string]any{"msg": "call", "method": tw.method, "code": tt.code.String()}
					maps.Copy(want, tt.line)
					if tt.reason != "" {
						want["reason"] = tt.reason
					}
					if peer, _ := line["peer"].(string); !strings.HasPrefix(peer, "127.0.0.1:") {
						t.Errorf("peer %q", peer)
					}
					if ms, _ := line["duration_ms"].(float64); ms <= 0 {
						t.Errorf("duration %v", line["duration_ms"])
					}
					if stack, _ := line["stack"].(string); strings.Contains(stack, "interceptor.TestChain") != tt.stack {
						t.Errorf("stack %q", stack)
					}
					for _, key := range []string{"time", "peer", "duration_ms", "stack"} {
						delete(line, key)
					}
					if got, want := asJSON(t, line), asJSON(t, want); got != want {
						t.Errorf("logged %s\nwant   %s", got, want)
					}
					if text := asJSON(t, logged); strings.Contains(text, "secret") || strings.Contains(text, "sk-") {
						t.Errorf("the log tells too much: %s", text)
					}
				})
			}
		})
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestViolations(t *testing.T) {
	f := start(t, nil)
	many := &chatsvcv1.CreateTurnRequest{Labels: map[string]string{}}
	for range 2000 {
		many.Labels[strings.Repeat("É", 1+len(many.Labels)%40)+strings.Repeat("x", len(many.Labels))] = "value"
	}
	for _, tw := range twins() {
		t.Run(tw.method, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer sk-red")
			bad := violations(t, tw.call(ctx, f.conn, &chatsvcv1.CreateTurnRequest{
				Model:  "no spaces, please",
				Config: &chatsvcv1.GenerationConfig{},
				Labels: map[string]string{"UPPER": "value"},
				Input:  []*chatsvcv1.Message{{Role: 99}},
			}))
			var fields []string
			for _, v := range bad.GetFieldViolations() {
				fields = append(fields, v.GetField())
				if v.GetDescription() == "" {
					t.Errorf("%s is not described", v.GetField())
				}
			}
			for _, want := range []string{"model", `labels["UPPER"]`, "input[0].role"} {
				if !slices.Contains(fields, want) {
					t.Errorf("%s is not named among %q", want, fields)
				}
			}
			if size := len(tw.details(ctx, t, f.conn, many)); size > 8<<10 {
				t.Errorf("a refusal of %d bytes, more than the headers that some clients take", size)
			}
		})
	}
}

func violations(t *testing.T, err error) *errdetails.BadRequest {
	t.Helper()
	for _, detail := range status.Convert(err).Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			return bad
		}
	}
	t.Fatalf("no BadRequest in %v", err)
	return nil
}

// details returns the refusal of req as it travels: message and details, the latter in base64.
func (tw twin) details(ctx context.Context, t *testing.T, conn *grpc.ClientConn, req *chatsvcv1.CreateTurnRequest) string {
	t.Helper()
	err := tw.call(ctx, conn, req)
	if len(violations(t, err).GetFieldViolations()) < 5 {
		t.Errorf("few violations are left: %v", err)
	}
	st := status.Convert(err)
	details, marshalErr := proto.Marshal(st.Proto())
	if marshalErr != nil {
		t.Fatal(marshalErr)
	}
	return url.PathEscape(st.Message()) + base64.StdEncoding.EncodeToString(details)
}

// TestWhoNeedsACredential goes through the services that are not ours.
func TestWhoNeedsACredential(t *testing.T) {
	tests := []struct {
		name string
		open bool
		key  string
		want codes.Code
	}{
		{name: "reflection, closed", want: codes.Unauthenticated},
		{name: "reflection, closed, with a key", key: "Bearer sk-red", want: codes.OK},
		{name: "reflection, open", open: true, want: codes.OK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, func(o *Options) { o.OpenReflection = tt.open })
			ctx := t.Context()
			if tt.key != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", tt.key)
			}
			stream, err := reflectionpb.NewServerReflectionClient(f.conn).ServerReflectionInfo(ctx)
			if err != nil {
				t.Fatal(err)
			}
			err = stream.Send(&reflectionpb.ServerReflectionRequest{
				MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
			})
			if err != nil && !errors.Is(err, io.EOF) { // EOF: the answer came first, and Recv has it.
				t.Fatal(err)
			}
			if _, err := stream.Recv(); status.Code(err) != tt.want {
				t.Errorf("reflection answers %v, want %s", err, tt.want)
			}
			if _, err := healthpb.NewHealthClient(f.conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
				t.Errorf("health answers %v", err)
			}
		})
	}
}

func TestProbesAreNotLogged(t *testing.T) {
	log := &lines{}
	f := start(t, func(o *Options) { o.Logger = telemetry.NewLogger(log, slog.LevelInfo, false) })
	client := healthpb.NewHealthClient(f.conn)
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := log.take(t); len(got) != 0 {
		t.Errorf("a probe is logged: %v", got)
	}
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "unknown"}); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	if got := log.take(t); len(got) != 1 {
		t.Errorf("a probe of nothing is logged as %v", got)
	}
}
