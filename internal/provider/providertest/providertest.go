// Package providertest is the suite that every provider passes. It plays the other side with openaisim, over real HTTP
// on loopback.
package providertest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
	"github.com/chatsvc/chatsvc/internal/provider/openaisim"
)

// What the provider under test must be set to: short enough to wait for, long enough for a busy machine.
const (
	// Key is the key to send.
	Key = "sk-providertest-0123456789abcdef"
	// FirstEventTimeout is the limit for the first content.
	FirstEventTimeout = 1500 * time.Millisecond
	// IdleTimeout is the limit between pieces of content.
	IdleTimeout = time.Second
	// MaxLineBytes is the limit of a line, and MaxStreamBytes of a stream.
	MaxLineBytes   = 256 << 10
	MaxStreamBytes = 4 << 20
)

const model = "gpt-4o-mini"

// Run runs the suite. New returns a provider that calls upstreamURL, set as the constants say; it is called once per
// case and cleans up after itself.
func Run(t *testing.T, newProvider func(t *testing.T, upstreamURL string) provider.Provider) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*fixture)
	}{
		{"Answers", testAnswers},
		{"Tools", testTools},
		{"Request", testRequest},
		{"History", testHistory},
		{"Faults", testFaults},
		{"Merging", testMerging},
		{"Endless", testEndless},
		{"Cancelling", testCancelling},
		{"Closing", testClosing},
		{"Connections", testConnections},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(newFixture(t, newProvider))
		})
	}
}

// fixture is a provider and the simulator that it calls.
type fixture struct {
	provider.Provider
	t           *testing.T
	sim         *openaisim.Server
	connections atomic.Int64 // that were ever opened
}

func newFixture(t *testing.T, newProvider func(*testing.T, string) provider.Provider) *fixture {
	t.Helper()
	f := &fixture{t: t, sim: openaisim.New(openaisim.Options{})}
	server := httptest.NewUnstartedServer(f.sim)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			f.connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	f.Provider = newProvider(t, server.URL+"/v1")
	return f
}

// say returns a request of one user message.
func say(text string) *provider.Request {
	return &provider.Request{
		Model:    model,
		Messages: []conversation.Message{{Role: conversation.RoleUser, Parts: []conversation.Part{conversation.TextPart(text)}}},
	}
}

// result is a stream read to its end.
type result struct {
	parts   []conversation.Part
	deltas  int // events
	reads   int // calls of Next that returned events
	err     error
	outcome provider.Outcome
	took    time.Duration
}

// text returns the text of the parts of the kind, joined.
func (r *result) text(kind conversation.PartKind) string {
	var s strings.Builder
	for _, p := range r.parts {
		if p.Kind == kind {
			s.WriteString(p.Text)
		}
	}
	return s.String()
}

// read makes the call and reads its stream to the end, checking what holds for every stream.
func (f *fixture) read(t *testing.T, r *provider.Request) *result {
	t.Helper()
	started := time.Now()
	res := &result{}
	stream, err := f.Generate(t.Context(), r)
	if err != nil {
		res.err, res.took = err, time.Since(started)
		return res
	}
	defer stream.Close()
	for {
		events, err := stream.Next()
		if err != nil {
			if len(events) > 0 {
				t.Error("Next returned events with an error")
			}
			res.err = err
			break
		}
		res.add(t, events)
	}
	if _, again := stream.Next(); !errors.Is(again, res.err) {
		t.Errorf("Next after the end: %v, first it was %v", again, res.err)
	}
	res.outcome, res.took = stream.Outcome(), time.Since(started)
	if errors.Is(res.err, io.EOF) != (res.outcome.Finish != conversation.FinishNone) {
		t.Errorf("the stream ended with %v, finish reason %d", res.err, res.outcome.Finish)
	}
	return res
}

// add puts events into parts, as the engine does.
func (r *result) add(t *testing.T, events []conversation.Event) {
	t.Helper()
	if len(events) == 0 {
		t.Error("Next returned no events and no error")
	}
	r.reads++
	r.deltas += len(events)
	for i, e := range events {
		if !e.Kind.IsDelta() || e.Sequence != 0 || !e.Time.IsZero() {
			t.Errorf("event %+v is no delta, or has sequence or time", e)
		}
		if i > 0 && e.Kind == events[i-1].Kind && e.PartIndex == events[i-1].PartIndex {
			t.Errorf("neighbours of kind %d and part %d are not merged", e.Kind, e.PartIndex)
		}
		switch {
		case e.PartIndex == len(r.parts):
			r.parts = append(r.parts, begin(e))
		case e.PartIndex < 0 || e.PartIndex > len(r.parts):
			t.Fatalf("part %d after %d parts", e.PartIndex, len(r.parts))
		case e.ToolCallID != "" || e.ToolName != "":
			t.Errorf("a later delta of a tool call names it again: %+v", e)
		}
		p := &r.parts[e.PartIndex]
		if p.Kind != begin(e).Kind {
			t.Errorf("part %d changes its kind", e.PartIndex)
		}
		if p.ToolCall != nil {
			p.ToolCall.Arguments += e.Text
		} else {
			p.Text += e.Text
		}
	}
}

// begin returns the empty part that the event belongs to.
func begin(e conversation.Event) conversation.Part {
	switch e.Kind {
	case conversation.EventRefusalDelta:
		return conversation.Part{Kind: conversation.PartRefusal}
	case conversation.EventReasoningDelta:
		return conversation.Part{Kind: conversation.PartReasoning}
	case conversation.EventToolCallDelta:
		return conversation.Part{Kind: conversation.PartToolCall, ToolCall: &conversation.ToolCall{ID: e.ToolCallID, Name: e.ToolName}}
	default:
		return conversation.Part{Kind: conversation.PartText}
	}
}

// answer is read, for streams that must end well.
func (f *fixture) answer(t *testing.T, r *provider.Request) *result {
	t.Helper()
	res := f.read(t, r)
	if !errors.Is(res.err, io.EOF) {
		t.Fatalf("%q ended with %v, want io.EOF", r.Messages[0].Text(), res.err)
	}
	return res
}

// eventually waits until the condition holds, for at most a second.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("after a second: %s", what)
		}
	}
}
