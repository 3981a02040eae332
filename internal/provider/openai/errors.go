package openai

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// wireError is an error as OpenAI words it. All of it is foreign text.
type wireError struct{ message, kind, param, code string }

// parseError reads the value of an "error" member: an object, or only a message.
func parseError(raw []byte) wireError {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return wireError{message: text}
	}
	var object struct {
		Error                      json.RawMessage
		Message, Type, Param, Code any
	}
	if json.Unmarshal(raw, &object) != nil {
		return wireError{message: string(raw)}
	}
	if len(object.Error) > 0 && object.Message == nil {
		return parseError(object.Error)
	}
	return wireError{
		message: scalar(object.Message), kind: scalar(object.Type), param: scalar(object.Param), code: scalar(object.Code),
	}
}

// scalar returns a string, or a number as text: some servers send the status as code.
func scalar(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return ""
	}
}

// unnamedError returns the error in a frame that has neither choices nor usage nor an error by that name; nil if it is
// only an empty frame.
func unnamedError(call *call, frame []byte) error {
	var object struct{ Object, Type any }
	if json.Unmarshal(frame, &object) == nil && (scalar(object.Object) == "error" || scalar(object.Type) == "error") {
		return upstreamError(call, 0, parseError(frame))
	}
	return nil
}

// refusal returns what a response means that is no stream.
func refusal(call *call, status int, body []byte) *conversation.Error {
	var envelope struct{ Error json.RawMessage }
	if json.Unmarshal(body, &envelope) == nil && len(envelope.Error) > 0 && string(envelope.Error) != "null" {
		if status < 300 {
			status = 0
		}
		return upstreamError(call, status, parseError(envelope.Error))
	}
	if status < 400 {
		e := nonsense(call, fmt.Errorf("HTTP %d with content type %.100q and %d bytes", status, call.header.Get("Content-Type"), len(body)))
		e.Message = fmt.Sprintf("OpenAI answered with something that is no stream (HTTP %d); its operators should check the base URL", status)
		return e
	}
	return upstreamError(call, status, wireError{message: string(body)})
}

// upstreamError returns the error of a response with the status, or, where that is 0, of an event in a stream.
func upstreamError(call *call, status int, w wireError) *conversation.Error {
	e := &conversation.Error{Reason: classify(status, w), UpstreamRequestID: call.requestID()}
	if e.Reason != conversation.UpstreamRejected && e.Reason != conversation.ContextTooLong && w.message != "" {
		// What is wrong with a request is told in its own words, which are content; what is wrong with the provider is not.
		e.Cause = call.masked(errors.New(w.message))
	}
	if limited := e.Reason == conversation.UpstreamRateLimited; limited || e.Reason == conversation.UpstreamUnavailable {
		e.RetryAfter = retryAfter(call.header, time.Now(), limited)
	}
	e.Message = fmt.Sprintf(sentence(e.Reason), call.details(status, w))
	return e
}

// classify returns the reason of an error. The status decides where it is the server's fault, then the code where it is
// known, then the status; in a stream, where there is none, the type.
func classify(status int, w wireError) conversation.Reason {
	if status >= 500 {
		return conversation.UpstreamUnavailable
	}
	for _, word := range []string{w.code, w.kind} {
		switch word {
		case "context_length_exceeded":
			return conversation.ContextTooLong
		case "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance":
			return conversation.UpstreamAccountExhausted
		case "model_not_found": // also with 403, for a model that the account may not use
			return conversation.UpstreamRejected
		case "invalid_api_key", "account_deactivated", "authentication_error", "permission_error":
			return conversation.UpstreamCredentialRejected
		}
	}
	switch status {
	case 0:
		switch {
		case w.code == "rate_limit_exceeded", w.kind == "rate_limit_error", w.kind == "rate_limit_exceeded":
			return conversation.UpstreamRateLimited
		case w.kind == "invalid_request_error":
			return conversation.UpstreamRejected
		}
		if code, err := strconv.Atoi(w.code); err == nil && code >= 400 && code < 600 {
			return classify(code, wireError{})
		}
		return conversation.UpstreamUnavailable
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return conversation.UpstreamCredentialRejected
	case http.StatusPaymentRequired:
		return conversation.UpstreamAccountExhausted
	case http.StatusTooManyRequests:
		return conversation.UpstreamRateLimited
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly: // worth a repeat, as OpenAI's own clients do
		return conversation.UpstreamUnavailable
	}
	if status >= 400 {
		return conversation.UpstreamRejected
	}
	return conversation.UpstreamUnavailable
}

// sentence returns what callers are told, with a place for details.
func sentence(r conversation.Reason) string {
	switch r {
	case conversation.ContextTooLong:
		return "the messages are longer than the model's context (%s); send fewer or shorter ones"
	case conversation.UpstreamAccountExhausted:
		return "the OpenAI account of this service has no credit left (%s); its operators must act"
	case conversation.UpstreamCredentialRejected:
		return "OpenAI did not accept the key of this service (%s); its operators must act"
	case conversation.UpstreamRateLimited:
		return "OpenAI limits the requests of this service (%s); try again later"
	case conversation.UpstreamRejected:
		return "OpenAI refused the request (%s); change it before trying again"
	default:
		return "OpenAI could not answer (%s); try again"
	}
}

// stalled returns the error of a call without content for the time.
func stalled(call *call, limit time.Duration) *conversation.Error {
	return &conversation.Error{
		Reason:            conversation.UpstreamStalled,
		Message:           fmt.Sprintf("OpenAI sent nothing for %s; try again", limit),
		UpstreamRequestID: call.requestID(),
	}
}

// nonsense returns the error of a stream that is not what it should be.
func nonsense(call *call, err error) *conversation.Error {
	return &conversation.Error{
		Reason:            conversation.UpstreamUnavailable,
		Message:           "OpenAI sent something that is no answer; try again",
		UpstreamRequestID: call.requestID(),
		Cause:             call.masked(err),
	}
}

// word matches the codes and parameter names that may be shown: too plain to carry a message, and none is a key.
var word = regexp.MustCompile(`^[a-z0-9_.\[\]-]{1,64}$`)

// details says where the error comes from, with the provider's code and parameter only if they are plain words.
func (c *call) details(status int, w wireError) string {
	s := "in the stream"
	if status != 0 {
		s = fmt.Sprintf("HTTP %d", status)
	}
	show := func(name, value string) {
		if word.MatchString(value) && mask(value, c.key) == value {
			s += ", " + name + " " + value
		}
	}
	show("code", w.code)
	show("parameter", w.param)
	return s
}

// requestIDs are what we are ready to show and store.
var requestIDs = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,128}$`)

// requestID returns the provider's id of the call, if it gave one.
func (c *call) requestID() string {
	id := c.header.Get("X-Request-Id")
	if !requestIDs.MatchString(id) || mask(id, c.key) != id {
		return ""
	}
	return id
}

// maxCause bounds what the log gets of foreign text.
const maxCause = 2 << 10

// masked returns an error with err's text, without the key, at most maxCause long.
func (c *call) masked(err error) error {
	text := mask(err.Error(), c.key)
	if len(text) > maxCause {
		text = strings.ToValidUTF8(text[:maxCause], "") + "…"
	}
	return errors.New(text)
}

// secrets matches what looks like a key, whole or with its middle starred out as OpenAI does.
var secrets = regexp.MustCompile(`\bsk-[\w*-]+|[\w-]*\*{3,}[\w*-]*|(?i:\bbearer)\s+[^\s"]+`)

// minSecret is the length from which a key is a secret: a shorter one would also be found in plain words.
const minSecret = 8

func mask(text, key string) string {
	if len(key) >= minSecret {
		text = strings.ReplaceAll(text, key, "***")
	}
	return secrets.ReplaceAllString(text, "***")
}

// maxRetryAfter bounds what a header can make anyone wait.
const maxRetryAfter = 24 * time.Hour

// retryAfter returns how long the headers say to wait; 0 if they do not. With limits, the time until an exhausted rate
// limit is whole again stands in for a missing Retry-After.
func retryAfter(h http.Header, now time.Time, limits bool) time.Duration {
	wait := time.Duration(0)
	switch value := h.Get("Retry-After"); {
	case h.Get("Retry-After-Ms") != "":
		wait = seconds(h.Get("Retry-After-Ms")) / 1000
	case value != "":
		if at, err := http.ParseTime(value); err == nil {
			wait = at.Sub(now)
		} else {
			wait = seconds(value)
		}
	case limits:
		for _, kind := range []string{"Requests", "Tokens"} {
			if remaining := h.Get("X-Ratelimit-Remaining-" + kind); remaining != "" && remaining != "0" {
				continue
			}
			if d, err := time.ParseDuration(h.Get("X-Ratelimit-Reset-" + kind)); err == nil {
				wait = max(wait, d)
			}
		}
	}
	return min(max(wait, 0), maxRetryAfter)
}

// seconds reads a number of seconds, capped so that it fits; 0 if it is none.
func seconds(s string) time.Duration {
	n, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || !(n > 0) {
		return 0
	}
	return time.Duration(min(n, 1e9) * float64(time.Second))
}
