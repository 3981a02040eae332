package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// maxSubject is the longest subject that stands in a credential id as it is.
const maxSubject = 64

// principal returns who a genuine token of the issuer is.
func (is *issuer) principal(token *oidc.IDToken, now time.Time) (Principal, error) {
	var all claims
	if err := token.Claims(&all); err != nil {
		return Principal{}, errTokenNobodys
	}
	if token.Expiry.IsZero() {
		return Principal{}, errTokenTimeless
	}
	if nbf, ok := all["nbf"].(float64); ok && now.Add(leeway).Before(time.Unix(int64(nbf), 0)) {
		return Principal{}, errTokenEarly
	}
	p := Principal{
		Team:         all.text(is.TeamClaim),
		Client:       all.text(is.ClientClaim),
		CredentialID: "jwt:" + subject(token.Subject),
		Roles:        is.Roles,
		ExpireTime:   token.Expiry,
	}
	if !tenant.ValidID(p.Team) || !tenant.ValidID(p.Client) {
		return Principal{}, errTokenNobodys
	}
	if is.RolesClaim != "" {
		p.Roles &= all.roles(is.RolesClaim)
	}
	return p, nil
}

// subject returns the claim sub as logs may have it: its digest if it is long, or has more than visible ASCII.
func subject(sub string) string {
	if sub == "" || len(sub) > maxSubject || strings.ContainsFunc(sub, invisible) {
		digest := sha256.Sum256([]byte(sub))
		return "sha256:" + hex.EncodeToString(digest[:6])
	}
	return sub
}

// claims are what a token says.
type claims map[string]any

// find returns the claim with a name, or the value that a name with dots leads to. The whole name goes first, for many
// issuers have claims named by a URL.
func (c claims) find(name string) any {
	if v, ok := c[name]; ok {
		return v
	}
	var v any = map[string]any(c)
	for part := range strings.SplitSeq(name, ".") {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[part]
	}
	return v
}

// text returns a claim that is a string, else nothing.
func (c claims) text(name string) string {
	s, _ := c.find(name).(string)
	return s
}

// roles returns the roles that a claim names. A name that is no role's is somebody else's and not looked at.
func (c claims) roles(name string) (set tenant.Roles) {
	add := func(name string) {
		if r, err := tenant.ParseRole(name); err == nil {
			set |= tenant.RolesOf(r)
		}
	}
	switch v := c.find(name).(type) {
	case string:
		for name := range strings.FieldsSeq(v) {
			add(name)
		}
	case []any:
		for _, name := range v {
			if s, ok := name.(string); ok {
				add(s)
			}
		}
	}
	return set
}
