package auth_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/auth/authtest"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// configured are keys of the configuration, one of a client that the directory also knows.
func configured() []auth.APIKey {
	return []auth.APIKey{
		{SHA256: auth.Digest("sk-web-secret"), Team: "shop", Client: "web"},
		{SHA256: auth.Digest("sk-cron-secret"), Team: "ops", Client: "cron", Roles: reader},
	}
}

func keyStrangers() map[string]auth.Credential {
	return map[string]auth.Credential{
		"unknown":    {Bearer: "sk-another-secret"},
		"longer":     {Bearer: "sk-web-secret1"},
		"shorter":    {Bearer: "sk-web-secre"},
		"other case": {Bearer: "SK-WEB-SECRET"},
		"its digest": {Bearer: auth.Digest("sk-web-secret")},
		"longest":    {Bearer: strings.Repeat("k", auth.MaxBearer)},
	}
}

func TestAPIKeysSuite(t *testing.T) {
	authtest.Run(t, func(t *testing.T) *authtest.Subject {
		t.Helper()
		a, err := auth.NewAPIKeys(configured())
		if err != nil {
			t.Fatal(err)
		}
		return &authtest.Subject{
			Authenticator: a,
			Valid:         auth.Credential{Bearer: "sk-web-secret"},
			Principal:     auth.Principal{Team: "shop", Client: "web", CredentialID: "sha256:" + auth.Digest("sk-web-secret")[:12], Roles: caller},
			Strangers:     keyStrangers(),
		}
	})
}

func TestConfiguredKeySuite(t *testing.T) {
	authtest.Run(t, func(t *testing.T) *authtest.Subject {
		t.Helper()
		w := newWorld(t)
		return &authtest.Subject{
			Authenticator: w.gate(t, options(t, newSigner(t, "1"))),
			Registry:      w.registry,
			Directory:     w.directory,
			// The certificate is another client's and does not count.
			Valid: auth.Credential{
				Bearer:      "sk-web-secret",
				Certificate: certificate(t, time.Now().Add(time.Hour), "ops.internal"),
				Source:      somewhere,
			},
			Principal: auth.Principal{Team: "shop", Client: "web", CredentialID: "sha256:" + auth.Digest("sk-web-secret")[:12], Roles: caller},
			Strangers: keyStrangers(),
		}
	})
}

func TestStoredKeySuite(t *testing.T) {
	authtest.Run(t, func(t *testing.T) *authtest.Subject {
		t.Helper()
		w := newWorld(t)
		spec := tenant.KeySpec{
			Roles:         tenant.RolesOf(tenant.RoleCaller, tenant.RoleTeamAdmin),
			AllowedModels: []string{"gpt-5-mini"},
			AllowedCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fe80::/10")},
		}
		principal := func(k *tenant.Key) auth.Principal {
			return auth.Principal{
				Team: "shop", Client: "web", CredentialID: "key:" + k.ID, Roles: spec.Roles,
				AllowedModels: spec.AllowedModels, ExpireTime: k.ExpireTime,
			}
		}
		k, token := w.key(t, spec)
		revoked, revokedToken := w.key(t, spec)
		revoked, err := w.registry.RevokeKey(t.Context(), by, tenant.RolesOf(tenant.RolePlatformAdmin), "shop", "web", revoked.ID)
		if err != nil {
			t.Fatal(err)
		}
		spec.ExpireTime = time.Now().Add(time.Hour).Truncate(time.Second)
		expired, expiredToken := w.key(t, spec)
		w.advance(time.Hour)

		inside, outside := netip.MustParseAddr("::ffff:10.1.2.3"), netip.MustParseAddr("11.1.2.3")
		secret := token[len(token)-52:]
		other := strings.Repeat("a", 52)
		return &authtest.Subject{
			Authenticator: w.gate(t, options(t, newSigner(t, "1"))),
			Registry:      w.registry,
			Directory:     w.directory,
			Valid:         auth.Credential{Bearer: token, Source: inside},
			Principal:     principal(k),
			Strangers: map[string]auth.Credential{
				"unknown id":           {Bearer: "csk_" + strings.Repeat("a", 16) + "_" + secret, Source: inside},
				"wrong secret":         {Bearer: "csk_" + k.ID + "_" + other, Source: inside},
				"revoked's id":         {Bearer: "csk_" + revoked.ID + "_" + other, Source: inside},
				"expired's id":         {Bearer: "csk_" + expired.ID + "_" + other, Source: inside},
				"from elsewhere":       {Bearer: "csk_" + k.ID + "_" + other, Source: outside},
				"no secret":            {Bearer: "csk_" + k.ID},
				"prefix only":          {Bearer: "csk_"},
				"longer":               {Bearer: token + "a", Source: inside},
				"upper case":           {Bearer: "csk_" + strings.ToUpper(token[4:]), Source: inside},
				"an SQL injection":     {Bearer: "csk_'OR'1'='1'--_" + other, Source: inside},
				"with a certificate":   {Bearer: "csk_" + k.ID + "_" + other, Certificate: certificate(t, w.now().Add(time.Hour), "web.shop.internal")},
				"like a JWT otherwise": {Bearer: "csk_e30.e30.e30"},
			},
			Refused: map[string]authtest.Refusal{
				"revoked": {
					Credential: auth.Credential{Bearer: revokedToken, Source: inside},
					Reason:     conversation.CredentialRevoked, Principal: principal(revoked),
				},
				"expired": {
					Credential: auth.Credential{Bearer: expiredToken, Source: inside},
					Reason:     conversation.CredentialExpired, Principal: principal(expired),
				},
				"from elsewhere": {
					Credential: auth.Credential{Bearer: token, Source: outside},
					Reason:     conversation.IPNotAllowed, Principal: principal(k),
				},
				"from nowhere": {
					Credential: auth.Credential{Bearer: token},
					Reason:     conversation.IPNotAllowed, Principal: principal(k),
				},
			},
		}
	})
}

func TestCertificateSuites(t *testing.T) {
	for name, san := range map[string]string{
		"named by the configuration": "spiffe://example.org/cron",
		"by a URI":                   "spiffe://example.org/team/shop/web",
		"by a DNS name":              "web.shop.internal",
	} {
		t.Run(name, func(t *testing.T) {
			authtest.Run(t, func(t *testing.T) *authtest.Subject {
				t.Helper()
				w := newWorld(t)
				w.advance(2 * time.Hour)
				end := w.now().Add(time.Hour).Truncate(time.Second).UTC()
				principal := auth.Principal{
					Team: "shop", Client: "web", CredentialID: "cert:" + san, Roles: reader,
					AllowedModels: []string{"sim"}, ExpireTime: end,
				}
				expired := principal
				expired.ExpireTime = w.now().Add(-time.Hour).Truncate(time.Second).UTC()
				from := func(names ...string) auth.Credential {
					return auth.Credential{Certificate: certificate(t, end, names...), Source: somewhere}
				}
				authority := certificate(t, end, "spiffe://example.org/cron")
				authority.IsCA = true
				return &authtest.Subject{
					Authenticator: w.gate(t, options(t, newSigner(t, "1"))),
					Registry:      w.registry,
					Directory:     w.directory,
					Valid:         from(san),
					Principal:     principal,
					Strangers: map[string]auth.Credential{
						// Its common name is web.shop.internal, as all have it here.
						"no names":             from(),
						"another trust domain": from("spiffe://example.com/cron"),
						"below":                from("spiffe://example.org/cron/1"),
						"above":                from("spiffe://example.org/"),
						"another scheme":       from("https://example.org/cron"),
						"other case":           from("spiffe://example.org/Cron"),
						"no id":                from("spiffe://example.org/team/shop/Web"),
						"no id of a team":      from("spiffe://example.org/team/Shop/web"),
						"a placeholder":        from("spiffe://example.org/team/{team}/{client}"),
						"a wildcard":           from("*.shop.internal"),
						"a subdomain":          from("a.web.shop.internal"),
						"a URI as a DNS name":  {Certificate: &x509.Certificate{DNSNames: []string{"spiffe://example.org/cron"}, NotAfter: end}},
						"two SPIFFE ids":       from("spiffe://example.org/cron", "spiffe://example.org/x"),
						"SPIFFE and a URI":     from("spiffe://example.org/cron", "https://example.org/x"),
						"an authority":         {Certificate: authority},
					},
					Refused: map[string]authtest.Refusal{
						"expired": {
							Credential: auth.Credential{Certificate: certificate(t, expired.ExpireTime, san)},
							Reason:     conversation.CredentialExpired, Principal: expired,
						},
						"of two clients": {Credential: from("web.shop.internal", "ops.internal"), Reason: conversation.CredentialInvalid},
						"not registered": {Credential: from("web.cellar.internal"), Reason: conversation.CredentialInvalid},
					},
				}
			})
		})
	}
}

func TestTokenSuite(t *testing.T) {
	authtest.Run(t, func(t *testing.T) *authtest.Subject {
		t.Helper()
		w := newWorld(t)
		s := newSigner(t, "1")
		return tokenSubject(t, w, w.gate(t, options(t, s)), issuerName, s)
	})
}

func TestDiscoveredTokenSuite(t *testing.T) {
	authtest.Run(t, func(t *testing.T) *authtest.Subject {
		t.Helper()
		w := newWorld(t)
		s := newSigner(t, "1")
		is := newIssuer(t, s)
		return tokenSubject(t, w, w.gate(t, auth.Options{Issuers: []auth.Issuer{is.options()}}), is.URL, s)
	})
}

// tokenSubject has tokens of an issuer as options has it.
func tokenSubject(t *testing.T, w *world, g *auth.Gate, issuer string, s *signer) *authtest.Subject {
	t.Helper()
	w.advance(2 * time.Hour)
	end, past := w.now().Add(time.Hour).Truncate(time.Second), w.now().Add(-time.Hour).Truncate(time.Second)
	principal := auth.Principal{
		Team: "shop", Client: "web", CredentialID: "jwt:" + issuer + "#web@shop", Roles: tenant.RolesOf(tenant.RoleCaller, tenant.RoleViewer), ExpireTime: end,
	}
	expired := principal
	expired.ExpireTime = past
	bearer := func(token string) auth.Credential { return auth.Credential{Bearer: token, Source: somewhere} }
	with := func(changes ...any) auth.Credential { return bearer(s.sign(t, claims(issuer, end, changes...))) }

	good := s.sign(t, claims(issuer, end))
	parts := strings.Split(good, ".")
	impostor := newSigner(t, s.id)
	public, err := x509.MarshalPKIXPublicKey(s.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	hmac := func(key any, method jwt.SigningMethod) auth.Credential {
		token := jwt.NewWithClaims(method, claims(issuer, end))
		token.Header["kid"] = s.id
		text, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return bearer(text)
	}
	invalid := func(c auth.Credential) authtest.Refusal {
		return authtest.Refusal{Credential: c, Reason: conversation.CredentialInvalid}
	}
	return &authtest.Subject{
		Authenticator: g,
		Registry:      w.registry,
		Directory:     w.directory,
		Valid:         bearer(good),
		Principal:     principal,
		Strangers: map[string]auth.Credential{
			"another's signature":      bearer(impostor.sign(t, claims(issuer, end))),
			"another key id":           bearer(newSigner(t, "2").sign(t, claims(issuer, end))),
			"another issuer":           bearer(s.sign(t, claims("https://example.com", end))),
			"no issuer":                with("iss", nil),
			"an issuer by its case":    with("iss", nil, "ISS", issuer),
			"an issuer in a list":      with("iss", []string{issuer}),
			"other claims":             bearer(parts[0] + "." + strings.Split(s.sign(t, claims(issuer, end, "team", "ops")), ".")[1] + "." + parts[2]),
			"no signature":             bearer(parts[0] + "." + parts[1] + "."),
			"cut signature":            bearer(good[:len(good)-2]),
			"claims that are not JSON": bearer(parts[0] + ".e30x." + parts[2]),
			"no claims":                bearer(parts[0] + ".." + parts[2]),
			"algorithm none":           hmac(jwt.UnsafeAllowNoneSignatureType, jwt.SigningMethodNone),
			"the public key as secret": hmac(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), jwt.SigningMethodHS256),
			"an empty header":          bearer("e30." + parts[1] + "." + parts[2]),
			"a key of its own":         bearer(impostor.sign(t, claims(issuer, end), "jwk", impostor.public())),
			"unknown critical header":  bearer(s.sign(t, claims(issuer, end), "crit", []string{"b65"})),
			"a notice of logout":       bearer(s.sign(t, claims(issuer, end), "typ", "logout+jwt")),
			"expired and not genuine":  bearer(impostor.sign(t, claims(issuer, past))),
		},
		Refused: map[string]authtest.Refusal{
			"expired": {
				Credential: bearer(s.sign(t, claims(issuer, past))),
				Reason:     conversation.CredentialExpired, Principal: expired,
			},
			"for ever":                invalid(with("exp", nil)),
			"for ever, by its case":   invalid(with("exp", nil, "EXP", end.Unix())),
			"for ever, in text":       invalid(with("exp", strconv.FormatInt(end.Unix(), 10))),
			"for ever and a day":      invalid(with("exp", 1e300)),
			"before all time":         invalid(with("exp", -1)),
			"not yet":                 invalid(with("nbf", w.now().Add(time.Minute).Unix())),
			"not yet, in text":        invalid(with("nbf", "99999999999")),
			"never":                   invalid(with("nbf", 1e300)),
			"no beginning":            invalid(with("nbf", json.RawMessage("null"))),
			"for another audience":    invalid(with("aud", "another")),
			"for no audience":         invalid(with("aud", nil)),
			"an audience by its case": invalid(with("aud", nil, "Aud", "chatsvc")),
			"an audience in objects":  invalid(with("aud", []any{map[string]any{"chatsvc": true}, nil})),
			"no team":                 invalid(with("team", nil)),
			"a team that is none":     invalid(with("team", "Shop!")),
			"a team in a list":        invalid(with("team", []string{"shop"})),
			"no client":               invalid(with("client_id", nil)),
			"not registered":          invalid(with("client_id", "cellar")),
		},
	}
}

const issuerName = "https://issuer.example.org"

// options have something of every kind: a credential meets all authenticators in their places.
func options(t testing.TB, s *signer) auth.Options {
	t.Helper()
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, jwks(t, s), 0o600); err != nil {
		t.Fatal(err)
	}
	models := []string{"sim"}
	return auth.Options{
		APIKeys: configured(),
		Certificates: []auth.CertificateRule{
			{SAN: "spiffe://example.org/cron", Team: "shop", Client: "web", Roles: reader, AllowedModels: models},
			{SAN: "spiffe://example.org/team/{team}/{client}", Roles: reader, AllowedModels: slices.Clone(models)},
			{SAN: "{client}.{team}.internal", Roles: reader, AllowedModels: models},
			{SAN: "ops.internal", Team: "ops", Client: "cron"},
		},
		Issuers: []auth.Issuer{{
			Issuer: issuerName, Audience: "chatsvc", JWKSFile: file,
			RolesClaim: "roles", Roles: tenant.RolesOf(tenant.RoleCaller, tenant.RoleViewer, tenant.RoleAuditor),
		}},
	}
}
