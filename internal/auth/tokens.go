package auth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/maypok86/otter/v2"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

const (
	// leeway is how far an issuer's clock may be from ours.
	leeway = 30 * time.Second
	// A token that was verified is not verified again for verifiedFor, while it is among the verifiedTokens used most.
	verifiedFor    = time.Minute
	verifiedTokens = 10_000
)

// What is said of a token after errUnknownToken, only who has one that an issuer signed learns.
var (
	errUnknownToken = conversation.Errorf(conversation.CredentialInvalid,
		"the token is not signed by an issuer that is let in; ask the owner of this service for a key")
	errTokenAudience = conversation.Errorf(conversation.CredentialInvalid,
		"the token is not for this service, or its claims are malformed; ask its issuer for one with this service's audience")
	errTokenTimeless = conversation.Errorf(conversation.CredentialInvalid,
		"the token does not say until when it is valid; ask its issuer for one with the claim exp")
	errTokenEarly = conversation.Errorf(conversation.CredentialInvalid,
		"the token is not valid yet; check the clock of who issued it")
	errTokenNobodys = conversation.Errorf(conversation.CredentialInvalid,
		"the token does not name a team and a client as this service expects them")
	errTokenExpired = conversation.Errorf(conversation.CredentialExpired,
		"the token has expired; get a new one from its issuer")
)

// tokens authenticates by JWTs. That a token is genuine is remembered for a while; that its team and client are not
// disabled is looked up in each call.
type tokens struct {
	issuers   map[string]*issuer
	verified  *otter.Cache[[sha256.Size]byte, verified]
	directory *tenant.Directory
	now       func() time.Time
}

// issuer is an Issuer that was checked, and its keys.
type issuer struct {
	Issuer
	keys keySource
}

// verified is what a token says.
type verified struct {
	principal Principal
	// until is when it has to be verified again.
	until time.Time
}

var _ Authenticator = (*tokens)(nil)

// newTokens checks the issuers, and reads the keys that are in files.
func newTokens(ctx context.Context, o Options) (*tokens, error) {
	// Without expiry by the cache, which would take a goroutine: what is over is seen when it is read.
	cache, err := otter.New(&otter.Options[[sha256.Size]byte, verified]{MaximumSize: verifiedTokens})
	if err != nil {
		return nil, fmt.Errorf("make the cache of tokens: %w", err)
	}
	t := &tokens{issuers: make(map[string]*issuer), verified: cache, directory: o.Directory, now: o.Now}
	var discovered []*discovery
	for i, c := range o.Issuers {
		switch {
		case c.Issuer == "":
			return nil, fmt.Errorf("jwt %d: issuer is empty", i)
		case c.Audience == "":
			return nil, fmt.Errorf("jwt %d: audience is empty; without one, tokens that are meant for others would be let in", i)
		case t.issuers[c.Issuer] != nil:
			return nil, fmt.Errorf("jwt %d: the same issuer stands there twice", i)
		}
		if c.TeamClaim == "" {
			c.TeamClaim = "team"
		}
		if c.ClientClaim == "" {
			c.ClientClaim = "client_id"
		}
		c.Roles = rolesOr(c.Roles, tenant.RoleCaller)
		is := &issuer{Issuer: c}
		if c.JWKSFile != "" {
			if is.keys, err = newKeyFile(c.JWKSFile, o); err != nil {
				return nil, fmt.Errorf("jwt %d: %w", i, err)
			}
		} else {
			d, err := newDiscovery(c.Issuer, o)
			if err != nil {
				return nil, fmt.Errorf("jwt %d: %w", i, err)
			}
			is.keys = d
			discovered = append(discovered, d)
		}
		t.issuers[c.Issuer] = is
	}
	for _, d := range discovered {
		d.start(ctx)
	}
	return t, nil
}

// Authenticate verifies the token, if it has not been lately.
func (t *tokens) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	if c.Bearer == "" {
		return Principal{}, errMissing
	}
	now, digest := t.now(), sha256.Sum256([]byte(c.Bearer))
	v, ok := t.verified.GetIfPresent(digest)
	if !ok || !now.Before(v.until) {
		p, err := t.verify(ctx, c.Bearer, now)
		if err != nil {
			return Principal{}, err
		}
		v = verified{principal: p, until: now.Add(verifiedFor)}
		t.verified.Set(digest, v)
	}
	p := v.principal
	if !now.Before(p.ExpireTime.Add(leeway)) {
		return p, errTokenExpired
	}
	view, err := fresh(ctx, t.directory)
	if err != nil {
		return Principal{}, err
	}
	return admitRegistered(view, p)
}

// algorithms are those whose keys are public: with a shared secret, whoever can verify a token could make one.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// verify returns what a token says that an issuer signed. Whether it has expired is left to the caller.
func (t *tokens) verify(ctx context.Context, token string, now time.Time) (Principal, error) {
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil || !isAccessToken(signed) {
		return Principal{}, errUnknownToken
	}
	var claimed struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &claimed); err != nil {
		return Principal{}, errUnknownToken
	}
	is := t.issuers[claimed.Issuer]
	if is == nil {
		return Principal{}, errUnknownToken
	}
	header := signed.Signatures[0].Protected
	keys, err := is.keys.find(ctx, header.KeyID, jose.SignatureAlgorithm(header.Algorithm))
	if err != nil {
		return Principal{}, err
	}
	check := &signature{signed: signed, keys: keys}
	genuine, err := oidc.NewVerifier(is.Issuer.Issuer, check, &oidc.Config{
		ClientID:             is.Audience,
		SupportedSigningAlgs: algorithmNames(),
		SkipExpiryCheck:      true, // done below and in Authenticate: the package has another leeway for each
	}).Verify(ctx, token)
	switch {
	case err != nil && !check.genuine:
		return Principal{}, errUnknownToken
	case err != nil:
		return Principal{}, errTokenAudience
	}
	return is.principal(genuine, now)
}

// isAccessToken refuses JWTs that say that they are something else, such as a notice of logout: they too are signed by the
// issuer, and are no credential. Most issuers do not say anything.
func isAccessToken(signed *jose.JSONWebSignature) bool {
	kind, ok := signed.Signatures[0].Protected.ExtraHeaders[jose.HeaderType]
	if !ok {
		return true
	}
	name, _ := kind.(string)
	switch strings.TrimPrefix(strings.ToLower(name), "application/") {
	case "jwt", "at+jwt":
		return true
	}
	return false
}

func algorithmNames() []string {
	names := make([]string, len(algorithms))
	for i, a := range algorithms {
		names[i] = string(a)
	}
	return names
}

// signature is an oidc.KeySet for one token: the keys that it can be signed with.
type signature struct {
	signed  *jose.JSONWebSignature
	keys    []jose.JSONWebKey
	genuine bool // one of them fitted
}

var _ oidc.KeySet = (*signature)(nil)

// VerifySignature returns what the token says if it is signed with one of the keys.
func (s *signature) VerifySignature(context.Context, string) ([]byte, error) {
	for _, k := range s.keys {
		if payload, err := s.signed.Verify(k.Key); err == nil {
			s.genuine = true
			return payload, nil
		}
	}
	return nil, errors.New("no key fits the signature")
}
