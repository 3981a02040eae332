package openai

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

// pieces is a body that arrives in pieces of n bytes; 0 is all at once.
type pieces struct {
	rest string
	n    int
	end  error // io.EOF unless set
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.rest == "" {
		if p.end != nil {
			return 0, p.end
		}
		return 0, io.EOF
	}
	n := min(len(b), len(p.rest))
	if p.n > 0 {
		n = min(n, p.n)
	}
	copy(b, p.rest[:n])
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pieces) Close() error { return nil }

// readFrames reads f as go-openai does, and returns each line's events.
func readFrames(f *frames) (lines [][]string, err error) {
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			if line != "" {
				err = errors.Join(err, errors.New("a line without its end"))
			}
			return lines, err
		}
		events, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "data: "+string(separator))
		if !ok {
			return lines, errors.New("not a line of frames: " + line)
		}
		lines = append(lines, strings.Split(events, string(separator)))
	}
}

func TestFrames(t *testing.T) {
	broken := errors.New("connection reset")
	for name, c := range map[string]struct {
		body string
		end  error
		want []string
		err  error
		done bool
	}{
		"events":             {body: "data: a\n\ndata:b\n\ndata:  c \n\ndata: [DONE]\n\n", want: []string{"a", "b", "c"}, done: true},
		"CRLF":               {body: "data: a\r\n\r\ndata: b\r\n\r\ndata: [DONE]\r\n\r\n", want: []string{"a", "b"}, done: true},
		"comments, fields":   {body: ": hello\n\nevent: x\nid: 7\nretry: 1\ndata: a\nfoo\n\n:\n\n\n\ndata: b\n\n", want: []string{"a", "b"}},
		"many lines":         {body: "data: {\"a\":\ndata: 1}\n\ndata\ndata:\ndata:b\n\n", want: []string{"{\"a\":\t1}", "b"}},
		"no data":            {body: "event: x\n\ndata:\n\ndata: \n\n"},
		"after DONE":         {body: "data: a\n\ndata: [DONE]\n\ndata: b\n\n", want: []string{"a"}, done: true},
		"no last blank line": {body: "data: a\n\ndata: b\n", want: []string{"a", "b"}},
		"DONE at the end":    {body: "data: a\n\ndata: [DONE]\n", want: []string{"a"}},
		"unfinished line":    {body: "data: a\n\ndata: b", want: []string{"a"}},
		"broken":             {body: "data: a\n\ndata: b\n", end: broken, want: []string{"a"}, err: broken},
		"error event":        {body: "event: error\ndata: {\"code\":1}\n\ndata: b\n\n", want: []string{`{"error":{"code":1}}`, "b"}},
		"error, both ways":   {body: "event: error\ndata: {\"error\":{}}\n\n", want: []string{`{"error":{}}`}},
		"error by data":      {body: ": x\ndata: {\"error\":{}}\n\n", want: []string{`{"error":{}}`}},
		"line too large":     {body: "data: a\n\ndata: " + strings.Repeat("x", 60_000) + "\n\n", want: []string{"a"}, err: errLineTooLarge},
		"line without end":   {body: "data: a\n\n" + strings.Repeat("x", 60_000), want: []string{"a"}, err: errLineTooLarge},
		"comment too large":  {body: ":" + strings.Repeat("x", 60_000), err: errLineTooLarge},
		"event too large":    {body: strings.Repeat("data: x\n", 40_000), err: errLineTooLarge},
		"stream too large":   {body: strings.Repeat(": keep-alive\n\n", 40_000), err: errStreamTooLarge},
		"byte order mark":    {body: "\xef\xbb\xbfdata: a\n\ndata: b\n\n", want: []string{"a", "b"}},
		"nothing":            {},
	} {
		t.Run(name, func(t *testing.T) {
			want := c.err
			if want == nil {
				want = io.EOF
			}
			for _, n := range []int{0, 1, 2, 7, 4096} {
				f := newFrames(&pieces{rest: c.body, n: n, end: c.end}, 50_000, 400_000, new(sync.Pool))
				lines, err := readFrames(f)
				if got := slices.Concat(lines...); !slices.Equal(got, c.want) {
					t.Errorf("in pieces of %d: %q, want %q", n, got, c.want)
				}
				if !errors.Is(err, want) {
					t.Errorf("in pieces of %d: %v, want %v", n, err, want)
				}
				if c.done && !f.done {
					t.Errorf("in pieces of %d: [DONE] was not seen", n)
				}
			}
		})
	}
}

// What arrives together is handed over together, and what is complete does not wait for what is not.
func TestFramesHandOverWhatHasArrived(t *testing.T) {
	body := make(chan string)
	f := newFrames(io.NopCloser(channelReader(body)), 1<<20, 1<<20, new(sync.Pool))
	r := bufio.NewReader(f)
	for _, c := range []struct{ arrives, want string }{
		{"data: a\n\ndata: b\n\ndata: c\n", "data: \x1ea\x1eb\n"},
		{"\ndata: d\n\ndata: [DO", "data: \x1ec\x1ed\n"},
	} {
		go func() { body <- c.arrives }()
		if line, err := r.ReadString('\n'); err != nil || line != c.want {
			t.Errorf("%q, %v, want %q", line, err, c.want)
		}
	}
	go func() { body <- "NE]\n\n" }()
	if line, err := r.ReadString('\n'); !errors.Is(err, io.EOF) || line != "" {
		t.Errorf("%q, %v, want the end", line, err)
	}
}

type channelReader chan string

func (c channelReader) Read(p []byte) (int, error) {
	piece, open := <-c
	if !open {
		return 0, io.EOF
	}
	return copy(p, piece), nil
}

// roundTrip is a transport made of a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// streamOf returns a stream of the body, without a network.
func streamOf(t testing.TB, body io.ReadCloser) provider.Stream {
	t.Helper()
	o := Options{MaxLineBytes: 64 << 10, MaxStreamBytes: 1 << 30}.withDefaults()
	base, err := url.Parse(o.BaseURL)
	if err != nil {
		t.Fatal(err)
	}
	respond := roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body}, nil
	})
	c := &Client{options: o, api: newAPI(&roundTripper{options: o, base: base, next: respond})}
	s, err := c.Generate(t.Context(), &provider.Request{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// readAll reads a stream to its end and returns its text, without regard to the kind.
func readAll(s provider.Stream) (text string, err error) {
	for {
		events, err := s.Next()
		if err != nil {
			return text, err
		}
		for _, e := range events {
			text += e.Text
		}
	}
}

func FuzzStream(f *testing.F) {
	const delta = `{"choices":[{"index":0,"delta":{"content":"é"},"finish_reason":null}]}`
	for _, body := range []string{
		"data: " + delta + "\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
		": c\nevent: error\ndata: {\"message\":\"x\",\"code\":429}\n\n",
		"data: {\"error\":\"text\"}\n\n",
		"data: {\"object\":\"error\",\"message\":\"m\"}\n\n",
		"data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}},{\"index\":-1}]}}]}\n\n",
		"data: " + delta + "\x1e" + delta + "\n\ndata: {\ndata: }\r\n\r\n",
		"data: {\"usage\":{\"prompt_tokens\":-1},\"choices\":null}\n\n",
		"data:null\n\ndata:[]\n\ndata:7\n\n\x00",
	} {
		f.Add([]byte(body), byte(0))
		f.Add([]byte(body), byte(1))
		f.Add([]byte(body), byte(3))
	}
	f.Fuzz(func(t *testing.T, body []byte, n byte) {
		whole, wholeErr := readChecked(t, string(body), 0)
		split, splitErr := readChecked(t, string(body), int(n))
		if whole != split || errors.Is(wholeErr, io.EOF) != errors.Is(splitErr, io.EOF) {
			t.Errorf("at once: %q, %v; in pieces of %d: %q, %v", whole, wholeErr, n, split, splitErr)
		}
	})
}

// finishReasons matches what a body must hold to end well; a backslash can hide it.
var finishReasons = regexp.MustCompile(`stop|length|tool_calls|function_call|content_filter|\\`)

func readChecked(t *testing.T, body string, n int) (string, error) {
	t.Helper()
	s := streamOf(t, &pieces{rest: body, n: n})
	defer s.Close()
	text, err := readAll(s)
	var known *conversation.Error
	switch {
	case errors.Is(err, io.EOF):
		if s.Outcome().Finish == conversation.FinishNone || !finishReasons.MatchString(body) {
			t.Errorf("a positive end without a finish reason: %q", body)
		}
	case !errors.As(err, &known):
		t.Errorf("an error without a reason: %v", err)
	}
	return text, err
}

// An answer whose finish reason has come does not wait long for what should follow, and is not lost with it.
func TestTail(t *testing.T) {
	const finish = "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n"
	for name, rest := range map[string]string{
		"cut":     "",
		"garbage": "data: {\n\n",
		"error":   "data: {\"error\":{\"message\":\"x\"}}\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := streamOf(t, &pieces{rest: finish + rest, end: errors.New("connection reset")})
			defer s.Close()
			text, err := readAll(s)
			if o := s.Outcome(); !errors.Is(err, io.EOF) || text != "hi" || o.Finish != conversation.FinishStop || o.Usage != nil {
				t.Errorf("%q, %v, %+v", text, err, o)
			}
		})
	}
}

func TestFinish(t *testing.T) {
	for name, c := range map[string]struct {
		chunks string
		want   conversation.FinishReason
	}{
		"function_call": {`{"choices":[{"finish_reason":"function_call"}]}`, conversation.FinishNone}, // a wire that is not read
		"calls without": {`{"choices":[{"finish_reason":"tool_calls"}]}`, conversation.FinishNone},
		"a long id": {
			`{"choices":[{"delta":{"tool_calls":[{"id":"` + strings.Repeat("a", maxCallID+1) + `","function":{"name":"f"}}]},"finish_reason":"stop"}]}`,
			conversation.FinishNone,
		},
		"a name that is none": {
			`{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"f g"}}]},"finish_reason":"stop"}]}`, conversation.FinishNone,
		},
		"an id twice": {
			`{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f"}},{"index":1,"id":"a","function":{"name":"f"}}]},"finish_reason":"stop"}]}`,
			conversation.FinishNone,
		},
		"another choice":  {`{"choices":[{"index":1,"delta":{"content":"no"},"finish_reason":"stop"}]}`, conversation.FinishNone},
		"unknown":         {`{"choices":[{"finish_reason":"error"}]}`, conversation.FinishNone},
		"refused content": {`{"choices":[{"delta":{"refusal":"no"},"finish_reason":"stop"}]}`, conversation.FinishRefusal},
		"named tool": {
			`{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"f"}}]},"finish_reason":"stop"}]}`,
			conversation.FinishToolCalls,
		},
		"tool without a name": {`{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a"}]},"finish_reason":"stop"}]}`, conversation.FinishNone},
		"too many parts": {`{"choices":[{"delta":{"tool_calls":[` + manyCalls(maxParts) +
			`{"id":"last","function":{"name":"f"}}]},"finish_reason":"stop"}]}`, conversation.FinishNone},
	} {
		t.Run(name, func(t *testing.T) {
			s := streamOf(t, &pieces{rest: "data: " + c.chunks + "\n\ndata: [DONE]\n\n"})
			defer s.Close()
			_, err := readAll(s)
			if got := s.Outcome().Finish; got != c.want || errors.Is(err, io.EOF) != (c.want != conversation.FinishNone) {
				t.Errorf("finish reason %d, %v, want %d", got, err, c.want)
			}
		})
	}
}

// manyCalls are n tool calls and a comma.
func manyCalls(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":"%d","function":{"name":"f"}},`, i)
	}
	return b.String()
}

// Text, reasoning and tool calls that alternate keep their parts; nothing of one chunk is left in the next.
func TestParts(t *testing.T) {
	s := streamOf(t, &pieces{rest: strings.Join([]string{
		`data: {"choices":[{"delta":{"reasoning_content":"h"}}]}`,
		`data: {"choices":[{"delta":{"reasoning_content":"m"}}]}`,
		`data: {"choices":[{"delta":{"content":"a"}}]}`,
		`data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{"}}]}}]}`,
		`data: {"choices":[{"delta":{"content":"b"}}]}`,
		`data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}}]}`,
		`data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":" "}},{"index":9,"id":"y","function":{"name":"g"}}]}}]}`,
		`data: {"choices":[{"delta":{"tool_calls":[{"index":9,"id":"z","function":{"name":"h","arguments":"1"}}]}}]}`, // its server counts badly
		`data: {"choices":[{"delta":{"tool_calls":[{"index":9,"id":"q","function":{"arguments":"2"}}]}}]}`,            // nor are its ids the same
		`data: {"choices":[{"delta":{"tool_calls":[{"id":"x","function":{"arguments":"3"}}]}}]}`,
		`data: {"model":"late","choices":[{"finish_reason":"tool_calls"}]}`, "",
	}, "\n\n")})
	defer s.Close()
	events, err := s.Next()
	want := []conversation.Event{
		{Kind: conversation.EventReasoningDelta, PartIndex: 0, Text: "hm"},
		{Kind: conversation.EventTextDelta, PartIndex: 1, Text: "a"},
		{Kind: conversation.EventToolCallDelta, PartIndex: 2, Text: "{", ToolCallID: "x", ToolName: "f"},
		{Kind: conversation.EventTextDelta, PartIndex: 1, Text: "b"},
		{Kind: conversation.EventToolCallDelta, PartIndex: 2, Text: "} "},
		{Kind: conversation.EventToolCallDelta, PartIndex: 3, ToolCallID: "y", ToolName: "g"},
		{Kind: conversation.EventToolCallDelta, PartIndex: 4, ToolCallID: "z", ToolName: "h", Text: "12"},
		{Kind: conversation.EventToolCallDelta, PartIndex: 2, Text: "3"},
	}
	if err != nil || !slices.Equal(events, want) {
		t.Errorf("%+v, %v", events, err)
	}
	if _, err := s.Next(); !errors.Is(err, io.EOF) || s.Outcome().Model != "late" {
		t.Errorf("%v, %+v", err, s.Outcome())
	}
}
