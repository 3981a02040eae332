package turn

import (
	"context"
	"slices"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
	"github.com/chatsvc/chatsvc/internal/provider/catalog"
	"github.com/chatsvc/chatsvc/internal/window"
)

// stepsPerContext is into how many steps a context is divided when old turns are dropped. After a drop an eighth of the
// context is free, so the prefix that the provider caches stays the same for as long as that lasts.
const stepsPerContext = 8

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
		return nil, &conversation.Error{Reason: conversation.InvalidRequest, Field: "tool_choice.tool", Message: "tool_choice.tool is not one of the turn's tools"}
	}

	model, known := e.o.Catalog.Lookup(a.request.Model)
	a.request.Reasoning = model.Reasoning
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
	history, used, err := e.history(ctx, r, c, size, int(max(0, budget)), model.ContextTokens/stepsPerContext, known)
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
func (e *Engine) history(ctx context.Context, r *Request, c *conversation.Conversation, size sizer, budget, step int, known bool) ([]conversation.Message, int64, error) {
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
