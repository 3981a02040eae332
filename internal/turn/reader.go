package turn

import (
	"context"
	"io"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// heartbeatAfter is how long a reader hears nothing before it is told that the turn still runs.
const heartbeatAfter = 15 * time.Second

// Reader reads the log of one turn at its own pace: from memory where the turn runs in this process, else from the store.
// It is used by one goroutine.
type Reader struct {
	e        *Engine
	team     string
	id       conversation.ID
	position int64
	run      *run // nil: the turn is not this process's
	stored   stored
	creator  bool      // reads for a caller that has created the turn, and does not only watch
	presence *presence // where that is counted; nil if the turn had ended
	ahead    int       // as told last
	draining <-chan struct{}
	timer    *time.Timer // nil until it is needed
	note     [1]conversation.Event
	closed   bool
}

// reader returns a reader of the run's log.
func (r *run) reader(after int64, creator bool) *Reader {
	reader := &Reader{e: r.e, team: r.turn.Team, id: r.turn.ID, run: r, position: after, draining: r.e.draining}
	if creator {
		reader.creator, reader.presence = true, &r.presence
	}
	return reader
}

// Turn returns the id of the turn that is read.
func (r *Reader) Turn() conversation.ID { return r.id }

// Next waits until there are events above those already returned and returns some of them: shared, not to be changed. When
// ctx ends first, it returns ctx's error.
//
// After the terminal event it returns io.EOF, and EVENTS_EXPIRED where it was to begin beyond that, or where the events are
// no longer kept; a creator then gets the terminal event without those before. DRAINING: the turn goes on elsewhere, or this
// process has no time left to read it.
//
// When nothing happens for 15 s it returns a heartbeat; and, when another number of turns is before the one that it reads,
// and once, when the engine begins to drain, a note of that.
func (r *Reader) Next(ctx context.Context) ([]conversation.Event, error) {
	quiet := time.Now().Add(heartbeatAfter)
	for {
		if r.run == nil || r.position < r.run.log.base {
			events, err := r.nextStored(ctx, quiet)
			if events != nil || err != nil {
				return events, err
			}
			continue // with the log in memory
		}
		events, err := r.nextLive(ctx, quiet)
		if events != nil || err != nil {
			return events, err
		}
		r.run = nil // it is another owner's
	}
}

// nextLive is Next from memory. It returns nothing where the turn is not this process's any more.
func (r *Reader) nextLive(ctx context.Context, quiet time.Time) ([]conversation.Event, error) {
	var timer <-chan time.Time
	for over := false; ; {
		v := r.run.log.after(r.position)
		switch {
		case len(v.events) > 0:
			r.position = v.events[len(v.events)-1].Sequence
			return v.events, nil
		case v.ended && r.position > r.run.log.last():
			return nil, r.beyond()
		case v.ended:
			return nil, io.EOF
		case over:
			return nil, r.run.gone
		case v.ahead != 0 && v.ahead != r.ahead:
			r.ahead = v.ahead
			return r.notice(conversation.NoteQueueUpdate), nil
		}
		if timer == nil {
			timer = r.after(time.Until(quiet))
		}
		select {
		case <-v.wake:
		case <-r.run.lost:
			return nil, r.run.isLost()
		case <-r.run.done: // the terminal event, if there is one, came before
			over = true
		case <-timer:
			return r.notice(conversation.NoteHeartbeat), nil
		case <-r.draining:
			r.draining = nil
			return r.notice(conversation.NoteDraining), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// after is time.After with the reader's only timer: every piece of an answer is waited for.
func (r *Reader) after(d time.Duration) <-chan time.Time {
	if r.timer == nil {
		r.timer = time.NewTimer(d)
	} else {
		r.timer.Reset(d)
	}
	return r.timer.C
}

// End waits for the end of the turn without reading its events, and returns the turn as it ended: with output, without
// input. Its errors are those of Next.
func (r *Reader) End(ctx context.Context) (*conversation.Turn, error) {
	for r.run != nil {
		select {
		case <-r.run.done:
			if t := r.run.ended; t != nil {
				return t, nil
			}
			if err := r.run.gone; err != nil {
				return nil, err
			}
			r.run = nil
		case <-r.run.lost:
			if !isClosed(r.run.done) {
				return nil, r.run.isLost()
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return r.endStored(ctx)
}

func (r *run) isLost() error {
	return &conversation.Error{
		Reason: conversation.StoreUnavailable, Turn: r.turn.ID,
		Message: "the end of the turn could not be written for too long; GetTurn will say how it ended",
	}
}

func (r *Reader) beyond() error {
	return &conversation.Error{
		Reason: conversation.EventsExpired, Turn: r.id,
		Message: "after_sequence lies beyond the turn's last event",
	}
}

func (r *Reader) notice(kind conversation.EventKind) []conversation.Event {
	r.note[0] = conversation.Event{Sequence: r.position, Time: time.Now(), Kind: kind}
	if kind == conversation.NoteQueueUpdate {
		r.note[0].Ahead = r.ahead
	}
	return r.note[:]
}

// Close ends the reading; it must be called. If this was the last reader that had created the turn, the turn's
// caller has gone away, and what happens then is the turn's OnDisconnect. A second Close does nothing.
func (r *Reader) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.stored.close()
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.presence != nil {
		r.presence.leave()
	}
}
