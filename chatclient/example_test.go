package chatclient_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// The first answer, as one text.
func Example() {
	address, stop := serveExample()
	defer stop()

	conn, err := chatclient.Dial(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // it only fails when closed already
	client := chatclient.New(conn, chatclient.Options{})

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer dev")
	text, err := client.Stream(ctx, &chatsvcv1.CreateTurnRequest{Text: "Bonjour"}).Text()
	if err != nil {
		log.Fatal(err, chatclient.Reason(err))
	}
	fmt.Println(text)
	// Output: Bonjour à vous.
}

// An answer shown as it is generated, by a program that can take back what it shows.
func ExampleStream_Events() {
	address, stop := serveExample()
	defer stop()
	conn, err := chatclient.Dial(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // it only fails when closed already

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream := chatclient.New(conn, chatclient.Options{}).Stream(ctx, &chatsvcv1.CreateTurnRequest{Text: "Bonjour"})
	for event, err := range stream.Events() {
		if err != nil {
			log.Fatal(err)
		}
		switch e := event.GetEvent().(type) {
		case *chatsvcv1.TurnEvent_TextDelta:
			fmt.Printf("%q\n", e.TextDelta.GetText())
		case *chatsvcv1.TurnEvent_OutputReset:
			fmt.Println("(forget that)")
		}
	}
	fmt.Println(stream.Turn().GetState())
	// Output:
	// "Bonjour "
	// "à vous."
	// TURN_STATE_COMPLETED
}

// An answer passed on piece by piece, to a reader that cannot take anything back.
func ExampleStream_TextDeltas() {
	address, stop := serveExample()
	defer stop()
	conn, err := chatclient.Dial(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // it only fails when closed already

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream := chatclient.New(conn, chatclient.Options{}).Stream(ctx, &chatsvcv1.CreateTurnRequest{Text: "Bonjour"})
	for piece, err := range stream.TextDeltas() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(piece)
	}
	// Output: Bonjour à vous.
}

// polite is a service that knows one answer.
type polite struct {
	chatsvcv1.UnimplementedChatServiceServer
}

func (polite) StreamTurn(_ *chatsvcv1.CreateTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
	turn := &chatsvcv1.Turn{
		Name: "turns/01890a5d-ac96-774b-bcce-b302099a8057", State: chatsvcv1.TurnState_TURN_STATE_COMPLETED, OutputText: "Bonjour à vous.",
	}
	for i, event := range []*chatsvcv1.TurnEvent{
		{Event: &chatsvcv1.TurnEvent_Accepted{Accepted: &chatsvcv1.Accepted{Turn: turn.GetName()}}},
		text("Bonjour "),
		text("à vous."),
		{Event: &chatsvcv1.TurnEvent_Terminal{Terminal: &chatsvcv1.Terminal{Turn: turn}}},
	} {
		event.Sequence = int64(i) + 1
		if err := stream.Send(event); err != nil {
			return err
		}
	}
	return nil
}

// serveExample serves the examples on loopback.
func serveExample() (address string, stop func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	chatsvcv1.RegisterChatServiceServer(server, polite{})
	healthy := health.NewServer()
	healthy.SetServingStatus(chatsvcv1.ChatService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, healthy)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); err != nil {
			log.Print(err)
		}
	})
	return listener.Addr().String(), func() {
		server.Stop()
		serving.Wait()
	}
}
