package chatclient_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// fakeTurn is a turn and its log.
type fakeTurn struct {
	mu      sync.Mutex
	turn    *chatsvcv1.Turn
	log     []*chatsvcv1.TurnEvent
	changed chan struct{} // closed by the next change
	expired bool          // its log is gone
}

func (t *fakeTurn) add(events ...*chatsvcv1.TurnEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLocked(events...)
}

func (t *fakeTurn) addLocked(events ...*chatsvcv1.TurnEvent) {
	for _, e := range events {
		if e.Sequence == 0 {
			e.Sequence = 1
			if n := len(t.log); n > 0 {
				e.Sequence = t.log[n-1].Sequence + 1
			}
		}
		t.log = append(t.log, e)
		t.turn.LastSequence = e.Sequence
		switch {
		case e.GetOutputReset() != nil:
			t.turn.OutputText = ""
		case e.GetTextDelta() != nil:
			t.turn.OutputText += e.GetTextDelta().GetText()
		}
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// end ends the turn, once.
func (t *fakeTurn) end(state chatsvcv1.TurnState, failure *statuspb.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended() {
		return
	}
	t.turn.State, t.turn.Error = state, failure
	t.turn.LastSequence++
	t.addLocked(&chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_Terminal{Terminal: &chatsvcv1.Terminal{Turn: proto.CloneOf(t.turn)}}})
}

func (t *fakeTurn) complete() { t.end(chatsvcv1.TurnState_TURN_STATE_COMPLETED, nil) }

func (t *fakeTurn) fail(reason string) {
	t.end(chatsvcv1.TurnState_TURN_STATE_FAILED, status.Convert(refusal(codes.Unavailable, reason, t.turn.GetName())).Proto())
}

// ended is called with mu held.
func (t *fakeTurn) ended() bool { return t.turn.GetState() > chatsvcv1.TurnState_TURN_STATE_RUNNING }

// snapshot returns the turn, and what changes when it does.
func (t *fakeTurn) snapshot() (turn *chatsvcv1.Turn, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return proto.CloneOf(t.turn), t.changed
}

// wait returns the turn when it has ended.
func (t *fakeTurn) wait(ctx context.Context) (*chatsvcv1.Turn, error) {
	for {
		turn, changed := t.snapshot()
		if turn.GetState() > chatsvcv1.TurnState_TURN_STATE_RUNNING {
			return turn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

func text(s string) *chatsvcv1.TurnEvent { return textPart(0, s) }

func textPart(part int32, s string) *chatsvcv1.TurnEvent {
	return &chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_TextDelta{TextDelta: &chatsvcv1.TextDelta{PartIndex: part, Text: s}}}
}

func outputReset(sequence int64) *chatsvcv1.TurnEvent {
	return &chatsvcv1.TurnEvent{Sequence: sequence, Event: &chatsvcv1.TurnEvent_OutputReset{OutputReset: &chatsvcv1.OutputReset{}}}
}

func heartbeat() *chatsvcv1.TurnEvent {
	return &chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_Heartbeat{Heartbeat: &chatsvcv1.Heartbeat{}}}
}

// say adds text to the log.
func say(t *fakeTurn, pieces ...string) {
	for _, p := range pieces {
		t.add(text(p))
	}
}

// refusal returns an error of the service; turn may be empty.
func refusal(code codes.Code, reason, turn string) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: "chatsvc"}
	if turn != "" {
		info.Metadata = map[string]string{"turn": turn}
	}
	s, err := status.New(code, "refused: "+reason).WithDetails(info, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)})
	if err != nil {
		return err
	}
	return s.Err()
}

// clientStats counts what the client has received.
type clientStats struct {
	mu      sync.Mutex
	headers int
	events  int
	changed chan struct{}
}

func newClientStats() *clientStats { return &clientStats{changed: make(chan struct{})} }

// await waits until the client has that many response headers of turns, and events.
func (s *clientStats) await(headers, events int) error {
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		enough, changed := s.headers >= headers && s.events >= events, s.changed
		s.mu.Unlock()
		if enough {
			return nil
		}
		select {
		case <-changed:
		case <-deadline:
			return errors.New("the client does not receive what was sent")
		}
	}
}

func (s *clientStats) HandleRPC(_ context.Context, r stats.RPCStats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r := r.(type) {
	case *stats.InHeader:
		if len(r.Header.Get("chatsvc-turn")) > 0 {
			s.headers++
		}
	case *stats.InPayload:
		if _, ok := r.Payload.(*chatsvcv1.TurnEvent); ok {
			s.events++
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (*clientStats) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (*clientStats) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*clientStats) HandleConn(context.Context, stats.ConnStats)                       {}

// newClient returns a client that waits little.
func newClient(conn grpc.ClientConnInterface) *chatclient.Client {
	return chatclient.New(conn, chatclient.Options{MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond})
}

// tell writes down events for people, one word each.
func tell(events []*chatsvcv1.TurnEvent) string {
	var words []string
	for _, e := range events {
		var word string
		switch e := e.GetEvent().(type) {
		case *chatsvcv1.TurnEvent_Accepted:
			word = "accepted"
		case *chatsvcv1.TurnEvent_TextDelta:
			word = "'" + strings.TrimSpace(e.TextDelta.GetText()) + "'"
		case *chatsvcv1.TurnEvent_OutputReset:
			word = "reset"
		case *chatsvcv1.TurnEvent_QueueUpdate:
			word = "queue"
		case *chatsvcv1.TurnEvent_Terminal:
			word = strings.TrimPrefix(e.Terminal.GetTurn().GetState().String(), "TURN_STATE_")
		default:
			word = fmt.Sprintf("%T", e)
		}
		words = append(words, fmt.Sprintf("%d:%s", e.GetSequence(), word))
	}
	return strings.Join(words, " ")
}

// collect reads a stream.
func collect(s *chatclient.Stream) (events []*chatsvcv1.TurnEvent, err error) {
	for event, e := range s.Events() {
		if e != nil {
			err = e
			continue
		}
		events = append(events, event)
	}
	return events, err
}
