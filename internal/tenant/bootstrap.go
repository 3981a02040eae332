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
// with the roles platform_admin, team_admin and auditor. Where there is a key with platform_admin that has not ended,
// it is INVALID_STATE, unless again; so it is where the team or the client is disabled.
func (r *Registry) Bootstrap(ctx context.Context, again bool) (made *Key, token string, err error) {
	err = r.write(ctx, Entry{Action: "bootstrap"}, func(v *View, now time.Time, e *Entry) (*Change, error) {
		if k := v.platformAdmin(now); k != nil && !again {
			return nil, conversation.Errorf(conversation.InvalidState, "there is an admin already: %s", k.Name())
		}
		team, client := v.Team(platformTeam), v.Client(platformTeam, adminClient)
		if team != nil && team.Disabled || client != nil && client.Disabled {
			return nil, conversation.Errorf(conversation.InvalidState,
				"team %s or its client %s is disabled, and so would its key be", platformTeam, adminClient)
		}
		change := &Change{}
		if team == nil {
			change.Team = newTeam(Team{ID: platformTeam, DisplayName: "Platform"}, now)
		}
		if client == nil {
			change.Client = newClient(Client{Team: platformTeam, ID: adminClient, DisplayName: "Administration"}, now)
		}
		made = &Key{
			Team: platformTeam, Client: adminClient, DisplayName: "bootstrap", CreateTime: now, ExpireTime: now.Add(DefaultKeyLifetime),
			Roles: RolesOf(RolePlatformAdmin, RoleTeamAdmin, RoleAuditor),
		}
		token = requestID{}.issue(made)
		// So that of two who run it at the same time one finds the other's key.
		made.Request = digestOf("chatsvc bootstrap", strconv.Itoa(len(v.Keys(platformTeam, adminClient))))
		e.Team, e.Resource, e.Changes = made.Team, made.Name(), made.changes(&Key{}, now)
		change.Keys = []*Key{made}
		return change, nil
	})
	if err != nil {
		return nil, "", err
	}
	return made, token, nil
}

// platformAdmin returns a key with the role that has not ended, or nil.
func (v *View) platformAdmin(now time.Time) *Key {
	for _, k := range v.keys {
		if k.Roles.Has(RolePlatformAdmin) && !k.Ended(now) {
			return k
		}
	}
	return nil
}
