package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// A workload is a call that is made again and again.
type workload struct {
	Name   string
	Stream bool
	Tokens int // of each answer
}

// workloads are what is measured: a short answer as a whole, and a long one token by token, as fast as the upstream sends.
func workloads() []workload {
	return []workload{
		{Name: "unary", Tokens: 20},
		{Name: "stream", Stream: true, Tokens: 200},
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
func drive(ctx context.Context, clients []chatsvcv1.ChatServiceClient, callers int, w workload, want string, duration time.Duration) (tally, error) {
	group, ctx := errgroup.WithContext(ctx)
	tallies := make([]tally, callers)
	start := time.Now()
	for i := range tallies {
		client := clients[i%len(clients)]
		group.Go(func() error {
			for time.Since(start) < duration {
				if err := tallies[i].call(ctx, client, w, want); err != nil {
					return fmt.Errorf("%s call: %w", w.Name, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return tally{}, err
	}
	total := tally{elapsed: time.Since(start)}
	for _, t := range tallies {
		total.latencies = append(total.latencies, t.latencies...)
		total.firsts = append(total.firsts, t.firsts...)
		total.messages += t.messages
	}
	slices.Sort(total.latencies)
	slices.Sort(total.firsts)
	return total, nil
}

// call makes one call and adds it to t.
func (t *tally) call(ctx context.Context, client chatsvcv1.ChatServiceClient, w workload, want string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	start := time.Now()
	if !w.Stream {
		turn, err := client.CreateTurn(ctx, w.request())
		if err != nil {
			return err
		}
		t.latencies = append(t.latencies, time.Since(start))
		return same(turn.GetOutputText(), want)
	}
	stream, err := client.StreamTurn(ctx, w.request())
	if err != nil {
		return err
	}
	got, first, messages, err := readText(stream, start)
	if err != nil {
		return err
	}
	t.latencies = append(t.latencies, time.Since(start))
	t.firsts = append(t.firsts, first)
	t.messages += messages
	return same(got, want)
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
