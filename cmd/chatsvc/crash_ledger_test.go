package main

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// ledger is what callers were told, to be compared with what is stored. It is safe for concurrent use.
type ledger struct {
	mu       sync.Mutex
	asks     map[string]*ask
	readings map[string][]*reading // by turn
	said     map[string]int        // errors that a repeat helped against, by reason
	wrong    map[string][]string   // what must not be, by kind
}

// ask is a request, and what its caller was told.
type ask struct {
	id       string
	words    int
	request  *chatsvcv1.CreateTurnRequest
	acks     []ack
	recorded []string // turns that the request was said to be recorded as
	refused  bool
}

// ack is an answer that a caller got.
type ack struct {
	turn  string
	state chatsvcv1.TurnState
	text  string
	whole bool // text is known
}

func newLedger() *ledger {
	return &ledger{
		asks: make(map[string]*ask), readings: make(map[string][]*reading), said: make(map[string]int), wrong: make(map[string][]string),
	}
}

// open notes a request before it is sent.
func (l *ledger) open(a *ask) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asks[a.id] = a
}

// change changes a request's entry.
func (l *ledger) change(id string, with func(*ask)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	with(l.asks[id])
}

// answered notes that a caller was given the end of a turn.
func (l *ledger) answered(id string, turn *chatsvcv1.Turn) {
	l.change(id, func(a *ask) {
		a.acks = append(a.acks, ack{turn: turn.GetName(), state: turn.GetState(), text: textOf(turn), whole: true})
	})
}

// cancelled notes that a caller was told that its turn was cancelled.
func (l *ledger) cancelled(id, turn string) {
	l.change(id, func(a *ask) {
		a.acks = append(a.acks, ack{turn: turn, state: chatsvcv1.TurnState_TURN_STATE_CANCELLED})
	})
}

// saw notes what a reader has read.
func (l *ledger) saw(r *reading) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.turn != "" {
		l.readings[r.turn] = append(l.readings[r.turn], r)
	}
	for _, w := range r.wrong {
		l.wrong["stream"] = append(l.wrong["stream"], r.turn+": "+w)
	}
}

// heard notes an error that a repeat helps against.
func (l *ledger) heard(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said[what]++
}

// violation notes what must not be.
func (l *ledger) violation(kind, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong[kind] = append(l.wrong[kind], fmt.Sprintf(format, args...))
}

// report fails the test for each kind of violation, with a few of them, and returns a line on all.
func (l *ledger) report(t *testing.T) string {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) == 0 {
		return "0"
	}
	var kinds []string
	for _, kind := range slices.Sorted(maps.Keys(l.wrong)) {
		all := l.wrong[kind]
		t.Errorf("%s: %d times\n  %s", kind, len(all), strings.Join(all[:min(5, len(all))], "\n  "))
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, len(all)))
	}
	return strings.Join(kinds, ", ")
}

// reading is what one call has read of a turn's log, from its beginning or from a number on. It checks the stream contract
// as it goes.
type reading struct {
	turn   string
	after  int64 // where it began
	last   int64
	resets int
	events []seen
	text   strings.Builder // since the last reset
	end    *chatsvcv1.Turn
	wrong  []string
}

// seen is an event, as a digest.
type seen struct {
	sequence int64
	digest   uint64
	reset    bool
}

func readingAfter(turn string, after int64) *reading {
	return &reading{turn: turn, after: after, last: after}
}

// add takes the next event.
func (r *reading) add(e *chatsvcv1.TurnEvent) {
	fault := func(format string, args ...any) { r.wrong = append(r.wrong, fmt.Sprintf(format, args...)) }
	switch e.GetEvent().(type) {
	case *chatsvcv1.TurnEvent_Heartbeat, *chatsvcv1.TurnEvent_QueueUpdate, *chatsvcv1.TurnEvent_Draining:
		if e.GetSequence() != r.last {
			fault("a note has the number %d after %d", e.GetSequence(), r.last)
		}
		return
	}
	reset := e.GetOutputReset() != nil
	switch {
	case r.end != nil:
		fault("an event comes after the terminal one: %v", e)
	case e.GetSequence() <= r.last:
		fault("number %d comes after %d", e.GetSequence(), r.last)
	case e.GetSequence() != r.last+1 && !reset:
		fault("number %d comes after %d, and it is no reset: %v", e.GetSequence(), r.last, e)
	}
	if (e.GetAccepted() != nil) != (e.GetSequence() == 1) {
		fault("number %d is %v", e.GetSequence(), e)
	}
	r.last = e.GetSequence()
	r.events = append(r.events, seen{r.last, digest(e), reset})
	switch {
	case e.GetAccepted() != nil:
		r.turn = e.GetAccepted().GetTurn()
	case reset:
		r.text.Reset()
		r.resets++
	case e.GetTextDelta() != nil:
		r.text.WriteString(e.GetTextDelta().GetText())
	case e.GetTerminal() != nil:
		r.end = e.GetTerminal().GetTurn()
		if text := r.text.String(); (r.after == 0 || r.resets > 0) && text != textOf(r.end) {
			fault("%v: streamed %.200q, the terminal has %.200q", r.end.GetState(), text, textOf(r.end))
		}
	}
}

// digest tells events apart. A terminal event is told by its number alone: the turn in it is compared by itself.
func digest(e *chatsvcv1.TurnEvent) uint64 {
	if e.GetTerminal() != nil {
		return 0
	}
	h := fnv.New64a()
	if b, err := (proto.MarshalOptions{Deterministic: true}).Marshal(e); err == nil {
		_, _ = h.Write(b)
	}
	return h.Sum64()
}

// agrees compares what was streamed with the log as it is stored. Events that were sent before a takeover and were not
// durable by then are in no log: they are void with the reset. All others are the same.
func (r *reading) agrees(stored []seen) error {
	durable := make(map[int64]uint64, len(stored))
	for _, e := range stored {
		durable[e.sequence] = e.digest
	}
	var lastReset int64
	for _, e := range stored {
		if e.reset {
			lastReset = e.sequence
		}
	}
	for _, e := range r.events {
		digest, ok := durable[e.sequence]
		switch {
		case !ok && e.sequence > lastReset:
			return fmt.Errorf("event %d was streamed and is not stored; the last reset is %d", e.sequence, lastReset)
		case ok && digest != e.digest:
			return fmt.Errorf("event %d was streamed and stored differently", e.sequence)
		}
	}
	if r.end == nil {
		return nil
	}
	got := make(map[int64]bool, len(r.events))
	for _, e := range r.events {
		got[e.sequence] = true
	}
	for _, e := range stored {
		if e.sequence > max(r.after, lastReset-1) && !got[e.sequence] {
			return fmt.Errorf("event %d is stored and was not streamed", e.sequence)
		}
	}
	return nil
}
