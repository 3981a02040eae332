package tenant

import (
	"context"
	"errors"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// tries is how often a change is decided anew because something else was written in between.
const tries = 10

// Registry changes teams, clients and keys by the rules of TeamService and KeyService. Each change is one transaction
// with its entry of the audit; by is that entry with who calls, from where, what, and in which trace: the rest is
// filled in. Errors are *conversation.Error, or those of a context that ended. It is safe for concurrent use.
type Registry struct {
	// Now is the time at which changes are made; nil is time.Now. It is set before the first call.
	Now func() time.Time

	store     Store
	directory *Directory
	// again is held by who tries again, so that many changes of one row in this process do not defeat each other for ever.
	again chan struct{}
}

// NewRegistry returns a registry over a store and its directory.
func NewRegistry(store Store, directory *Directory) *Registry {
	return &Registry{store: store, directory: directory, again: make(chan struct{}, 1)}
}

// View returns everything as of now.
func (r *Registry) View(ctx context.Context) (*View, error) { return r.directory.Refresh(ctx) }

// write has decide say what to write, on everything as of now, and writes it. If something else was written in between,
// it is decided anew. decide returns no change where there is nothing to write.
func (r *Registry) write(ctx context.Context, by Entry, decide func(v *View, now time.Time, e *Entry) (*Change, error)) error {
	var err error
	for try := range tries {
		if try == 1 {
			select {
			case r.again <- struct{}{}:
				defer func() { <-r.again }()
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		v, viewErr := r.View(ctx)
		if viewErr != nil {
			return viewErr
		}
		now := time.Now()
		if r.Now != nil {
			now = r.Now()
		}
		now = now.UTC().Truncate(time.Microsecond) // as databases keep it
		e := by
		e.Time, e.Outcome = now, Changed
		change, decideErr := decide(v, now, &e)
		if decideErr != nil || change == nil {
			return decideErr
		}
		err = r.store.Put(ctx, change, &e)
		if err == nil {
			// So that it holds in this process when the caller hears of it. If it cannot be read now, it holds soon.
			_, _ = r.directory.Refresh(ctx)
			return nil
		}
		if !errors.Is(err, ErrChanged) && !errors.Is(err, ErrExists) {
			return err
		}
	}
	return err
}

// CreateTeam makes a team: of t, ID, DisplayName and Disabled are looked at. One that exists is ErrExists.
func (r *Registry) CreateTeam(ctx context.Context, by Entry, t Team) (*Team, error) {
	if err := checkNew("team_id", t.ID, t.DisplayName); err != nil {
		return nil, err
	}
	var made *Team
	err := r.write(ctx, by, func(v *View, now time.Time, e *Entry) (*Change, error) {
		if v.Team(t.ID) != nil {
			return nil, ErrExists
		}
		made = &Team{ID: t.ID, Profile: t.begun(now)}
		e.Team, e.Resource, e.Changes = made.ID, made.Name(), made.changes(Profile{})
		return &Change{Team: made}, nil
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// UpdateTeam has change change DisplayName and Disabled of a team; it is called again when something else was written
// in between. A revision that is not 0 must be the team's: ErrChanged. A change that changes nothing writes nothing. A
// team that does not exist is conversation.ErrNotFound. Nobody can disable their own, and shut themselves out:
// INVALID_STATE.
func (r *Registry) UpdateTeam(ctx context.Context, by Entry, id string, revision int64, change func(*Profile)) (*Team, error) {
	var result *Team
	err := r.write(ctx, by, func(v *View, now time.Time, e *Entry) (*Change, error) {
		old := v.Team(id)
		if old == nil {
			return nil, conversation.ErrNotFound
		}
		if revision != 0 && revision != old.Revision {
			return nil, ErrChanged
		}
		profile, changes, err := old.updated(change, now)
		if err != nil {
			return nil, err
		}
		updated := *old
		updated.Profile, result = profile, &updated
		if len(changes) == 0 {
			return nil, nil
		}
		if updated.Disabled && !old.Disabled && by.Actor.Team == id {
			return nil, mayNotDisable("team " + id)
		}
		e.Team, e.Resource, e.Changes = id, old.Name(), changes
		return &Change{Team: &updated}, nil
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

// CreateClient is CreateTeam for a client of a team, which must exist: else conversation.ErrNotFound.
func (r *Registry) CreateClient(ctx context.Context, by Entry, c Client) (*Client, error) {
	if err := checkNew("client_id", c.ID, c.DisplayName); err != nil {
		return nil, err
	}
	var made *Client
	err := r.write(ctx, by, func(v *View, now time.Time, e *Entry) (*Change, error) {
		if v.Team(c.Team) == nil {
			return nil, conversation.ErrNotFound
		}
		if v.Client(c.Team, c.ID) != nil {
			return nil, ErrExists
		}
		if len(v.clients[c.Team]) >= maxClients {
			return nil, conversation.Errorf(conversation.InvalidState,
				"team %s has %d clients, which is the most that a team can have", c.Team, maxClients)
		}
		made = &Client{Team: c.Team, ID: c.ID, Profile: c.begun(now)}
		e.Team, e.Resource, e.Changes = c.Team, made.Name(), made.changes(Profile{})
		return &Change{Client: made}, nil
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// UpdateClient is UpdateTeam for a client. granter is the roles of the caller: who disables or enables a client ends or
// revives its keys, and so must be allowed to grant what those have, else it is ROLE_MISSING.
func (r *Registry) UpdateClient(
	ctx context.Context, by Entry, granter Roles, team, id string, revision int64, change func(*Profile),
) (*Client, error) {
	var result *Client
	err := r.write(ctx, by, func(v *View, now time.Time, e *Entry) (*Change, error) {
		old := v.Client(team, id)
		if old == nil {
			return nil, conversation.ErrNotFound
		}
		if revision != 0 && revision != old.Revision {
			return nil, ErrChanged
		}
		profile, changes, err := old.updated(change, now)
		if err != nil {
			return nil, err
		}
		updated := *old
		updated.Profile, result = profile, &updated
		if len(changes) == 0 {
			return nil, nil
		}
		if updated.Disabled && !old.Disabled && by.Actor.Team == team && by.Actor.Client == id {
			return nil, mayNotDisable("client " + team + "/" + id)
		}
		if roles := v.liveRoles(team, id, now); updated.Disabled != old.Disabled && !granter.MayGrant(roles) {
			return nil, conversation.Errorf(conversation.RoleMissing,
				"your roles do not allow you to disable or enable a client that has a key with the roles %s", roles)
		}
		e.Team, e.Resource, e.Changes = team, old.Name(), changes
		return &Change{Client: &updated}, nil
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}

// begun returns what of p a new team or client has.
func (p Profile) begun(now time.Time) Profile {
	return Profile{DisplayName: p.DisplayName, Disabled: p.Disabled, CreateTime: now, UpdateTime: now}
}

func mayNotDisable(own string) error {
	return conversation.Errorf(conversation.InvalidState,
		"%s is your own, and disabling it would shut you out: have another admin do it", own)
}
