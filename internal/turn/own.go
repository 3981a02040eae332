package turn

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// maxAttempts is how many attempts a turn has: one that kills its servers must not kill them for ever.
const maxAttempts = 5

// Serve does what the store says that this process has to do about turns that it did not just begin, until ctx ends: it goes
// on with the turns that other processes have left, cancels what was asked to be cancelled elsewhere, and stops what is not
// this process's any more.
func (e *Engine) Serve(ctx context.Context) {
	away := false
	for wait := 50 * time.Millisecond; ; {
		duties, err := e.o.Store.Duties(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if !away {
				e.o.Logger.WarnContext(ctx, "whose turns are to be taken over is not known while the database is away", "error", err)
			}
			away = true
			pause(ctx, wait)
			wait = min(2*wait, time.Second)
			continue
		}
		wait, away = 50*time.Millisecond, false
		if duties.Lost {
			e.o.Logger.WarnContext(ctx, "this replica had been given up for dead; its turns are another's")
			before := e.recorded()
			e.chores.do(func() { e.fenceLost(before) })
		}
		for _, id := range duties.Cancel {
			e.mu.Lock()
			run := e.runs[id]
			e.mu.Unlock()
			if run != nil {
				run.cancel(errCancelled)
			}
		}
		for _, t := range duties.Taken {
			e.take(t)
		}
	}
}

// recorded returns the runs of turns that the store has.
func (e *Engine) recorded() (runs []*run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.runs {
		if r.recorded.Load() {
			runs = append(runs, r)
		}
	}
	return runs
}

// fenceLost stops those of the runs whose turns are another owner's.
func (e *Engine) fenceLost(runs []*run) {
	batches := make([]conversation.EventBatch, len(runs))
	for i, r := range runs {
		batches[i] = r.batch(nil)
	}
	for len(runs) > 0 && e.stop.Err() == nil {
		lost, err := e.o.Store.AppendEvents(e.stop, batches)
		if err != nil {
			pause(e.stop, appendEvery)
			continue
		}
		for _, r := range runs {
			if slices.Contains(lost, r.turn.ID) {
				r.fence()
			}
		}
		return
	}
}

// take goes on with a turn that another process, or an earlier life of this one, has left.
func (e *Engine) take(t *conversation.Taken) {
	turn := *t.Turn
	input := turn.Input
	turn.Input, turn.Output = nil, nil
	deadline := t.Deadline
	if deadline.IsZero() {
		deadline = time.Now().Add(e.o.MaxDuration) // to be ended, see resume
	}
	r := e.newRun(&turn, deadline, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: turn.TraceID, SpanID: trace.SpanID(turn.ID[8:]), TraceFlags: trace.FlagsSampled, Remote: true, // its own is lost
	}))
	r.takeovers = t.Takeovers
	r.log.base = int64(t.Takeovers) * conversation.SequenceBlock
	r.taken, r.base, r.arrived = t, t.Base, turn.CreateTime
	r.presence = ofRun(r)
	r.presence.creators, r.presence.counted = 0, false
	o := &t.Overrides
	r.ask = &Request{
		Team: turn.Team, Client: turn.Client, Conversation: turn.Conversation, Input: input,
		Instructions: o.Instructions, Model: o.Model, Config: o.Config, Tools: o.Tools, ToolChoice: o.ToolChoice,
		AllowedModels: o.AllowedModels,
	}
	anyModel := newSizer(e.o.Tokens, "")
	for i := range input {
		r.sizes = append(r.sizes, anyModel.message(&input[i]))
	}

	e.mu.Lock()
	defer e.mu.Unlock()
	if before := e.runs[turn.ID]; before != nil { // from before this process was given up for dead
		before.fence()
	}
	if e.closing { // it is handed on with everything that is left
		r.cancel(nil)
		return
	}
	r.append(time.Now(), conversation.Event{Kind: conversation.EventOutputReset})
	r.recorded.Store(true)
	e.runs[turn.ID] = r
	e.running.enter()
	go func() {
		defer e.running.leave()
		r.live()
	}()
	e.o.Logger.Warn("turn taken over", "turn", uuid.UUID(turn.ID), "team", turn.Team, "state", turn.State.String(), "takeovers", t.Takeovers)
}

// resume settles what the turn's earlier owner has left, and has the turn's next attempt recorded if there is to be one. An
// error ends the turn.
func (r *run) resume() error {
	now := time.Now()
	t := *r.now
	t.Result.Attempts = slices.Clone(t.Result.Attempts)
	for i := range t.Result.Attempts {
		if a := &t.Result.Attempts[i]; a.State != conversation.AttemptSettled && a.State != conversation.AttemptUnknown {
			a.State, a.EndTime = conversation.AttemptUnknown, now
		}
	}
	r.now = &t
	switch {
	case r.taken.Unreadable:
		return conversation.Errorf(conversation.Internal, "what was recorded of the turn cannot be read")
	case r.taken.Cancel:
		return errCancelled
	case r.ctx.Err() != nil:
		return context.Cause(r.ctx)
	case t.OnDisconnect == conversation.DisconnectCancel, len(t.Result.Attempts) >= maxAttempts, r.taken.Deadline.IsZero():
		// Without a deadline, it was recorded by a release that did not record all that a further attempt needs.
		return conversation.Errorf(conversation.TurnInterrupted,
			"the server that ran the turn stopped before it ended; the answer is lost, ask again")
	case t.State == conversation.Queued:
		return nil
	}
	if err := r.compose(); err != nil {
		return err
	}
	next := t
	next.Result.Attempts = append(slices.Clone(t.Result.Attempts), conversation.Attempt{
		State: conversation.AttemptIntent, Model: t.Result.Model, CreateTime: time.Now(),
	})
	err := r.retry(func() error { return r.e.o.Store.RecordAttempt(r.ctx, &next, r.takeovers) })
	if errors.Is(err, conversation.ErrTurnEnded) {
		r.fence() // it ended, or another owner has it
		return errFenced
	}
	if err == nil {
		r.now = &next
	}
	return err
}

// retry calls f again and again while the store is down. It returns f's other errors, and the cause for which the turn's
// context has ended.
func (r *run) retry(f func() error) error {
	for {
		err := f()
		switch {
		case err == nil:
			return nil
		case r.ctx.Err() != nil:
			return context.Cause(r.ctx)
		case !errors.Is(err, conversation.ErrStoreUnavailable):
			return err
		}
		pause(r.ctx, queueLook)
	}
}
