package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// cancelTime is how long the client waits for the service to confirm that a turn is cancelled. The service closes the
// call to the provider within a second.
const cancelTime = 5 * time.Second

// turnResult is how a turn ended, as its caller saw it.
type turnResult struct {
	turn       *chatsvcv1.Turn // as stored; nil if the service did not say
	name       string          // of the turn; empty if it was not created
	err        error           // why there is no answer; nil if there is one, or if cancelled
	cancelled  bool            // by an interrupt
	firstDelta time.Duration   // from the call to the first piece of the answer; 0 if none came
	total      time.Duration   // from the call to its end
}

// errNoEnd is never seen from a service that keeps its contract.
var errNoEnd = errors.New("the stream ended well, but without an answer")

// runTurn runs a turn and gives its events to show, in order and one at a time, until it ends or an interrupt comes.
// An interrupt cancels the turn; a second one does not wait for the service to confirm it.
func runTurn(
	ctx context.Context, service chatsvcv1.ChatServiceClient, request *chatsvcv1.CreateTurnRequest,
	interrupts <-chan os.Signal, show func(*chatsvcv1.TurnEvent),
) turnResult {
	var (
		r         turnResult
		calls     sync.WaitGroup
		events    = make(chan *chatsvcv1.TurnEvent)
		ended     = make(chan error, 1)
		confirmed = make(chan *chatsvcv1.Turn, 1)
	)
	ctx, hangUp := context.WithCancel(ctx)
	defer calls.Wait()
	defer hangUp()

	started := time.Now()
	calls.Go(func() { ended <- receive(ctx, service, request, events) })
	for {
		select {
		case event := <-events:
			r.note(event, time.Since(started))
			if !r.cancelled {
				show(event)
			}
		case <-interrupts:
			if r.cancelled || r.name == "" {
				hangUp() // the service cancels a turn that lost its last reader
			} else {
				name := r.name
				calls.Go(func() { confirmed <- cancelTurn(ctx, service, name) })
			}
			r.cancelled = true
		case turn := <-confirmed:
			if turn != nil {
				r.turn = turn
			}
			hangUp()
		case err := <-ended:
			r.total = time.Since(started)
			switch {
			case r.cancelled:
			case err == nil && !r.answered():
				r.err = errNoEnd
			default:
				r.err = err
			}
			return r
		}
	}
}

// note remembers what an event says about the turn.
func (r *turnResult) note(event *chatsvcv1.TurnEvent, sinceStart time.Duration) {
	switch e := event.GetEvent().(type) {
	case *chatsvcv1.TurnEvent_Accepted:
		r.name = oneLine(e.Accepted.GetTurn())
	case *chatsvcv1.TurnEvent_TextDelta, *chatsvcv1.TurnEvent_ReasoningDelta,
		*chatsvcv1.TurnEvent_RefusalDelta, *chatsvcv1.TurnEvent_ToolCallDelta:
		if r.firstDelta == 0 {
			r.firstDelta = sinceStart
		}
	case *chatsvcv1.TurnEvent_Terminal:
		r.turn = e.Terminal.GetTurn()
	}
}

// receive reads a turn's stream until it ends. It returns nil only for a stream that ended well.
func receive(
	ctx context.Context, service chatsvcv1.ChatServiceClient, request *chatsvcv1.CreateTurnRequest, events chan<- *chatsvcv1.TurnEvent,
) error {
	stream, err := service.StreamTurn(ctx, request)
	if err != nil {
		return err
	}
	for {
		event, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		select {
		case events <- event:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// cancelTurn returns the turn as it ended, or nil if the service does not confirm it in time.
func cancelTurn(ctx context.Context, service chatsvcv1.ChatServiceClient, name string) *chatsvcv1.Turn {
	ctx, cancel := context.WithTimeout(ctx, cancelTime)
	defer cancel()
	turn, err := service.CancelTurn(ctx, &chatsvcv1.CancelTurnRequest{Name: name})
	if err != nil {
		return nil // hanging up cancels it as well
	}
	return turn
}

// answered reports whether the turn is part of the conversation: also one that had ended before it could be cancelled.
func (r *turnResult) answered() bool {
	switch r.turn.GetState() {
	case chatsvcv1.TurnState_TURN_STATE_COMPLETED, chatsvcv1.TurnState_TURN_STATE_INCOMPLETE:
		return r.err == nil
	default:
		return false
	}
}

// jsonLine is the line that --json prints for a turn.
type jsonLine struct {
	Turn    json.RawMessage `json:"turn,omitempty"`
	Error   *callError      `json:"error,omitempty"`
	Latency *jsonLatency    `json:"latency,omitempty"`
}

// jsonLatency is what the client measured, in milliseconds from the call.
type jsonLatency struct {
	TimeToFirstTokenMs *float64 `json:"timeToFirstTokenMs,omitempty"`
	TotalMs            float64  `json:"totalMs"`
}

// encodeJSONLine returns the line for r, with failure as its error, if any.
func encodeJSONLine(r turnResult, failure *callError) (string, error) {
	line := jsonLine{Error: failure}
	milliseconds := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	if r.total > 0 {
		line.Latency = &jsonLatency{TotalMs: milliseconds(r.total)}
		if r.firstDelta > 0 {
			line.Latency.TimeToFirstTokenMs = new(milliseconds(r.firstDelta))
		}
	}
	if r.turn != nil {
		turn, err := protojson.Marshal(r.turn)
		if err != nil {
			return "", fmt.Errorf("encode the turn: %w", err)
		}
		line.Turn = turn
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(line); err != nil { // also removes the spaces that protojson strews in
		return "", fmt.Errorf("encode the line: %w", err)
	}
	return b.String(), nil
}
