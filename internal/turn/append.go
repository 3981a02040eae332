package turn

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	// appendEvery is how often the appender looks, and how long an event at least waits for it: a turn that is over by then
	// writes its log with its end, and an event is on its way to the store after twice the time.
	appendEvery = 50 * time.Millisecond
	// appendBytes is about how much one transaction takes.
	appendBytes = 4 << 20
	// maxPendingBytes is how much more of a turn comes while the store is down.
	maxPendingBytes = 1 << 20
	// appendHangs is after how long without an outcome an append counts as failed.
	appendHangs = time.Second
)

// appender makes the events of all runs durable, those of one tick in one transaction. Its goroutine lives for as long as
// there is something to do.
type appender struct {
	e *Engine

	mu   sync.Mutex
	runs []*run // those with log.listed
	on   bool

	failing bool // of the goroutine: the last append was not done
}

// add has the appender look after a run.
func (a *appender) add(r *run) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.runs = append(a.runs, r)
	if !a.on {
		a.on = true
		a.e.chores.do(a.work)
	}
}

func (a *appender) work() {
	for wait := appendEvery; ; {
		pause(context.Background(), wait) // a stop does not end it: the runs do, when they are over
		a.mu.Lock()
		runs := a.runs
		a.runs = nil
		a.mu.Unlock()

		var full, ok bool
		runs, full, ok = a.tick(runs)
		switch {
		case full && ok:
			wait = 0
		case ok:
			wait = appendEvery
		default:
			wait = min(2*max(wait, appendEvery), time.Second)
		}

		runs = slices.DeleteFunc(runs, func(r *run) bool { return !r.log.left() })
		a.mu.Lock()
		a.runs = append(runs, a.runs...)
		if a.on = len(a.runs) > 0; !a.on {
			a.runs = nil
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
	}
}

// tick makes one append. It returns the runs with those first that it did not get to, and reports whether it could not take
// all there was, and whether the store has done it.
func (a *appender) tick(runs []*run) (again []*run, full, ok bool) {
	old := time.Now().Add(-appendEvery)
	var batches []conversation.EventBatch
	var taken []*run
	bytes, next := 0, 0
	for ; next < len(runs); next++ {
		if bytes >= appendBytes {
			full = true
			break
		}
		r := runs[next]
		if isClosed(r.fenced) {
			continue // so that what is lost is not the new owner's, which can be another run of this process
		}
		n, all := r.log.take(old, func(events []conversation.Event) { batches = append(batches, r.batch(events)) })
		if n > 0 {
			taken = append(taken, r)
		}
		bytes += n
		full = full || !all
	}
	again = slices.Concat(runs[next:], runs[:next])
	if len(batches) == 0 {
		return again, false, true
	}

	lost, err := a.append(batches, runs)
	for _, r := range taken {
		r.log.took(err == nil)
		if slices.Contains(lost, r.turn.ID) {
			r.fence()
		}
	}
	if err != nil {
		if !a.failing { // said once, not twenty times a second
			a.e.o.Logger.Warn("events are not durable yet", "turns", len(taken), "error", err)
		}
		a.failing = true
		a.giveUp(runs)
		return again, false, false
	}
	if a.failing {
		a.e.o.Logger.Info("events are durable again")
		a.failing = false
	}
	return again, full, true
}

// append calls the store. The turns that wait for too long for one that hangs are given up meanwhile.
func (a *appender) append(batches []conversation.EventBatch, runs []*run) (lost []conversation.ID, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		lost, err = a.e.o.Store.AppendEvents(context.Background(), batches)
	}()
	hangs := time.NewTicker(appendHangs)
	defer hangs.Stop()
	for {
		select {
		case <-done:
			return lost, err
		case <-hangs.C:
			a.giveUp(runs)
			a.mu.Lock()
			more := slices.Clone(a.runs)
			a.mu.Unlock()
			a.giveUp(more)
		}
	}
}

// giveUp stops the generation of turns of which too much waits for the store.
func (a *appender) giveUp(runs []*run) {
	old := time.Now().Add(-a.e.o.StorePatience)
	for _, r := range runs {
		if r.log.overdue(old) {
			r.cancel(errUndurable)
		}
	}
}
