package certtest_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/certtest"
)

func TestIssue(t *testing.T) {
	t.Parallel()
	// Of the same name: they are told apart by their keys.
	ours, theirs := certtest.New(t, "authority"), certtest.New(t, "authority")
	const id = "spiffe://example.org/red/web"
	pair := ours.Issue(t, "127.0.0.1", "web.internal", id)
	leaf := pair.TLS.Leaf
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id {
		t.Errorf("URIs %v", leaf.URIs)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		for _, name := range []string{"127.0.0.1", "web.internal"} {
			o := x509.VerifyOptions{Roots: ours.Pool(), DNSName: name, KeyUsages: []x509.ExtKeyUsage{usage}}
			if _, err := leaf.Verify(o); err != nil {
				t.Errorf("%s for %v: %v", name, usage, err)
			}
			if o.Roots = theirs.Pool(); o.Roots.Equal(ours.Pool()) {
				t.Fatal("two authorities are one")
			}
			if _, err := leaf.Verify(o); err == nil {
				t.Errorf("%s for %v: another authority has signed it, too", name, usage)
			}
		}
	}
	again, err := tls.X509KeyPair([]byte(pair.Certificate), []byte(pair.Key))
	if err != nil || !again.Leaf.Equal(leaf) {
		t.Errorf("in PEM it is another pair: %v", err)
	}

	end := time.Now().Add(-time.Minute).Truncate(time.Second)
	past := ours.IssueFor(t, end.Add(-time.Hour), end, "web.internal").TLS.Leaf
	if _, err := past.Verify(x509.VerifyOptions{Roots: ours.Pool()}); err == nil || !past.NotAfter.Equal(end) {
		t.Errorf("good until %v: %v", past.NotAfter, err)
	}
	own := certtest.New(t, "own", "127.0.0.1")
	if _, err := own.TLS.Leaf.Verify(x509.VerifyOptions{Roots: own.Pool(), DNSName: "127.0.0.1"}); err != nil {
		t.Errorf("an authority's own: %v", err)
	}
}
