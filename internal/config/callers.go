package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// entryField is a field of the entries of a list. at returns a *string, *tenant.Roles or *[]string.
type entryField[T any] struct {
	name     string
	required bool
	at       func(*T) any
}

// The fields of each list. The first one is required, so that an entry without it is one that could not be read.

func keyFields() []entryField[APIKey] {
	return []entryField[APIKey]{
		{"sha256", true, func(k *APIKey) any { return &k.SHA256 }},
		{"team", true, func(k *APIKey) any { return &k.Team }},
		{"client", true, func(k *APIKey) any { return &k.Client }},
		{"roles", false, func(k *APIKey) any { return &k.Roles }},
	}
}

func certificateFields() []entryField[Certificate] {
	return []entryField[Certificate]{
		{"san", true, func(c *Certificate) any { return &c.SAN }},
		{"team", false, func(c *Certificate) any { return &c.Team }},
		{"client", false, func(c *Certificate) any { return &c.Client }},
		{"roles", false, func(c *Certificate) any { return &c.Roles }},
		{"allowed_models", false, func(c *Certificate) any { return &c.AllowedModels }},
	}
}

func jwtFields() []entryField[JWT] {
	return []entryField[JWT]{
		{"issuer", true, func(j *JWT) any { return &j.Issuer }},
		{"audience", true, func(j *JWT) any { return &j.Audience }},
		{"jwks_file", false, func(j *JWT) any { return &j.JWKSFile }},
		{"team_claim", false, func(j *JWT) any { return &j.TeamClaim }},
		{"client_claim", false, func(j *JWT) any { return &j.ClientClaim }},
		{"roles_claim", false, func(j *JWT) any { return &j.RolesClaim }},
		{"roles", false, func(j *JWT) any { return &j.Roles }},
	}
}

// entries returns the list that the file has under a name. In place of an entry that cannot be read, which is said, stands a
// zero one, so that the others keep their numbers.
func entries[T any](l *loader, name string, fields []entryField[T]) []T {
	value := l.ko.Get(name)
	if _, isMap := value.(map[string]any); value == nil || isMap { // What is wrong with a map is said already.
		return nil
	}
	list, ok := value.([]any)
	if !ok {
		l.fail(name, "must be a list of entries with %s", required(fields))
		return nil
	}
	all := make([]T, len(list))
	for i, item := range list {
		e, err := entry(item, fields)
		if err != nil {
			l.fail(name, "entry %d: %w", i+1, err)
			continue
		}
		all[i] = e
	}
	return all
}

// required names the fields that an entry must have.
func required[T any](fields []entryField[T]) string {
	var names []string
	for _, f := range fields {
		if f.required {
			names = append(names, f.name)
		}
	}
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

func entry[T any](item any, fields []entryField[T]) (T, error) {
	var none, e T
	values, ok := item.(map[string]any)
	if !ok {
		return none, errors.New("must have " + required(fields))
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		i := slices.IndexFunc(fields, func(f entryField[T]) bool { return f.name == name })
		if i < 0 {
			return none, fmt.Errorf("no such setting: %s", name)
		}
		if err := assign(fields[i].at(&e), values[name]); err != nil {
			return none, fmt.Errorf("%s %w", name, err)
		}
	}
	for _, f := range fields {
		if text, ok := f.at(&e).(*string); ok && f.required && *text == "" {
			return none, errors.New("must have " + required(fields))
		}
	}
	return e, nil
}

// assign sets a field of an entry. Errors do not repeat the value, and go on after the field's name.
func assign(target, value any) error {
	if text, ok := target.(*string); ok {
		// As of the other settings: a number would lose its zeros.
		if *text, ok = value.(string); !ok {
			return errors.New("must be text; put it in quotes")
		}
		return nil
	}
	list, _ := value.([]any)
	names := make([]string, len(list))
	for i, item := range list {
		var ok bool
		if names[i], ok = item.(string); !ok {
			list = nil
			break
		}
	}
	if len(list) == 0 { // To allow nothing at all is no entry; to say nothing is to leave it out.
		return errors.New("must be a list of names")
	}
	switch target := target.(type) {
	case *tenant.Roles:
		for _, name := range names {
			role, err := tenant.ParseRole(name)
			if err != nil {
				return fmt.Errorf("has a name that is none: %w", err)
			}
			*target |= tenant.RolesOf(role)
		}
	case *[]string:
		*target = names
	default:
		panic(fmt.Sprintf("config: a field of an entry has the type %T, which assign does not know", target))
	}
	return nil
}

// devKey is the entry of the key of Dev. It may do everything but what viewers may, which callers may anyway.
func devKey(key Secret) APIKey {
	return APIKey{
		SHA256: auth.Digest(key.Reveal()), Team: "dev", Client: "dev",
		Roles: tenant.RolesOf(tenant.RoleCaller, tenant.RoleTeamAdmin, tenant.RolePlatformAdmin, tenant.RoleAuditor),
	}
}

var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (l *loader) callers() {
	c := &l.config
	switch {
	case !c.Dev && c.DevKey.IsSet():
		l.fail("dev_key", "is set without dev")
	case c.Dev && !headerSafe(c.DevKey.Reveal()):
		l.fail("dev_key", "must be 1 to %d visible ASCII characters", auth.MaxBearer)
	}
	l.apiKeys()
	l.certificates()
	l.jwt()
}

func (l *loader) apiKeys() {
	c := &l.config
	seen := make(map[string]bool)
	for i := range c.Auth.APIKeys {
		k := &c.Auth.APIKeys[i]
		if k.SHA256 == "" { // Not readable, and said so.
			continue
		}
		k.SHA256 = strings.ToLower(k.SHA256)
		at := fmt.Sprintf("entry %d (%s)", i+1, cmp.Or(k.Team, "no team"))
		switch {
		case !digest.MatchString(k.SHA256):
			l.fail(apiKeys, "%s: sha256 must be 64 hex digits", at)
		case k.SHA256 == auth.Digest(""), k.SHA256 == auth.Digest("\n"):
			l.fail(apiKeys, "%s: sha256 is the digest of nothing", at)
		case !c.Dev && k.SHA256 == auth.Digest("dev"):
			l.fail(apiKeys, "%s: sha256 is the digest of the well-known key of --dev", at)
		case seen[k.SHA256]:
			l.fail(apiKeys, "%s: the same sha256 stands there twice", at)
		}
		seen[k.SHA256] = true
		if !tenant.ValidID(k.Team) || !tenant.ValidID(k.Client) {
			l.fail(apiKeys, "%s: team and client must be %s", at, tenant.IDRule)
		}
	}
}

func (l *loader) certificates() {
	var before []auth.CertificateRule
	for i, c := range l.config.Auth.Certificates {
		if c.SAN == "" { // Not readable, and said so.
			continue
		}
		rule := auth.CertificateRule(c)
		if err := rule.Check(before); err != nil {
			l.fail(certificates, "entry %d: %w", i+1, err)
		} else if slices.ContainsFunc(c.AllowedModels, func(m string) bool { return !modelName.MatchString(m) }) {
			l.fail(certificates, "entry %d: allowed_models has what is no name of a model", i+1)
		}
		before = append(before, rule)
	}
}

func (l *loader) jwt() {
	var before []auth.Issuer
	for i, j := range l.config.Auth.JWT {
		if j.Issuer == "" { // Not readable, and said so.
			continue
		}
		issuer := auth.Issuer(j)
		if err := issuer.Check(before); err != nil {
			l.fail(jwt, "entry %d: %w", i+1, err)
		}
		before = append(before, issuer)
	}
}
