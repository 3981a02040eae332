package turn

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/telemetry"
)

// finish makes the turn's end, writes it, and then appends the terminal event.
func (r *run) finish(end *ended) {
	ctx, span := r.e.o.Tracer.Start(context.WithoutCancel(r.ctx), telemetry.SpanEnd)
	defer span.End()
	// A hanging append can keep the end as long as a hanging end itself.
	waits := time.AfterFunc(storeGrace, r.endWaits)
	defer waits.Stop()
	r.log.seal()
	record, err := r.record(ctx, end)
	var t *conversation.Turn
	if err == nil {
		t, err = r.write(ctx, record)
	}
	if r.isRefused(ctx, err) {
		end.output, end.err = output{}, conversation.Errorf(conversation.Internal, "a fault in chatsvc ended the turn")
		record = &conversation.End{Turn: r.final(end), Takeovers: r.takeovers}
		record.Events, record.Replaces = r.log.rest()
		t, err = r.write(ctx, record)
	}
	if r.isRefused(ctx, err) {
		record.Events, record.Replaces = nil, nil
		t, err = r.write(ctx, record)
	}
	r.e.forget(r) // before anybody knows of the end: the next call with the request id asks the store
	if err != nil {
		setStatus(span, err)
		switch {
		case errors.Is(err, errFenced): // and read on elsewhere
		case errors.Is(err, conversation.ErrStoreUnavailable) && r.turn.OnDisconnect == conversation.DisconnectContinue:
			r.gone = r.handedOver()
		default:
			r.gone = &conversation.Error{
				Reason: conversation.TurnInterrupted, Turn: r.turn.ID,
				Message: "the server could not record how the turn ended; GetTurn will say",
			}
		}
		r.e.o.Logger.ErrorContext(ctx, "turn's end is not written", "turn", uuid.UUID(r.turn.ID), "error", err)
		return
	}
	span.SetAttributes(telemetry.TurnState.String(t.State.String()), telemetry.Attempts.Int(len(t.Result.Attempts)),
		telemetry.Overhead.Float64(t.Result.Timing.Overhead.Seconds()))
	r.ended = t
	r.over.Store(true)
	r.append(t.EndTime, conversation.Event{Kind: conversation.EventTerminal, Turn: t})
	r.report(ctx, t)
}

// isRefused reports whether something about an end cannot be written. An end without it still frees the conversation.
func (r *run) isRefused(ctx context.Context, err error) bool {
	if err == nil || isAny(err, conversation.ErrStoreUnavailable, conversation.ErrNotFound, errFenced) {
		return false
	}
	r.e.o.Logger.ErrorContext(ctx, "turn ends without its answer", "turn", uuid.UUID(r.turn.ID), "error", err)
	return true
}

// record returns what is to be written of the end.
func (r *run) record(ctx context.Context, end *ended) (record *conversation.End, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = r.recovered(ctx, p)
		}
	}()
	record = &conversation.End{Turn: r.final(end), Takeovers: r.takeovers}
	record.Events, record.Replaces = r.log.rest()
	size := newSizer(r.e.o.Tokens, "")
	for i := range record.Turn.Output {
		attempts := record.Turn.Result.Attempts
		record.OutputTokens = append(record.OutputTokens, size.answer(&record.Turn.Output[i], attempts[len(attempts)-1].Usage))
	}
	record.Turn.Result.Timing = r.timing(end)
	return record, nil
}

// final returns the turn as it ends.
func (r *run) final(end *ended) *conversation.Turn {
	t := *r.now
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
	if t.State != conversation.Completed {
		t.Output = withoutToolCalls(t.Output) // a turn that goes on from here could not answer what was cut
	}
	t.EndTime = time.Now()
	res.Attempts = r.attempts(end, res.Error)
	res.Usage = total(res.Attempts)
	return &t
}

// attempts returns the turn's attempts with the last as it ended, if there was one.
func (r *run) attempts(end *ended, failure *conversation.Error) []conversation.Attempt {
	attempts := slices.Clone(r.now.Result.Attempts)
	n := len(attempts) - 1
	if end.unsent {
		if n >= 0 && attempts[n].State == conversation.AttemptIntent {
			attempts = attempts[:n]
		}
		return attempts
	}
	last := &attempts[n]
	last.State = conversation.AttemptSettled
	last.EndTime = end.last
	last.UpstreamRequestID = end.outcome.RequestID
	last.Usage = r.usage(end)
	last.Error = failure
	if failure != nil && last.UpstreamRequestID == "" {
		last.UpstreamRequestID = failure.UpstreamRequestID
	}
	return attempts
}

// total returns what the attempts used together; nil if that is not known of any. Of one whose server died it is not known,
// and then the sum is an estimate.
func total(attempts []conversation.Attempt) *conversation.Usage {
	if len(attempts) == 1 {
		return attempts[0].Usage
	}
	var sum *conversation.Usage
	estimated := false
	for i := range attempts {
		u := attempts[i].Usage
		estimated = estimated || attempts[i].State == conversation.AttemptUnknown
		if u == nil {
			continue
		}
		if sum == nil {
			sum = new(conversation.Usage)
		}
		sum.InputTokens += u.InputTokens
		sum.CachedInputTokens += u.CachedInputTokens
		sum.OutputTokens += u.OutputTokens
		sum.ReasoningTokens += u.ReasoningTokens
		estimated = estimated || u.Estimated
	}
	if sum != nil {
		sum.Estimated = estimated
	}
	return sum
}

// usage returns what the provider said the attempt used, and our own count if it did not say. It is nil if the provider
// refused the call or never got it, as far as we know: then nothing was used.
func (r *run) usage(end *ended) *conversation.Usage {
	switch {
	case end.outcome.Usage != nil:
		return end.outcome.Usage
	case end.opened, isAny(end.err, errCancelled, errDeadline, errStopping, errUndurable, errStalled): // it may be at work
	default:
		return nil
	}
	u := &conversation.Usage{InputTokens: r.inputTokens, Estimated: true}
	size := newSizer(r.e.o.Tokens, r.turn.Result.Model)
	for _, p := range end.output.parts {
		u.OutputTokens += int64(size.text(p.name) + size.text(p.text.String()))
	}
	return u
}

var errStalled = &conversation.Error{Reason: conversation.UpstreamStalled}

func isAny(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
}

// timing divides the time from the request's arrival until now. What is left after the other four is ours.
func (r *run) timing(end *ended) conversation.Timing {
	t := conversation.Timing{Queue: r.queueTime, Context: r.contextTime}
	switch {
	case end.unsent:
	case end.first.IsZero():
		t.TimeToFirstEvent = end.last.Sub(end.began)
	default:
		t.TimeToFirstEvent = end.first.Sub(end.began)
		t.Generation = end.last.Sub(end.first)
	}
	t.Overhead = max(0, time.Since(r.arrived)-t.Queue-t.Context-t.TimeToFirstEvent-t.Generation)
	return t
}

// storeGrace is how long nobody is told that an end waits for the store: most faults are over by then.
const storeGrace = time.Second

// endWaits notes that the turn's end has to wait for the store.
func (r *run) endWaits() { r.waits1.Do(func() { close(r.waiting) }) }

// write makes the end durable and returns the turn as it was written. While the store is down it tries again; after
// StorePatience it gives up the answer, not the end. It stops trying only when the server stops, or when the turn is found
// to be another owner's: then it returns errFenced, and the run is fenced.
func (r *run) write(ctx context.Context, record *conversation.End) (*conversation.Turn, error) {
	began, stop, giveUp := time.Now(), r.e.stop.Done(), (<-chan time.Time)(nil)
	if err := record.Turn.Result.Error; err != nil && err.Reason == conversation.StoreUnavailable {
		began = began.Add(-r.e.o.StorePatience) // it has been tried already
	}
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if isClosed(r.fenced) {
			return nil, errFenced
		}
		err := r.e.o.Store.EndTurn(ctx, record)
		if errors.Is(err, conversation.ErrTurnEnded) {
			var t *conversation.Turn
			if t, err = r.found(ctx, record); err == nil {
				return t, nil
			}
		}
		if err == nil || !errors.Is(err, conversation.ErrStoreUnavailable) {
			return record.Turn, err
		}
		if !isClosed(r.lost) && time.Since(began) > r.e.o.StorePatience {
			close(r.lost)
			record = withoutAnswer(record)
		}
		select {
		case <-time.After(wait):
		case <-r.fenced:
		case <-stop:
			stop, giveUp = nil, time.After(endPatience)
		case <-giveUp:
			return nil, err
		}
	}
}

// found returns how a turn ended that had ended already.
func (r *run) found(ctx context.Context, record *conversation.End) (*conversation.Turn, error) {
	t, err := r.e.o.Store.GetTurn(ctx, record.Turn.Team, record.Turn.ID, true)
	switch {
	case err != nil:
		return nil, err
	case !t.State.Ended() || t.Result.LastSequence != record.Turn.Result.LastSequence:
		r.fence() // and whoever has taken it over ends it, or did
		return nil, errFenced
	default:
		// A try before this one was written, though the store could not say so. What it says now counts.
		t.Input = nil
		return t, nil
	}
}

// withoutAnswer returns an end for which the answer was too long in memory. The log is kept: its sequence numbers count.
func withoutAnswer(record *conversation.End) *conversation.End {
	t := *record.Turn
	t.Output = nil
	if t.State.Answered() {
		t.State, t.Result.FinishReason = conversation.Failed, conversation.FinishNone
		t.Result.Error = conversation.Errorf(conversation.StoreUnavailable,
			"the database could not be written for too long after the answer had come; the answer is lost")
	}
	return &conversation.End{Turn: &t, Takeovers: record.Takeovers, Events: record.Events, Replaces: record.Replaces}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// report writes the turn's line in the log.
func (r *run) report(ctx context.Context, t *conversation.Turn) {
	attrs := []slog.Attr{
		slog.Any("turn", uuid.UUID(t.ID)), slog.String("team", t.Team), slog.String("client", t.Client),
		slog.String("state", t.State.String()), slog.String("model", t.Result.Model),
		milliseconds("time_to_first_event_ms", t.Result.Timing.TimeToFirstEvent),
		milliseconds("generation_ms", t.Result.Timing.Generation), milliseconds("overhead_ms", t.Result.Timing.Overhead),
	}
	if !t.Conversation.IsZero() {
		attrs = append(attrs, slog.Any("conversation", uuid.UUID(t.Conversation)))
	}
	if u := t.Result.Usage; u != nil {
		attrs = append(attrs, slog.Int64("input_tokens", u.InputTokens), slog.Int64("output_tokens", u.OutputTokens))
	}
	if n := len(t.Result.Attempts); n > 0 && t.Result.Attempts[n-1].UpstreamRequestID != "" {
		attrs = append(attrs, slog.String("upstream_request_id", t.Result.Attempts[n-1].UpstreamRequestID))
	}
	level := slog.LevelInfo
	if err := t.Result.Error; err != nil {
		level = slog.LevelWarn
		if err.Reason == conversation.UpstreamCredentialRejected || err.Reason == conversation.UpstreamAccountExhausted {
			level = slog.LevelError // for people to mend, and nobody is served until then
		}
		attrs = append(attrs, slog.Any("error", err))
	}
	r.e.o.Logger.LogAttrs(ctx, level, "turn ended", attrs...)
}

func milliseconds(key string, d time.Duration) slog.Attr {
	return slog.Float64(key, float64(d)/float64(time.Millisecond))
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
	return failure(err).Reason
}
