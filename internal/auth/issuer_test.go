package auth_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// issuer is an identity provider with OpenID discovery on loopback.
type issuer struct {
	*httptest.Server
	reads atomic.Int64 // of its configuration
	calls atomic.Int64 // for anything

	mu      sync.Mutex
	jwks    []byte
	trouble http.HandlerFunc // answers for it, if set
	held    chan struct{}    // it waits for this, if set
}

func newIssuer(t testing.TB, signers ...*signer) *issuer {
	t.Helper()
	is := &issuer{jwks: jwks(t, signers...)}
	is.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		is.calls.Add(1)
		if r.URL.Path == "/.well-known/openid-configuration" {
			is.reads.Add(1)
		}
		is.mu.Lock()
		set, trouble, held := is.jwks, is.trouble, is.held
		is.mu.Unlock()
		if held != nil {
			<-held
		}
		switch {
		case trouble != nil:
			trouble(w, r)
		case r.URL.Path == "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": is.URL, "jwks_uri": is.URL + "/keys"})
		case r.URL.Path == "/keys":
			_, _ = w.Write(set)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(is.Close)
	return is
}

func (is *issuer) options() auth.Issuer {
	return auth.Issuer{
		Issuer: is.URL, Audience: "chatsvc",
		RolesClaim: "roles", Roles: tenant.RolesOf(tenant.RoleCaller, tenant.RoleViewer, tenant.RoleAuditor),
	}
}

func (is *issuer) set(jwks []byte, trouble http.HandlerFunc) {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.jwks, is.trouble = jwks, trouble
}

// hold has it wait with its answers.
func (is *issuer) hold(jwks []byte, until chan struct{}) {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.jwks, is.held = jwks, until
}

func outage(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "out of order", http.StatusBadGateway)
}

// try returns the reason that a token is refused with, and "" if it is let in.
func try(t testing.TB, a auth.Authenticator, token string) conversation.Reason {
	t.Helper()
	_, err := a.Authenticate(t.Context(), auth.Credential{Bearer: token, Source: somewhere})
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*conversation.Error](err)
	if !ok {
		t.Fatalf("error %v", err)
	}
	return e.Reason
}

func TestKeyRotation(t *testing.T) {
	w := newWorld(t)
	one, two := newSigner(t, "1"), newSigner(t, "2")
	is := newIssuer(t, one)
	g := w.gate(t, auth.Options{Issuers: []auth.Issuer{is.options()}})
	token := func(s *signer) string { return s.sign(t, claims(is.URL, w.now().Add(time.Hour))) }
	remembered := token(one)
	if got := try(t, g, remembered); got != "" {
		t.Fatal(got)
	}
	if n := is.reads.Load(); n != 1 {
		t.Fatalf("%d reads for the first token", n)
	}

	is.set(jwks(t, two), nil)
	w.advance(9 * time.Second)
	for range 100 {
		if got := try(t, g, token(two)); got != conversation.CredentialInvalid {
			t.Fatalf("%q before the keys may be read again", got)
		}
	}
	if n := is.reads.Load(); n != 1 {
		t.Fatalf("%d reads for key ids that are not known, within 10 s", n)
	}
	w.advance(time.Second)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			if got := try(t, g, token(two)); got != "" {
				t.Errorf("%s with the new key", got)
			}
		})
	}
	callers.Wait()
	if n := is.reads.Load(); n != 2 {
		t.Errorf("%d reads, want one for all that waited", n-1)
	}
	for _, token := range []string{token(one), remembered} {
		if got := try(t, g, token); got != conversation.CredentialInvalid {
			t.Errorf("%q with the key that was withdrawn", got)
		}
	}
}

// TestWithdrawnKey is about a key that nobody asks for anew: the id that its tokens have is known.
func TestWithdrawnKey(t *testing.T) {
	w := newWorld(t)
	one, two := newSigner(t, "1"), newSigner(t, "2")
	is := newIssuer(t, one)
	g := w.gate(t, auth.Options{Issuers: []auth.Issuer{is.options()}})
	end := w.now().Add(24 * time.Hour)
	remembered := one.sign(t, claims(is.URL, end, "jti", "1"))
	if got := try(t, g, remembered); got != "" {
		t.Fatal(got)
	}
	is.set(jwks(t, two), nil)
	if got := try(t, g, remembered); got != "" {
		t.Errorf("%s though it was verified a moment ago", got)
	}
	w.advance(30 * time.Minute)
	for _, token := range []string{remembered, one.sign(t, claims(is.URL, end, "jti", "2"))} {
		if got := try(t, g, token); got != conversation.CredentialInvalid {
			t.Errorf("%q after half an hour", got)
		}
	}
}

// TestKeysAge is the same where there are tokens all the time: the keys are read again in passing, and no call waits for it.
func TestKeysAge(t *testing.T) {
	w := newWorld(t)
	one, two := newSigner(t, "1"), newSigner(t, "2")
	is := newIssuer(t, one)
	g := w.gate(t, auth.Options{Issuers: []auth.Issuer{is.options()}})
	next := 0
	call := func() conversation.Reason {
		next++
		return try(t, g, one.sign(t, claims(is.URL, w.now().Add(time.Hour), "jti", next)))
	}
	if got := call(); got != "" {
		t.Fatal(got)
	}
	asked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	is.set(nil, func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(asked) })
		<-release
		outage(w, r)
	})
	w.advance(5 * time.Minute)
	for range 3 {
		if got := call(); got != "" {
			t.Errorf("%s while the keys are read again", got)
		}
	}
	<-asked
	is.set(jwks(t, two), nil)
	close(release)
	for deadline := time.Now().Add(10 * time.Second); call() != conversation.CredentialInvalid; w.advance(time.Second) {
		if time.Now().After(deadline) {
			t.Fatal("the key that was withdrawn still counts")
		}
	}
}

func TestIssuerOutage(t *testing.T) {
	w := newWorld(t)
	one, two := newSigner(t, "1"), newSigner(t, "2")
	is := newIssuer(t, one)
	is.set(jwks(t, one), outage)
	g := w.gate(t, auth.Options{Issuers: []auth.Issuer{is.options()}})
	next := 0
	token := func(s *signer) string {
		next++
		return s.sign(t, claims(is.URL, w.now().Add(time.Hour), "jti", next))
	}
	check := func(when string, s *signer, want conversation.Reason, reads int64) {
		t.Helper()
		if got := try(t, g, token(s)); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
		if n := is.reads.Load(); n != reads {
			t.Errorf("%s: %d reads, want %d", when, n, reads)
		}
	}
	check("at the start", one, conversation.StoreUnavailable, 1)
	w.advance(9 * time.Second)
	check("9 s later", one, conversation.StoreUnavailable, 1)
	w.advance(time.Second)
	check("10 s later", one, conversation.StoreUnavailable, 2)
	w.advance(19 * time.Second)
	check("19 s after that", one, conversation.StoreUnavailable, 2)

	is.set(jwks(t, one), nil)
	w.advance(time.Second)
	check("when it is back", one, "", 3)

	is.set(jwks(t, two), outage)
	w.advance(time.Hour)
	check("away again", one, "", 4)
	check("away again, with an unknown key", two, conversation.StoreUnavailable, 4)
	is.set(jwks(t, two), nil)
	w.advance(time.Minute)
	check("back again", two, "", 5)
}

// TestIssuerHangs is about a caller with less time than the issuer takes: it does not wait, and what it began goes on.
func TestIssuerHangs(t *testing.T) {
	w := newWorld(t)
	one, two := newSigner(t, "1"), newSigner(t, "2")
	is := newIssuer(t, one)
	g := w.gate(t, auth.Options{Issuers: []auth.Issuer{is.options()}})
	if got := try(t, g, one.sign(t, claims(is.URL, w.now().Add(time.Hour)))); got != "" {
		t.Fatal(got)
	}
	release := make(chan struct{})
	is.hold(jwks(t, two), release)
	w.advance(10 * time.Second)
	token := two.sign(t, claims(is.URL, w.now().Add(time.Hour)))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := g.Authenticate(ctx, auth.Credential{Bearer: token})
	if !errors.Is(err, conversation.ErrStoreUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	close(release)
	if got := try(t, g, token); got != "" {
		t.Errorf("%s when the issuer has answered", got)
	}
	if n := is.reads.Load(); n != 2 {
		t.Errorf("%d reads, want 2", n)
	}
}

// TestIssuerAnswers is about answers that must not be believed.
func TestIssuerAnswers(t *testing.T) {
	one := newSigner(t, "1")
	elsewhere := newIssuer(t, one)
	configuration := func(issuer, keys string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
				_ = json.NewEncoder(w).Encode(map[string]string{"issuer": issuer, "jwks_uri": keys})
				return
			}
			_, _ = w.Write(jwks(t, one))
		}
	}
	for name, tt := range map[string]struct {
		answer func(is *issuer) http.HandlerFunc
		log    string
	}{
		"of another issuer": {
			func(is *issuer) http.HandlerFunc { return configuration("https://example.com", is.URL+"/keys") },
			"the issuer's configuration is of another issuer",
		},
		"with keys in plaintext from elsewhere": {
			func(is *issuer) http.HandlerFunc { return configuration(is.URL, "http://192.0.2.1/keys") },
			"jwks_uri of the issuer's configuration must be a URL with https",
		},
		"with keys in a file": {
			func(is *issuer) http.HandlerFunc { return configuration(is.URL, "file:///etc/passwd") },
			"jwks_uri of the issuer's configuration must be a URL with https",
		},
		"without keys": {
			func(is *issuer) http.HandlerFunc { return configuration(is.URL, "") },
			"jwks_uri of the issuer's configuration must be a URL with https",
		},
		"that lead elsewhere": {
			func(*issuer) http.HandlerFunc { return http.RedirectHandler(elsewhere.URL, http.StatusFound).ServeHTTP },
			"it redirects to another host",
		},
		"that lead in circles": {
			func(is *issuer) http.HandlerFunc { return http.RedirectHandler(is.URL, http.StatusFound).ServeHTTP },
			"or too often",
		},
		"that do not end": {
			func(*issuer) http.HandlerFunc {
				return func(w http.ResponseWriter, _ *http.Request) {
					for page := []byte(strings.Repeat(" ", 64<<10)); ; {
						if _, err := w.Write(page); err != nil {
							return
						}
					}
				}
			},
			"has more than 1048576 bytes",
		},
		"that are not JSON": {
			func(*issuer) http.HandlerFunc {
				return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }
			},
			"decode the issuer's configuration",
		},
		"that are empty": {
			func(*issuer) http.HandlerFunc { return func(http.ResponseWriter, *http.Request) {} },
			"decode the issuer's configuration",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			is := newIssuer(t, one)
			is.set(nil, tt.answer(is))
			var log strings.Builder
			g := w.gate(t, auth.Options{
				Issuers: []auth.Issuer{is.options()},
				Logger:  slog.New(slog.NewTextHandler(&log, nil)),
			})
			if got := try(t, g, one.sign(t, claims(is.URL, w.now().Add(time.Hour)))); got != conversation.StoreUnavailable {
				t.Errorf("%q", got)
			}
			if !strings.Contains(log.String(), tt.log) {
				t.Errorf("the log lacks %q: %s", tt.log, log.String())
			}
		})
	}
	if n := elsewhere.calls.Load(); n != 0 {
		t.Errorf("%d redirects were followed to another host", n)
	}
}
