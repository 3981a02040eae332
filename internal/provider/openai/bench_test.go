package openai

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	goopenai "github.com/sashabaranov/go-openai"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

// benchBody is a stream as OpenAI sends it: n deltas, usage and the end.
func benchBody(n int) []byte {
	const head = `data: {"id":"chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz123","object":"chat.completion.chunk","created":1760000000,"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_0123456789","choices":`
	var b bytes.Buffer
	b.WriteString(head + `[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}` + "\n\n")
	for i := range n {
		fmt.Fprintf(&b, head+`[{"index":0,"delta":{"content":" tok%d"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"%s"}`+"\n\n", i%100, "aBcDeFgHiJkLmNoP"[i%7:8+i%9])
	}
	b.WriteString(head + `[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}` + "\n\n")
	b.WriteString(head + `[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}` + "\n\ndata: [DONE]\n\n")
	return b.Bytes()
}

// arriving is a body of which each read gets perRead events.
type arriving struct {
	body    []byte
	perRead int
}

func (a *arriving) Read(p []byte) (int, error) {
	if len(a.body) == 0 {
		return 0, io.EOF
	}
	end := 0
	for range a.perRead {
		i := bytes.Index(a.body[end:], []byte("\n\n"))
		if i < 0 || end+i+2 > len(p) {
			break
		}
		end += i + 2
	}
	if end == 0 {
		end = min(len(p), len(a.body))
	}
	n := copy(p, a.body[:end])
	a.body = a.body[n:]
	return n, nil
}

func (a *arriving) Close() error { return nil }

// BenchmarkDelta compares the CPU of a delta through Next with that of go-openai's own loop over the same bytes, without
// a network. The ratio is the last metric: below 1 is faster.
func BenchmarkDelta(b *testing.B) {
	const deltas = 1000
	body := benchBody(deltas)
	for _, perRead := range []int{1, 4, 32} {
		b.Run(fmt.Sprintf("arriving=%d", perRead), func(b *testing.B) {
			b.ReportAllocs()
			var ours, bare time.Duration
			for b.Loop() {
				started := time.Now()
				s := streamOf(b, &arriving{body: body, perRead: perRead})
				if _, err := readEvents(s); !errors.Is(err, io.EOF) {
					b.Fatal(err)
				}
				_ = s.Close()
				ours += time.Since(started)

				b.StopTimer() // ns/op and allocs/op are ours alone
				started = time.Now()
				readBare(b, &arriving{body: body, perRead: perRead})
				bare += time.Since(started)
				b.StartTimer()
			}
			n := float64(b.N * deltas)
			b.ReportMetric(float64(ours.Nanoseconds())/n, "ns/delta")
			b.ReportMetric(float64(bare.Nanoseconds())/n, "bare-ns/delta")
			b.ReportMetric(float64(ours)/float64(bare), "ratio")
		})
	}
}

func readEvents(s provider.Stream) (n int, err error) {
	for {
		events, err := s.Next()
		if err != nil {
			return n, err
		}
		n += len(events)
	}
}

// readBare is the loop that a user of go-openai writes.
func readBare(b *testing.B, body io.ReadCloser) {
	b.Helper()
	config := goopenai.DefaultConfig("key")
	config.HTTPClient = doer(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: body}, nil
	})
	s, err := goopenai.NewClientWithConfig(config).CreateChatCompletionStream(b.Context(), goopenai.ChatCompletionRequest{Model: "m"})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for {
		switch _, err := s.Recv(); {
		case err == nil:
		case errors.Is(err, io.EOF):
			return
		default:
			b.Fatal(err)
		}
	}
}

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// BenchmarkRequest measures what a call's request costs before it is sent, with a history of 20 messages.
func BenchmarkRequest(b *testing.B) {
	r := benchRequest()
	base, err := url.Parse(DefaultBaseURL)
	if err != nil {
		b.Fatal(err)
	}
	rt := &roundTripper{options: Options{}.withDefaults(), base: base}
	b.ReportAllocs()
	for b.Loop() {
		payload, err := encode(r)
		if err != nil {
			b.Fatal(err)
		}
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, DefaultBaseURL, bytes.NewReader([]byte(`{"model":"m",`+placeholder+`}`)))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := rt.outgoing(req, &call{payload: payload}); err != nil {
			b.Fatal(err)
		}
	}
}

func benchRequest() *provider.Request {
	r := &provider.Request{Model: "m", Instructions: "Be brief."}
	for i := range 20 {
		role := conversation.RoleUser
		if i%2 == 1 {
			role = conversation.RoleAssistant
		}
		text := strings.Repeat("All work and no play makes Jack a dull boy. ", 10)
		r.Messages = append(r.Messages, conversation.Message{Role: role, Parts: []conversation.Part{conversation.TextPart(text)}})
	}
	return r
}
