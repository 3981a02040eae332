package openaisim

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const tools = `"tools":[{"type":"function","function":{"name":"get_weather","description":"Weather of a city","parameters":{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}},"required":["city","days"]}}},{"type":"function","function":{"name":"get_time"}}]`

// wireCases are requests whose answers are compared in both forms, one body and a stream.
var wireCases = []struct {
	name, model, content, more string
	text, refusal, finish      string
	calls                      []string // name and arguments
	reasoning                  int
}{
	{name: "default", content: "Bonjour", text: "You said: «Bonjour».", finish: "stop"},
	{name: "answer", content: `[[sim answer="It's \"so\" – naïve 👩‍👩‍👧 <&>\n\t\\"]]`, text: "It's \"so\" – naïve 👩‍👩‍👧 <&>\n\t\\", finish: "stop"},
	{name: "control characters", content: "a\u0001b\u2028c", text: "You said: «a\u0001b\u2028c».", finish: "stop"},
	{name: "empty answer", content: `[[sim answer='']]`, finish: "stop"},
	{name: "tokens", content: "[[sim tokens=4]]", text: "zero one two three", finish: "stop"},
	{name: "max_tokens", content: "[[sim tokens=4]]", more: `,"max_tokens":2`, text: "zero one", finish: "length"},
	{name: "max_completion_tokens that suffices", content: "[[sim tokens=4]]", more: `,"max_completion_tokens":4`, text: "zero one two three", finish: "stop"},
	{name: "stop string", content: "[[sim tokens=9]]", more: `,"stop":" three"`, text: "zero one two", finish: "stop"},
	{name: "earliest of several stops", content: "[[sim tokens=9]]", more: `,"stop":["five","two","nothing"]`, text: "zero one ", finish: "stop"},
	{name: "finish", content: "[[sim tokens=1 finish=content_filter]]", text: "zero", finish: "content_filter"},
	{name: "refusal", content: `[[sim refusal="I can't help."]]`, refusal: "I can't help.", finish: "stop"},
	{name: "scripted tool", content: `[[sim tool=f args='{"a":"é"}']]`, calls: []string{`f {"a":"é"}`}, finish: "tool_calls"},
	{name: "text and parallel tools", content: `[[sim answer=ok tool=f tool=g args='{"b": 2}']]`, text: "ok", calls: []string{"f {}", `g {"b": 2}`}, finish: "tool_calls"},
	{name: "tools cut by max_tokens", content: `[[sim tool=f args='{"a":1}' tool=g]]`, more: `,"max_tokens":3`, calls: []string{`f {"a`}, finish: "length"},
	{name: "tools, not asked for", content: "Hi", more: "," + tools, text: "You said: «Hi».", finish: "stop"},
	{name: "tool named by the user", content: "Please use get_weather", more: "," + tools, calls: []string{`get_weather {"city":"text","days":1}`}, finish: "tool_calls"},
	{name: "both named", content: "get_time and get_weather", more: "," + tools, calls: []string{`get_weather {"city":"text","days":1}`, "get_time {}"}, finish: "tool_calls"},
	{name: "not in parallel", content: "get_time and get_weather", more: `,"parallel_tool_calls":false,` + tools, calls: []string{`get_weather {"city":"text","days":1}`}, finish: "tool_calls"},
	{name: "tool_choice none", content: "get_time", more: `,"tool_choice":"none",` + tools, text: "You said: «get_time».", finish: "stop"},
	{name: "tool_choice required", content: "Hi", more: `,"tool_choice":"required",` + tools, calls: []string{`get_weather {"city":"text","days":1}`}, finish: "tool_calls"},
	{name: "tool_choice named", content: "get_weather", more: `,"tool_choice":{"type":"function","function":{"name":"get_time"}},` + tools, calls: []string{"get_time {}"}, finish: "tool_calls"},
	{name: "json_object", content: "In JSON please", more: `,"response_format":{"type":"json_object"}`, text: `{"answer":"You said: «In JSON please».","turn":1}`, finish: "stop"},
	{name: "json_schema", content: "Hi", more: `,"response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"type":"object","properties":{"kind":{"enum":["a","b"]},"list":{"type":"array","items":{"type":["number","null"]}},"ok":{"type":"boolean"}},"required":["ok","kind","list"]}}}`, text: `{"ok":true,"kind":"a","list":[1.5]}`, finish: "stop"},
	{name: "reasoning by default", model: "o4-mini", content: "[[sim tokens=2]]", text: "zero one", finish: "stop", reasoning: 64},
	{name: "reasoning effort", model: "gpt-5", content: "[[sim tokens=2]]", more: `,"reasoning_effort":"low","verbosity":"low"`, text: "zero one", finish: "stop", reasoning: 16},
	{name: "reasoning directive", content: "[[sim tokens=2 reasoning=5]]", text: "zero one", finish: "stop", reasoning: 5},
	{name: "reasoning leaves nothing", model: "sim-reasoning", content: "[[sim tokens=2]]", more: `,"max_completion_tokens":50`, finish: "length", reasoning: 50},
	{name: "accepted and without effect", content: "[[sim tokens=1]]", more: `,"seed":7,"temperature":0,"top_p":1,"n":1,"user":"u","metadata":{"a":"b"},"logit_bias":{"50256":-100},"presence_penalty":null,"store":false,"service_tier":"auto"`, text: "zero", finish: "stop"},
	{name: "model suffix", model: "sim@tokens=3,finish=length", content: "Hi", text: "zero one two", finish: "length"},
	{name: "the message wins over the model", model: "sim@tokens=3", content: "[[sim tokens=1]]", text: "zero", finish: "stop"},
}

func wireBody(t *testing.T, model, content, more string, stream bool) string {
	t.Helper()
	if model == "" {
		model = "sim"
	}
	if stream {
		more += `,"stream":true,"stream_options":{"include_usage":true}`
	}
	return fmt.Sprintf(`{"model":%s,"messages":[{"role":"user","content":%s}]%s}`, encode(t, model), encode(t, content), more)
}

func TestWholeAnswers(t *testing.T) {
	u := startUpstream(t, Options{})
	for _, tc := range wireCases {
		t.Run(tc.name, func(t *testing.T) {
			got := u.ask(t, wireBody(t, tc.model, tc.content, tc.more, false))
			if len(got.Choices) != 1 || got.Usage == nil {
				t.Fatalf("choices or usage missing: %+v", got)
			}
			c := got.Choices[0]
			if got.Object != "chat.completion" || !strings.HasPrefix(got.ID, "chatcmpl-") || got.Created == 0 || got.SystemFingerprint == "" ||
				c.Index != 0 || c.Logprobs != nil || c.Message.Role != "assistant" || c.Message.Annotations == nil {
				t.Errorf("envelope: %+v", got)
			}
			if (c.Message.Refusal != nil) != (tc.refusal != "") || c.Message.Refusal != nil && *c.Message.Refusal != tc.refusal {
				t.Errorf("refusal %v, want %q", c.Message.Refusal, tc.refusal)
			}
			wantContent := tc.refusal == "" && (tc.text != "" || len(tc.calls) == 0)
			if (c.Message.Content != nil) != wantContent || wantContent && *c.Message.Content != tc.text {
				t.Errorf("content %v, want %q", c.Message.Content, tc.text)
			}
			checkCalls(t, c.Message.ToolCalls, tc.calls)
			if c.FinishReason != tc.finish {
				t.Errorf("finish_reason %q, want %q", c.FinishReason, tc.finish)
			}
			checkUsage(t, got.Usage, tc.reasoning)
		})
	}
}

func TestStreamedAnswers(t *testing.T) {
	u := startUpstream(t, Options{})
	for _, tc := range wireCases {
		t.Run(tc.name, func(t *testing.T) {
			whole := u.ask(t, wireBody(t, tc.model, tc.content, tc.more, false))
			resp := u.post(t, wireBody(t, tc.model, tc.content, tc.more, true))
			if ct := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || !strings.HasPrefix(ct, "text/event-stream") {
				t.Fatalf("status %d, content type %q", resp.StatusCode, ct)
			}
			got := readStream(t, resp.Body)
			if got.err != nil || !got.done || got.garbage > 0 || got.comments > 0 || len(got.errors) > 0 {
				t.Fatalf("stream: %+v", got)
			}
			if got.text != tc.text || got.refusal != tc.refusal || got.finish != tc.finish {
				t.Errorf("text %q, refusal %q, finish %q; want %q, %q, %q", got.text, got.refusal, got.finish, tc.text, tc.refusal, tc.finish)
			}
			checkCalls(t, got.calls, tc.calls)
			for i, c := range got.chunks {
				last := i == len(got.chunks)-1
				if c.Object != "chat.completion.chunk" || c.ID != got.chunks[0].ID || c.Created != got.chunks[0].Created || c.Model != whole.Model || c.SystemFingerprint != whole.SystemFingerprint {
					t.Errorf("envelope of chunk %d: %+v", i, c)
				}
				if (c.Usage != nil) != last || (len(c.Choices) == 0) != last {
					t.Errorf("usage and empty choices belong to the last chunk and no other: %d: %+v", i, c)
				}
			}
			if first := got.chunks[0].Choices[0].Delta; first.Role != "assistant" {
				t.Errorf("the first delta has no role: %+v", first)
			}
			checkUsage(t, got.usage, tc.reasoning)
			if got.usage != nil && *got.usage != *whole.Usage {
				t.Errorf("usage %+v, in one body %+v", *got.usage, *whole.Usage)
			}
			if want := got.usage.CompletionTokens - tc.reasoning; got.deltas != want {
				t.Errorf("%d deltas for %d tokens", got.deltas, want)
			}
		})
	}
}

func checkCalls(t *testing.T, got []wireToolCall, want []string) {
	t.Helper()
	var have []string
	ids := make(map[string]bool)
	for _, c := range got {
		have = append(have, c.Function.Name+" "+c.Function.Arguments)
		if !strings.HasPrefix(c.ID, "call_") || c.Type != "function" || ids[c.ID] {
			t.Errorf("tool call id %q, type %q", c.ID, c.Type)
		}
		ids[c.ID] = true
	}
	if !slices.Equal(have, want) {
		t.Errorf("tool calls %q, want %q", have, want)
	}
}

func checkUsage(t *testing.T, u *wireUsage, reasoning int) {
	t.Helper()
	if u == nil {
		t.Fatal("no usage")
	}
	if u.PromptTokens < 1 || u.TotalTokens != u.PromptTokens+u.CompletionTokens || u.CompletionTokensDetails.ReasoningTokens != reasoning {
		t.Errorf("usage %+v, want %d reasoning tokens", *u, reasoning)
	}
}

// TestFirstFrames pins the exact bytes of a stream, ids and time aside.
func TestFirstFrames(t *testing.T) {
	u := startUpstream(t, Options{})
	const body = `{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"[[sim answer='Hi \"x\"']]"}]`
	raw, err := io.ReadAll(u.post(t, body+`,"stream_options":{"include_obfuscation":false}}`).Body)
	if err != nil {
		t.Fatal(err)
	}
	padded, err := io.ReadAll(u.post(t, body+`}`).Body)
	if err != nil {
		t.Fatal(err)
	}
	paddings := regexp.MustCompile(`,"obfuscation":"[A-Za-z0-9]{1,16}"}`)
	if n := len(paddings.FindAll(padded, -1)); n != 6 || len(paddings.ReplaceAll(padded, []byte("}"))) != len(raw) {
		t.Errorf("%d chunks are padded, want all 6 and nothing else to differ:\n%s", n, padded)
	}
	got := regexp.MustCompile(`"id":"chatcmpl-[A-Za-z0-9]{29}"`).ReplaceAllString(string(raw), `"id":"ID"`)
	got = regexp.MustCompile(`"created":\d{10}`).ReplaceAllString(got, `"created":0`)
	got = regexp.MustCompile(`"fp_[0-9a-f]{10}"`).ReplaceAllString(got, `"FP"`)
	const head = `data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"FP","choices":[{"index":0,"delta":`
	want := head + `{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
		head + `{"content":"Hi"},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
		head + `{"content":" \""},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
		head + `{"content":"x"},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
		head + `{"content":"\""},"logprobs":null,"finish_reason":null}]}` + "\n\n" +
		head + `{},"logprobs":null,"finish_reason":"stop"}]}` + "\n\n" +
		"data: [DONE]\n\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestHeaders(t *testing.T) {
	u := startUpstream(t, Options{})
	for _, stream := range []bool{false, true} {
		resp := u.post(t, wireBody(t, "", "Hi", "", stream))
		for name, pattern := range map[string]string{
			"X-Request-Id": `^req_\w{32}$`, "Openai-Processing-Ms": `^\d+$`, "Openai-Version": `^2020-10-01$`, "Openai-Organization": `.`,
			"X-Ratelimit-Limit-Requests": `^10000$`, "X-Ratelimit-Limit-Tokens": `^2000000$`, "X-Ratelimit-Remaining-Requests": `^9999$`,
			"X-Ratelimit-Remaining-Tokens": `^1999\d{3}$`, "X-Ratelimit-Reset-Requests": `^6ms$`, "X-Ratelimit-Reset-Tokens": `^0s$`,
		} {
			if v := resp.Header.Get(name); !regexp.MustCompile(pattern).MatchString(v) {
				t.Errorf("stream %v: header %s is %q, want %s", stream, name, v, pattern)
			}
		}
	}
}

func TestSameRequestSameAnswer(t *testing.T) {
	u := startUpstream(t, Options{})
	body := `{"model":"sim-reasoning","messages":[{"role":"user","content":"get_weather?"}],` + tools + `}`
	a, b := u.ask(t, body), u.ask(t, body)
	if a.ID == b.ID {
		t.Error("two answers share an id")
	}
	a.ID, b.ID, a.Created, b.Created = "", "", 0, 0
	for _, c := range []*wireCompletion{&a, &b} {
		c.Choices[0].Message.ToolCalls[0].ID = ""
	}
	if encode(t, a) != encode(t, b) {
		t.Errorf("answers differ:\n%s\n%s", encode(t, a), encode(t, b))
	}
}

func TestPromptTokens(t *testing.T) {
	u := startUpstream(t, Options{})
	long := strings.Repeat(" word", 1200)
	for _, tc := range []struct {
		name, messages, more string
		prompt, cached       int
	}{
		{"one word", `[{"role":"user","content":"Hi"}]`, "", 3 + 4 + 1, 0},
		{"name", `[{"role":"user","content":"Hi","name":"ada"}]`, "", 3 + 4 + 1 + 1, 0},
		{"images", `[{"role":"user","content":[{"type":"text","text":"Hi"},{"type":"image_url","image_url":{"url":"https://x.test/a.png","detail":"low"}},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]}]`, "", 3 + 4 + 1 + 85 + 765, 0},
		{"tools", `[{"role":"user","content":"Hi"}]`, `,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]`, 3 + 4 + 1 + 1 + 5, 0},
		{"a long history is cached", fmt.Sprintf(`[{"role":"user","content":%q},{"role":"assistant","content":"Hi"},{"role":"user","content":"Hi"}]`, long), "", 3 + 4 + 1200 + 5 + 5, 1152},
		{"a long last message is not", fmt.Sprintf(`[{"role":"user","content":%q}]`, long), "", 3 + 4 + 1200, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := u.ask(t, fmt.Sprintf(`{"model":"sim","messages":%s%s}`, tc.messages, tc.more)).Usage
			if got.PromptTokens != tc.prompt || got.PromptTokensDetails.CachedTokens != tc.cached {
				t.Errorf("%d prompt tokens, %d cached; want %d, %d", got.PromptTokens, got.PromptTokensDetails.CachedTokens, tc.prompt, tc.cached)
			}
		})
	}
}

func TestModels(t *testing.T) {
	u := startUpstream(t, Options{})
	get := func(path, key string) (int, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			req.Header.Set("Authorization", "Bearer "+key)
		}
		resp, err := u.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, raw
	}
	var list struct {
		Object string
		Data   []struct {
			ID, Object string
			OwnedBy    string `json:"owned_by"`
		}
	}
	status, raw := get("/v1/models", "k")
	if err := json.Unmarshal(raw, &list); err != nil || status != http.StatusOK || list.Object != "list" || len(list.Data) < 5 {
		t.Fatalf("status %d, error %v, body %s", status, err, raw)
	}
	for _, m := range list.Data {
		status, raw := get("/models/"+m.ID, "k")
		if status != http.StatusOK || !strings.Contains(string(raw), `"id":"`+m.ID+`","object":"model"`) {
			t.Errorf("model %s: status %d, body %s", m.ID, status, raw)
		}
	}
	for _, tc := range []struct {
		path, key string
		status    int
	}{
		{"/v1/models/claude", "k", 404}, {"/v1/models", "", 401}, {"/v1/nothing", "k", 404}, {"/v1/chat/completions", "k", 405},
	} {
		status, raw := get(tc.path, tc.key)
		if status != tc.status {
			t.Errorf("%s: status %d, want %d", tc.path, status, tc.status)
		}
		decodeStrictly[wireError](t, raw)
	}
}

func TestModelNames(t *testing.T) {
	for name, want := range map[string]string{
		"gpt-4o": "gpt-4o-2024-08-06", "gpt-4o-2024-08-06": "gpt-4o-2024-08-06", "gpt-4o-audio": "gpt-4o-audio", "gpt-99": "gpt-99",
		"o1": "o1", "sim": "sim", "ft:gpt-4o:org::id": "ft:gpt-4o:org::id", "chatgpt-latest": "chatgpt-latest",
	} {
		if m, ok := findModel(models(), name); !ok || m.snapshot != want {
			t.Errorf("%s: found %v, answers as %q, want %q", name, ok, m.snapshot, want)
		}
	}
	for _, name := range []string{"", "claude", "o", "ox", "mini-gpt-4o"} {
		if _, ok := findModel(models(), name); ok {
			t.Errorf("%q is served", name)
		}
	}
	for name, want := range map[string]bool{"o1": true, "o3-pro": true, "gpt-5.1": true, "gpt-5-nano": true, "gpt-4o": false, "sim": false} {
		if m, _ := findModel(models(), name); m.reasoning != want {
			t.Errorf("%s: reasoning %v", name, m.reasoning)
		}
	}
}
