package tenant

import (
	"context"
	"net/netip"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// KeySpec is what a new key is to be.
type KeySpec struct {
	Team, Client  string
	DisplayName   string
	Roles         Roles // none is Caller
	AllowedModels []string
	AllowedCIDRs  []netip.Prefix
	ExpireTime    time.Time // zero is in DefaultKeyLifetime
}

// How long keys live, and how long the one that was rotated.
const (
	DefaultKeyLifetime = 60 * 24 * time.Hour
	MaxKeyLifetime     = 366 * 24 * time.Hour
	DefaultOverlap     = 24 * time.Hour
	MaxOverlap         = 30 * 24 * time.Hour
)

// How much there can be, because each process has all of it in memory. Clients and keys are never deleted.
const (
	maxClients  = 1000   // of a team
	maxTeamKeys = 10_000 // of a team, that have not ended longer than keptInMind ago
	maxLiveKeys = 1000   // of a client, that have neither ended nor been rotated
)

// keptInMind is how long a key that has ended counts, so that who makes keys and ends them has no more than who only makes them.
const keptInMind = 30 * 24 * time.Hour

// repeatable is how long the answer to a request that made a key can be had again.
const repeatable = time.Hour

// CreateKey makes a key, and returns it with its token. granter is the roles of the caller: what they may not grant is
// ROLE_MISSING. requestID is empty or a UUID of version 4, see CreateKeyRequest; it is scoped to by.Actor.Team.
func (r *Registry) CreateKey(
	ctx context.Context, by Entry, granter Roles, spec KeySpec, requestID string,
) (made *Key, token string, err error) {
	request, err := newRequestID(requestID, by.Actor.Team, "CreateKey")
	if err != nil {
		return nil, "", err
	}
	if err := spec.normalise(); err != nil {
		return nil, "", err
	}
	if !granter.MayGrant(spec.Roles) {
		return nil, "", mayNotGrant(spec.Roles)
	}
	request.fingerprint = spec.fingerprint()
	err = r.write(ctx, by, func(v *View, now time.Time, e *Entry) (_ *Change, err error) {
		if err := v.enabled(spec.Team, spec.Client); err != nil {
			return nil, err
		}
		if made, token, err = v.repeated(request, now); made != nil || err != nil {
			return nil, err
		}
		expire, err := expireTime(spec.ExpireTime, now)
		if err != nil {
			return nil, err
		}
		if err := v.hasRoom(granter, spec.Team, spec.Client, false, now); err != nil {
			return nil, err
		}
		made = &Key{
			Team: spec.Team, Client: spec.Client, DisplayName: spec.DisplayName, Roles: spec.Roles,
			AllowedModels: spec.AllowedModels, AllowedCIDRs: spec.AllowedCIDRs, CreateTime: now, ExpireTime: expire,
		}
		token = request.issue(made)
		e.Team, e.Resource, e.Changes = made.Team, made.Name(), made.changes(&Key{}, now)
		return &Change{Keys: []*Key{made}}, nil
	})
	if err != nil {
		return nil, "", err
	}
	return made, token, nil
}

// RotateKey makes a key in place of another, and returns it with its token. The key must be of the team and client: else
// conversation.ErrNotFound. What is said of it in the audit is under the name of the old key.
func (r *Registry) RotateKey(
	ctx context.Context, by Entry, granter Roles, team, client, id string, overlap time.Duration, requestID string,
) (made *Key, token string, err error) {
	request, err := newRequestID(requestID, by.Actor.Team, "RotateKey")
	if err != nil {
		return nil, "", err
	}
	if overlap < 0 || overlap > MaxOverlap {
		return nil, "", invalid("overlap", "overlap must be from 0 to 30 days")
	}
	request.fingerprint = digestOf(team, client, id, overlap.String())
	err = r.write(ctx, by, func(v *View, now time.Time, e *Entry) (_ *Change, err error) {
		old, err := v.keyFor(granter, team, client, id)
		if err != nil {
			return nil, err
		}
		if err := v.enabled(team, client); err != nil {
			return nil, err
		}
		if made, token, err = v.repeated(request, now); made != nil || err != nil {
			return nil, err
		}
		switch {
		case old.ReplacedBy != "":
			return nil, conversation.Errorf(conversation.InvalidState,
				"the key was rotated already: rotate %s, which took its place", old.ReplacedBy)
		case old.Ended(now):
			return nil, conversation.Errorf(conversation.InvalidState, "the key has ended: make a new one")
		}
		if err := v.hasRoom(granter, team, client, true, now); err != nil {
			return nil, err
		}
		lifetime := min(old.ExpireTime.Sub(old.CreateTime), MaxKeyLifetime)
		made = &Key{
			Team: team, Client: client, DisplayName: old.DisplayName, Roles: old.Roles,
			AllowedModels: old.AllowedModels, AllowedCIDRs: old.AllowedCIDRs, CreateTime: now, ExpireTime: now.Add(lifetime),
		}
		token = request.issue(made)
		replaced := *old
		replaced.ReplacedBy = made.ID
		if end := now.Add(overlap).Truncate(time.Microsecond); end.Before(old.ExpireTime) {
			replaced.ExpireTime = end
		}
		e.Team, e.Resource, e.Changes = team, old.Name(), replaced.changes(old, now)
		// The rest of the new key is as it was.
		e.Changes = append(e.Changes, FieldChange{Field: "replaced_by.expire_time", New: formatTime(made.ExpireTime)})
		return &Change{Keys: []*Key{made, &replaced}}, nil
	})
	if err != nil {
		return nil, "", err
	}
	return made, token, nil
}

// RevokeKey ends a key. One that is revoked stays as it is, and nothing is written.
func (r *Registry) RevokeKey(ctx context.Context, by Entry, granter Roles, team, client, id string) (*Key, error) {
	var result *Key
	err := r.write(ctx, by, func(v *View, now time.Time, e *Entry) (*Change, error) {
		old, err := v.keyFor(granter, team, client, id)
		if err != nil {
			return nil, err
		}
		if !old.RevokeTime.IsZero() {
			result = old
			return nil, nil
		}
		revoked := *old
		revoked.RevokeTime, result = now, &revoked
		e.Team, e.Resource, e.Changes = team, old.Name(), revoked.changes(old, now)
		return &Change{Keys: []*Key{&revoked}}, nil
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

// enabled returns nil if a team and client exist and are not disabled.
func (v *View) enabled(team, client string) error {
	t, c := v.Team(team), v.Client(team, client)
	switch {
	case t == nil || c == nil:
		return conversation.ErrNotFound
	case t.Disabled:
		return conversation.Errorf(conversation.InvalidState, "team %s is disabled", team)
	case c.Disabled:
		return conversation.Errorf(conversation.InvalidState, "client %s of team %s is disabled", client, team)
	}
	return nil
}

// hasRoom returns nil if a team's client may have one more key; replacing says that it is in place of another. How many a team
// has does not bind a platform admin, who has to help where others have made too many.
func (v *View) hasRoom(granter Roles, team, client string, replacing bool, now time.Time) error {
	all, live := 0, 0
	for _, k := range v.keys {
		end := k.ExpireTime
		if !k.RevokeTime.IsZero() && k.RevokeTime.Before(end) {
			end = k.RevokeTime
		}
		if k.Team != team || now.Sub(end) > keptInMind {
			continue
		}
		all++
		if k.Client == client && !replacing && !k.Ended(now) && k.ReplacedBy == "" {
			live++
		}
	}
	switch {
	case live >= maxLiveKeys:
		return conversation.Errorf(conversation.InvalidState,
			"client %s of team %s has %d keys that work, which is the most that a client can have: revoke some of them",
			client, team, maxLiveKeys)
	case all >= maxTeamKeys && !granter.Has(RolePlatformAdmin):
		return conversation.Errorf(conversation.InvalidState,
			"team %s has %d keys that work or have ended in the last 30 days, which is the most that a team can have", team, maxTeamKeys)
	}
	return nil
}

// liveRoles returns all roles of a client's keys that have not ended.
func (v *View) liveRoles(team, client string, now time.Time) (roles Roles) {
	for _, k := range v.keys {
		if k.Team == team && k.Client == client && !k.Ended(now) {
			roles |= k.Roles
		}
	}
	return roles
}

// keyFor returns the key of a team's client that a caller wants to end or replace, who must be allowed to grant what it has.
func (v *View) keyFor(granter Roles, team, client, id string) (*Key, error) {
	k := v.Key(id)
	if k == nil || k.Team != team || k.Client != client {
		return nil, conversation.ErrNotFound
	}
	if !granter.MayGrant(k.Roles) {
		return nil, mayNotGrant(k.Roles)
	}
	return k, nil
}

// repeated returns the key that a request has made already, and its token; nil if it has made none.
func (v *View) repeated(request requestID, now time.Time) (*Key, string, error) {
	if request.digest.IsZero() {
		return nil, "", nil
	}
	k := v.KeyOfRequest(request.digest)
	switch {
	case k == nil:
		return nil, "", nil
	case k.Fingerprint != request.fingerprint:
		return nil, "", conversation.Errorf(conversation.RequestIDReused, "a request with other content had this request_id")
	case now.Sub(k.CreateTime) > repeatable:
		return nil, "", conversation.Errorf(conversation.ContentExpired,
			"the request made key %s more than an hour ago, and its secret cannot be had any more: revoke it, and make another", k.ID)
	case k.Ended(now):
		return nil, "", conversation.Errorf(conversation.InvalidState, "the request made key %s, which has ended since", k.ID)
	}
	token, err := request.token(k)
	if err != nil {
		return nil, "", err
	}
	return k, token, nil
}

func mayNotGrant(roles Roles) error {
	return conversation.Errorf(conversation.RoleMissing,
		"your roles do not allow you to make, replace or revoke a key with the roles %s", roles)
}

// expireTime is when a key that is made now ends.
func expireTime(wanted, now time.Time) (time.Time, error) {
	if wanted.IsZero() {
		return now.Add(DefaultKeyLifetime), nil
	}
	wanted = wanted.UTC().Truncate(time.Microsecond)
	switch {
	case !wanted.After(now):
		return time.Time{}, invalid("key.expire_time", "expire_time has passed")
	case wanted.After(now.Add(MaxKeyLifetime)):
		return time.Time{}, invalid("key.expire_time", "expire_time is more than 366 days away")
	}
	return wanted, nil
}

// fingerprint is of a key as it was asked for.
func (s *KeySpec) fingerprint() Digest {
	models, cidrs := digestOf(s.AllowedModels...), digestOf(texts(s.AllowedCIDRs)...)
	return digestOf(
		s.Team, s.Client, s.DisplayName, s.Roles.String(), string(models[:]), string(cidrs[:]), formatTime(s.ExpireTime))
}

// normalise checks what of s does not depend on the time, and brings it into the form that is kept.
func (s *KeySpec) normalise() (err error) {
	if err := checkDisplayName(s.DisplayName); err != nil {
		return err
	}
	if s.Roles == 0 {
		s.Roles = RolesOf(RoleCaller)
	}
	if s.AllowedModels, err = normaliseModels(s.AllowedModels); err != nil {
		return err
	}
	s.AllowedCIDRs, err = normaliseCIDRs(s.AllowedCIDRs)
	return err
}
