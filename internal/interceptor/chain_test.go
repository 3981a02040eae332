package interceptor

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/telemetry"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

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
	if want := []string{"log", "recover", "denials", "auth", "validate"}; !slices.Equal(names, want) {
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
		denial        string         // the reason in the audit
		stack         bool
	}{
		{
			name: "success", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			line: map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:1"},
		},
		{
			name: "the handler names the turn", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(ctx context.Context) error { FieldsFrom(ctx).SetTurn("turns/1"); return nil },
			line:    map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:1", "turn": "turns/1"},
		},
		{
			name: "no credential and a bad request", req: bad, code: codes.Unauthenticated, reason: "CREDENTIAL_MISSING",
			line: map[string]any{"level": "INFO"}, denial: "CREDENTIAL_MISSING",
		},
		{
			name: "unknown key", authorization: []string{"Bearer sk-blue"}, req: good, code: codes.Unauthenticated, reason: "CREDENTIAL_INVALID",
			line: map[string]any{"level": "INFO"}, denial: "CREDENTIAL_INVALID",
		},
		{
			name: "two headers", authorization: []string{"Bearer sk-red", "Bearer sk-red"}, req: good, code: codes.Unauthenticated, reason: "CREDENTIAL_INVALID",
			line: map[string]any{"level": "INFO"}, denial: "CREDENTIAL_INVALID",
		},
		{
			name: "expired key", authorization: []string{"Bearer sk-expired"}, req: good, code: codes.Unauthenticated, reason: "CREDENTIAL_EXPIRED",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:1"}, denial: "CREDENTIAL_EXPIRED",
		},
		{
			name: "revoked key", authorization: []string{"Bearer sk-revoked"}, req: good, code: codes.Unauthenticated, reason: "CREDENTIAL_REVOKED",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:1"}, denial: "CREDENTIAL_REVOKED",
		},
		{
			name: "elsewhere key", authorization: []string{"Bearer sk-elsewhere"}, req: good, code: codes.PermissionDenied, reason: "IP_NOT_ALLOWED",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:1"}, denial: "IP_NOT_ALLOWED",
		},
		{
			name: "all roles but the right one, and a bad request", authorization: []string{"Bearer sk-admin"}, req: bad,
			code: codes.PermissionDenied, reason: "ROLE_MISSING", denial: "ROLE_MISSING",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:2"},
		},
		{
			name: "no role", authorization: []string{"Bearer sk-nothing"}, req: good,
			code: codes.PermissionDenied, reason: "ROLE_MISSING", denial: "ROLE_MISSING",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:3"},
		},
		{
			name: "it cannot be found out whose key it is", authorization: []string{"Bearer sk-unknowable"}, req: good,
			code: codes.Unavailable, reason: "STORE_UNAVAILABLE", line: map[string]any{"level": "WARN"},
		},
		{
			name: "a model that is not allowed", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error {
				return fmt.Errorf("start a turn: %w", conversation.Errorf(conversation.ModelNotAllowed, "the key does not allow this model"))
			},
			code: codes.PermissionDenied, reason: "MODEL_NOT_ALLOWED", denial: "MODEL_NOT_ALLOWED",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:1"},
		},
		{
			name: "a turn that waited until its model was not allowed", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error { // not this caller's doing, perhaps
				return &conversation.Error{Reason: conversation.ModelNotAllowed, Message: "the model is not allowed", Turn: conversation.ID{1}}
			},
			code: codes.PermissionDenied, reason: "MODEL_NOT_ALLOWED",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:1", "turn": "turns/from-the-error"},
		},
		{
			name: "a name of another team", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error {
				return &conversation.Error{Reason: conversation.NotFound, Message: "no such resource", Cause: tenant.ErrOtherTeam}
			},
			code: codes.NotFound, reason: "NOT_FOUND", denial: "OTHER_TEAM",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:1", "error": tenant.ErrOtherTeam.Error()},
		},
		{
			name: "bad request", authorization: []string{"Bearer sk-red"}, req: bad, code: codes.InvalidArgument, reason: "INVALID_REQUEST",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:1"},
		},
		{
			name: "domain error", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error { return conversation.ErrNotFound },
			code:    codes.NotFound, reason: "NOT_FOUND",
			line: map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:1"},
		},
		{
			name: "domain error with a cause and a turn", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error {
				return &conversation.Error{
					Reason: conversation.UpstreamUnavailable, Message: "the provider answers with an error", Turn: conversation.ID{1}, Cause: errors.New("502"),
				}
			},
			code: codes.Unavailable, reason: "UPSTREAM_UNAVAILABLE",
			line: map[string]any{"level": "WARN", "team": "red", "client": "web", "credential": "key:1", "error": "502", "turn": "turns/from-the-error"},
		},
		{
			name: "any other error", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error { return errors.New("disk on fire") },
			code:    codes.Internal, reason: "INTERNAL",
			line: map[string]any{"level": "ERROR", "team": "red", "client": "web", "credential": "key:1", "error": "disk on fire"},
		},
		{
			name: "a status of the handler's own", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error { return status.Error(codes.OutOfRange, "beyond") },
			code:    codes.OutOfRange,
			line:    map[string]any{"level": "INFO", "team": "red", "client": "web", "credential": "key:1"},
		},
		{
			name: "panic", authorization: []string{"Bearer sk-red"}, req: good, called: true,
			handler: func(context.Context) error { panic("at the disco" + strings.Repeat(" again", 1000)) },
			code:    codes.Internal, reason: "INTERNAL", stack: true,
			line: map[string]any{
				"level": "ERROR", "team": "red", "client": "web", "credential": "key:1",
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
					var denials []tenant.Entry
					if tt.denial != "" {
						denials = []tenant.Entry{denial(tw.method, tt.denial, want["credential"])}
					}
					if got, want := asJSON(t, f.denied.take(t)), asJSON(t, denials); got != want {
						t.Errorf("audited %s\nwant    %s", got, want)
					}
					if text := asJSON(t, logged); strings.Contains(text, "secret") || strings.Contains(text, "sk-") {
						t.Errorf("the log tells too much: %s", text)
					}
				})
			}
		})
	}
}

// denial returns the entry that the audit must have of a call over loopback. credential is nil where the caller is unknown.
func denial(method, reason string, credential any) tenant.Entry {
	e := tenant.Entry{
		Action: strings.TrimPrefix(method, "/"), Outcome: tenant.Denied, Reason: reason, Source: "127.0.0.1", Count: 1,
	}
	if id, ok := credential.(string); ok {
		e.Team, e.Actor = "red", tenant.Actor{Team: "red", Client: "web", Credential: id}
	}
	return e
}

func asJSON(t testing.TB, v any) string {
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
