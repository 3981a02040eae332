package tenant

import (
	"context"
	"strconv"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	platformTeam = "platform"
	adminClient  = "admin"
)

// Bootstrap makes the first admin: the team platform and its client admin, where there are none, and a key of theirs
// with the roles platform_admin, team_admin and auditor. Where an admin can call already it is INVALID_STATE, unless
// again; so it is where the team or the client is disabled, which again enables.
func (r *Registry) Bootstrap(ctx context.Context, again bool) (made *Key, token string, err error) {
	err = r.write(ctx, Entry{Action: "bootstrap"}, func(v *View, now time.Time, e *Entry) (*Change, error) {
		team, client := v.Team(platformTeam), v.Client(platformTeam, adminClient)
		if k := v.platformAdmin(now); k != nil && !again {
			return nil, conversation.Errorf(conversation.InvalidState, "there is an admin already: %s", k.Name())
		}
		if !again && (team != nil && team.Disabled || client != nil && client.Disabled) {
			return nil, conversation.Errorf(conversation.InvalidState,
				"team %s or its client %s is disabled, and would have to be enabled, too", platformTeam, adminClient)
		}
		made = &Key{
			Team: platformTeam, Client: adminClient, DisplayName: "bootstrap", CreateTime: now, ExpireTime: now.Add(DefaultKeyLifetime),
			Roles: RolesOf(RolePlatformAdmin, RoleTeamAdmin, RoleAuditor),
		}
		token = requestID{}.issue(made)
		// So that of two who run it at the same time one finds the other's key.
		made.Request = digestOf("chatsvc bootstrap", strconv.Itoa(len(v.Keys(platformTeam, adminClient))))
		e.Team, e.Resource, e.Changes = made.Team, made.Name(), made.changes(&Key{}, now)
		change := &Change{Keys: []*Key{made}}
		if team == nil {
			change.Team = &Team{ID: platformTeam, Profile: Profile{DisplayName: "Platform"}.begun(now)}
		} else if team.Disabled {
			change.Team = &Team{ID: team.ID, Profile: team.enabled("team", now, e), Revision: team.Revision}
		}
		if client == nil {
			change.Client = &Client{Team: platformTeam, ID: adminClient, Profile: Profile{DisplayName: "Administration"}.begun(now)}
		} else if client.Disabled {
			change.Client = &Client{
				Team: client.Team, ID: client.ID, Profile: client.enabled("client", now, e), Revision: client.Revision,
			}
		}
		return change, nil
	})
	if err != nil {
		return nil, "", err
	}
	return made, token, nil
}

// enabled returns p, enabled, and says so in the entry.
func (p Profile) enabled(of string, now time.Time, e *Entry) Profile {
	p.Disabled, p.UpdateTime = false, now
	e.Changes = append(e.Changes, FieldChange{Field: of + ".disabled", Old: "true", New: "false"})
	return p
}

// platformAdmin returns a key with the role that lets somebody in, or nil.
func (v *View) platformAdmin(now time.Time) *Key {
	for _, k := range v.keys {
		if k.Roles.Has(RolePlatformAdmin) && !k.Ended(now) && v.enabled(k.Team, k.Client) == nil {
			return k
		}
	}
	return nil
}
