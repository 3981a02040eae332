package main

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	testConversation = "conversations/01890000-0000-7000-8000-000000000001"
	testTurn         = "turns/01890000-0000-7000-8000-000000000002"
	patience         = 10 * time.Second
)

// scriptedService answers every turn with a script, and remembers what it was asked.
type scriptedService struct {
	chatsvcv1.UnimplementedChatServiceServer
	chatsvcv1.UnimplementedConversationServiceServer

	script    func(*chatsvcv1.CreateTurnRequest, grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error
	messages  []*chatsvcv1.Message
	notFound  error       // of ListMessages
	cancelled chan string // gets the name that CancelTurn is called with

	mu       sync.Mutex
	created  []*chatsvcv1.Conversation
	requests []*chatsvcv1.CreateTurnRequest
	keys     []string
}

func (s *scriptedService) CreateConversation(_ context.Context, r *chatsvcv1.CreateConversationRequest) (*chatsvcv1.Conversation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.created = append(s.created, r.GetConversation())
	return &chatsvcv1.Conversation{Name: testConversation}, nil
}

// ListMessages gives one message per page.
func (s *scriptedService) ListMessages(_ context.Context, r *chatsvcv1.ListMessagesRequest) (*chatsvcv1.ListMessagesResponse, error) {
	at := len(r.GetPageToken())
	if s.notFound != nil {
		return nil, s.notFound
	}
	if at >= len(s.messages) {
		return &chatsvcv1.ListMessagesResponse{}, nil
	}
	return &chatsvcv1.ListMessagesResponse{Messages: s.messages[at : at+1], NextPageToken: strings.Repeat("x", at+1)}, nil
}

func (s *scriptedService) StreamTurn(r *chatsvcv1.CreateTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	s.keys = append(s.keys, strings.Join(metadata.ValueFromIncomingContext(stream.Context(), "authorization"), "|"))
	s.mu.Unlock()
	return s.script(r, stream)
}

func (s *scriptedService) CancelTurn(ctx context.Context, r *chatsvcv1.CancelTurnRequest) (*chatsvcv1.Turn, error) {
	select {
	case s.cancelled <- r.GetName():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &chatsvcv1.Turn{Name: r.GetName(), State: chatsvcv1.TurnState_TURN_STATE_CANCELLED}, nil
}

// asked returns the requests of all turns so far.
func (s *scriptedService) asked() []*chatsvcv1.CreateTurnRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// start serves s on loopback until the test ends.
func (s *scriptedService) start(t *testing.T, options ...grpc.ServerOption) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	chatsvcv1.RegisterChatServiceServer(server, s)
	chatsvcv1.RegisterConversationServiceServer(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return listener.Addr().String()
}

func acceptedEvent() *chatsvcv1.TurnEvent {
	return &chatsvcv1.TurnEvent{Sequence: 1, Event: &chatsvcv1.TurnEvent_Accepted{Accepted: &chatsvcv1.Accepted{Turn: testTurn}}}
}

func textDelta(text string) *chatsvcv1.TurnEvent {
	return &chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_TextDelta{TextDelta: &chatsvcv1.TextDelta{Text: text}}}
}

func terminalEvent(turn *chatsvcv1.Turn) *chatsvcv1.TurnEvent {
	turn.Name = testTurn
	return &chatsvcv1.TurnEvent{Event: &chatsvcv1.TurnEvent_Terminal{Terminal: &chatsvcv1.Terminal{Turn: turn}}}
}

// completed is the end of a turn with this answer.
func completed(answer string) *chatsvcv1.TurnEvent {
	return terminalEvent(&chatsvcv1.Turn{
		State: chatsvcv1.TurnState_TURN_STATE_COMPLETED, FinishReason: chatsvcv1.FinishReason_FINISH_REASON_STOP,
		Model: "sim", OutputText: answer, Usage: &chatsvcv1.Usage{InputTokens: 7, OutputTokens: 3},
	})
}

// sendEvents sends events, and ends the stream with err.
func sendEvents(stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent], err error, events ...*chatsvcv1.TurnEvent) error {
	for _, event := range events {
		if err := stream.Send(event); err != nil {
			return err
		}
	}
	return err
}

// answering is a service that answers each message with itself, in two pieces.
func answering() *scriptedService {
	return &scriptedService{script: func(r *chatsvcv1.CreateTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
		return sendEvents(stream, nil, acceptedEvent(), textDelta("You said: "), textDelta(r.GetText()), completed("You said: "+r.GetText()))
	}}
}

// hanging is a service whose turns with the message "hang" give one word and then wait for CancelTurn.
func hanging() *scriptedService {
	s := answering()
	answer := s.script
	s.cancelled = make(chan string, 1)
	s.script = func(r *chatsvcv1.CreateTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
		if r.GetText() != "hang" {
			return answer(r, stream)
		}
		if err := sendEvents(stream, nil, acceptedEvent(), textDelta("One ")); err != nil {
			return err
		}
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	return s
}

// refusing is a service that refuses each message with an error.
func refusing(code codes.Code, message string, details ...protoadapt.MessageV1) *scriptedService {
	return &scriptedService{script: func(_ *chatsvcv1.CreateTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
		s, err := status.New(code, message).WithDetails(details...)
		if err != nil {
			return err
		}
		return sendEvents(stream, s.Err(), acceptedEvent(), terminalEvent(&chatsvcv1.Turn{State: chatsvcv1.TurnState_TURN_STATE_FAILED}))
	}}
}

func errorInfo(reason string, metadata ...string) *errdetails.ErrorInfo {
	info := &errdetails.ErrorInfo{Domain: "chatsvc", Reason: reason, Metadata: map[string]string{}}
	for i := 0; i < len(metadata); i += 2 {
		info.Metadata[metadata[i]] = metadata[i+1]
	}
	return info
}

// screen is a writer that a test can wait on.
type screen struct {
	mu      sync.Mutex
	text    strings.Builder
	changed chan struct{}
}

func newScreen() *screen { return &screen{changed: make(chan struct{}, 1)} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await waits until the screen shows text.
func (s *screen) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(s.String(), text) {
		select {
		case <-s.changed:
		case <-deadline:
			t.Fatalf("the screen never shows %q, but:\n%s", text, s)
		}
	}
}
