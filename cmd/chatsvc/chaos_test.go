package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// Many callers that hang up, run out of time, cancel, and meet faults, at once: afterwards every turn has ended, nothing is left
// upstream, what was streamed is what is stored, and every conversation goes on.
func TestChaos(t *testing.T) {
	t.Parallel()
	p := serve(t, "upstream:\n  first_event_timeout: 500ms\n  idle_timeout: 500ms\nlog:\n  level: error\n")
	c := p.dial(t, redKey)
	const callers, turns, shared = 24, 12, 8
	var conversations []string
	for range shared {
		conversations = append(conversations, c.newConversation(t))
	}
	directives := []string{
		"tokens=30", "tokens=400 burst=7", "tokens=20 rate=100", "fault=stall after=2", "fault=cut after=3", "fault=500", "fault=429-rate",
		"fault=eof after=1", "fault=garbage after=2", "tokens=50 split=1", "delay=50ms", "finish=length tokens=5",
	}

	var streamed sync.Map // texts of turns whose terminal event was seen, by name
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(caller)))
			for turn := range turns {
				request := &chatsvcv1.CreateTurnRequest{
					Text:         fmt.Sprintf("%d/%d [[sim %s]]", caller, turn, directives[random.IntN(len(directives))]),
					OnDisconnect: chatsvcv1.OnDisconnect(random.IntN(3)),
				}
				if random.IntN(3) > 0 {
					request.Conversation = conversations[random.IntN(shared)]
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(20+random.IntN(1500))*time.Millisecond)
				oneTurn(ctx, t, c, request, random, &streamed)
				cancel()
			}
		})
	}
	wg.Wait()

	eventually(t, 10*time.Second, "all turns have ended", func() bool {
		return p.simulator.Stats().OpenStreams == 0 && running(t, c) == 0
	})
	compared := 0
	streamed.Range(func(name, text any) bool {
		compared++
		if stored := c.turn(t, name.(string)); stored.GetOutputText() != text.(string) {
			t.Errorf("%s: streamed %q, stored %q", name, text, stored.GetOutputText())
		}
		return true
	})
	if compared < callers {
		t.Errorf("only %d streams were read to their end", compared)
	}
	for _, conv := range conversations {
		if got := c.say(t, conv, "still there?"); got == "" {
			t.Errorf("%s does not go on", conv)
		}
		checkHistory(t, c, conv)
	}
}

// oneTurn makes a turn in one of several ways and, in some, leaves before its end.
func oneTurn(ctx context.Context, t *testing.T, c *client, request *chatsvcv1.CreateTurnRequest, random *rand.Rand, streamed *sync.Map) {
	t.Helper()
	if random.IntN(3) == 0 {
		_, err := c.chat.CreateTurn(ctx, request)
		known(t, err)
		return
	}
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	stream, err := c.chat.StreamTurn(ctx, request)
	if err != nil {
		known(t, err)
		return
	}
	patience, what := random.IntN(40), random.IntN(4)
	var name string
	var text strings.Builder
	for events := 0; ; events++ {
		e, err := stream.Recv()
		if err != nil {
			known(t, err)
			return
		}
		if a := e.GetAccepted(); a != nil {
			name = a.GetTurn()
		}
		text.WriteString(e.GetTextDelta().GetText())
		if e.GetTerminal() != nil {
			streamed.Store(name, text.String())
		}
		switch {
		case events < patience:
		case what == 0:
			hangUp()
		case what == 1 && name != "":
			if _, err := c.chat.CancelTurn(ctx, &chatsvcv1.CancelTurnRequest{Name: name}); err != nil {
				known(t, err)
			}
			what = 3
		}
	}
}

// known fails the test for an error that nobody caused.
func known(t *testing.T, err error) {
	t.Helper()
	switch status.Code(err) {
	case codes.OK, codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.Unavailable:
	default:
		if err.Error() != "EOF" {
			t.Errorf("unexpected: %v", err)
		}
	}
}

// running counts the turns that have not ended.
func running(t *testing.T, c *client) (n int) {
	t.Helper()
	for token := ""; ; {
		page, err := c.chat.ListTurns(t.Context(), &chatsvcv1.ListTurnsRequest{PageSize: 100, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, turn := range page.GetTurns() {
			if turn.GetEndTime() == nil {
				n++
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			return n
		}
	}
}

// checkHistory fails the test unless the conversation's messages are those of its answered turns, in their order.
func checkHistory(t *testing.T, c *client, conv string) {
	t.Helper()
	var want []string
	turns, err := c.chat.ListTurns(t.Context(), &chatsvcv1.ListTurnsRequest{Conversation: conv, PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for i := len(turns.GetTurns()) - 1; i >= 0; i-- {
		turn := turns.GetTurns()[i]
		if s := turn.GetState(); s != chatsvcv1.TurnState_TURN_STATE_COMPLETED && s != chatsvcv1.TurnState_TURN_STATE_INCOMPLETE {
			continue
		}
		full, err := c.chat.GetTurn(t.Context(), &chatsvcv1.GetTurnRequest{Name: turn.GetName(), View: chatsvcv1.TurnView_TURN_VIEW_FULL})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range append(full.GetInput(), full.GetOutput()...) {
			want = append(want, m.GetName())
		}
	}
	var got []string
	for token := ""; ; {
		page, err := c.conv.ListMessages(t.Context(), &chatsvcv1.ListMessagesRequest{Parent: conv, PageSize: 7, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.GetMessages() {
			got = append(got, m.GetName())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s: %d messages, %d in its answered turns", conv, len(got), len(want))
	}
}
