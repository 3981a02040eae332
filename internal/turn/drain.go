package turn

import (
	"context"
	"sync"
	"time"
)

// endPatience is how long a stopping server tries to write the ends of its turns.
const endPatience = 5 * time.Second

// releasePatience is how long it then tries to hand over what is left.
const releasePatience = 2 * time.Second

// Drain refuses new turns, tells readers, and waits for the turns that run or wait until ctx ends. Of those that are left,
// the ones that outlive their callers are handed over: another server, or this one after its restart, goes on with them. The
// others end FAILED / DRAINING. It returns when no turn is left here, or some seconds after ctx.
func (e *Engine) Drain(ctx context.Context) {
	e.mu.Lock()
	if !e.closing {
		e.closing = true
		close(e.draining)
	}
	e.mu.Unlock()
	e.o.Store.Retire()

	select {
	case <-e.running.none():
	case <-ctx.Done():
	}
	e.mu.Lock()
	e.stopAll(errStopping) // from here on nothing is taken over
	e.mu.Unlock()
	late := time.After(endPatience + time.Second)
	for _, t := range []*tally{&e.running, &e.chores} {
		select {
		case <-t.none():
		case <-late:
			e.o.Logger.ErrorContext(ctx, "turns could not be ended before the stop; another server, or the next start, ends them")
			return // and the lease runs out by itself, after the last write of this process
		}
	}
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasePatience)
	defer cancel()
	if err := e.o.Store.Release(release); err != nil {
		e.o.Logger.WarnContext(ctx, "turns are not handed over; they are found when the lease runs out", "error", err)
	}
}

// Settle waits, until ctx ends, for what goes on besides turns: above all, that the store hears of callers that have left.
// It is for when no call is served any more, after Drain and before the store is closed.
func (e *Engine) Settle(ctx context.Context) {
	select {
	case <-e.chores.none():
	case <-ctx.Done():
	}
}

// tally counts what goes on. Unlike with a sync.WaitGroup, something can begin while somebody waits.
type tally struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n is 0 the next time; nil while nobody waits
}

func (t *tally) enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
}

func (t *tally) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n--; t.n == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// none returns a channel that is closed once there is nothing.
func (t *tally) none() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == 0 {
		nothing := make(chan struct{})
		close(nothing)
		return nothing
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	return t.idle
}

// do runs f in a goroutine that is counted.
func (t *tally) do(f func()) {
	t.enter()
	go func() {
		defer t.leave()
		f()
	}()
}
