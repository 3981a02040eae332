package tenant

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	// maxAge is how old what is known may be for a call to be let in: 2 s, less what a call may take to get here.
	maxAge = 1500 * time.Millisecond
	// lookEvery is how often the store is read where nothing wakes the directory.
	lookEvery = 500 * time.Millisecond
	// looksPerSecond bounds how often it is read for the sake of those who are not known.
	looksPerSecond = 10
	// freshWait is how long Fresh waits for the store.
	freshWait = time.Second
	// pauseSlack is how much later than asked for a timer fires in a process that is only busy. One that is later has
	// been paused.
	pauseSlack = 250 * time.Millisecond
	// readLimit and fullReadLimit are how long one read may take: of what has changed, and of everything.
	readLimit     = 2 * time.Second
	fullReadLimit = 15 * time.Second
	// failurePause is how long the store is left alone after a read that failed, however many calls wait for one.
	failurePause = 100 * time.Millisecond
)

// Directory has all teams, clients and keys in memory and follows the store, so that a call is let in without asking the
// database, and a stranger cannot make it work. It is safe for concurrent use.
type Directory struct {
	store Store
	log   *slog.Logger
	view  atomic.Pointer[View]
	looks *rate.Limiter // for Newer

	mu sync.Mutex
	// next is the read that has not begun yet: whoever asks now may wait for it. The one that has begun may be too
	// early for them.
	next    *read
	reading bool // a goroutine reads, until there is no next

	// Those below belong to that goroutine.
	failing  bool
	failedAt time.Time
	overtime bool // the last read took longer than it may
	stranger Head // the last one that did not follow from what was known
}

// A read is one look at the store; its result may be looked at when done is closed.
type read struct {
	done chan struct{}
	view *View
	err  error
}

// NewDirectory returns a directory that is empty until its first Refresh.
func NewDirectory(store Store, logger *slog.Logger) *Directory {
	return &Directory{store: store, log: logger, looks: rate.NewLimiter(looksPerSecond, looksPerSecond)}
}

// Run follows the store until ctx ends: it looks when it is woken, and every half second.
func (d *Directory) Run(ctx context.Context) {
	wake, stop := d.store.Changed()
	defer stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		// Not cut short, so that the store may be closed when Run has returned; a read ends by itself. That it failed
		// is logged.
		_, _ = d.Refresh(context.WithoutCancel(ctx))
		select {
		case <-ctx.Done():
		case <-wake:
		case <-tick.C:
		}
	}
}

// Refresh reads what has changed, and returns what it knows then: everything that was written before it was called.
// Those who wait at the same time share a read.
func (d *Directory) Refresh(ctx context.Context) (*View, error) {
	d.mu.Lock()
	if d.next == nil {
		d.next = &read{done: make(chan struct{})}
	}
	r := d.next
	if !d.reading {
		d.reading = true
		go d.readAll(context.WithoutCancel(ctx)) // for all who wait, not for this one alone
	}
	d.mu.Unlock()
	select {
	case <-r.done:
		return r.view, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Fresh returns what is known, not older than maxAge (2 s, less what a call may take to get here): that is how soon a
// revocation is effective. If it is older it is read again first; if it cannot be, within a second, the error is
// conversation.ErrStoreUnavailable.
func (d *Directory) Fresh(ctx context.Context) (*View, error) {
	if v := d.view.Load(); v != nil && time.Since(v.asOf) <= maxAge {
		return v, nil
	}
	// Twice, because a process that was stopped for a while is not to refuse anybody: the first read may meet a
	// connection that died meanwhile, and one that the pause fell into is over time at once.
	var err error
	budget := freshWait
	for range 2 {
		begin := time.Now()
		var v *View
		if v, err = d.refreshWithin(ctx, budget); err == nil {
			return v, nil
		}
		took := time.Since(begin)
		if ctx.Err() != nil || took >= budget && took <= budget+pauseSlack {
			break
		}
		if took < budget {
			budget -= took
		}
	}
	e := *conversation.ErrStoreUnavailable
	e.Cause = err
	return nil, &e
}

// Newer is for who looks in vain for something in v, which another process may have made since. It reads the store once more,
// though only some times a second, whatever strangers ask for; otherwise, and where the store cannot be read, it returns v.
func (d *Directory) Newer(ctx context.Context, v *View) *View {
	if !d.looks.Allow() {
		return v
	}
	newer, err := d.refreshWithin(ctx, freshWait)
	if err != nil {
		return v
	}
	return newer
}

func (d *Directory) refreshWithin(ctx context.Context, limit time.Duration) (*View, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return d.Refresh(ctx)
}

// Last returns what was last known, however old; nil before the first Refresh.
func (d *Directory) Last() *View { return d.view.Load() }

// readAll reads as long as somebody waits for a read.
func (d *Directory) readAll(ctx context.Context) {
	for d.wanted() {
		if wait := failurePause - time.Since(d.failedAt); wait > 0 {
			<-time.After(wait)
		}
		d.mu.Lock()
		r := d.next
		d.next = nil // who comes from here on is too late for it
		d.mu.Unlock()
		r.view, r.err = d.read(ctx)
		d.note(ctx, r.err)
		close(r.done)
	}
}

// wanted reports whether somebody waits for a read that has not begun; if not, the reading ends.
func (d *Directory) wanted() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading = d.next != nil
	return d.reading
}

// read looks at the store once. No two run at the same time.
func (d *Directory) read(ctx context.Context) (*View, error) {
	known := d.view.Load()
	if known == nil {
		known = &View{}
	}
	asOf := time.Now()
	changes, err := d.changes(ctx, known.head)
	if err != nil {
		return nil, err
	}
	if changes.All {
		if known.head != (Head{}) && changes.Head != d.stranger {
			// It was put back to an earlier one, as from a backup: nothing of what is known can be relied on. Or the last entry
			// of the audit is not what its head says; then this is so at every read, until there is another entry.
			d.stranger = changes.Head
			d.log.WarnContext(ctx, "the audit is not the one that was read before; all teams and keys were read again",
				"known_head", known.head.String(), "head", changes.Head.String())
		}
		known = &View{}
	}
	v := known.with(changes, asOf)
	d.view.Store(v)
	return v, nil
}

func (d *Directory) changes(ctx context.Context, after Head) (*Changes, error) {
	limit := readLimit
	if after == (Head{}) || d.overtime { // it may have been of everything
		limit = fullReadLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := d.store.Changes(ctx, after)
	d.overtime = err != nil && ctx.Err() != nil
	return c, err
}

// note logs that reading fails, once, and that it does not any more.
func (d *Directory) note(ctx context.Context, err error) {
	if err != nil {
		d.failedAt = time.Now()
	}
	switch failing := err != nil; {
	case failing && !d.failing:
		d.failing = true
		d.log.ErrorContext(ctx, "the teams and keys cannot be read: keys of the database are refused until they can", "error", err)
	case !failing && d.failing:
		d.failing = false
		d.log.InfoContext(ctx, "the teams and keys can be read again")
	}
}
