package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/config"
)

// signer signs certificates.
type signer struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func newSigner(t *testing.T, name string) *signer {
	t.Helper()
	a := &signer{}
	a.certificate = &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.pem, a.key = a.sign(t, a.certificate)
	block, _ := pem.Decode([]byte(a.pem))
	var err error
	if a.certificate, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return a
}

// sign returns the certificate in PEM, and its key; without a key of its own, a signs itself.
func (a *signer) sign(t *testing.T, template *x509.Certificate) (string, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), key
}

// certified is a certificate and its key, in PEM.
type certified struct{ certificate, key string }

// server returns a certificate for 127.0.0.1.
func (a *signer) server(t *testing.T, from, to time.Time) certified {
	t.Helper()
	return a.certify(t, &x509.Certificate{
		NotBefore: from, NotAfter: to, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// client returns a certificate with a SPIFFE id.
func (a *signer) client(t *testing.T, id string) certified {
	t.Helper()
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return a.certify(t, &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (a *signer) certify(t *testing.T, template *x509.Certificate) certified {
	t.Helper()
	text, key := a.sign(t, template)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return certified{text, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))}
}

// valid returns a certificate for 127.0.0.1 that does not end soon.
func (a *signer) valid(t *testing.T) certified {
	t.Helper()
	return a.server(t, time.Now().Add(-time.Hour), time.Now().Add(30*24*time.Hour))
}

// tlsFiles are the files of a server.
type tlsFiles struct{ config.TLS }

func newTLSFiles(t *testing.T) tlsFiles {
	t.Helper()
	dir := t.TempDir()
	return tlsFiles{config.TLS{
		CertFile: filepath.Join(dir, "server.pem"), KeyFile: filepath.Join(dir, "server.key"), ClientCAFile: filepath.Join(dir, "clients.pem"),
	}}
}

// write replaces a file as a program does that knows no better: it is empty first.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f tlsFiles) put(t *testing.T, server certified, authorities ...*signer) {
	t.Helper()
	write(t, f.CertFile, server.certificate)
	write(t, f.KeyFile, server.key)
	var text strings.Builder
	for _, a := range authorities {
		text.WriteString(a.pem)
	}
	write(t, f.ClientCAFile, text.String())
}

func (f tlsFiles) yaml() string {
	return fmt.Sprintf("tls: {cert_file: %s, key_file: %s, client_ca_file: %s}\n", f.CertFile, f.KeyFile, f.ClientCAFile)
}

// What a rotation does to the files, look by look: what is good is in use after two, what is not leaves the last good one and is
// said once.
func TestCertificateRotation(t *testing.T) {
	t.Parallel()
	ca, other := newSigner(t, "one"), newSigner(t, "two")
	now := time.Now()
	first, second := ca.valid(t), ca.valid(t)
	files := newTLSFiles(t)
	files.put(t, first, ca)
	log := &lockedBuffer{}
	c, err := newCertificates(files.TLS, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	reloads, warnings := 0, 0
	// look looks n times, and then wants a certificate in use, and so many lines more.
	look := func(what string, n int, want certified, reloaded, warned int) {
		t.Helper()
		for range n {
			c.look(t.Context(), now)
		}
		if got := c.inUse.Load().files; got.certificate != want.certificate || got.key != want.key {
			t.Errorf("%s: another certificate is in use", what)
		}
		reloads, warnings = reloads+reloaded, warnings+warned
		if r, w := strings.Count(log.String(), "certificate reloaded"), strings.Count(log.String(), "not usable"); r != reloads || w != warnings {
			t.Errorf("%s: %d reloads and %d warnings are logged, want %d and %d:\n%s", what, r, w, reloads, warnings, log)
		}
	}
	look("nothing happens", 3, first, 0, 0)

	write(t, files.CertFile, second.certificate)
	look("the certificate before its key, once", 1, first, 0, 0)
	write(t, files.KeyFile, second.key)
	look("both, once", 1, first, 0, 0)
	look("both", 1, second, 1, 0)

	for name, broken := range map[string]func(){
		"the key of another":   func() { write(t, files.KeyFile, first.key) },
		"a cut certificate":    func() { write(t, files.CertFile, second.certificate[:200]) },
		"a chain that is cut":  func() { write(t, files.CertFile, second.certificate+ca.pem[:200]) },
		"no certificate":       func() { write(t, files.CertFile, "") },
		"an expired one":       func() { files.put(t, ca.server(t, now.Add(-2*time.Hour), now), ca) },
		"no file":              func() { _ = os.Remove(files.KeyFile) },
		"no authorities":       func() { write(t, files.ClientCAFile, "") },
		"half the authorities": func() { write(t, files.ClientCAFile, ca.pem+other.pem[:200]) },
		"a damaged authority": func() {
			write(t, files.ClientCAFile, strings.Replace(ca.pem, "\n", "\n!", 1)+other.pem)
		},
	} {
		broken()
		look(name+", seen once", 1, second, 0, 0)
		look(name, 4, second, 0, 1)
		files.put(t, second, ca)
		look(name+", mended", 2, second, 0, 0)
	}

	next := ca.server(t, now.Add(time.Minute), now.Add(30*24*time.Hour))
	files.put(t, next, ca)
	look("one of the future", 3, second, 0, 1)
	now = now.Add(2 * time.Minute)
	look("its time", 1, next, 1, 0)

	files.put(t, next, ca, other)
	look("one more authority", 2, next, 1, 0)
	for _, a := range []*signer{ca, other} {
		if _, err := a.certificate.Verify(x509.VerifyOptions{Roots: c.inUse.Load().clientCAs, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("an authority is missing: %v", err)
		}
	}
	if strings.Contains(log.String(), "PRIVATE") {
		t.Error("a key is in the log")
	}
}

// Whoever reads the log knows a week before a certificate ends, every day, and in the end every hour.
func TestCertificateEnds(t *testing.T) {
	t.Parallel()
	ca := newSigner(t, "one")
	start := time.Now()
	end := start.Add(10 * 24 * time.Hour)
	files := newTLSFiles(t)
	files.put(t, ca.server(t, start.Add(-time.Hour), end), ca)
	log := &lockedBuffer{}
	c, err := newCertificates(files.TLS, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for now := start; now.Before(end.Add(2 * time.Hour)); now = now.Add(10 * time.Minute) {
		c.look(t.Context(), now)
	}
	soon, expired := strings.Count(log.String(), "level=WARN msg=\"the certificate ends soon\""), strings.Count(log.String(), "level=ERROR msg=\"the certificate has expired")
	// Six days, then 24 hours of the last one.
	if soon < 28 || soon > 32 || expired < 2 || expired > 3 {
		t.Errorf("said %d times that it ends, and %d times that it has:\n%s", soon, expired, log)
	}
	files.put(t, ca.server(t, start, end.Add(time.Hour)), ca)
	c.look(t.Context(), end)
	c.look(t.Context(), end)
	if got := strings.Count(log.String(), "ends soon"); got != soon+1 {
		t.Errorf("of a new certificate it is said %d times that it ends soon, want once", got-soon)
	}
}

// A service does not start on files of no use, and `config check` says the same.
func TestCertificatesRefused(t *testing.T) {
	t.Parallel()
	ca := newSigner(t, "one")
	good, now := ca.valid(t), time.Now()
	for _, tt := range []struct {
		name string
		put  func(files tlsFiles)
		want string
	}{
		{"no file", func(f tlsFiles) { _ = os.Remove(f.CertFile) }, "tls.cert_file: open CERT: no such file"},
		{"no key", func(f tlsFiles) { _ = os.Remove(f.KeyFile) }, "tls.key_file: open KEY: no such file"},
		{"no authorities", func(f tlsFiles) { _ = os.Remove(f.ClientCAFile) }, "tls.client_ca_file: open CA: no such file"},
		{"not PEM", func(f tlsFiles) { write(t, f.CertFile, "sk-secret") }, "tls.cert_file: CERT holds no certificate in PEM"},
		{"the key in place of the certificate", func(f tlsFiles) { write(t, f.CertFile, good.key) }, "tls.cert_file: CERT holds no certificate in PEM"},
		{"the key of another", func(f tlsFiles) { write(t, f.KeyFile, ca.valid(t).key) }, "tls.key_file: KEY: tls: private key does not match public key"},
		{"authorities that are none", func(f tlsFiles) { write(t, f.ClientCAFile, good.key) }, "tls.client_ca_file: CA holds no certificate in PEM"},
		{"expired", func(f tlsFiles) { f.put(t, ca.server(t, now.Add(-2*time.Hour), now.Add(-time.Hour)), ca) }, "tls.cert_file: the certificate in CERT has expired on "},
		{"not yet", func(f tlsFiles) { f.put(t, ca.server(t, now.Add(time.Hour), now.Add(2*time.Hour)), ca) }, "tls.cert_file: the certificate in CERT is good only from "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := newTLSFiles(t)
			files.put(t, good, ca)
			tt.put(files)
			file := writeConfig(t, t.TempDir(), "http://127.0.0.1:1/v1", files.yaml())
			want := "read the certificates: " + strings.NewReplacer("CERT", files.CertFile, "KEY", files.KeyFile, "CA ", files.ClientCAFile+" ", "CA:", files.ClientCAFile+":").Replace(tt.want)
			for _, args := range [][]string{{"serve", "--config", file}, {"config", "check", "--config", file}} {
				code, out, errs := command(t, args...)
				if code != 1 || out != "" || !strings.Contains(errs, want) {
					t.Errorf("%s: exit code %d, %s%s, want %s", args[0], code, out, errs, want)
				}
				if containsAny(errs, "sk-secret", "PRIVATE") {
					t.Errorf("the error shows a secret: %s", errs)
				}
			}
		})
	}
	file := writeConfig(t, t.TempDir(), "http://127.0.0.1:1/v1", "")
	withRules(t, file, "  jwt:\n    - {issuer: 'https://issuer.example', audience: chatsvc, jwks_file: /no/such/file}\n    - {issuer: 'https://unreachable.invalid', audience: chatsvc}\n")
	if code, _, errs := command(t, "config", "check", "--config", file); code != 1 || !strings.Contains(errs, "/no/such/file") || strings.Contains(errs, "unreachable") {
		t.Errorf("without the keys of an issuer: exit code %d, %s", code, errs)
	}
	files := newTLSFiles(t)
	files.put(t, good, ca)
	if code, _, errs := command(t, "config", "check", "--config", writeConfig(t, t.TempDir(), "http://127.0.0.1:1/v1", files.yaml())); code != 0 {
		t.Errorf("of good files: %s", errs)
	}
}
