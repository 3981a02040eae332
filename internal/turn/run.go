package turn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
	"github.com/chatsvc/chatsvc/internal/telemetry"
)

// run is one turn as this process runs it.
type run struct {
	e    *Engine
	turn *conversation.Turn // as recorded first, or taken over; without input; never changed
	log  log
	// takeovers is how often the turn was taken over until this process got it: what is written for it says so.
	takeovers int
	// ctx is the turn's own: it ends with the turn's deadline, a cancellation or the server's stop, and its cause says which.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// recorded: the store has it. over: its end is durable.
	recorded, over atomic.Bool
	// done is closed when the end is durable and in the log, or when this process has nothing more to do with the turn.
	done chan struct{}
	// waiting is closed when the end has to wait for the store, and lost when it has waited for too long.
	waiting, lost chan struct{}
	// fenced is closed when the turn is found to be another owner's.
	fenced chan struct{}

	waits1, fence1 sync.Once

	presence presence

	// Known when done is closed: how the turn ended, or what readers are told because that is not known here. Both are nil
	// where they are to read on in the store.
	ended *conversation.Turn
	gone  error

	// Of the goroutine that runs the turn, once there is one.
	ask     *Request            // nil once the request is sent
	taken   *conversation.Taken // how it was taken over; nil if it was begun here, and once it is gone on with
	now     *conversation.Turn  // as recorded last
	base    conversation.Place  // where the input goes, where there is no request yet
	request *provider.Request   // what is sent; nil before it is composed, and when it was sent

	arrived                time.Time
	queueTime, contextTime time.Duration
	inputTokens            int64   // of the whole request
	sizes                  []int64 // of the input, as stored
}

// newRun returns a run of a turn that ends at a deadline.
func (e *Engine) newRun(t *conversation.Turn, deadline time.Time, caller trace.SpanContext) *run {
	r := &run{
		e: e, turn: t, now: t,
		done: make(chan struct{}), waiting: make(chan struct{}), lost: make(chan struct{}), fenced: make(chan struct{}),
	}
	ctx := trace.ContextWithSpanContext(e.stop, caller)
	ctx, release := context.WithDeadlineCause(ctx, deadline, errDeadline)
	ctx, cancel := context.WithCancelCause(ctx)
	r.ctx, r.cancel = ctx, func(cause error) { cancel(cause); release() }
	return r
}

// batch returns events as they are appended in the store.
func (r *run) batch(events []conversation.Event) conversation.EventBatch {
	return conversation.EventBatch{Team: r.turn.Team, Turn: r.turn.ID, Takeovers: r.takeovers, Events: events}
}

// append appends events to the log, and has them made durable.
func (r *run) append(now time.Time, events ...conversation.Event) {
	if r.log.append(now, events...) {
		r.e.appender.add(r)
	}
}

// fence notes that the turn is another owner's: whatever goes on for it here stops, and nothing more is written.
func (r *run) fence() {
	r.fence1.Do(func() { close(r.fenced) })
	r.cancel(errFenced)
}

// live runs the turn to its end. It does not return before the end is durable, or given up.
func (r *run) live() {
	defer close(r.done)
	defer r.cancel(nil)
	end := r.work()
	if r.leave(end) {
		r.log.seal()
		r.e.forget(r)
		return
	}
	r.finish(end)
}

// leave reports whether the end is not for this process to write.
func (r *run) leave(end *ended) bool {
	switch {
	case isClosed(r.fenced):
		r.e.o.Logger.WarnContext(r.ctx, "turn is another server's", "turn", uuid.UUID(r.turn.ID))
		return true
	case errors.Is(end.err, errStopping) && r.turn.OnDisconnect == conversation.DisconnectContinue:
		r.gone = r.handedOver()
		return true
	default:
		return false
	}
}

// handedOver is what readers are told of a turn that another server goes on with.
func (r *run) handedOver() error {
	return &conversation.Error{
		Reason: conversation.Draining, Turn: r.turn.ID,
		Message: "the server is stopping, and another one goes on with the turn; repeat the call, or watch the turn",
	}
}

// work does what is left to do of the turn until its end.
func (r *run) work() (end *ended) {
	end = &ended{unsent: true, last: time.Now()}
	defer func() {
		if p := recover(); p != nil {
			end.err = r.recovered(r.ctx, p)
		}
	}()
	if r.taken != nil {
		end.err = r.resume()
		r.taken = nil // with its input
		if end.err != nil {
			return end
		}
	}
	if r.now.State == conversation.Queued {
		if end.err = r.wait(); end.err != nil {
			end.last = time.Now()
			return end
		}
	}
	if r.request == nil {
		if end.err = r.compose(); end.err != nil {
			end.last = time.Now()
			return end
		}
	}
	r.ask = nil
	return r.attempt()
}

// recovered logs a panic, which is to end this turn and not all the others. What it says may be content, so only its
// beginning is logged.
func (r *run) recovered(ctx context.Context, p any) error {
	r.e.o.Logger.ErrorContext(ctx, "panic in a turn", "turn", uuid.UUID(r.turn.ID),
		"panic", fmt.Sprintf("%.256v", p), "stack", string(debug.Stack()))
	return conversation.Errorf(conversation.Internal, "a fault in chatsvc ended the turn")
}

// ended is how a turn ended: with its last attempt, or without one of this owner.
type ended struct {
	output  output
	outcome provider.Outcome
	err     error // nil after a positive end marker
	unsent  bool  // this owner has made no attempt
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
	r.append(end.began, conversation.Event{
		Kind: conversation.EventAttemptStarted, Attempt: len(r.now.Result.Attempts), Model: r.request.Model,
	})

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
			bytes, count := r.log.size()
			if room := maxLogEvents - count; bytes > maxLogBytes || len(events) > room {
				events, err = events[:min(len(events), max(0, room))], errOutputFull
			}
			for i := range events {
				if !end.output.add(&events[i]) {
					err = conversation.Errorf(conversation.UpstreamUnavailable, "OpenAI's stream made no sense")
					events = events[:i]
					break
				}
			}
			r.append(now, events...)
		}
		if err == nil && end.output.bytes > r.e.o.MaxOutputBytes {
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

// maxLogBytes and maxLogEvents end an answer that comes in so small pieces that it is the pieces which take the memory, or
// the sequence numbers.
const (
	maxLogBytes  = 64 << 20
	maxLogEvents = conversation.SequenceBlock - 1 // one is the terminal event's
)

// because returns why a generation that ended with err really ended: the cause of the turn's context where it has ended.
func (r *run) because(err error) error {
	if r.ctx.Err() != nil && !errors.Is(err, errOutputFull) {
		return context.Cause(r.ctx)
	}
	return err
}
