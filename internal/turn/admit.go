package turn

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/telemetry"
)

// admitTries bounds how often a turn is assembled again because the conversation's head moved meanwhile. The head moves
// at most as often as turns end, so more than one repeat is rare.
const admitTries = 8

// admit assembles the turn and records it. The run that it returns is in the log but does not generate yet.
func (e *Engine) admit(ctx context.Context, r *Request) (*run, error) {
	for try := 1; ; try++ {
		run, err := e.tryAdmit(ctx, r)
		if errors.Is(err, conversation.ErrHeadMoved) && try < admitTries {
			continue
		}
		if errors.Is(err, conversation.ErrHeadMoved) {
			return nil, conversation.ErrConversationBusy
		}
		return run, err
	}
}

func (e *Engine) tryAdmit(ctx context.Context, r *Request) (*run, error) {
	began := time.Now()
	assembleCtx, span := e.o.Tracer.Start(ctx, telemetry.SpanAssemble)
	a, err := e.assemble(assembleCtx, r)
	if err != nil {
		setStatus(span, err)
	}
	span.End()
	if err != nil {
		return nil, err
	}

	now := time.Now()
	t := &conversation.Turn{
		ID: newID(), Team: r.Team, Client: r.Client, Conversation: r.Conversation, Parent: a.parent, State: conversation.Running,
		OnDisconnect: r.OnDisconnect, TraceID: trace.SpanContextFromContext(ctx).TraceID(), Labels: r.Labels, CreateTime: now,
		Input: slices.Clone(r.Input),
		Result: conversation.Result{
			Model: a.request.Model, Config: a.request.Config,
			Attempts: []conversation.Attempt{{State: conversation.AttemptIntent, Model: a.request.Model, CreateTime: now}},
		},
	}
	for i := range t.Input {
		t.Input[i].ID = newID()
	}
	run := &run{
		e: e, turn: t, request: a.request, done: make(chan struct{}), waiting: make(chan struct{}), lost: make(chan struct{}), creators: 1,
		arrived: r.Arrived, contextTime: now.Sub(began), inputTokens: a.promptTokens,
	}
	if run.arrived.IsZero() {
		run.arrived = began
	}

	// Known before it is recorded: whoever finds it in the store must be able to cancel it here.
	run.ctx, run.cancel = e.turnContext(ctx, r)
	e.mu.Lock()
	e.runs[t.ID] = run
	e.mu.Unlock()

	admitCtx, span := e.o.Tracer.Start(ctx, telemetry.SpanAdmit)
	err = e.o.Store.BeginTurn(admitCtx, &conversation.Admission{Turn: t, InputTokens: a.inputTokens})
	if err != nil {
		setStatus(span, err)
	}
	span.End()
	t.Input = nil // durable, or refused; nobody reads it here any more
	if err != nil {
		run.cancel(nil)
		if !errors.Is(err, conversation.ErrStoreUnavailable) || !e.disown(run) {
			e.forget(run)
			close(run.done)
		}
		return nil, err
	}
	run.log.append(now, conversation.Event{Kind: conversation.EventAccepted, Turn: t})
	return run, nil
}

// turnContext returns the context of a turn: its own deadline, the server's stop, and of the caller's context only the
// trace.
func (e *Engine) turnContext(caller context.Context, r *Request) (context.Context, context.CancelCauseFunc) {
	deadline := time.Now().Add(e.o.MaxDuration)
	if r.OnDisconnect == conversation.DisconnectCancel && !r.Deadline.IsZero() && r.Deadline.Before(deadline) {
		deadline = r.Deadline
	}
	ctx := trace.ContextWithSpanContext(e.stop, trace.SpanContextFromContext(caller))
	ctx, release := context.WithDeadlineCause(ctx, deadline, errDeadline)
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, func(cause error) { cancel(cause); release() }
}

// maxDisowned bounds the turns of unknown outcome. Those beyond it end when the server starts again.
const maxDisowned = 1024

// disown has a turn ended of which it is not known whether it was recorded, so that it cannot block its conversation. One
// goroutine ends them all, one after the other, as soon as the store can be written again; until then the engine knows
// the turn. It reports false if nobody will: then the next start does.
func (e *Engine) disown(r *run) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing || len(e.disowned) == maxDisowned {
		e.o.Logger.Error("a turn that may have been recorded is left for the next start", "turn", uuid.UUID(r.turn.ID))
		return false
	}
	e.disowned = append(e.disowned, r)
	if len(e.disowned) == 1 {
		e.settling.Go(e.endDisowned)
	}
	return true
}

func (e *Engine) endDisowned() {
	for left := 1; left > 0; {
		e.mu.Lock()
		r := e.disowned[0]
		e.mu.Unlock()
		t := *r.turn
		t.State, t.EndTime = conversation.Failed, time.Now()
		t.Result.Error = conversation.Errorf(conversation.StoreUnavailable, "the database could not be written when the turn began; nothing was sent")
		end := &conversation.End{Turn: &t}
		var err error
		if e.stop.Err() == nil {
			_, err = r.write(context.Background(), end)
		} else { // one try for each that is left
			err = e.o.Store.EndTurn(context.Background(), end)
		}
		if err != nil && !errors.Is(err, conversation.ErrNotFound) { // as a rule it was not recorded
			e.o.Logger.Error("turn of unknown outcome is not ended", "turn", uuid.UUID(t.ID), "error", err)
		}
		e.forget(r)
		close(r.done)
		e.mu.Lock()
		e.disowned = slices.Delete(e.disowned, 0, 1)
		left = len(e.disowned)
		e.mu.Unlock()
	}
}
