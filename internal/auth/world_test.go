package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/certtest"
	"github.com/chatsvc/chatsvc/internal/conversation/sqlstore"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// world is a database in which the team shop has the client web, and a clock that credentials expire by.
type world struct {
	store     *sqlstore.DB
	registry  *tenant.Registry
	directory *tenant.Directory
	ahead     atomic.Int64 // of the real clock, in nanoseconds
}

var by = tenant.Entry{Action: "test", Actor: tenant.Actor{Team: "test"}}

func newWorld(t testing.TB) *world {
	t.Helper()
	store, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "chatsvc.db"), sqlstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	w := &world{store: store, directory: tenant.NewDirectory(store, slog.New(slog.DiscardHandler))}
	w.registry = tenant.NewRegistry(store, w.directory)
	w.client(t, "shop", "web")
	return w
}

func (w *world) now() time.Time          { return time.Now().Add(time.Duration(w.ahead.Load())) }
func (w *world) advance(d time.Duration) { w.ahead.Add(int64(d)) }

func (w *world) client(t testing.TB, team, client string) {
	t.Helper()
	if _, err := w.registry.CreateTeam(t.Context(), by, tenant.Team{ID: team}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.registry.CreateClient(t.Context(), by, tenant.Client{Team: team, ID: client}); err != nil {
		t.Fatal(err)
	}
	w.refresh(t)
}

func (w *world) refresh(t testing.TB) {
	t.Helper()
	if _, err := w.directory.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// key makes a key of shop's web, and returns it with its token.
func (w *world) key(t testing.TB, spec tenant.KeySpec) (*tenant.Key, string) {
	t.Helper()
	spec.Team, spec.Client = "shop", "web"
	k, token, err := w.registry.CreateKey(t.Context(), by, tenant.RolesOf(tenant.RolePlatformAdmin), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	w.refresh(t)
	return k, token
}

func (w *world) gate(t testing.TB, o auth.Options) *auth.Gate {
	t.Helper()
	o.Directory, o.Now = w.directory, w.now
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	g, err := auth.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// certificate returns a certificate with names, and a common name of which nobody is to take notice.
func certificate(t testing.TB, notAfter time.Time, names ...string) *x509.Certificate {
	t.Helper()
	leaf := certtest.New(t, "authority").IssueFor(t, time.Now().Add(-time.Hour), notAfter, names...).TLS.Leaf
	leaf.Subject.CommonName = "web.shop.internal"
	return leaf
}

// signer signs tokens, as an issuer does.
type signer struct {
	id      string
	method  jwt.SigningMethod
	private crypto.Signer
}

func newSigner(t testing.TB, id string) *signer {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{id, jwt.SigningMethodES256, private}
}

func (s *signer) sign(t testing.TB, claims jwt.MapClaims, header ...any) string {
	t.Helper()
	token := jwt.NewWithClaims(s.method, claims)
	if s.id != "" {
		token.Header["kid"] = s.id
	}
	for i := 0; i < len(header); i += 2 {
		token.Header[header[i].(string)] = header[i+1]
	}
	text, err := token.SignedString(s.private)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// public returns the key that its signatures are verified with.
func (s *signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.private.Public(), KeyID: s.id, Use: "sig"}
}

// jwks returns the JWKS of signers.
func jwks(t testing.TB, signers ...*signer) []byte {
	t.Helper()
	var set jose.JSONWebKeySet
	for _, s := range signers {
		set.Keys = append(set.Keys, s.public())
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// claims returns the claims of a good token of shop's web, with changes: a name and its value, or nil to leave it out.
func claims(issuer string, expire time.Time, changes ...any) jwt.MapClaims {
	c := jwt.MapClaims{
		"iss": issuer, "aud": "chatsvc", "exp": expire.Unix(), "iat": time.Now().Unix(),
		"sub": "web@shop", "team": "shop", "client_id": "web", "roles": []string{"caller", "viewer", "platform_admin", "gardener"},
	}
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == nil {
			delete(c, changes[i].(string))
		} else {
			c[changes[i].(string)] = changes[i+1]
		}
	}
	return c
}

var somewhere = netip.MustParseAddr("192.0.2.1")

var (
	caller = tenant.RolesOf(tenant.RoleCaller)
	reader = tenant.RolesOf(tenant.RoleViewer)
)
