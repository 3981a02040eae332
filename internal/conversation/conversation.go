// Package conversation is the vocabulary of chatsvc: conversations, turns, messages, events, the errors that all
// layers share, and the contract of the store that keeps them. It imports only the standard library.
//
// The json tags are the stored form of a value: a field may be renamed, its tag may not.
package conversation

import (
	"time"
)

// ID is a UUIDv7: 16 bytes that sort by the time they were made. The zero ID means none.
type ID [16]byte

// IsZero reports whether id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// Version tells one state of a conversation from another. Spec counts changes of what callers set, Head those of the
// main line; both start at 1.
type Version struct {
	Spec int64
	Head int64
}

// Conversation is turns that build on each other, and the defaults that they share.
type Conversation struct {
	ID   ID
	Team string
	Spec Spec

	// HeadTurn is the last turn of the main line; zero while there is none. In a fork it can be a turn of the conversation
	// that was forked.
	HeadTurn ID
	// Head is the end of the head turn.
	Head Place
	// ActiveTurn is the turn that runs on the main line, or waits for its turn there; zero if none does.
	ActiveTurn ID

	Version    Version
	CreateTime time.Time
	UpdateTime time.Time
	// ExpireTime is when the conversation is deleted by itself; zero for never.
	ExpireTime time.Time
}

// Place is an end of some messages that follow each other: those before it on its branch, and on the branches that this
// one has grown out of. The zero Place is before the first message of any line.
type Place struct {
	Branch ID
	// Position is the number of the messages.
	Position int64
	// Tokens is their size, in the encoding of StoredMessage.Tokens.
	Tokens int64
}

// Spec is what callers set in a conversation.
type Spec struct {
	DisplayName  string            `json:"display_name,omitempty"`
	Instructions string            `json:"instructions,omitempty"`
	Model        string            `json:"model,omitempty"`
	Config       Config            `json:"config,omitzero"`
	Tools        []Tool            `json:"tools,omitempty"`
	ToolChoice   ToolChoice        `json:"tool_choice,omitzero"`
	Labels       map[string]string `json:"labels,omitempty"`
}

// Config is how a model generates. A nil pointer, an empty string and a nil slice are unset: they are not sent, and a
// turn inherits them from its conversation. A pointer to zero is sent as zero.
type Config struct {
	Temperature       *float64       `json:"temperature,omitempty"`
	TopP              *float64       `json:"top_p,omitempty"`
	MaxOutputTokens   *int32         `json:"max_output_tokens,omitempty"`
	Stop              []string       `json:"stop,omitempty"`
	Seed              *int64         `json:"seed,omitempty"`
	PresencePenalty   *float64       `json:"presence_penalty,omitempty"`
	FrequencyPenalty  *float64       `json:"frequency_penalty,omitempty"`
	ReasoningEffort   string         `json:"reasoning_effort,omitempty"` // as the provider spells it: none, minimal, low, …
	Verbosity         string         `json:"verbosity,omitempty"`        // low, medium, high
	ParallelToolCalls *bool          `json:"parallel_tool_calls,omitempty"`
	ResponseFormat    ResponseFormat `json:"response_format,omitempty"`
}

// ResponseFormat is the form of an answer.
type ResponseFormat string

// The forms of an answer. Unset is the provider's default, text.
const (
	FormatUnset      ResponseFormat = ""
	FormatText       ResponseFormat = "text"
	FormatJSONObject ResponseFormat = "json_object"
)

// Over returns c with every field that is unset in it taken from base.
func (c Config) Over(base Config) Config {
	pick(&c.Temperature, base.Temperature)
	pick(&c.TopP, base.TopP)
	pick(&c.MaxOutputTokens, base.MaxOutputTokens)
	if c.Stop == nil {
		c.Stop = base.Stop
	}
	pick(&c.Seed, base.Seed)
	pick(&c.PresencePenalty, base.PresencePenalty)
	pick(&c.FrequencyPenalty, base.FrequencyPenalty)
	if c.ReasoningEffort == "" {
		c.ReasoningEffort = base.ReasoningEffort
	}
	if c.Verbosity == "" {
		c.Verbosity = base.Verbosity
	}
	pick(&c.ParallelToolCalls, base.ParallelToolCalls)
	if c.ResponseFormat == FormatUnset {
		c.ResponseFormat = base.ResponseFormat
	}
	return c
}

func pick[T any](p **T, base *T) {
	if *p == nil {
		*p = base
	}
}

// Tool is a function that the model may ask the caller to run.
type Tool struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	// Parameters is JSON Schema as it was given: the order of its keys can matter to the model.
	Parameters string `json:"parameters,omitempty"`
	Strict     bool   `json:"strict,omitempty"`
}

// ToolChoice says whether and which tool the model must call. The zero value leaves it to the provider.
type ToolChoice struct {
	// Mode is "", "auto", "none", "required" or "tool".
	Mode string `json:"mode,omitempty"`
	// Tool is the tool's name where Mode is "tool".
	Tool string `json:"tool,omitempty"`
}

// The modes of a ToolChoice.
const (
	ToolChoiceAuto     = "auto"
	ToolChoiceNone     = "none"
	ToolChoiceRequired = "required"
	ToolChoiceTool     = "tool"
)
