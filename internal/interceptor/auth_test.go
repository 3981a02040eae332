package interceptor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	own := a.issue(t, "authority")
	a.certificate, a.key = own.Leaf, own.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// issue returns a certificate for both ends; the first one is the authority's own.
func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{"localhost"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  a.key == nil,
	}
	parent, signer := a.certificate, a.key
	if template.IsCA {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// TestCredential looks at what the authenticator is asked, over both transports and with both kinds of RPC: they must not
// differ.
func TestCredential(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	server, client, stranger := ours.issue(t, "server"), ours.issue(t, "web"), theirs.issue(t, "web")
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
					Certificates: []tls.Certificate{server}, ClientAuth: tt.clientAuth, ClientCAs: ours.pool(), MinVersion: tls.VersionTLS13,
				}, nil)
				config := &tls.Config{RootCAs: ours.pool(), ServerName: "localhost", MinVersion: tls.VersionTLS13}
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
