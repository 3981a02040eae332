package auth

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// What a rule may have in place of a segment or label.
const (
	placeholderTeam   = "{team}"
	placeholderClient = "{client}"
)

// maxSAN is the longest name that a rule may have. A credential id is made of it.
const maxSAN = 512

// dnsName is a DNS name in lower case, whose labels may be placeholders.
var dnsName = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?|\{team\}|\{client\})` +
	`(\.([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?|\{team\}|\{client\}))*$`)

// san is a subject alternative name, cut into the parts that a placeholder can stand for. Names of different kinds never
// match.
type san struct {
	separator string // "/" of a URI, "." of a DNS name
	parts     []string
}

func uriSAN(uri string) san { return san{"/", strings.Split(uri, "/")} }

// dnsSAN takes the name in lower case and without the dot of the root: names that differ in that are the same.
func dnsSAN(name string) san {
	return san{".", strings.Split(strings.TrimSuffix(strings.ToLower(name), "."), ".")}
}

// String returns the name.
func (s san) String() string { return strings.Join(s.parts, s.separator) }

// key is String, but different for a DNS name that reads like a URI, which a certificate can have.
func (s san) key() string { return s.separator + s.String() }

// isPattern reports whether there is a placeholder in it.
func (s san) isPattern() bool {
	for _, part := range s.parts {
		if part == placeholderTeam || part == placeholderClient {
			return true
		}
	}
	return false
}

// match reports whether name is one that the pattern s is for, and what stands in place of its placeholders.
func (s san) match(name san) (team, client string, ok bool) {
	if s.separator != name.separator || len(s.parts) != len(name.parts) {
		return "", "", false
	}
	for i, part := range s.parts {
		got := name.parts[i]
		var fits bool
		switch part {
		case placeholderTeam:
			team, fits = got, tenant.ValidID(got)
		case placeholderClient:
			client, fits = got, tenant.ValidID(got)
		default:
			fits = part == got
		}
		if !fits {
			return "", "", false
		}
	}
	return team, client, true
}

// parseRuleSAN returns the name of a rule. It must be written as certificates are compared, for a rule that can never
// match would be found out only by who is not let in.
func parseRuleSAN(s string) (san, error) {
	switch {
	case s == "":
		return san{}, errors.New("san is empty")
	case len(s) > maxSAN || strings.ContainsFunc(s, invisible):
		return san{}, fmt.Errorf("san must be 1 to %d visible ASCII characters", maxSAN)
	case strings.Contains(s, "*"):
		return san{}, errors.New("san has a wildcard; use {team} and {client}, or a rule for each name")
	case strings.Count(s, placeholderTeam) > 1 || strings.Count(s, placeholderClient) > 1:
		return san{}, errors.New("san has the same placeholder twice")
	}
	if strings.Contains(s, ":") {
		name := uriSAN(s)
		return name, checkURI(name)
	}
	if !dnsName.MatchString(s) {
		return san{}, errors.New("san is neither a URI nor a DNS name in lower case, whose labels may be {team} and {client}")
	}
	return dnsSAN(s), nil
}

// checkURI refuses a URI that is not scheme://host/path in its normal form and without empty segments, or has a placeholder, or a
// brace, elsewhere than in place of a segment of the path.
func checkURI(s san) error {
	plain := san{separator: s.separator}
	for i, part := range s.parts {
		if i > 2 && (part == placeholderTeam || part == placeholderClient) {
			part = "x"
		}
		if strings.ContainsAny(part, "{}") {
			return errors.New("san may have {team} and {client} only as whole segments of its path")
		}
		plain.parts = append(plain.parts, part)
	}
	u, err := url.Parse(plain.String())
	switch {
	case err != nil, len(s.parts) < 4, slices.Contains(s.parts[3:], ""), u.Scheme == "", u.Host == "", u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "",
		strings.Contains(plain.String(), "%"), u.String() != plain.String(), u.Host != strings.ToLower(u.Host):
		return errors.New("san must be a URI with scheme, host and path, all in the usual form, the host in lower case")
	}
	return nil
}
