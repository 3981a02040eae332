package turn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
	"github.com/chatsvc/chatsvc/internal/telemetry"
)

// run is one turn as this process runs it.
type run struct {
	e       *Engine
	turn    *conversation.Turn // as admitted; never changed
	request *provider.Request  // what is sent; dropped when it has been
	log     log
	// ctx is the turn's own: it ends with the turn's deadline, a cancellation or the server's stop, and its cause says which.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// done is closed when the end is durable and in the log, or when this process gave up to write it.
	done chan struct{}
	// waiting is closed when the end has to wait for the store, and lost when it has waited for too long.
	waiting, lost chan struct{}

	arrived     time.Time
	contextTime time.Duration
	inputTokens int64

	mu       sync.Mutex
	creators int

	// Of the engine, under its lock.
	keepUntil time.Time
	keptBytes int
}

// creatorLeft notes that a caller that created the turn reads it no more.
func (r *run) creatorLeft() {
	r.mu.Lock()
	r.creators--
	last := r.creators == 0
	r.mu.Unlock()
	if last && r.turn.OnDisconnect == conversation.DisconnectCancel {
		r.cancel(errCancelled) // does nothing to a turn that has ended
	}
}

// generate makes the call, appends what comes to the log, and ends the turn. It does not return before the end is
// durable, or given up.
func (r *run) generate() {
	defer close(r.done)
	defer r.cancel(nil)
	r.finish(r.attempt())
}

// recovered logs a panic, which is to end this turn and not all the others. What it says may be content, so only its
// beginning is logged.
func (r *run) recovered(ctx context.Context, p any) error {
	r.e.o.Logger.ErrorContext(ctx, "panic in a turn", "turn", uuid.UUID(r.turn.ID),
		"panic", fmt.Sprintf("%.256v", p), "stack", string(debug.Stack()))
	return conversation.Errorf(conversation.Internal, "a fault in chatsvc ended the turn")
}

// ended is how an attempt ended.
type ended struct {
	output  output
	outcome provider.Outcome
	err     error // nil after a positive end marker
	opened  bool  // the provider had accepted the call
	began   time.Time
	first   time.Time // of the first piece; zero if none came
	last    time.Time
}

// attempt makes one call to the provider.
func (r *run) attempt() (end *ended) {
	ctx, span := r.e.o.Tracer.Start(r.ctx, telemetry.OperationChat+" "+r.request.Model,
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(r.requestAttributes()...))
	end = &ended{began: time.Now()}
	defer func() {
		if p := recover(); p != nil {
			end.err = r.recovered(ctx, p)
		}
		end.last = time.Now()
		if span.IsRecording() {
			span.SetAttributes(outcomeAttributes(end)...)
		}
		if end.err != nil && !errors.Is(end.err, errOutputFull) {
			setStatus(span, end.err)
		}
		span.End()
	}()
	r.log.append(end.began, conversation.Event{Kind: conversation.EventAttemptStarted, Attempt: 1, Model: r.request.Model})

	request := r.request
	r.request = nil // the history is the provider's now; a run is kept for longer
	stream, err := r.e.o.Provider.Generate(ctx, request)
	if err != nil {
		end.err = r.because(err)
		return end
	}
	end.opened = true
	defer func() { _ = stream.Close() }()
	for {
		events, err := stream.Next()
		if len(events) > 0 {
			now := time.Now()
			if end.first.IsZero() {
				end.first = now
			}
			for i := range events {
				if !end.output.add(&events[i]) {
					err = conversation.Errorf(conversation.UpstreamUnavailable, "OpenAI's stream made no sense")
					events = events[:i]
					break
				}
			}
			r.log.append(now, events...)
		}
		if err == nil && (end.output.bytes > r.e.o.MaxOutputBytes || r.log.size() > maxLogBytes) {
			err = errOutputFull
		}
		if err != nil {
			end.outcome = stream.Outcome()
			if !errors.Is(err, io.EOF) {
				end.err = r.because(err)
			}
			return end
		}
	}
}

// maxLogBytes ends an answer that comes in so small pieces that it is the pieces which take the memory.
const maxLogBytes = 64 << 20

// because returns why a generation that ended with err really ended: the cause of the turn's context where it has ended.
func (r *run) because(err error) error {
	if r.ctx.Err() != nil && !errors.Is(err, errOutputFull) {
		return context.Cause(r.ctx)
	}
	return err
}
