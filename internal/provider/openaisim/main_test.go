package openaisim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testKey = "sk-test-0123456789abcdef"

// upstream is a simulator on a real loopback port.
type upstream struct {
	*Server
	url    string
	client *http.Client
}

func startUpstream(t testing.TB, o Options) *upstream {
	t.Helper()
	s := New(o)
	ts := httptest.NewServer(s)
	t.Cleanup(ts.Close)
	return &upstream{Server: s, url: ts.URL, client: ts.Client()}
}

// post sends body to the chat completions endpoint.
func (u *upstream) post(t testing.TB, body string) *http.Response {
	t.Helper()
	resp, err := u.client.Do(u.request(t, body))
	if err != nil {
		t.Fatalf("posting %s: %v", body, err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func (u *upstream) request(t testing.TB, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, u.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testKey)
	req.Header.Set("Content-Type", "application/json")
	return req
}

// ask returns the whole answer to a request that does not stream.
func (u *upstream) ask(t testing.TB, body string) wireCompletion {
	t.Helper()
	resp := u.post(t, body)
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d, error %v, body %s", resp.StatusCode, err, raw)
	}
	return decodeStrictly[wireCompletion](t, raw)
}

// say asks the model sim what it answers to the messages, user and assistant by turns.
func (u *upstream) say(t testing.TB, texts ...string) string {
	t.Helper()
	var messages []map[string]string
	for i, text := range texts {
		messages = append(messages, map[string]string{"role": [...]string{"user", "assistant"}[i%2], "content": text})
	}
	return *u.ask(t, encode(t, map[string]any{"model": "sim", "messages": messages})).Choices[0].Message.Content
}

// The wire types of the tests are written from OpenAI's reference, not from the
// simulator's own, and decoded with unknown fields refused.
type wireCompletion struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
	Choices []struct {
		Index   int `json:"index"`
		Message struct {
			Role        string         `json:"role"`
			Content     *string        `json:"content"`
			Refusal     *string        `json:"refusal"`
			Annotations []any          `json:"annotations"`
			ToolCalls   []wireToolCall `json:"tool_calls"`
		} `json:"message"`
		Logprobs     any    `json:"logprobs"`
		FinishReason string `json:"finish_reason"`
	} `json:"choices"`
	Usage             *wireUsage `json:"usage"`
	ServiceTier       string     `json:"service_tier"`
	SystemFingerprint string     `json:"system_fingerprint"`
}

type wireToolCall struct {
	Index    *int   `json:"index"`
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

type wireUsage struct {
	PromptTokens        int `json:"prompt_tokens"`
	CompletionTokens    int `json:"completion_tokens"`
	TotalTokens         int `json:"total_tokens"`
	PromptTokensDetails struct {
		CachedTokens int `json:"cached_tokens"`
		AudioTokens  int `json:"audio_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionTokensDetails struct {
		ReasoningTokens          int `json:"reasoning_tokens"`
		AudioTokens              int `json:"audio_tokens"`
		AcceptedPredictionTokens int `json:"accepted_prediction_tokens"`
		RejectedPredictionTokens int `json:"rejected_prediction_tokens"`
	} `json:"completion_tokens_details"`
}

type wireChunk struct {
	Obfuscation string `json:"obfuscation"`

	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
	Choices []struct {
		Index int `json:"index"`
		Delta struct {
			Role      string         `json:"role"`
			Content   *string        `json:"content"`
			Refusal   *string        `json:"refusal"`
			ToolCalls []wireToolCall `json:"tool_calls"`
		} `json:"delta"`
		Logprobs     any     `json:"logprobs"`
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
	Usage             *wireUsage `json:"usage"`
	ServiceTier       string     `json:"service_tier"`
	SystemFingerprint string     `json:"system_fingerprint"`
}

type wireError struct {
	Error struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	} `json:"error"`
}

func decodeStrictly[T any](t testing.TB, raw []byte) T {
	t.Helper()
	var v T
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("decoding %.300s: %v", raw, err)
	}
	return v
}

func encode(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// said is what a stream said.
type said struct {
	chunks   []wireChunk
	text     string
	refusal  string
	calls    []wireToolCall
	finish   string
	usage    *wireUsage
	deltas   int // that carry text, a refusal or a tool call
	comments int
	done     bool
	errors   []wireError
	garbage  int
	longest  int   // line
	err      error // that ended the reading; nil is a clean end
}

// readStream reads events until the body ends.
func readStream(t testing.TB, body io.Reader) said {
	t.Helper()
	var s said
	r := bufio.NewReader(body)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			if err != io.EOF {
				s.err = err
			}
			return s
		}
		s.longest = max(s.longest, len(line))
		data, isData := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "data: ")
		switch {
		case line == "\n":
		case strings.HasPrefix(line, ":"):
			s.comments++
		case !isData:
			t.Fatalf("a line that is neither data nor comment: %q", line)
		case data == "[DONE]":
			s.done = true
		case !json.Valid([]byte(data)):
			s.garbage++
		case strings.HasPrefix(data, `{"error"`):
			s.errors = append(s.errors, decodeStrictly[wireError](t, []byte(data)))
		default:
			s.add(t, decodeStrictly[wireChunk](t, []byte(data)))
		}
	}
}

func (s *said) add(t testing.TB, c wireChunk) {
	t.Helper()
	s.chunks = append(s.chunks, c)
	if c.Usage != nil {
		s.usage = c.Usage
	}
	for _, choice := range c.Choices {
		if choice.FinishReason != nil {
			s.finish = *choice.FinishReason
			continue
		}
		if choice.Delta.Role == "" {
			s.deltas++
		}
		if choice.Delta.Content != nil {
			s.text += *choice.Delta.Content
		}
		if choice.Delta.Refusal != nil {
			s.refusal += *choice.Delta.Refusal
		}
		for _, call := range choice.Delta.ToolCalls {
			if call.Index == nil {
				t.Fatal("a tool call delta has no index")
			}
			if *call.Index == len(s.calls) {
				s.calls = append(s.calls, call)
				continue
			}
			if call.ID != "" || call.Type != "" || call.Function.Name != "" {
				t.Fatalf("a later fragment repeats the head of its tool call: %+v", call)
			}
			s.calls[*call.Index].Function.Arguments += call.Function.Arguments
		}
	}
}

// streamed returns what a stream says, from a request whose last message is text.
func (u *upstream) streamed(t testing.TB, text string) said {
	t.Helper()
	resp := u.post(t, streamBody(t, text))
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d", resp.StatusCode)
	}
	return readStream(t, resp.Body)
}

func streamBody(t testing.TB, text string) string {
	t.Helper()
	return encode(t, map[string]any{
		"model": "sim", "stream": true, "stream_options": map[string]any{"include_usage": true},
		"messages": []map[string]string{{"role": "user", "content": text}},
	})
}

// eventually waits until condition holds, for what happens after a client has gone.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(5 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}
