package main

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/certtest"
	"github.com/chatsvc/chatsvc/internal/config"
)

// lasting returns a certificate for 127.0.0.1 that does not end soon.
func lasting(t *testing.T, ca *certtest.Authority) certtest.Pair {
	t.Helper()
	return ca.IssueFor(t, time.Now().Add(-time.Hour), time.Now().Add(30*24*time.Hour), "127.0.0.1")
}

// tlsFiles are the files of a server.
type tlsFiles struct{ config.TLS }

func newTLSFiles(t *testing.T) tlsFiles {
	t.Helper()
	dir := t.TempDir()
	return tlsFiles{config.TLS{
		CertFile: filepath.Join(dir, "server.pem"), KeyFile: filepath.Join(dir, "server.Key"), ClientCAFile: filepath.Join(dir, "clients.pem"),
	}}
}

// write replaces a file as a program does that knows no better: it is empty first.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f tlsFiles) put(t *testing.T, server certtest.Pair, authorities ...*certtest.Authority) {
	t.Helper()
	write(t, f.CertFile, server.Certificate)
	write(t, f.KeyFile, server.Key)
	var text strings.Builder
	for _, a := range authorities {
		text.WriteString(a.Certificate)
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
	ca, other := certtest.New(t, "one"), certtest.New(t, "two")
	now := time.Now()
	first, second := lasting(t, ca), lasting(t, ca)
	files := newTLSFiles(t)
	files.put(t, first, ca)
	log := &lockedBuffer{}
	c, err := newCertificates(files.TLS, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	reloads, warnings := 0, 0
	// look looks n times, and then wants a certificate in use, and so many lines more.
	look := func(what string, n int, want certtest.Pair, reloaded, warned int) {
		t.Helper()
		for range n {
			c.look(t.Context(), now)
		}
		if got := c.inUse.Load().files; got.certificate != want.Certificate || got.key != want.Key {
			t.Errorf("%s: another certificate is in use", what)
		}
		reloads, warnings = reloads+reloaded, warnings+warned
		if r, w := strings.Count(log.String(), "certificate reloaded"), strings.Count(log.String(), "not usable"); r != reloads || w != warnings {
			t.Errorf("%s: %d reloads and %d warnings are logged, want %d and %d:\n%s", what, r, w, reloads, warnings, log)
		}
	}
	look("nothing happens", 3, first, 0, 0)

	write(t, files.CertFile, second.Certificate)
	look("the certificate before its key, once", 1, first, 0, 0)
	write(t, files.KeyFile, second.Key)
	look("both, once", 1, first, 0, 0)
	look("both", 1, second, 1, 0)

	for name, broken := range map[string]func(){
		"the key of another":   func() { write(t, files.KeyFile, first.Key) },
		"a cut certificate":    func() { write(t, files.CertFile, second.Certificate[:200]) },
		"a chain that is cut":  func() { write(t, files.CertFile, second.Certificate+ca.Certificate[:200]) },
		"no certificate":       func() { write(t, files.CertFile, "") },
		"an expired one":       func() { files.put(t, ca.IssueFor(t, now.Add(-2*time.Hour), now, "127.0.0.1"), ca) },
		"no file":              func() { _ = os.Remove(files.KeyFile) },
		"no authorities":       func() { write(t, files.ClientCAFile, "") },
		"half the authorities": func() { write(t, files.ClientCAFile, ca.Certificate+other.Certificate[:200]) },
		"a damaged authority": func() {
			write(t, files.ClientCAFile, strings.Replace(ca.Certificate, "\n", "\n!", 1)+other.Certificate)
		},
	} {
		broken()
		look(name+", seen once", 1, second, 0, 0)
		look(name, 4, second, 0, 1)
		files.put(t, second, ca)
		look(name+", mended", 2, second, 0, 0)
	}

	next := ca.IssueFor(t, now.Add(time.Minute), now.Add(30*24*time.Hour), "127.0.0.1")
	files.put(t, next, ca)
	look("one of the future", 3, second, 0, 1)
	now = now.Add(2 * time.Minute)
	look("its time", 1, next, 1, 0)

	files.put(t, next, ca, other)
	look("one more authority", 2, next, 1, 0)
	for _, a := range []*certtest.Authority{ca, other} {
		if _, err := a.TLS.Leaf.Verify(x509.VerifyOptions{Roots: c.inUse.Load().clientCAs, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
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
	ca := certtest.New(t, "one")
	start := time.Now()
	end := start.Add(10 * 24 * time.Hour)
	files := newTLSFiles(t)
	files.put(t, ca.IssueFor(t, start.Add(-time.Hour), end, "127.0.0.1"))
	// Of two authorities one ends, as soon as the server's certificate.
	write(t, files.ClientCAFile, lasting(t, ca).Certificate+ca.IssueFor(t, start.Add(-time.Hour), end, "clients").Certificate)
	log := &lockedBuffer{}
	c, err := newCertificates(files.TLS, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for now := start; now.Before(end.Add(2 * time.Hour)); now = now.Add(10 * time.Minute) {
		c.look(t.Context(), now)
	}
	for whose, file := range map[string]string{`server`: files.CertFile, `"authority clients"`: files.ClientCAFile} {
		soon, expired := 0, 0
		for line := range strings.Lines(log.String()) {
			switch {
			case !strings.Contains(line, " file="+file+" ") || !strings.Contains(line, " whose="+whose+" "):
			case strings.Contains(line, `level=WARN msg="the certificate ends soon"`):
				soon++
			case strings.Contains(line, `level=ERROR msg="the certificate has expired"`):
				expired++
			}
		}
		// Six days, then 24 hours of the last one.
		if soon < 28 || soon > 32 || expired < 2 || expired > 3 {
			t.Errorf("of the %s it is said %d times that it ends, and %d times that it has:\n%s", whose, soon, expired, log)
		}
	}
	if strings.Contains(log.String(), "127.0.0.1") {
		t.Errorf("said that the authority ends which does not:\n%s", log)
	}
	const ends = `msg="the certificate ends soon" whose=server`
	soon := strings.Count(log.String(), ends)
	write(t, files.ClientCAFile, lasting(t, ca).Certificate)
	next := ca.IssueFor(t, start, end.Add(time.Hour), "127.0.0.1")
	write(t, files.CertFile, next.Certificate)
	write(t, files.KeyFile, next.Key)
	c.look(t.Context(), end)
	c.look(t.Context(), end)
	if got := strings.Count(log.String(), ends); got != soon+1 {
		t.Errorf("of a new certificate it is said %d times that it ends soon, want once", got-soon)
	}
}

// A service does not start on files of no use, and `config check` says the same.
func TestCertificatesRefused(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t, "one")
	good, now := lasting(t, ca), time.Now()
	for _, tt := range []struct {
		name string
		put  func(files tlsFiles)
		want string
	}{
		{"no file", func(f tlsFiles) { _ = os.Remove(f.CertFile) }, "tls.cert_file: open CERT: no such file"},
		{"no key", func(f tlsFiles) { _ = os.Remove(f.KeyFile) }, "tls.key_file: open KEY: no such file"},
		{"no authorities", func(f tlsFiles) { _ = os.Remove(f.ClientCAFile) }, "tls.client_ca_file: open CA: no such file"},
		{"not PEM", func(f tlsFiles) { write(t, f.CertFile, "sk-secret") }, "tls.cert_file: CERT holds no certificate in PEM"},
		{"the key in place of the certificate", func(f tlsFiles) { write(t, f.CertFile, good.Key) }, "tls.cert_file: CERT holds no certificate in PEM"},
		{"the key of another", func(f tlsFiles) { write(t, f.KeyFile, lasting(t, ca).Key) }, "tls.key_file: KEY: tls: private key does not match public key"},
		{"authorities that are none", func(f tlsFiles) { write(t, f.ClientCAFile, good.Key) }, "tls.client_ca_file: CA holds no certificate in PEM"},
		{"expired", func(f tlsFiles) { f.put(t, ca.IssueFor(t, now.Add(-2*time.Hour), now.Add(-time.Hour)), ca) }, "tls.cert_file: the certificate in CERT has expired on "},
		{"not yet", func(f tlsFiles) { f.put(t, ca.IssueFor(t, now.Add(time.Hour), now.Add(2*time.Hour)), ca) }, "tls.cert_file: the certificate in CERT is good only from "},
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
