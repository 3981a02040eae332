package conversation

import (
	"fmt"
	"time"
)

// Reason is the stable name of an error, one of the ErrorReason enum of the API without its prefix.
type Reason string

// The reasons that this release gives.
const (
	InvalidRequest             Reason = "INVALID_REQUEST"
	CredentialMissing          Reason = "CREDENTIAL_MISSING"
	CredentialInvalid          Reason = "CREDENTIAL_INVALID"
	CredentialExpired          Reason = "CREDENTIAL_EXPIRED"
	CredentialRevoked          Reason = "CREDENTIAL_REVOKED"
	RoleMissing                Reason = "ROLE_MISSING"
	IPNotAllowed               Reason = "IP_NOT_ALLOWED"
	ModelNotAllowed            Reason = "MODEL_NOT_ALLOWED"
	NotFound                   Reason = "NOT_FOUND"
	AlreadyExists              Reason = "ALREADY_EXISTS"
	ConversationBusy           Reason = "CONVERSATION_BUSY"
	StaleBaseTurn              Reason = "STALE_BASE_TURN"
	EtagMismatch               Reason = "ETAG_MISMATCH"
	RequestIDReused            Reason = "REQUEST_ID_REUSED"
	ContentExpired             Reason = "CONTENT_EXPIRED"
	ToolCallsUnanswered        Reason = "TOOL_CALLS_UNANSWERED"
	ContextTooLong             Reason = "CONTEXT_TOO_LONG"
	UpstreamRateLimited        Reason = "UPSTREAM_RATE_LIMITED"
	UpstreamAccountExhausted   Reason = "UPSTREAM_ACCOUNT_EXHAUSTED"
	UpstreamCredentialRejected Reason = "UPSTREAM_CREDENTIAL_REJECTED"
	UpstreamUnavailable        Reason = "UPSTREAM_UNAVAILABLE"
	UpstreamStreamCut          Reason = "UPSTREAM_STREAM_CUT"
	UpstreamStalled            Reason = "UPSTREAM_STALLED"
	UpstreamRejected           Reason = "UPSTREAM_REJECTED"
	TurnDeadline               Reason = "TURN_DEADLINE"
	TurnCancelled              Reason = "TURN_CANCELLED"
	Draining                   Reason = "DRAINING"
	StoreUnavailable           Reason = "STORE_UNAVAILABLE"
	EventsExpired              Reason = "EVENTS_EXPIRED"
	TurnInterrupted            Reason = "TURN_INTERRUPTED"
	NotImplemented             Reason = "NOT_IMPLEMENTED"
	Internal                   Reason = "INTERNAL"
	InvalidState               Reason = "INVALID_STATE"
)

// Error is a refusal or a failure that callers see. Message is a sentence that is safe to show: it never holds the
// provider's words, a key, or content. Cause is for the log only and is not stored.
type Error struct {
	Reason  Reason `json:"reason"`
	Message string `json:"message"`
	// Field names the request's field that is wrong, for InvalidRequest.
	Field string `json:"field,omitempty"`
	// Turn is the turn that the error is about, or that stands in the way (ConversationBusy).
	Turn ID `json:"-"`
	// UpstreamRequestID is the provider's id of the call that failed.
	UpstreamRequestID string `json:"upstream_request_id,omitempty"`
	// RetryAfter is how long to wait before a repeat can help; 0 where that is not known.
	RetryAfter time.Duration `json:"retry_after,omitempty"`
	// Names lists what the message is about, such as the ids of unanswered tool calls.
	Names []string `json:"names,omitempty"`
	Cause error    `json:"-"`
}

// Errorf returns an Error with a message made as by fmt.Sprintf.
func Errorf(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Error returns reason, message and cause; for the log.
func (e *Error) Error() string {
	s := string(e.Reason) + ": " + e.Message
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is reports whether target is an Error with the same reason, so that errors.Is(err, ErrNotFound) works.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error) // Is compares one link of the chain; errors.Is walks it.
	return ok && t.Reason == e.Reason
}

// Sentinels for errors.Is, and for stores to return where there is nothing more to say.
var (
	ErrNotFound         = &Error{Reason: NotFound, Message: "no such resource"}
	ErrConversationBusy = &Error{Reason: ConversationBusy, Message: "another turn is running in the conversation"}
	ErrEtagMismatch     = &Error{Reason: EtagMismatch, Message: "the conversation has changed since its etag was read"}
	ErrStoreUnavailable = &Error{Reason: StoreUnavailable, Message: "the database cannot be used at the moment; try again"}
	ErrInvalidState     = &Error{Reason: InvalidState, Message: "the resource is not in a state that allows this"}
)
