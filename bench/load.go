package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// A workload is a call that is made again and again.
type workload struct {
	Name   string
	Stream bool
	Tokens int // of each answer
	// Repeatable: each call has a request_id of its own, as chatclient sends it.
	Repeatable bool
	// Dialogue is how many calls go on in one conversation; then the caller creates the next one. 0 is one-shot.
	Dialogue int
}

// floorWorkloads are what chatsvc and the floors are measured with: a short answer as a whole, and a long one token by
// token, as fast as the upstream sends.
func floorWorkloads() []workload {
	return []workload{
		{Name: "unary", Tokens: 20},
		{Name: "stream", Stream: true, Tokens: 200},
	}
}

// storeWorkloads are what stores are measured with: short answers, so that a turn is mostly its records. That a
// conversation is created for every ten turns is part of what they cost, and not of their latency.
func storeWorkloads() []workload {
	return []workload{
		{Name: "one-shot turns", Tokens: 20, Repeatable: true},
		{Name: "turns in conversations of ten", Tokens: 20, Repeatable: true, Dialogue: 10},
	}
}

// request returns the call. The directive in its text tells the simulator how long the answer is.
func (w workload) request() *chatsvcv1.CreateTurnRequest {
	return &chatsvcv1.CreateTurnRequest{
		Text:  fmt.Sprintf("Say something. [[sim tokens=%d]]", w.Tokens),
		Model: "gpt-4o-mini",
	}
}

// callTimeout bounds one call. None should come near it.
const callTimeout = 30 * time.Second

// callersPerConnection parts the callers into several connections, as several services would come; one alone would have
// its one writer as the bottleneck.
const callersPerConnection = 16

// A tally is what callers saw.
type tally struct {
	elapsed   time.Duration   // from the start of the first call to the end of the last
	latencies []time.Duration // one for each call
	firsts    []time.Duration // until the first text; of streams only
	messages  int             // with text; of streams only
}

// drive makes callers repeat the call for as long as duration, and then waits for the calls that still run: all that
// was begun is counted, so that CPU and counts taken before and after belong to exactly these calls. An answer other
// than want, or an error, ends it.
func drive(ctx context.Context, conns []*grpc.ClientConn, callers int, w workload, want string, duration time.Duration) (tally, error) {
	group, ctx := errgroup.WithContext(ctx)
	all := make([]*caller, callers)
	start := time.Now()
	for i := range all {
		conn := conns[i%len(conns)]
		c := &caller{chat: chatsvcv1.NewChatServiceClient(conn), conversations: chatsvcv1.NewConversationServiceClient(conn)}
		all[i] = c
		group.Go(func() error {
			for time.Since(start) < duration {
				if err := c.call(ctx, w, want); err != nil {
					return fmt.Errorf("%s: %w", w.Name, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return tally{}, err
	}
	total := tally{elapsed: time.Since(start)}
	for _, c := range all {
		total.latencies = append(total.latencies, c.seen.latencies...)
		total.firsts = append(total.firsts, c.seen.firsts...)
		total.messages += c.seen.messages
	}
	slices.Sort(total.latencies)
	slices.Sort(total.firsts)
	return total, nil
}

// A caller makes one call after the other.
type caller struct {
	chat          chatsvcv1.ChatServiceClient
	conversations chatsvcv1.ConversationServiceClient
	seen          tally
	conversation  string // name of the one that it is in
	left          int    // calls until it begins another
}

// call makes one call.
func (c *caller) call(ctx context.Context, w workload, want string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req := w.request()
	if w.Repeatable {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		req.RequestId = id.String()
	}
	if w.Dialogue > 0 {
		if err := c.converse(ctx, w.Dialogue); err != nil {
			return err
		}
		req.Conversation = c.conversation
	}
	start := time.Now()
	if !w.Stream {
		turn, err := c.chat.CreateTurn(ctx, req)
		if err != nil {
			return err
		}
		c.seen.latencies = append(c.seen.latencies, time.Since(start))
		return same(turn.GetOutputText(), want)
	}
	stream, err := c.chat.StreamTurn(ctx, req)
	if err != nil {
		return err
	}
	got, first, messages, err := readText(stream, start)
	if err != nil {
		return err
	}
	c.seen.latencies = append(c.seen.latencies, time.Since(start))
	c.seen.firsts = append(c.seen.firsts, first)
	c.seen.messages += messages
	return same(got, want)
}

// converse begins a conversation where the last one has had all its calls.
func (c *caller) converse(ctx context.Context, calls int) error {
	if c.left > 0 {
		c.left--
		return nil
	}
	created, err := c.conversations.CreateConversation(ctx, &chatsvcv1.CreateConversationRequest{})
	if err != nil {
		return fmt.Errorf("creating a conversation: %w", err)
	}
	c.conversation, c.left = created.GetName(), calls-1
	return nil
}

// readText reads stream to its end. It returns the text, when its first piece came after start, and in how many messages
// it came.
func readText(stream grpc.ServerStreamingClient[chatsvcv1.TurnEvent], start time.Time) (text string, first time.Duration, messages int, err error) {
	var b []byte
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return string(b), first, messages, nil
		}
		if err != nil {
			return "", 0, 0, err
		}
		delta := event.GetTextDelta()
		if delta == nil {
			continue
		}
		if messages == 0 {
			first = time.Since(start)
		}
		messages++
		b = append(b, delta.GetText()...)
	}
}

// same returns an error unless the answer is the one that the simulator gives: a fast wrong answer is no measurement.
func same(got, want string) error {
	if got != want {
		return fmt.Errorf("the answer has %d bytes and is not the simulator's, which has %d", len(got), len(want))
	}
	return nil
}
