package auth_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

func TestKeyFile(t *testing.T) {
	w := newWorld(t)
	one, two := newSigner(t, "1"), newSigner(t, "2")
	o := options(t, one)
	g := w.gate(t, o)
	file := o.Issuers[0].JWKSFile
	next := 0
	check := func(when string, s *signer, want conversation.Reason) {
		t.Helper()
		next++
		token := s.sign(t, claims(issuerName, w.now().Add(time.Hour), "jti", next))
		if got := try(t, g, token); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	write := func(content []byte) {
		t.Helper()
		// Into place at once, and with a time of its own, however coarse the file system's clock is.
		temporary := filepath.Join(filepath.Dir(file), "next")
		if err := os.WriteFile(temporary, content, 0o600); err != nil {
			t.Fatal(err)
		}
		next++
		changed := time.Now().Add(time.Duration(next) * time.Minute)
		if err := errors.Join(os.Chtimes(temporary, changed, changed), os.Rename(temporary, file)); err != nil {
			t.Fatal(err)
		}
		w.advance(time.Second)
	}
	remembered := one.sign(t, claims(issuerName, w.now().Add(time.Hour)))
	if got := try(t, g, remembered); got != "" {
		t.Fatal(got)
	}
	check("first", one, "")
	check("first", two, conversation.CredentialInvalid)
	write(jwks(t, one, two))
	check("both", one, "")
	check("both", two, "")
	write([]byte("half a fi"))
	check("broken", two, "")
	write(jwks(t, two))
	if got := try(t, g, remembered); got != conversation.CredentialInvalid {
		t.Errorf("%q for a token that was verified with the key that is gone", got)
	}
	check("replaced", one, conversation.CredentialInvalid)
	check("replaced", two, "")
	write(jwks(t, one)) // of the same size
	check("replaced again", one, "")
	check("replaced again", two, conversation.CredentialInvalid)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	w.advance(time.Second)
	check("gone", one, "")
}

func TestAlgorithms(t *testing.T) {
	w := newWorld(t)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, ps := &signer{"rsa", jwt.SigningMethodRS256, private}, &signer{"rsa", jwt.SigningMethodPS512, private}
	eddsa, es := &signer{"", jwt.SigningMethodEdDSA, ed}, newSigner(t, "ec")
	nameless := &signer{"", es.method, es.private}
	small := &signer{"weak", jwt.SigningMethodRS256, weak}
	pinned := newSigner(t, "pinned")

	set := jwks(t, rs, eddsa, es, small)
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(set, &document); err != nil {
		t.Fatal(err)
	}
	other := pinned.public()
	other.Algorithm = "ES384"
	encrypting := newSigner(t, "encrypting")
	forEncryption := encrypting.public()
	forEncryption.Use = "enc"
	for _, k := range []any{
		other, forEncryption,
		json.RawMessage(`{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}`),
		json.RawMessage(`{"kty":"AKP","alg":"ML-DSA-44"}`),
		json.RawMessage(`7`),
	} {
		raw, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		document.Keys = append([]json.RawMessage{raw}, document.Keys...)
	}
	if set, err = json.Marshal(document); err != nil {
		t.Fatal(err)
	}
	o := options(t, es)
	if err := os.WriteFile(o.Issuers[0].JWKSFile, set, 0o600); err != nil {
		t.Fatal(err)
	}
	g := w.gate(t, o)
	for name, tt := range map[string]struct {
		s    *signer
		want conversation.Reason
	}{
		"RS256": {s: rs}, "PS512": {s: ps}, "EdDSA": {s: eddsa}, "ES256": {s: es}, "no key id": {s: nameless},
		"1,024 bits":            {s: small, want: conversation.CredentialInvalid},
		"key for another":       {s: pinned, want: conversation.CredentialInvalid},
		"key for another use":   {s: encrypting, want: conversation.CredentialInvalid},
		"key of another family": {s: &signer{"rsa", es.method, es.private}, want: conversation.CredentialInvalid},
	} {
		if got := try(t, g, tt.s.sign(t, claims(issuerName, w.now().Add(time.Hour)))); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestClaims(t *testing.T) {
	w := newWorld(t)
	s := newSigner(t, "1")
	w.client(t, "fleet", "lorry")
	const namespaced, subject = "https://example.org/team.id", "jwt:" + issuerName + "#web@shop"
	for name, tt := range map[string]struct {
		issuer  auth.Issuer
		changes []any
		header  []any
		want    auth.Principal
	}{
		"as usual": {want: auth.Principal{Team: "shop", Client: "web", CredentialID: subject, Roles: caller}},
		"in objects": {
			issuer:  auth.Issuer{TeamClaim: "org.unit.team", ClientClaim: "org.client"},
			changes: []any{"org", map[string]any{"client": "lorry", "unit": map[string]any{"team": "fleet"}}},
			want:    auth.Principal{Team: "fleet", Client: "lorry", CredentialID: subject, Roles: caller},
		},
		"with a dot in its name": {
			issuer:  auth.Issuer{TeamClaim: namespaced},
			changes: []any{namespaced, "fleet", "client_id", "lorry"},
			want:    auth.Principal{Team: "fleet", Client: "lorry", CredentialID: subject, Roles: caller},
		},
		"roles in a list": {
			issuer: auth.Issuer{RolesClaim: "roles", Roles: caller | reader | tenant.RolesOf(tenant.RoleAuditor)},
			want:   auth.Principal{Team: "shop", Client: "web", CredentialID: subject, Roles: caller | reader},
		},
		"roles in a string": {
			issuer:  auth.Issuer{RolesClaim: "scope", Roles: caller | reader},
			changes: []any{"scope", "openid viewer"},
			want:    auth.Principal{Team: "shop", Client: "web", CredentialID: subject, Roles: reader},
		},
		"no roles": {
			issuer:  auth.Issuer{RolesClaim: "roles"},
			changes: []any{"roles", []any{7, "gardener", "platform_admin"}},
			want:    auth.Principal{Team: "shop", Client: "web", CredentialID: subject},
		},
		"no claim of roles": {
			issuer:  auth.Issuer{RolesClaim: "roles"},
			changes: []any{"roles", nil},
			want:    auth.Principal{Team: "shop", Client: "web", CredentialID: subject},
		},
		"several audiences": {
			changes: []any{"aud", []string{"another", "chatsvc"}},
			want:    auth.Principal{Team: "shop", Client: "web", CredentialID: subject, Roles: caller},
		},
		"an access token": {
			header: []any{"typ", "application/AT+JWT"},
			want:   auth.Principal{Team: "shop", Client: "web", CredentialID: subject, Roles: caller},
		},
		"a beginning that is 1970": {
			changes: []any{"nbf", 0},
			want:    auth.Principal{Team: "shop", Client: "web", CredentialID: subject, Roles: caller},
		},
		"a little early": {
			changes: []any{"nbf", w.now().Add(20 * time.Second).Unix()},
			want:    auth.Principal{Team: "shop", Client: "web", CredentialID: subject, Roles: caller},
		},
		"a subject that logs must not have": {
			changes: []any{"sub", "web\nlevel=ERROR"},
			want:    auth.Principal{Team: "shop", Client: "web", CredentialID: "jwt:" + issuerName + "#sha256:" + auth.Digest("web\nlevel=ERROR")[:12], Roles: caller},
		},
		"a subject that is too long": {
			changes: []any{"sub", strings.Repeat("s", 65)},
			want:    auth.Principal{Team: "shop", Client: "web", CredentialID: "jwt:" + issuerName + "#sha256:" + auth.Digest(strings.Repeat("s", 65))[:12], Roles: caller},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t, s)
			tt.issuer.Issuer, tt.issuer.Audience, tt.issuer.JWKSFile = issuerName, "chatsvc", o.Issuers[0].JWKSFile
			o.Issuers[0] = tt.issuer
			tt.want.ExpireTime = time.Unix(w.now().Add(time.Hour).Unix(), 0)
			token := s.sign(t, claims(issuerName, tt.want.ExpireTime, tt.changes...), tt.header...)
			got, err := w.gate(t, o).Authenticate(t.Context(), auth.Credential{Bearer: token})
			if err != nil {
				t.Fatal(err)
			}
			if got.Team != tt.want.Team || got.Client != tt.want.Client || got.CredentialID != tt.want.CredentialID ||
				got.Roles != tt.want.Roles || !got.ExpireTime.Equal(tt.want.ExpireTime) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestExpiryWhileRemembered is about a token that ends while it need not be verified again.
func TestExpiryWhileRemembered(t *testing.T) {
	w := newWorld(t)
	s := newSigner(t, "1")
	g := w.gate(t, options(t, s))
	token := s.sign(t, claims(issuerName, w.now().Add(10*time.Second)))
	if got := try(t, g, token); got != "" {
		t.Fatal(got)
	}
	w.advance(35 * time.Second)
	if got := try(t, g, token); got != "" {
		t.Errorf("%s within the leeway", got)
	}
	w.advance(10 * time.Second)
	if got := try(t, g, token); got != conversation.CredentialExpired {
		t.Errorf("%q, want CREDENTIAL_EXPIRED", got)
	}
}

// TestSameSubject is about two issuers that each have somebody of one name: logs and audits tell them apart.
func TestSameSubject(t *testing.T) {
	w := newWorld(t)
	long := "https://issuer.example.org/realms/" + strings.Repeat("r", 200)
	s := newSigner(t, "1")
	o := options(t, s)
	names := []string{issuerName, issuerName + "/", issuerName + "/realms/ä", long, long + "s"}
	for _, name := range names[1:] {
		is := o.Issuers[0]
		is.Issuer = name
		o.Issuers = append(o.Issuers, is)
	}
	g := w.gate(t, o)
	owners := make(map[string]string)
	for _, name := range names {
		p, err := g.Authenticate(t.Context(), auth.Credential{Bearer: s.sign(t, claims(name, w.now().Add(time.Hour)))})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		id := p.CredentialID
		if other, ok := owners[id]; ok {
			t.Errorf("%s is the id for %s and for %s", id, other, name)
		}
		owners[id] = name
		if len(id) > 200 || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("%s: the id %q is not short visible ASCII", name, id)
		}
	}
}
