package openai

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

func TestRefusal(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   conversation.Reason
		shows  string
	}{
		"400":                     {400, `{"error":{"message":"m","type":"invalid_request_error","param":"messages[0].content","code":"invalid_value"}}`, conversation.UpstreamRejected, "(HTTP 400, code invalid_value, parameter messages[0].content)"},
		"400, nulls":              {400, `{"error":{"message":"m","type":"x","param":null,"code":null}}`, conversation.UpstreamRejected, "(HTTP 400)"},
		"400, code is a sentence": {400, `{"error":{"message":"m","code":"Your key is abc"}}`, conversation.UpstreamRejected, "(HTTP 400)"},
		"400, code is a key":      {400, `{"error":{"message":"m","code":"sk-abcdefgh"}}`, conversation.UpstreamRejected, "(HTTP 400)"},
		"400, code is our key":    {400, `{"error":{"message":"m","code":"the-very-key"}}`, conversation.UpstreamRejected, "(HTTP 400)"},
		"400, context":            {400, `{"error":{"message":"m","code":"context_length_exceeded"}}`, conversation.ContextTooLong, "code context_length_exceeded"},
		"401":                     {401, `{"error":{"message":"m","code":"invalid_api_key"}}`, conversation.UpstreamCredentialRejected, ""},
		"401, empty":              {401, ``, conversation.UpstreamCredentialRejected, ""},
		"402":                     {402, `{}`, conversation.UpstreamAccountExhausted, ""},
		"403 for a model":         {403, `{"error":{"message":"Project has no access","type":"invalid_request_error","code":"model_not_found"}}`, conversation.UpstreamRejected, "model_not_found"},
		"403":                     {403, `{"error":"no"}`, conversation.UpstreamCredentialRejected, ""},
		"404":                     {404, `{"error":{"code":"model_not_found"}}`, conversation.UpstreamRejected, "code model_not_found"},
		"408":                     {408, ``, conversation.UpstreamUnavailable, ""},
		"409":                     {409, ``, conversation.UpstreamUnavailable, ""},
		"413":                     {413, `<html>`, conversation.UpstreamRejected, ""},
		"422":                     {422, `{"detail":"x"}`, conversation.UpstreamRejected, ""},
		"429":                     {429, `{"error":{"code":"rate_limit_exceeded","type":"tokens"}}`, conversation.UpstreamRateLimited, ""},
		"429, no body":            {429, ``, conversation.UpstreamRateLimited, ""},
		"429, quota by type":      {429, `{"error":{"type":"insufficient_quota"}}`, conversation.UpstreamAccountExhausted, ""},
		"429, billing":            {429, `{"error":{"code":"billing_hard_limit_reached"}}`, conversation.UpstreamAccountExhausted, ""},
		"500":                     {500, `{"error":{"code":"invalid_api_key"}}`, conversation.UpstreamUnavailable, "(HTTP 500, code invalid_api_key)"},
		"502":                     {502, `<html>`, conversation.UpstreamUnavailable, ""},
		"529":                     {529, ``, conversation.UpstreamUnavailable, ""},
		"redirect":                {307, ``, conversation.UpstreamUnavailable, "base URL"},
		"200, HTML":               {200, `<html>`, conversation.UpstreamUnavailable, "base URL"},
		"200, JSON answer":        {200, `{"choices":[],"error":null}`, conversation.UpstreamUnavailable, "base URL"},
		"200, JSON error":         {200, `{"error":{"code":"insufficient_quota"}}`, conversation.UpstreamAccountExhausted, ""},
		"200, numeric code":       {200, `{"error":{"code":429,"message":"m"}}`, conversation.UpstreamRateLimited, "code 429"},
	} {
		t.Run(name, func(t *testing.T) {
			call := &call{key: "the-very-key", header: http.Header{"X-Request-Id": {"req_1"}}}
			e := refusal(call, c.status, []byte(c.body))
			if e.Reason != c.want || !strings.Contains(e.Message, c.shows) || e.UpstreamRequestID != "req_1" {
				t.Errorf("%+v, want %s with %q", e, c.want, c.shows)
			}
			// What OpenAI says of a request can quote it.
			if e.Cause != nil && (c.want == conversation.UpstreamRejected || c.want == conversation.ContextTooLong) {
				t.Errorf("%v keeps what may be content for the log", e)
			}
			if strings.Contains(e.Message, "sk-") || strings.Contains(e.Error(), "the-very-key") || strings.Contains(e.Message, "sentence") {
				t.Errorf("%v tells too much", e)
			}
		})
	}
}

func TestErrorInStream(t *testing.T) {
	for body, want := range map[string]conversation.Reason{
		`{"error":{"type":"server_error","message":"m"}}`:                              conversation.UpstreamUnavailable,
		`{"error":{"code":"rate_limit_exceeded"}}`:                                     conversation.UpstreamRateLimited,
		`{"error":{"type":"invalid_request_error","code":"context_length_exceeded"}}`:  conversation.ContextTooLong,
		`{"error":{"type":"invalid_request_error"}}`:                                   conversation.UpstreamRejected,
		`{"error":{"code":"insufficient_quota"}}`:                                      conversation.UpstreamAccountExhausted,
		`{"error":{"code":"401"}}`:                                                     conversation.UpstreamCredentialRejected,
		`{"error":"overloaded"}`:                                                       conversation.UpstreamUnavailable,
		`{"error":{"error":{"code":429}}}`:                                             conversation.UpstreamRateLimited,
		`{"object":"error","message":"m","code":400,"type":"BadRequestError"}`:         conversation.UpstreamRejected,
		`{"type":"error","error":{"type":"authentication_error"}}`:                     conversation.UpstreamCredentialRejected,
		`{"choices":[{"delta":{"content":"x"}}],"error":{"message":"m","type":"any"}}`: conversation.UpstreamUnavailable,
		`{"choices":7}`:               conversation.UpstreamUnavailable,
		`[]`:                          conversation.UpstreamUnavailable,
		`{"choices":[]}`:              conversation.UpstreamStreamCut, // empty, and then nothing
		`{"choices":[],"error":null}`: conversation.UpstreamStreamCut,
	} {
		t.Run(body, func(t *testing.T) {
			s := streamOf(t, &pieces{rest: ": first a comment\n\ndata: " + body + "\n\n"})
			defer s.Close()
			if text, err := readAll(s); text != "" || !errors.Is(err, &conversation.Error{Reason: want}) {
				t.Errorf("%q, %v, want %s", text, err, want)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		header http.Header
		want   time.Duration
	}{
		"none":          {nil, 0},
		"seconds":       {http.Header{"Retry-After": {"7"}}, 7 * time.Second},
		"fraction":      {http.Header{"Retry-After": {"0.5"}}, 500 * time.Millisecond},
		"milliseconds":  {http.Header{"Retry-After-Ms": {"1500"}, "Retry-After": {"2"}}, 1500 * time.Millisecond},
		"date":          {http.Header{"Retry-After": {now.Add(time.Minute).Format(http.TimeFormat)}}, time.Minute},
		"past":          {http.Header{"Retry-After": {now.Add(-time.Minute).Format(http.TimeFormat)}}, 0},
		"negative":      {http.Header{"Retry-After": {"-3"}}, 0},
		"not a number":  {http.Header{"Retry-After": {"NaN"}}, 0},
		"absurd":        {http.Header{"Retry-After": {"1e300"}}, maxRetryAfter},
		"words":         {http.Header{"Retry-After": {"soon"}}, 0},
		"reset":         {http.Header{"X-Ratelimit-Reset-Requests": {"6m0.5s"}}, 6*time.Minute + 500*time.Millisecond},
		"the exhausted": {http.Header{"X-Ratelimit-Remaining-Requests": {"9"}, "X-Ratelimit-Reset-Requests": {"1h"}, "X-Ratelimit-Remaining-Tokens": {"0"}, "X-Ratelimit-Reset-Tokens": {"80ms"}}, 80 * time.Millisecond},
	} {
		if got := retryAfter(c.header, now, true); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := retryAfter(http.Header{"X-Ratelimit-Reset-Requests": {"1m"}}, now, false); got != 0 {
		t.Errorf("the reset of a rate limit counts where none was hit: %s", got)
	}
}

func TestMasked(t *testing.T) {
	call := &call{key: "local-secret-1"}
	for text, want := range map[string]string{
		"Incorrect API key provided: sk-proj-AbC_9***. You": "Incorrect API key provided: ***. You",
		"Incorrect API key provided: loca********et-1. You": "Incorrect API key provided: ***. You",
		`key "local-secret-1" is wrong`:                     `key "***" is wrong`,
		"Authorization: Bearer abc.def-ghi":                 "Authorization: ***",
		"the task-list is risk-free":                        "the task-list is risk-free",
		strings.Repeat("é", maxCause):                       strings.Repeat("é", maxCause/2) + "…",
	} {
		if got := call.masked(errors.New(text)).Error(); got != want {
			t.Errorf("%.80q, want %.80q", got, want)
		}
	}
}

func TestRequestID(t *testing.T) {
	for header, want := range map[string]string{
		"req_0a:B-1.2": "req_0a:B-1.2", "": "", "with space": "", "<b>": "", "sk-abc": "", "the-very-key": "",
		strings.Repeat("a", 129): "",
	} {
		call := &call{key: "the-very-key", header: http.Header{"X-Request-Id": {header}}}
		if got := call.requestID(); got != want {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
	}
}
