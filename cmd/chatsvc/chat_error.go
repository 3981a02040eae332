package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
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

// explain returns what the error of a call means to whoever has made it. turn is the turn that the call had begun, if any.
func (c *connection) explain(err error, turn string) *callError {
	e := parseError(err, turn)
	switch {
	case e.Reason == "" && e.Code == "UNAVAILABLE":
		e.unreachable(c.Address)
	case e.Reason == "" && e.Code == "UNIMPLEMENTED" && strings.HasPrefix(e.Message, "unknown service chatsvc."):
		e.advice = "callers and the control plane have a port each, and " + c.Address + " is the other one: see --address"
	case e.Reason == "CREDENTIAL_MISSING", e.Reason == "CREDENTIAL_INVALID":
		e.advice = c.credentialAdvice(e.Reason)
	}
	return e
}

// credentialAdvice says what to do about a credential, by what was sent.
func (c *connection) credentialAdvice(reason string) string {
	local, _ := isLocal(c.Address)
	key, guessed, err := c.key(local)
	const setKey = "set CHATSVC_KEY or --key-file to a key of this service"
	switch {
	case err != nil:
		return ""
	case guessed:
		return "no key was given, so `dev` was tried: " + setKey
	case reason == "CREDENTIAL_MISSING" && key != "":
		return "give a client certificate, too: --tls-cert and --tls-key"
	case reason == "CREDENTIAL_MISSING":
		return "it has not asked for the certificate of --tls-cert: " + setKey
	case key == "", strings.Count(key, ".") == 2:
		return "" // a certificate, or a JWT, for which another party is to be asked, as the sentence says
	default:
		return setKey
	}
}

// parseError returns what the error of a call says.
func parseError(err error, turn string) *callError {
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
	if e.Turn != "" || strings.HasPrefix(cause, "error reading from server") {
		e.Message = fmt.Sprintf("the connection to %s broke: %s", address, cause)
		return
	}
	e.Message = fmt.Sprintf("cannot reach chatsvc at %s: %s", address, cause)
	e.advice = connectionAdvice(cause)
}

// connectionAdvice says what may be wrong with a connection. There is nothing but gRPC's text to tell the cases apart.
func connectionAdvice(cause string) string {
	says := func(words ...string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(cause, word) })
	}
	switch {
	case says("connection refused", "no such file"):
		return "nothing listens there: is `chatsvc serve` running? see --address"
	case says("remote error: tls: certificate required"):
		return "it asks for a client certificate: see --tls-cert"
	case says("remote error: tls") && says("certificate"):
		return "it does not accept this certificate: see --tls-cert"
	case says("x509:"):
		return "it is not one that is trusted: see --tls-ca"
	case says("tls:", "handshake", "preface", "EOF", "frame", "reset by peer", "broken pipe"):
		return "does it speak TLS? see --tls-ca, --tls-cert, --insecure-plaintext"
	default:
		return "is the address right? see --address"
	}
}

// advice says what a person at a terminal can do, where the service's sentence, written for programs, does not.
func advice(reason string) string {
	switch reason {
	case "CONVERSATION_BUSY":
		return "wait for its end, or start a new conversation"
	case "TOOL_CALLS_UNANSWERED", "CONTEXT_TOO_LONG":
		return "a new conversation is free of it"
	default:
		return ""
	}
}

// undecided reports whether the call may have done what it was to do: there is no answer, or one of somebody on the way.
func (e *callError) undecided() bool {
	switch e.Code {
	case "UNAVAILABLE", "DEADLINE_EXCEEDED":
		return true
	case "UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED": // whoever it was has not let it through
		return false
	default:
		return e.Reason == ""
	}
}

// oneLine makes text from elsewhere fit for one line of a terminal.
func oneLine(text string) string {
	return visible(strings.Join(strings.Fields(text), " "))
}
