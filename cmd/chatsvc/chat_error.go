package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errorDomain marks the errors that come from chatsvc itself, and not from the way there.
const errorDomain = "chatsvc"

// callError is the error of a call, in words for a person and fields for a script.
type callError struct {
	Code         string   `json:"code"`                   // canonical, such as UNAVAILABLE
	Reason       string   `json:"reason,omitempty"`       // of ErrorInfo; empty if the error is not chatsvc's own
	Message      string   `json:"message"`                // one line
	Turn         string   `json:"turn,omitempty"`         // the turn that the error is about
	RetryAfterMs int64    `json:"retryAfterMs,omitempty"` // of RetryInfo
	Fields       []string `json:"fields,omitempty"`       // of BadRequest
	advice       string
}

// Error returns all of it in one line, fit for a terminal.
func (e *callError) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	about := slices.DeleteFunc([]string{e.Reason, e.Turn}, func(s string) bool { return s == "" })
	if len(about) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(about, ", "))
	}
	if e.RetryAfterMs > 0 {
		fmt.Fprintf(&b, "; try again in %v", roundTime(time.Duration(e.RetryAfterMs)*time.Millisecond))
	}
	if e.advice != "" {
		b.WriteString("; " + e.advice)
	}
	return b.String()
}

// explain returns what the error of a call to address means. turn is the turn that the call had begun, if any.
func explain(err error, address, turn string) *callError {
	s := status.Convert(err)
	e := &callError{Code: code.Code_name[int32(s.Code())], Message: oneLine(s.Message()), Turn: turn} //nolint:gosec // a code is a small number
	if e.Message == "" {
		e.Message = "chatsvc answered " + e.Code
	}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() != errorDomain {
				continue
			}
			e.Reason = oneLine(d.GetReason())
			if named := d.GetMetadata()["turn"]; named != "" {
				e.Turn = oneLine(named)
			}
			if other := d.GetMetadata()["active_turn"]; other != "" {
				e.Message += ": " + oneLine(other)
			}
		case *errdetails.RetryInfo:
			e.RetryAfterMs = d.GetRetryDelay().AsDuration().Milliseconds()
		case *errdetails.BadRequest:
			for _, violation := range d.GetFieldViolations() {
				e.addField(oneLine(violation.GetField()), oneLine(violation.GetDescription()))
			}
		}
	}
	e.advice = advice(e.Reason)
	if e.Reason == "" && s.Code() == codes.Unavailable {
		e.unreachable(address)
	}
	return e
}

// addField names a field that is wrong, and says so in the message where that does not say it already.
func (e *callError) addField(field, description string) {
	e.Fields = append(e.Fields, field)
	switch {
	case !strings.Contains(e.Message, description):
		e.Message += fmt.Sprintf("; %s: %s", field, description)
	case !strings.Contains(e.Message, field):
		e.Message += fmt.Sprintf(" [%s]", field)
	}
}

// unreachable rewrites an error that gRPC made because there was no connection, or no longer one.
func (e *callError) unreachable(address string) {
	_, cause, found := strings.Cut(e.Message, "desc = ")
	if !found {
		cause = e.Message
	}
	cause = strings.Trim(cause, `"`)
	if e.Turn != "" {
		e.Message = fmt.Sprintf("the connection to %s broke: %s", address, cause)
		return
	}
	e.Message = fmt.Sprintf("cannot reach chatsvc at %s: %s", address, cause)
	e.advice = "is chatsvc running? start it with: make run"
	if local, err := isLocal(address); err == nil && !local {
		e.advice = "is the address right, and does it speak TLS? see --address, --tls-ca, --insecure-plaintext"
	}
}

// advice says what a person at a terminal can do, where the service's sentence, written for programs, does not.
func advice(reason string) string {
	switch reason {
	case "CREDENTIAL_MISSING", "CREDENTIAL_INVALID", "CREDENTIAL_EXPIRED", "CREDENTIAL_REVOKED":
		return "set CHATSVC_KEY or --key-file to a key of this service"
	case "CONVERSATION_BUSY":
		return "wait for its end, or start a new conversation"
	case "TOOL_CALLS_UNANSWERED", "CONTEXT_TOO_LONG":
		return "a new conversation is free of it"
	default:
		return ""
	}
}

// oneLine makes text from elsewhere fit for one line of a terminal.
func oneLine(text string) string {
	return visible(strings.Join(strings.Fields(text), " "))
}
