package turn

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// claimKey is a request id of a team.
type claimKey struct{ team, requestID string }

// claim is what this process knows of a request id: that a call looks into it, and what came of that. Of many calls that
// come at once with one id, one asks the store and admits; the others wait for what it finds.
type claim struct {
	decided chan struct{} // closed when the rest is known

	conversation.Claim
	run    *run     // of the turn, if that call has admitted it
	models []string // that the credential of that call may ask
	err    error    // of that call
}

// claimTries bounds how often the turn that a request id leads to may turn out to have freed the id meanwhile.
const claimTries = 8

// startOrAttach is Start for a request with an id.
func (e *Engine) startOrAttach(ctx context.Context, r *Request) (*Reader, error) {
	for range claimTries {
		c, first := e.claim(claimKey{r.Team, r.RequestID})
		if first {
			e.decide(ctx, r, c)
		}
		select {
		case <-c.decided:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		switch {
		case first && c.err != nil:
			return nil, c.err
		case c.err != nil && (c.Fingerprint != r.Fingerprint || isAny(c.err, context.Canceled, context.DeadlineExceeded) ||
			!slices.Equal(c.models, r.AllowedModels)):
			continue // that was the other call's misfortune, or can be its credential's
		case c.err != nil:
			return nil, c.err
		case c.Fingerprint != r.Fingerprint:
			return nil, &conversation.Error{
				Reason: conversation.RequestIDReused, Turn: c.Turn,
				Message: "the request id is that of a turn with another content",
			}
		case first && c.run != nil:
			return c.run.reader(0, true), nil
		}
		reader, err := e.attach(ctx, r.Team, c.Turn)
		if err != nil {
			return nil, about(err, c.Turn)
		}
		if reader != nil {
			return reader, nil
		}
	}
	return nil, conversation.Errorf(conversation.StoreUnavailable, "the turns with this request id fail as soon as they begin; try again")
}

// about names the turn in the error of a call that was to attach to it.
func about(err error, id conversation.ID) error {
	known, ok := errors.AsType[*conversation.Error](err)
	if !ok {
		if errors.Is(err, context.DeadlineExceeded) {
			return &conversation.Error{Reason: conversation.TurnDeadline, Turn: id, Message: "the call's deadline passed before the turn could be read"}
		}
		return err
	}
	named := *known
	named.Turn = id
	return &named
}

// claim returns what is known of a request id, and whether the caller is the one that has to look into it.
func (e *Engine) claim(key claimKey) (c *claim, first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c = e.claims[key]; c != nil {
		return c, false
	}
	c = &claim{decided: make(chan struct{})}
	e.claims[key] = c
	return c, true
}

// decide admits a turn, or finds out that the request id is that of another.
func (e *Engine) decide(ctx context.Context, r *Request, c *claim) {
	c.Fingerprint, c.models = r.Fingerprint, r.AllowedModels
	c.err = conversation.Errorf(conversation.Internal, "a fault in chatsvc ended the call") // after a panic
	var run *run
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if run != nil {
			c.run, c.Turn = run, run.turn.ID
		}
		if run == nil || e.runs[run.turn.ID] != run { // what the store knows is not remembered here
			delete(e.claims, claimKey{r.Team, r.RequestID})
		}
		close(c.decided)
	}()
	var err error
	if run, err = e.begin(ctx, r); err != nil {
		var other *conversation.Claim
		if other, err = e.whose(ctx, r, err); other != nil {
			c.Claim = *other
		}
	}
	c.err = err
}

// whose returns the claim on the id of a request that was refused, or why it was. As a rule a request is no repeat, so the
// store is asked only now. A repeat can be refused in many ways, because the turn that has its id has been at work: it makes
// the conversation busy, or it has moved the head.
func (e *Engine) whose(ctx context.Context, r *Request, refusal error) (*conversation.Claim, error) {
	if other, ok := errors.AsType[*conversation.ClaimedError](refusal); ok {
		return &other.Claim, nil
	}
	if isAny(refusal, conversation.ErrStoreUnavailable, errDraining, context.Canceled, context.DeadlineExceeded) {
		return nil, refusal
	}
	known, err := e.o.Store.GetClaim(ctx, r.Team, r.RequestID)
	if errors.Is(err, conversation.ErrNotFound) {
		return nil, refusal
	}
	return known, err
}

// disownedPatience is how long a repeat waits until the turn is ended of which it is not known whether it was recorded.
const disownedPatience = 2 * time.Second

// attach returns a reader for one more creator of a turn; nil if the turn has failed, and so freed its request id.
func (e *Engine) attach(ctx context.Context, team string, id conversation.ID) (*Reader, error) {
	if run := e.known(team, id); run != nil {
		if run.recorded.Load() {
			reader, err := run.attach(ctx)
			if err != nil || reader != nil {
				return reader, err
			}
		} else {
			select {
			case <-run.done:
				return nil, nil
			case <-time.After(disownedPatience):
				return nil, conversation.ErrStoreUnavailable
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	t, err := e.o.Store.GetTurn(ctx, team, id, false)
	if err == nil && t.State.Ended() && t.State != conversation.Failed {
		t, err = e.o.Store.GetTurn(ctx, team, id, true) // what is to be read must be there
	}
	gone := errors.Is(err, conversation.ErrNotFound)
	switch {
	case gone, err == nil && t.State.Ended() && t.ContentExpired:
		return nil, &conversation.Error{
			Reason: conversation.ContentExpired, Turn: id,
			Message: "the turn with this request id has ended, and its content is no longer kept",
		}
	case err != nil:
		return nil, err
	case t.State == conversation.Failed:
		return nil, nil
	}
	reader := &Reader{e: e, team: team, id: id, draining: e.draining, creator: true}
	reader.stored.saw(t)
	if t.State.Ended() {
		t.Input = nil
		reader.stored.whole = true
		return reader, nil
	}
	p := e.ofForeign(t)
	if err := p.enter(ctx); err != nil {
		p.release()
		if errors.Is(err, conversation.ErrTurnEnded) {
			return nil, nil // to look again
		}
		return nil, err
	}
	reader.presence = p
	return reader, nil
}

// attach returns a reader for one more creator of a run; nil if the run is over.
func (r *run) attach(ctx context.Context) (*Reader, error) {
	err := r.presence.enter(ctx)
	switch {
	case errors.Is(err, conversation.ErrTurnEnded), err == nil && isClosed(r.done):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return r.reader(0, true), nil
}
