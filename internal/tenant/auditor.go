package tenant

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	// recordLimit is how long the caller of a denied call waits for its entry; detached, because the caller may be gone.
	recordLimit = 2 * time.Second
	// lastLimit is how long the end of Run may take.
	lastLimit = 5 * time.Second
	// headEvery is how often the head of the audit is logged.
	headEvery = time.Minute
)

// Auditor records denials, and logs the head of the audit. It is safe for concurrent use.
type Auditor struct {
	store   Store
	log     *slog.Logger
	folds   *folds
	singles *singles

	// Those below belong to Run.
	failing  bool      // what was denied cannot be written
	pause    time.Time // until then nothing is tried
	headless bool      // the head cannot be read
}

// NewAuditor returns an auditor; Run has to run for what is denied on the data plane to be recorded.
func NewAuditor(store Store, logger *slog.Logger) *Auditor {
	return &Auditor{store: store, log: logger, folds: newFolds(), singles: newSingles()}
}

// DeniedControl records a denial on the control plane before it returns. Anybody could do it all day, so it records so
// many a second of one client one by one, and so many of all whose credential does not work, or who have none; the
// others it counts as DeniedData does, and also one that certainly was not written. One of which that is open is logged.
func (a *Auditor) DeniedControl(ctx context.Context, e Entry) {
	if !a.singles.allow(e, time.Now()) {
		a.DeniedData(e)
		return
	}
	denial := e
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordLimit)
	defer cancel()
	e.Outcome, e.Count = Denied, 1
	switch err := a.store.Record(ctx, &e, false); {
	case errors.Is(err, conversation.ErrNotWritten), ctx.Err() != nil && errors.Is(err, ctx.Err()) && !errors.Is(err, conversation.ErrStoreUnavailable):
		a.DeniedData(denial)
	case err != nil:
		a.log.ErrorContext(ctx, "a denial is not in the audit", "action", e.Action, "reason", e.Reason, "team", e.Team,
			"credential", e.Actor.Credential, "source", e.Source, "error", err)
	}
}

// DeniedData has a denial on the data plane recorded, at most once per minute for a source and a reason, and never
// waits. An IPv6 source stands for its /64. What is more than can be told apart is recorded under the source "others".
// Of the denials that one entry stands for, action and trace are those of the first; actor and team are there if all
// have the same.
func (a *Auditor) DeniedData(e Entry) { a.folds.add(e, time.Now()) }

// Run writes what DeniedData was told, and logs the head once a minute and when it ends, until ctx ends. What may not
// be written as an entry of its own when it ends, because its minute is not over, goes into those of "others", or else
// into the log.
func (a *Auditor) Run(ctx context.Context) {
	// What has begun is finished, so that nothing is lost half way.
	detached := context.WithoutCancel(ctx)
	a.logHead(detached)
	head, sweep := time.NewTicker(headEvery), time.NewTicker(time.Second)
	defer head.Stop()
	defer sweep.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-head.C:
			a.logHead(detached)
		case <-a.folds.wake:
			a.writeDue(ctx)
		case <-sweep.C:
			a.folds.sweep(time.Now())
			a.writeDue(ctx)
		}
	}
	last, cancel := context.WithTimeout(detached, lastLimit)
	defer cancel()
	a.writeRest(last)
	a.logHead(last)
}

// writeDue writes what is due, until ctx ends.
func (a *Auditor) writeDue(ctx context.Context) {
	for ctx.Err() == nil && !time.Now().Before(a.pause) {
		f, e := a.folds.take(time.Now())
		if f == nil {
			return
		}
		a.record(context.WithoutCancel(ctx), f, e)
	}
}

// writeRest writes what is due, then what is the only source of its reason if its minute is over in the audit, and then all
// the rest under "others".
func (a *Auditor) writeRest(ctx context.Context) {
	a.pause = time.Time{}
	a.folds.sweep(time.Now())
	a.writeDue(ctx)
	a.folds.hurry(time.Now())
	a.writeDue(ctx)
	a.folds.gather(time.Now())
	a.writeDue(ctx)
	for reason, count := range a.folds.waiting() {
		a.log.WarnContext(ctx, "denials are not in the audit", "reason", reason, "count", count)
	}
}

// record writes what was taken from a fold, or gives it back.
func (a *Auditor) record(ctx context.Context, f *fold, e Entry) {
	ctx, cancel := context.WithTimeout(ctx, recordLimit)
	defer cancel()
	taken := e
	e.Time, e.Outcome = time.Now(), Denied
	err := a.store.Record(ctx, &e, true)
	now := time.Now()
	switch {
	case err != nil:
		// Whether it was written may be open. If it was, it is counted twice, which is better than not at all.
		a.pause = now.Add(time.Second)
		a.folds.giveBack(f, taken, now.Add(time.Second))
	case e.Sequence == 0:
		// Another replica was first. Which one is next is left to chance, so that none waits for ever.
		a.folds.giveBack(f, taken, now.Add(5*time.Second+rand.N(10*time.Second))) //nolint:gosec // nothing to guess
	default:
		a.folds.written(f, now.Add(time.Minute+rand.N(5*time.Second))) //nolint:gosec // nothing to guess
	}
	switch {
	case err != nil && !a.failing:
		a.failing = true
		a.log.ErrorContext(ctx, "denials cannot be written to the audit; they are counted until they can", "error", err)
	case err == nil && a.failing:
		a.failing = false
		a.log.InfoContext(ctx, "denials can be written to the audit again")
	}
}

// logHead logs the head, for somebody to hold against the audit later.
func (a *Auditor) logHead(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, recordLimit)
	defer cancel()
	head, err := a.store.Head(ctx)
	switch {
	case err == nil:
		a.headless = false
		a.log.InfoContext(ctx, "audit head", "count", head.Count, "head", head.String())
	case !a.headless:
		a.headless = true
		a.log.ErrorContext(ctx, "the head of the audit cannot be read; it is logged when it can", "error", err)
	}
}
