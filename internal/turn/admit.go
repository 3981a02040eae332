package turn

import (
	"cmp"
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
		began := time.Now()
		d, err := e.assemble(ctx, r)
		if err != nil {
			return nil, err
		}
		run, err := e.record(ctx, r, d, began)
		again := errors.Is(err, conversation.ErrHeadMoved) ||
			// Another one was faster: this one is to wait behind it, or to go beside it.
			errors.Is(err, conversation.ErrConversationBusy) && r.OnConflict != Reject && !d.waits && !d.fork
		if again && try < admitTries {
			continue
		}
		if errors.Is(err, conversation.ErrHeadMoved) {
			return nil, e.overtaken(ctx, r)
		}
		return run, err
	}
}

// overtaken returns the refusal of a turn that others were faster than, again and again.
func (e *Engine) overtaken(ctx context.Context, r *Request) error {
	busy := *conversation.ErrConversationBusy
	if c, err := e.o.Store.GetConversation(ctx, r.Team, r.Conversation); err == nil {
		busy.Turn = cmp.Or(c.ActiveTurn, c.HeadTurn) // as a rule the next one runs already
	}
	return &busy
}

// record has an assembled turn recorded.
func (e *Engine) record(ctx context.Context, r *Request, d *draft, began time.Time) (*run, error) {
	now := time.Now()
	t := &conversation.Turn{
		ID: newID(), Team: r.Team, Client: r.Client, Conversation: r.Conversation, Parent: d.parent, State: conversation.Running,
		RequestID: r.RequestID, OnDisconnect: r.OnDisconnect, TraceID: trace.SpanContextFromContext(ctx).TraceID(),
		Labels: r.Labels, CreateTime: now, Input: slices.Clone(r.Input),
		Result: conversation.Result{Model: d.request.Model, Config: d.request.Config},
	}
	for i := range t.Input {
		t.Input[i].ID = newID()
	}
	if d.waits {
		t.State, t.Parent = conversation.Queued, conversation.ID{}
	} else {
		t.Result.Attempts = []conversation.Attempt{{State: conversation.AttemptIntent, Model: d.request.Model, CreateTime: now}}
	}
	deadline := now.Add(e.o.MaxDuration)
	if r.OnDisconnect == conversation.DisconnectCancel && !r.Deadline.IsZero() && r.Deadline.Before(deadline) {
		deadline = r.Deadline
	}
	run := e.newRun(t, deadline, trace.SpanContextFromContext(ctx))
	run.presence = ofRun(run)
	run.inputTokens, run.sizes, run.arrived = d.promptTokens, d.inputTokens, r.Arrived
	if run.arrived.IsZero() {
		run.arrived = began
	}
	if d.waits {
		ask := *r
		ask.Input = t.Input // with its ids, for when it begins
		run.ask = &ask
	} else {
		run.request, run.contextTime = d.request, now.Sub(began)
	}

	// Known before it is recorded: whoever finds it in the store must be able to cancel it here.
	e.mu.Lock()
	e.runs[t.ID] = run
	e.mu.Unlock()
	decided := false
	defer func() {
		if !decided { // a panic
			e.disown(run)
		}
	}()

	ctx, span := e.o.Tracer.Start(ctx, telemetry.SpanAdmit)
	err := e.o.Store.BeginTurn(ctx, &conversation.Admission{
		Turn: t, Base: d.base, Fork: d.fork, InputTokens: d.inputTokens, Fingerprint: r.Fingerprint, Overrides: overrides(r), Deadline: deadline,
	})
	if err != nil {
		setStatus(span, err)
	}
	span.End()
	t.Input = nil // durable, or refused; nobody reads it here any more
	decided = true
	switch {
	case err == nil:
	case errors.Is(err, conversation.ErrStoreUnavailable) && !errors.Is(err, conversation.ErrNotWritten):
		e.disown(run)
		return nil, err
	default:
		run.cancel(nil)
		e.forget(run)
		close(run.done)
		return nil, err
	}
	run.append(now, conversation.Event{Kind: conversation.EventAccepted, Turn: t})
	run.recorded.Store(true)
	return run, nil
}

// overrides returns what a request says, for whoever goes on with the turn.
func overrides(r *Request) conversation.Overrides {
	return conversation.Overrides{
		Instructions: r.Instructions, Model: r.Model, Config: r.Config, Tools: r.Tools, ToolChoice: r.ToolChoice,
		AllowedModels: r.AllowedModels,
	}
}

// maxDisowned bounds the runs that are kept of turns of unknown outcome, and with it what they hold. Of those beyond it only
// the names are kept.
const maxDisowned = 1024

// disowned is a turn of which it is not known whether it was recorded.
type disowned struct {
	team, requestID  string
	id, conversation conversation.ID
	run              *run // nil beyond maxDisowned
}

// disown has a turn ended of which it is not known whether it was recorded, so that it can block neither its conversation
// nor its request id. One goroutine ends them all, one after the other, as soon as the store can be written again; until
// then the engine knows the turn, so that it can be cancelled, and repeats wait for its end here. One that is not known any
// more is waited for in the store.
func (e *Engine) disown(r *run) {
	r.cancel(nil)
	r.ask, r.request = nil, nil
	time.AfterFunc(storeGrace, r.endWaits)
	d := disowned{team: r.turn.Team, requestID: r.turn.RequestID, id: r.turn.ID, conversation: r.turn.Conversation, run: r}
	e.mu.Lock()
	if len(e.disowned) >= maxDisowned {
		d.run = nil
	}
	e.disowned = append(e.disowned, d)
	if len(e.disowned) == 1 {
		e.chores.do(e.endDisowned)
	}
	e.mu.Unlock()
	if d.run == nil {
		e.forget(r)
		close(r.done)
	}
}

func (e *Engine) endDisowned() {
	for left := 1; left > 0; {
		e.mu.Lock()
		d := e.disowned[0]
		e.mu.Unlock()
		t := conversation.Turn{ID: d.id, Team: d.team, Conversation: d.conversation, RequestID: d.requestID}
		r := d.run
		if r == nil {
			r = e.newRun(&t, time.Now(), trace.SpanContext{})
			r.cancel(nil)
		} else {
			t = *r.turn
		}
		t.State, t.EndTime = conversation.Failed, time.Now()
		t.Result.LastSequence = 2 // accepted and terminal, for whoever looks there
		t.Result.Attempts = nil
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
		if d.run != nil {
			e.forget(r)
			close(r.done)
		}
		e.mu.Lock()
		e.disowned[0] = disowned{}
		e.disowned = e.disowned[1:]
		if left = len(e.disowned); left == 0 {
			e.disowned = nil
		}
		e.mu.Unlock()
	}
}
