package interceptor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/telemetry"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// toStatus stands in for the mapping of internal/service.
func toStatus(err error) error {
	domain := &conversation.Error{Reason: conversation.Internal, Message: "a fault in chatsvc"}
	errors.As(err, &domain)
	code, ok := map[conversation.Reason]codes.Code{
		conversation.InvalidRequest:      codes.InvalidArgument,
		conversation.CredentialMissing:   codes.Unauthenticated,
		conversation.CredentialInvalid:   codes.Unauthenticated,
		conversation.CredentialExpired:   codes.Unauthenticated,
		conversation.CredentialRevoked:   codes.Unauthenticated,
		conversation.RoleMissing:         codes.PermissionDenied,
		conversation.IPNotAllowed:        codes.PermissionDenied,
		conversation.ModelNotAllowed:     codes.PermissionDenied,
		conversation.StoreUnavailable:    codes.Unavailable,
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
	details := []protoadapt.MessageV1{info}
	if domain.Field != "" {
		info.Metadata = map[string]string{"field": domain.Field}
		details = append(details, &errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: domain.Field, Description: domain.Message}},
		})
	}
	st, err := status.New(code, domain.Message).WithDetails(details...)
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

// text returns the log so far.
func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
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

// keyring stands in for the authenticators: it knows the keys in the tests, and every certificate. It remembers what it is
// asked.
type keyring struct {
	mu    sync.Mutex
	asked []auth.Credential
}

func (k *keyring) Authenticate(_ context.Context, c auth.Credential) (auth.Principal, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, c)
	web := func(id string, roles ...tenant.Role) auth.Principal {
		return auth.Principal{Team: "red", Client: "web", CredentialID: id, Roles: tenant.RolesOf(roles...)}
	}
	caller := web("key:1", tenant.RoleCaller)
	switch {
	case c.Bearer == "" && c.Certificate != nil:
		return web("cert:"+c.Certificate.Subject.CommonName, tenant.RoleCaller), nil
	case c.Bearer == "sk-red":
		return caller, nil
	case c.Bearer == "sk-admin":
		return web("key:2", tenant.RoleTeamAdmin, tenant.RolePlatformAdmin, tenant.RoleAuditor), nil
	case c.Bearer == "sk-nothing":
		return web("key:3"), nil
	case c.Bearer == "sk-expired":
		return caller, conversation.Errorf(conversation.CredentialExpired, "the key has expired")
	case c.Bearer == "sk-revoked":
		return caller, conversation.Errorf(conversation.CredentialRevoked, "the key was revoked")
	case c.Bearer == "sk-elsewhere":
		return caller, conversation.Errorf(conversation.IPNotAllowed, "the key cannot be used from here")
	case c.Bearer == "sk-unknowable":
		return auth.Principal{}, conversation.ErrStoreUnavailable
	default:
		return auth.Principal{}, conversation.Errorf(conversation.CredentialInvalid, "the key is not known")
	}
}

// take returns what was asked so far, and forgets it.
func (k *keyring) take() []auth.Credential {
	k.mu.Lock()
	defer k.mu.Unlock()
	asked := k.asked
	k.asked = nil
	return asked
}

// entries is an audit.
type entries struct {
	mu  sync.Mutex
	all []tenant.Entry
}

func (e *entries) add(_ context.Context, entry tenant.Entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, entry)
}

// take returns the entries so far, without their times, and forgets them.
func (e *entries) take(t testing.TB) []tenant.Entry {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.all
	e.all = nil
	for i := range all {
		if age := time.Since(all[i].Time); age < 0 || age > time.Minute {
			t.Errorf("an entry of %v ago", age)
		}
		all[i].Time = time.Time{}
	}
	return all
}

// fixture is a real server on loopback and a client of it.
type fixture struct {
	server *grpc.Server
	addr   string
	conn   *grpc.ClientConn
	chat   *chat
	log    *lines
	// httpLog is what net/http has to say of its own.
	httpLog *lines
	keys    *keyring
	denied  *entries
}

// newFixture returns a server that does not serve yet.
func newFixture(t *testing.T, change func(*Options), extra ...grpc.ServerOption) *fixture {
	t.Helper()
	f := &fixture{
		chat: &chat{handler: func(context.Context) error { return nil }},
		log:  &lines{}, httpLog: &lines{}, keys: &keyring{}, denied: &entries{},
	}
	opts := Options{
		Logger:        telemetry.NewLogger(f.log, slog.LevelDebug, false),
		Authenticator: f.keys,
		Denied:        f.denied.add,
		ToStatus:      toStatus,
	}
	if change != nil {
		change(&opts)
	}
	serverOptions, err := ServerOptions(opts)
	if err != nil {
		t.Fatal(err)
	}
	f.server = grpc.NewServer(append(serverOptions, extra...)...)
	chatsvcv1.RegisterChatServiceServer(f.server, f.chat)
	chatsvcv1.RegisterTeamServiceServer(f.server, chatsvcv1.UnimplementedTeamServiceServer{})
	healthpb.RegisterHealthServer(f.server, health.NewServer())
	reflection.Register(f.server)
	return f
}

func start(t *testing.T, change func(*Options)) *fixture {
	t.Helper()
	return startOver(t, overGRPC, nil, change)
}

// transport is one of the two implementations of HTTP/2 that a server of ours can stand on.
type transport string

const (
	overGRPC transport = "grpc"
	overHTTP transport = "net/http"
)

// startOver returns a server on loopback, with TLS if there is a configuration, and without it a client.
func startOver(t *testing.T, over transport, config *tls.Config, change func(*Options)) *fixture {
	t.Helper()
	var options []grpc.ServerOption
	if over == overGRPC && config != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	f := newFixture(t, change, options...)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = listener.Addr().String()
	f.conn, err = grpc.NewClient(f.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	serve, stop := f.server.Serve, func() {}
	if over == overHTTP {
		h := &http.Server{
			Handler: f.server, TLSConfig: config, Protocols: &http.Protocols{}, ReadHeaderTimeout: time.Minute,
			ErrorLog: log.New(f.httpLog, "", 0),
		}
		h.Protocols.SetHTTP2(true)
		h.Protocols.SetUnencryptedHTTP2(true)
		serve = h.Serve
		if config != nil {
			serve = func(l net.Listener) error { return h.ServeTLS(l, "", "") }
		}
		stop = func() { _ = h.Close() }
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving: %v", err)
		}
	})
	t.Cleanup(func() {
		if err := f.conn.Close(); err != nil {
			t.Error(err)
		}
		stop()
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
