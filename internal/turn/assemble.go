package turn

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
	"github.com/chatsvc/chatsvc/internal/provider/catalog"
	"github.com/chatsvc/chatsvc/internal/telemetry"
	"github.com/chatsvc/chatsvc/internal/window"
)

// admitTries bounds how often a turn is assembled again because the conversation's head moved meanwhile. The head moves
// at most as often as turns end, so more than one repeat is rare.
const admitTries = 8

// stepsPerContext is into how many steps a context is divided when old turns are dropped. After a drop an eighth of the
// context is free, so the prefix that the provider caches stays the same for as long as that lasts.
const stepsPerContext = 8

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
		e: e, turn: t, request: a.request, done: make(chan struct{}), creators: 1,
		arrived: r.Arrived, contextTime: now.Sub(began), inputTokens: a.promptTokens,
	}
	if run.arrived.IsZero() {
		run.arrived = began
	}

	admitCtx, span := e.o.Tracer.Start(ctx, telemetry.SpanAdmit)
	err = e.o.Store.BeginTurn(admitCtx, &conversation.Admission{Turn: t, InputTokens: a.inputTokens})
	span.End()
	if err != nil {
		if errors.Is(err, conversation.ErrStoreUnavailable) {
			e.disown(t)
		}
		return nil, err
	}
	t.Input = nil // durable; nobody reads it here any more

	run.ctx, run.cancel = e.turnContext(ctx, r)
	run.log.append(now, conversation.Event{Kind: conversation.EventAccepted, Turn: t})
	e.mu.Lock()
	e.runs[t.ID] = run
	e.mu.Unlock()
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

// disown ends a turn of which it is not known whether it was recorded, so that it cannot block its conversation.
func (e *Engine) disown(t *conversation.Turn) {
	end := *t
	end.Input, end.State, end.EndTime = nil, conversation.Failed, time.Now()
	end.Result.Error = conversation.Errorf(conversation.StoreUnavailable, "the database could not be written when the turn began; nothing was sent")
	if !e.enter() {
		return // the next start finds it as an orphan
	}
	go func() {
		defer e.running.Done()
		r := &run{e: e, turn: t}
		_, err := r.write(context.Background(), &conversation.End{Turn: &end})
		if err != nil && !errors.Is(err, conversation.ErrNotFound) { // as a rule it was not recorded
			e.o.Logger.Error("turn of unknown outcome is not ended", "turn", uuid.UUID(t.ID), "error", err)
		}
	}()
}

// assembled is what a turn would send, and on what it builds.
type assembled struct {
	request      *provider.Request
	parent       conversation.ID
	inputTokens  []int64 // of each input message, as it is stored
	promptTokens int64   // of the whole request, in the model's encoding
}

// assemble puts a request together: instructions, as much of the history as fits, input.
func (e *Engine) assemble(ctx context.Context, r *Request) (*assembled, error) {
	a := &assembled{}
	c := &conversation.Conversation{}
	if !r.Conversation.IsZero() {
		var err error
		if c, err = e.o.Store.GetConversation(ctx, r.Team, r.Conversation); err != nil {
			return nil, err
		}
		if !c.ActiveTurn.IsZero() {
			busy := *conversation.ErrConversationBusy
			busy.Turn = c.ActiveTurn
			return nil, &busy
		}
	}
	a.parent = c.HeadTurn
	a.request = e.effective(r, &c.Spec)
	if tc := a.request.ToolChoice; tc.Mode == conversation.ToolChoiceTool &&
		!slices.ContainsFunc(a.request.Tools, func(t conversation.Tool) bool { return t.Name == tc.Tool }) {
		return nil, &conversation.Error{Reason: conversation.InvalidRequest, Field: "tool_choice.tool", Message: "is not one of the turn's tools"}
	}

	model, known := e.o.Catalog.Lookup(a.request.Model)
	size, anyModel := newSizer(e.o.Tokens, a.request.Model), newSizer(e.o.Tokens, "")
	fixed := size.frame(a.request)
	for i := range r.Input {
		stored := anyModel.message(&r.Input[i])
		a.inputTokens = append(a.inputTokens, stored)
		fixed += size.stored(stored, &r.Input[i])
	}
	budget := int64(model.InputTokens(reserve(model, a.request.Config))) - fixed
	if budget < 0 && known {
		return nil, conversation.Errorf(conversation.ContextTooLong,
			"instructions, tools and input take %d tokens, and the model %s has room for %d besides the answer", fixed, a.request.Model, budget+fixed)
	}
	history, used, err := e.history(ctx, r, c, size, int(max(0, budget)), model.ContextTokens/stepsPerContext)
	if err != nil {
		return nil, err
	}
	a.promptTokens = fixed + used
	a.request.Messages = append(history, r.Input...)
	return a, nil
}

// effective is the request with what it leaves out taken from the conversation.
func (e *Engine) effective(r *Request, s *conversation.Spec) *provider.Request {
	q := &provider.Request{Model: r.Model, Instructions: s.Instructions, Tools: r.Tools, ToolChoice: r.ToolChoice, Config: r.Config.Over(s.Config)}
	if q.Model == "" {
		q.Model = s.Model
	}
	if q.Model == "" {
		q.Model = e.o.DefaultModel
	}
	if r.Instructions != nil {
		q.Instructions = *r.Instructions
	}
	if len(q.Tools) == 0 {
		q.Tools = s.Tools
	}
	if q.ToolChoice.Mode == "" {
		q.ToolChoice = s.ToolChoice
	}
	return q
}

// reserve is how many tokens of the context are kept free for the answer.
func reserve(m catalog.Model, c conversation.Config) int {
	if c.MaxOutputTokens != nil {
		return min(int(*c.MaxOutputTokens), m.MaxOutputTokens)
	}
	return m.DefaultOutputTokens
}

// history returns the newest whole turns of the conversation that fit into budget tokens, oldest first, and their size. It
// reads backwards and only as far as it needs, and checks that the input answers the tool calls that the head left open.
func (e *Engine) history(ctx context.Context, r *Request, c *conversation.Conversation, size sizer, budget, step int) ([]conversation.Message, int64, error) {
	// All three are newest first until the window is cut.
	var (
		turns    []window.Turn
		oldest   []int // of each turn, the index of its first message
		messages []conversation.Message

		open    []string // the head's tool calls
		current conversation.ID
		sum     int
	)
	if c.HeadPosition > 0 {
		messages = make([]conversation.Message, 0, min(c.HeadPosition, 64)+int64(len(r.Input)))
		for m, err := range e.o.Store.History(ctx, r.Team, r.Conversation, c.HeadPosition) {
			if err != nil {
				return nil, 0, err
			}
			if m.Turn != current {
				if sum > budget && enough(turns, budget) {
					break
				}
				turns, oldest = append(turns, window.Turn{}), append(oldest, 0)
				current = m.Turn
			}
			if len(messages) == 0 {
				open = conversation.ToolCalls([]conversation.Message{m.Message})
			}
			tokens := int(size.stored(m.Tokens, &m.Message))
			sum += tokens
			t := &turns[len(turns)-1]
			t.Tokens += tokens
			t.Start, t.Continues = m.TokensBefore, m.Role == conversation.RoleTool
			oldest[len(oldest)-1] = len(messages)
			messages = append(messages, m.Message)
		}
	}
	if err := answersCalls(open, r.Input); err != nil {
		return nil, 0, err
	}
	mustKeep := 0
	if len(open) > 0 {
		mustKeep = 1
	}
	slices.Reverse(turns)
	slices.Reverse(oldest)
	from, ok := window.Fit(turns, budget, step, mustKeep)
	switch {
	case !ok:
		return nil, 0, conversation.Errorf(conversation.ContextTooLong, "the input, with the turn whose tool calls it answers, is too long for the model")
	case from == len(turns):
		return nil, 0, nil
	}
	used := 0
	for _, t := range turns[from:] {
		used += t.Tokens
	}
	messages = messages[:oldest[from]+1]
	slices.Reverse(messages)
	return messages, int64(used), nil
}

// enough asks window.Enough about turns that are newest first.
func enough(turns []window.Turn, budget int) bool {
	turns = slices.Clone(turns)
	slices.Reverse(turns)
	return window.Enough(turns, budget)
}

// answersCalls checks that each tool call is answered before anything else is said: first those that the history leaves
// open, then those in the input itself. Providers refuse everything else.
func answersCalls(open []string, input []conversation.Message) error {
	open = slices.Clone(open)
	unanswered := func() error {
		return &conversation.Error{
			Reason: conversation.ToolCallsUnanswered, Names: open,
			Message: "tool calls must be answered by TOOL messages before anything else; unanswered: " + strings.Join(open, ", "),
		}
	}
	for i := range input {
		m := &input[i]
		if m.Role != conversation.RoleTool && len(open) > 0 {
			return unanswered()
		}
		for _, p := range m.Parts {
			switch p.Kind {
			case conversation.PartToolCall:
				open = append(open, p.ToolCall.ID)
			case conversation.PartToolResult:
				at := slices.Index(open, p.ToolResult.ToolCallID)
				if at < 0 {
					return &conversation.Error{
						Reason: conversation.ToolCallsUnanswered, Names: []string{p.ToolResult.ToolCallID},
						Message: "a tool result answers no open tool call",
					}
				}
				open = slices.Delete(open, at, at+1)
			default:
			}
		}
	}
	if len(open) > 0 {
		return unanswered()
	}
	return nil
}
