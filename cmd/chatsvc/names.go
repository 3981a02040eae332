package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// teamName is the resource name of a team. It is given as TEAM, or as teams/TEAM.
type teamName string

// UnmarshalText takes a team.
func (n *teamName) UnmarshalText(text []byte) error {
	return parseName((*string)(n), string(text), "TEAM", "teams")
}

// clientName is the resource name of a client. It is given as TEAM/CLIENT, or as teams/TEAM/clients/CLIENT.
type clientName string

// UnmarshalText takes a client.
func (n *clientName) UnmarshalText(text []byte) error {
	return parseName((*string)(n), string(text), "TEAM/CLIENT", "teams", "clients")
}

// keyName is the resource name of a key. It is given as TEAM/CLIENT/KEY, or as teams/TEAM/clients/CLIENT/keys/KEY.
type keyName string

// UnmarshalText takes a key.
func (n *keyName) UnmarshalText(text []byte) error {
	return parseName((*string)(n), string(text), "TEAM/CLIENT/KEY", "teams", "clients", "keys")
}

// parentName is the resource name of a team or a client. What can be read as teams/TEAM is that.
type parentName string

// UnmarshalText takes a team or a client.
func (n *parentName) UnmarshalText(text []byte) error {
	if parseName((*string)(n), string(text), "TEAM", "teams") == nil {
		return nil
	}
	return parseName((*string)(n), string(text), "TEAM or TEAM/CLIENT", "teams", "clients")
}

// parseName sets name to the resource name that text means: as it is, or the ids of these collections alone. Its error does
// not repeat text, which may be a key by mistake.
func parseName(name *string, text, form string, collections ...string) error {
	parts := strings.Split(text, "/")
	if len(parts) == 2*len(collections) {
		var ids []string
		for i, collection := range collections {
			if parts[2*i] == collection {
				ids = append(ids, parts[2*i+1])
			}
		}
		parts = ids
	}
	if len(parts) != len(collections) {
		return errors.New("must be " + form)
	}
	var full []string
	for i, collection := range collections {
		if !tenant.ValidID(parts[i]) {
			return fmt.Errorf("must be %s, of %s", form, tenant.IDRule)
		}
		full = append(full, collection, parts[i])
	}
	*name = strings.Join(full, "/")
	return nil
}

// short returns the ids of a resource name alone, as the commands take them.
func short(name string) string {
	parts := strings.Split(name, "/")
	var ids []string
	for i := 1; i < len(parts); i += 2 {
		ids = append(ids, parts[i])
	}
	return strings.Join(ids, "/")
}

// span is a duration of at least zero, which may be given in days: 60d, 1d12h, 90m.
type span time.Duration

// UnmarshalText takes a duration.
func (s *span) UnmarshalText(text []byte) error {
	const wrong = "must be a duration, such as 60d, 24h or 90m"
	days, rest, found := strings.Cut(string(text), "d")
	if !found {
		days, rest = "0", days
	}
	n, err := strconv.ParseUint(days, 10, 16) // so many days do not overflow
	if err != nil {
		return errors.New(wrong)
	}
	total := time.Duration(n) * 24 * time.Hour
	if rest != "" {
		part, err := time.ParseDuration(rest)
		if err != nil || part < 0 || total+part < total {
			return errors.New(wrong)
		}
		total += part
	} else if !found {
		return errors.New(wrong)
	}
	*s = span(total)
	return nil
}

// String returns the duration without units that are zero: 24h, and not 24h0m0s.
func (s span) String() string {
	text := time.Duration(s).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
