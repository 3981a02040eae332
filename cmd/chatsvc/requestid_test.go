package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// Two hundred callers with one request_id, on two replicas, get one answer that was generated once, while it is generated
// and afterwards.
func TestOneRequestIDManyCalls(t *testing.T) {
	t.Parallel()
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		manyCalls(t, postgres(t), 2)
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		manyCalls(t, "sqlite:"+filepath.Join(t.TempDir(), "chatsvc.db"), 1)
	})
}

func manyCalls(t *testing.T, databaseURL string, replicas int) {
	t.Helper()
	const calls = 200
	up := newUpstream(t)
	var clients []*client
	for i := range replicas {
		clients = append(clients, serveOn(t, databaseURL, up.at(i), "log:\n  level: error\n").dial(t, redKey))
	}
	for _, conversation := range []string{"", clients[0].newConversation(t)} {
		id := fmt.Sprintf("many.%d", len(conversation))
		request := &chatsvcv1.CreateTurnRequest{Conversation: conversation, RequestId: id, Text: question(id, 40, 40)}
		var first *chatsvcv1.Turn
		for wave := range 2 {
			turns, logs := callAtOnce(t, clients, request, calls)
			if first == nil {
				first = turns[0]
				if _, err := callOf(textOf(first), id, 40); err != nil {
					t.Error(err)
				}
			}
			for _, turn := range turns {
				if !proto.Equal(turn, first) {
					t.Fatalf("wave %d: %v was answered, and %v", wave, first, turn)
				}
			}
			for _, log := range logs {
				if !slices.Equal(log, logs[0]) {
					t.Errorf("wave %d: two streams of one turn differ", wave)
				}
			}
			if n := up.countOf(id); n != 1 {
				t.Errorf("wave %d: %d calls upstream, want 1", wave, n)
			}
		}
		for _, c := range clients {
			other := proto.CloneOf(request)
			other.Text += " "
			_, err := c.chat.CreateTurn(t.Context(), other)
			wantReason(t, err, codes.AlreadyExists, "REQUEST_ID_REUSED")
			found, err := c.chat.ListTurns(t.Context(), &chatsvcv1.ListTurnsRequest{RequestId: id})
			if err != nil || len(found.GetTurns()) != 1 {
				t.Errorf("turns with the id: %v, %v; want one", found, err)
			}
		}
	}
}

// callAtOnce makes calls of a request at the same time, every other one streamed, on the clients by turns. It returns the
// turns that they got, and the logs of those that were streamed.
func callAtOnce(t *testing.T, clients []*client, request *chatsvcv1.CreateTurnRequest, calls int) (turns []*chatsvcv1.Turn, logs [][]seen) {
	t.Helper()
	turns = make([]*chatsvcv1.Turn, calls)
	readings := make([]*reading, calls)
	var callers sync.WaitGroup
	start := make(chan struct{})
	for i := range calls {
		c := clients[i/2%len(clients)]
		callers.Go(func() {
			<-start
			if i%2 == 0 {
				turn, err := c.chat.CreateTurn(t.Context(), request)
				if err != nil {
					t.Errorf("call %d: %v", i, err)
				}
				turns[i] = turn
				return
			}
			stream, err := c.chat.StreamTurn(t.Context(), request)
			if err != nil {
				t.Errorf("call %d: %v", i, err)
				return
			}
			events, err := collect(stream)
			if err != nil {
				t.Errorf("call %d: %v", i, err)
			}
			r := readingAfter("", 0)
			for _, e := range events {
				r.add(e)
			}
			if len(r.wrong) > 0 {
				t.Errorf("call %d: %v", i, r.wrong)
			}
			turns[i], readings[i] = r.end, r
		})
	}
	close(start)
	callers.Wait()
	for _, r := range readings {
		if r != nil {
			logs = append(logs, r.events)
		}
	}
	return turns, logs
}
