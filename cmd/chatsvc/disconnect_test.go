package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	slowly = "[[sim tokens=40 rate=40]]" // takes about a second
	hang   = "[[sim fault=stall after=3]]"
)

// begin starts a streamed turn and returns its name once some of the answer has come.
func begin(t *testing.T, ctx context.Context, c *client, request *chatsvcv1.CreateTurnRequest) (string, chatsvcv1.ChatService_StreamTurnClient) {
	t.Helper()
	stream, err := c.chat.StreamTurn(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	var name string
	for {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if a := e.GetAccepted(); a != nil {
			name = a.GetTurn()
		}
		if e.GetTextDelta() != nil {
			return name, stream
		}
	}
}

func (c *client) turn(t *testing.T, name string) *chatsvcv1.Turn {
	t.Helper()
	turn, err := c.chat.GetTurn(context.WithoutCancel(t.Context()), &chatsvcv1.GetTurnRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return turn
}

func TestClientHangsUp(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	c := p.dial(t, redKey)

	t.Run("CANCEL", func(t *testing.T) {
		conv := c.newConversation(t)
		ctx, hangUp := context.WithCancel(t.Context())
		defer hangUp()
		name, _ := begin(t, ctx, c, &chatsvcv1.CreateTurnRequest{Conversation: conv, Text: hang}) // CANCEL is the default
		if open := p.simulator.Stats().OpenStreams; open != 1 {
			t.Fatalf("%d open upstream calls, want 1", open)
		}
		hangUp()
		eventually(t, time.Second, "the upstream call is closed", func() bool { return p.simulator.Stats().OpenStreams == 0 })
		eventually(t, time.Second, "the turn is cancelled", func() bool {
			return c.turn(t, name).GetState() == chatsvcv1.TurnState_TURN_STATE_CANCELLED
		})
		turn := c.turn(t, name)
		if turn.GetOutputText() == "" || !turn.GetUsage().GetEstimated() || turn.GetUsage().GetOutputTokens() == 0 {
			t.Errorf("what came is not kept or not counted: %v", turn)
		}
		if got := c.say(t, conv, "and now?"); got == "" {
			t.Error("the conversation does not go on")
		}
	})

	t.Run("CONTINUE", func(t *testing.T) {
		ctx, hangUp := context.WithCancel(t.Context())
		defer hangUp()
		name, _ := begin(t, ctx, c, &chatsvcv1.CreateTurnRequest{Text: slowly, OnDisconnect: chatsvcv1.OnDisconnect_ON_DISCONNECT_CONTINUE})
		hangUp()
		watch, err := c.chat.WatchTurn(t.Context(), &chatsvcv1.WatchTurnRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		events, err := collect(watch)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, e := range events {
			text.WriteString(e.GetTextDelta().GetText())
		}
		turn := c.turn(t, name)
		if turn.GetState() != chatsvcv1.TurnState_TURN_STATE_COMPLETED || turn.GetOutputText() == "" || turn.GetOutputText() != text.String() {
			t.Errorf("GetTurn has %v, the watcher saw %q", turn, text.String())
		}

		// The log is still there: from any number on, and past the end it says so.
		watch, err = c.chat.WatchTurn(t.Context(), &chatsvcv1.WatchTurnRequest{Name: name, AfterSequence: turn.GetLastSequence() - 2})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := collect(watch); err != nil || len(again) != 2 || again[0].GetSequence() != turn.GetLastSequence()-1 {
			t.Errorf("replay of the last two: %v, %v", again, err)
		}
		watch, err = c.chat.WatchTurn(t.Context(), &chatsvcv1.WatchTurnRequest{Name: name, AfterSequence: turn.GetLastSequence() + 1})
		if err == nil {
			_, err = collect(watch)
		}
		wantReason(t, err, codes.OutOfRange, "EVENTS_EXPIRED")
	})

	t.Run("a watcher beyond the end", func(t *testing.T) {
		name, stream := begin(t, t.Context(), c, &chatsvcv1.CreateTurnRequest{Text: slowly})
		watch, err := c.chat.WatchTurn(t.Context(), &chatsvcv1.WatchTurnRequest{Name: name, AfterSequence: 10_000})
		if err != nil {
			t.Fatal(err)
		}
		events, err := collect(watch) // waits while the turn runs
		wantReason(t, err, codes.OutOfRange, "EVENTS_EXPIRED")
		if len(events) > 0 {
			t.Errorf("events %v", events)
		}
		if _, err := collect(stream); err != nil {
			t.Error(err)
		}
	})

	t.Run("watchers do not count", func(t *testing.T) {
		ctx, hangUp := context.WithCancel(t.Context())
		defer hangUp()
		name, _ := begin(t, ctx, c, &chatsvcv1.CreateTurnRequest{Text: hang})
		watch, err := c.chat.WatchTurn(t.Context(), &chatsvcv1.WatchTurnRequest{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		hangUp()
		events, err := collect(watch)
		if err != nil || len(events) == 0 || events[len(events)-1].GetTerminal().GetTurn().GetState() != chatsvcv1.TurnState_TURN_STATE_CANCELLED {
			t.Errorf("the watcher saw %v, %v; want OK after a terminal that says CANCELLED", events, err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	c := p.dial(t, redKey)
	for _, on := range []chatsvcv1.OnDisconnect{chatsvcv1.OnDisconnect_ON_DISCONNECT_CANCEL, chatsvcv1.OnDisconnect_ON_DISCONNECT_CONTINUE} {
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		header := grpcHeader{}
		_, err := c.chat.CreateTurn(ctx, &chatsvcv1.CreateTurnRequest{Text: hang, OnDisconnect: on}, header.option())
		wantReason(t, err, codes.DeadlineExceeded, "TURN_DEADLINE") // the server said so, in time: a client's own has no reason
		cancel()
		turn := c.turn(t, header.turn(t))
		if on == chatsvcv1.OnDisconnect_ON_DISCONNECT_CANCEL {
			eventually(t, 5*time.Second, "the turn has ended", func() bool { // as a rule before the answer that it is late
				turn = c.turn(t, turn.GetName())
				return turn.GetEndTime() != nil
			})
			if turn.GetState() != chatsvcv1.TurnState_TURN_STATE_FAILED || codes.Code(turn.GetError().GetCode()) != codes.DeadlineExceeded {
				t.Errorf("CANCEL: %v", turn)
			}
			continue
		}
		if turn.GetState() != chatsvcv1.TurnState_TURN_STATE_RUNNING {
			t.Errorf("CONTINUE: %v", turn)
		}
		ended, err := c.chat.CancelTurn(t.Context(), &chatsvcv1.CancelTurnRequest{Name: turn.GetName()})
		if err != nil || ended.GetState() != chatsvcv1.TurnState_TURN_STATE_CANCELLED {
			t.Errorf("CancelTurn: %v, %v", ended, err)
		}
		again, err := c.chat.CancelTurn(t.Context(), &chatsvcv1.CancelTurnRequest{Name: turn.GetName()})
		if err != nil || again.GetEndTime().AsTime() != ended.GetEndTime().AsTime() {
			t.Errorf("a second CancelTurn: %v, %v", again, err)
		}
	}
	eventually(t, time.Second, "no upstream call is left", func() bool { return p.simulator.Stats().OpenStreams == 0 })
}

func TestDelete(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	c := p.dial(t, redKey)

	conv := c.newConversation(t)
	name, stream := begin(t, t.Context(), c, &chatsvcv1.CreateTurnRequest{Conversation: conv, Text: hang})
	if _, err := c.conv.DeleteConversation(t.Context(), &chatsvcv1.DeleteConversationRequest{Name: conv}); err != nil {
		t.Fatal(err)
	}
	events, err := collect(stream)
	wantReason(t, err, codes.Canceled, "TURN_CANCELLED")
	if len(events) == 0 || events[len(events)-1].GetTerminal() == nil {
		t.Errorf("the reader saw %v, want a terminal event", events)
	}
	_, err = c.chat.GetTurn(t.Context(), &chatsvcv1.GetTurnRequest{Name: name})
	wantReason(t, err, codes.NotFound, "NOT_FOUND")
	watch, err := c.chat.WatchTurn(t.Context(), &chatsvcv1.WatchTurnRequest{Name: name}) // its log may be there yet
	if err == nil {
		_, err = collect(watch)
	}
	wantReason(t, err, codes.NotFound, "NOT_FOUND")

	oneShot, _ := begin(t, t.Context(), c, &chatsvcv1.CreateTurnRequest{Text: hang})
	if _, err := c.chat.DeleteTurn(t.Context(), &chatsvcv1.DeleteTurnRequest{Name: oneShot}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err = c.chat.DeleteTurn(t.Context(), &chatsvcv1.DeleteTurnRequest{Name: oneShot})
		wantReason(t, err, codes.NotFound, "NOT_FOUND")
	}
}

// The name of a turn is known from its admission on, in unary calls too: a caller that loses the connection needs it.
func TestNameComesAtAdmission(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	c := p.dial(t, redKey)
	stream, err := c.conn.NewStream(t.Context(), &grpc.StreamDesc{}, chatsvcv1.ChatService_CreateTurn_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(&chatsvcv1.CreateTurnRequest{Text: hang}); err != nil {
		t.Fatal(err)
	}
	header, err := stream.Header() // comes while the turn runs
	if err != nil || len(header.Get("chatsvc-turn")) != 1 {
		t.Fatalf("header %v, %v", header, err)
	}
	turn, err := c.chat.CancelTurn(t.Context(), &chatsvcv1.CancelTurnRequest{Name: header.Get("chatsvc-turn")[0]})
	if err != nil || turn.GetState() != chatsvcv1.TurnState_TURN_STATE_CANCELLED {
		t.Errorf("%v, %v", turn, err)
	}
}

// A stopping server says so, lets turns end within its grace, and ends the others with a reason.
func TestShutdown(t *testing.T) {
	t.Parallel()
	p := serve(t, "limits:\n  shutdown_grace: 2s\n")
	c := p.dial(t, redKey)
	_, quick := begin(t, t.Context(), c, &chatsvcv1.CreateTurnRequest{Text: slowly})
	_, stuck := begin(t, t.Context(), c, &chatsvcv1.CreateTurnRequest{Text: hang})
	health, err := healthpb.NewHealthClient(c.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "chatsvc.v1.ChatService"})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := health.Recv(); err != nil || first.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health before: %v, %v", first, err)
	}

	code := make(chan int, 1)
	began := time.Now()
	go func() { code <- p.stop() }()
	if then, err := health.Recv(); err != nil || then.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health then: %v, %v", then, err)
	}
	events, err := collect(quick)
	if err != nil || events[len(events)-1].GetTerminal().GetTurn().GetState() != chatsvcv1.TurnState_TURN_STATE_COMPLETED {
		t.Errorf("the quick turn ended %v", err)
	}
	noted := false
	for _, e := range events {
		noted = noted || e.GetDraining() != nil
	}
	if !noted {
		t.Error("the reader was not told that the server stops")
	}
	resp, err := http.Get("http://" + p.admin + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz of a stopping server: %s", resp.Status)
	}
	_, err = collect(stuck)
	wantReason(t, err, codes.Unavailable, "DRAINING")
	if got := <-code; got != 0 {
		t.Errorf("exit code %d", got)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if _, err := c.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Text: "hi"}); status.Code(err) != codes.Unavailable {
		t.Errorf("after the stop: %v", err)
	}
}

func TestAdminListener(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	for _, path := range []string{"/livez", "/readyz"} {
		resp, err := http.Get("http://" + p.admin + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK || string(body) != "ok\n" {
			t.Errorf("%s: %s %q", path, resp.Status, body)
		}
	}
}
