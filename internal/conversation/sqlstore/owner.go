package sqlstore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"sync"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// An owner is whose a running turn is: a process, in one of its lives. A process that was given up for dead and was not
// goes on in the next epoch, in which none of its earlier turns are its own any more.
type owner struct {
	id    conversation.ID
	epoch int64
}

// noEpoch is that of a process that has released its turns: no running turn is its own, and it begins none.
const noEpoch = -1

// An ownership is which owner this process is at the moment, and what Duties has told of it. It is safe for concurrent
// use.
type ownership struct {
	mu    sync.Mutex
	owner owner
	// lost: the epoch has changed since Duties returned last.
	lost     bool
	released bool

	// What follows belongs to the goroutine that calls Duties.
	adopted bool
	told    map[conversation.ID]*told // what Duties has returned in toldIn
	toldIn  int64
	looked  time.Time // when it looked last, unless there may be more
}

// told is what the caller of Duties knows of a turn.
type told struct {
	taken  bool
	cancel time.Time // when it was last said that it is to be cancelled
}

func newOwnership() *ownership {
	o := &ownership{owner: owner{epoch: 1}, told: make(map[conversation.ID]*told)}
	_, _ = rand.Read(o.owner.id[:]) // never fails
	return o
}

func (o *ownership) current() owner {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.owner
}

// renew begins the next epoch.
func (o *ownership) renew(epoch int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.released {
		o.owner.epoch, o.lost = epoch, true
	}
}

// release ends the last epoch, and returns it; ok is false if that had happened before.
func (o *ownership) release() (last owner, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	last, ok = o.owner, !o.released
	o.released, o.owner.epoch = true, noEpoch
	return last, ok
}

// takeLost reports whether the epoch has changed since the last call.
func (o *ownership) takeLost() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	lost := o.lost
	o.lost = false
	return lost
}

// dutiesID is no turn's. Whoever asks for a turn to be cancelled, and whoever gives turns up, wakes its subscribers: those
// are all processes, because who the owner is can change.
var dutiesID = conversation.ID{15: 1}

// dutiesInterval is how often Duties looks without having been woken, and lookPause the least between two looks for which
// somebody is woken: each is a scan, and many turns can be cancelled at once.
const (
	dutiesInterval = time.Second
	lookPause      = 50 * time.Millisecond
)

// What Duties returns at once of turns that were taken over, and of their content: nothing more is read after that much.
const (
	takenAtOnce = 256
	takenBytes  = 16 << 20
)

// cancelInterval is how often Duties says that a turn is to be cancelled.
const cancelInterval = 5 * time.Second

// dutiesOf finds what Duties may have to tell. It is a scan of the small table.
const dutiesOf = `SELECT turn, takeovers, cancel FROM running WHERE owner = $1 AND epoch = $2 AND (takeovers > 0 OR cancel <> 0)`

// Duties waits until there is something to do about turns that this process did not just begin. What it returns comes from
// the database, so that a takeover of unknown outcome, or one whose turns could not be read, is found by a later look.
func (db *DB) Duties(ctx context.Context) (*conversation.Duties, error) {
	wake, stop := db.hub.subscribe(dutiesID)
	defer stop()
	tick := time.NewTicker(dutiesInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-db.stop:
			return nil, unavailable("wait for duties", errClosed)
		case <-time.After(time.Until(db.ownership.looked.Add(lookPause))):
		}
		d, err := db.duties(ctx)
		if err == nil && (d == nil || len(d.Taken) == 0) {
			db.ownership.looked = time.Now()
		}
		if err != nil || d != nil {
			return d, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-db.stop:
			return nil, unavailable("wait for duties", errClosed)
		case <-wake:
		case <-tick.C:
		}
	}
}

// duties returns what there is to do now, or nil.
func (db *DB) duties(ctx context.Context) (*conversation.Duties, error) {
	o := db.ownership
	me := o.current()
	if me.epoch == noEpoch {
		return nil, nil //nolint:nilnil // nothing any more
	}
	if db.adopt != nil && !o.adopted {
		if err := db.committer.do(ctx, "adopt turns", db.adopt, 0); err != nil {
			return nil, err
		}
		o.adopted = true
	}
	if o.toldIn != me.epoch {
		clear(o.told)
		o.toldIn = me.epoch
	}
	d := new(conversation.Duties)
	var taken []conversation.ID
	now := time.Now()
	found := make(map[conversation.ID]*told)
	err := db.read(ctx, "read duties", dutiesOf, []any{me.id[:], me.epoch}, func(rows *sql.Rows) error {
		var turn conversation.ID
		var takeovers, cancel int64
		if err := rows.Scan((*idColumn)(&turn), &takeovers, &cancel); err != nil {
			return fmt.Errorf("scan duties: %w", err)
		}
		t := o.told[turn]
		if t == nil {
			t = new(told)
		}
		found[turn] = t
		if takeovers > 0 && !t.taken {
			taken = append(taken, turn)
		} else if cancel != 0 && now.Sub(t.cancel) > cancelInterval {
			d.Cancel = append(d.Cancel, turn)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	taken = taken[:min(len(taken), takenAtOnce)] // the rest comes with the next call
	if len(taken) > 0 {
		if d.Taken, err = db.taken(ctx, me, taken); err != nil {
			return nil, err
		}
	}
	for _, t := range d.Taken {
		found[t.Turn.ID].taken = true
	}
	for _, turn := range d.Cancel {
		found[turn].cancel = now
	}
	o.told = found
	d.Lost = o.takeLost()
	if len(d.Taken) == 0 && len(d.Cancel) == 0 && !d.Lost {
		return nil, nil //nolint:nilnil // nothing yet
	}
	return d, nil
}

// adoption makes the running turns of earlier owners this one's: for a database that one process has at a time.
type adoption struct{}

func (adoption) want(*keys) {}

func (adoption) decide(g *group) error {
	o := g.owner
	g.then = append(g.then, func(_ context.Context, w *setWriter) error {
		w.do(adoptRuns, []any{o.id[:], o.epoch}, nil)
		return nil
	})
	return nil
}

var adoptRuns = &statement{`UPDATE running SET owner = $1, epoch = $2, takeovers = takeovers + 1 WHERE owner <> $1`}
