package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// Options is who is let in.
type Options struct {
	// APIKeys are the keys of the configuration.
	APIKeys []APIKey
	// Certificates are the names in client certificates that are let in.
	Certificates []CertificateRule
	// Issuers are those whose JWTs are let in.
	Issuers []Issuer
	// Directory knows the teams, clients and keys of the database.
	Directory *tenant.Directory
	Logger    *slog.Logger
	// Now is the time by which credentials expire; nil is time.Now.
	Now func() time.Time
}

// CertificateRule lets client certificates with a name in.
type CertificateRule struct {
	// SAN is a subject alternative name: a URI such as spiffe://example.org/ns/shop/sa/web, or a DNS name in lower case,
	// which matches that of a certificate in any. One whole segment of the path, or label of the DNS name, may be {team}, and
	// one {client}: then it matches every such name, whose team and client are what stands there, and which must be in the
	// directory.
	SAN string
	// Team and Client are who it is, where SAN does not say.
	Team, Client string
	// Roles are what it allows; none is RoleCaller.
	Roles         tenant.Roles
	AllowedModels []string
}

// Issuer is somebody whose JWTs are let in.
type Issuer struct {
	// Issuer is the claim iss: a URL with https, or with http on this machine, below which for discovery
	// /.well-known/openid-configuration is.
	Issuer string
	// Audience is what the claim aud must have.
	Audience string
	// JWKSFile is a file with the keys, read again when it changes; empty for discovery.
	JWKSFile string
	// TeamClaim and ClientClaim name the claims that hold the ids of team and client, which must be in the directory. A
	// name with dots that is no claim itself leads into objects. Defaults: team, and client_id.
	TeamClaim, ClientClaim string
	// RolesClaim names the claim with the names of roles, a list or one string with spaces between, of which only those
	// in Roles count. A token without any is let in, but may call only what needs no particular role. Empty: every token
	// has all of Roles.
	RolesClaim string
	// Roles are what its tokens allow at most; none is RoleCaller.
	Roles tenant.Roles
}

// Gate lets in whoever one of the authenticators knows, unless their team or client is disabled. Which one is asked is
// decided by the form of what was presented alone, so that no credential is tried twice:
//
//   - a bearer token that begins with csk_: the keys of the database;
//   - one that has the form of a JWT, where there are issuers: them;
//   - any other: the keys of the configuration;
//   - no bearer token, but a certificate: the rules for certificates.
//
// It is safe for concurrent use.
type Gate struct {
	stored       *storedKeys
	tokens       *tokens // nil without issuers
	configured   *APIKeys
	certificates *certificates
}

var _ Authenticator = (*Gate)(nil)

// New returns a gate. Its error is a fault of the configuration, and names the entry by its position. It begins to read the
// keys of issuers with discovery, until ctx ends, and does not wait for them: an issuer that cannot be reached is logged and
// tried again when there is a token of it, at most every 10 s; its tokens are STORE_UNAVAILABLE until then.
func New(ctx context.Context, o Options) (*Gate, error) {
	if o.Directory == nil {
		return nil, errors.New("authentication needs a directory")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	configured, err := NewAPIKeys(o.APIKeys)
	if err != nil {
		return nil, err
	}
	configured.directory = o.Directory
	g := &Gate{
		stored:     &storedKeys{directory: o.Directory, now: o.Now, nobodys: &tenant.Key{}},
		configured: configured,
	}
	if g.certificates, err = newCertificates(o); err != nil {
		return nil, err
	}
	if len(o.Issuers) > 0 {
		if g.tokens, err = newTokens(ctx, o); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// Authenticate asks the authenticator that the credential is for. A bearer token that is refused is not saved by a
// certificate.
func (g *Gate) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	switch {
	case strings.HasPrefix(c.Bearer, tenant.TokenPrefix):
		return g.stored.Authenticate(ctx, c)
	case g.tokens != nil && isJWT(c.Bearer):
		return g.tokens.Authenticate(ctx, c)
	case c.Bearer != "":
		return g.configured.Authenticate(ctx, c)
	default:
		return g.certificates.Authenticate(ctx, c)
	}
}

// isJWT reports whether a token has three parts, and the first is a JSON object in base64url. It does not allocate for a
// header of usual length.
func isJWT(token string) bool {
	head, rest, ok := strings.Cut(token, ".")
	if !ok || strings.Count(rest, ".") != 1 {
		return false
	}
	var buf [256]byte
	header, err := base64.RawURLEncoding.AppendDecode(buf[:0], []byte(head))
	return err == nil && len(header) > 0 && header[0] == '{' && json.Valid(header)
}
