package turn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/codes"
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
	end := r.attempt()
	r.finish(end)
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
		if p := recover(); p != nil { // one turn's bug must not end all the others
			end.err = conversation.Errorf(conversation.Internal, "a fault in chatsvc ended the turn")
			r.e.o.Logger.ErrorContext(ctx, "panic in a turn", "turn", uuid.UUID(r.turn.ID), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
		end.last = time.Now()
		span.SetAttributes(outcomeAttributes(end)...)
		if end.err != nil {
			span.SetStatus(codes.Error, string(reasonOf(end.err)))
		}
		span.End()
	}()
	r.log.append(end.began, conversation.Event{Kind: conversation.EventAttemptStarted, Attempt: 1, Model: r.request.Model})

	stream, err := r.e.o.Provider.Generate(ctx, r.request)
	if err != nil {
		end.err = r.because(err)
		return end
	}
	end.opened = true
	r.request = nil // the history need not stay in memory while the answer comes
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

// because returns why a generation that ended with err really ended: the cause of the turn's context where it has ended.
func (r *run) because(err error) error {
	if r.ctx.Err() != nil && !errors.Is(err, errOutputFull) {
		return context.Cause(r.ctx)
	}
	return err
}

// finish makes the turn's end from the attempt's, writes it, and then appends the terminal event.
func (r *run) finish(end *ended) {
	ctx, span := r.e.o.Tracer.Start(context.WithoutCancel(r.ctx), telemetry.SpanEnd)
	defer span.End()
	t := r.final(end)
	record, size := &conversation.End{Turn: t}, newSizer(r.e.o.Tokens, "")
	for i := range t.Output {
		record.OutputTokens = append(record.OutputTokens, size.answer(&t.Output[i], t.Result.Usage))
	}
	t.Result.Timing = r.timing(end)
	span.SetAttributes(telemetry.TurnState.String(t.State.String()), telemetry.Attempts.Int(len(t.Result.Attempts)),
		telemetry.Overhead.Float64(t.Result.Timing.Overhead.Seconds()))
	t, err := r.write(ctx, record)
	if err != nil {
		r.e.o.Logger.ErrorContext(ctx, "turn's end is not written", "turn", uuid.UUID(r.turn.ID), "error", err)
		r.e.forget(r)
		return
	}
	r.log.append(t.EndTime, conversation.Event{Kind: conversation.EventTerminal, Turn: t})
	r.e.keep(r)
	r.report(ctx, t)
}

// final returns the turn as it ends.
func (r *run) final(end *ended) *conversation.Turn {
	t := *r.turn
	t.Input = nil
	t.Output = end.output.messages(newID())
	res := &t.Result
	if end.outcome.Model != "" {
		res.Model = end.outcome.Model
	}
	res.LastSequence = r.log.last() + 1 // the terminal event
	switch {
	case end.err == nil:
		res.FinishReason = end.outcome.Finish
		t.State = end.outcome.Finish.State()
	case errors.Is(end.err, errOutputFull):
		res.FinishReason = conversation.FinishLength
		t.State = conversation.Incomplete
	case errors.Is(end.err, errCancelled):
		t.State = conversation.Cancelled
	default:
		t.State = conversation.Failed
		res.Error = failure(end.err)
		res.Error.Turn = t.ID
	}
	if t.State == conversation.Incomplete {
		t.Output = withoutToolCalls(t.Output)
	}
	t.EndTime = time.Now()

	attempt := r.turn.Result.Attempts[0]
	attempt.State = conversation.AttemptSettled
	attempt.EndTime = end.last
	attempt.UpstreamRequestID = end.outcome.RequestID
	attempt.Usage = r.usage(end)
	attempt.Error = res.Error
	if res.Error != nil && attempt.UpstreamRequestID == "" {
		attempt.UpstreamRequestID = res.Error.UpstreamRequestID
	}
	res.Usage = attempt.Usage
	res.Attempts = []conversation.Attempt{attempt}
	return &t
}

// usage returns what the provider said the attempt used; our own count if it took the call and did not say, and nil if it
// did not take the call.
func (r *run) usage(end *ended) *conversation.Usage {
	if end.outcome.Usage != nil || !end.opened {
		return end.outcome.Usage
	}
	u := &conversation.Usage{InputTokens: r.inputTokens, Estimated: true}
	size := newSizer(r.e.o.Tokens, r.turn.Result.Model)
	for _, p := range end.output.parts {
		u.OutputTokens += int64(size.text(p.name) + size.text(p.text.String()))
	}
	return u
}

// timing divides the time from the request's arrival until now. What is left after the other four is ours.
func (r *run) timing(end *ended) conversation.Timing {
	t := conversation.Timing{Context: r.contextTime}
	if end.first.IsZero() {
		t.TimeToFirstEvent = end.last.Sub(end.began)
	} else {
		t.TimeToFirstEvent = end.first.Sub(end.began)
		t.Generation = end.last.Sub(end.first)
	}
	t.Overhead = max(0, time.Since(r.arrived)-t.Context-t.TimeToFirstEvent-t.Generation)
	return t
}

// write makes the end durable and returns the turn as it was written. While the store is down it tries again; after
// StorePatience it gives up the answer, not the end. It stops trying only when the server stops.
func (r *run) write(ctx context.Context, record *conversation.End) (*conversation.Turn, error) {
	began, lost := time.Now(), false
	stop, giveUp := r.e.stop.Done(), (<-chan time.Time)(nil)
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := r.e.o.Store.EndTurn(ctx, record)
		if err == nil || !errors.Is(err, conversation.ErrStoreUnavailable) {
			return record.Turn, err
		}
		if !lost && time.Since(began) > r.e.o.StorePatience {
			lost = true
			t := *record.Turn
			t.State, t.Output, t.Result.FinishReason = conversation.Failed, nil, conversation.FinishNone
			t.Result.Error = conversation.Errorf(conversation.StoreUnavailable,
				"the database could not be written for too long after the answer had come; the answer is lost")
			record = &conversation.End{Turn: &t}
		}
		select {
		case <-time.After(wait):
		case <-stop:
			stop, giveUp = nil, time.After(endPatience)
		case <-giveUp:
			return nil, err
		}
	}
}

// report writes the turn's line in the log.
func (r *run) report(ctx context.Context, t *conversation.Turn) {
	attrs := []slog.Attr{
		slog.Any("turn", uuid.UUID(t.ID)), slog.String("team", t.Team), slog.String("client", t.Client),
		slog.String("state", t.State.String()), slog.String("model", t.Result.Model),
		slog.Duration("time_to_first_event", t.Result.Timing.TimeToFirstEvent),
		slog.Duration("generation", t.Result.Timing.Generation), slog.Duration("overhead", t.Result.Timing.Overhead),
	}
	if !t.Conversation.IsZero() {
		attrs = append(attrs, slog.Any("conversation", uuid.UUID(t.Conversation)))
	}
	if u := t.Result.Usage; u != nil {
		attrs = append(attrs, slog.Int64("input_tokens", u.InputTokens), slog.Int64("output_tokens", u.OutputTokens))
	}
	if id := t.Result.Attempts[0].UpstreamRequestID; id != "" {
		attrs = append(attrs, slog.String("upstream_request_id", id))
	}
	level := slog.LevelInfo
	if err := t.Result.Error; err != nil {
		level = slog.LevelWarn
		attrs = append(attrs, slog.Any("error", err))
	}
	r.e.o.Logger.LogAttrs(ctx, level, "turn ended", attrs...)
}

// failure returns what callers see of an error that ended a turn.
func failure(err error) *conversation.Error {
	var known *conversation.Error
	switch {
	case errors.Is(err, errDeadline):
		return conversation.Errorf(conversation.TurnDeadline, "the turn did not end before its deadline")
	case errors.Is(err, errStopping):
		return conversation.Errorf(conversation.Draining, "the server stopped before the turn ended; ask again")
	case errors.As(err, &known):
		e := *known
		return &e
	default:
		return &conversation.Error{Reason: conversation.Internal, Message: "a fault in chatsvc ended the turn", Cause: err}
	}
}

func reasonOf(err error) conversation.Reason {
	if errors.Is(err, errCancelled) {
		return conversation.TurnCancelled
	}
	if errors.Is(err, errOutputFull) {
		return "OUTPUT_FULL"
	}
	return failure(err).Reason
}
