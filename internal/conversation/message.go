package conversation

import "strings"

// Role is who speaks. The numbers are stored.
type Role uint8

// The roles.
const (
	RoleSystem Role = iota + 1
	RoleDeveloper
	RoleUser
	RoleAssistant
	RoleTool
)

// String returns the role as the chat completions wire spells it.
func (r Role) String() string {
	switch r {
	case RoleSystem:
		return "system"
	case RoleDeveloper:
		return "developer"
	case RoleUser:
		return "user"
	case RoleAssistant:
		return "assistant"
	case RoleTool:
		return "tool"
	default:
		return "unknown"
	}
}

// Message is a role and what it says.
type Message struct {
	ID    ID     `json:"-"`
	Role  Role   `json:"-"`
	Parts []Part `json:"parts"`
}

// Text returns the text parts joined.
func (m Message) Text() string {
	if len(m.Parts) == 1 && m.Parts[0].Kind == PartText {
		return m.Parts[0].Text
	}
	var b strings.Builder
	for _, p := range m.Parts {
		if p.Kind == PartText {
			b.WriteString(p.Text)
		}
	}
	return b.String()
}

// PartKind says what a Part is. The numbers are stored.
type PartKind uint8

// The kinds of parts.
const (
	PartText PartKind = iota + 1
	PartImage
	PartToolCall
	PartToolResult
	PartRefusal
	PartReasoning
)

// Part is one piece of a message. Kind says which of the other fields mean something.
type Part struct {
	Kind PartKind `json:"kind"`
	// Text is the text, the refusal, the tool's result or the reasoning summary.
	Text       string      `json:"text,omitempty"`
	Image      *Image      `json:"image,omitempty"`
	ToolCall   *ToolCall   `json:"tool_call,omitempty"`
	ToolResult *ToolResult `json:"tool_result,omitempty"`
	// ProviderState belongs to a reasoning part; opaque.
	ProviderState []byte `json:"provider_state,omitempty"`
}

// TextPart returns a part that is plain text.
func TextPart(text string) Part { return Part{Kind: PartText, Text: text} }

// Image is a picture, by address or by value.
type Image struct {
	URI      string `json:"uri,omitempty"`
	Data     []byte `json:"data,omitempty"`
	MIMEType string `json:"mime_type,omitempty"`
	Detail   string `json:"detail,omitempty"` // "", auto, low, high
}

// ToolCall is the model's wish that the caller run a tool.
type ToolCall struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"` // JSON text as the model wrote it
}

// ToolResult says which call the part's Text answers.
type ToolResult struct {
	ToolCallID string `json:"tool_call_id"`
	IsError    bool   `json:"is_error,omitempty"`
}

// ToolCalls yields the ids of the tool calls in messages, in order.
func ToolCalls(messages []Message) []string {
	var ids []string
	for _, m := range messages {
		for _, p := range m.Parts {
			if p.Kind == PartToolCall {
				ids = append(ids, p.ToolCall.ID)
			}
		}
	}
	return ids
}
