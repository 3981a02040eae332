package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	stallTime = 2 * time.Second
	longTurns = 12
)

// A replica that stands still, with turns under way and in the middle of transactions, does not hold up the other one,
// which takes its turns over; and when it goes on it changes nothing that the other has written.
func TestPausedOwner(t *testing.T) {
	s := newStorm(t, 1, postgres(t), 2)
	owner, here, there := s.replicas[0], s.direct[0], s.direct[1]
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for i := range 8 { // keeps the owner busy, so that it is stopped in the middle of something
		all.Go(func() { quickly(ctx, t, here, fmt.Sprintf("owner.%d", i), "", true, nil) })
	}
	var mu sync.Mutex
	ends := []time.Time{time.Now()}
	for i := range 8 {
		conversation := ""
		if i%2 == 0 {
			conversation = there.newConversation(t)
		}
		all.Go(func() {
			quickly(ctx, t, there, fmt.Sprintf("other.%d", i), conversation, false, func() {
				mu.Lock()
				defer mu.Unlock()
				ends = append(ends, time.Now())
			})
		})
	}

	for range 4 {
		time.Sleep(300 * time.Millisecond) // the pace of the faults: short pauses first
		owner.pause(t)
		time.Sleep(1500 * time.Millisecond)
		owner.resume(t)
	}

	longs := make([]*long, longTurns)
	var readers sync.WaitGroup
	for i := range longs {
		longs[i] = beginLong(t, here, i, &readers)
	}
	owner.pause(t)
	paused := time.Now()
	var takeovers []time.Duration
	for _, l := range longs {
		took := s.awaitTakeover(t, l.turn, paused)
		takeovers = append(takeovers, took)
		if took > takeoverTime {
			t.Errorf("%s lay for %v", l.id, took)
		}
	}
	for _, l := range longs {
		if l.ends {
			s.awaitEnd(t, l)
		}
	}
	standing := time.Since(paused)
	owner.resume(t)             // all answers to its own calls have come meanwhile, and the other has yet to finish half of its own
	time.Sleep(3 * time.Second) // for what the owner may do wrong now, its clocks all being late
	for _, id := range s.upstream.open(0) {
		if strings.HasPrefix(id, "long.") {
			t.Errorf("the old owner still reads an answer to %s", id)
		}
	}
	for _, l := range longs {
		if before := l.stored; before != nil && !s.awaitEnd(t, l).equal(before) {
			t.Errorf("%s was changed by its old owner:\n%v\n%v", l.id, before.turn, l.stored.turn)
		}
		s.awaitEnd(t, l)
	}
	readers.Wait()
	cancel()
	all.Wait()
	calls := s.upstream.all()
	for _, l := range longs {
		l.check(t, calls)
	}
	var gaps []time.Duration
	for i := range ends[1:] {
		gaps = append(gaps, ends[i+1].Sub(ends[i]))
	}
	if longest := slices.Max(gaps); longest > stallTime {
		t.Errorf("the other replica answered nobody for %v", longest)
	}
	t.Logf("one replica stood still for %v: its turns were taken over after: %s; between two answers of the other: %s",
		standing.Round(time.Millisecond), spread(takeovers), spread(gaps))
}

// quickly makes one short turn after the other until ctx ends. With patience it asks again where the database could not be
// used: PostgreSQL ends the sessions of a server that stands still.
func quickly(ctx context.Context, t *testing.T, c *client, prefix, conversation string, patience bool, each func()) {
	for n := 0; ctx.Err() == nil; {
		id := fmt.Sprintf("%s.%d", prefix, n)
		turn, err := c.chat.CreateTurn(ctx, &chatsvcv1.CreateTurnRequest{Conversation: conversation, RequestId: id, Text: question(id, 3, 100)})
		reason, _ := reasonOf(err)
		switch {
		case err == nil:
			n++
			if _, err := callOf(textOf(turn), id, 3); err != nil {
				t.Error(err)
			}
			if each != nil {
				each()
			}
		case ctx.Err() != nil, patience && reason == "STORE_UNAVAILABLE":
		default:
			t.Errorf("%s: %v", id, err)
			return
		}
	}
}

// awaitTakeover waits until a turn of the first replica is ended or gone on with, and returns how long after a moment that
// was.
func (s *storm) awaitTakeover(t *testing.T, name string, since time.Time) (took time.Duration) {
	t.Helper()
	eventually(t, 3*takeoverTime, name+" is taken over", func() bool {
		turn := s.full(t, name)
		switch attempts := turn.GetAttempts(); {
		case len(attempts) > 1:
			took = attempts[1].GetCreateTime().AsTime().Sub(since)
		case turn.GetEndTime() != nil:
			took = turn.GetEndTime().AsTime().Sub(since)
		}
		return took != 0
	})
	return took
}

// full returns a turn with everything, from the second replica.
func (s *storm) full(t *testing.T, name string) *chatsvcv1.Turn {
	t.Helper()
	turn, err := s.direct[1].chat.GetTurn(t.Context(), &chatsvcv1.GetTurnRequest{Name: name, View: chatsvcv1.TurnView_TURN_VIEW_FULL})
	if err != nil {
		t.Fatal(err)
	}
	return turn
}

// awaitEnd waits until a turn has ended, and reads it with its log from the second replica.
func (s *storm) awaitEnd(t *testing.T, l *long) *stored {
	t.Helper()
	eventually(t, time.Minute, l.id+" has ended", func() bool { return s.full(t, l.turn).GetEndTime() != nil })
	r, err := replay(s.direct[1], l.turn, 0)
	if err != nil || len(r.wrong) > 0 {
		t.Errorf("%s: %v, %v", l.id, err, r.wrong)
	}
	l.stored = &stored{s.full(t, l.turn), r}
	return l.stored
}

// stored is a turn with its log.
type stored struct {
	turn *chatsvcv1.Turn
	log  *reading
}

func (s *stored) equal(other *stored) bool {
	return proto.Equal(s.turn, other.turn) && proto.Equal(s.log.end, other.log.end) && slices.Equal(s.log.events, other.log.events)
}

// long is a turn that takes some seconds, while its caller reads it.
type long struct {
	*reading
	id     string
	words  int
	cancel bool // it is not to go on without its server
	ends   bool // soon after it was taken over
	stored *stored
	failed error // of the caller's stream
}

// beginLong begins a turn and has it read to its end. It returns when some of the answer has come.
func beginLong(t *testing.T, c *client, i int, readers *sync.WaitGroup) *long {
	t.Helper()
	l := &long{reading: readingAfter("", 0), id: fmt.Sprintf("long.%d", i), words: 160, cancel: i%3 == 2}
	if i%2 == 0 {
		l.words = 40
	}
	l.ends = l.cancel || l.words == 40
	request := &chatsvcv1.CreateTurnRequest{RequestId: l.id, Text: question(l.id, l.words, 20)}
	if l.cancel {
		request.OnDisconnect = chatsvcv1.OnDisconnect_ON_DISCONNECT_CANCEL
	}
	stream, err := c.chat.StreamTurn(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	next := func() error {
		e, err := stream.Recv()
		if err == nil {
			l.add(e)
		}
		return err
	}
	for l.text.Len() == 0 {
		if err := next(); err != nil {
			t.Fatal(err)
		}
	}
	readers.Go(func() {
		for l.failed == nil {
			l.failed = next()
		}
	})
	return l
}

// check compares what the turn's caller has read on the old owner, what is stored, and who generated it.
func (l *long) check(t *testing.T, calls []upstreamCall) {
	t.Helper()
	turn := l.stored.turn
	if len(l.wrong) > 0 || !proto.Equal(l.end, l.stored.log.end) {
		t.Errorf("%s: its reader on the old owner got %v, %v, wrong %v; stored is %v", l.id, l.end, l.failed, l.wrong, l.stored.log.end)
	}
	if err := l.agrees(l.stored.log.events); err != nil {
		t.Errorf("%s: %v", l.id, err)
	}
	if l.cancel {
		if reason, _ := reasonOf(errorOf(turn)); reason != "TURN_INTERRUPTED" {
			t.Errorf("%s, which was not to go on, is %v", l.id, turn)
		}
		wantReason(t, l.failed, codes.Unavailable, "TURN_INTERRUPTED")
		return
	}
	if !errors.Is(l.failed, io.EOF) {
		t.Errorf("%s: %v", l.id, l.failed)
	}
	number, err := callOf(textOf(turn), l.id, l.words)
	if err != nil || calls[number-1].replica != "1" || len(turn.GetAttempts()) != 2 {
		t.Errorf("%s: %v, call %d, attempts %v; want the answer of the other replica's call", l.id, err, number, turn.GetAttempts())
	}
}
