package turn

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// heartbeatAfter is how long a reader hears nothing before it is told that the turn still runs.
const heartbeatAfter = 15 * time.Second

// readBatch bounds how many events one read returns, so that a reader that is far behind sends as it goes.
const readBatch = 256

// log is the events of one turn, in memory. There is one writer; readers share the events and keep only their position, so
// a slow reader costs nothing and delays nobody. Sequence numbers are positions counted from 1.
type log struct {
	mu     sync.Mutex
	events []conversation.Event
	bytes  int
	ended  bool
	// wake is closed at the next append; nil while no reader waits.
	wake chan struct{}
}

// append stamps events with sequence and time and wakes the readers.
func (l *log) append(now time.Time, events ...conversation.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		e.Sequence = int64(len(l.events)) + 1
		e.Time = now
		l.events = append(l.events, e)
		l.bytes += eventBytes + len(e.Text)
		if e.Kind == conversation.EventTerminal {
			l.ended = true
			l.bytes += textBytes(e.Turn.Output)
		}
	}
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// eventBytes is about what an event takes besides its text.
const eventBytes = 160

func textBytes(messages []conversation.Message) (n int) {
	for i := range messages {
		for _, p := range messages[i].Parts {
			n += len(p.Text)
			if p.ToolCall != nil {
				n += len(p.ToolCall.Arguments)
			}
		}
	}
	return n
}

// last returns the sequence number of the last event.
func (l *log) last() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.events))
}

// size returns about how much memory the log takes.
func (l *log) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// after returns events above a sequence number, or a channel that is closed when there may be some. The events are
// shared and never change.
func (l *log) after(sequence int64) (events []conversation.Event, ended bool, wake <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sequence < int64(len(l.events)) {
		end := min(int64(len(l.events)), sequence+readBatch)
		return l.events[sequence:end:end], false, nil
	}
	if l.ended {
		return nil, true, nil
	}
	if l.wake == nil {
		l.wake = make(chan struct{})
	}
	return nil, false, l.wake
}

// Reader reads the log of one turn at its own pace. It is used by one goroutine.
type Reader struct {
	run      *run
	creator  bool
	position int64
	draining <-chan struct{}
	note     [1]conversation.Event
	closed   bool
}

// Turn returns the id of the turn that is read.
func (r *Reader) Turn() conversation.ID { return r.run.turn.ID }

// Next waits until there are events above those already returned and returns some of them: shared, not to be changed.
// After the terminal event it returns io.EOF, and EVENTS_EXPIRED where it was to begin beyond that; when ctx ends first, ctx's error. When nothing happens for 15 s it returns
// a heartbeat, and once, when the engine begins to drain, a note of that.
func (r *Reader) Next(ctx context.Context) ([]conversation.Event, error) {
	var quiet <-chan time.Time
	for over := false; ; {
		events, ended, wake := r.run.log.after(r.position)
		if len(events) > 0 {
			r.position = events[len(events)-1].Sequence
			return events, nil
		}
		if ended && r.position > r.run.log.last() {
			return nil, &conversation.Error{
				Reason: conversation.EventsExpired, Turn: r.run.turn.ID,
				Message: "after_sequence lies beyond the turn's last event",
			}
		}
		if ended {
			return nil, io.EOF
		}
		if over {
			return nil, &conversation.Error{
				Reason: conversation.TurnInterrupted, Turn: r.run.turn.ID,
				Message: "the server could not record how the turn ended; GetTurn will say",
			}
		}
		if quiet == nil {
			timer := time.NewTimer(heartbeatAfter)
			defer timer.Stop()
			quiet = timer.C
		}
		select {
		case <-wake:
		case <-r.run.lost:
			return nil, &conversation.Error{
				Reason: conversation.StoreUnavailable, Turn: r.run.turn.ID,
				Message: "the end of the turn could not be written for too long; GetTurn will say how it ended",
			}
		case <-r.run.done: // the terminal event, if there is one, came before
			over = true
		case <-quiet:
			return r.notice(conversation.NoteHeartbeat), nil
		case <-r.draining:
			r.draining = nil
			return r.notice(conversation.NoteDraining), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *Reader) notice(kind conversation.EventKind) []conversation.Event {
	r.note[0] = conversation.Event{Sequence: r.position, Time: time.Now(), Kind: kind}
	return r.note[:]
}

// Close ends the reading; it must be called. If this was the last reader that had created the turn, the turn's
// caller has gone away, and what happens then is the turn's OnDisconnect. A second Close does nothing.
func (r *Reader) Close() {
	if r.closed {
		return
	}
	r.closed = true
	if r.creator {
		r.run.creatorLeft()
	}
}
