package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
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
	if code, _, notes := runChat(t, "", flags...); code != 1 || !strings.Contains(notes, "cannot reach chatsvc") {
		t.Errorf("without a certificate: code %d, notes %q", code, notes)
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

func TestConnectionUsage(t *testing.T) {
	t.Setenv("CHATSVC_KEY", "")
	_, certFile, keyFile := keyPair(t)
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
		{"no service", []string{"--address=127.0.0.1:1"}, 1, "cannot reach chatsvc at 127.0.0.1:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, notes := command(t, append([]string{"teams", "list"}, tt.args...)...)
			if code != tt.code || out != "" || !strings.Contains(notes, tt.want) || strings.Count(notes, "\n") != 1 {
				t.Errorf("code %d, want %d; out %q; notes %q, want one line with %q", code, tt.code, out, notes, tt.want)
			}
		})
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
