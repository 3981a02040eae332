package providertest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

func testAnswers(f *fixture) {
	t := f.t
	long := strings.Repeat("Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. 😀👩‍👩‍👧 ", 200)
	for name, c := range map[string]struct {
		script          string
		text, refusal   string
		finish          conversation.FinishReason
		output, reasons int64 // tokens; -1: not checked
		noUsage         bool
	}{
		"text":           {script: `answer="Hello, world"`, text: "Hello, world", finish: conversation.FinishStop, output: 3},
		"unicode":        {script: `answer="naïve 日本語 👩‍👩‍👧 \"q\" \\ \n end"`, text: "naïve 日本語 👩‍👩‍👧 \"q\" \\ \n end", finish: conversation.FinishStop, output: -1},
		"byte by byte":   {script: `split=1 comments=2 answer="naïve 日本語 👩‍👩‍👧"`, text: "naïve 日本語 👩‍👩‍👧", finish: conversation.FinishStop, output: -1},
		"seven bytes":    {script: `split=7 answer="naïve 日本語 👩‍👩‍👧"`, text: "naïve 日本語 👩‍👩‍👧", finish: conversation.FinishStop, output: -1},
		"comments":       {script: `comments=1000 answer="one two"`, text: "one two", finish: conversation.FinishStop, output: 2},
		"long":           {script: "answer=`" + long + "`", text: long, finish: conversation.FinishStop, output: -1},
		"nothing":        {script: `answer=""`, finish: conversation.FinishStop, output: 0},
		"length":         {script: `answer="one two" finish=length`, text: "one two", finish: conversation.FinishLength, output: 2},
		"content filter": {script: `answer="one two" finish=content_filter`, text: "one two", finish: conversation.FinishContentFilter, output: 2},
		"refusal":        {script: `refusal="I cannot do that"`, refusal: "I cannot do that", finish: conversation.FinishRefusal, output: -1},
		"reasoning":      {script: `answer="one" reasoning=7`, text: "one", finish: conversation.FinishStop, output: 8, reasons: 7},
		"no done":        {script: `fault=no-done answer="one two"`, text: "one two", finish: conversation.FinishStop, output: 2},
		"no usage":       {script: `fault=no-usage answer="one two"`, text: "one two", finish: conversation.FinishStop, noUsage: true},
	} {
		t.Run(name, func(t *testing.T) {
			got := f.answer(t, say("[[sim "+c.script+"]]"))
			if text := got.text(conversation.PartText); text != c.text {
				t.Errorf("text %.80q, want %.80q", text, c.text)
			}
			if refusal := got.text(conversation.PartRefusal); refusal != c.refusal {
				t.Errorf("refusal %q, want %q", refusal, c.refusal)
			}
			if got.outcome.Finish != c.finish {
				t.Errorf("finish reason %d, want %d", got.outcome.Finish, c.finish)
			}
			if !strings.HasPrefix(got.outcome.Model, model) || got.outcome.RequestID == "" {
				t.Errorf("outcome %+v lacks model or request id", got.outcome)
			}
			switch u := got.outcome.Usage; {
			case c.noUsage != (u == nil):
				t.Errorf("usage %+v, want none: %t", u, c.noUsage)
			case u == nil:
			case u.InputTokens == 0 || c.output >= 0 && u.OutputTokens != c.output || u.ReasoningTokens != c.reasons || u.Estimated:
				t.Errorf("usage %+v, want %d output and %d reasoning tokens", u, c.output, c.reasons)
			}
		})
	}

	t.Run("cached tokens", func(t *testing.T) {
		r := say("and now?")
		r.Instructions = strings.Repeat("be brief ", 1000)
		if u := f.answer(t, r).outcome.Usage; u == nil || u.CachedInputTokens < 1024 || u.CachedInputTokens > u.InputTokens {
			t.Errorf("usage %+v, want more than 1,024 cached tokens", u)
		}
	})
}

func testTools(f *fixture) {
	t := f.t
	weather := conversation.Tool{Name: "get_weather", Description: "Weather", Parameters: `{"type":"object","properties":{"city":{"type":"string"}}}`}
	calls := func(t *testing.T, got *result) (s string) {
		t.Helper()
		ids := make(map[string]bool)
		for _, p := range got.parts {
			if p.ToolCall == nil {
				continue
			}
			s += p.ToolCall.Name + p.ToolCall.Arguments + ";"
			if ids[p.ToolCall.ID] || p.ToolCall.ID == "" {
				t.Errorf("tool call id %q is empty or used twice", p.ToolCall.ID)
			}
			ids[p.ToolCall.ID] = true
		}
		return s
	}
	for name, c := range map[string]struct{ script, want, text string }{
		"one":      {script: "tool=get_weather args='{\"city\": \"Ōsaka\"}'", want: `get_weather{"city": "Ōsaka"};`},
		"split":    {script: "split=1 tool=get_weather args='{\"city\": \"Ōsaka\"}'", want: `get_weather{"city": "Ōsaka"};`},
		"parallel": {script: "tool=a args='{\"x\":1}' tool=b args='{\"y\":2}' tool=a args='{}'", want: `a{"x":1};b{"y":2};a{};`},
		"text too": {script: "answer='I shall look' tool=a args='{\"x\":1}'", want: `a{"x":1};`, text: "I shall look"},
		// Naming a tool in tool_choice makes the finish reason stop.
		"stop":     {script: "finish=stop tool=a args='[1, 2]'", want: `a[1, 2];`},
		"not JSON": {script: "tool=a args='{\"x\":'", want: `a{"x":;`},
	} {
		t.Run(name, func(t *testing.T) {
			r := say("[[sim " + c.script + "]]")
			r.Tools = []conversation.Tool{weather}
			got := f.answer(t, r)
			if s := calls(t, got); s != c.want {
				t.Errorf("tool calls %s, want %s", s, c.want)
			}
			if s := got.text(conversation.PartText); s != c.text {
				t.Errorf("text %q, want %q", s, c.text)
			}
			if got.outcome.Finish != conversation.FinishToolCalls {
				t.Errorf("finish reason %d", got.outcome.Finish)
			}
		})
	}
}

// testRequest looks at the bytes that arrive.
func testRequest(f *fixture) {
	t := f.t
	arrived := func(t *testing.T, r *provider.Request) (string, map[string]json.RawMessage) {
		t.Helper()
		_ = f.read(t, r) // a refusal is fine here
		calls := f.sim.Calls()
		call := calls[len(calls)-1]
		for name := range call.Header {
			if strings.HasPrefix(strings.ToLower(name), "trace") || name == "Baggage" {
				t.Errorf("header %s went out", name)
			}
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(call.Body, &members); err != nil {
			t.Fatalf("the body is not JSON: %v\n%s", err, call.Body)
		}
		return string(call.Body), members
	}

	t.Run("unset", func(t *testing.T) {
		_, got := arrived(t, say("hello"))
		for name := range got {
			switch name {
			case "model", "messages", "stream", "stream_options":
			default:
				t.Errorf("%s was sent, but is not set", name)
			}
		}
		if string(got["stream"]) != "true" || string(got["stream_options"]) != `{"include_usage":true}` {
			t.Errorf("stream %s, stream_options %s", got["stream"], got["stream_options"])
		}
	})

	t.Run("set", func(t *testing.T) {
		zero, tenth, seed, limit, no := 0.0, 0.1, int64(9007199254740993), int32(77), false
		r := say("hello")
		r.Model = "gpt-5-mini" // whatever a client library thinks that it takes
		r.Tools = []conversation.Tool{{Name: "f", Parameters: `{"z": 1.0, "a": {"<b>": "&é"}}`, Strict: true}}
		r.ToolChoice = conversation.ToolChoice{Mode: conversation.ToolChoiceTool, Tool: "f"}
		r.Config = conversation.Config{
			Temperature: &zero, TopP: &tenth, MaxOutputTokens: &limit, Stop: []string{"\n", "END"}, Seed: &seed,
			PresencePenalty: &zero, FrequencyPenalty: &zero, ReasoningEffort: "low", Verbosity: "high",
			ParallelToolCalls: &no, ResponseFormat: conversation.FormatJSONObject,
		}
		body, got := arrived(t, r)
		for name, want := range map[string]string{
			"model": `"gpt-5-mini"`, "temperature": "0", "top_p": "0.1", "max_completion_tokens": "77", "stop": `["\n","END"]`,
			"seed": "9007199254740993", "presence_penalty": "0", "frequency_penalty": "0", "reasoning_effort": `"low"`,
			"verbosity": `"high"`, "parallel_tool_calls": "false", "response_format": `{"type":"json_object"}`,
			"tool_choice": `{"type":"function","function":{"name":"f"}}`,
		} {
			if string(got[name]) != want {
				t.Errorf("%s is %s, want %s", name, got[name], want)
			}
		}
		if _, sent := got["max_tokens"]; sent {
			t.Error("max_tokens was sent")
		}
		if !strings.Contains(body, `"parameters":{"z": 1.0, "a": {"<b>": "&é"}}`) {
			t.Errorf("the tool's parameters were rewritten: %s", body)
		}
		for _, name := range []string{"temperature", "seed", "messages", "tools"} {
			if n := strings.Count(body, `"`+name+`":`); n != 1 {
				t.Errorf("%s was sent %d times", name, n)
			}
		}
	})

	t.Run("tool choice", func(t *testing.T) {
		for _, mode := range []string{conversation.ToolChoiceAuto, conversation.ToolChoiceNone, conversation.ToolChoiceRequired} {
			r := say("hello")
			r.Tools = []conversation.Tool{{Name: "f"}}
			r.ToolChoice.Mode = mode
			if _, got := arrived(t, r); string(got["tool_choice"]) != `"`+mode+`"` {
				t.Errorf("tool_choice %s, want %s", got["tool_choice"], mode)
			}
		}
	})

	t.Run("parallel_tool_calls without tools", func(t *testing.T) {
		yes := true
		r := say("hello")
		r.Config.ParallelToolCalls = &yes
		f.answer(t, r)
	})
}

// testHistory sends all that a conversation can hold, and has the simulator check that it is in order.
func testHistory(f *fixture) {
	t := f.t
	text, image := conversation.TextPart, conversation.PartImage
	call := func(id string) conversation.Part {
		return conversation.Part{Kind: conversation.PartToolCall, ToolCall: &conversation.ToolCall{ID: id, Name: "f", Arguments: `{"a":"<\u00e9>"}`}}
	}
	answer := func(id, text string, isError bool) conversation.Part {
		return conversation.Part{Kind: conversation.PartToolResult, Text: text, ToolResult: &conversation.ToolResult{ToolCallID: id, IsError: isError}}
	}
	r := &provider.Request{
		Model:        model,
		Instructions: "Be \"brief\" <now>",
		Messages: []conversation.Message{
			{Role: conversation.RoleDeveloper, Parts: []conversation.Part{text("dev")}},
			{Role: conversation.RoleUser, Parts: []conversation.Part{
				text("look"), text(""),
				{Kind: image, Image: &conversation.Image{URI: "https://example.com/a.png?x=1&y=2", Detail: "low"}},
				{Kind: image, Image: &conversation.Image{Data: []byte("\x89PNG\r\n\x1a\n\xff"), MIMEType: "image/png"}},
			}},
			{Role: conversation.RoleAssistant, Parts: []conversation.Part{
				{Kind: conversation.PartReasoning, Text: "hm", ProviderState: []byte("x")}, text("one"), text("two"),
			}},
			{Role: conversation.RoleUser, Parts: []conversation.Part{text("")}},
			{Role: conversation.RoleAssistant, Parts: []conversation.Part{{Kind: conversation.PartRefusal, Text: "no"}}},
			{Role: conversation.RoleUser, Parts: []conversation.Part{text("use f")}},
			{Role: conversation.RoleAssistant, Parts: []conversation.Part{call("c1"), call("c2")}},
			{Role: conversation.RoleTool, Parts: []conversation.Part{answer("c1", "", false), answer("c2", "boom", true)}},
			{Role: conversation.RoleAssistant, Parts: []conversation.Part{text("then"), call("c3")}},
			{Role: conversation.RoleTool, Parts: []conversation.Part{answer("c3", "42", false)}},
			{Role: conversation.RoleUser, Parts: []conversation.Part{text("[[sim answer=fine]]")}},
		},
	}
	if got := f.answer(t, r).text(conversation.PartText); got != "fine" {
		t.Errorf("answer %q", got)
	}

	toolCall := func(id string) string {
		return fmt.Sprintf(`{"id":%q,"type":"function","function":{"name":"f","arguments":"{\"a\":\"<\\u00e9>\"}"}}`, id)
	}
	want := `[
		{"role":"system","content":"Be \"brief\" <now>"},
		{"role":"developer","content":"dev"},
		{"role":"user","content":[
			{"type":"text","text":"look"},{"type":"text","text":""},
			{"type":"image_url","image_url":{"url":"https://example.com/a.png?x=1&y=2","detail":"low"}},
			{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgr/"}}]},
		{"role":"assistant","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]},
		{"role":"user","content":""},
		{"role":"assistant","content":"","refusal":"no"},
		{"role":"user","content":"use f"},
		{"role":"assistant","content":null,"tool_calls":[` + toolCall("c1") + `,` + toolCall("c2") + `]},
		{"role":"tool","tool_call_id":"c1","content":""},
		{"role":"tool","tool_call_id":"c2","content":"error: boom"},
		{"role":"assistant","content":"then","tool_calls":[` + toolCall("c3") + `]},
		{"role":"tool","tool_call_id":"c3","content":"42"},
		{"role":"user","content":"[[sim answer=fine]]"}]`
	var body struct{ Messages any }
	if err := json.Unmarshal(f.sim.Calls()[0].Body, &body); err != nil {
		t.Fatal(err)
	}
	var wanted any
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(body.Messages, wanted) {
		sent, _ := json.Marshal(body.Messages)
		t.Errorf("sent %s\nwant %s", sent, want)
	}
}
