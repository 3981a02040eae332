package sqlstore

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// An op is a write, made ready by its caller's goroutine. One that is undone, because another item of its group was
// refused by the database or because the connection was lost, is decided again, maybe by a later owner: decide starts from
// nothing that an earlier one left in the op. What an op learns from the database it learns before the COMMIT is sent: the
// answers to what is sent with it can be lost though it happened.
type op interface {
	// want names the rows that decide looks at.
	want(k *keys)
	// decide adds what is to be written to g, or returns why nothing is: an error is a refusal and concerns only this op.
	decide(g *group) error
}

// errNextGroup: the op needs rows that this group writes; it is decided in the next one.
var errNextGroup = errors.New("decided in the next group")

// maxGroupBytes bounds the content of a group, and with it the memory and the time that it takes. One item may pass it.
const maxGroupBytes = 16 << 20

type item struct {
	op    op
	doing string
	size  int // of the content, in bytes
	state atomic.Int32
	err   error      // the decision
	done  chan error // holds one
	held  time.Time  // when its group first found the head of the audit locked
}

// The states of an item: it leaves waiting once, either with its group or with its caller.
const (
	waiting = iota
	taken
	abandoned
)

// do has o committed, and returns its refusal or the database's. ctx's error means that nothing was written: once the group
// of o has begun, do waits for the outcome.
func (c *committer) do(ctx context.Context, doing string, o op, size int) error {
	return c.submit(ctx, &item{op: o, doing: doing, size: size, done: make(chan error, 1)}, true)
}

// try is do for what may be left behind: it returns as soon as ctx ends.
func (c *committer) try(ctx context.Context, doing string, o op) error {
	return c.submit(ctx, &item{op: o, doing: doing, done: make(chan error, 1)}, false)
}

func (c *committer) submit(ctx context.Context, it *item, toTheEnd bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	left := ctx.Done()
	select {
	case c.queueOf(it.op) <- it:
	case <-left:
		return ctx.Err()
	case <-c.closing:
		return notWritten(it.doing, errClosed)
	}
	for {
		select {
		case err := <-it.done:
			return err
		case <-left:
			if it.state.CompareAndSwap(waiting, abandoned) || !toTheEnd {
				return ctx.Err()
			}
			left = nil
		case <-c.stopped:
			select {
			case err := <-it.done:
				return err
			default: // queued after the queue was emptied for the last time
				return notWritten(it.doing, errClosed)
			}
		}
	}
}

// queueOf returns where o waits: what is of the audit must not keep others from being queued.
func (c *committer) queueOf(o op) chan *item {
	if _, ok := o.(*auditOp); ok {
		return c.audits
	}
	return c.queue
}

// emptyQueues answers what waits.
func (c *committer) emptyQueues(cause error) {
	for {
		var it *item
		select {
		case it = <-c.queue:
		case it = <-c.audits:
		default:
			return
		}
		if it.state.CompareAndSwap(waiting, taken) {
			it.done <- notWritten(it.doing, cause)
		}
	}
}

// A batch is the items that become a group.
type batch struct {
	items []*item
	size  int
}

// take adds it unless its caller has left.
func (b *batch) take(it *item) {
	if it.state.CompareAndSwap(waiting, taken) {
		b.add(it)
	}
}

func (b *batch) add(it *item) {
	b.items = append(b.items, it)
	b.size += it.size
}

// begin makes it the next one, with what the last one left.
func (b *batch) begin(deferred []*item) {
	clear(b.items)
	b.items, b.size = b.items[:0], 0
	for _, it := range deferred {
		b.add(it)
	}
}

// fill adds what waits in queue.
func (b *batch) fill(queue <-chan *item, maxGroup int) {
	for len(b.items) < maxGroup && b.size < maxGroupBytes {
		select {
		case it := <-queue:
			b.take(it)
		default:
			return
		}
	}
}
