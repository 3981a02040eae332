package openaisim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestRefusedRequests(t *testing.T) {
	u := startUpstream(t, Options{MaxBodyBytes: 1 << 20})
	const hi = `{"role":"user","content":"Hi"}`
	with := func(more string) string { return `{"model":"sim","messages":[` + hi + `],` + more + `}` }
	messages := func(list string) string { return `{"model":"sim","messages":[` + list + `]}` }
	const call = `{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b","type":"function","function":{"name":"f","arguments":"{}"}}]}`
	for _, tc := range []struct {
		name, body  string
		status      int
		param, code string // empty is null
		message     string
	}{
		{"no JSON", `nonsense`, 400, "", "", "could not parse"},
		{"no object", `[1]`, 400, "", "", "could not parse"},
		{"empty body", ``, 400, "", "", "could not parse"},
		{"null", `null`, 400, "", "", "must provide a model"},
		{"no model", `{"messages":[` + hi + `]}`, 400, "", "", "must provide a model"},
		{"model of another type", `{"model":5,"messages":[` + hi + `]}`, 400, "model", "invalid_type", "expected a string, but got a number"},
		{"unknown model", `{"model":"claude","messages":[` + hi + `]}`, 404, "", "model_not_found", "`claude` does not exist"},
		{"unknown parameter", with(`"temprature":1`), 400, "", "", "Unrecognized request argument supplied: temprature"},
		{"spelt with capitals", with(`"Temperature":1`), 400, "", "", "Temperature"},
		{"too large a body", messages(`{"role":"user","content":"` + strings.Repeat("x", 1<<20) + `"}`), 413, "", "", "too large"},

		{"no messages", `{"model":"sim"}`, 400, "messages", "missing_required_parameter", "'messages'"},
		{"null messages", `{"model":"sim","messages":null}`, 400, "messages", "missing_required_parameter", "'messages'"},
		{"empty messages", messages(""), 400, "messages", "empty_array", "minimum length 1"},
		{"too many messages", messages(strings.Repeat(hi+",", 2048) + hi), 400, "messages", "array_above_max_length", "2049"},
		{"no role", messages(`{"content":"x"}`), 400, "messages[0].role", "missing_required_parameter", "role"},
		{"bad role", messages(hi + `,{"role":"robot","content":"x"}`), 400, "messages[1].role", "invalid_value", "'robot'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'"},
		{"null content", messages(`{"role":"user","content":null}`), 400, "messages.[0].content", "", "got null"},
		{"no content", messages(`{"role":"assistant"}`), 400, "messages.[0].content", "", "got null"},
		{"content of another type", messages(`{"role":"user","content":5}`), 400, "messages[0].content", "invalid_type", "got a number"},
		{"content of strings", messages(`{"role":"user","content":["x"]}`), 400, "messages[0].content", "invalid_type", "content parts"},
		{"no parts", messages(`{"role":"user","content":[]}`), 400, "messages[0].content", "empty_array", ""},
		{"part without type", messages(`{"role":"user","content":[{"text":"x"}]}`), 400, "messages[0].content[0].type", "missing_required_parameter", ""},
		{"part without text", messages(`{"role":"user","content":[{"type":"text"}]}`), 400, "messages[0].content[0].text", "missing_required_parameter", ""},
		{"bad part", messages(`{"role":"user","content":[{"type":"video"}]}`), 400, "messages[0].content[0].type", "invalid_value", "video"},
		{"image in a system message", messages(`{"role":"system","content":[{"type":"image_url","image_url":{"url":"https://x.test"}}]}`), 400, "messages[0].content[0].type", "invalid_value", "image_url"},
		{"image without address", messages(`{"role":"user","content":[{"type":"image_url"}]}`), 400, "messages[0].content[0].image_url", "missing_required_parameter", ""},
		{"image with a bad address", messages(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]}`), 400, "messages[0].content[0].image_url.url", "invalid_image_url", ""},
		{"image with a bad detail", messages(`{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x.test","detail":"all"}}]}`), 400, "messages[0].content[0].image_url.detail", "invalid_value", ""},

		{"tool message out of the blue", messages(hi + `,{"role":"tool","tool_call_id":"a","content":"x"}`), 400, "messages.[1].role", "", "must be a response to a preceeding message with 'tool_calls'"},
		{"tool message without id", messages(hi + "," + call + `,{"role":"tool","content":"x"}`), 400, "messages[2].tool_call_id", "missing_required_parameter", ""},
		{"tool message without content", messages(hi + "," + call + `,{"role":"tool","tool_call_id":"a"}`), 400, "messages[2].content", "missing_required_parameter", ""},
		{"tool message for another call", messages(hi + "," + call + `,{"role":"tool","tool_call_id":"z","content":"x"}`), 400, "messages.[2].tool_call_id", "", "'z' not found"},
		{"tool call without answer", messages(hi + "," + call + `,{"role":"tool","tool_call_id":"a","content":"x"},` + hi), 400, "messages.[3].role", "", "did not have response messages: b"},
		{"tool calls at the end", messages(hi + "," + call), 400, "messages.[2].role", "", "did not have response messages: a, b"},
		{"tool calls of a user", messages(`{"role":"user","content":"x","tool_calls":[{"id":"a","type":"function","function":{"name":"f"}}]}`), 400, "messages[0].tool_calls", "unknown_parameter", ""},
		{"empty tool calls", messages(`{"role":"assistant","content":"x","tool_calls":[]}`), 400, "messages[0].tool_calls", "empty_array", ""},
		{"tool call without id", messages(`{"role":"assistant","tool_calls":[{"type":"function","function":{"name":"f"}}]}`), 400, "messages[0].tool_calls[0].id", "missing_required_parameter", ""},
		{"tool call of a bad type", messages(`{"role":"assistant","tool_calls":[{"id":"a","type":"custom","function":{"name":"f"}}]}`), 400, "messages[0].tool_calls[0].type", "invalid_value", ""},
		{"tool call without name", messages(`{"role":"assistant","tool_calls":[{"id":"a","type":"function"}]}`), 400, "messages[0].tool_calls[0].function.name", "missing_required_parameter", ""},

		{"hot", with(`"temperature":2.5`), 400, "temperature", "decimal_above_max_value", "<= 2, but got 2.5"},
		{"cold", with(`"temperature":-0.1`), 400, "temperature", "decimal_below_min_value", ">= 0, but got -0.1"},
		{"temperature of another type", with(`"temperature":"hot"`), 400, "temperature", "invalid_type", "expected a decimal, but got a string"},
		{"top_p", with(`"top_p":1.1`), 400, "top_p", "decimal_above_max_value", ""},
		{"penalty", with(`"presence_penalty":-3`), 400, "presence_penalty", "decimal_below_min_value", ""},
		{"n", with(`"n":2`), 400, "n", "unsupported_parameter", ""},
		{"no n", with(`"n":0`), 400, "n", "integer_below_min_value", ""},
		{"logprobs", with(`"logprobs":true`), 400, "logprobs", "unsupported_parameter", ""},
		{"audio", with(`"modalities":["text","audio"]`), 400, "modalities", "unsupported_parameter", ""},
		{"functions", with(`"functions":[]`), 400, "functions", "unsupported_parameter", ""},
		{"logit_bias", with(`"logit_bias":[]`), 400, "logit_bias", "invalid_type", ""},
		{"verbosity", with(`"verbosity":"chatty"`), 400, "verbosity", "invalid_value", ""},
		{"max_tokens 0", with(`"max_tokens":0`), 400, "max_tokens", "integer_below_min_value", ">= 1"},
		{"max_tokens too large", `{"model":"gpt-4o","messages":[` + hi + `],"max_tokens":100000}`, 400, "max_tokens", "invalid_value", "at most 16384"},
		{"max_tokens not whole", with(`"max_tokens":1.5`), 400, "max_tokens", "invalid_type", "expected an integer"},
		{"both limits", with(`"max_tokens":1,"max_completion_tokens":1`), 400, "max_tokens", "invalid_parameter_combination", ""},
		{"stream options alone", with(`"stream_options":{"include_usage":true}`), 400, "stream_options", "", "only allowed when 'stream'"},
		{"too many stops", with(`"stop":["1","2","3","4","5"]`), 400, "stop", "array_above_max_length", "length 5"},
		{"stop of another type", with(`"stop":5`), 400, "stop", "invalid_type", ""},
		{"stops of another type", with(`"stop":[5]`), 400, "stop", "invalid_type", ""},
		{"reasoning effort elsewhere", with(`"reasoning_effort":"low"`), 400, "", "", "Unrecognized request argument supplied: reasoning_effort"},

		{"reasoning: effort", `{"model":"o3","messages":[` + hi + `],"reasoning_effort":"huge"}`, 400, "reasoning_effort", "invalid_value", ""},
		{"reasoning: max_tokens", `{"model":"o3","messages":[` + hi + `],"max_tokens":5}`, 400, "max_tokens", "unsupported_parameter", "max_completion_tokens"},
		{"reasoning: temperature", `{"model":"gpt-5","messages":[` + hi + `],"temperature":0}`, 400, "temperature", "unsupported_value", "does not support 0"},
		{"reasoning: stop", `{"model":"gpt-5","messages":[` + hi + `],"stop":"x"}`, 400, "stop", "unsupported_parameter", ""},

		{"empty tools", with(`"tools":[]`), 400, "tools", "empty_array", ""},
		{"too many tools", with(`"tools":[` + strings.TrimSuffix(strings.Repeat(`{"type":"function","function":{"name":"f"}},`, 129), ",") + `]`), 400, "tools", "array_above_max_length", ""},
		{"tool without type", with(`"tools":[{"function":{"name":"f"}}]`), 400, "tools[0].type", "missing_required_parameter", ""},
		{"tool of a bad type", with(`"tools":[{"type":"x"}]`), 400, "tools[0].type", "invalid_value", ""},
		{"tool without name", with(`"tools":[{"type":"function"}]`), 400, "tools[0].function.name", "missing_required_parameter", ""},
		{"tool with a bad name", with(`"tools":[{"type":"function","function":{"name":"a b"}}]`), 400, "tools[0].function.name", "invalid_value", "pattern"},
		{"tool with a long name", with(`"tools":[{"type":"function","function":{"name":"` + strings.Repeat("a", 65) + `"}}]`), 400, "tools[0].function.name", "string_above_max_length", ""},
		{"tool with bad parameters", with(`"tools":[{"type":"function","function":{"name":"f","parameters":[]}}]`), 400, "tools[0].function.parameters", "invalid_type", ""},
		{"tool_choice alone", with(`"tool_choice":"auto"`), 400, "tool_choice", "", "only allowed when 'tools'"},
		{"parallel alone", with(`"parallel_tool_calls":true`), 400, "parallel_tool_calls", "", "only allowed when 'tools'"},
		{"bad tool_choice", with(tools + `,"tool_choice":"maybe"`), 400, "tool_choice", "invalid_value", "maybe"},
		{"tool_choice of another type", with(tools + `,"tool_choice":5`), 400, "tool_choice", "invalid_type", ""},
		{"tool_choice not offered", with(tools + `,"tool_choice":{"type":"function","function":{"name":"g"}}`), 400, "tool_choice", "", "'g' not found"},
		{"tool_choice without name", with(tools + `,"tool_choice":{"type":"function"}`), 400, "tool_choice.function", "missing_required_parameter", ""},

		{"format without type", with(`"response_format":{}`), 400, "response_format.type", "missing_required_parameter", ""},
		{"bad format", with(`"response_format":{"type":"xml"}`), 400, "response_format.type", "invalid_value", "xml"},
		{"JSON that nobody speaks of", with(`"response_format":{"type":"json_object"}`), 400, "messages", "", "must contain the word 'json'"},
		{"schema missing", with(`"response_format":{"type":"json_schema"}`), 400, "response_format.json_schema", "missing_required_parameter", ""},
		{"schema without name", with(`"response_format":{"type":"json_schema","json_schema":{}}`), 400, "response_format.json_schema.name", "missing_required_parameter", ""},
		{"schema without schema", with(`"response_format":{"type":"json_schema","json_schema":{"name":"x"}}`), 400, "response_format.json_schema.schema", "missing_required_parameter", ""},
		{"schema of another type", with(`"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":true}}`), 400, "response_format.json_schema.schema", "invalid_type", ""},

		{"context too long", `{"model":"sim-small","messages":[{"role":"user","content":"` + strings.Repeat("word ", 1000) + `"}]}`, 400, "messages", "context_length_exceeded", "maximum context length is 1000 tokens. However, your messages resulted in 10"},
		{"bad directive", messages(`{"role":"user","content":"[[sim colour=red]]"}`), 400, "messages", "sim_directive", "colour"},
		{"bad suffix", `{"model":"sim@colour=red","messages":[` + hi + `]}`, 400, "model", "sim_directive", "colour"},
		{"contradictory directive", messages(`{"role":"user","content":"[[sim tokens=1 answer=x]]"}`), 400, "", "sim_directive", "exclude"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkError(t, u.post(t, tc.body), tc.status, "invalid_request_error", tc.param, tc.code, tc.message)
		})
	}
	stats := u.Stats()
	if stats.Outcomes[Refused] != stats.Calls || stats.PromptTokens != 0 {
		t.Errorf("a refused call counts as something else: %+v", stats)
	}
}

func checkError(t *testing.T, resp *http.Response, status int, kind, param, code, message string) {
	t.Helper()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	e := decodeStrictly[wireError](t, raw).Error
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	if resp.StatusCode != status || e.Type != kind || text(e.Param) != param || text(e.Code) != code || !strings.Contains(e.Message, message) {
		t.Errorf("got %d %s\nwant %d, type %q, param %q, code %q, message with %q", resp.StatusCode, raw, status, kind, param, code, message)
	}
	if ct := resp.Header.Get("Content-Type"); ct != "application/json" || resp.Header.Get("X-Request-Id") == "" {
		t.Errorf("headers of an error: %v", resp.Header)
	}
}

func TestToolLoopsAreAccepted(t *testing.T) {
	u := startUpstream(t, Options{})
	const call = `{"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"a","content":"1"}`
	u.ask(t, `{"model":"sim","messages":[{"role":"user","content":"x"},`+call+`,{"role":"assistant","content":"ok"},{"role":"user","content":"y"},`+call+`]}`)
	u.ask(t, `{"model":"sim","messages":[{"role":"user","content":"x"},`+call+`,`+call+`]}`)
	u.ask(t, `{"model":"sim","messages":[{"role":"user","content":"x"},{"role":"assistant","refusal":"no"},{"role":"user","content":"y"}]}`)
}

func TestAuthentication(t *testing.T) {
	for _, tc := range []struct {
		name, header string
		keys         []string
		status       int
		code         string
	}{
		{"any key", "Bearer x", nil, 200, ""},
		{"no key", "", nil, 401, ""},
		{"empty key", "Bearer ", nil, 401, ""},
		{"other scheme", "Basic x", nil, 401, ""},
		{"accepted key", "bearer " + testKey, []string{"other", testKey}, 200, ""},
		{"unknown key", "Bearer sk-wrong-0123456789", []string{"other", testKey}, 401, "invalid_api_key"},
		{"short unknown key", "Bearer s3cret", []string{testKey}, 401, "invalid_api_key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := startUpstream(t, Options{Keys: tc.keys})
			req := u.request(t, wireBody(t, "", "Hi", "", false))
			req.Header.Set("Authorization", tc.header)
			resp, err := u.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if tc.status != http.StatusOK {
				checkError(t, resp, tc.status, "invalid_request_error", "", tc.code, "API key")
			} else if resp.StatusCode != http.StatusOK {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
	if msg := invalidKey("sk-wrong-0123456789").message; !strings.Contains(msg, "sk-w********6789") {
		t.Errorf("the key is not masked as expected: %s", msg)
	}
	if msg := invalidKey("s3cret").message; strings.Contains(msg, "s3") {
		t.Errorf("a short key shows: %s", msg)
	}
}

// FuzzRequestBody asks that whatever is posted, the answer is well-formed: JSON with 200
// or an error in the 4xx range, or what a directive asked for.
func FuzzRequestBody(f *testing.F) {
	f.Add([]byte(`{"model":"sim","messages":[{"role":"user","content":"Hi"}]}`))
	f.Add([]byte(`{"model":"sim@tokens=3","stream":true,"messages":[{"role":"user","content":[{"type":"text","text":"[[sim tool=a args='{}']]"}]}]}`))
	f.Add([]byte(`{"model":"o3","messages":[{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f"}}]},{"role":"tool","tool_call_id":"a","content":"x"}]}`))
	f.Add([]byte(`{"model":"sim","messages":[{"role":"user","content":"json"}],` + tools + `,"tool_choice":"required","response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"anyOf":[{"const":1}]}}},"stop":["a"]}`))
	f.Add([]byte(`{"\"`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		s, w := New(Options{}), httptest.NewRecorder()
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/chat/completions", strings.NewReader(string(body)))
		r.Header.Set("Authorization", "Bearer k")
		func() {
			defer func() {
				p := recover()
				if err, ok := p.(error); p != nil && !(ok && errors.Is(err, http.ErrAbortHandler)) {
					panic(p)
				}
			}()
			s.ServeHTTP(w, r)
		}()
		call := s.Calls()[0]
		if s.Stats().OpenStreams != 0 || call.Outcome == Open || call.Ended.IsZero() {
			t.Fatalf("the call is still open: %+v", call)
		}
		switch {
		case call.Outcome == Refused && (w.Code < 400 || w.Code > 499):
			t.Fatalf("refused with status %d", w.Code)
		case call.Outcome == Refused, call.Outcome == Answered && !call.Stream && call.Fault == "":
			if !json.Valid(w.Body.Bytes()) {
				t.Fatalf("the answer is not JSON: %.300s", w.Body)
			}
		case call.Outcome == Answered && call.Fault == "" && !strings.HasSuffix(w.Body.String(), "data: [DONE]\n\n"):
			t.Fatalf("the stream has no end: %.300s", w.Body)
		}
	})
}

func TestUnknownKeysAreFoundAtTheTopOnly(t *testing.T) {
	var keys []string
	for k := range topLevelKeys([]byte(` { "a":{"x":[{"y":"}\"{"}]} , "b\"c":["d",{"e":1}],"f":"g" } `)) {
		keys = append(keys, k)
	}
	if got := fmt.Sprint(keys); got != `[a b\"c f]` {
		t.Errorf("keys %s", got)
	}
}
