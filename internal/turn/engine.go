// Package turn is the engine. A turn is assembled, admitted, generated and ended in a goroutine and under a context of
// its own; its events go to a log, and every RPC that shows a turn is a reader of that log: of the one in memory where the
// turn runs, of the one in the store everywhere else.
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
	// StorePatience is how long events and an answer wait in memory for a store that is down. Default 60 s.
	StorePatience time.Duration
}

// OnConflict is what a caller wants where another turn runs or waits on the main line, or BaseTurn is not the head.
type OnConflict uint8

// What happens on a conflict. Reject is CONVERSATION_BUSY or STALE_BASE_TURN, Queue waits behind those that wait, Fork
// runs at once on a branch of its own.
const (
	Reject OnConflict = iota
	Queue
	Fork
)

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
	// AllowedModels are those that the caller's credential may ask; empty is all. A turn that waits, or that another server
	// goes on with, keeps them. They are no part of what a Fingerprint is of.
	AllowedModels []string
	Labels        map[string]string
	OnDisconnect  conversation.OnDisconnect
	// RequestID makes the request repeatable: while a turn of the team has it, a repeat is that turn. Empty: not repeatable.
	RequestID string
	// Fingerprint is that of the request's content; a repeat with another one is refused. Of no meaning without RequestID.
	Fingerprint [32]byte
	// BaseTurn is the ended turn to go on from; zero: the conversation's head when the turn begins.
	BaseTurn conversation.ID
	// OnConflict says what happens where the turn cannot simply go on the main line.
	OnConflict OnConflict
	// Deadline is when the caller needs the end; zero if it does not say. With DisconnectCancel it is the turn's own, if the
	// request begins one, and not a repeat.
	Deadline time.Time
	// Arrived is when the request came in, for Turn.Timing.
	Arrived time.Time
}

// Engine runs turns. It is safe for concurrent use.
type Engine struct {
	o        Options
	appender appender

	mu       sync.Mutex
	runs     map[conversation.ID]*run      // of turns that this process runs, or is admitting
	claims   map[claimKey]*claim           // the request ids of runs, and those that are being looked into
	foreign  map[conversation.ID]*presence // of turns of other processes that callers here have created
	disowned []disowned                    // to be ended by endDisowned
	closing  bool
	running  tally         // turns
	chores   tally         // what goes on besides
	draining chan struct{} // closed when Drain begins
	stop     context.Context
	stopAll  context.CancelCauseFunc
}

// Why the engine, and not the provider, ended a generation: causes of a run's context. errDraining: why it did not begin.
var (
	errCancelled  = errors.New("the turn was cancelled")
	errDeadline   = errors.New("the turn's deadline passed")
	errStopping   = errors.New("the server is stopping")
	errFenced     = errors.New("the turn is another server's")
	errOutputFull = errors.New("the answer has reached its largest size")
	errDraining   = conversation.Errorf(conversation.Draining, "the server is stopping; another one will take the call")
	errUndurable  = conversation.Errorf(conversation.StoreUnavailable,
		"the database could not be written for too long while the answer came; what came of it is not to be relied on")
)

// New returns an engine. Serve is to be running from before the first Start until Drain, at the end, has returned.
func New(o Options) *Engine {
	o.MaxDuration = cmp.Or(o.MaxDuration, 15*time.Minute)
	o.MaxOutputBytes = cmp.Or(o.MaxOutputBytes, 3<<20)
	o.StorePatience = cmp.Or(o.StorePatience, time.Minute)
	e := &Engine{
		o: o, runs: make(map[conversation.ID]*run), claims: make(map[claimKey]*claim), foreign: make(map[conversation.ID]*presence),
		draining: make(chan struct{}),
	}
	e.appender.e = e
	e.stop, e.stopAll = context.WithCancelCause(context.Background())
	return e
}

// Start assembles and admits a turn and returns a reader of its log; or, where the request is a repeat, a reader of the
// turn that has its request id. ctx bounds only that, and carries the caller's trace: the turn itself goes on without it.
// An error is a *conversation.Error, or ctx's, and has left nothing behind that runs.
func (e *Engine) Start(ctx context.Context, r *Request) (*Reader, error) {
	if r.RequestID != "" {
		return e.startOrAttach(ctx, r)
	}
	run, err := e.begin(ctx, r)
	if err != nil {
		return nil, err
	}
	return run.reader(0, true), nil
}

// begin admits a turn and has it run.
func (e *Engine) begin(ctx context.Context, r *Request) (*run, error) {
	if !e.enter() {
		return nil, errDraining
	}
	begun := false
	defer func() {
		if !begun { // an error, or a panic
			e.running.leave()
		}
	}()
	run, err := e.admit(ctx, r)
	if err != nil {
		return nil, err
	}
	begun = true
	go func() {
		defer e.running.leave()
		run.live()
	}()
	return run, nil
}

// enter counts a turn as running unless the engine is draining.
func (e *Engine) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return false
	}
	e.running.enter()
	return true
}

// known returns the run of a turn of the team in this process, or nil. It need not be recorded yet.
func (e *Engine) known(team string, id conversation.ID) *run {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.runs[id]; r != nil && r.turn.Team == team {
		return r
	}
	return nil
}

// readable returns the run of a turn of the team if it is in this process and its log can be read, or nil.
func (e *Engine) readable(team string, id conversation.ID) *run {
	if r := e.known(team, id); r != nil && r.recorded.Load() {
		return r
	}
	return nil
}

// Watch returns a reader of a turn's log from above the sequence number after, wherever the turn runs or has run.
func (e *Engine) Watch(ctx context.Context, team string, id conversation.ID, after int64) (*Reader, error) {
	// The store is asked first: what was deleted there must not be readable here.
	t, err := e.o.Store.GetTurn(ctx, team, id, false)
	if err != nil {
		return nil, err
	}
	if run := e.readable(team, id); run != nil {
		return run.reader(after, false), nil
	}
	reader := &Reader{e: e, team: team, id: id, position: after, draining: e.draining}
	reader.stored.saw(t)
	return reader, nil
}

// Cancel stops a turn, wherever it runs or waits, waits until its end is durable, and returns it with output. A turn that
// has ended is returned as it is. STORE_UNAVAILABLE: it is stopped, and its end has to wait for the store.
func (e *Engine) Cancel(ctx context.Context, team string, id conversation.ID) (*conversation.Turn, error) {
	if run := e.known(team, id); run != nil {
		run.cancel(errCancelled)
		select {
		case <-run.done:
			if run.ended != nil {
				return run.ended, nil
			}
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
	if t, err := e.o.Store.GetTurn(ctx, team, id, true); err != nil || t.State.Ended() {
		return t, err
	}
	if err := e.o.Store.RequestCancel(ctx, team, id); err != nil && !errors.Is(err, conversation.ErrTurnEnded) {
		return nil, err
	}
	reader := &Reader{e: e, team: team, id: id}
	defer reader.Close()
	return reader.End(ctx)
}

// forget lets go of a run that has ended, or goes on elsewhere.
func (e *Engine) forget(r *run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.runs[r.turn.ID] == r { // and not one that has taken the turn over
		delete(e.runs, r.turn.ID)
	}
	key := claimKey{r.turn.Team, r.turn.RequestID}
	if c := e.claims[key]; c != nil && c.run == r {
		delete(e.claims, key)
	}
}

func newID() conversation.ID {
	return conversation.ID(uuid.Must(uuid.NewV7())) // fails only if the system has no randomness
}
