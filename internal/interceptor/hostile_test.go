package interceptor

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/telemetry"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// What strangers send has one of these in it, so that it is found wherever it went.
const (
	marker        = "mallory"
	markerAddress = "203.0.113.66"
)

// hostile is what strangers send, and what they get.
var hostile = []struct {
	name    string
	headers []header
	// reason is that of UNAUTHENTICATED. Without one, HTTP/2 or gRPC itself refuses the call: no code of ours hears of it.
	reason string
}{
	{name: "nothing", reason: "CREDENTIAL_MISSING"},
	{name: "empty header", headers: []header{{"authorization", ""}}, reason: "CREDENTIAL_MISSING"},
	{name: "two good headers", headers: []header{{"authorization", "Bearer sk-red"}, {"authorization", "Bearer sk-red"}}, reason: "CREDENTIAL_INVALID"},
	{name: "good and bad", headers: []header{{"authorization", "Bearer sk-red"}, {"authorization", "Bearer mallory"}}, reason: "CREDENTIAL_INVALID"},
	{name: "bad and good", headers: []header{{"authorization", "Bearer mallory"}, {"authorization", "Bearer sk-red"}}, reason: "CREDENTIAL_INVALID"},
	{name: "empty and good", headers: []header{{"authorization", ""}, {"authorization", "Bearer sk-red"}}, reason: "CREDENTIAL_INVALID"},
	{name: "joined", headers: []header{{"authorization", "Bearer sk-red, Bearer sk-red"}}, reason: "CREDENTIAL_INVALID"},
	{name: "joined tokens", headers: []header{{"authorization", "Bearer sk-red,mallory"}}, reason: "CREDENTIAL_INVALID"},
	{name: "another scheme", headers: []header{{"authorization", "Basic bWFsbG9yeTpzay1yZWQ="}}, reason: "CREDENTIAL_INVALID"},
	{name: "no scheme", headers: []header{{"authorization", "sk-red"}}, reason: "CREDENTIAL_INVALID"},
	{name: "no token", headers: []header{{"authorization", "Bearer "}}, reason: "CREDENTIAL_INVALID"},
	{name: "two spaces", headers: []header{{"authorization", "Bearer  sk-red"}}, reason: "CREDENTIAL_INVALID"},
	{name: "space before", headers: []header{{"authorization", " Bearer sk-red"}}, reason: "CREDENTIAL_INVALID"},
	{name: "space behind", headers: []header{{"authorization", "Bearer sk-red "}}, reason: "CREDENTIAL_INVALID"},
	{name: "tab", headers: []header{{"authorization", "Bearer\tsk-red"}}, reason: "CREDENTIAL_INVALID"},
	{name: "8 KiB key", headers: []header{{"authorization", "Bearer mallory" + strings.Repeat("m", 8<<10)}}, reason: "CREDENTIAL_INVALID"},
	{name: "8 KiB of something", headers: []header{{"x-something", strings.Repeat("mallory ", 1<<10)}}, reason: "CREDENTIAL_MISSING"},
	{name: "SQL", headers: []header{{"authorization", "Bearer ' OR 1=1; DROP TABLE mallory;--"}}, reason: "CREDENTIAL_INVALID"},
	{name: "SQL without a space", headers: []header{{"authorization", "Bearer '/**/OR/**/1=1--mallory"}}, reason: "CREDENTIAL_INVALID"},
	{name: "JSON", headers: []header{{"authorization", `Bearer "},"team":"mallory","x":{"`}}, reason: "CREDENTIAL_INVALID"},
	{name: "format verbs", headers: []header{{"authorization", "Bearer %s%n%d{{.}}${mallory}"}}, reason: "CREDENTIAL_INVALID"},
	{name: "non-ASCII", headers: []header{{"authorization", "Bearer sk-red\u00e9mallory"}}, reason: "CREDENTIAL_INVALID"},
	{name: "non-ASCII scheme", headers: []header{{"authorization", "\uff22earer sk-red"}}, reason: "CREDENTIAL_INVALID"},
	{name: "no UTF-8", headers: []header{{"authorization", "Bearer \xff\xfemallory"}}, reason: "CREDENTIAL_INVALID"},
	{name: "CRLF", headers: []header{{"authorization", "Bearer mallory\r\nx-team: red"}}},
	{name: "CR", headers: []header{{"authorization", "Bearer sk-red\r"}}},
	{name: "LF", headers: []header{{"x-mallory", "mallory\nauthorization: Bearer sk-red"}}},
	{name: "NUL", headers: []header{{"authorization", "Bearer sk-red\x00mallory"}}},
	{name: "DEL", headers: []header{{"authorization", "Bearer sk-red\x7fmallory"}}},
	{name: "mixed case", headers: []header{{"Authorization", "Bearer sk-red"}}},
	{name: "upper case", headers: []header{{"X-MALLORY", "mallory"}}},
	{name: "a key with a space", headers: []header{{"authorization ", "Bearer sk-red"}}},
	{name: "a key with a colon", headers: []header{{"authorization:", "Bearer sk-red"}}},
	{name: "a key with CRLF", headers: []header{{"x-a\r\nauthorization", "Bearer sk-red"}}},
	{name: "a key of non-ASCII", headers: []header{{"x-mallor\u00ff", "mallory"}}},
	{name: "a pseudo-header", headers: []header{{":team", "mallory"}}},
	{name: "two authorities", headers: []header{{":authority", "mallory"}, {":authority", "mallory"}}},
	{name: "another authority", headers: []header{{":authority", "mallory.example:443"}}, reason: "CREDENTIAL_MISSING"},
	{name: "no authority at all", headers: []header{{":authority", "'OR/**/1=1--mallory"}}, reason: "CREDENTIAL_MISSING"},
	{name: "a header of the connection", headers: []header{{"connection", "mallory"}}},
	{name: "bad base64", headers: []header{{"x-something-bin", "%mallory%"}}},
	{name: "binary", headers: []header{{"authorization-bin", base64.StdEncoding.EncodeToString([]byte("Bearer sk-red"))}}, reason: "CREDENTIAL_MISSING"},
	{name: "key elsewhere", headers: []header{
		{"proxy-authorization", "Bearer sk-red"},
		{"x-authorization", "Bearer sk-red"},
		{"x-api-key", "sk-red"},
		{"api-key", "sk-red"},
		{"cookie", "authorization=sk-red; team=mallory"},
		{"grpcgateway-authorization", "Bearer sk-red"},
	}, reason: "CREDENTIAL_MISSING"},
	{name: "teams", headers: []header{
		{"x-team", "mallory"},
		{"chatsvc-team", "mallory"},
		{"x-chatsvc-team", "mallory"},
		{"team", "mallory"},
		{"x-client", "mallory"},
		{"x-roles", "platform_admin,mallory"},
		{"x-forwarded-user", "mallory"},
		{"x-remote-user", "mallory"},
	}, reason: "CREDENTIAL_MISSING"},
	{name: "teams with a bad key", headers: []header{{"x-team", "mallory"}, {"authorization", "Bearer mallory"}}, reason: "CREDENTIAL_INVALID"},
	{name: "addresses", headers: []header{
		{"x-forwarded-for", "203.0.113.66, 127.0.0.1"},
		{"forwarded", "for=203.0.113.66;by=mallory"},
		{"x-real-ip", "203.0.113.66"},
		{"x-client-ip", "203.0.113.66"},
		{"true-client-ip", "203.0.113.66"},
		{"x-forwarded-host", "mallory"},
		{"x-forwarded-client-cert", `Hash=0;Subject="CN=mallory";URI=spiffe://red/web`},
		{"x-envoy-peer-metadata", "mallory"},
	}, reason: "CREDENTIAL_MISSING"},
	{name: "baggage", headers: []header{
		{"traceparent", "00-mallory-mallory-01"}, {"baggage", "user=mallory,team=mallory"}, {"tracestate", "v=mallory"},
	}, reason: "CREDENTIAL_MISSING"},
	{name: "a trace with baggage", headers: []header{
		{"traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, {"baggage", "team=mallory;role=mallory"},
	}, reason: "CREDENTIAL_MISSING"},
	{name: "user agent", headers: []header{{"user-agent", "mallory/1.0 (${jndi:ldap://mallory})"}, {"referer", "mallory"}}, reason: "CREDENTIAL_MISSING"},
}

// TestHostileMetadata sends what strangers send over both transports and as both kinds of RPC. They are always refused, and
// what they sent is neither in the answer nor in log, audit or trace.
func TestHostileMetadata(t *testing.T) {
	for _, over := range []transport{overGRPC, overHTTP} {
		for _, tw := range twins() {
			t.Run(string(over)+tw.method[strings.LastIndex(tw.method, "/"):], func(t *testing.T) {
				spans := tracetest.NewSpanRecorder()
				f := startOver(t, over, nil, func(o *Options) {
					o.Tracing.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
					o.Tracing.Propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
				})
				called := false
				f.chat.handler = func(context.Context) error { called = true; return nil }
				// What is refused below is refused for what it is: this one is let in.
				answer := rawCall(t, f.addr, tw.method, []header{{"authorization", "Bearer sk-red"}})
				if answer.headers["grpc-status"] != "0" || !called {
					t.Fatalf("a good call answers %v", answer)
				}
				f.log.take(t)
				for _, tt := range hostile {
					t.Run(tt.name, func(t *testing.T) {
						called = false
						answer := rawCall(t, f.addr, tw.method, tt.headers)
						if called {
							t.Error("it is let in")
						}
						text, denials := f.log.text()+f.httpLog.text(), f.denied.take(t)
						logged := f.log.take(t)
						for _, secret := range []string{marker, markerAddress, "sk-red", "DROP"} {
							if strings.Contains(text, secret) || strings.Contains(asJSON(t, denials), secret) {
								t.Errorf("%s is in the log or the audit: %s %s", secret, text, asJSON(t, denials))
							}
						}
						if tt.reason == "" {
							if answer.headers["grpc-status"] == "0" || len(logged) != 0 || len(denials) != 0 {
								t.Errorf("answers %v; logged %v; audited %v", answer, logged, denials)
							}
							return
						}
						st := answer.status(t)
						if st.Code() != codes.Unauthenticated || reasonOf(st.Err()) != tt.reason {
							t.Errorf("answers %v", st)
						}
						for name, value := range answer.headers {
							if strings.Contains(name+value+st.String(), marker) || strings.Contains(value, "sk-red") {
								t.Errorf("the answer has %s: %s", name, value)
							}
						}
						if len(logged) != 1 {
							t.Fatalf("%d lines: %v", len(logged), logged)
						}
						line := asJSON(t, constant(logged[0]))
						if want := asJSON(t, refusedLine(tw.method, tt.reason)); line != want {
							t.Errorf("logged %s\nwant   %s", line, want)
						}
						if len(denials) == 1 {
							denials[0].TraceID = ""
						}
						if got, want := asJSON(t, denials), asJSON(t, []any{denial(tw.method, tt.reason, nil)}); got != want {
							t.Errorf("audited %s\nwant    %s", got, want)
						}
					})
				}
				f.server.Stop() // then the last span has ended
				ended := spans.Ended()
				if len(ended) == 0 {
					t.Error("nothing was traced")
				}
				for _, span := range ended {
					text := fmt.Sprint(span.Name(), span.Attributes(), span.Events(), span.Status(), span.Links())
					if strings.Contains(text, marker) || strings.Contains(text, markerAddress) || strings.Contains(text, "sk-red") {
						t.Errorf("the span %s", text)
					}
				}
			})
		}
	}
}

// refusedLine is all that a log line has of a stranger's call, but for what is its own in each: see constant.
func refusedLine(method, reason string) map[string]any {
	return map[string]any{"level": "INFO", "msg": "call", "method": method, "code": "Unauthenticated", "reason": reason}
}

// constant returns a line without what differs from call to call.
func constant(line map[string]any) map[string]any {
	line = maps.Clone(line)
	for _, key := range []string{"time", "duration_ms", "peer", "trace_id", "span_id"} {
		delete(line, key)
	}
	return line
}

// strict lets in one key, and every certificate, as the gate does it: by what was presented alone.
type strict struct{ key string }

func (s strict) Authenticate(_ context.Context, c auth.Credential) (auth.Principal, error) {
	if c.Bearer == s.key || c.Bearer == "" && c.Certificate != nil {
		return auth.Principal{Team: "red", Client: "web", CredentialID: "key:1", Roles: tenant.RolesOf(tenant.RoleCaller)}, nil
	}
	return auth.Principal{}, conversation.Errorf(conversation.CredentialInvalid, "the key is not known")
}

// stream is a call whose messages do not matter.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

// called is what gRPC knows of a call.
type called string

func (c called) Method() string                { return string(c) }
func (called) SetHeader(metadata.MD) error     { return nil }
func (called) SendHeader(metadata.MD) error    { return nil }
func (called) SetTrailer(md metadata.MD) error { return nil }

// FuzzMetadata passes metadata through the chain as far as to the authenticator. Whatever it is: nobody is let in, but by a
// certificate where there is no authorization header at all; and answer, log line and audit entry do not depend on it, but for
// whether there was a header.
func FuzzMetadata(f *testing.F) {
	for _, h := range hostile {
		switch len(h.headers) {
		case 0:
		case 1:
			f.Add(h.headers[0][0], h.headers[0][1], "x-other", "value")
		default:
			f.Add(h.headers[0][0], h.headers[0][1], h.headers[1][0], h.headers[1][1])
		}
	}
	key := rand.Text() // which no input can hold
	var log bytes.Buffer
	denied := &entries{}
	chain, err := newChain(&Options{
		Logger: telemetry.NewLogger(&log, slog.LevelDebug, false), Authenticator: strict{key: key}, ToStatus: toStatus, Denied: denied.add,
	})
	if err != nil {
		f.Fatal(err)
	}
	leaf := &x509.Certificate{}
	proven := credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}}

	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 string) {
		md := metadata.Pairs(key1, value1, key2, value2)
		header, given := md["authorization"]
		want := "CREDENTIAL_INVALID"
		if !given || len(header) == 1 && header[0] == "" {
			want = "CREDENTIAL_MISSING"
		}
		for _, withCertificate := range []bool{false, true} {
			p := &peer.Peer{Addr: address("127.0.0.1:1234")}
			if withCertificate {
				p.AuthInfo = proven
			}
			for _, kind := range []string{"unary", "stream"} {
				const method = chatsvcv1.ChatService_CreateTurn_FullMethodName
				ctx := grpc.NewContextWithServerTransportStream(t.Context(), called(method))
				ctx = metadata.NewIncomingContext(peer.NewContext(ctx, p), md)
				letIn := false
				err := through(ctx, chain, kind, method, func(context.Context) error { letIn = true; return nil })
				if mayPass := withCertificate && !given; letIn != mayPass || (err == nil) != mayPass {
					t.Fatalf("%s with certificate %t: let in %t, answers %v", kind, withCertificate, letIn, err)
				}
				var line map[string]any
				if err := json.Unmarshal(log.Bytes(), &line); err != nil {
					t.Fatalf("not one line: %s", &log)
				}
				log.Reset()
				denials := denied.take(t)
				if letIn {
					continue
				}
				if st := status.Convert(err); st.Code() != codes.Unauthenticated || reasonOf(err) != want {
					t.Fatalf("%s: answers %v, want %s", kind, st, want)
				}
				if got, want := asJSON(t, constant(line)), asJSON(t, refusedLine(method, want)); got != want {
					t.Fatalf("%s: logged %s, want %s", kind, got, want)
				}
				if got, want := asJSON(t, denials), asJSON(t, []any{denial(method, want, nil)}); got != want {
					t.Fatalf("%s: audited %s, want %s", kind, got, want)
				}
			}
		}
	})
}

// through runs a chain around a handler that has no message.
func through(ctx context.Context, chain []link, kind, method string, handler func(context.Context) error) error {
	if kind == "unary" {
		next := func(ctx context.Context, _ any) (any, error) { return &chatsvcv1.Turn{}, handler(ctx) }
		for _, l := range slices.Backward(chain) {
			inner := next
			next = func(ctx context.Context, req any) (any, error) {
				return l.unary(ctx, req, &grpc.UnaryServerInfo{FullMethod: method}, inner)
			}
		}
		_, err := next(ctx, &chatsvcv1.CreateTurnRequest{Text: "hello"})
		return err
	}
	next := func(_ any, s grpc.ServerStream) error { return handler(s.Context()) }
	for _, l := range slices.Backward(chain) {
		inner := next
		next = func(srv any, s grpc.ServerStream) error {
			return l.stream(srv, s, &grpc.StreamServerInfo{FullMethod: method, IsServerStream: true}, inner)
		}
	}
	return next(nil, stream{ctx: ctx})
}
