package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

const (
	// The longest issuer and subject that stand in a credential id as they are.
	maxIssuer  = 128
	maxSubject = 64
	// maxTime is the first second after the year 9999: what is later is no time that anybody means.
	maxTime = 253_402_300_800
)

// principal returns who a genuine token of the issuer is that says all this. Whether it has expired is left to the caller.
func (is *issuer) principal(all claims, now time.Time) (Principal, error) {
	if !all.isFor(is.Audience) {
		return Principal{}, errTokenAudience
	}
	expire, ok := all.time("exp")
	if !ok {
		return Principal{}, errTokenTimes
	}
	if _, has := all["nbf"]; has {
		switch begin, ok := all.time("nbf"); {
		case !ok:
			return Principal{}, errTokenTimes
		case now.Add(leeway).Before(begin):
			return Principal{}, errTokenEarly
		}
	}
	sub, _ := all["sub"].(string)
	p := Principal{
		Team:   all.text(is.TeamClaim),
		Client: all.text(is.ClientClaim),
		// An issuer has no # in it, and a subject is its own: another issuer may have the same.
		CredentialID: "jwt:" + loggable(is.Issuer.Issuer, maxIssuer) + "#" + loggable(sub, maxSubject),
		Roles:        is.Roles,
		ExpireTime:   expire,
	}
	if !tenant.ValidID(p.Team) || !tenant.ValidID(p.Client) {
		return Principal{}, errTokenNobodys
	}
	if is.RolesClaim != "" {
		p.Roles &= all.roles(is.RolesClaim)
	}
	return p, nil
}

// loggable returns a name as logs may have it: its digest if it is empty, longer than most, or has more than visible ASCII.
func loggable(name string, most int) string {
	if name == "" || len(name) > most || strings.ContainsFunc(name, invisible) {
		digest := sha256.Sum256([]byte(name))
		return "sha256:" + hex.EncodeToString(digest[:6])
	}
	return name
}

// claims are what a token says. It is a map, and not a struct, because in that upper and lower case of a name would be the
// same, and because a value of another type than it should have must be seen, not skipped.
type claims map[string]any

// isFor reports whether the claim aud, which is a string or a list, has an audience.
func (c claims) isFor(audience string) bool {
	switch v := c["aud"].(type) {
	case string:
		return v == audience
	case []any:
		return slices.Contains(v, any(audience))
	}
	return false
}

// time returns a claim that is a time, in seconds since 1970. It reports false for one that is missing or no such time.
func (c claims) time(name string) (time.Time, bool) {
	seconds, ok := c[name].(float64)
	if !ok || seconds < 0 || seconds >= maxTime {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

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
