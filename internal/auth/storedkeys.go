package auth

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

var (
	errKeyRevoked = conversation.Errorf(conversation.CredentialRevoked,
		"the key is revoked; use the one that replaced it, or ask an admin of your team for another")
	errKeyExpired = conversation.Errorf(conversation.CredentialExpired,
		"the key has expired; use the one that replaced it, or ask an admin of your team for another")
)

// storedKeys authenticates by the keys that clients have in the database.
type storedKeys struct {
	directory *tenant.Directory
	now       func() time.Time
	// nobodys stands in for a key that does not exist, so that it takes as long to refuse as a wrong secret.
	nobodys *tenant.Key
}

var _ Authenticator = (*storedKeys)(nil)

// Authenticate compares the token with the key that it names. What is wrong with a key beyond that, only who has its secret
// learns.
func (s *storedKeys) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	if c.Bearer == "" {
		return Principal{}, errMissing
	}
	id, ok := tenant.ParseToken(c.Bearer)
	if !ok {
		return Principal{}, errUnknownKey
	}
	v, err := fresh(ctx, s.directory)
	if err != nil {
		return Principal{}, err
	}
	if v.Key(id) == nil {
		v = s.directory.Newer(ctx, v) // ids are no secrets: that this takes longer gives nothing away
	}
	k := v.Key(id)
	if k == nil {
		k = s.nobodys
	}
	if !k.Is(c.Bearer) {
		return Principal{}, errUnknownKey
	}
	p := Principal{
		Team:          k.Team,
		Client:        k.Client,
		CredentialID:  "key:" + k.ID,
		Roles:         k.Roles,
		AllowedModels: k.AllowedModels,
		ExpireTime:    k.ExpireTime,
	}
	switch {
	case !k.RevokeTime.IsZero():
		return p, errKeyRevoked
	case k.Ended(s.now()):
		return p, errKeyExpired
	}
	if p, err := admitRegistered(v, p); err != nil {
		return p, err
	}
	if !allowed(k.AllowedCIDRs, c.Source) {
		return p, errSource(c.Source)
	}
	return p, nil
}

// allowed reports whether source is in one of prefixes, or there are none.
func allowed(prefixes []netip.Prefix, source netip.Addr) bool {
	if len(prefixes) == 0 {
		return true
	}
	source = plain(source)
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(source) })
}

// plain returns the address that prefixes are for: an IPv4 address in IPv6 is the IPv4 address, and a zone says nothing of
// where it comes from. Prefix.Contains knows neither.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// errSource is the error for a key that is not for the address a call comes from. That address is told: who has the whole
// key cannot otherwise know what it looks like behind its own network's gateways.
func errSource(source netip.Addr) error {
	if !source.IsValid() {
		return conversation.Errorf(conversation.IPNotAllowed, "the key may be used only from some addresses, and that of this call is not known")
	}
	return conversation.Errorf(conversation.IPNotAllowed,
		"the key may not be used from %s, which is where this call comes from; ask an admin of your team to allow it", plain(source))
}
