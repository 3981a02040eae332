package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// The committer is the one goroutine that writes. It takes whatever waits, up to maxGroup items and maxGroupBytes, and does
// it in one transaction; it never waits for more. The transaction reads by key what the items need, decides the items in Go in the
// order of their arrival, each seeing what the earlier ones do, and writes row sets, table by table.
//
// What is of the audit comes in groups of its own, behind the others: all processes contend for its head, and whoever holds
// that up, no turn waits for it. So such a group gives up soon, see headTimeout, and is tried again behind what waits by then.
type committer struct {
	dialect   dialect
	ownership *ownership
	log       *slog.Logger
	maxGroup  int
	group     *group
	// wake is told, after a commit, who waits for what it wrote.
	wake  func([]conversation.ID)
	wakes []conversation.ID // what the last group said

	queue   chan *item
	audits  chan *item // those of the audit
	closing chan struct{}
	stopped chan struct{} // closed when no item will be answered any more

	writer *setWriter // nil until it is needed, and after the connection broke

	// writing is held during a transaction, so that a checkpoint need not wait by polling.
	writing sync.Mutex

	// tryFor is for how long a further try of a group may begin. Shorter only in tests.
	tryFor time.Duration

	// ctx is that of all groups, no caller's: a group belongs to many. cut ends it, which is only for a database that can go
	// away: the connection is dropped in the middle of what it does.
	ctx context.Context //nolint:containedctx // see above
	cut context.CancelFunc

	// full is why the database takes no content, since it said so and until it does; nil while it does.
	full   atomic.Pointer[noContent]
	notice seldom

	// Groups and items committed, groups refused and groups tried again; for tests and benchmarks.
	groups, items, halved, again atomic.Int64
}

func newCommitter(d dialect, own *ownership, wake func([]conversation.ID), o Options) *committer {
	ctx, cut := context.WithCancel(context.Background()) //nolint:gosec // Close calls it, where it is needed
	return &committer{
		ctx:       ctx,
		cut:       cut,
		notice:    seldom{every: time.Minute},
		dialect:   d,
		ownership: own,
		log:       o.Logger,
		maxGroup:  o.maxGroup,
		tryFor:    tryFor,
		group:     newGroup(own.current()),
		wake:      wake,
		queue:     make(chan *item, o.maxGroup),
		audits:    make(chan *item, o.maxGroup),
		closing:   make(chan struct{}),
		stopped:   make(chan struct{}),
	}
}

// close fails what waits. The group that has begun is finished.
func (c *committer) close() { close(c.closing) }

func (c *committer) run() {
	defer close(c.stopped)
	var b, audits batch
	var deferred, held []*item
	for {
		b.begin(deferred)
		audits.begin(held)
		deferred, held = deferred[:0], held[:0]
		if len(b.items)+len(audits.items) == 0 {
			select {
			case it := <-c.queue:
				b.take(it)
			case it := <-c.audits:
				audits.take(it)
			case <-c.closing:
			}
		}
		select {
		case <-c.closing:
			c.refuse(&b, &audits)
			return
		default:
		}
		// The callers of the last group have just been answered; those that already have more to write get to queue it.
		runtime.Gosched()
		b.fill(c.queue, c.maxGroup)
		audits.fill(c.audits, c.maxGroup)
		if len(b.items) > 0 {
			deferred = c.commit(b.items, deferred)
		}
		if len(audits.items) > 0 {
			held = c.commit(audits.items, held)
		}
	}
}

// refuse answers all items that were not begun, those of batches and those in the queues, and closes the connection.
func (c *committer) refuse(batches ...*batch) {
	c.emptyQueues(errClosed)
	for _, b := range batches {
		for _, it := range b.items {
			it.done <- notWritten(it.doing, errClosed)
		}
	}
	if c.writer != nil {
		c.writer.close()
	}
}

// commit has the items of group done and their callers answered. It returns deferred with the items for the next group
// added to it.
func (c *committer) commit(group, deferred []*item) []*item {
	err := c.persist(group)
	c.observe(group, err)
	_, held := errors.AsType[*heldError](err)
	switch {
	case err == nil:
		c.groups.Add(1)
		c.items.Add(int64(len(group)))
		for _, it := range group {
			if errors.Is(it.err, errNextGroup) {
				deferred = append(deferred, it)
				continue
			}
			it.done <- it.err
		}
		c.wake(c.wakes)
	case held:
		deferred = c.putOff(group, deferred, err)
	case c.dialect.fault(err) != refused:
		_, none := errors.AsType[*connectError](err)
		_, sent := errors.AsType[*commitError](err) // by an earlier try
		failed := unavailable
		if none && !sent {
			failed = notWritten
		}
		for _, it := range group {
			it.done <- failed(it.doing, err)
		}
		if none {
			// What waits would hear the same one after the other, each after a try of its own.
			c.emptyQueues(err)
		}
	case len(group) == 1:
		group[0].done <- fmt.Errorf("%s: %w", group[0].doing, err)
	default:
		// The database refuses a row, and does not say whose. One by one is slow: if this is logged often, it is a bug.
		c.halved.Add(1)
		c.log.Warn("a group of writes is refused, and tried again in halves", "items", len(group), "error", err)
		half := len(group) / 2
		deferred = c.commit(group[:half], deferred)
		deferred = c.commit(group[half:], deferred)
	}
	return deferred
}

// putOff adds the items of a group of the audit that met a lock to deferred, and answers those whose time is over.
func (c *committer) putOff(group, deferred []*item, err error) []*item {
	c.again.Add(1)
	if c.notice.due("held") {
		c.log.Warn("writing to the audit waits: another session has it locked", "items", len(group), "error", err)
	}
	now := time.Now()
	for _, it := range group {
		if it.held.IsZero() {
			it.held = now
		}
		if now.Sub(it.held) > c.tryFor {
			it.done <- notWritten(it.doing, err)
			continue
		}
		deferred = append(deferred, it)
	}
	return deferred
}

// How often a group is tried, and for how long a further try may begin: its callers wait. A try that waits for a lock in vain
// takes lockTimeout, or headTimeout where it is of the audit.
const (
	maxTries = 10
	tryFor   = 8 * time.Second
)

// persist has a group committed, in more than one try if something came between.
func (c *committer) persist(group []*item) error {
	start := time.Now()
	for try := 1; ; try++ {
		err := c.attempt(group)
		fenced, isFenced := errors.AsType[*fencedError](err)
		var unknown *commitError
		switch {
		case err == nil:
			return nil
		case isFenced:
			// The group is decided again by the owner that this process is next.
			if err := c.dialect.reown(c.ctx, fenced.owner); err != nil {
				return &connectError{fmt.Errorf("become an owner again: %w", err)}
			}
			c.wake([]conversation.ID{dutiesID}) // which tell that
		case c.dialect.fault(err) != transient:
			return err
		case errors.As(err, &unknown) && !c.dialect.rolledBack(err):
			committed, lookErr := c.dialect.outcome(c.ctx)
			if lookErr != nil {
				return fmt.Errorf("%w; and its outcome is not known: %w", err, lookErr)
			}
			if committed {
				c.log.Warn("the answer to a commit was lost; it has happened", "items", len(group), "error", err)
				return nil
			}
		case c.queueOf(group[0].op) == c.audits && isLockTimeout(err):
			return &heldError{err} // here, its next try would only hold up the turns again
		}
		// Who was given up has most likely stood still: that time was no try.
		if c.ctx.Err() != nil || try == maxTries || !isFenced && time.Since(start) > c.tryFor {
			return err
		}
		c.again.Add(1)
		if c.notice.due("again") {
			c.log.Warn("a group of writes is tried again", "items", len(group), "error", err)
		}
	}
}

// A connectError is that of a connection that could not be made.
type connectError struct{ cause error }

func (e *connectError) Error() string { return "connect: " + e.cause.Error() }
func (e *connectError) Unwrap() error { return e.cause }

// A commitError is that of the statements that end with COMMIT.
type commitError struct{ cause error }

func (e *commitError) Error() string { return "commit: " + e.cause.Error() }
func (e *commitError) Unwrap() error { return e.cause }

// A heldError is that of a group of the audit of which nothing has happened, because a lock was not free soon enough.
type heldError struct{ cause error }

func (e *heldError) Error() string { return e.cause.Error() }
func (e *heldError) Unwrap() error { return e.cause }

// A fencedError says that an owner has been given up for dead.
type fencedError struct{ owner owner }

func (e *fencedError) Error() string {
	return fmt.Sprintf("the replica %s was given up for dead in its epoch %d", sessionName(e.owner.id), e.owner.epoch)
}

// attempt does the items of group in one transaction, or returns why it was rolled back.
func (c *committer) attempt(group []*item) (err error) {
	ctx := c.ctx
	c.writing.Lock()
	defer c.writing.Unlock()
	w, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			c.rollback(ctx, err)
		}
	}()
	o := c.ownership.current()
	w.do(c.dialect.begin(), nil, nil)
	fenced := c.dialect.fence(w, o)
	g := c.group
	defer g.reset()
	g.owner = o
	for _, it := range group {
		it.op.want(&g.keys)
	}
	if err := g.load(ctx, w); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if fenced() {
		return &fencedError{o}
	}
	for _, it := range group {
		it.err = it.op.decide(g)
	}
	if err := g.write(ctx, w); err != nil {
		return err
	}
	c.wakes = append(c.wakes[:0], g.woken...)
	if err := w.exec(ctx, commitStatement); err != nil {
		return &commitError{err}
	}
	c.dialect.committed(w.writer)
	return nil
}

var (
	commitStatement   = &statement{"COMMIT"}
	rollbackStatement = &statement{"ROLLBACK"}
)

func (c *committer) connect(ctx context.Context) (*setWriter, error) {
	if c.writer == nil {
		w, err := c.dialect.connect(ctx)
		if err != nil {
			return nil, &connectError{err}
		}
		c.writer = newSetWriter(w, c.dialect)
	}
	return c.writer, nil
}

// rollback undoes the transaction that ended in cause, and drops the connection if it is what is wrong.
func (c *committer) rollback(ctx context.Context, cause error) {
	if err := c.writer.exec(ctx, rollbackStatement); err == nil && c.dialect.fault(cause) != unusable {
		return
	}
	c.writer.close()
	c.writer = nil
}

// exclusively calls f between two transactions.
func (c *committer) exclusively(f func()) {
	c.writing.Lock()
	defer c.writing.Unlock()
	f()
}
