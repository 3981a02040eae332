package turn

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// presence counts the callers in this process that read a turn as its creators. When the last one leaves, a turn with
// DisconnectCancel is cancelled: at once where callers can be nowhere else, and by the store, which counts processes, where
// the turn has a request id.
type presence struct {
	e    *Engine
	turn *conversation.Turn
	run  *run // nil: the turn is another process's
	// lock has a value while somebody counts, and tells the store.
	lock     chan struct{}
	creators int
	counted  bool // the store counts this process

	users int // of a presence in Engine.foreign, under the engine's lock
}

// ofRun makes the presence of a run: its creator is there, and counted with the turn.
func ofRun(r *run) presence {
	return presence{e: r.e, turn: r.turn, run: r, lock: make(chan struct{}, 1), creators: 1, counted: true}
}

// ofForeign returns the presence of a turn of another process.
func (e *Engine) ofForeign(t *conversation.Turn) *presence {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.foreign[t.ID]
	if p == nil {
		p = &presence{e: e, turn: t, lock: make(chan struct{}, 1)}
		e.foreign[t.ID] = p
	}
	p.users++
	return p
}

// release lets go of what ofForeign has returned.
func (p *presence) release() {
	if p.run != nil {
		return
	}
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	if p.users--; p.users == 0 {
		delete(p.e.foreign, p.turn.ID)
	}
}

// cancels reports whether it matters who is there.
func (p *presence) cancels() bool { return p.turn.OnDisconnect == conversation.DisconnectCancel }

// enter counts a further creator. ErrTurnEnded: there is nothing to be counted for any more.
func (p *presence) enter(ctx context.Context) error {
	if !p.cancels() {
		return nil
	}
	select {
	case p.lock <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.lock }()
	if !p.counted {
		if err := p.e.o.Store.AttachTurn(ctx, p.turn.Team, p.turn.ID); err != nil {
			if p.run == nil && mayHappen(err) {
				p.e.chores.do(p.withdraw)
			}
			return err
		}
		p.counted = true
	}
	p.creators++
	return nil
}

// withdraw takes back what may have been said to the store of creators that there are not.
func (p *presence) withdraw() {
	p.lock <- struct{}{}
	defer func() { <-p.lock }()
	if p.creators == 0 {
		p.detach()
	}
}

// leave counts one creator less. It does not wait for the store.
func (p *presence) leave() {
	if !p.cancels() || p.run != nil && p.run.over.Load() {
		p.release()
		return
	}
	if p.turn.RequestID != "" {
		p.e.chores.do(func() {
			p.lock <- struct{}{}
			defer func() { <-p.lock; p.release() }()
			if p.creators--; p.creators == 0 {
				p.detach()
			}
		})
		return
	}
	p.lock <- struct{}{}
	defer func() { <-p.lock }()
	if p.creators--; p.creators == 0 {
		p.run.cancel(errCancelled) // does nothing to a turn that has ended
	}
}

// detachPatience is how long the store may take to say that a turn is to be cancelled, before its owner does it unasked: the
// call to the provider is to be closed within a second, and that comes first, even if callers read the turn elsewhere.
const detachPatience = 500 * time.Millisecond

// detachTries bounds how often a process that leaves another's turn says so. If it cannot, the turn goes on to its end.
const detachTries = 8

// detach tells the store that nobody here reads the turn any more. The store then asks for it to be cancelled if that is
// true everywhere.
func (p *presence) detach() {
	if p.run != nil {
		unasked := time.AfterFunc(detachPatience, func() { p.run.cancel(errCancelled) })
		defer unasked.Stop()
	}
	for try, wait := 1, 50*time.Millisecond; ; try, wait = try+1, 2*wait {
		err := p.e.o.Store.DetachTurn(context.Background(), p.turn.Team, p.turn.ID)
		if !errors.Is(err, conversation.ErrStoreUnavailable) {
			p.counted = false
			return
		}
		if p.run != nil {
			p.run.cancel(errCancelled)
			return
		}
		if try == detachTries || p.e.stop.Err() != nil {
			p.e.o.Logger.Warn("a turn is not told that its callers are gone", "turn", uuid.UUID(p.turn.ID), "error", err)
			return
		}
		pause(p.e.stop, wait)
	}
}
