package service

import (
	"context"
	"errors"
	"strconv"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// reading and changing are whether a call of the control plane changes something. They are the roles that reach all teams: of
// a caller without one of them, its own is the only one there is.
const (
	reading  = allTeams(1<<tenant.RolePlatformAdmin | 1<<tenant.RoleAuditor)
	changing = allTeams(1 << tenant.RolePlatformAdmin)
)

type allTeams tenant.Roles

// sees reports whether a caller sees all teams.
func (a allTeams) sees(p auth.Principal) bool { return p.Roles.HasAny(tenant.Roles(a)) }

// within returns who calls, unless the team that the call names is not the caller's to see. That is refused as a name that is
// not known is, before anything looks whether it is; only the cause, which callers do not see, tells the two apart.
func (a allTeams) within(ctx context.Context, team string) (auth.Principal, error) {
	p, err := principal(ctx)
	if err != nil {
		return p, err
	}
	if team != p.Team && !a.sees(p) {
		return p, notFound(tenant.ErrOtherTeam)
	}
	return p, nil
}

// visible returns who calls, and everything there is, if the team that the call names is there and the caller may read it.
func visible(ctx context.Context, registry *tenant.Registry, team string) (auth.Principal, *tenant.View, error) {
	p, err := reading.within(ctx, team)
	if err != nil {
		return p, nil, err
	}
	view, err := registry.View(ctx)
	if err == nil && view.Team(team) == nil {
		err = notFound(nil)
	}
	return p, view, err
}

// notFound returns the one refusal of names on the control plane.
func notFound(cause error) error {
	return &conversation.Error{Reason: conversation.NotFound, Message: conversation.ErrNotFound.Message, Cause: cause}
}

// aboutNew says of ALREADY_EXISTS what there is: whoever may make it may see it.
func aboutNew(name string, err error) error {
	if errors.Is(err, tenant.ErrExists) {
		return &conversation.Error{Reason: conversation.AlreadyExists, Message: name + " exists already", Cause: err}
	}
	return err
}

// formatRevision returns the etag of a revision.
func formatRevision(revision int64) string { return strconv.FormatInt(revision, 36) }

// parseRevision returns the revision of an etag; 0 for none. What no revision is formatted as gives one that nothing has.
func parseRevision(etag string) int64 {
	if etag == "" {
		return 0
	}
	revision, err := strconv.ParseInt(etag, 36, 64)
	if err != nil || revision < 1 || formatRevision(revision) != etag {
		return -1
	}
	return revision
}
