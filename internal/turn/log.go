package turn

import (
	"slices"
	"sync"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// readBatch bounds how many events one read returns, so that a reader that is far behind sends as it goes.
const readBatch = 256

// log is the events of one turn of one owner, in memory. There is one writer; readers share the events and keep only their
// position, so a slow reader costs nothing and delays nobody. Sequence numbers are positions counted from base + 1.
type log struct {
	mu     sync.Mutex
	base   int64 // set before the first use
	events []conversation.Event
	bytes  int
	ended  bool
	// ahead is how many turns are before this one; 0 if it does not wait.
	ahead int
	// wake is closed at the next append; nil while no reader waits.
	wake chan struct{}

	// What the store has of it: see append.go.
	listed  bool          // the appender knows that there is something to do
	sealed  bool          // nothing more goes to the appender
	durable int           // so many of events are durable
	tried   int           // events[durable:tried] may be
	trying  []int64       // the first sequence numbers of the batches of those
	pending int           // about the bytes of events[durable:]
	limit   int           // how many bytes may be pending; 0 while the store is not known to be down
	kept    int           // about the bytes of all that is to be durable
	batches []int64       // the first sequence numbers of what the appender has made durable
	flight  chan struct{} // closed when the append that goes on has its outcome; nil if none does
}

// eventBytes is about what an event takes in memory besides its text, storedBytes in the store.
const (
	eventBytes  = 144
	storedBytes = 24
)

// storedSize returns about how much an event takes in the store.
func storedSize(e *conversation.Event) int {
	return storedBytes + len(e.Text) + len(e.ToolCallID) + len(e.ToolName) + len(e.Model)
}

// append stamps events with sequence and time and wakes the readers. It reports whether the appender is to be told.
func (l *log) append(now time.Time, events ...conversation.Event) (tell bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events == nil {
		l.events = make([]conversation.Event, 0, 16) // a short answer
	}
	for _, e := range events {
		e.Sequence = l.base + int64(len(l.events)) + 1
		e.Time = now
		l.events = append(l.events, e)
		l.bytes += eventBytes + len(e.Text)
		switch e.Kind {
		case conversation.EventAccepted: // the turn itself, as is the terminal event
			l.durable = len(l.events)
		case conversation.EventTerminal:
			l.ended = true
		default:
			n := storedSize(&e)
			l.pending += n
			l.kept += n
			tell = !l.listed && !l.sealed
		}
	}
	l.listed = l.listed || tell
	l.wakeAll()
	return tell
}

// wakeAll wakes the readers. The caller holds the lock.
func (l *log) wakeAll() {
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// setAhead notes how many turns are before this one; 0 when it begins.
func (l *log) setAhead(ahead int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ahead != l.ahead {
		l.ahead = ahead
		l.wakeAll()
	}
}

// last returns the sequence number of the last event.
func (l *log) last() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.base + int64(len(l.events))
}

// size returns about how much memory the log takes, and how many events there are.
func (l *log) size() (bytes, events int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes, len(l.events)
}

// view is what there is above a sequence number: events, or their end, or a channel that is closed when there may be some.
// The events are shared and never change.
type view struct {
	events []conversation.Event
	ended  bool
	ahead  int
	wake   <-chan struct{}
}

func (l *log) after(sequence int64) view {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from := sequence - l.base; from < int64(len(l.events)) {
		end := min(int64(len(l.events)), from+readBatch)
		return view{events: l.events[from:end:end]}
	}
	if l.ended {
		return view{ended: true}
	}
	if l.wake == nil {
		l.wake = make(chan struct{})
	}
	return view{ahead: l.ahead, wake: l.wake}
}

const (
	// batchBytes is about how much is kept together: a row of the store.
	batchBytes = 48 << 10
	// takeBytes is about how much of one turn one append takes, and how large a log is written anew at the turn's end.
	takeBytes = 256 << 10
)

// take begins an append of the next events if there are some that have waited for long enough, and calls yield for each
// batch of them. Events that were tried before come as they came then: the store may have them.
func (l *log) take(old time.Time, yield func([]conversation.Event)) (bytes int, all bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sealed || l.durable == len(l.events) || l.events[l.durable].Time.After(old) {
		return 0, true
	}
	end := l.tried
	if end <= l.durable {
		end = len(l.events)
	}
	l.trying = l.trying[:0]
	l.tried = l.durable
	for bytes < takeBytes && l.tried < end {
		first, size := l.tried, 0
		for ; l.tried < end && size < batchBytes; l.tried++ {
			size += storedSize(&l.events[l.tried])
		}
		yield(l.events[first:l.tried:l.tried])
		l.trying = append(l.trying, l.events[first].Sequence)
		bytes += size
	}
	l.flight = make(chan struct{})
	return bytes, l.tried == len(l.events)
}

// took ends an append that take began.
func (l *log) took(ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.flight)
	l.flight = nil
	if !ok {
		return
	}
	l.batches = append(l.batches, l.trying...)
	l.trying, l.limit = nil, 0
	for ; l.durable < l.tried; l.durable++ {
		l.pending -= storedSize(&l.events[l.durable])
	}
}

// left reports whether the appender has anything more to do; if not, the next append tells it.
func (l *log) left() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listed = !l.sealed && l.durable < len(l.events)
	return l.listed
}

// overdue reports, while the store is down, whether too much waits for it, or since before the time old. What waited when
// that was first noticed does not count: a fast answer is ahead of the store at any time.
func (l *log) overdue(old time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sealed || l.durable == len(l.events) {
		return false
	}
	if l.limit == 0 {
		l.limit = l.pending + maxPendingBytes
	}
	return l.pending > l.limit || l.events[l.durable].Time.Before(old)
}

// seal keeps the appender away, once what it is doing has its outcome.
func (l *log) seal() {
	l.mu.Lock()
	l.sealed = true
	flight := l.flight
	l.mu.Unlock()
	if flight != nil {
		<-flight
	}
}

// rest returns the events of a sealed log that are to be written with the turn's end, and the batches that they take the
// place of: all of it in one piece where it is small enough.
func (l *log) rest() (events []conversation.Event, replaces []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	replaces, from := l.trying, l.durable
	if rows := len(l.batches) + len(l.trying); l.kept <= takeBytes && len(l.batches) > 0 && (rows > 1 || from < len(l.events)) {
		replaces = append(l.batches, l.trying...)
		from = int(l.batches[0] - l.base - 1)
	}
	return slices.Clip(l.events[from:]), slices.Clip(replaces)
}
