package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/chatsvc/chatsvc/internal/config"
)

const (
	// lookAtCertificates is how often the files are read. What changed in them is in use after twice that, at most thrice.
	lookAtCertificates = 500 * time.Millisecond
	// maxPEM is the most that is read of a file: a mistaken path must not fill the memory.
	maxPEM = 1 << 20
	// endsSoon is when the log begins to say that a certificate ends: every day, and on the last one and later every hour.
	endsSoon = 7 * 24 * time.Hour
)

// certificates is what the listeners present, and whom they believe. The files are read again when they change: each
// handshake takes what is good at its moment, and connections that stand are not touched. It is safe for concurrent use.
//
// grpc-go's pemfile provider does the like, but takes a chain or a list of authorities that is only half written if its
// first half makes sense, wants both files in one folder, and where a pair does not fit writes the private key to its log.
type certificates struct {
	settings config.TLS
	logger   *slog.Logger
	inUse    atomic.Pointer[identity]

	// Of watch alone.
	found   pemFiles // by the last look
	refused pemFiles // what was last said to be of no use
}

// pemFiles is what the files hold, or why they cannot be read.
type pemFiles struct {
	certificate, key, clientCA string
	trouble                    string
}

// identity is what pemFiles make.
type identity struct {
	files       pemFiles
	certificate tls.Certificate
	clientCAs   *x509.CertPool
	expiries    []expiry // of watch alone
}

// expiry is the end of a certificate, which is told in advance.
type expiry struct {
	whose, file string
	effect      string // of its end
	notAfter    time.Time
	reminded    time.Time // last
}

// newCertificates reads the files, which must be there and of use now.
func newCertificates(settings config.TLS, logger *slog.Logger) (*certificates, error) {
	c := &certificates{settings: settings, logger: logger}
	pair, err := c.parse(c.read(), time.Now())
	if err != nil {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	c.inUse.Store(pair)
	return c, nil
}

// config returns the TLS of a listener that speaks some protocols, in the names of ALPN, by preference.
func (c *certificates) config(clients tls.ClientAuthType, protocols ...string) *tls.Config {
	base := tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		// A session that is taken up again would bring a client certificate along that was verified against the authorities of
		// then. Connections last, so that a full handshake for each costs little.
		SessionTicketsDisabled: true,
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pair := c.inUse.Load()
		now := base.Clone()
		now.Certificates = []tls.Certificate{pair.certificate}
		if pair.clientCAs != nil {
			now.ClientCAs, now.ClientAuth = pair.clientCAs, clients
		}
		return now, nil
	}
	return outer
}

// dataClients is what the data plane asks of its clients, where there is an authority for their certificates.
func dataClients(settings config.TLS) tls.ClientAuthType {
	if settings.RequireClientCert {
		return tls.RequireAndVerifyClientCert
	}
	return tls.VerifyClientCertIfGiven
}

// watch reads the files again and again until ctx ends.
func (c *certificates) watch(ctx context.Context) {
	c.remind(ctx, time.Now())
	ticker := time.NewTicker(lookAtCertificates)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.look(ctx, time.Now())
		}
	}
}

// look takes what the files hold if they have changed, but not before a second look has found the same: several files are
// never replaced at once, and one that is being written may make sense before it is whole. What is of no use leaves the last
// good pair in use, and is said once.
func (c *certificates) look(ctx context.Context, now time.Time) {
	found, before := c.read(), c.found
	c.found = found
	switch {
	case found == c.inUse.Load().files:
		c.refused = pemFiles{}
	case found == before:
		pair, err := c.parse(found, now)
		if err != nil {
			if found != c.refused {
				c.logger.WarnContext(ctx, "the certificate files are not usable; what was last read stays in use until they are", "error", err)
			}
			c.refused = found
			break
		}
		c.inUse.Store(pair)
		c.refused = pemFiles{}
		c.logger.InfoContext(ctx, "certificate reloaded", "file", c.settings.CertFile, "not_after", pair.certificate.Leaf.NotAfter)
	}
	c.remind(ctx, now)
}

// remind says which certificates end soon, or have.
func (c *certificates) remind(ctx context.Context, now time.Time) {
	expiries := c.inUse.Load().expiries
	for i := range expiries {
		e := &expiries[i]
		left, pause := e.notAfter.Sub(now), 24*time.Hour
		if left < pause {
			pause = time.Hour
		}
		if left >= endsSoon || now.Sub(e.reminded) < pause {
			continue
		}
		e.reminded = now
		if left <= 0 {
			c.logger.ErrorContext(ctx, "the certificate has expired", "whose", e.whose, "effect", e.effect, "file", e.file, "not_after", e.notAfter)
		} else {
			c.logger.WarnContext(ctx, "the certificate ends soon", "whose", e.whose, "file", e.file, "not_after", e.notAfter)
		}
	}
}

func (c *certificates) read() (files pemFiles) {
	for _, f := range []struct {
		name, path string
		into       *string
	}{
		{"tls.cert_file", c.settings.CertFile, &files.certificate},
		{"tls.key_file", c.settings.KeyFile, &files.key},
		{"tls.client_ca_file", c.settings.ClientCAFile, &files.clientCA},
	} {
		if f.path == "" {
			continue
		}
		text, err := readPEM(f.path)
		if err != nil {
			return pemFiles{trouble: f.name + ": " + err.Error()}
		}
		*f.into = text
	}
	return files
}

func readPEM(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(file, maxPEM))
	return string(text), err
}

// parse returns what the files make at a moment. Errors name the setting and hold nothing of a key.
func (c *certificates) parse(files pemFiles, now time.Time) (*identity, error) {
	if files.trouble != "" {
		return nil, errors.New(files.trouble)
	}
	if _, err := certificatesIn(files.certificate); err != nil {
		return nil, fmt.Errorf("tls.cert_file: %s %w", c.settings.CertFile, err)
	}
	pair := &identity{files: files}
	var err error
	if pair.certificate, err = tls.X509KeyPair([]byte(files.certificate), []byte(files.key)); err != nil {
		return nil, fmt.Errorf("tls.key_file: %s: %w", c.settings.KeyFile, err)
	}
	const form = "2006-01-02 15:04:05 MST"
	switch leaf := pair.certificate.Leaf; {
	case !now.Before(leaf.NotAfter):
		return nil, fmt.Errorf("tls.cert_file: the certificate in %s has expired on %s", c.settings.CertFile, leaf.NotAfter.Format(form))
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("tls.cert_file: the certificate in %s is good only from %s on", c.settings.CertFile, leaf.NotBefore.Format(form))
	}
	pair.expiries = []expiry{{
		whose: "server", file: c.settings.CertFile, effect: "callers refuse it", notAfter: pair.certificate.Leaf.NotAfter,
	}}
	if c.settings.ClientCAFile == "" {
		return pair, nil
	}
	authorities, err := certificatesIn(files.clientCA)
	if err != nil {
		return nil, fmt.Errorf("tls.client_ca_file: %s %w", c.settings.ClientCAFile, err)
	}
	pair.clientCAs = poolOf(authorities)
	for _, authority := range authorities {
		pair.expiries = append(pair.expiries, expiry{
			whose: "authority " + authority.Subject.CommonName, file: c.settings.ClientCAFile,
			effect: "client certificates that it signed are refused", notAfter: authority.NotAfter,
		})
	}
	return pair, nil
}

func poolOf(certificates []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, certificate := range certificates {
		pool.AddCert(certificate)
	}
	return pool
}

// certificatesIn returns all certificates of a text in PEM. The standard library's own readers of such texts leave out what
// they do not understand: half a list of authorities would be a shorter list.
func certificatesIn(text string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	blocks := 0
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		if block.Type != "CERTIFICATE" {
			continue // a key in the same file, or the parameters of one
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a certificate that cannot be read: %w", err)
		}
		all = append(all, certificate)
	}
	switch {
	case strings.Count(text, "-----BEGIN ") != blocks: // Decode passes over what is none
		return nil, errors.New("is cut off or damaged")
	case len(all) == 0:
		return nil, errors.New("holds no certificate in PEM")
	}
	return all, nil
}
