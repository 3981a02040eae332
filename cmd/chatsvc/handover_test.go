package main

import (
	"strings"
	"testing"
	"time"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// However a replica goes, another one goes on with its turns, and who reads the turn there sees one whole answer.
func TestAnotherReplicaGoesOn(t *testing.T) {
	t.Parallel()
	const leaseAndScan = 10 * time.Second
	for _, tt := range []struct {
		name   string
		leave  func(t *testing.T, p *program)
		within time.Duration // until the other one has the turn
		back   func(t *testing.T, p *program)
	}{
		{
			name:   "killed",
			leave:  func(_ *testing.T, p *program) { p.kill() },
			within: leaseAndScan,
			back: func(t *testing.T, p *program) {
				t.Helper()
				if err := p.restart(); err != nil {
					t.Fatal(err)
				}
			},
		},
		{
			name: "told to stop",
			leave: func(t *testing.T, p *program) {
				t.Helper()
				if code := p.stop(); code != 0 {
					t.Errorf("exit code %d\n%s", code, p.logs.tail(2<<10))
				}
			},
			within: 3 * time.Second, // without waiting for a lease
			back: func(t *testing.T, p *program) {
				t.Helper()
				if err := p.restart(); err != nil {
					t.Fatal(err)
				}
			},
		},
		{
			name:   "paused",
			leave:  func(t *testing.T, p *program) { t.Helper(); p.pause(t) },
			within: leaseAndScan,
			back:   func(t *testing.T, p *program) { t.Helper(); p.resume(t) },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			sim, baseURL := simulate(t)
			databaseURL := postgres(t)
			const yaml = "limits:\n  shutdown_grace: 100ms\n"
			one, other := spawnOn(t, databaseURL, baseURL, yaml), spawnOn(t, databaseURL, baseURL, yaml)
			there := other.dial(t, redKey)

			stream, err := one.dial(t, redKey).chat.StreamTurn(t.Context(), &chatsvcv1.CreateTurnRequest{
				RequestId: "once", Text: "[[sim tokens=60 rate=20]]", // three seconds
			})
			if err != nil {
				t.Fatal(err)
			}
			accepted, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			name := accepted.GetAccepted().GetTurn()
			for text := ""; text == ""; {
				event, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				text = event.GetTextDelta().GetText()
			}
			tt.leave(t, one)

			eventually(t, tt.within+2*time.Second, "a second call upstream", func() bool { return sim.Stats().Calls == 2 })
			watch, err := there.chat.WatchTurn(t.Context(), &chatsvcv1.WatchTurnRequest{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			events, err := collect(watch)
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			resets, last := 0, int64(0)
			for _, e := range events {
				if e.GetSequence() < last {
					t.Errorf("sequence %d after %d", e.GetSequence(), last)
				}
				last = e.GetSequence()
				switch {
				case e.GetOutputReset() != nil:
					resets++
					text.Reset()
				case e.GetTextDelta() != nil:
					text.WriteString(e.GetTextDelta().GetText())
				}
			}
			turn := events[len(events)-1].GetTerminal().GetTurn()
			if turn.GetState() != chatsvcv1.TurnState_TURN_STATE_COMPLETED || resets != 1 || text.String() != textOf(turn) || text.Len() == 0 {
				t.Errorf("%d resets, %q streamed, ended as %v", resets, text.String(), turn)
			}

			tt.back(t, one)
			here := one.dial(t, redKey)
			again, err := here.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{RequestId: "once", Text: "[[sim tokens=60 rate=20]]"})
			if err != nil || again.GetName() != name || textOf(again) != textOf(turn) {
				t.Errorf("repeated where it began: %v, %v", again, err)
			}
			if got := dialAll(t, redKey, one, other).say(t, "", `[[sim answer="Four."]]`); got != "Four." {
				t.Errorf("afterwards: answered %q", got)
			}
			if calls := sim.Stats().Calls; calls != 3 {
				t.Errorf("%d calls upstream, want 3: one for each attempt, and the last", calls)
			}
		})
	}
}
