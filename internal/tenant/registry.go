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
	store     Store
	directory *Directory
	now       func() time.Time
	// again is held by who tries again, so that many changes of one row in this process do not defeat each other for ever.
	again chan struct{}
}

// NewRegistry returns a registry over a store and its directory.
func NewRegistry(store Store, directory *Directory) *Registry {
	return &Registry{store: store, directory: directory, now: time.Now, again: make(chan struct{}, 1)}
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
		now := r.now().UTC().Truncate(time.Microsecond) // as databases keep it
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
		made = newTeam(t, now)
		e.Team, e.Resource, e.Changes = made.ID, made.Name(), made.changes(&Team{})
		return &Change{Team: made}, nil
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

func newTeam(t Team, now time.Time) *Team {
	return &Team{ID: t.ID, DisplayName: t.DisplayName, Disabled: t.Disabled, CreateTime: now, UpdateTime: now}
}

// UpdateTeam has change change DisplayName and Disabled of a team; it is called again when something else was written
// in between. A revision that is not 0 must be the team's: ErrChanged. A change that changes nothing writes nothing. A
// team that does not exist is conversation.ErrNotFound.
func (r *Registry) UpdateTeam(ctx context.Context, by Entry, id string, revision int64, change func(*Team)) (*Team, error) {
	var result *Team
	err := r.write(ctx, by, func(v *View, now time.Time, e *Entry) (*Change, error) {
		old := v.Team(id)
		if old == nil {
			return nil, conversation.ErrNotFound
		}
		if revision != 0 && revision != old.Revision {
			return nil, ErrChanged
		}
		wanted := *old
		change(&wanted)
		updated := *old
		updated.DisplayName, updated.Disabled = wanted.DisplayName, wanted.Disabled
		if err := checkDisplayName(updated.DisplayName); err != nil {
			return nil, err
		}
		e.Team, e.Resource, e.Changes = id, old.Name(), updated.changes(old)
		if len(e.Changes) == 0 {
			result = old
			return nil, nil
		}
		updated.UpdateTime, result = now, &updated
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
		made = newClient(c, now)
		e.Team, e.Resource, e.Changes = c.Team, made.Name(), made.changes(&Client{})
		return &Change{Client: made}, nil
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

func newClient(c Client, now time.Time) *Client {
	return &Client{
		Team: c.Team, ID: c.ID, DisplayName: c.DisplayName, Disabled: c.Disabled, CreateTime: now, UpdateTime: now,
	}
}

// UpdateClient is UpdateTeam for a client.
func (r *Registry) UpdateClient(
	ctx context.Context, by Entry, team, id string, revision int64, change func(*Client),
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
		wanted := *old
		change(&wanted)
		updated := *old
		updated.DisplayName, updated.Disabled = wanted.DisplayName, wanted.Disabled
		if err := checkDisplayName(updated.DisplayName); err != nil {
			return nil, err
		}
		e.Team, e.Resource, e.Changes = team, old.Name(), updated.changes(old)
		if len(e.Changes) == 0 {
			result = old
			return nil, nil
		}
		updated.UpdateTime, result = now, &updated
		return &Change{Client: &updated}, nil
	})
	if err != nil {
		return nil, err
	}
	return result, nil
}
