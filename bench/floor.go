package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/sashabaranov/go-openai"
	"google.golang.org/grpc"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const floorCommand = "floor"

// runFloor serves the floor until ctx ends.
func runFloor(ctx context.Context, args []string, _, stderr io.Writer) error {
	flags := flag.NewFlagSet(floorCommand, flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "", "address")
	upstream := flags.String("upstream", "", "base URL of the upstream")
	pooled := flags.Bool("pooled", false, "keep upstream connections")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", *listen)
	if err != nil {
		return fmt.Errorf("listening for the floor: %w", err)
	}
	server := grpc.NewServer()
	chatsvcv1.RegisterChatServiceServer(server, newFloor(*upstream, *pooled))
	defer context.AfterFunc(ctx, server.Stop)()
	return server.Serve(listener)
}

// floor forwards the text of a request to the upstream, and what comes back to the caller. It does nothing else: what it
// costs is what grpc-go and go-openai cost.
type floor struct {
	chatsvcv1.UnimplementedChatServiceServer
	client *openai.Client
}

// newFloor returns the floor before the upstream at baseURL. Without pooled, go-openai and its transport are as they come
// out of the box.
func newFloor(baseURL string, pooled bool) *floor {
	config := openai.DefaultConfig(upstreamKey)
	config.BaseURL = baseURL
	if pooled {
		config.HTTPClient = drained{&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024}}}
	}
	return &floor{client: openai.NewClientWithConfig(config)}
}

// CreateTurn asks for the whole answer as one body. chatsvc streams every turn from upstream; a forwarder would not.
func (f *floor) CreateTurn(ctx context.Context, req *chatsvcv1.CreateTurnRequest) (*chatsvcv1.Turn, error) {
	answer, err := f.client.CreateChatCompletion(ctx, completion(req))
	if err != nil {
		return nil, err
	}
	if len(answer.Choices) == 0 {
		return nil, errors.New("the upstream gave no choice")
	}
	return &chatsvcv1.Turn{
		State:      chatsvcv1.TurnState_TURN_STATE_COMPLETED,
		OutputText: answer.Choices[0].Message.Content,
	}, nil
}

// StreamTurn sends each piece of text as it comes from Recv.
func (f *floor) StreamTurn(req *chatsvcv1.CreateTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
	upstream, err := f.client.CreateChatCompletionStream(stream.Context(), completion(req))
	if err != nil {
		return err
	}
	defer func() { _ = upstream.Close() }() // it was only read
	for {
		chunk, err := upstream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(chunk.Choices) == 0 || chunk.Choices[0].Delta.Content == "" {
			continue
		}
		if err := stream.Send(&chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_TextDelta{
			TextDelta: &chatsvcv1.TextDelta{Text: chunk.Choices[0].Delta.Content},
		}}); err != nil {
			return err
		}
	}
}

func completion(req *chatsvcv1.CreateTurnRequest) openai.ChatCompletionRequest {
	return openai.ChatCompletionRequest{
		Model:    req.GetModel(),
		Messages: []openai.ChatCompletionMessage{{Role: openai.ChatMessageRoleUser, Content: req.GetText()}},
	}
}

// drained reads response bodies to their end when they are closed. go-openai stops reading at [DONE], just before the
// end, and HTTP/1.1 gives a connection back only after it: without this no streamed call leaves one to the next,
// however large the pool is.
type drained struct{ client *http.Client }

// Do sends req.
func (d drained) Do(req *http.Request) (*http.Response, error) {
	res, err := d.client.Do(req) //nolint:gosec // The upstream is the simulator, by a flag.
	if err == nil {
		res.Body = drainedBody{res.Body}
	}
	return res, err
}

type drainedBody struct{ io.ReadCloser }

// Close reads what is left, up to 4 KiB, and closes the body.
func (b drainedBody) Close() error {
	_, _ = io.CopyN(io.Discard, b.ReadCloser, 4<<10) // a body that cannot be read on only costs its connection
	return b.ReadCloser.Close()
}
