// Package turn is the engine. A turn is assembled, admitted, generated and ended in a goroutine and under a context of
// its own; its events go to a log, and every RPC that shows a turn is a reader of that log.
package turn

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"go.opentelemetry.io/otel/trace"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
	"github.com/chatsvc/chatsvc/internal/provider/catalog"
	"github.com/chatsvc/chatsvc/internal/tokens"
)

// Options are what an Engine is made of. All fields are required but those with a default.
type Options struct {
	Store        conversation.Store
	Provider     provider.Provider
	Catalog      *catalog.Catalog
	Tokens       *tokens.Counter
	DefaultModel string
	Logger       *slog.Logger
	Tracer       trace.Tracer

	// MaxDuration ends a turn that has no other deadline. Default 15 min.
	MaxDuration time.Duration
	// MaxOutputBytes ends an answer INCOMPLETE. Default 3 MiB.
	MaxOutputBytes int
	// KeepLogs is how long the log of an ended turn can be watched, and KeepBytes how much memory the logs of ended turns
	// take together at the most. Defaults 5 min and 32 MiB.
	KeepLogs  time.Duration
	KeepBytes int
	// StorePatience is how long an answer waits in memory for a store that is down. Default 60 s.
	StorePatience time.Duration
}

// Request is what a caller asks for. Empty fields are taken from the conversation.
type Request struct {
	Team         string
	Client       string
	Conversation conversation.ID // zero: one-shot
	Input        []conversation.Message
	Instructions *string
	Model        string
	Config       conversation.Config
	Tools        []conversation.Tool
	ToolChoice   conversation.ToolChoice
	Labels       map[string]string
	OnDisconnect conversation.OnDisconnect
	// Deadline is when the caller needs the end; zero if it does not say. With DisconnectCancel it is the turn's own.
	Deadline time.Time
	// Arrived is when the request came in, for Turn.Timing.
	Arrived time.Time
}

// Engine runs turns. It is safe for concurrent use.
type Engine struct {
	o Options

	mu       sync.Mutex
	runs     map[conversation.ID]*run // running, and ended ones whose log is kept
	kept     []*run                   // ended, oldest first
	bytes    int                      // of the logs in kept
	expiry   *time.Timer              // of the oldest in kept; nil while there is none
	disowned []*run                   // to be ended by endDisowned
	settling sync.WaitGroup           // endDisowned
	closing  bool
	running  sync.WaitGroup
	draining chan struct{} // closed when Drain begins
	stop     context.Context
	stopAll  context.CancelCauseFunc
}

// Why the engine, and not the provider, ended a generation. They are causes of a run's context.
var (
	errCancelled  = errors.New("the turn was cancelled")
	errDeadline   = errors.New("the turn's deadline passed")
	errStopping   = errors.New("the server is stopping")
	errOutputFull = errors.New("the answer has reached its largest size")
)

// New returns an engine. Recover is to be called before the first Start, Drain at the end.
func New(o Options) *Engine {
	o.MaxDuration = cmp.Or(o.MaxDuration, 15*time.Minute)
	o.MaxOutputBytes = cmp.Or(o.MaxOutputBytes, 3<<20)
	o.KeepLogs = cmp.Or(o.KeepLogs, 5*time.Minute)
	o.KeepBytes = cmp.Or(o.KeepBytes, 32<<20)
	o.StorePatience = cmp.Or(o.StorePatience, time.Minute)
	e := &Engine{o: o, runs: make(map[conversation.ID]*run), draining: make(chan struct{})}
	e.stop, e.stopAll = context.WithCancelCause(context.Background())
	return e
}

// Recover ends the turns that a server left running when it died: FAILED, TURN_INTERRUPTED.
func (e *Engine) Recover(ctx context.Context) error {
	orphans, err := e.o.Store.Orphans(ctx)
	if err != nil {
		return err
	}
	for _, t := range orphans {
		t.State = conversation.Failed
		t.EndTime = time.Now()
		t.Result.Error = conversation.Errorf(conversation.TurnInterrupted,
			"the server that ran the turn stopped before it ended; the answer is lost, ask again")
		for i := range t.Result.Attempts {
			if a := &t.Result.Attempts[i]; a.State != conversation.AttemptSettled {
				a.State = conversation.AttemptUnknown
				a.EndTime = t.EndTime
			}
		}
		if err := e.o.Store.EndTurn(ctx, &conversation.End{Turn: t}); err != nil && !errors.Is(err, conversation.ErrTurnEnded) {
			return err
		}
		e.o.Logger.WarnContext(ctx, "turn interrupted by a restart", "turn", uuid.UUID(t.ID), "team", t.Team)
	}
	return nil
}

// Start assembles and admits a turn and returns a reader of its log. ctx bounds only that, and carries the caller's
// trace: the turn itself goes on without it. An error is a *conversation.Error, or ctx's, and has left nothing behind
// that runs.
func (e *Engine) Start(ctx context.Context, r *Request) (*Reader, error) {
	if !e.enter() {
		return nil, conversation.Errorf(conversation.Draining, "the server is stopping; another one will take the call")
	}
	run, err := e.admit(ctx, r)
	if err != nil {
		e.running.Done()
		return nil, err
	}
	reader := &Reader{run: run, creator: true, draining: e.draining}
	go func() {
		defer e.running.Done()
		run.generate()
	}()
	return reader, nil
}

// enter counts a turn as running unless the engine is draining.
func (e *Engine) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return false
	}
	e.running.Add(1)
	return true
}

// known returns the run of a turn of the team that this process still knows, or nil.
func (e *Engine) known(team string, id conversation.ID) *run {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.runs[id]; r != nil && r.turn.Team == team {
		return r
	}
	return nil
}

// Watch returns a reader of a turn's log from above the sequence number after. EVENTS_EXPIRED: the log is no longer kept.
func (e *Engine) Watch(ctx context.Context, team string, id conversation.ID, after int64) (*Reader, error) {
	// The store is asked first: what was deleted there must not be readable here.
	if _, err := e.o.Store.GetTurn(ctx, team, id, false); err != nil {
		return nil, err
	}
	run := e.known(team, id)
	if run == nil {
		return nil, &conversation.Error{
			Reason: conversation.EventsExpired, Turn: id,
			Message: "the turn's events are no longer kept; GetTurn has the turn",
		}
	}
	return &Reader{run: run, position: after, draining: e.draining}, nil
}

// Cancel stops a turn, waits until its end is durable, and returns it with output. A turn that has ended is returned as
// it is. STORE_UNAVAILABLE: it is stopped, and its end has to wait for the store.
func (e *Engine) Cancel(ctx context.Context, team string, id conversation.ID) (*conversation.Turn, error) {
	if run := e.known(team, id); run != nil {
		run.cancel(errCancelled)
		select {
		case <-run.done:
		case <-run.waiting:
			if t, err := e.o.Store.GetTurn(ctx, team, id, true); err == nil && t.State.Ended() {
				return t, nil
			}
			return nil, &conversation.Error{
				Reason: conversation.StoreUnavailable, Turn: id,
				Message: "the turn is stopped, and ends as soon as the database can be written",
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return e.o.Store.GetTurn(ctx, team, id, true)
}

// CancelActive stops whatever runs in a conversation and waits until its end is durable.
func (e *Engine) CancelActive(ctx context.Context, team string, id conversation.ID) error {
	c, err := e.o.Store.GetConversation(ctx, team, id)
	if err != nil || c.ActiveTurn.IsZero() {
		return err
	}
	_, err = e.Cancel(ctx, team, c.ActiveTurn)
	return err
}

// Drain refuses new turns, tells readers, and waits for the running turns until ctx ends; those that are left then end
// FAILED / DRAINING. It returns when no turn runs any more, or some seconds after ctx.
func (e *Engine) Drain(ctx context.Context) {
	e.mu.Lock()
	if !e.closing {
		e.closing = true
		close(e.draining)
		if e.expiry != nil {
			e.expiry.Stop()
		}
	}
	e.mu.Unlock()

	idle := make(chan struct{})
	go func() {
		e.running.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	e.stopAll(errStopping)
	settled := make(chan struct{})
	go func() {
		<-idle
		e.settling.Wait()
		close(settled)
	}()
	select {
	case <-settled:
	case <-time.After(endPatience + time.Second):
		e.o.Logger.ErrorContext(ctx, "turns could not be ended before the stop; they end when the server starts again")
	}
}

// endPatience is how long a stopping server tries to write the ends of its turns.
const endPatience = 5 * time.Second

// keep holds on to the log of an ended turn, unless it is very large, and lets go of those that are too old or too many.
func (e *Engine) keep(r *run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r.keepUntil, r.keptBytes = time.Now().Add(e.o.KeepLogs), runBytes+r.log.size()
	if r.keptBytes > e.o.KeepBytes/4 {
		delete(e.runs, r.turn.ID)
		return
	}
	e.kept = append(e.kept, r)
	e.bytes += r.keptBytes
	e.expire()
}

// expire lets go of what is kept for too long, and comes again when the next one is. The caller holds the lock.
func (e *Engine) expire() {
	now := time.Now()
	for len(e.kept) > 0 && (e.bytes > e.o.KeepBytes || !e.kept[0].keepUntil.After(now)) {
		e.bytes -= e.kept[0].keptBytes
		delete(e.runs, e.kept[0].turn.ID)
		e.kept[0] = nil
		e.kept = e.kept[1:]
	}
	if len(e.kept) == 0 || e.expiry != nil || e.closing {
		return
	}
	e.expiry = time.AfterFunc(e.kept[0].keepUntil.Sub(now), func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.expiry = nil
		e.expire()
	})
}

// runBytes is about what an ended run takes besides its log.
const runBytes = 4 << 10

// forget lets go of a run whose end could not be written.
func (e *Engine) forget(r *run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.runs, r.turn.ID)
}

func newID() conversation.ID {
	return conversation.ID(uuid.Must(uuid.NewV7())) // fails only if the system has no randomness
}
