package turn

import (
	"slices"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
	"github.com/chatsvc/chatsvc/internal/tokens"
)

// sizer counts what a model reads, in its own tokens. The zero model stands for any: its counts are what is stored.
type sizer struct {
	counter  *tokens.Counter
	model    string
	encoding tokens.Encoding
}

func newSizer(counter *tokens.Counter, model string) sizer {
	return sizer{counter: counter, model: model, encoding: tokens.ForModel(model)}
}

// message returns the size of a message with what the chat format adds.
func (s sizer) message(m *conversation.Message) int64 {
	n := tokens.PerMessage
	for i := range m.Parts {
		p := &m.Parts[i]
		switch p.Kind {
		case conversation.PartImage:
			n += tokens.Image(s.model, p.Image.Detail)
		case conversation.PartToolCall:
			n += tokens.PerToolCall + s.text(p.ToolCall.Name) + s.text(p.ToolCall.Arguments)
		case conversation.PartToolResult:
			n += tokens.PerToolResult + s.text(p.Text)
		default:
			n += s.text(p.Text)
		}
	}
	return int64(n)
}

// answer returns the size of the message that an attempt generated: what the provider says, which is exact and costs
// nothing, or our own count where it did not say or cannot be right.
func (s sizer) answer(m *conversation.Message, u *conversation.Usage) int64 {
	bytes := int64(0)
	for i := range m.Parts {
		bytes += int64(len(m.Parts[i].Text))
		if c := m.Parts[i].ToolCall; c != nil {
			bytes += int64(len(c.Name) + len(c.Arguments))
		}
	}
	if u == nil || u.Estimated {
		return s.message(m)
	}
	n := u.OutputTokens - u.ReasoningTokens
	if n < bytes/32 || n > bytes+64 {
		return s.message(m)
	}
	return tokens.PerMessage + n
}

// stored returns the size of a message whose stored size is known, without counting again where that says it all.
func (s sizer) stored(size int64, m *conversation.Message) int64 {
	isImage := func(p conversation.Part) bool { return p.Kind == conversation.PartImage }
	if s.encoding == tokens.O200kBase && !slices.ContainsFunc(m.Parts, isImage) {
		return size
	}
	return s.message(m)
}

// frame returns the size of all of a request but its messages.
func (s sizer) frame(r *provider.Request) int64 {
	n := tokens.ReplyPrimer
	if r.Instructions != "" {
		n += tokens.PerMessage + s.text(r.Instructions)
	}
	if len(r.Tools) > 0 {
		n += tokens.ToolsSection
	}
	for i := range r.Tools {
		t := &r.Tools[i]
		n += tokens.PerTool + s.text(t.Name) + s.text(t.Description) + s.text(t.Parameters)
	}
	return int64(n)
}

func (s sizer) text(text string) int { return s.counter.Count(s.encoding, text) }
