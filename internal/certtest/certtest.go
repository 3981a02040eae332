// Package certtest makes certificates for tests.
package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Pair is a certificate and its key.
type Pair struct {
	// TLS has its Leaf.
	TLS tls.Certificate
	// Certificate and Key are the same in PEM.
	Certificate, Key string
}

// Authority signs certificates.
type Authority struct {
	// Pair is its own certificate, which is good for both ends of a connection, too.
	Pair
}

// New returns an authority with a common name, and names as those of Issue. It is good for an hour, and has been for one.
func New(tb testing.TB, commonName string, names ...string) *Authority {
	tb.Helper()
	own := template(tb, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), names)
	own.Subject.CommonName = commonName
	own.IsCA, own.BasicConstraintsValid = true, true
	own.KeyUsage |= x509.KeyUsageCertSign
	return &Authority{sign(tb, own, nil)}
}

// Pool has the authority's certificate, and nothing else.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.TLS.Leaf)
	return pool
}

// Issue returns a certificate for both ends of a connection, which is good for an hour, and has been for one. Each of its
// names is an address, a URI or a DNS name, and the first one its common name, too.
func (a *Authority) Issue(tb testing.TB, names ...string) Pair {
	tb.Helper()
	return a.IssueFor(tb, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), names...)
}

// IssueFor is Issue for a certificate that is good from one moment to another.
func (a *Authority) IssueFor(tb testing.TB, from, to time.Time, names ...string) Pair {
	tb.Helper()
	return sign(tb, template(tb, from, to, names), a)
}

func template(tb testing.TB, from, to time.Time, names []string) *x509.Certificate {
	tb.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require(tb, err)
	c := &x509.Certificate{
		SerialNumber: serial, NotBefore: from, NotAfter: to,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if len(names) > 0 {
		c.Subject = pkix.Name{CommonName: names[0]}
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else if strings.Contains(name, ":") {
			uri, err := url.Parse(name)
			require(tb, err)
			c.URIs = append(c.URIs, uri)
		} else {
			c.DNSNames = append(c.DNSNames, name)
		}
	}
	return c
}

// sign makes the certificate of a template; without an authority it signs itself.
func sign(tb testing.TB, template *x509.Certificate, by *Authority) Pair {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require(tb, err)
	var signer crypto.PrivateKey = key
	issuer := template
	if by != nil {
		signer, issuer = by.TLS.PrivateKey, by.TLS.Leaf
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	require(tb, err)
	leaf, err := x509.ParseCertificate(der)
	require(tb, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require(tb, err)
	return Pair{
		TLS:         tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key:         string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
	}
}

func require(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
