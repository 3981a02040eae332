package tenant

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	maxIDLen       = 63
	maxDisplayName = 128 // bytes
	maxModelLen    = 128
	maxAllowed     = 64 // models, or CIDRs, of a key
)

func invalid(field, message string) *conversation.Error {
	return &conversation.Error{Reason: conversation.InvalidRequest, Message: message, Field: field}
}

// checkNew checks the id of a new team or client, and its display name.
func checkNew(field, id, displayName string) error {
	if !ValidID(id) {
		return invalid(field, field+" must be "+IDRule)
	}
	return checkDisplayName(displayName)
}

func checkDisplayName(name string) error {
	if len(name) > maxDisplayName || !utf8.ValidString(name) {
		return invalid("display_name", "display_name must be at most 128 bytes of UTF-8")
	}
	return nil
}

// normaliseModels drops what is there twice.
func normaliseModels(models []string) ([]string, error) {
	if len(models) > maxAllowed {
		return nil, invalid("key.allowed_models", "there are more than 64 allowed_models")
	}
	var kept []string
	for _, m := range models {
		if m == "" || len(m) > maxModelLen || !utf8.ValidString(m) {
			return nil, invalid("key.allowed_models", "a model's name must be 1 to 128 bytes of UTF-8")
		}
		if !slices.Contains(kept, m) {
			kept = append(kept, m)
		}
	}
	return kept, nil
}

// normaliseCIDRs clears the bits after the prefix, writes IPv4 as such, and drops what is there twice.
func normaliseCIDRs(cidrs []netip.Prefix) ([]netip.Prefix, error) {
	if len(cidrs) > maxAllowed {
		return nil, invalid("key.allowed_cidrs", "there are more than 64 allowed_cidrs")
	}
	var kept []netip.Prefix
	for _, p := range cidrs {
		if !p.IsValid() {
			return nil, invalid("key.allowed_cidrs", "allowed_cidrs must be in CIDR notation, such as 10.0.0.0/8")
		}
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 { // the addresses that are compared with it are never in this form
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		if p = p.Masked(); !slices.Contains(kept, p) {
			kept = append(kept, p)
		}
	}
	return kept, nil
}

// fieldChanges collects what differs.
type fieldChanges []FieldChange

func (f *fieldChanges) add(field, before, after string) {
	if before != after {
		*f = append(*f, FieldChange{Field: field, Old: before, New: after})
	}
}

// changes returns what differs from old, which is the zero Profile for what is new.
func (p Profile) changes(old Profile) []FieldChange {
	var f fieldChanges
	f.add("display_name", old.DisplayName, p.DisplayName)
	switch {
	case old.Disabled == p.Disabled:
	case old.CreateTime.IsZero():
		f.add("disabled", "", strconv.FormatBool(p.Disabled))
	default:
		f.add("disabled", strconv.FormatBool(old.Disabled), strconv.FormatBool(p.Disabled))
	}
	return f
}

// updated returns what change makes of p, and what that is: nothing if it changes nothing.
func (p Profile) updated(change func(*Profile), now time.Time) (Profile, []FieldChange, error) {
	wanted := p
	change(&wanted)
	if err := checkDisplayName(wanted.DisplayName); err != nil {
		return p, nil, err
	}
	changes := wanted.changes(p)
	if len(changes) > 0 {
		p.DisplayName, p.Disabled, p.UpdateTime = wanted.DisplayName, wanted.Disabled, now
	}
	return p, changes, nil
}

// changes returns what differs from old; old is empty for a new key.
func (k *Key) changes(old *Key, now time.Time) []FieldChange {
	var f fieldChanges
	f.add("state", old.state(now), k.state(now))
	f.add("display_name", old.DisplayName, k.DisplayName)
	f.add("roles", old.Roles.String(), k.Roles.String())
	f.add("allowed_models", strings.Join(old.AllowedModels, ", "), strings.Join(k.AllowedModels, ", "))
	f.add("allowed_cidrs", strings.Join(texts(old.AllowedCIDRs), ", "), strings.Join(texts(k.AllowedCIDRs), ", "))
	f.add("expire_time", formatTime(old.ExpireTime), formatTime(k.ExpireTime))
	f.add("revoke_time", formatTime(old.RevokeTime), formatTime(k.RevokeTime))
	f.add("replaced_by", old.replacement(), k.replacement())
	return f
}

// state is the key's state for the audit; that of a key which is not there is empty.
func (k *Key) state(now time.Time) string {
	switch {
	case k.ID == "":
		return ""
	case !k.RevokeTime.IsZero():
		return "revoked"
	case k.Ended(now):
		return "expired"
	}
	return "active"
}

// replacement is the name of the key that takes its place; empty without one.
func (k *Key) replacement() string {
	if k.ReplacedBy == "" {
		return ""
	}
	return KeyName(k.Team, k.Client, k.ReplacedBy)
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func texts(cidrs []netip.Prefix) []string {
	list := make([]string, len(cidrs))
	for i, p := range cidrs {
		list[i] = p.String()
	}
	return list
}
