package openaisim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestStatusFaults(t *testing.T) {
	u := startUpstream(t, Options{})
	for _, tc := range []struct {
		directive         string
		status            int
		kind, param, code string
		retryAfter, ms    string
	}{
		{"fault=400", 400, "invalid_request_error", "messages", "invalid_value", "", ""},
		{"fault=401", 401, "invalid_request_error", "", "invalid_api_key", "", ""},
		{"fault=404", 404, "invalid_request_error", "", "model_not_found", "", ""},
		{"fault=429", 429, "requests", "", "rate_limit_exceeded", "1", "1000"},
		{"fault=429-rate retry-after=1500ms", 429, "requests", "", "rate_limit_exceeded", "2", "1500"},
		{"fault=429-rate retry-after=0s", 429, "requests", "", "rate_limit_exceeded", "", ""},
		{"fault=429-quota", 429, "insufficient_quota", "", "insufficient_quota", "", ""},
		{"fault=500", 500, "server_error", "", "", "", ""},
		{"fault=503", 503, "server_error", "", "", "", ""},
		{"fault=503 retry-after=3s", 503, "server_error", "", "", "3", "3000"},
		{"fault=context", 400, "invalid_request_error", "messages", "context_length_exceeded", "", ""},
	} {
		t.Run(tc.directive, func(t *testing.T) {
			for _, stream := range []bool{false, true} {
				resp := u.post(t, wireBody(t, "", "[[sim "+tc.directive+"]]", "", stream))
				if ra, ms := resp.Header.Get("Retry-After"), resp.Header.Get("Retry-After-Ms"); ra != tc.retryAfter || ms != tc.ms {
					t.Errorf("Retry-After %q and %q, want %q and %q", ra, ms, tc.retryAfter, tc.ms)
				}
				checkError(t, resp, tc.status, tc.kind, tc.param, tc.code, "")
			}
		})
	}
	if resp := u.post(t, wireBody(t, "", "[[sim fault=401]]", "", false)); true {
		raw, err := io.ReadAll(resp.Body)
		if err != nil || strings.Contains(string(raw), testKey) {
			t.Errorf("error %v; the key shows in full: %s", err, raw)
		}
	}
}

func TestStreamFaults(t *testing.T) {
	for _, tc := range []struct {
		directive string
		check     func(*testing.T, said)
		outcome   Outcome
		sent      int
	}{
		{"tokens=6 fault=cut after=0", func(t *testing.T, s said) {
			if !errors.Is(s.err, io.ErrUnexpectedEOF) || len(s.chunks) > 0 {
				t.Errorf("%+v", s)
			}
		}, Faulted, 0},
		{"tokens=6 fault=cut after=3", func(t *testing.T, s said) {
			if !errors.Is(s.err, io.ErrUnexpectedEOF) || s.deltas != 3 || s.finish != "" || s.done {
				t.Errorf("%+v", s)
			}
		}, Faulted, 3},
		{"tokens=6 burst=100 fault=cut after=3", func(t *testing.T, s said) {
			if !errors.Is(s.err, io.ErrUnexpectedEOF) || s.deltas != 3 {
				t.Errorf("%+v", s)
			}
		}, Faulted, 3},
		{"tokens=6 fault=eof after=3", func(t *testing.T, s said) {
			if s.err != nil || s.deltas != 3 || s.finish != "" || s.done || s.usage != nil {
				t.Errorf("%+v", s)
			}
		}, Faulted, 3},
		{"tokens=2 fault=eof after=9", func(t *testing.T, s said) {
			if s.err != nil || s.deltas != 2 || s.finish != "" || s.done {
				t.Errorf("%+v", s)
			}
		}, Faulted, 2},
		{"fault=eof", func(t *testing.T, s said) {
			if s.err != nil || len(s.chunks) > 0 || s.done {
				t.Errorf("%+v", s)
			}
		}, Faulted, 0},
		{"tokens=6 fault=error after=2", func(t *testing.T, s said) {
			if s.err != nil || s.deltas != 2 || len(s.errors) != 1 || s.errors[0].Error.Type != "server_error" || s.done {
				t.Errorf("%+v", s)
			}
		}, Faulted, 2},
		{"tokens=6 fault=garbage after=2", func(t *testing.T, s said) {
			if s.err != nil || s.garbage != 1 || s.deltas != 6 || !s.done {
				t.Errorf("%+v", s)
			}
		}, Answered, 6},
		{"tokens=3 fault=huge after=1 size=2", func(t *testing.T, s said) {
			if s.err != nil || s.longest < 2<<20 || s.deltas != 4 || len(s.text) < 2<<20 || !s.done {
				t.Errorf("longest line %d, %d deltas, error %v", s.longest, s.deltas, s.err)
			}
		}, Answered, 3},
		{"tokens=2 fault=no-done", func(t *testing.T, s said) {
			if s.err != nil || s.done || s.finish != "stop" || s.usage == nil {
				t.Errorf("%+v", s)
			}
		}, Answered, 2},
		{"tokens=2 fault=no-finish", func(t *testing.T, s said) {
			if s.err != nil || !s.done || s.finish != "" || s.usage == nil || s.deltas != 2 {
				t.Errorf("%+v", s)
			}
		}, Answered, 2},
		{"tokens=2 fault=no-usage", func(t *testing.T, s said) {
			if s.err != nil || !s.done || s.finish != "stop" || s.usage != nil {
				t.Errorf("%+v", s)
			}
		}, Answered, 2},
		{"tokens=3 comments=400", func(t *testing.T, s said) {
			if s.err != nil || s.comments != 1200 || s.deltas != 3 || !s.done {
				t.Errorf("%+v", s)
			}
		}, Answered, 3},
	} {
		t.Run(tc.directive, func(t *testing.T) {
			u := startUpstream(t, Options{})
			tc.check(t, u.streamed(t, "[[sim "+tc.directive+"]]"))
			eventually(t, "the call ends as "+string(tc.outcome), func() bool {
				call := u.Calls()[0]
				return call.Outcome == tc.outcome && call.CompletionTokens == tc.sent && u.Stats().OpenStreams == 0
			})
			if got := u.streamed(t, "[[sim answer=still]] fine"); got.text != "still" || !got.done {
				t.Errorf("the next call suffers: %+v", got)
			}
		})
	}
}

func TestConnectionIsCutBeforeTheStatus(t *testing.T) {
	u := startUpstream(t, Options{})
	for _, stream := range []bool{false, true} {
		resp, err := u.client.Do(u.request(t, wireBody(t, "", "[[sim fault=cut]]", "", stream)))
		if err == nil {
			_ = resp.Body.Close()
			t.Fatalf("stream %v: status %d, want no response", stream, resp.StatusCode)
		}
	}
	if n := u.Stats().Outcomes[Faulted]; n != 2 {
		t.Errorf("%d faulted calls, want 2", n)
	}
	if c := u.Calls()[0]; c.Status != 0 {
		t.Errorf("status %d recorded, none was sent", c.Status)
	}
}

func TestHTMLInsteadOfAnAnswer(t *testing.T) {
	u := startUpstream(t, Options{})
	for _, stream := range []bool{false, true} {
		resp := u.post(t, wireBody(t, "", "[[sim fault=html]]", "", stream))
		raw, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") || !bytes.HasPrefix(raw, []byte("<!DOCTYPE html>")) {
			t.Errorf("status %d, error %v, body %s", resp.StatusCode, err, raw)
		}
	}
}

func TestWholeAnswerFaults(t *testing.T) {
	u := startUpstream(t, Options{})
	post := func(directive string) (*http.Response, []byte, error) {
		resp := u.post(t, wireBody(t, "", "[[sim "+directive+"]]", "", false))
		raw, err := io.ReadAll(resp.Body)
		return resp, raw, err
	}
	if _, raw, err := post("fault=cut after=1"); !errors.Is(err, io.ErrUnexpectedEOF) || len(raw) == 0 {
		t.Errorf("cut: error %v, body %s", err, raw)
	}
	for _, fault := range []string{"eof", "garbage"} {
		if resp, raw, err := post("fault=" + fault); err != nil || resp.StatusCode != http.StatusOK || len(raw) == 0 || raw[len(raw)-1] == '}' {
			t.Errorf("%s: status %d, error %v, body %s", fault, resp.StatusCode, err, raw)
		}
	}
	if resp, _, _ := post("fault=error"); resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("error: status %d", resp.StatusCode)
	}
	if _, raw, err := post("fault=huge size=1"); err != nil || len(raw) < 1<<20 {
		t.Errorf("huge: error %v, %d bytes", err, len(raw))
	}
	if _, raw, err := post("fault=no-usage"); err != nil || bytes.Contains(raw, []byte("usage")) {
		t.Errorf("no-usage: error %v, body %s", err, raw)
	}
	if _, raw, err := post("fault=no-finish"); err != nil || !bytes.Contains(raw, []byte(`"finish_reason":null`)) {
		t.Errorf("no-finish: error %v, body %s", err, raw)
	}
}

// TestClientGoesAway shows that every call that waits or runs on ends with its client.
func TestClientGoesAway(t *testing.T) {
	for _, tc := range []struct {
		directive string
		stream    bool
		headers   bool // they come before the wait
		deltas    int  // that come before it
	}{
		{"delay=1h", true, false, 0},
		{"delay=1h", false, false, 0},
		{"ttft=1h", true, true, 0},
		{"ttft=1h", false, false, 0},
		{"tokens=9 rate=0.001", true, true, 1},
		{"tokens=9 rate=0.001", false, false, 0},
		{"fault=stall", true, true, 0},
		{"fault=stall", false, false, 0},
		{"fault=stall after=0", false, true, 0},
		{"tokens=9 fault=stall after=3", true, true, 3},
		{"tokens=9 burst=50 fault=stall after=3", true, true, 3},
		{"tokens=2 fault=stall after=5", true, true, 2},
		{"fault=endless", true, true, 50},
		{"fault=endless rate=1000/s", true, true, 5},
		{"fault=endless", false, true, 0},
	} {
		name := tc.directive
		if tc.stream {
			name += ", streamed"
		}
		t.Run(name, func(t *testing.T) {
			u := startUpstream(t, Options{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			gone := make(chan struct{})
			req := u.request(t, wireBody(t, "", "[[sim "+tc.directive+"]]", "", tc.stream)).WithContext(ctx)
			go func() {
				defer close(gone)
				resp, err := u.client.Do(req)
				if (err == nil) != tc.headers {
					t.Errorf("error %v; headers should come: %v", err, tc.headers)
				}
				if err != nil {
					return
				}
				defer resp.Body.Close()
				lines := bufio.NewReader(resp.Body)
				for deltas := 0; deltas < tc.deltas; {
					line, err := lines.ReadString('\n')
					if err != nil {
						t.Errorf("after %d deltas: %v", deltas, err)
						return
					}
					if strings.Contains(line, `"delta":{"content":`) {
						deltas++
					}
				}
				cancel()
			}()
			if !tc.headers {
				eventually(t, "the call is open", func() bool { return u.Stats().Outcomes[Open] == 1 })
				cancel()
			}
			<-gone
			eventually(t, "the handler is free", func() bool {
				s := u.Stats()
				return s.OpenStreams == 0 && s.Outcomes[Open] == 0 && s.Outcomes[ClientGone] == 1
			})
			wantClosed := int64(0)
			if tc.stream && !strings.HasPrefix(tc.directive, "delay") {
				wantClosed = 1
			}
			if n := u.Stats().ClosedByClient; n != wantClosed {
				t.Errorf("%d streams closed by the client, want %d", n, wantClosed)
			}
		})
	}
}

func TestFaultForTheFirstCallsOnly(t *testing.T) {
	u := startUpstream(t, Options{})
	var got []int
	for _, key := range []string{"a", "a", "b", "a", "b", "b", "a"} {
		got = append(got, u.post(t, wireBody(t, "", "[[sim fault=500 times=2 key="+key+"]]", "", false)).StatusCode)
	}
	for i, want := range []int{500, 500, 500, 200, 500, 200, 200} {
		if got[i] != want {
			t.Errorf("call %d: status %d, want %d (all: %v)", i, got[i], want, got)
		}
	}
}

func TestCountdownIsBounded(t *testing.T) {
	c := countdown{calls: make(map[string]int)}
	for i := range 3 * maxCountdownKeys {
		c.next(newID("", 10), i)
	}
	if len(c.calls) != maxCountdownKeys || len(c.order) != maxCountdownKeys {
		t.Errorf("%d keys are kept", len(c.calls))
	}
}

// flushes records what a handler writes, flush by flush.
type flushes struct {
	*httptest.ResponseRecorder
	parts []string
	seen  int
}

func (f *flushes) Flush() {
	if all := f.Body.String(); len(all) > f.seen {
		f.parts, f.seen = append(f.parts, all[f.seen:]), len(all)
	}
}

// record serves body without a network.
func record(t *testing.T, s *Server, body string) *flushes {
	t.Helper()
	f := &flushes{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/chat/completions", strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer k")
	s.ServeHTTP(f, r)
	f.Flush()
	return f
}

func TestFlushes(t *testing.T) {
	s := New(Options{})
	for _, tc := range []struct {
		directive string
		want      []int // deltas in each flush
	}{
		{"tokens=3", []int{1, 1, 1, 0}},
		{"tokens=5 burst=2", []int{2, 2, 1}},
		{"tokens=5 burst=9", []int{5}},
		{"answer=''", []int{0}},
	} {
		var got []int
		for _, part := range record(t, s, streamBody(t, "[[sim "+tc.directive+"]]")).parts {
			got = append(got, strings.Count(part, `"delta":{"content":`))
		}
		if len(got) != len(tc.want) {
			t.Errorf("%s: deltas per flush %v, want %v", tc.directive, got, tc.want)
			continue
		}
		for i := range got {
			if got[i] != tc.want[i] {
				t.Errorf("%s: deltas per flush %v, want %v", tc.directive, got, tc.want)
				break
			}
		}
	}
}

func TestSplitPartsRunes(t *testing.T) {
	s := New(Options{})
	parts := record(t, s, streamBody(t, "[[sim answer='né 👩‍👩‍👧' split=1]]")).parts
	cut := 0
	for _, p := range parts {
		if len(p) != 1 {
			t.Fatalf("a flush of %d bytes", len(p))
		}
		if !utf8.ValidString(p) {
			cut++
		}
	}
	if cut == 0 {
		t.Error("no rune was cut")
	}
	got := readStream(t, strings.NewReader(strings.Join(parts, "")))
	if got.text != "né 👩‍👩‍👧" || !got.done {
		t.Errorf("put together: %+v", got)
	}
}

func TestHTTP2(t *testing.T) {
	s := New(Options{})
	ts := httptest.NewUnstartedServer(s)
	ts.EnableHTTP2 = true
	ts.StartTLS()
	defer ts.Close()
	u := &upstream{Server: s, url: ts.URL, client: ts.Client()}
	resp := u.post(t, streamBody(t, "[[sim tokens=20]]"))
	if resp.ProtoMajor != 2 {
		t.Fatalf("protocol %s", resp.Proto)
	}
	if got := readStream(t, resp.Body); got.deltas != 20 || !got.done || got.err != nil {
		t.Errorf("%+v", got)
	}
	if got := u.streamed(t, "[[sim tokens=20 fault=cut after=2]]"); got.err == nil || got.done {
		t.Errorf("a cut stream ended with error %v, done %v", got.err, got.done)
	}
}
