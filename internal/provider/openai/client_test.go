package openai

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

const (
	helloChunk  = "data: {\"model\":\"m-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n"
	finishChunk = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
	doneChunk   = "data: [DONE]\n\n"
)

// serve starts a server of the handler and returns its address.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

// sse sends parts of a stream, each at once.
func sse(w http.ResponseWriter, parts ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, p := range parts {
		_, _ = io.WriteString(w, p)
		_ = http.NewResponseController(w).Flush()
	}
}

// ask makes a call and reads its stream.
func ask(t *testing.T, c *Client) (string, provider.Outcome, error) {
	t.Helper()
	s, err := c.Generate(t.Context(), &provider.Request{Model: "m"})
	if err != nil {
		return "", provider.Outcome{}, err
	}
	defer s.Close()
	text, err := readAll(s)
	return text, s.Outcome(), err
}

func TestKeyRotates(t *testing.T) {
	var seen []string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, fmt.Sprint(r.Header["Authorization"]))
		sse(w, helloChunk, finishChunk, doneChunk)
	})
	keys := []string{"first-key", " second-key\n", ""}
	c := newTestClient(t, Options{BaseURL: url, Key: func() string { k := keys[0]; keys = keys[1:]; return k }})
	for range keys {
		if _, _, err := ask(t, c); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	if want := []string{"[Bearer first-key]", "[Bearer second-key]", "[]"}; !slices.Equal(seen, want) {
		t.Errorf("keys sent: %q, want %q", seen, want)
	}
}

// The headers that leave are few and known: among them no trace context, no organisation, no cookie.
func TestHeaders(t *testing.T) {
	names := make(chan []string, 1)
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/some/v1/chat/completions" || r.ContentLength <= 0 {
			t.Errorf("%s with length %d", r.URL.Path, r.ContentLength)
		}
		names <- slices.Sorted(maps.Keys(r.Header))
		sse(w, finishChunk)
	})
	c := newTestClient(t, Options{BaseURL: url + "/some/v1/"})
	if _, _, err := ask(t, c); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if got, want := <-names, []string{"Accept", "Authorization", "Content-Length", "Content-Type", "User-Agent"}; !slices.Equal(got, want) {
		t.Errorf("headers %q, want %q", got, want)
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	var followed atomic.Bool
	other := serve(t, func(http.ResponseWriter, *http.Request) { followed.Store(true) })
	for _, status := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect} {
		url := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other, status) })
		_, _, err := ask(t, newTestClient(t, Options{BaseURL: url}))
		if !errors.Is(err, &conversation.Error{Reason: conversation.UpstreamUnavailable}) || followed.Load() {
			t.Errorf("%d: %v, followed: %t", status, err, followed.Load())
		}
	}
}

func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	if p := newTransport(time.Second).Proxy; p != nil {
		t.Error("the transport has a proxy")
	}
}

func TestUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	plain := serve(t, func(http.ResponseWriter, *http.Request) {})
	for name, base := range map[string]string{
		"refused":    "http://" + address,
		"no host":    "http://no-such-host.invalid",
		"not TLS":    strings.Replace(plain, "http:", "https:", 1),
		"not a port": "http://127.0.0.1:0",
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := ask(t, newTestClient(t, Options{BaseURL: base, ConnectTimeout: 2 * time.Second}))
			var e *conversation.Error
			if !errors.As(err, &e) || e.Reason != conversation.UpstreamUnavailable || e.Cause == nil || strings.Contains(e.Message, "127.0.0.1") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestConnectTimeout(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing of TLS
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	started := time.Now()
	_, _, err = ask(t, newTestClient(t, Options{BaseURL: "https://" + listener.Addr().String(), ConnectTimeout: 100 * time.Millisecond}))
	if !errors.Is(err, &conversation.Error{Reason: conversation.UpstreamUnavailable}) || time.Since(started) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(started))
	}
}

// Comments and empty deltas keep a connection alive, but not a call.
func TestStalledDespiteKeepAlive(t *testing.T) {
	for name, c := range map[string]struct{ before, again string }{
		"comments, before": {"", ": keep-alive\n\n"},
		"comments, after":  {helloChunk, ": keep-alive\n\n"},
		"empty, before":    {"", "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}]}\n\n"},
		"empty, after":     {helloChunk, "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				defer close(gone)
				sse(w, c.before)
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-tick.C:
						sse(w, c.again)
					case <-r.Context().Done():
						return
					}
				}
			})
			client := newTestClient(t, Options{BaseURL: url, FirstEventTimeout: 300 * time.Millisecond, IdleTimeout: 200 * time.Millisecond})
			s, err := client.Generate(t.Context(), &provider.Request{Model: "m"})
			if err != nil {
				t.Fatal(err)
			}
			text, err := readAll(s)
			if !errors.Is(err, &conversation.Error{Reason: conversation.UpstreamStalled}) || (text == "hello") != (c.before != "") {
				t.Errorf("%q, %v", text, err)
			}
			<-gone // before Close
			_ = s.Close()
		})
	}
}

// A reader that takes its time is not a provider that stalls.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := make(channelReader, 3)
		s := streamOf(t, io.NopCloser(body))
		defer s.Close()
		for range 2 {
			body <- helloChunk
			if _, err := s.Next(); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Hour)
		}
		body <- finishChunk + doneChunk
		close(body)
		if _, err := s.Next(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

// After the finish reason there is nothing to wait for but usage and [DONE]; a provider that owes them does not cost the
// answer.
func TestStalledTail(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sse(w, helloChunk, finishChunk)
		<-r.Context().Done()
	})
	var log bytes.Buffer
	c := newTestClient(t, Options{BaseURL: url, IdleTimeout: 100 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	text, outcome, err := ask(t, c)
	if text != "hello" || !errors.Is(err, io.EOF) || outcome.Finish != conversation.FinishStop || outcome.Usage != nil || outcome.Model != "m-1" {
		t.Errorf("%q, %v, %+v", text, err, outcome)
	}
	if !strings.Contains(log.String(), "usage_known=false") {
		t.Errorf("log: %s", log.String())
	}
}

// A body that does not end after [DONE] holds Close up only for a moment.
func TestCloseOfALateEnd(t *testing.T) {
	for name, endless := range map[string]bool{"silent": false, "talking": true} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				defer close(gone)
				sse(w, helloChunk, finishChunk, doneChunk)
				for endless && r.Context().Err() == nil {
					sse(w, strings.Repeat(": more\n", 1000))
				}
				<-r.Context().Done()
			})
			started := time.Now()
			if _, _, err := ask(t, newTestClient(t, Options{BaseURL: url})); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			<-gone
			if took := time.Since(started); took > time.Second {
				t.Errorf("the connection was held for %s", took)
			}
		})
	}
}

// Nonsense ends the call at once, whenever Close comes.
func TestNonsenseEndsTheCall(t *testing.T) {
	gone := make(chan struct{})
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		sse(w, helloChunk, "data: {\n\n")
		<-r.Context().Done()
	})
	s, err := newTestClient(t, Options{BaseURL: url}).Generate(t.Context(), &provider.Request{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if text, err := readAll(s); text != "hello" || !errors.Is(err, &conversation.Error{Reason: conversation.UpstreamUnavailable}) {
		t.Errorf("%q, %v", text, err)
	}
	select {
	case <-gone:
	case <-time.After(time.Second):
		t.Error("the connection is still open")
	}
}

// A body that ends a moment after [DONE] does not cost its connection.
func TestReuseAfterALateEnd(t *testing.T) {
	const calls = 10
	var connections atomic.Int64
	end := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		sse(w, helloChunk, finishChunk, doneChunk)
		<-end
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	c := newTestClient(t, Options{BaseURL: server.URL})
	for range calls {
		s, err := c.Generate(t.Context(), &provider.Request{Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readAll(s); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		end <- struct{}{}
		_ = s.Close()
	}
	if n := connections.Load(); n > calls/2 {
		t.Errorf("%d calls opened %d connections", calls, n)
	}
}

// A refusal may be large, slow, or both.
func TestLargeRefusal(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTooManyRequests)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<20)); err != nil {
				return
			}
		}
	})
	_, _, err := ask(t, newTestClient(t, Options{BaseURL: url}))
	var e *conversation.Error
	if !errors.As(err, &e) || e.Reason != conversation.UpstreamRateLimited || len(e.Error()) > 2*maxCause {
		t.Errorf("error %.200v", err)
	}
}

func TestHTTP2(t *testing.T) {
	cancelled := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("HTTP/%d", r.ProtoMajor)
		}
		body, _ := io.ReadAll(r.Body)
		sse(w, helloChunk)
		if bytes.Contains(body, []byte(`"stall"`)) {
			<-r.Context().Done()
			close(cancelled)
			return
		}
		sse(w, finishChunk, doneChunk)
	}))
	server.EnableHTTP2 = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.StartTLS()
	t.Cleanup(server.Close)

	c := newTestClient(t, Options{BaseURL: server.URL})
	if _, _, err := ask(t, c); !errors.Is(err, &conversation.Error{Reason: conversation.UpstreamUnavailable}) {
		t.Fatalf("a certificate of nobody's was accepted: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c = newTestClient(t, Options{BaseURL: server.URL})
	c.transport.TLSClientConfig.RootCAs = roots
	if text, _, err := ask(t, c); text != "hello" || !errors.Is(err, io.EOF) {
		t.Errorf("%q, %v", text, err)
	}
	s, err := c.Generate(t.Context(), &provider.Request{Model: "stall"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	select {
	case <-cancelled:
	case <-time.After(time.Second):
		t.Error("the server still sends a second after Close")
	}
}

func TestModelsThatGoOpenAIKnowsBetter(t *testing.T) {
	bodies := make(chan []byte, 1)
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- body
		sse(w, finishChunk)
	})
	half := 0.5
	for _, model := range []string{"o1", "o3-mini", "gpt-5", "gpt-6-sol", "gpt-6-astra", "gpt-6.1-sol"} {
		s, err := newTestClient(t, Options{BaseURL: url}).Generate(t.Context(), &provider.Request{
			Model:      model,
			Tools:      []conversation.Tool{{Name: "f"}},
			ToolChoice: conversation.ToolChoice{Mode: conversation.ToolChoiceRequired},
			Config:     conversation.Config{Temperature: &half, TopP: &half, PresencePenalty: &half, ReasoningEffort: "minimal"},
		})
		if err != nil {
			t.Errorf("%s: %v", model, err)
			continue
		}
		_ = s.Close()
		if body := <-bodies; !bytes.Contains(body, []byte(`"temperature":0.5`)) || !json.Valid(body) {
			t.Errorf("%s: %s", model, body)
		}
	}
}

// What cannot be sent is refused before the call, with a reason, and never half sent.
func TestNotSendable(t *testing.T) {
	c := newTestClient(t, Options{BaseURL: serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a call was made") })})
	nan := math.NaN()
	message := func(role conversation.Role, kind conversation.PartKind) *provider.Request {
		return &provider.Request{Model: "m", Messages: []conversation.Message{{Role: role, Parts: []conversation.Part{{Kind: kind}}}}}
	}
	for name, r := range map[string]*provider.Request{
		"NaN":             {Model: "m", Config: conversation.Config{Temperature: &nan}},
		"parameters":      {Model: "m", Tools: []conversation.Tool{{Name: "f", Parameters: `{"a":1}}, "x": {`}}},
		"no role":         message(0, conversation.PartText),
		"assistant image": message(conversation.RoleAssistant, conversation.PartImage),
		"system image":    message(conversation.RoleSystem, conversation.PartImage),
		"user tool call":  message(conversation.RoleUser, conversation.PartToolCall),
		"tool text":       message(conversation.RoleTool, conversation.PartText),
		"empty tool call": message(conversation.RoleAssistant, conversation.PartToolCall),
		"completion":      {Model: "text-davinci-003"},
	} {
		if _, err := c.Generate(t.Context(), r); !errors.Is(err, &conversation.Error{Reason: conversation.UpstreamRejected}) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlaceholderInTheModelName(t *testing.T) {
	bodies := make(chan []byte, 1)
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- body
		sse(w, finishChunk)
	})
	model := `x","messages":null,"` + placeholder
	s, err := newTestClient(t, Options{BaseURL: url}).Generate(t.Context(), &provider.Request{Model: model, Instructions: "i"})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	var got struct {
		Model    string
		Messages []struct{ Content string }
	}
	if err := json.Unmarshal(<-bodies, &got); err != nil || got.Model != model || len(got.Messages) != 1 || got.Messages[0].Content != "i" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestOptions(t *testing.T) {
	for _, base := range []string{"example.com/v1", "ftp://example.com", "https://", "https://user:pw@example.com", "https://example.com?x=1", "https://example.com#x", "http://a b", ":"} {
		if _, err := New(Options{BaseURL: base}); err == nil || strings.Contains(err.Error(), "pw") {
			t.Errorf("base URL %q: %v", base, err)
		}
	}
	if _, err := New(Options{IdleTimeout: -1}); err == nil {
		t.Error("a negative timeout was accepted")
	}
	c, err := New(Options{})
	if err != nil || c.options.BaseURL != DefaultBaseURL || c.options.Key() != "" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestDeadlineInTheStream(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sse(w, helloChunk)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	s, err := newTestClient(t, Options{BaseURL: url}).Generate(ctx, &provider.Request{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if text, err := readAll(s); text != "hello" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%q, %v", text, err)
	}
}

// A model that reasons sends nothing while it thinks, and is given the time; any other is stalled by then.
func TestReasoningMayTakeLonger(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sse(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n")
		select {
		case <-time.After(300 * time.Millisecond):
		case <-r.Context().Done():
			return
		}
		sse(w, helloChunk, finishChunk, doneChunk)
	})
	c := newTestClient(t, Options{BaseURL: url, FirstEventTimeout: 100 * time.Millisecond})
	for _, reasoning := range []bool{false, true} {
		s, err := c.Generate(t.Context(), &provider.Request{Model: "m", Reasoning: reasoning})
		var text string
		if err == nil {
			text, err = readAll(s)
			_ = s.Close()
		}
		if stalled := errors.Is(err, &conversation.Error{Reason: conversation.UpstreamStalled}); stalled == reasoning || reasoning && text != "hello" {
			t.Errorf("reasoning %v: %q, %v", reasoning, text, err)
		}
	}
}

// An answer that is whole is not thrown away because its usage is late.
func TestDeadlineAfterTheFinishReason(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sse(w, helloChunk, finishChunk)
		<-r.Context().Done()
	})
	c := newTestClient(t, Options{BaseURL: url})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	s, err := c.Generate(ctx, &provider.Request{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if text, err := readAll(s); !errors.Is(err, io.EOF) || text != "hello" || s.Outcome().Finish != conversation.FinishStop {
		t.Errorf("%q, %v, %+v", text, err, s.Outcome())
	}
}
