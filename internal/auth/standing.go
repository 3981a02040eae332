package auth

import (
	"context"
	"errors"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// What more than one authenticator answers.
var (
	errMissing = conversation.Errorf(conversation.CredentialMissing,
		"this call needs a credential: send the metadata `authorization: Bearer KEY`")
	errUnknownKey = conversation.Errorf(conversation.CredentialInvalid,
		"the key is not known; ask the owner of this service for one")
	errUnregistered = conversation.Errorf(conversation.CredentialInvalid,
		"the team and client that the credential names are not registered; have an admin create them")
	errDisabled = conversation.Errorf(conversation.CredentialRevoked,
		"the team or client that the credential belongs to is disabled")
)

// rolesOr returns roles, or the set of otherwise if there are none.
func rolesOr(roles tenant.Roles, otherwise tenant.Role) tenant.Roles {
	if roles == 0 {
		return tenant.RolesOf(otherwise)
	}
	return roles
}

// admitConfigured lets in a principal that the configuration names, unless the directory knows its team or client as
// disabled. What the configuration names need be in no directory, and works without a database: an old view will do, and
// nil too.
func admitConfigured(v *tenant.View, p Principal) (Principal, error) {
	if v == nil {
		return p, nil
	}
	if t := v.Team(p.Team); t != nil && t.Disabled {
		return p, errDisabled
	}
	if c := v.Client(p.Team, p.Client); c != nil && c.Disabled {
		return p, errDisabled
	}
	return p, nil
}

// admitRegistered lets in a principal whose team and client are in the directory and not disabled. The view has to be fresh.
func admitRegistered(v *tenant.View, p Principal) (Principal, error) {
	t, c := v.Team(p.Team), v.Client(p.Team, p.Client)
	switch {
	case t == nil || c == nil:
		return Principal{}, errUnregistered
	case t.Disabled || c.Disabled:
		return p, errDisabled
	}
	return p, nil
}

// fresh is directory.Fresh with the error that callers see.
func fresh(ctx context.Context, directory *tenant.Directory) (*tenant.View, error) {
	v, err := directory.Fresh(ctx)
	if err == nil {
		return v, nil
	}
	// Below what the directory says, and the store, which is that the database cannot be used, stands why.
	for e, ok := errors.AsType[*conversation.Error](err); ok && e.Cause != nil; e, ok = errors.AsType[*conversation.Error](err) {
		err = e.Cause
	}
	return nil, &conversation.Error{
		Reason:  conversation.StoreUnavailable,
		Message: "the credential cannot be checked at the moment; try again",
		Cause:   err,
	}
}
