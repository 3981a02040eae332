package openaisim

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// apiError is an error as OpenAI puts it on the wire. An empty param or code is null.
type apiError struct {
	status     int
	message    string
	kind       string
	param      string
	code       string
	retryAfter time.Duration // 0 sends no Retry-After
}

// MarshalJSON writes the envelope {"error": {…}}.
func (e *apiError) MarshalJSON() ([]byte, error) {
	null := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	type body struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	return json.Marshal(struct {
		Error body `json:"error"`
	}{body{e.message, e.kind, null(e.param), null(e.code)}})
}

func badRequest(param, code, format string, args ...any) *apiError {
	return &apiError{
		status: http.StatusBadRequest, kind: "invalid_request_error",
		param: param, code: code, message: fmt.Sprintf(format, args...),
	}
}

func missingParameter(param string) *apiError {
	return badRequest(param, "missing_required_parameter", "Missing required parameter: '%s'.", param)
}

func invalidType(param, want, got string) *apiError {
	return badRequest(param, "invalid_type", "Invalid type for '%s': expected %s, but got %s instead.", param, want, got)
}

func invalidValue(param, got string, supported ...string) *apiError {
	for i, s := range supported {
		supported[i] = "'" + s + "'"
	}
	list := strings.Join(supported, " and ")
	if n := len(supported); n > 2 {
		list = strings.Join(supported[:n-1], ", ") + ", and " + supported[n-1]
	}
	return badRequest(param, "invalid_value", "Invalid value: '%s'. Supported values are: %s.", got, list)
}

func notInSimulator(param string) *apiError {
	return badRequest(param, "unsupported_parameter", "Unsupported parameter: '%s' is not supported by this simulator.", param)
}

func unsupportedParameter(param, hint string) *apiError {
	return badRequest(param, "unsupported_parameter", "Unsupported parameter: '%s' is not supported with this model.%s", param, hint)
}

func modelNotFound(model string) *apiError {
	return &apiError{
		status: http.StatusNotFound, kind: "invalid_request_error", code: "model_not_found",
		message: fmt.Sprintf("The model `%s` does not exist or you do not have access to it.", model),
	}
}

func contextTooLong(limit, got int) *apiError {
	return badRequest("messages", "context_length_exceeded",
		"This model's maximum context length is %d tokens. However, your messages resulted in %d tokens. Please reduce the length of the messages.", limit, got)
}

func missingKey() *apiError {
	return &apiError{
		status: http.StatusUnauthorized, kind: "invalid_request_error",
		message: "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
	}
}

// invalidKey shows a part of the key, as OpenAI's own message does: a client that
// passes such a message on leaks it.
func invalidKey(key string) *apiError {
	masked := "***"
	if len(key) >= 16 {
		masked = key[:4] + strings.Repeat("*", 8) + key[len(key)-4:]
	}
	return &apiError{
		status: http.StatusUnauthorized, kind: "invalid_request_error", code: "invalid_api_key",
		message: fmt.Sprintf("Incorrect API key provided: %s. You can find your API key at https://platform.openai.com/account/api-keys.", masked),
	}
}

func rateLimited(model string, retryAfter time.Duration) *apiError {
	return &apiError{
		status: http.StatusTooManyRequests, kind: "requests", code: "rate_limit_exceeded", retryAfter: retryAfter,
		message: fmt.Sprintf("Rate limit reached for %s in organization org-sim on requests per min (RPM): Limit %d, Used %d, Requested 1. Please try again in %s.",
			model, requestLimit, requestLimit, retryAfter),
	}
}

func quotaSpent() *apiError {
	return &apiError{
		status: http.StatusTooManyRequests, kind: "insufficient_quota", code: "insufficient_quota",
		message: "You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
	}
}

func serverError() *apiError {
	return &apiError{
		status: http.StatusInternalServerError, kind: "server_error",
		message: "The server had an error while processing your request. Sorry about that!",
	}
}

func overloaded(retryAfter time.Duration) *apiError {
	return &apiError{
		status: http.StatusServiceUnavailable, kind: "server_error", retryAfter: retryAfter,
		message: "That model is currently overloaded with other requests. You can retry your request, or contact us if the error persists.",
	}
}

// write sends e. Headers common to all responses are set already.
func (e *apiError) write(w http.ResponseWriter) {
	body, err := json.MarshalIndent(e, "", "    ")
	if err != nil { // a struct of strings always marshals
		body = nil
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
		h.Set("Retry-After-Ms", strconv.FormatInt(e.retryAfter.Milliseconds(), 10))
	}
	if e.code == "rate_limit_exceeded" {
		h.Set("X-Ratelimit-Remaining-Requests", "0")
		h.Set("X-Ratelimit-Reset-Requests", e.retryAfter.String())
	}
	w.WriteHeader(e.status)
	_, _ = w.Write(append(body, '\n')) // a client that is gone needs no error
}
