package turn

import (
	"context"
	"errors"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/telemetry"
)

const (
	// queueLook is how often a turn that waits looks for itself whether it may begin: wake-ups can be lost.
	queueLook = time.Second
	// queueAgain is how soon it looks again where it lost a race.
	queueAgain = 10 * time.Millisecond
)

// wait waits until the turn is the first in its conversation and records that it begins there. An error ends it.
func (r *run) wait() error {
	began := time.Now()
	defer func() {
		r.queueTime += time.Since(began)
		r.log.setAhead(0)
	}()
	wake, stop := r.e.o.Store.Subscribe(r.turn.Conversation)
	defer stop()
	queue := r.now
	unknown := false          // whether a try to begin was recorded
	var first conversation.ID // of the conversation when the store was asked last how many are before this turn
	for woken := true; ; {
		c, err := r.e.o.Store.GetConversation(r.ctx, r.turn.Team, r.turn.Conversation)
		var begun *conversation.Turn
		// Asking is a write, and carries the input: only where the answer can be another one. A turn that leaves the queue
		// wakes those behind it.
		if err == nil && (woken || c.ActiveTurn != first || c.ActiveTurn == r.turn.ID) {
			if begun, err = r.tryBegin(c); begun != nil {
				first = c.ActiveTurn
			}
			if err == nil || begun != nil && mayHappen(err) {
				r.now, r.base = begun, c.Head
			}
			if err == nil {
				return nil
			}
		}
		pause := queueLook
		var queued *conversation.QueuedError
		switch {
		case err == nil: // nothing has changed
		case errors.As(err, &queued):
			r.log.setAhead(queued.Ahead)
			r.now, unknown = queue, false
		case errors.Is(err, conversation.ErrHeadMoved):
			pause = queueAgain
		case errors.Is(err, conversation.ErrStoreUnavailable):
			unknown = unknown || begun != nil && mayHappen(err)
		case errors.Is(err, conversation.ErrTurnEnded) && unknown && r.isMine():
			return nil // the try before was
		case r.ctx.Err() != nil:
			return context.Cause(r.ctx)
		case errors.Is(err, conversation.ErrTurnEnded):
			r.fence() // it ended, or another owner has it
			return errFenced
		default:
			return err
		}
		woken = err != nil && queued == nil // to be asked again
		timer := time.NewTimer(pause)
		select {
		case <-wake:
			woken = true
		case <-timer.C:
		case <-r.ctx.Done():
			timer.Stop()
			return context.Cause(r.ctx)
		}
		timer.Stop()
	}
}

// tryBegin has the turn begin at the conversation's head if it is the first, and returns it as it was to be recorded, if it
// came to that. What is sent is put together after that: the messages before the head cannot change any more.
func (r *run) tryBegin(c *conversation.Conversation) (*conversation.Turn, error) {
	q, err := r.e.effective(r.ask, &c.Spec)
	if err != nil {
		return nil, err
	}
	if err := mayAsk(r.ask, q.Model); err != nil {
		return nil, err
	}
	t := *r.turn
	t.State, t.Parent, t.Input = conversation.Running, c.HeadTurn, r.ask.Input
	t.Result.Model, t.Result.Config = q.Model, q.Config
	t.Result.Attempts = []conversation.Attempt{{State: conversation.AttemptIntent, Model: q.Model, CreateTime: time.Now()}}
	deadline, _ := r.ctx.Deadline()
	err = r.e.o.Store.BeginTurn(r.ctx, &conversation.Admission{
		Turn: &t, Takeovers: r.takeovers, Base: c.Head, InputTokens: r.sizes, Fingerprint: r.ask.Fingerprint, Overrides: overrides(r.ask), Deadline: deadline,
	})
	t.Input = nil
	return &t, err
}

// isMine reports whether the turn runs, and for this owner; false if the turn's context ends before that is known.
func (r *run) isMine() bool {
	var lost []conversation.ID
	err := r.retry(func() (err error) {
		lost, err = r.e.o.Store.AppendEvents(r.ctx, []conversation.EventBatch{r.batch(nil)})
		return err
	})
	return err == nil && len(lost) == 0
}

// compose puts together what is sent for a turn that has begun already.
func (r *run) compose() error {
	began := time.Now()
	defer func() { r.contextTime += time.Since(began) }()
	return r.retry(func() error {
		d := &draft{conversation: &conversation.Conversation{}, base: r.base}
		if err := r.reread(d); err != nil {
			return err
		}
		r.request, r.inputTokens = d.request, d.promptTokens
		return nil
	})
}

// reread fills a draft with the model and the settings that were recorded when the turn began.
func (r *run) reread(d *draft) (err error) {
	ctx, span := r.e.o.Tracer.Start(r.ctx, telemetry.SpanAssemble)
	defer span.End()
	if !r.turn.Conversation.IsZero() {
		if d.conversation, err = r.e.o.Store.GetConversation(ctx, r.turn.Team, r.turn.Conversation); err != nil {
			return err
		}
	}
	if d.request, err = r.e.effective(r.ask, &d.conversation.Spec); err != nil {
		return err
	}
	d.request.Model, d.request.Config = r.now.Result.Model, r.now.Result.Config
	return r.e.fill(ctx, r.ask, d)
}

// pause waits for a while, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// mayHappen reports whether a write that ended in err may have happened, or happen still.
func mayHappen(err error) bool {
	return errors.Is(err, conversation.ErrStoreUnavailable) && !errors.Is(err, conversation.ErrNotWritten)
}
