package chatclient

import (
	"context"
	"errors"
	"iter"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// Stream is one turn being read. It is read once, by one of Events, TextDeltas and Text, and is for one goroutine.
type Stream struct {
	ctx  context.Context // The call's: it begins when the stream is read.
	call *call
	read bool
}

// RequestID returns the id that the request is sent with; empty for [Client.Watch]. A program that may die before it has
// the answer writes it down first: the same request with the same id gets the same answer.
func (s *Stream) RequestID() string { return s.call.request.GetRequestId() }

// Name returns the turn's name, as far as it is known yet.
func (s *Stream) Name() string { return s.call.name() }

// Turn returns the turn as it ended, without input and attempts; nil if the stream ended before it did. It may be called
// when the stream has been read.
func (s *Stream) Turn() *chatsvcv1.Turn { return s.call.turn }

// Events returns the turn's events: each event of its log once, in order, over all RPCs and servers that it takes to read
// them. A COMPLETED or INCOMPLETE turn ends the loop after its terminal event; everything else ends it with an error
// beside a nil event, which for a FAILED or CANCELLED turn comes after its terminal event.
//
// Sequence numbers are the server's. Of the notes, which are not in the log, queue_update is passed on; heartbeat and
// draining are about the connection, and are dealt with here. Two events can be this package's own:
//   - output_reset with sequence 0, after which everything from the beginning counts as not said. Either the turn FAILED
//     because its server stopped, and the request was sent again: then the accepted event of another turn follows, and
//     sequence numbers begin again from 1 (it also does where nothing of the output was given, and so nothing is to be
//     unsaid: then without output_reset). Or the events that would come next are no longer kept, or were not waited for
//     when the turn was cancelled: then terminal follows;
//   - that terminal, made from the turn.
//
// Leaving the loop before the terminal event cancels the turn, unless the call is detached.
func (s *Stream) Events() iter.Seq2[*chatsvcv1.TurnEvent, error] {
	return func(yield func(*chatsvcv1.TurnEvent, error) bool) {
		if s.read {
			yield(nil, errRead)
			return
		}
		s.read = true
		err := s.call.run(s.ctx, func(event *chatsvcv1.TurnEvent) bool { return yield(event, nil) })
		if err != nil && !errors.Is(err, errLeft) {
			yield(nil, err)
		}
	}
}
