package turn

import (
	"context"
	"io"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	// lookEvery is how often a reader of the store looks for itself: wake-ups can be lost.
	lookEvery = 2 * time.Second
	// lookSoon is how soon it looks again after there was something: the wake-ups of the last events and of the turn's end can
	// have been one.
	lookSoon = 2 * appendEvery
	// pieceBytes is about how much it reads at once.
	pieceBytes = 256 << 10
	// smallPiece: of a piece that is so small, it is clear that nothing was left behind it.
	smallPiece = 4 << 10
)

// stored is what a Reader knows of a turn that it reads from the store.
type stored struct {
	wake <-chan struct{}
	stop func()
	// quiet: there was nothing more when the store was last asked, and nothing has woken the reader since. soon: there was
	// something, and the turn has not been looked at.
	quiet, soon bool
	// turn is the turn as it was read last, without input; nil before that. ended: it has ended, and its events are complete.
	// whole: it has its output.
	turn         *conversation.Turn
	ended, whole bool
}

// saw notes how the turn stands.
func (s *stored) saw(t *conversation.Turn) {
	s.turn, s.ended = t, t.State.Ended()
	if s.ended {
		s.close()
	}
}

func (s *stored) close() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// nextStored is Next from the store. It returns nothing where the position has reached the log in memory.
func (r *Reader) nextStored(ctx context.Context, quiet time.Time) ([]conversation.Event, error) {
	for {
		if r.stored.quiet {
			note, err := r.await(ctx, quiet)
			if note != nil || err != nil {
				return note, err
			}
		}
		events, err := r.look(ctx)
		if events != nil || err != nil {
			return events, err
		}
		if r.run != nil && r.position >= r.run.log.base {
			return nil, nil
		}
	}
}

// look asks the store once for what is above the position.
func (r *Reader) look(ctx context.Context) (events []conversation.Event, err error) {
	s := &r.stored
	r.subscribe()
	var first []conversation.Event
	if r.position <= 0 {
		if s.turn == nil {
			if err := r.lookAtTurn(ctx); err != nil {
				return nil, err
			}
		}
		first = []conversation.Event{{Sequence: 1, Time: s.turn.CreateTime, Kind: conversation.EventAccepted, Turn: s.turn}}
	}
	from := max(r.position, 1)
	if s.ended && first == nil && from+1 >= s.turn.Result.LastSequence {
		return r.terminal(ctx)
	}
	if events, err = r.e.o.Store.Events(ctx, r.team, r.id, from, pieceBytes); err != nil {
		return nil, err
	}
	gap := len(events) > 0 && !follows(events, from)
	if !s.ended && (gap || len(events) == 0 && first == nil && r.run == nil) {
		if err := r.lookAtTurn(ctx); err != nil {
			return nil, err
		}
		if s.ended { // What was written with its end was not read, if the end came between.
			if events, err = r.e.o.Store.Events(ctx, r.team, r.id, from, pieceBytes); err != nil {
				return nil, err
			}
		}
	}
	if s.ended && !follows(events, from) && (len(events) > 0 || from+1 < s.turn.Result.LastSequence) {
		if !r.creator {
			return nil, &conversation.Error{
				Reason: conversation.EventsExpired, Turn: r.id,
				Message: "the turn's events are no longer kept; GetTurn has the turn",
			}
		}
		events = nil
	}
	if events = append(first, events...); len(events) > 0 {
		r.position = events[len(events)-1].Sequence
		s.quiet = !s.ended && r.run == nil && bytesOf(events) < smallPiece // that was the last for now
		s.soon = true
		return events, nil
	}
	if s.ended {
		return r.terminal(ctx)
	}
	if r.run != nil {
		r.position = r.run.log.base // the earlier owners have left no more
		return nil, nil
	}
	s.quiet, s.soon = true, false
	return nil, nil
}

// subscribe has the reader woken. It comes before the store is asked: nothing that happens from here on is missed.
func (r *Reader) subscribe() {
	if s := &r.stored; s.stop == nil && !s.ended {
		s.wake, s.stop = r.e.o.Store.Subscribe(r.id)
	}
}

// lookAtTurn reads how the turn stands.
func (r *Reader) lookAtTurn(ctx context.Context) error {
	t, err := r.e.o.Store.GetTurn(ctx, r.team, r.id, false)
	if err != nil {
		return err
	}
	r.stored.saw(t)
	return nil
}

// bytesOf returns about how much events take in the store.
func bytesOf(events []conversation.Event) (n int) {
	for i := range events {
		n += storedSize(&events[i])
	}
	return n
}

// follows reports whether events are what comes next after a position in a turn's log: without a gap, unless a new owner
// begins.
func follows(events []conversation.Event, position int64) bool {
	return len(events) > 0 && (events[0].Sequence == position+1 || events[0].Kind == conversation.EventOutputReset)
}

// terminal returns the terminal event of a turn that has ended.
func (r *Reader) terminal(ctx context.Context) ([]conversation.Event, error) {
	t, err := r.asEnded(ctx)
	if err != nil {
		return nil, err
	}
	switch last := t.Result.LastSequence; {
	case r.position > last:
		return nil, r.beyond()
	case r.position == last:
		return nil, io.EOF
	default:
		r.position = last
		return []conversation.Event{{Sequence: last, Time: t.EndTime, Kind: conversation.EventTerminal, Turn: t}}, nil
	}
}

// asEnded returns a turn that has ended, with output and without input.
func (r *Reader) asEnded(ctx context.Context) (*conversation.Turn, error) {
	s := &r.stored
	if !s.whole {
		t, err := r.e.o.Store.GetTurn(ctx, r.team, r.id, true)
		if err != nil {
			return nil, err
		}
		t.Input = nil
		s.saw(t)
		s.whole = true
	}
	return s.turn, nil
}

// await waits until the store is to be asked again, or returns a note, or why there is nothing more to wait for.
func (r *Reader) await(ctx context.Context, quiet time.Time) ([]conversation.Event, error) {
	again := lookEvery
	if r.stored.soon {
		again = lookSoon
	}
	select {
	case <-r.stored.wake:
	case <-r.after(min(again, max(0, time.Until(quiet)))):
		if !time.Now().Before(quiet) {
			return r.notice(conversation.NoteHeartbeat), nil
		}
	case <-r.draining:
		r.draining = nil
		return r.notice(conversation.NoteDraining), nil
	case <-r.e.stop.Done():
		return nil, &conversation.Error{
			Reason: conversation.Draining, Turn: r.id,
			Message: "the server is stopping, and another one has the turn; repeat the call, or watch the turn",
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.stored.quiet = false
	return nil, nil
}

// endStored is End from the store.
func (r *Reader) endStored(ctx context.Context) (*conversation.Turn, error) {
	s := &r.stored
	for !s.ended {
		r.subscribe()
		if err := r.lookAtTurn(ctx); err != nil {
			return nil, err
		}
		if s.ended {
			break
		}
		for s.quiet, s.soon = true, false; s.quiet; {
			if _, err := r.await(ctx, time.Now().Add(time.Hour)); err != nil { // notes are for those who read
				return nil, err
			}
		}
	}
	return r.asEnded(ctx)
}
