package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// APIKey is an API key as the configuration knows it: by its digest, so that reading the configuration gives nobody the
// key.
type APIKey struct {
	// SHA256 is the digest of the key, 64 hex digits.
	SHA256 string
	// Team and Client are who the key belongs to. They need not be in the directory.
	Team, Client string
	// Roles are what it allows; none is RoleCaller.
	Roles tenant.Roles
}

// Digest returns the hex SHA-256 of key, as APIKey holds it.
//
// One round of SHA-256 is right for keys that are random and long, and for nothing else: it makes no guess expensive.
func Digest(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// APIKeys authenticates by the API keys of the configuration. It is safe for concurrent use.
type APIKeys struct {
	principals map[[sha256.Size]byte]Principal
	// directory says which teams and clients are disabled; nil: none is.
	directory *tenant.Directory
}

var _ Authenticator = (*APIKeys)(nil)

// NewAPIKeys returns an authenticator that knows exactly keys. A digest that is not 64 hex digits, or that stands there
// twice, is an error; it names the key by its position in the list.
func NewAPIKeys(keys []APIKey) (*APIKeys, error) {
	a := &APIKeys{principals: make(map[[sha256.Size]byte]Principal, len(keys))}
	for i, k := range keys {
		var digest [sha256.Size]byte
		// The length first: Decode panics where there is no room.
		if len(k.SHA256) != hex.EncodedLen(sha256.Size) {
			return nil, fmt.Errorf("api_keys: entry %d: sha256 must be 64 hex digits", i+1)
		}
		if _, err := hex.Decode(digest[:], []byte(k.SHA256)); err != nil {
			return nil, fmt.Errorf("api_keys: entry %d: sha256 must be 64 hex digits", i+1)
		}
		if _, ok := a.principals[digest]; ok {
			return nil, fmt.Errorf("api_keys: entry %d: the same sha256 stands there twice", i+1)
		}
		a.principals[digest] = Principal{
			Team:   k.Team,
			Client: k.Client,
			// Enough to find the entry in the configuration; of the key itself it says nothing that could be used.
			CredentialID: "sha256:" + hex.EncodeToString(digest[:6]),
			Roles:        rolesOr(k.Roles, tenant.RoleCaller),
		}
	}
	return a, nil
}

// Authenticate looks the token's digest up.
//
// The lookup is not in constant time and need not be. What time can leak here is how far the digest of a token that the
// caller chose agrees with the digest of one that exists: bits of the digest, which do not lead back to a random key,
// and which the caller cannot extend at will, since each further bit doubles the tokens to try. The key itself is
// compared nowhere, so no byte of it can be found one at a time. Comparing all digests in constant time would close
// what is left, at a price that grows with the number of keys.
func (a *APIKeys) Authenticate(_ context.Context, c Credential) (Principal, error) {
	if c.Bearer == "" {
		return Principal{}, errMissing
	}
	p, ok := a.principals[sha256.Sum256([]byte(c.Bearer))]
	if !ok {
		return Principal{}, errUnknownKey
	}
	if a.directory == nil {
		return p, nil
	}
	return admitConfigured(a.directory.Last(), p)
}
