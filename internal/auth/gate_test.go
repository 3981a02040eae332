package auth_test

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// TestFormDecides is about credentials that would be good if another authenticator were asked.
func TestFormDecides(t *testing.T) {
	w := newWorld(t)
	s := newSigner(t, "1")
	jwt := s.sign(t, claims(issuerName, w.now().Add(time.Hour)))
	stored := "csk_" + strings.Repeat("a", 16) + "_" + strings.Repeat("b", 52)
	o := options(t, s)
	for _, key := range []string{stored, jwt + "x", "a.b.c", "eyJ.b.c"} {
		o.APIKeys = append(o.APIKeys, auth.APIKey{SHA256: auth.Digest(key), Team: "ops", Client: "cron"})
	}
	good := certificate(t, w.now().Add(time.Hour), "ops.internal")
	withIssuers := w.gate(t, o)
	o.Issuers = nil
	withoutIssuers := w.gate(t, o)
	for _, tt := range []struct {
		name   string
		gate   *auth.Gate
		c      auth.Credential
		team   string
		reason conversation.Reason
	}{
		{name: "a key of the database", gate: withIssuers, c: auth.Credential{Bearer: stored}, reason: conversation.CredentialInvalid},
		{name: "a JWT", gate: withIssuers, c: auth.Credential{Bearer: jwt + "x"}, reason: conversation.CredentialInvalid},
		{name: "a JWT without issuers", gate: withoutIssuers, c: auth.Credential{Bearer: jwt + "x"}, team: "ops"},
		{name: "three parts", gate: withIssuers, c: auth.Credential{Bearer: "a.b.c"}, team: "ops"},
		{name: "three parts, beginning like a JWT", gate: withIssuers, c: auth.Credential{Bearer: "eyJ.b.c"}, team: "ops"},
		{name: "a certificate", gate: withIssuers, c: auth.Credential{Certificate: good}, team: "ops"},
		{
			name: "a bad key and a good certificate", gate: withIssuers,
			c: auth.Credential{Bearer: "bad", Certificate: good}, reason: conversation.CredentialInvalid,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := tt.gate.Authenticate(t.Context(), tt.c)
			if p.Team != tt.team || tt.reason == "" != (err == nil) || err != nil && !errors.Is(err, &conversation.Error{Reason: tt.reason}) {
				t.Errorf("got %+v, %v", p, err)
			}
		})
	}
}

// TestWithoutDatabase: what the configuration names works all the same, the rest does not, and strangers learn nothing
// from it.
func TestWithoutDatabase(t *testing.T) {
	w := newWorld(t)
	_, token := w.key(t, tenant.KeySpec{})
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	w.directory = tenant.NewDirectory(w.store, slog.New(slog.DiscardHandler))
	s := newSigner(t, "1")
	g := w.gate(t, options(t, s))
	end := w.now().Add(time.Hour)
	for _, tt := range []struct {
		name   string
		c      auth.Credential
		reason conversation.Reason
	}{
		{name: "key of the configuration", c: auth.Credential{Bearer: "sk-web-secret"}},
		{name: "certificate of the configuration", c: auth.Credential{Certificate: certificate(t, end, "spiffe://example.org/cron")}},
		{name: "key", c: auth.Credential{Bearer: token}, reason: conversation.StoreUnavailable},
		{name: "certificate", c: auth.Credential{Certificate: certificate(t, end, "web.shop.internal")}, reason: conversation.StoreUnavailable},
		{name: "token", c: auth.Credential{Bearer: s.sign(t, claims(issuerName, end))}, reason: conversation.StoreUnavailable},
		{
			name: "another's token", c: auth.Credential{Bearer: newSigner(t, "1").sign(t, claims(issuerName, end))},
			reason: conversation.CredentialInvalid,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := g.Authenticate(t.Context(), tt.c)
			if tt.reason == "" && (err != nil || p.Team == "") || tt.reason != "" && !errors.Is(err, &conversation.Error{Reason: tt.reason}) {
				t.Errorf("got %+v, %v, want %q", p, err, tt.reason)
			}
			// The log has the reason once, and what is behind it.
			if tt.reason == conversation.StoreUnavailable && (strings.Count(err.Error(), string(tt.reason)) != 1 || !strings.Contains(err.Error(), "try again: read changes: ")) {
				t.Errorf("logged %v", err)
			}
		})
	}
}

func TestAllowedAddresses(t *testing.T) {
	w := newWorld(t)
	g := w.gate(t, auth.Options{})
	var prefixes []netip.Prefix
	for _, p := range []string{"10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "fe80::/10"} {
		prefixes = append(prefixes, netip.MustParsePrefix(p))
	}
	_, token := w.key(t, tenant.KeySpec{AllowedCIDRs: prefixes})
	for address, want := range map[string]bool{
		"10.255.0.1": true, "::ffff:10.255.0.1": true, "192.0.2.7": true, "2001:db8::1": true, "fe80::1%eth0": true,
		"11.0.0.1": false, "::ffff:11.0.0.1": false, "192.0.2.8": false, "2001:db9::1": false, "::1": false, "::10.0.0.1": false,
	} {
		_, err := g.Authenticate(t.Context(), auth.Credential{Bearer: token, Source: netip.MustParseAddr(address)})
		if want != (err == nil) || err != nil && !errors.Is(err, &conversation.Error{Reason: conversation.IPNotAllowed}) {
			t.Errorf("%s: %v, want allowed %t", address, err, want)
		}
	}
	// Who has the key is told what the address looks like from here, as the prefix would have to be.
	for address, want := range map[netip.Addr]string{
		netip.MustParseAddr("::ffff:11.0.0.1"):    "from 11.0.0.1, ",
		netip.MustParseAddr("2001:db9::1%enp1s0"): "from 2001:db9::1, ",
		{}: "that of this call is not known",
	} {
		if _, err := g.Authenticate(t.Context(), auth.Credential{Bearer: token, Source: address}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", address, err, want)
		}
	}
}

func TestCertificateRules(t *testing.T) {
	w := newWorld(t)
	for _, c := range [][2]string{{"fleet", "lorry"}, {"a.b", "c_d"}} {
		w.client(t, c[0], c[1])
	}
	g := w.gate(t, auth.Options{Certificates: []auth.CertificateRule{
		{SAN: "spiffe://example.org/ns/{team}/sa/{client}"},
		{SAN: "spiffe://example.org/ns/fleet/sa/lorry", Team: "fleet", Client: "lorry"},
		{SAN: "spiffe://example.org/ns/shop/sa/web", Team: "shop", Client: "web", Roles: reader},
		{SAN: "https://example.org:8443/{client}", Team: "shop"},
		{SAN: "{client}.clients.internal", Team: "shop", Roles: reader},
		{SAN: "batch.internal", Team: "nobody", Client: "batch"},
		{SAN: "web", Team: "shop", Client: "web"},
	}})
	for _, tt := range []struct {
		name  string
		names []string
		want  string // team/client, roles; empty: refused
		id    string
	}{
		{name: "placeholders", names: []string{"spiffe://example.org/ns/a.b/sa/c_d"}, want: "a.b/c_d caller", id: "cert:spiffe://example.org/ns/a.b/sa/c_d"},
		{name: "two rules that agree", names: []string{"spiffe://example.org/ns/fleet/sa/lorry"}, want: "fleet/lorry caller", id: "cert:spiffe://example.org/ns/fleet/sa/lorry"},
		{name: "two rules that do not", names: []string{"spiffe://example.org/ns/shop/sa/web"}},
		{name: "two names that agree", names: []string{"https://example.org:8443/web", "web"}, want: "shop/web caller", id: "cert:web"},
		{name: "two names of other roles", names: []string{"https://example.org:8443/web", "web.clients.internal"}},
		{name: "one name of nobody", names: []string{"elsewhere.example", "web"}, want: "shop/web caller", id: "cert:web"},
		{name: "upper case", names: []string{"WEB.clients.INTERNAL"}, want: "shop/web viewer", id: "cert:web.clients.internal"},
		{name: "not registered, named by the configuration", names: []string{"Batch.internal."}, want: "nobody/batch caller", id: "cert:batch.internal"},
		{name: "not registered", names: []string{"lorry.clients.internal"}},
		{name: "more segments", names: []string{"https://example.org:8443/web/x"}},
		{name: "a query", names: []string{"https://example.org:8443/web?x"}},
		{name: "an escape", names: []string{"https://example.org:8443/%77eb"}, want: "", id: ""},
		{name: "a slash at the end", names: []string{"https://example.org:8443/web/"}},
		{name: "another port", names: []string{"https://example.org/web"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := g.Authenticate(t.Context(), auth.Credential{Certificate: certificate(t, w.now().Add(time.Hour), tt.names...)})
			if tt.want == "" {
				if !errors.Is(err, &conversation.Error{Reason: conversation.CredentialInvalid}) {
					t.Errorf("got %+v, %v", p, err)
				}
				return
			}
			if got := p.Team + "/" + p.Client + " " + p.Roles.String(); err != nil || got != tt.want || p.CredentialID != tt.id {
				t.Errorf("got %s by %s, %v, want %s by %s", got, p.CredentialID, err, tt.want, tt.id)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t)
	rule := func(san, team, client string) auth.Options {
		return auth.Options{Certificates: []auth.CertificateRule{
			{SAN: "good.internal", Team: "shop", Client: "web"},
			{SAN: san, Team: team, Client: client},
		}}
	}
	issuer := func(i auth.Issuer) auth.Options { return auth.Options{Issuers: []auth.Issuer{i}} }
	const host, path = "certificates: entry 2: san must be a URI with scheme, host and path, all in the usual form, the host in lower case",
		"certificates: entry 2: san may have {team} and {client} only as whole segments of its path"
	const dns = "certificates: entry 2: san is neither a URI nor a DNS name in lower case, whose labels may be {team} and {client}"
	for name, tt := range map[string]struct {
		options auth.Options
		want    string // a prefix
	}{
		"a key": {auth.Options{APIKeys: []auth.APIKey{{SHA256: "ab"}}}, "api_keys: entry 1: sha256 must be 64 hex digits"},

		"empty san":              {rule("", "shop", "web"), "certificates: entry 2: san is empty"},
		"no team":                {rule("spiffe://example.org/{client}", "", ""), "certificates: entry 2: has neither a team nor {team} in san"},
		"no client":              {rule("spiffe://example.org/{team}", "", ""), "certificates: entry 2: has neither a client nor {client} in san"},
		"two teams":              {rule("spiffe://example.org/{team}", "shop", "web"), "certificates: entry 2: team and {team} in san say the same thing"},
		"a bad team":             {rule("a.internal", "Shop", "web"), "certificates: entry 2: team must be " + tenant.IDRule},
		"a bad client":           {rule("a.internal", "shop", "../web"), "certificates: entry 2: client must be " + tenant.IDRule},
		"twice":                  {rule("good.internal", "shop", "other"), "certificates: entry 2: the same san stands there twice"},
		"upper case":             {rule("Good.internal", "shop", "web"), dns},
		"the root's dot":         {rule("good.internal.", "shop", "web"), dns},
		"wildcard":               {rule("*.internal", "shop", "web"), "certificates: entry 2: san has a wildcard"},
		"placeholder twice":      {rule("{team}.{team}.internal", "", "web"), "certificates: entry 2: san has the same placeholder twice"},
		"part of a label":        {rule("x-{client}.internal", "shop", ""), dns},
		"unknown placeholder":    {rule("{user}.internal", "shop", "web"), dns},
		"an address":             {rule("web@example.org", "shop", "web"), dns},
		"a long label":           {rule(strings.Repeat("a", 64)+".internal", "shop", "web"), dns},
		"part of a segment":      {rule("spiffe://example.org/x-{client}", "shop", ""), path},
		"in the host":            {rule("spiffe://{team}/{client}", "", ""), path},
		"no scheme":              {rule("//example.org:1/web", "shop", "web"), host},
		"no host":                {rule("urn:web", "shop", "web"), host},
		"no path":                {rule("spiffe://example.org", "shop", "web"), host},
		"an empty path":          {rule("spiffe://example.org/", "shop", "web"), host},
		"an empty segment":       {rule("spiffe://example.org//web", "shop", "web"), host},
		"a user":                 {rule("spiffe://me@example.org/web", "shop", "web"), host},
		"a query":                {rule("spiffe://example.org/web?", "shop", "web"), host},
		"a fragment":             {rule("spiffe://example.org/web#", "shop", "web"), host},
		"an escape":              {rule("spiffe://example.org/%77eb", "shop", "web"), host},
		"a host in upper case":   {rule("spiffe://Example.org/web", "shop", "web"), host},
		"a scheme in upper case": {rule("SPIFFE://example.org/web", "shop", "web"), host},
		"not visible":            {rule("web .internal", "shop", "web"), "certificates: entry 2: san must be 1 to 512 visible ASCII characters"},
		"too long":               {rule("spiffe://example.org/"+strings.Repeat("a", 500), "shop", "web"), "certificates: entry 2: san must be 1 to 512"},

		"no issuer":       {issuer(auth.Issuer{Audience: "a"}), "jwt: entry 1: issuer is empty"},
		"no audience":     {issuer(auth.Issuer{Issuer: issuerName}), "jwt: entry 1: audience is empty"},
		"plaintext":       {issuer(auth.Issuer{Issuer: "http://example.org", Audience: "a"}), "jwt: entry 1: issuer must be a URL with https, or with http on this machine"},
		"no URL, a file":  {issuer(auth.Issuer{Issuer: "x", Audience: "a", JWKSFile: "/nowhere"}), "jwt: entry 1: issuer must be a URL with https"},
		"no URL":          {issuer(auth.Issuer{Issuer: "example.org", Audience: "a"}), "jwt: entry 1: issuer must be a URL with https"},
		"issuer's query":  {issuer(auth.Issuer{Issuer: "https://example.org/?a", Audience: "a"}), "jwt: entry 1: issuer must have no query"},
		"no file":         {issuer(auth.Issuer{Issuer: issuerName, Audience: "a", JWKSFile: "/nowhere"}), "jwt: entry 1: reading jwks_file: stat /nowhere"},
		"no regular file": {issuer(auth.Issuer{Issuer: issuerName, Audience: "a", JWKSFile: "/dev/null"}), "jwt: entry 1: reading jwks_file: /dev/null is not a file"},
		"the same issuer twice": {
			auth.Options{Issuers: append(options(t, newSigner(t, "1")).Issuers, auth.Issuer{Issuer: issuerName, Audience: "b"})},
			"jwt: entry 2: the same issuer stands there twice",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt.options.Directory, tt.options.Logger = w.directory, slog.New(slog.DiscardHandler)
			if _, err := auth.New(t.Context(), tt.options); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
	if _, err := auth.New(t.Context(), auth.Options{}); err == nil {
		t.Error("a gate without a directory")
	}
}

// FuzzGate is about whatever a stranger can put into the header. It is not let in, and does not find itself in the error.
func FuzzGate(f *testing.F) {
	w := newWorld(f)
	s := newSigner(f, "1")
	_, token := w.key(f, tenant.KeySpec{})
	jwt := s.sign(f, claims(issuerName, w.now().Add(time.Hour)))
	impostor := newSigner(f, "1").sign(f, claims(issuerName, w.now().Add(time.Hour)))
	g := w.gate(f, options(f, s))
	stranger := certificate(f, w.now().Add(time.Hour), "spiffe://example.org/stranger", "stranger.internal.example")

	f.Add("", "", false, false)
	f.Add("", "", false, true)
	f.Add("Bearer "+impostor, "", false, true)
	f.Add("Bearer csk_"+strings.Repeat("a", 16)+"_"+strings.Repeat("b", 52), "", false, false)
	f.Add("bearer sk-another", "Bearer sk-web-secre", true, false)
	f.Add("Bearer ' OR 1=1 --", "", false, true)
	f.Add("Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlLm9yZyJ9.", "", false, false)
	f.Add("Bearer x\r\nx-chatsvc-team: shop", "", false, true)
	f.Add("Basic d2ViOnNlY3JldA==", "Bearer \xff\x00", true, false)
	f.Fuzz(func(t *testing.T, first, second string, both, withCertificate bool) {
		values := []string{first}
		if both {
			values = append(values, second)
		}
		c := auth.Credential{Source: somewhere}
		if withCertificate {
			c.Certificate = stranger
		}
		var err error
		if c.Bearer, err = auth.ParseBearer(values); err == nil || errors.Is(err, &conversation.Error{Reason: conversation.CredentialMissing}) {
			if c.Bearer == token || c.Bearer == jwt || c.Bearer == "sk-web-secret" || c.Bearer == "sk-cron-secret" {
				t.Skip("that is no stranger")
			}
			var p auth.Principal
			if p, err = g.Authenticate(t.Context(), c); err == nil || p.Team != "" {
				t.Fatalf("%q is let in as %+v", values, p)
			}
		}
		e, ok := errors.AsType[*conversation.Error](err)
		if !ok || e.Reason != conversation.CredentialMissing && e.Reason != conversation.CredentialInvalid {
			t.Fatalf("error %v", err)
		}
		// All that can be said to a stranger is known: what is not among it came from outside.
		if !said[e.Message] || e.Cause != nil {
			t.Errorf("the error is not one of ours: %v", err)
		}
	})
}

// said is all that strangers are told.
var said = map[string]bool{
	"this call needs a credential: send the metadata `authorization: Bearer KEY`":                           true,
	"the call carries more than one authorization header; send one":                                         true,
	"the authorization header has another scheme than Bearer; send `authorization: Bearer KEY`":             true,
	"the authorization header must be `Bearer`, one space, and a key of 1 to 4096 visible ASCII characters": true,
	"the key is not known; ask the owner of this service for one":                                           true,
	"the token is not signed by an issuer that is let in; ask the owner of this service for a key":          true,
	"the client certificate is of nobody that is let in; send the metadata `authorization: Bearer KEY`, " +
		"or ask the owner of this service to let its name in": true,
}

func BenchmarkGate(b *testing.B) {
	w := newWorld(b)
	s := newSigner(b, "1")
	g := w.gate(b, options(b, s))
	k, stored := w.key(b, tenant.KeySpec{})
	end := w.now().Add(time.Hour)
	for name, tt := range map[string]struct {
		c       auth.Credential
		refused bool
	}{
		"stored key":           {c: auth.Credential{Bearer: stored, Source: somewhere}},
		"stored key, wrong":    {c: auth.Credential{Bearer: "csk_" + k.ID + "_" + strings.Repeat("a", 52)}, refused: true},
		"stored key, unknown":  {c: auth.Credential{Bearer: "csk_" + strings.Repeat("a", 16) + "_" + strings.Repeat("a", 52)}, refused: true},
		"configured key":       {c: auth.Credential{Bearer: "sk-web-secret"}},
		"token":                {c: auth.Credential{Bearer: s.sign(b, claims(issuerName, end))}},
		"token of an impostor": {c: auth.Credential{Bearer: newSigner(b, "1").sign(b, claims(issuerName, end))}, refused: true},
		"certificate":          {c: auth.Credential{Certificate: certificate(b, end, "spiffe://example.org/team/shop/web")}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.Authenticate(b.Context(), tt.c); tt.refused == (err == nil) {
					b.Fatal(err)
				}
			}
		})
	}
}
