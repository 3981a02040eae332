package turn

import (
	"slices"
	"strings"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// output puts the deltas of a turn together into its answer.
type output struct {
	parts []*partBuilder
	bytes int
}

type partBuilder struct {
	kind     conversation.PartKind
	id, name string
	text     strings.Builder
}

// add appends a delta. It reports false if the delta belongs to no part that there is or could be next, or is of another
// kind than its part.
func (o *output) add(e *conversation.Event) bool {
	kind := partKind(e.Kind)
	if e.PartIndex == len(o.parts) {
		o.parts = append(o.parts, &partBuilder{kind: kind})
	}
	if e.PartIndex < 0 || e.PartIndex >= len(o.parts) || o.parts[e.PartIndex].kind != kind {
		return false
	}
	p := o.parts[e.PartIndex]
	if e.ToolCallID != "" {
		p.id = e.ToolCallID
	}
	if e.ToolName != "" {
		p.name = e.ToolName
	}
	p.text.WriteString(e.Text)
	o.bytes += len(e.Text)
	return true
}

func partKind(k conversation.EventKind) conversation.PartKind {
	switch k {
	case conversation.EventReasoningDelta:
		return conversation.PartReasoning
	case conversation.EventRefusalDelta:
		return conversation.PartRefusal
	case conversation.EventToolCallDelta:
		return conversation.PartToolCall
	default:
		return conversation.PartText
	}
}

// messages returns what there is: one assistant message, or none if nothing came.
func (o *output) messages(id conversation.ID) []conversation.Message {
	if len(o.parts) == 0 {
		return nil
	}
	m := conversation.Message{ID: id, Role: conversation.RoleAssistant, Parts: make([]conversation.Part, len(o.parts))}
	for i, b := range o.parts {
		p := conversation.Part{Kind: b.kind}
		if b.kind == conversation.PartToolCall {
			p.ToolCall = &conversation.ToolCall{ID: b.id, Name: b.name, Arguments: b.text.String()}
		} else {
			p.Text = b.text.String()
		}
		m.Parts[i] = p
	}
	return []conversation.Message{m}
}

// withoutToolCalls returns messages without their tool calls, and without a message that has nothing else. An answer
// that was cut short can have cut a call, which nobody could run, and a call in the history must be answered.
func withoutToolCalls(messages []conversation.Message) []conversation.Message {
	for i := range messages {
		messages[i].Parts = slices.DeleteFunc(messages[i].Parts, func(p conversation.Part) bool { return p.Kind == conversation.PartToolCall })
	}
	return slices.DeleteFunc(messages, func(m conversation.Message) bool { return len(m.Parts) == 0 })
}
