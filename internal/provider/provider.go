// Package provider is the contract for whoever generates answers. provider/openai is the implementation,
// provider/openaisim the other side of its wire, provider/providertest the suite.
package provider

import (
	"context"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// Provider makes calls to a model. Implementations are safe for concurrent use and pass the suite providertest.
type Provider interface {
	// Generate makes one call, without retry, and returns its stream as soon as the head of a good response is there.
	// The call lives no longer than ctx. An error is a *conversation.Error with one of the UPSTREAM_* reasons or
	// CONTEXT_TOO_LONG, and with the provider's request id and RetryAfter where they are known; or ctx's error if ctx
	// ended. Neither it nor any error of the stream shows callers the provider's words: those are in Cause, without any
	// key.
	Generate(ctx context.Context, r *Request) (Stream, error)
}

// Request is one call.
type Request struct {
	Model string
	// Reasoning says that the model thinks before it answers, so that its first content may take long.
	Reasoning bool
	// Instructions come before the messages; empty means none.
	Instructions string
	Messages     []conversation.Message
	Tools        []conversation.Tool
	ToolChoice   conversation.ToolChoice
	Config       conversation.Config
}

// Stream is the answer as it comes. It is used by one goroutine, except Close.
type Stream interface {
	// Next waits until a part of the answer has arrived and returns all that has, as delta events without sequence and
	// time: neighbours of one kind and part are merged, and none is waited for. Part indexes count from 0 in order
	// of appearance. The slice is the stream's own and good until the next call.
	//
	// After a positive end marker, and only then, it returns io.EOF. Every other end is an error as of Generate:
	// UPSTREAM_STREAM_CUT if the stream stops short, UPSTREAM_STALLED if no content came for too long,
	// UPSTREAM_UNAVAILABLE for nonsense, a line or stream that is too large, or an error event.
	Next() ([]conversation.Event, error)
	// Outcome returns what is known so far; all of it after io.EOF.
	Outcome() Outcome
	// Close ends the call; the provider sees the connection close within a second if the stream had not ended. It may
	// be called at any time, from any goroutine, more than once, and unblocks Next.
	Close() error
}

// Outcome is what the provider says about a call besides the answer.
type Outcome struct {
	// Model is the one that answered, in the provider's words; empty if it did not say.
	Model string
	// RequestID is the provider's id of the call.
	RequestID string
	// Finish is why the answer ended; FinishNone before the end.
	Finish conversation.FinishReason
	// Usage is what the call used; nil if the provider did not say. Missing is not zero.
	Usage *conversation.Usage
}
