package tenant

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// maxFolds is how many pairs of source and reason are told apart at a time, and strangersFolds how many of them may
	// be of callers without a name, who can have as many addresses as they like.
	maxFolds       = 1000
	strangersFolds = 900
	// others is the source of what is not told apart.
	others = "others"
)

// folds counts denials by source and reason until their entries are written. It is bounded in memory, and in what it
// has written: any minute sees at most 40 entries of strangers, 20 of callers with a name, and one per reason of others;
// and besides, once, those that would have been of the minutes in which the database could not be written. add is safe
// for concurrent use, and nobody waits in it; the rest is for one goroutine.
type folds struct {
	wake chan struct{} // holds one value if something is due

	mu     sync.Mutex
	byKey  map[foldKey]*fold
	others map[string]*fold // by reason; there are a handful
	due    []*fold
	// strangers and named are what may be written of callers without and with a name.
	strangers, named *rate.Limiter
}

type foldKey struct{ source, reason string }

// A fold is what one entry will stand for.
type fold struct {
	key   foldKey
	entry Entry // with the count of what is not written yet; nothing but the count matters when that is 0
	named bool  // it began with a caller with a name
	next  time.Time
	isDue bool // it is in folds.due
	taken bool // it is being written
	paid  bool // what waits has its place in the budget, though the database could not take it, or not yet
}

func newFolds() *folds {
	return &folds{
		wake:      make(chan struct{}, 1),
		byKey:     make(map[foldKey]*fold),
		others:    make(map[string]*fold),
		strangers: rate.NewLimiter(rate.Every(6*time.Second), 30), // at once, and 10 more in the minute
		named:     rate.NewLimiter(rate.Every(12*time.Second), 15),
	}
}

// add counts a denial.
func (fs *folds) add(e Entry, now time.Time) {
	e.Count = 1
	named := e.Actor != Actor{}
	key := foldKey{source: foldSource(e.Source), reason: e.Reason}
	limit := strangersFolds
	if named {
		limit = maxFolds
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.byKey[key]
	switch {
	case f != nil:
	case len(fs.byKey) < limit:
		f = &fold{key: key, named: named}
		fs.byKey[key] = f
	default:
		f = fs.othersOf(e.Reason)
	}
	f.merge(e)
	fs.check(f, now)
}

// merge counts what e stands for. Actor and team are kept only if they are all the same: an entry accuses nobody of
// what another did.
func (f *fold) merge(e Entry) {
	if f.entry.Count == 0 {
		f.entry = e
		f.entry.Source = f.key.source
		return
	}
	f.entry.Count += e.Count
	if f.entry.Actor != e.Actor {
		f.entry.Actor = Actor{}
	}
	if f.entry.Team != e.Team {
		f.entry.Team = ""
	}
}

func (fs *folds) othersOf(reason string) *fold {
	f := fs.others[reason]
	if f == nil {
		f = &fold{key: foldKey{source: others, reason: reason}}
		fs.others[reason] = f
	}
	return f
}

// check makes f due if something of it waits and its minute is over.
func (fs *folds) check(f *fold, now time.Time) {
	if f.isDue || f.taken || f.entry.Count == 0 || now.Before(f.next) {
		return
	}
	f.isDue = true
	fs.due = append(fs.due, f)
	select {
	case fs.wake <- struct{}{}:
	default:
	}
}

// sweep looks for what has become due, and forgets what is over.
func (fs *folds) sweep(now time.Time) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for key, f := range fs.byKey {
		if f.entry.Count == 0 && !now.Before(f.next) {
			delete(fs.byKey, key)
		}
		fs.check(f, now)
	}
	for _, f := range fs.others {
		fs.check(f, now)
	}
}

// take returns something to write, with its fold; nil if there is nothing. What there is no budget for has joined the
// others.
func (fs *folds) take(now time.Time) (*fold, Entry) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for len(fs.due) > 0 {
		f := fs.due[0]
		fs.due[0] = nil
		fs.due = fs.due[1:]
		f.isDue = false
		if f.entry.Count == 0 { // gathered
			continue
		}
		if f.key.source != others && !f.paid && !fs.budgetOf(f).AllowN(now, 1) {
			into := fs.othersOf(f.key.reason)
			into.merge(f.entry)
			f.entry.Count = 0
			fs.check(into, now)
			continue
		}
		e := f.entry
		f.entry.Count, f.taken, f.paid = 0, true, true
		return f, e
	}
	return nil, Entry{}
}

func (fs *folds) budgetOf(f *fold) *rate.Limiter {
	if f.named {
		return fs.named
	}
	return fs.strangers
}

// written says that what was taken is in the audit, and the next of it may be from then on.
func (fs *folds) written(f *fold, next time.Time) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.next, f.taken, f.paid = next, false, false
}

// giveBack returns what was taken but not written, to be tried again; it keeps its place in the budget.
func (fs *folds) giveBack(f *fold, e Entry, next time.Time) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	later := f.entry
	f.entry = e
	if later.Count > 0 {
		f.merge(later)
	}
	f.next, f.taken = next, false
}

// hurry makes due what is the only source of its reason that waits, whatever it waits for: it may keep its source.
func (fs *folds) hurry(now time.Time) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	sources := make(map[string]int)
	for key, f := range fs.byKey {
		if f.entry.Count > 0 {
			sources[key.reason]++
		}
	}
	for key, f := range fs.byKey {
		o := fs.others[key.reason]
		if f.entry.Count > 0 && sources[key.reason] == 1 && (o == nil || o.entry.Count == 0) {
			f.next = now
			fs.check(f, now)
		}
	}
}

// gather moves all that waits to the others, and makes those due.
func (fs *folds) gather(now time.Time) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.byKey {
		if f.entry.Count > 0 {
			fs.othersOf(f.key.reason).merge(f.entry)
			f.entry.Count, f.paid = 0, false
		}
	}
	for _, f := range fs.others {
		f.next = now
		fs.check(f, now)
	}
}

// waiting returns how many denials of the others are not written, by reason.
func (fs *folds) waiting() map[string]int64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	counts := make(map[string]int64)
	for reason, f := range fs.others {
		if f.entry.Count > 0 {
			counts[reason] = f.entry.Count
		}
	}
	return counts
}

// foldSource returns what a source is counted as: an IPv6 address as its /64, of which everybody has at least one, and what
// is no address as none.
func foldSource(source string) string {
	addr, err := netip.ParseAddr(source)
	if err != nil {
		return ""
	}
	if addr = addr.Unmap(); addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil { // a prefix of 64 bits fits into each IPv6 address
		return ""
	}
	return prefix.String()
}
