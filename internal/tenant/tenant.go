// Package tenant is who may call chatsvc: teams, their clients, the clients' keys, and the audit of every change to them. It
// holds the vocabulary, the rules, and the contract of the store that keeps it; a Directory has all of it in memory.
package tenant

import (
	"net/netip"
	"time"
)

// Profile is what teams and clients have in common. An update can change DisplayName and Disabled.
type Profile struct {
	DisplayName string    `json:"display_name,omitempty"`
	Disabled    bool      `json:"disabled,omitempty"`
	CreateTime  time.Time `json:"create_time"`
	UpdateTime  time.Time `json:"update_time"`
}

// Team owns conversations and pays for turns. It is never deleted, see TeamService.
type Team struct {
	// ID is the last part of its name: lower-case letters, digits and . _ -, at most 63.
	ID string `json:"-"`
	Profile
	// Revision is the sequence number of the audit entry that wrote it; 0 for one that is not stored yet.
	Revision int64 `json:"-"`
}

// Client is a service of a team that calls.
type Client struct {
	Team string `json:"-"`
	ID   string `json:"-"`
	Profile
	Revision int64 `json:"-"`
}

// Key is an API key of a client. What callers present is its token, which is not kept.
type Key struct {
	ID     string `json:"-"`
	Team   string `json:"-"`
	Client string `json:"-"`
	// Digest is the SHA-256 of the token.
	Digest Digest `json:"-"`
	// Request is what the request_id that made the key is kept as, zero without one: no two keys have the same.
	Request Digest `json:"-"`
	// Fingerprint is of the content of that request.
	Fingerprint Digest `json:"fingerprint,omitzero"`
	// Salt is what the token was made of, besides the request_id; nil without one.
	Salt []byte `json:"salt,omitempty"`

	DisplayName   string         `json:"display_name,omitempty"`
	Roles         Roles          `json:"roles"`
	AllowedModels []string       `json:"allowed_models,omitempty"` // empty is all
	AllowedCIDRs  []netip.Prefix `json:"allowed_cidrs,omitempty"`  // empty is all
	CreateTime    time.Time      `json:"create_time"`
	ExpireTime    time.Time      `json:"expire_time"`
	RevokeTime    time.Time      `json:"revoke_time,omitzero"`
	// ReplacedBy is the id of the key that it was rotated to.
	ReplacedBy string `json:"replaced_by,omitempty"`
	Revision   int64  `json:"-"`
}

// Ended reports whether the key does not work any more at a time.
func (k *Key) Ended(now time.Time) bool { return !k.RevokeTime.IsZero() || !now.Before(k.ExpireTime) }

// Digest is a SHA-256.
type Digest [32]byte

// IsZero reports whether there is none.
func (d Digest) IsZero() bool { return d == Digest{} }
