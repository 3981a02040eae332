package conversation

import (
	"strings"
	"time"
)

// State is where a turn stands. The numbers are stored.
type State uint8

// The states of a turn. Queued and Running change, the others are final.
const (
	Queued State = iota + 1
	Running
	Completed
	Incomplete
	Failed
	Cancelled
)

// String returns the state's name in lower case, as telemetry shows it.
func (s State) String() string {
	switch s {
	case Queued:
		return "queued"
	case Running:
		return "running"
	case Completed:
		return "completed"
	case Incomplete:
		return "incomplete"
	case Failed:
		return "failed"
	case Cancelled:
		return "cancelled"
	default:
		return "unknown"
	}
}

// Ended reports whether the state is final.
func (s State) Ended() bool { return s >= Completed }

// Answered reports whether a turn in this state is part of the history.
func (s State) Answered() bool { return s == Completed || s == Incomplete }

// FinishReason is why an answer ended. The numbers are stored.
type FinishReason uint8

// The finish reasons.
const (
	FinishNone FinishReason = iota
	FinishStop
	FinishLength
	FinishToolCalls
	FinishContentFilter
	FinishRefusal
	FinishSchemaMismatch
)

// State returns the state of a turn that ends with the reason; Failed for none, because an answer without a positive
// end marker is not an answer.
func (f FinishReason) State() State {
	switch f {
	case FinishStop, FinishToolCalls, FinishRefusal:
		return Completed
	case FinishLength, FinishContentFilter, FinishSchemaMismatch:
		return Incomplete
	default:
		return Failed
	}
}

// OnDisconnect is what happens to a turn whose caller goes away.
type OnDisconnect uint8

// What happens on disconnect. The numbers are stored.
const (
	DisconnectCancel OnDisconnect = iota + 1
	DisconnectContinue
)

// Turn is one generation: input messages in, one answer out.
type Turn struct {
	ID           ID
	Team         string
	Client       string
	Conversation ID // zero: one-shot
	Parent       ID // zero: the first of its conversation, or one-shot
	State        State
	RequestID    string
	OnDisconnect OnDisconnect
	TraceID      [16]byte
	Labels       map[string]string
	CreateTime   time.Time
	EndTime      time.Time // zero until it ended

	Input  []Message // only where content was asked for
	Output []Message // only where content was asked for
	// ContentExpired: content was asked for, and is no longer kept.
	ContentExpired bool
	// End is where the turn's messages end, for turns that continue it; zero until it ended.
	End    Place
	Result Result
}

// Overrides are what a request says besides its input; a turn that waits, or that another server goes on with, is put
// together from them again.
type Overrides struct {
	Instructions *string    `json:"instructions,omitempty"`
	Model        string     `json:"model,omitempty"`
	Config       Config     `json:"config,omitzero"`
	Tools        []Tool     `json:"tools,omitempty"`
	ToolChoice   ToolChoice `json:"tool_choice,omitzero"`
	// AllowedModels are those that the credential of the request may ask; empty is all.
	AllowedModels []string `json:"allowed_models,omitempty"`
}

// Result is what is known of a turn besides its content; it is final when the turn has ended.
type Result struct {
	// Model is the one that answered, in the provider's words; before that, the one that was asked.
	Model        string       `json:"model"`
	Config       Config       `json:"config,omitzero"` // as sent
	FinishReason FinishReason `json:"finish_reason,omitempty"`
	Error        *Error       `json:"error,omitempty"` // set iff the state is Failed
	Usage        *Usage       `json:"usage,omitempty"`
	Timing       Timing       `json:"timing,omitzero"`
	Attempts     []Attempt    `json:"attempts,omitempty"`
	LastSequence int64        `json:"last_sequence,omitempty"`
}

// OutputText returns the text parts of the output joined.
func (t *Turn) OutputText() string {
	if len(t.Output) == 1 {
		return t.Output[0].Text()
	}
	var text strings.Builder
	for _, m := range t.Output {
		text.WriteString(m.Text())
	}
	return text.String()
}

// Usage is what a turn or an attempt used, in tokens.
type Usage struct {
	InputTokens       int64 `json:"input_tokens"`
	CachedInputTokens int64 `json:"cached_input_tokens,omitempty"`
	OutputTokens      int64 `json:"output_tokens"` // reasoning included
	ReasoningTokens   int64 `json:"reasoning_tokens,omitempty"`
	// Estimated: the provider did not say; this is our own count.
	Estimated bool `json:"estimated,omitempty"`
}

// Timing is where a turn's time went. The five add up to the time from the request's arrival until its end is written.
type Timing struct {
	Queue            time.Duration `json:"queue,omitempty"`
	Context          time.Duration `json:"context,omitempty"`
	TimeToFirstEvent time.Duration `json:"time_to_first_event,omitempty"`
	Generation       time.Duration `json:"generation,omitempty"`
	Overhead         time.Duration `json:"overhead,omitempty"`
}

// AttemptState is how far a call to the provider got. The numbers are stored.
type AttemptState uint8

// The states of an attempt: INTENT before the call, then SETTLED with its usage, or UNKNOWN if the server that made
// the call died.
const (
	AttemptIntent AttemptState = iota + 1
	AttemptSent
	AttemptSettled
	AttemptUnknown
)

// Attempt is one call to the provider.
type Attempt struct {
	State             AttemptState `json:"state"`
	Model             string       `json:"model"`
	UpstreamRequestID string       `json:"upstream_request_id,omitempty"`
	Usage             *Usage       `json:"usage,omitempty"`
	Error             *Error       `json:"error,omitempty"`
	CreateTime        time.Time    `json:"create_time"`
	EndTime           time.Time    `json:"end_time,omitzero"`
}
