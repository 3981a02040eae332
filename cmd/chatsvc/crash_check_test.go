package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	turnCompleted = chatsvcv1.TurnState_TURN_STATE_COMPLETED
	turnFailed    = chatsvcv1.TurnState_TURN_STATE_FAILED
	turnCancelled = chatsvcv1.TurnState_TURN_STATE_CANCELLED
)

// check compares what callers were told, what was asked upstream, and what is stored. It notes violations and returns the
// figures.
func (s *storm) check() string {
	turns := s.turns()
	calls := s.upstream.all()
	full := s.readAll(turns)
	byAsk := make(map[string][]*chatsvcv1.Turn)
	for _, turn := range full {
		byAsk[turn.GetRequestId()] = append(byAsk[turn.GetRequestId()], turn)
	}

	var acks, answers, cancels, refused, takenOver int
	for id, a := range s.ledger.asks {
		answer := s.checkAsk(a, byAsk[id])
		acks += len(a.acks)
		switch {
		case answer == nil && a.refused:
			refused++
		case answer.GetState() == turnCancelled:
			cancels++
		case answer != nil:
			answers++
		}
	}
	asked := make(map[string]int)
	for _, call := range calls {
		asked[call.ask]++
	}
	for id, n := range asked {
		attempts := 0
		for _, turn := range byAsk[id] {
			attempts += len(turn.GetAttempts())
		}
		if n > attempts {
			s.ledger.violation("calls", "%s: %d calls upstream, %d attempts recorded", id, n, attempts)
		}
	}
	for _, turn := range full {
		takenOver += max(0, len(turn.GetAttempts())-1)
		if turn.GetState() == turnCompleted {
			s.checkAnswer(turn, calls)
		}
	}
	kills, pauses, inFlight := 0, 0, 0
	for _, f := range s.faults {
		inFlight += len(f.running)
		if f.kill {
			kills++
		} else {
			pauses++
		}
	}
	if bound := len(turns) + (kills+pauses)*crashCallers; len(calls) > bound {
		s.ledger.violation("calls", "%d calls upstream, more than %d", len(calls), bound)
	}
	for _, p := range s.all {
		s.checkConversation(p, full)
	}
	s.repeat()
	alone, disturbed := s.takeovers(byAsk)
	streams, events := 0, 0
	for _, readings := range s.ledger.readings {
		streams += len(readings)
		for _, r := range readings {
			events += len(r.events)
		}
	}
	return strings.Join([]string{
		fmt.Sprintf("kills %d, pauses %d; requests %d: answered %d, cancelled %d, refused %d; acknowledgements %d",
			kills, pauses, len(s.ledger.asks), answers, cancels, refused, acks),
		fmt.Sprintf("turns %d, upstream calls %d; bound turns + (kills and pauses) × callers %d, turns + what ran on the victims %d; further attempts %d",
			len(turns), len(calls), len(turns)+(kills+pauses)*crashCallers, len(turns)+inFlight, takenOver),
		fmt.Sprintf("streams compared with what is stored: %d, with %d events", streams, events),
		fmt.Sprintf("takeovers after a kill: %s; with more faults meanwhile: %s", spread(alone), spread(disturbed)),
		fmt.Sprintf("repeated after: %v", s.ledger.said),
	}, "\n")
}

// readAll reads the turns with all that they have, and their logs.
func (s *storm) readAll(turns []*chatsvcv1.Turn) []*chatsvcv1.Turn {
	full := make([]*chatsvcv1.Turn, len(turns))
	next := make(chan int)
	var readers sync.WaitGroup
	for reader := range 8 {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(reader), 0))
			for i := range next {
				name := turns[i].GetName()
				turn, err := s.direct[i%len(s.direct)].chat.GetTurn(context.Background(),
					&chatsvcv1.GetTurnRequest{Name: name, View: chatsvcv1.TurnView_TURN_VIEW_FULL})
				if err != nil {
					s.ledger.violation("unreadable", "%s: %v", name, err)
				}
				full[i] = turn
				s.checkLog(turn, random)
			}
		})
	}
	for i := range turns {
		next <- i
	}
	close(next)
	readers.Wait()
	return full
}

// checkLog reads the log of a turn on every replica, from its beginning and from somewhere within it.
func (s *storm) checkLog(turn *chatsvcv1.Turn, random *rand.Rand) {
	if turn.GetEndTime() == nil {
		return // which is a violation already
	}
	fault := func(format string, args ...any) {
		s.ledger.violation("log", "%s: %s", turn.GetName(), fmt.Sprintf(format, args...))
	}
	var first *reading
	for i, c := range s.direct {
		r, err := replay(c, turn.GetName(), 0)
		switch {
		case err != nil:
			fault("replay on replica %d: %v", i, err)
			return
		case len(r.wrong) > 0:
			fault("replay on replica %d: %v", i, r.wrong)
		case r.end.GetState() != turn.GetState() || textOf(r.end) != textOf(turn) || r.last != turn.GetLastSequence():
			fault("the log ends with %v at %d, the turn is %v at %d", r.end.GetState(), r.last, turn.GetState(), turn.GetLastSequence())
		}
		if first == nil {
			first = r
		}
		if !slices.Equal(first.events, r.events) || !proto.Equal(first.end, r.end) {
			fault("replica %d replays something else than replica 0", i)
		}
		from := random.IntN(len(first.events))
		r, err = replay(c, turn.GetName(), first.events[from].sequence)
		switch {
		case from == len(first.events)-1 && err == nil && len(r.events) == 0:
		case err != nil:
			fault("replay after %d on replica %d: %v", first.events[from].sequence, i, err)
		case !slices.Equal(first.events[from+1:], r.events):
			fault("the replay after %d on replica %d is not the rest of the log", first.events[from].sequence, i)
		}
	}
	s.ledger.mu.Lock()
	readings := s.ledger.readings[turn.GetName()]
	s.ledger.mu.Unlock()
	for _, r := range readings {
		if err := r.agrees(first.events); err != nil {
			fault("%v (streamed %d events, to an end: %v)", err, len(r.events), r.end != nil)
		}
	}
}

// replay reads a turn's log after a number.
func replay(c *client, name string, after int64) (*reading, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r := readingAfter(name, after)
	stream, err := c.chat.WatchTurn(ctx, &chatsvcv1.WatchTurnRequest{Name: name, AfterSequence: after})
	if err != nil {
		return r, err
	}
	for {
		e, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return r, nil
		case err != nil:
			return r, err
		}
		r.add(e)
	}
}

// checkAsk compares what a caller was told with the turns of its request, and returns the one that is its answer.
func (s *storm) checkAsk(a *ask, turns []*chatsvcv1.Turn) *chatsvcv1.Turn {
	var answer *chatsvcv1.Turn
	for _, turn := range turns {
		switch turn.GetState() {
		case turnFailed:
			switch reason, _ := reasonOf(errorOf(turn)); reason {
			case "TURN_INTERRUPTED", "TURN_DEADLINE", "STORE_UNAVAILABLE":
			default:
				s.ledger.violation("failed", "%s of %s: %v", turn.GetName(), a.id, turn.GetError())
			}
			continue
		case turnCompleted, turnCancelled:
		default:
			s.ledger.violation("state", "%s of %s is %v", turn.GetName(), a.id, turn.GetState())
		}
		if answer != nil {
			s.ledger.violation("answered twice", "%s: %s and %s", a.id, answer.GetName(), turn.GetName())
		}
		answer = turn
	}
	for _, got := range a.acks {
		switch {
		case answer == nil:
			s.ledger.violation("lost", "%s was answered by %s, and no answer is stored", a.id, got.turn)
		case got.turn != answer.GetName() || got.state != answer.GetState() || got.whole && got.text != textOf(answer):
			s.ledger.violation("told otherwise", "%s was told %v, stored is %s %v %.200q", a.id, got, answer.GetName(), answer.GetState(), textOf(answer))
		}
	}
	for _, name := range a.recorded {
		if !slices.ContainsFunc(turns, func(turn *chatsvcv1.Turn) bool { return turn.GetName() == name }) {
			s.ledger.violation("lost", "%s was recorded as %s, which is not stored", a.id, name)
		}
	}
	if len(a.acks) == 0 && len(a.recorded) == 0 && !a.refused {
		s.ledger.violation("unanswered", "%s was never answered", a.id)
	}
	return answer
}

// checkAnswer looks for the one call upstream that gave an answer.
func (s *storm) checkAnswer(turn *chatsvcv1.Turn, calls []upstreamCall) {
	id := turn.GetRequestId()
	number, err := callOf(textOf(turn), id, s.ledger.asks[id].words)
	if err != nil {
		s.ledger.violation("text", "%s: %v", turn.GetName(), err)
		return
	}
	var settled []string
	for _, a := range turn.GetAttempts() {
		if a.GetState() == chatsvcv1.Attempt_STATE_SETTLED && codes.Code(a.GetError().GetCode()) == codes.OK {
			settled = append(settled, a.GetUpstreamRequestId())
		}
	}
	if number > len(calls) || calls[number-1].ask != id || len(settled) != 1 || settled[0] != calls[number-1].id {
		s.ledger.violation("calls", "%s of %s has the answer of call %s, which its attempts do not say: %v", turn.GetName(), id, strconv.Itoa(number), turn.GetAttempts())
	}
}
