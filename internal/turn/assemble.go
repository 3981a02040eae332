package turn

import (
	"context"
	"errors"
	"slices"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
	"github.com/chatsvc/chatsvc/internal/provider/catalog"
	"github.com/chatsvc/chatsvc/internal/telemetry"
	"github.com/chatsvc/chatsvc/internal/window"
)

// stepsPerContext is into how many steps a context is divided when old turns are dropped. After a drop an eighth of the
// context is free, so the prefix that the provider caches stays the same for as long as that lasts.
const stepsPerContext = 8

// draft is a turn before it is recorded.
type draft struct {
	conversation *conversation.Conversation
	base         conversation.Place // where the input goes
	parent       conversation.ID
	fork         bool // on a branch of its own
	waits        bool // behind others: what follows is then known only when it begins, but for the model and its settings

	request      *provider.Request
	inputTokens  []int64 // of each input message, as it is stored
	promptTokens int64   // of the whole request, in the model's encoding
}

// assemble decides where a turn goes and puts its request together.
func (e *Engine) assemble(ctx context.Context, r *Request) (d *draft, err error) {
	ctx, span := e.o.Tracer.Start(ctx, telemetry.SpanAssemble)
	defer func() {
		if err != nil {
			setStatus(span, err)
		}
		span.End()
	}()
	d = &draft{conversation: &conversation.Conversation{}}
	if !r.Conversation.IsZero() {
		if d.conversation, err = e.o.Store.GetConversation(ctx, r.Team, r.Conversation); err != nil {
			return nil, err
		}
		if err := e.place(ctx, r, d); err != nil {
			return nil, err
		}
	}
	if d.request, err = e.effective(r, &d.conversation.Spec); err != nil {
		return nil, err
	}
	if err := mayAsk(r, d.request.Model); err != nil {
		return nil, err
	}
	if d.waits {
		anyModel := newSizer(e.o.Tokens, "")
		for i := range r.Input {
			d.inputTokens = append(d.inputTokens, anyModel.message(&r.Input[i]))
		}
		return d, nil
	}
	return d, e.fill(ctx, r, d)
}

// place decides where in its conversation a turn goes.
func (e *Engine) place(ctx context.Context, r *Request, d *draft) error {
	c := d.conversation
	d.base, d.parent = c.Head, c.HeadTurn
	stale := !r.BaseTurn.IsZero() && r.BaseTurn != c.HeadTurn
	if stale {
		base, err := e.o.Store.GetTurn(ctx, r.Team, r.BaseTurn, false)
		switch {
		case errors.Is(err, conversation.ErrNotFound), err == nil && base.Conversation != r.Conversation:
			return &conversation.Error{Reason: conversation.NotFound, Message: "base_turn is no turn of the conversation"}
		case err != nil:
			return err
		case !base.State.Ended():
			return &conversation.Error{Reason: conversation.InvalidState, Turn: r.BaseTurn, Message: "base_turn has not ended"}
		case r.OnConflict != Fork:
			return &conversation.Error{
				Reason: conversation.StaleBaseTurn, Turn: c.HeadTurn, Message: "base_turn is not the conversation's head any more",
			}
		}
		d.base, d.parent = base.End, base.ID
	}
	busy := !c.ActiveTurn.IsZero()
	if busy && r.OnConflict == Reject {
		err := *conversation.ErrConversationBusy
		err.Turn = c.ActiveTurn
		return &err
	}
	d.fork = r.OnConflict == Fork && (busy || stale)
	d.waits = r.OnConflict == Queue && busy
	return nil
}

// fill puts the request of a draft together: instructions, as much of the history before its base as fits, input.
func (e *Engine) fill(ctx context.Context, r *Request, d *draft) error {
	model, known := e.o.Catalog.Lookup(d.request.Model)
	d.request.Reasoning = model.Reasoning
	size, anyModel := newSizer(e.o.Tokens, d.request.Model), newSizer(e.o.Tokens, "")
	fixed := size.frame(d.request)
	for i := range r.Input {
		stored := anyModel.message(&r.Input[i])
		d.inputTokens = append(d.inputTokens, stored)
		fixed += size.stored(stored, &r.Input[i])
	}
	budget := int64(model.InputTokens(reserve(model, d.request.Config))) - fixed
	if budget < 0 && known {
		return conversation.Errorf(conversation.ContextTooLong,
			"instructions, tools and input take %d tokens, and the model %s has room for %d besides the answer", fixed, d.request.Model, budget+fixed)
	}
	history, used, err := e.history(ctx, r, d.base, size, int(max(0, budget)), model.ContextTokens/stepsPerContext, known)
	if err != nil {
		return err
	}
	d.promptTokens = fixed + used
	d.request.Messages = append(history, r.Input...)
	return nil
}

// effective is the request with what it leaves out taken from the conversation.
func (e *Engine) effective(r *Request, s *conversation.Spec) (*provider.Request, error) {
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
	if tc := q.ToolChoice; tc.Mode == conversation.ToolChoiceTool &&
		!slices.ContainsFunc(q.Tools, func(t conversation.Tool) bool { return t.Name == tc.Tool }) {
		return nil, &conversation.Error{
			Reason: conversation.InvalidRequest, Field: "tool_choice.tool", Message: "tool_choice.tool is not one of the turn's tools",
		}
	}
	return q, nil
}

// mayAsk refuses a model that the request's credential may not ask. It is looked at where the model of a turn is decided, and
// not where a turn is put together again with the one that was recorded: the conversation can have another one by then.
func mayAsk(r *Request, model string) error {
	if len(r.AllowedModels) == 0 || slices.Contains(r.AllowedModels, model) {
		return nil
	}
	return conversation.Errorf(conversation.ModelNotAllowed, "the credential that the turn was asked for with may not ask the model %.128s", model)
}

// reserve is how many tokens of the context are kept free for the answer.
func reserve(m catalog.Model, c conversation.Config) int {
	if c.MaxOutputTokens != nil {
		return min(int(*c.MaxOutputTokens), m.MaxOutputTokens)
	}
	return m.DefaultOutputTokens
}

// history returns the newest whole turns before a place that fit into budget tokens, oldest first, and their size. It
// reads backwards and only as far as it needs, and checks that the input answers the tool calls that are open there.
func (e *Engine) history(
	ctx context.Context, r *Request, before conversation.Place, size sizer, budget, step int, known bool,
) ([]conversation.Message, int64, error) {
	// All three are newest first until the window is cut.
	var (
		turns    []window.Turn
		oldest   []int // of each turn, the index of its first message
		messages []conversation.Message

		open    []string // the last turn's tool calls
		current conversation.ID
		sum     int
	)
	if before.Position > 0 {
		messages = make([]conversation.Message, 0, min(before.Position, 64)+int64(len(r.Input)))
		for m, err := range e.o.Store.History(ctx, r.Team, r.Conversation, before) {
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
			tokens := max(int(size.stored(m.Tokens, &m.Message)), imageBytes(&m.Message)/bytesPerToken)
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
	case !ok && !known:
		// The budget is a guess: what must be sent is, and the provider says whether it fits.
		for from = len(turns) - 1; from > 0 && turns[from].Continues; from-- {
		}
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

// bytesPerToken is how many bytes of images take as much of the window as a token: they are sent in full with every turn,
// and a request may not grow with their number. A context of 272,000 tokens takes about 20 MiB of them.
const bytesPerToken = 80

func imageBytes(m *conversation.Message) (n int) {
	for i := range m.Parts {
		if image := m.Parts[i].Image; image != nil {
			n += len(image.Data)
		}
	}
	return n
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
			Message: "tool calls must be answered by TOOL messages before anything else",
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
