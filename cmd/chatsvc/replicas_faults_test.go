package main

import (
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// pair is two replicas on one database, in this process, each with a caller.
func pair(t *testing.T) (up *upstream, here, there *client) {
	t.Helper()
	up = newUpstream(t)
	database := postgres(t)
	here = serveOn(t, database, up.at(0), "log:\n  level: error\n").dial(t, redKey)
	there = serveOn(t, database, up.at(1), "log:\n  level: error\n").dial(t, redKey)
	return up, here, there
}

func TestCancelOnAnotherReplica(t *testing.T) {
	t.Parallel()
	up, here, there := pair(t)

	t.Run("a running turn", func(t *testing.T) {
		name, stream := begin(t, t.Context(), here, &chatsvcv1.CreateTurnRequest{Text: question("running", 10_000, 20)})
		began := time.Now()
		turn, err := there.chat.CancelTurn(t.Context(), &chatsvcv1.CancelTurnRequest{Name: name})
		if err != nil || turn.GetState() != turnCancelled || textOf(turn) == "" {
			t.Fatalf("%v, %v; want CANCELLED with what had come", turn, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		events, err := collect(stream)
		wantReason(t, err, codes.Canceled, "TURN_CANCELLED")
		if end := events[len(events)-1].GetTerminal().GetTurn(); !proto.Equal(end, turn) {
			t.Errorf("its reader was told %v, the canceller %v", end, turn)
		}
		eventually(t, time.Second, "the call upstream is closed", func() bool { return len(up.open(0)) == 0 })
	})

	t.Run("a turn that waits", func(t *testing.T) {
		conv := here.newConversation(t)
		running, stream := begin(t, t.Context(), here, &chatsvcv1.CreateTurnRequest{Conversation: conv, Text: question("first", 40, 20)})
		queue := func(c *client, id string) string {
			turn, err := c.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{
				Conversation: conv, RequestId: id, Text: question(id, 3, 0),
				OnConflict: chatsvcv1.OnConflict_ON_CONFLICT_QUEUE, Wait: chatsvcv1.Wait_WAIT_NO_WAIT,
			})
			if err != nil || turn.GetState() != chatsvcv1.TurnState_TURN_STATE_QUEUED {
				t.Fatalf("%s: %v, %v; want it to wait", id, turn, err)
			}
			return turn.GetName()
		}
		second, third := queue(here, "second"), queue(there, "third")
		turn, err := there.chat.CancelTurn(t.Context(), &chatsvcv1.CancelTurnRequest{Name: second})
		if err != nil || turn.GetState() != turnCancelled || up.countOf("second") != 0 {
			t.Errorf("%v, %v, %d calls upstream; want CANCELLED without a call", turn, err, up.countOf("second"))
		}
		if _, err := collect(stream); err != nil {
			t.Errorf("the turn before it: %v", err)
		}
		r, err := replay(here, third, 0)
		if err != nil || len(r.wrong) > 0 || r.end.GetState() != turnCompleted || r.end.GetParentTurn() != running {
			t.Errorf("the turn after it: %v, %v, %v; want it to continue %s", r.end, r.wrong, err, running)
		}
	})
}

// A watcher on another replica has each event soon after the one who asked.
func TestWatchOnAnotherReplica(t *testing.T) {
	t.Parallel()
	_, here, there := pair(t)
	// A replica begins to tell others of its events when it knows of them, which takes it a heartbeat.
	eventually(t, 10*time.Second, "the replicas know of each other", func() bool {
		return slices.Max(lateness(t, here, there, 5)) < 300*time.Millisecond
	})
	late := lateness(t, here, there, 60)
	if longest := slices.Max(late); longest > time.Second {
		t.Errorf("an event came %v later", longest)
	}
	t.Logf("how much later an event came on the other replica: %s", spread(late))
}

// lateness has a turn of so many words generated on one replica and watched on another, and returns how much later each
// event came to the watcher than to the one who asked.
func lateness(t *testing.T, here, there *client, words int) (late []time.Duration) {
	t.Helper()
	name, stream := begin(t, t.Context(), here, &chatsvcv1.CreateTurnRequest{Text: question("watched", words, 20)})
	watch, err := there.chat.WatchTurn(t.Context(), &chatsvcv1.WatchTurnRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	var asked, watched map[int64]time.Time
	var both sync.WaitGroup
	both.Go(func() { asked = arrivals(t, stream) })
	both.Go(func() { watched = arrivals(t, watch) })
	both.Wait()
	if len(asked) < words || len(watched) < len(asked) {
		t.Fatalf("%d events came to the one who asked, %d to the watcher", len(asked), len(watched))
	}
	for sequence, at := range asked {
		seen, ok := watched[sequence]
		if !ok {
			t.Errorf("event %d did not come to the watcher", sequence)
		}
		late = append(late, seen.Sub(at))
	}
	return late
}

// arrivals reads a stream to its end and returns when each event came.
func arrivals(t *testing.T, stream grpc.ServerStreamingClient[chatsvcv1.TurnEvent]) map[int64]time.Time {
	t.Helper()
	at := make(map[int64]time.Time)
	for {
		e, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			return at
		}
		if e.GetHeartbeat() == nil {
			at[e.GetSequence()] = time.Now()
		}
	}
}

// A server that is told to stop hands its turns over: those that are to go on, go on elsewhere, at once.
func TestHandover(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	database := postgres(t)
	leaving := spawnOn(t, database, up.at(0), "limits:\n  shutdown_grace: 500ms\nlog:\n  level: error\n")
	here := leaving.dial(t, redKey)
	there := serveOn(t, database, up.at(1), "log:\n  level: error\n").dial(t, redKey)
	conv := here.newConversation(t)

	stays, staying := begin(t, t.Context(), here, &chatsvcv1.CreateTurnRequest{
		Conversation: conv, RequestId: "stays", Text: question("stays", 60, 20),
	})
	waiting, err := here.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{
		Conversation: conv, RequestId: "waits", Text: question("waits", 3, 0),
		OnConflict: chatsvcv1.OnConflict_ON_CONFLICT_QUEUE, Wait: chatsvcv1.Wait_WAIT_NO_WAIT,
	})
	if err != nil {
		t.Fatal(err)
	}
	goes, going := begin(t, t.Context(), here, &chatsvcv1.CreateTurnRequest{Text: question("goes", 60, 20)}) // CANCEL

	told := time.Now()
	if code := leaving.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(told); took > 5*time.Second {
		t.Errorf("it took %v to stop", took)
	}
	_, err = collect(staying)
	wantReason(t, err, codes.Unavailable, "DRAINING")
	_, err = collect(going)
	wantReason(t, err, codes.Unavailable, "DRAINING")
	if turn := there.turn(t, goes); turn.GetState() != turnFailed {
		t.Errorf("the turn that is not to go on is %v", turn.GetState())
	}

	for _, turn := range []struct {
		name, id        string
		words, attempts int
	}{{stays, "stays", 60, 2}, {waiting.GetName(), "waits", 3, 1}} {
		r, err := replay(there, turn.name, 0)
		if err != nil || len(r.wrong) > 0 || r.resets != 1 || r.end.GetState() != turnCompleted {
			t.Errorf("%s: %v, %v, %d resets, %v", turn.id, err, r.wrong, r.resets, r.end)
		}
		if _, err := callOf(textOf(r.end), turn.id, turn.words); err != nil {
			t.Error(err)
		}
		full, err := there.chat.GetTurn(t.Context(), &chatsvcv1.GetTurnRequest{Name: turn.name, View: chatsvcv1.TurnView_TURN_VIEW_FULL})
		if err != nil || len(full.GetAttempts()) != turn.attempts {
			t.Fatalf("%s: attempts %v, %v; want %d", turn.id, full.GetAttempts(), err, turn.attempts)
		}
		if turn.id == "stays" {
			if gap := full.GetAttempts()[1].GetCreateTime().AsTime().Sub(told); gap > 5*time.Second {
				t.Errorf("it was gone on with %v after its server was told to stop", gap)
			}
		}
	}
}
