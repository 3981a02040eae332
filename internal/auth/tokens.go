package auth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/maypok86/otter/v2"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

const (
	// leeway is how far an issuer's clock may be from ours.
	leeway = 30 * time.Second
	// A token that was verified is not verified again for verifiedFor, while it is among the verifiedTokens used most and its
	// issuer's keys are those that it was verified with.
	verifiedFor    = time.Minute
	verifiedTokens = 10_000
)

// What is said of a token after errUnknownToken, only who has one that an issuer signed learns.
var (
	errUnknownToken = conversation.Errorf(conversation.CredentialInvalid,
		"the token is not signed by an issuer that is let in; ask the owner of this service for a key")
	errTokenAudience = conversation.Errorf(conversation.CredentialInvalid,
		"the token is not for this service; ask its issuer for one with this service's audience")
	errTokenTimes = conversation.Errorf(conversation.CredentialInvalid,
		"the token does not say when it is valid; ask its issuer for one whose claim exp, and nbf if there is one, is a time in seconds")
	errTokenEarly = conversation.Errorf(conversation.CredentialInvalid,
		"the token is not valid yet; check the clock of who issued it")
	errTokenNobodys = conversation.Errorf(conversation.CredentialInvalid,
		"the token does not name a team and a client as this service expects them")
	errTokenExpired = conversation.Errorf(conversation.CredentialExpired,
		"the token has expired; get a new one from its issuer")
)

// tokens authenticates by JWTs. That a token is genuine is remembered for a while; that the keys of its issuer are still
// the same, and its team and client not disabled, is looked up in each call.
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
	// It has to be verified again from until on, and once its issuer has other keys.
	until  time.Time
	issuer *issuer
	keys   *keySet
}

func (v *verified) counts(now time.Time) bool {
	return now.Before(v.until) && v.issuer.keys.current() == v.keys
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
		if err := c.Check(o.Issuers[:i]); err != nil {
			return nil, fmt.Errorf("jwt: entry %d: %w", i+1, err)
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
				return nil, fmt.Errorf("jwt: entry %d: %w", i+1, err)
			}
		} else {
			d := newDiscovery(c.Issuer, o)
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

// Check returns what is wrong with an issuer that stands in a list after others, but for what is in its file.
func (i Issuer) Check(before []Issuer) error {
	switch err := checkIssuerURL(i.Issuer); {
	case i.Issuer == "":
		return errors.New("issuer is empty")
	case i.Audience == "":
		return errors.New("audience is empty; without one, tokens that are meant for others would be let in")
	case err != nil:
		return fmt.Errorf("issuer %w", err)
	case slices.ContainsFunc(before, func(other Issuer) bool { return other.Issuer == i.Issuer }):
		return errors.New("the same issuer stands there twice")
	}
	return nil
}

// Authenticate verifies the token, if it has not been lately.
func (t *tokens) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	if c.Bearer == "" {
		return Principal{}, errMissing
	}
	now, digest := t.now(), sha256.Sum256([]byte(c.Bearer))
	v, ok := t.verified.GetIfPresent(digest)
	if !ok || !v.counts(now) {
		var err error
		if v, err = t.verify(ctx, c.Bearer, now); err != nil {
			return Principal{}, err
		}
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
func (t *tokens) verify(ctx context.Context, token string, now time.Time) (verified, error) {
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil || !isAccessToken(signed) {
		return verified{}, errUnknownToken
	}
	// Until a key fits below, this is only what somebody says, and good for nothing but to choose the keys.
	var all claims
	if err := json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &all); err != nil {
		return verified{}, errUnknownToken
	}
	name, _ := all["iss"].(string)
	is := t.issuers[name]
	if is == nil {
		return verified{}, errUnknownToken
	}
	header := signed.Signatures[0].Protected
	set := is.keys.current() // before they are used: if they change meanwhile, the token is verified again next time
	keys, err := is.keys.find(ctx, header.KeyID, jose.SignatureAlgorithm(header.Algorithm))
	if err != nil {
		return verified{}, err
	}
	signs := func(k jose.JSONWebKey) bool {
		_, err := signed.Verify(k.Key)
		return err == nil
	}
	if !slices.ContainsFunc(keys, signs) {
		return verified{}, errUnknownToken
	}
	p, err := is.principal(all, now)
	if err != nil {
		return verified{}, err
	}
	return verified{principal: p, until: now.Add(verifiedFor), issuer: is, keys: set}, nil
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
