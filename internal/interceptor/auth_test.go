package interceptor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/certtest"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// TestCredential looks at what the authenticator is asked, over both transports and with both kinds of RPC: they must not
// differ.
func TestCredential(t *testing.T) {
	ours, theirs := certtest.New(t, "ours"), certtest.New(t, "theirs")
	server, client, stranger := ours.Issue(t, "localhost").TLS, ours.Issue(t, "web").TLS, theirs.Issue(t, "web").TLS
	tests := []struct {
		name          string
		certificate   *tls.Certificate
		clientAuth    tls.ClientAuthType
		authorization []string
		reason        string
		line          string // the credential in the log
		asked         bool
		bearer        string
		leaf          *x509.Certificate
	}{
		{name: "nothing", clientAuth: tls.VerifyClientCertIfGiven, reason: "CREDENTIAL_MISSING"},
		{
			name: "certificate", clientAuth: tls.VerifyClientCertIfGiven, certificate: &client,
			asked: true, leaf: client.Leaf, line: "cert:web",
		},
		{
			name: "certificate, required", clientAuth: tls.RequireAndVerifyClientCert, certificate: &client,
			asked: true, leaf: client.Leaf, line: "cert:web",
		},
		{name: "certificate that nobody verified", clientAuth: tls.RequestClientCert, certificate: &client, reason: "CREDENTIAL_MISSING"},
		{name: "certificate of another authority", clientAuth: tls.RequestClientCert, certificate: &stranger, reason: "CREDENTIAL_MISSING"},
		{
			name: "key", clientAuth: tls.VerifyClientCertIfGiven, authorization: []string{"Bearer sk-red"},
			asked: true, bearer: "sk-red", line: "key:1",
		},
		{
			name: "both", clientAuth: tls.VerifyClientCertIfGiven, certificate: &client, authorization: []string{"Bearer sk-red"},
			asked: true, bearer: "sk-red", leaf: client.Leaf, line: "key:1",
		},
		{
			name: "certificate and a bad key", clientAuth: tls.VerifyClientCertIfGiven, certificate: &client, authorization: []string{"Bearer sk-blue"},
			asked: true, bearer: "sk-blue", leaf: client.Leaf, reason: "CREDENTIAL_INVALID",
		},
		{
			name: "certificate and another scheme", clientAuth: tls.VerifyClientCertIfGiven, certificate: &client,
			authorization: []string{"Basic c2stcmVk"}, reason: "CREDENTIAL_INVALID",
		},
		{
			name: "certificate and two keys", clientAuth: tls.VerifyClientCertIfGiven, certificate: &client,
			authorization: []string{"Bearer sk-red", "Bearer sk-red"}, reason: "CREDENTIAL_INVALID",
		},
		{
			name: "certificate and an empty header", clientAuth: tls.VerifyClientCertIfGiven, certificate: &client,
			authorization: []string{""}, reason: "CREDENTIAL_MISSING",
		},
	}
	for _, over := range []transport{overGRPC, overHTTP} {
		for _, tt := range tests {
			t.Run(string(over)+"/"+tt.name, func(t *testing.T) {
				f := startOver(t, over, &tls.Config{
					Certificates: []tls.Certificate{server}, ClientAuth: tt.clientAuth, ClientCAs: ours.Pool(), MinVersion: tls.VersionTLS13,
				}, nil)
				config := &tls.Config{RootCAs: ours.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS13}
				if tt.certificate != nil {
					// Not Certificates: of those, only one that the server's authorities have signed is sent.
					config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tt.certificate, nil }
				}
				conn, err := grpc.NewClient(f.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				for _, tw := range twins() {
					ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{
						"authorization": tt.authorization, "x-forwarded-for": {"203.0.113.7"}, "x-real-ip": {"203.0.113.7"},
						"forwarded": {"for=203.0.113.7"}, "x-forwarded-client-cert": {"Subject=\"CN=web\""},
					})
					err := tw.call(ctx, conn, &chatsvcv1.CreateTurnRequest{Text: "hello"})
					if reasonOf(err) != tt.reason || (err == nil) != (tt.reason == "") {
						t.Errorf("%s answers %v", tw.method, err)
					}
					asked := f.keys.take()
					if len(asked) != 1 || !tt.asked {
						if tt.asked || len(asked) != 0 {
							t.Errorf("%s: asked %d times", tw.method, len(asked))
						}
					} else if got := asked[0]; got.Bearer != tt.bearer || !got.Certificate.Equal(tt.leaf) || got.Source != netip.MustParseAddr("127.0.0.1") {
						t.Errorf("%s: asked for %q, a certificate %t, from %s", tw.method, got.Bearer, got.Certificate != nil, got.Source)
					}
					logged := f.log.take(t)
					if len(logged) != 1 || logged[0]["method"] != tw.method {
						t.Fatalf("logged %v", logged)
					}
					if got, _ := logged[0]["credential"].(string); got != tt.line {
						t.Errorf("%s is logged as a call by %q", tw.method, got)
					}
					if address, _ := logged[0]["peer"].(string); !strings.HasPrefix(address, "127.0.0.1:") {
						t.Errorf("%s is logged as a call from %q", tw.method, address)
					}
					var denials []tenant.Entry
					if tt.reason != "" {
						denials = []tenant.Entry{denial(tw.method, tt.reason, nil)}
					}
					if got, want := asJSON(t, f.denied.take(t)), asJSON(t, denials); got != want {
						t.Errorf("audited %s\nwant    %s", got, want)
					}
				}
			})
		}
	}
}

// TestNeedsCertificate: whatever else a call brings, and whoever may read the schema. Health is nobody's secret.
func TestNeedsCertificate(t *testing.T) {
	ours := certtest.New(t, "ours")
	server, client := ours.Issue(t, "localhost").TLS, ours.Issue(t, "web").TLS
	for _, over := range []transport{overGRPC, overHTTP} {
		f := startOver(t, over, &tls.Config{
			Certificates: []tls.Certificate{server}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: ours.Pool(), MinVersion: tls.VersionTLS13,
		}, func(o *Options) { o.NeedsCertificate, o.OpenReflection = true, true })
		for _, with := range []bool{false, true} {
			config := &tls.Config{RootCAs: ours.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS13}
			if with {
				config.Certificates = []tls.Certificate{client}
			}
			conn, err := grpc.NewClient(f.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
				t.Errorf("%s, certificate %t: health: %v", over, with, err)
			}
			wantReason, wantDenials := "CREDENTIAL_MISSING", 1
			if with {
				wantReason, wantDenials = "", 0
			}
			for _, tw := range twins() {
				ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer sk-red")
				err := tw.call(ctx, conn, &chatsvcv1.CreateTurnRequest{Text: "hello"})
				if reasonOf(err) != wantReason || (err == nil) != with {
					t.Errorf("%s, certificate %t: %s: %v", over, with, tw.method, err)
				}
				if asked := f.keys.take(); len(asked) != 1-wantDenials {
					t.Errorf("%s, certificate %t: the key was looked at %d times", over, with, len(asked))
				}
				if denied := f.denied.take(t); len(denied) != wantDenials || !with && denied[0].Reason != wantReason {
					t.Errorf("%s, certificate %t: audited %v", over, with, denied)
				}
				if text := f.log.text(); strings.Count(text, tw.method) != 1 {
					t.Errorf("%s, certificate %t: %s is logged as %s", over, with, tw.method, text)
				}
				f.log.take(t)
			}
			if err := readSchema(t, conn); reasonOf(err) != wantReason || (err == nil) != with {
				t.Errorf("%s, certificate %t: reflection: %v", over, with, err)
			}
			f.denied.take(t)
			_ = conn.Close()
		}
	}
}

// readSchema asks for the services.
func readSchema(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		return err
	}
	ask := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(ask); err != nil && !errors.Is(err, io.EOF) { // EOF: the answer came first, and Recv has it
		return err
	}
	if _, err = stream.Recv(); err != nil {
		return err
	}
	return stream.CloseSend()
}

// TestSpellings: the keys of metadata have no case, so every spelling of the one header is that header.
func TestSpellings(t *testing.T) {
	f := start(t, nil)
	for _, tw := range twins() {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "AUTHORIZATION", "bEaReR sk-red")
		if err := tw.call(ctx, f.conn, &chatsvcv1.CreateTurnRequest{Text: "hello"}); err != nil {
			t.Errorf("%s: %v", tw.method, err)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "Authorization", "Bearer sk-red")
		err := tw.call(ctx, f.conn, &chatsvcv1.CreateTurnRequest{Text: "hello"})
		if status.Code(err) != codes.Unauthenticated || reasonOf(err) != "CREDENTIAL_INVALID" {
			t.Errorf("%s with two spellings: %v", tw.method, err)
		}
	}
}

func TestUnixSocketHasNoSource(t *testing.T) {
	f := newFixture(t, nil)
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(listener) }()
	conn, err := grpc.NewClient("unix:"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = conn.Close()
		f.server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	for _, tw := range twins() {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer sk-blue")
		if err := tw.call(ctx, conn, &chatsvcv1.CreateTurnRequest{Text: "hello"}); status.Code(err) != codes.Unauthenticated {
			t.Error(err)
		}
		if asked := f.keys.take(); len(asked) != 1 || asked[0].Source.IsValid() {
			t.Errorf("asked %d times, first for a source of its own", len(asked))
		}
		if denied := f.denied.take(t); len(denied) != 1 || denied[0].Source != "" {
			t.Errorf("audited %v", denied)
		}
	}
}

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

func TestSourceOf(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.7:1234":          "192.0.2.7",
		"[::ffff:192.0.2.7]:1234": "192.0.2.7",
		"[2001:db8::1]:1234":      "2001:db8::1",
		"[fe80::1%eth0]:1234":     "fe80::1",
		"192.0.2.7":               "invalid IP",
		"@":                       "invalid IP",
		"":                        "invalid IP",
		"bufconn":                 "invalid IP",
	} {
		ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: address(from)})
		if got := sourceOf(ctx).String(); got != want {
			t.Errorf("from %q: %s, want %s", from, got, want)
		}
	}
	for _, ctx := range []context.Context{t.Context(), peer.NewContext(t.Context(), &peer.Peer{})} {
		if got := sourceOf(ctx); got.IsValid() {
			t.Errorf("from nowhere: %s", got)
		}
	}
}
