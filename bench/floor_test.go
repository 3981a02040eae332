package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// startFloor serves a floor before a fresh simulator, and returns its client and the simulator's URL.
func startFloor(t *testing.T, pooled bool) (chatsvcv1.ChatServiceClient, string) {
	t.Helper()
	simulator := newSimulator()
	upstream := httptest.NewUnstartedServer(nil)
	upstream.Config = simulator
	upstream.Start()
	t.Cleanup(upstream.Close)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	chatsvcv1.RegisterChatServiceServer(server, newFloor(upstream.URL+"/v1", pooled))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serving the floor: %v", err)
		}
	})
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return chatsvcv1.NewChatServiceClient(conn), upstream.URL
}

func TestFloorForwards(t *testing.T) {
	for name, pooled := range map[string]bool{"default": false, "pooled": true} {
		t.Run(name, func(t *testing.T) {
			client, upstream := startFloor(t, pooled)
			turn, err := client.CreateTurn(t.Context(), workload{Tokens: 20}.request())
			if err != nil {
				t.Fatal(err)
			}
			if words := len(strings.Fields(turn.GetOutputText())); words < 10 {
				t.Errorf("20 tokens are %q", turn.GetOutputText())
			}

			const streams, tokens = 5, 30
			for range streams {
				stream, err := client.StreamTurn(t.Context(), workload{Stream: true, Tokens: tokens}.request())
				if err != nil {
					t.Fatal(err)
				}
				text, first, messages, err := readText(stream, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				if messages != tokens || first <= 0 || !strings.HasPrefix(text, turn.GetOutputText()[:20]) {
					t.Errorf("%d messages for %d tokens, the first after %v: %q", messages, tokens, first, text)
				}
			}

			did, err := readCounts(t.Context(), http.DefaultClient, upstream)
			if err != nil {
				t.Fatal(err)
			}
			if did.Calls != 1+streams || did.Answered != 1+streams || did.Tokens != 20+streams*tokens {
				t.Errorf("the simulator did %+v", did)
			}
			if pooled && did.Connections != 2 { // the other one asked for the counts
				t.Errorf("%d connections for calls one after the other, want 1", did.Connections-1)
			}
		})
	}
}

func TestFloorPassesErrorsOn(t *testing.T) {
	client, _ := startFloor(t, false)
	req := &chatsvcv1.CreateTurnRequest{Model: "gpt-4o-mini", Text: "[[sim fault=500]]"}
	if _, err := client.CreateTurn(t.Context(), req); status.Code(err) != codes.Unknown {
		t.Errorf("CreateTurn: %v", err)
	}
	stream, err := client.StreamTurn(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := readText(stream, time.Now()); status.Code(err) != codes.Unknown {
		t.Errorf("StreamTurn: %v", err)
	}
}
