package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

var (
	errUnknownCertificate = conversation.Errorf(conversation.CredentialInvalid,
		"the client certificate is of nobody that is let in; send the metadata `authorization: Bearer KEY`, "+
			"or ask the owner of this service to let its name in")
	errAmbiguousCertificate = conversation.Errorf(conversation.CredentialInvalid,
		"the rules for the client certificate's names differ on whose it is, or what it may do; use one certificate for each client")
	errCertificateExpired = conversation.Errorf(conversation.CredentialExpired,
		"the client certificate is not valid at this time; connect with a new one")
)

// certificates authenticates by the names in client certificates. A common name is no name: only subject alternative
// names are looked at. That the certificate is of a trusted authority, the TLS handshake has checked.
type certificates struct {
	exact     map[string]certificateRule // by san.key
	patterns  []certificateRule
	directory *tenant.Directory
	now       func() time.Time
}

// certificateRule is a CertificateRule that was checked.
type certificateRule struct {
	san       san
	principal Principal // without what the name says
}

var _ Authenticator = (*certificates)(nil)

// newCertificates checks the rules.
func newCertificates(o Options) (*certificates, error) {
	a := &certificates{exact: make(map[string]certificateRule), directory: o.Directory, now: o.Now}
	for i, r := range o.Certificates {
		rule, err := newCertificateRule(r, o.Certificates[:i])
		if err != nil {
			return nil, fmt.Errorf("certificates: entry %d: %w", i+1, err)
		}
		if rule.san.isPattern() {
			a.patterns = append(a.patterns, rule)
		} else {
			a.exact[rule.san.key()] = rule
		}
	}
	return a, nil
}

// Check returns what is wrong with a rule that stands in a list after others.
func (r CertificateRule) Check(before []CertificateRule) error {
	_, err := newCertificateRule(r, before)
	return err
}

func newCertificateRule(r CertificateRule, before []CertificateRule) (certificateRule, error) {
	s, err := parseRuleSAN(r.SAN)
	if err != nil {
		return certificateRule{}, err
	}
	if slices.ContainsFunc(before, func(other CertificateRule) bool { return other.SAN == r.SAN }) {
		return certificateRule{}, errors.New("the same san stands there twice")
	}
	for _, who := range []struct{ what, given, placeholder string }{
		{"team", r.Team, placeholderTeam},
		{"client", r.Client, placeholderClient},
	} {
		switch named := slices.Contains(s.parts, who.placeholder); {
		case named && who.given != "":
			return certificateRule{}, fmt.Errorf("%s and %s in san say the same thing; drop one", who.what, who.placeholder)
		case !named && who.given == "":
			return certificateRule{}, fmt.Errorf("has neither a %s nor %s in san", who.what, who.placeholder)
		case !named && !tenant.ValidID(who.given):
			return certificateRule{}, fmt.Errorf("%s must be %s", who.what, tenant.IDRule)
		}
	}
	return certificateRule{san: s, principal: Principal{
		Team:          r.Team,
		Client:        r.Client,
		Roles:         rolesOr(r.Roles, tenant.RoleCaller),
		AllowedModels: slices.Clone(r.AllowedModels),
	}}, nil
}

// Authenticate finds the rule for the certificate's names. The handshake may be long ago: the certificate's time is
// looked at in each call.
func (a *certificates) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	if c.Certificate == nil {
		return Principal{}, errMissing
	}
	p, configured, err := a.find(c.Certificate)
	if err != nil {
		return Principal{}, err
	}
	p.ExpireTime = c.Certificate.NotAfter
	if now := a.now(); now.Before(c.Certificate.NotBefore) || now.After(c.Certificate.NotAfter) {
		return p, errCertificateExpired
	}
	if configured {
		return admitConfigured(a.directory.Last(), p)
	}
	v, err := fresh(ctx, a.directory)
	if err != nil {
		return Principal{}, err
	}
	return admitRegistered(v, p)
}

// find returns whose certificate it is, and whether a rule without placeholders says so. Names and rules that agree on the
// principal are fine; then such a rule, if there is one, also gives the credential its id. Where they do not, no rule goes
// before another: it is an error, for whoever issued the certificate meant one of the principals, and not the other.
func (a *certificates) find(c *x509.Certificate) (p Principal, configured bool, err error) {
	found := false
	add := func(q Principal, exact bool) bool {
		if found && !same(p, q) {
			return false
		}
		if !found || exact && !configured {
			p, configured = q, exact
		}
		found = true
		return true
	}
	names, ok := sansOf(c)
	if !ok {
		return Principal{}, false, errUnknownCertificate
	}
	for _, name := range names {
		if r, ok := a.exact[name.key()]; ok {
			q := r.principal
			q.CredentialID = "cert:" + name.String()
			if !add(q, true) {
				return Principal{}, false, errAmbiguousCertificate
			}
		}
		for _, r := range a.patterns {
			team, client, ok := r.san.match(name)
			if !ok {
				continue
			}
			q := r.principal
			// Whichever of them the rule gives, the name does not.
			q.Team += team
			q.Client += client
			q.CredentialID = "cert:" + name.String()
			if !add(q, false) {
				return Principal{}, false, errAmbiguousCertificate
			}
		}
	}
	if !found {
		return Principal{}, false, errUnknownCertificate
	}
	return p, configured, nil
}

// same reports whether two principals are the same, whatever they were found by.
func same(p, q Principal) bool {
	return p.Team == q.Team && p.Client == q.Client && p.Roles == q.Roles && slices.Equal(p.AllowedModels, q.AllowedModels)
}

// sansOf returns the names of a certificate that rules can be for. It reports false for one that claims to be a SPIFFE
// identity and breaks the rules for them: there is exactly one URI, and it is not an authority's certificate.
func sansOf(c *x509.Certificate) ([]san, bool) {
	names := make([]san, 0, len(c.URIs)+len(c.DNSNames))
	for _, u := range c.URIs {
		if strings.EqualFold(u.Scheme, "spiffe") && (len(c.URIs) > 1 || c.IsCA) {
			return nil, false
		}
		names = append(names, uriSAN(u.String()))
	}
	for _, name := range c.DNSNames {
		names = append(names, dnsSAN(name))
	}
	return names, true
}
