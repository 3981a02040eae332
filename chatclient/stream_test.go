package chatclient_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// whole is the log of a turn that says pieces.
const whole = "1:accepted 2:'Il était' 3:'une fois' 4:'un' 5:'roi' 6:'qui' 7:'parlait' 8:'peu.' 9:COMPLETED"

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// TestStreamSurvivesACut: wherever the first connection is cut, every event arrives once, and there is one turn.
func TestStreamSurvivesACut(t *testing.T) {
	for _, tt := range []struct {
		name    string
		place   string
		event   int64 // sequence number; 0 is none
		streams int   // StreamTurn calls
		watches []int64
	}{
		{"before anything is recorded", "start", 0, 2, nil},
		{"before the header", "recorded", 0, 2, nil},
		{"after the header", "header", 0, 1, []int64{0}},
		{"after accepted", "after", 1, 1, []int64{1}},
		{"amid the text", "after", 4, 1, []int64{4}},
		{"before the terminal event", "before", 9, 1, []int64{8}},
		{"after the terminal event, before the status", "end", 0, 1, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{}
			f.at = func(p point) error {
				if p.method == "StreamTurn" && p.call == 1 && p.place == tt.place && (p.sequence == tt.event || tt.event == 0) {
					return f.cut()
				}
				return nil
			}
			s := newClient(f.start(t)).Stream(within(t), &chatsvcv1.CreateTurnRequest{Text: "Bonjour"})
			events, err := collect(s)
			if err != nil || tell(events) != whole {
				t.Errorf("%s, %v\nwant %s", tell(events), err, whole)
			}
			if got := s.Turn().GetOutputText(); got != strings.Join(pieces, "") {
				t.Errorf("text %q", got)
			}
			if got := f.called("StreamTurn"); got != tt.streams {
				t.Errorf("%d StreamTurn calls, want %d", got, tt.streams)
			}
			if got := fmt.Sprint(f.watched); got != fmt.Sprint(tt.watches) {
				t.Errorf("WatchTurn after %s, want %v", got, tt.watches)
			}
			if got := len(f.made()); got != 1 {
				t.Errorf("%d turns", got)
			}
			for _, r := range f.requests {
				if r.GetRequestId() == "" || r.GetRequestId() != s.RequestID() {
					t.Errorf("request_id %q, want %q", r.GetRequestId(), s.RequestID())
				}
			}
		})
	}
}

// TestStreamSurvivesManyCuts cuts every connection every 50 ms while a turn is generated.
func TestStreamSurvivesManyCuts(t *testing.T) {
	f := &fake{}
	done := make(chan struct{})
	f.plan = func(_ int, turn *fakeTurn) {
		go func() {
			defer close(done)
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for i := range 400 {
				<-tick.C
				say(turn, fmt.Sprintf("mot %d, ", i))
			}
			turn.complete()
		}()
	}
	conn := f.start(t)
	f.proxy.CutEvery(50 * time.Millisecond)
	var given strings.Builder
	s := newClient(conn).Stream(within(t), &chatsvcv1.CreateTurnRequest{Text: "Bonjour"})
	for piece, err := range s.TextDeltas() {
		if err != nil {
			t.Fatal(err)
		}
		given.WriteString(piece)
	}
	<-done
	stored, _ := f.made()[0].snapshot()
	if given.String() != stored.GetOutputText() || s.Turn().GetOutputText() != stored.GetOutputText() {
		t.Errorf("the text differs from what is stored:\n%s\n%s", given.String(), stored.GetOutputText())
	}
	if cuts, watches := f.proxy.Cuts(), f.called("WatchTurn"); cuts < 5 || watches < 5 || len(f.made()) != 1 {
		t.Errorf("%d cuts, %d WatchTurn calls, %d turns: the test did not test", cuts, watches, len(f.made()))
	}
}

func TestStreamOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		plan   func(n int, turn *fakeTurn)
		at     func(f *fake, p point) error
		events string
		code   codes.Code
		reason chatsvcv1.ErrorReason
		turns  int
		text   string // of TextDeltas
		void   bool   // which ends with ErrTextVoid
	}{
		{
			name: "the server stops at the beginning",
			at: func(_ *fake, p point) error {
				if p.method == "StreamTurn" && p.place == "start" && p.call <= 2 {
					return refusal(codes.Unavailable, "DRAINING", "")
				}
				return nil
			},
			events: whole, turns: 1, text: strings.Join(pieces, ""),
		},
		{
			name: "the store is away, and it is not known whether the turn was recorded: it was",
			at: func(f *fake, p point) error {
				if p.method == "StreamTurn" && p.place == "recorded" && p.call == 1 {
					return refusal(codes.Unavailable, "STORE_UNAVAILABLE", f.made()[0].turn.GetName())
				}
				return nil
			},
			events: whole, turns: 1, text: strings.Join(pieces, ""),
		},
		{
			name: "the store is away, and it is not known whether the turn was recorded: it was not",
			at: func(_ *fake, p point) error {
				if p.method == "StreamTurn" && p.place == "start" && p.call == 1 {
					return refusal(codes.Unavailable, "STORE_UNAVAILABLE", "turns/00000000-0000-7000-8000-999999999999")
				}
				return nil
			},
			events: whole, turns: 1, text: strings.Join(pieces, ""),
		},
		{
			name: "the turn is handed over to another server",
			at: func(f *fake, p point) error {
				if p.method == "StreamTurn" && p.place == "after" && p.sequence == 3 {
					return refusal(codes.Unavailable, "DRAINING", f.made()[0].turn.GetName())
				}
				return nil
			},
			events: whole, turns: 1, text: strings.Join(pieces, ""),
		},
		{
			name: "the turn fails with its server, and is begun again",
			plan: func(n int, turn *fakeTurn) {
				if n == 0 {
					say(turn, "Il ")
					turn.fail("TURN_INTERRUPTED")
					return
				}
				say(turn, "Il était")
				turn.complete()
			},
			events: "1:accepted 2:'Il' 0:reset 1:accepted 2:'Il était' 3:COMPLETED", turns: 2, text: "Il était",
		},
		{
			name: "the turn fails with every server that takes it",
			plan: func(_ int, turn *fakeTurn) {
				say(turn, "Il ")
				turn.fail("TURN_INTERRUPTED")
			},
			events: "1:accepted 2:'Il' 0:reset 1:accepted 2:'Il' 0:reset 1:accepted 2:'Il' 0:reset 1:accepted 2:'Il' 3:FAILED",
			turns:  4, text: "Il ", code: codes.Unavailable, reason: chatsvcv1.ErrorReason_ERROR_REASON_TURN_INTERRUPTED,
		},
		{
			name: "two turns fail with their store before they say anything",
			plan: func(n int, turn *fakeTurn) {
				if n < 2 {
					turn.fail("STORE_UNAVAILABLE")
					return
				}
				turn.complete()
			},
			events: "1:accepted 1:accepted 1:accepted 2:COMPLETED", turns: 3,
		},
		{
			name: "the provider fails",
			plan: func(_ int, turn *fakeTurn) {
				say(turn, "Il ")
				turn.fail("UPSTREAM_UNAVAILABLE")
			},
			events: "1:accepted 2:'Il' 3:FAILED", turns: 1, text: "Il ",
			code: codes.Unavailable, reason: chatsvcv1.ErrorReason_ERROR_REASON_UPSTREAM_UNAVAILABLE,
		},
		{
			name: "the provider fails while the connection is away",
			plan: func(_ int, turn *fakeTurn) {
				say(turn, "Il ")
				turn.fail("UPSTREAM_STREAM_CUT")
			},
			at: func(f *fake, p point) error {
				if p.method == "StreamTurn" && p.sequence == 1 && p.place == "after" {
					return f.cut()
				}
				return nil
			},
			events: "1:accepted 2:'Il' 3:FAILED", turns: 1, text: "Il ",
			code: codes.Unavailable, reason: chatsvcv1.ErrorReason_ERROR_REASON_UPSTREAM_STREAM_CUT,
		},
		{
			name: "a reason of a later release",
			at: func(_ *fake, p point) error {
				if p.method == "StreamTurn" {
					return refusal(codes.Unavailable, "MOON_IN_THE_WRONG_HOUSE", "")
				}
				return nil
			},
			code: codes.Unavailable,
		},
		{
			name: "someone cancels the turn",
			plan: func(_ int, turn *fakeTurn) {
				say(turn, "Il ")
				turn.end(chatsvcv1.TurnState_TURN_STATE_CANCELLED, nil)
			},
			events: "1:accepted 2:'Il' 3:CANCELLED", turns: 1, text: "Il ",
			code: codes.Canceled, reason: chatsvcv1.ErrorReason_ERROR_REASON_TURN_CANCELLED,
		},
		{
			name: "another server takes over and says the same and more",
			plan: func(_ int, turn *fakeTurn) {
				say(turn, "Il ", "était ")
				turn.add(outputReset(1025))
				say(turn, "Il était", " une fois")
				turn.complete()
			},
			at: func(f *fake, p point) error {
				if p.method == "StreamTurn" && p.sequence == 3 && p.place == "after" {
					return f.cut()
				}
				return nil
			},
			events: "1:accepted 2:'Il' 3:'était' 1025:reset 1026:'Il était' 1027:'une fois' 1028:COMPLETED", turns: 1, text: "Il était une fois",
		},
		{
			name: "another server takes over and says something else",
			plan: func(_ int, turn *fakeTurn) {
				say(turn, "Il ", "était ")
				turn.add(outputReset(1025))
				say(turn, "Once upon", " a time")
				turn.complete()
			},
			events: "1:accepted 2:'Il' 3:'était' 1025:reset 1026:'Once upon' 1027:'a time' 1028:COMPLETED",
			turns:  1, text: "Il était ", void: true,
		},
		{
			name: "notes",
			plan: func(_ int, turn *fakeTurn) {
				for _, note := range []*chatsvcv1.TurnEvent{
					heartbeat(),
					{Event: &chatsvcv1.TurnEvent_Draining{Draining: &chatsvcv1.Draining{}}},
					{Event: &chatsvcv1.TurnEvent_QueueUpdate{QueueUpdate: &chatsvcv1.QueueUpdate{Position: 1}}},
				} {
					note.Sequence = 1
					turn.mu.Lock()
					turn.log = append(turn.log, note)
					turn.mu.Unlock()
				}
				turn.complete()
			},
			events: "1:accepted 1:queue 2:COMPLETED", turns: 1,
		},
		{
			name: "a refused request",
			at: func(_ *fake, p point) error {
				if p.method == "StreamTurn" {
					return refusal(codes.InvalidArgument, "INVALID_REQUEST", "")
				}
				return nil
			},
			code: codes.InvalidArgument, reason: chatsvcv1.ErrorReason_ERROR_REASON_INVALID_REQUEST,
		},
		{
			name: "a fault that no repeat mends",
			at: func(_ *fake, p point) error {
				if p.method == "StreamTurn" {
					return status.Error(codes.Internal, "cannot decode")
				}
				return nil
			},
			code: codes.Internal,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run := func(t *testing.T) (*fake, *chatclient.Stream) {
				f := &fake{plan: tt.plan}
				if tt.at != nil {
					f.at = func(p point) error { return tt.at(f, p) }
				}
				return f, newClient(f.start(t)).Stream(within(t), &chatsvcv1.CreateTurnRequest{Text: "Bonjour"})
			}
			f, s := run(t)
			events, err := collect(s)
			if tell(events) != tt.events || status.Code(err) != tt.code || chatclient.Reason(err) != tt.reason {
				t.Errorf("%s, %v\nwant %s, %v %v", tell(events), err, tt.events, tt.code, tt.reason)
			}
			if got := len(f.made()); got != tt.turns {
				t.Errorf("%d turns, want %d", got, tt.turns)
			}

			_, s = run(t)
			var given strings.Builder
			var last error
			for piece, err := range s.TextDeltas() {
				given.WriteString(piece)
				last = err
			}
			if given.String() != tt.text || errors.Is(last, chatclient.ErrTextVoid) != tt.void || !tt.void && status.Code(last) != tt.code {
				t.Errorf("TextDeltas: %q, %v, want %q", given.String(), last, tt.text)
			}

			_, s = run(t)
			got, err := s.Text()
			want := tt.text
			if turn := s.Turn(); turn != nil {
				want = turn.GetOutputText()
			}
			if got != want || status.Code(err) != tt.code {
				t.Errorf("Text: %q, %v, want %q, %v", got, err, want, tt.code)
			}
		})
	}
}

// TestStreamWithoutEvents: the log is pruned before it was read to its end.
func TestStreamWithoutEvents(t *testing.T) {
	f := &fake{}
	f.at = func(p point) error {
		if p.method == "StreamTurn" && p.sequence == 4 && p.place == "after" {
			turn := f.made()[0]
			turn.mu.Lock()
			turn.expired = true
			turn.mu.Unlock()
			return f.cut()
		}
		return nil
	}
	const want = "1:accepted 2:'Il était' 3:'une fois' 4:'un' 0:reset 9:COMPLETED"
	c := newClient(f.start(t))
	events, err := collect(c.Stream(within(t), &chatsvcv1.CreateTurnRequest{Text: "Bonjour", RequestId: "one"}))
	if err != nil || tell(events) != want {
		t.Errorf("%s, %v\nwant %s", tell(events), err, want)
	}

	// A watcher that has nothing yet has nothing to void, and one that has the terminal event gets it again.
	for _, after := range []int64{0, 9} {
		s := c.Watch(within(t), f.made()[0].turn.GetName(), after)
		events, err = collect(s)
		if err != nil || tell(events) != "9:COMPLETED" || s.Turn().GetOutputText() != strings.Join(pieces, "") {
			t.Errorf("after %d: %s, %v", after, tell(events), err)
		}
	}
}

func TestStreamIsReadOnce(t *testing.T) {
	f := &fake{}
	s := newClient(f.start(t)).Stream(within(t), &chatsvcv1.CreateTurnRequest{})
	if s.Name() != "" || s.Turn() != nil || f.called("StreamTurn") != 0 {
		t.Error("the stream began before it was read")
	}
	if _, err := s.Text(); err != nil {
		t.Fatal(err)
	}
	if s.Name() != s.Turn().GetName() || s.Name() == "" {
		t.Errorf("name %q of %v", s.Name(), s.Turn())
	}
	if _, err := s.Text(); err == nil || f.called("StreamTurn") != 1 {
		t.Errorf("read twice: %v, %d calls", err, f.called("StreamTurn"))
	}
}

// settled waits until no more goroutines run than before.
func settled(t *testing.T, before int) {
	t.Helper()
	deadline := time.After(patience)
	for runtime.NumGoroutine() > before {
		select {
		case <-deadline:
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		case <-time.After(10 * time.Millisecond):
		}
	}
}
