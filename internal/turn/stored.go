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
	// pieceBytes is about how much it reads at once.
	pieceBytes = 256 << 10
	// smallPiece: of a piece that is so small, it is clear that nothing was left behind it.
	smallPiece = 4 << 10
)

// stored is what a Reader knows of a turn that it reads from the store.
type stored struct {
	wake <-chan struct{}
	stop func()
	// quiet: there was nothing new when the store was last asked, and nothing has woken the reader since.
	quiet bool
	// turn is the turn as it ended, without input; nil until that is known. Its events are complete.
	turn *conversation.Turn
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
func (r *Reader) look(ctx context.Context) ([]conversation.Event, error) {
	s := &r.stored
	if s.stop == nil && s.turn == nil {
		// Before the store is asked: nothing that happens from here on is missed.
		s.wake, s.stop = r.e.o.Store.Subscribe(r.id)
	}
	var first []conversation.Event
	t := s.turn
	if t == nil {
		var err error
		if t, err = r.e.o.Store.GetTurn(ctx, r.team, r.id, false); err != nil {
			return nil, err
		}
	}
	if r.position <= 0 {
		first = []conversation.Event{{Sequence: 1, Time: t.CreateTime, Kind: conversation.EventAccepted, Turn: t}}
	}
	// The turn was read before its events: where it has ended, they are all there.
	events, err := r.e.o.Store.Events(ctx, r.team, r.id, max(r.position, 1), pieceBytes)
	if err != nil {
		return nil, err
	}
	ended := t.State.Ended()
	expired := ended && r.position < t.Result.LastSequence && !follows(events, max(r.position, 1), t.Result.LastSequence)
	switch {
	case expired && !r.creator:
		return nil, &conversation.Error{
			Reason: conversation.EventsExpired, Turn: r.id,
			Message: "the turn's events are no longer kept; GetTurn has the turn",
		}
	case expired:
		events = nil
	}
	if events = append(first, events...); len(events) > 0 {
		r.position = events[len(events)-1].Sequence
		s.quiet = !ended && bytesOf(events) < smallPiece // that was the last for now
		return events, nil
	}
	if ended {
		return r.terminal(ctx)
	}
	if r.run != nil {
		r.position = r.run.log.base // the earlier owners have left no more
	}
	s.quiet = true
	return nil, nil
}

// bytesOf returns about how much events take in the store.
func bytesOf(events []conversation.Event) (n int) {
	for i := range events {
		n += storedSize(&events[i])
	}
	return n
}

// follows reports whether events are what comes after a position in the log of a turn that has ended with the sequence
// number last: without a gap, unless a new owner begins.
func follows(events []conversation.Event, position, last int64) bool {
	if len(events) == 0 {
		return position+1 >= last
	}
	return events[0].Sequence == position+1 || events[0].Kind == conversation.EventOutputReset
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
	if r.stored.turn == nil {
		t, err := r.e.o.Store.GetTurn(ctx, r.team, r.id, true)
		if err != nil {
			return nil, err
		}
		t.Input = nil
		r.stored.turn = t
		r.stored.close()
	}
	return r.stored.turn, nil
}

// await waits until the store is to be asked again, or returns a note, or why there is nothing more to wait for.
func (r *Reader) await(ctx context.Context, quiet time.Time) ([]conversation.Event, error) {
	timer := time.NewTimer(min(lookEvery, max(0, time.Until(quiet))))
	defer timer.Stop()
	select {
	case <-r.stored.wake:
	case <-timer.C:
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
	for s.turn == nil {
		if s.stop == nil {
			s.wake, s.stop = r.e.o.Store.Subscribe(r.id)
		}
		t, err := r.e.o.Store.GetTurn(ctx, r.team, r.id, false)
		if err != nil {
			return nil, err
		}
		if t.State.Ended() {
			return r.asEnded(ctx)
		}
		for s.quiet = true; s.quiet; {
			if _, err := r.await(ctx, time.Now().Add(time.Hour)); err != nil { // notes are for those who read
				return nil, err
			}
		}
	}
	return s.turn, nil
}
