package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/chatsvc/chatsvc/internal/certtest"
)

// keyPair writes a certificate that is its own authority, and its key.
func keyPair(t *testing.T) (certificate *tls.Certificate, certFile, keyFile string) {
	t.Helper()
	certificate, certFile = selfSigned(t)
	der, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	keyFile = filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return certificate, certFile, keyFile
}

// A certificate is who calls, and no key is sent besides unless one is given.
func TestClientCertificate(t *testing.T) {
	server, ca := selfSigned(t)
	_, certFile, keyFile := keyPair(t)
	clients, err := readCertificates(certFile)
	if err != nil {
		t.Fatal(err)
	}
	service := answering()
	address := service.start(t, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{*server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, MinVersion: tls.VersionTLS13,
	})))
	flags := []string{"--address", address, "--tls-ca", ca, "Bonjour"}

	t.Setenv("CHATSVC_KEY", "")
	if code, _, notes := runChat(t, "", flags...); code != 1 || !strings.Contains(notes, "cannot reach chatsvc") || !strings.Contains(notes, "--tls-cert") {
		t.Errorf("without a certificate: code %d, notes %q", code, notes)
	}
	_, strangeFile, strangeKey := keyPair(t)
	if code, _, notes := runChat(t, "", append(flags, "--tls-cert", strangeFile, "--tls-key", strangeKey)...); code != 1 ||
		!strings.Contains(notes, "cannot reach chatsvc") || !strings.Contains(notes, "--tls-cert") {
		t.Errorf("with a certificate of another authority: code %d, notes %q", code, notes)
	}
	flags = append(flags, "--tls-cert", certFile, "--tls-key", keyFile)
	for _, key := range []string{"", "secret"} {
		t.Setenv("CHATSVC_KEY", key)
		if code, _, notes := runChat(t, "", flags...); code != 0 {
			t.Fatalf("key %q: code %d, notes %q", key, code, notes)
		}
	}
	if len(service.keys) != 2 || service.keys[0] != "" || service.keys[1] != "Bearer secret" {
		t.Errorf("authorization %q, want none and then the key", service.keys)
	}
}

// validFor writes a certificate that is valid from and until so long from now, and its key.
func validFor(t *testing.T, from, until time.Duration) (certFile, keyFile string) {
	t.Helper()
	made := certtest.New(t, "ours").IssueFor(t, time.Now().Add(from), time.Now().Add(until))
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	write(t, certFile, made.Certificate)
	write(t, keyFile, made.Key)
	return certFile, keyFile
}

func TestConnectionUsage(t *testing.T) {
	t.Setenv("CHATSVC_KEY", "")
	_, certFile, keyFile := keyPair(t)
	ended, endedKey := validFor(t, -time.Hour, -time.Minute)
	early, earlyKey := validFor(t, time.Hour, 2*time.Hour)
	half := filepath.Join(t.TempDir(), "half.pem")
	write(t, half, certtest.New(t, "one").Certificate+certtest.New(t, "two").Certificate[:200])
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"half a pair", []string{"--tls-cert", certFile}, 2, "--tls-cert and --tls-key must be used together"},
		{"no TLS", []string{"--tls-cert", certFile, "--tls-key", keyFile, "--insecure-plaintext"}, 2, "can't be used together"},
		{"no pair", []string{"--tls-cert", certFile, "--tls-key", certFile}, 1, "read the client certificate"},
		{"no key away from here", []string{"--address=chat.internal:443"}, 1, "chat.internal:443 needs a key: set CHATSVC_KEY, or give --key-file or --tls-cert"},
		{"no port", []string{"--address=localhost"}, 2, "is not a host and a port"},
		{"half the authorities", []string{"--address=127.0.0.1:1", "--tls-ca", half}, 1, half + " is cut off or damaged"},
		{"no service", []string{"--address=127.0.0.1:1"}, 1, "cannot reach chatsvc at 127.0.0.1:1"},
		{"a certificate that has ended", []string{"--tls-cert", ended, "--tls-key", endedKey}, 1, "the client certificate in " + ended + " has ended, at 20"},
		{"a certificate of tomorrow", []string{"--tls-cert", early, "--tls-key", earlyKey}, 1, "the client certificate in " + early + " is valid from 20"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, notes := command(t, append([]string{"teams", "list"}, tt.args...)...)
			if code != tt.code || out != "" || !strings.Contains(notes, tt.want) || strings.Count(notes, "\n") != 1 {
				t.Errorf("code %d, want %d; out %q; notes %q, want one line with %q", code, tt.code, out, notes, tt.want)
			}
		})
	}
}

// What is advised fits what happened. The texts are those of gRPC: what a peer that hangs up is seen to do depends on who is
// faster, and so these cannot all be made to happen.
func TestConnectionAdvice(t *testing.T) {
	t.Parallel()
	const speak = "does it speak TLS? see --tls-ca, --tls-cert, --insecure-plaintext"
	for cause, want := range map[string]string{
		"transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused":                       "nothing listens there: is `chatsvc serve` running? see --address",
		"transport: Error while dialing: dial unix /run/chat: connect: no such file or directory":                 "nothing listens there: is `chatsvc serve` running? see --address",
		"transport: Error while dialing: dial tcp: lookup chat.internal: no such host":                            "is the address right? see --address",
		"transport: authentication handshake failed: tls: first record does not look like a TLS handshake":        speak,
		"error reading server preface: EOF":                                                                       speak,
		"error reading server preface: http2: frame too large":                                                    speak,
		"write tcp 127.0.0.1:42454->127.0.0.1:36543: write: broken pipe":                                          speak,
		"read tcp 127.0.0.1:42454->127.0.0.1:36543: read: connection reset by peer":                               speak,
		"error reading server preface: remote error: tls: certificate required":                                   "it asks for a client certificate: see --tls-cert",
		"error reading server preface: remote error: tls: unknown certificate authority":                          "it does not accept this certificate: see --tls-cert",
		"error reading server preface: remote error: tls: bad certificate":                                        "it does not accept this certificate: see --tls-cert",
		"transport: authentication handshake failed: remote error: tls: protocol version not supported":           speak,
		"transport: authentication handshake failed: tls: failed to verify certificate: x509: certificate signed": "it is not one that is trusted: see --tls-ca",
	} {
		s := status.New(codes.Unavailable, fmt.Sprintf("connection error: desc = %q", cause))
		got := (&connection{Address: "chat.internal:443"}).explain(s.Err(), "")
		if got.advice != want || got.Message != "cannot reach chatsvc at chat.internal:443: "+cause {
			t.Errorf("%v: advised %q, want %q", got.Message, got.advice, want)
		}
	}
	got := (&connection{Address: "chat.internal:443"}).explain(status.Error(codes.Unavailable, "error reading from server: EOF"), "")
	if got.Error() != "the connection to chat.internal:443 broke: error reading from server: EOF" {
		t.Errorf("a connection that broke: %v", got)
	}
}

// What is advised fits what was sent.
func TestCredentialAdvice(t *testing.T) {
	const setKey = "set CHATSVC_KEY or --key-file to a key of this service"
	for _, tt := range []struct {
		key, certificate, reason string
		want                     string
	}{
		{"", "", "CREDENTIAL_INVALID", "no key was given, so `dev` was tried: " + setKey},
		{"csk_x", "", "CREDENTIAL_INVALID", setKey},
		{"a.b.c", "", "CREDENTIAL_INVALID", ""},
		{"", "cert.pem", "CREDENTIAL_INVALID", ""},
		{"csk_x", "", "CREDENTIAL_MISSING", "give a client certificate, too: --tls-cert and --tls-key"},
		{"", "cert.pem", "CREDENTIAL_MISSING", "it has not asked for the certificate of --tls-cert: " + setKey},
		{"csk_x", "", "CREDENTIAL_REVOKED", ""},
		{"csk_x", "", "CREDENTIAL_EXPIRED", ""},
	} {
		t.Setenv("CHATSVC_KEY", tt.key)
		c := &connection{Address: "localhost:50052", TLSCert: tt.certificate}
		s, err := status.New(codes.Unauthenticated, "no").WithDetails(errorInfo(tt.reason))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.explain(s.Err(), "").advice; got != tt.want {
			t.Errorf("%+v: advised %q", tt, got)
		}
	}
}

// The commands of the control plane read its own address from the environment, which the service does not take for a setting.
func TestControlEnvironment(t *testing.T) {
	entries, heads := auditChain(t, 1)
	t.Setenv("CHATSVC_ADMIN_ADDRESS", (&fakeAudit{entries: entries, heads: heads[1:]}).start(t).admin)
	if code, out, notes := command(t, "audit", "head"); code != 0 || out != heads[1].String()+"\n" {
		t.Errorf("code %d, out %q, notes %q", code, out, notes)
	}
	if code, out, notes := command(t, "config", "check", "--dev"); code != 0 {
		t.Errorf("the service takes it for a setting: %s%s", out, notes)
	}
}
