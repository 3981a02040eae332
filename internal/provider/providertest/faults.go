package providertest

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
	"github.com/chatsvc/chatsvc/internal/provider/openaisim"
)

// slack is what a busy machine may add to a time limit.
const slack = 2 * time.Second

func testFaults(f *fixture) {
	t := f.t
	const (
		answer  = ` answer="one two three four"`
		partial = "one two three"
		whole   = "one two three four"
	)
	for script, c := range map[string]struct {
		reason     conversation.Reason
		text       string
		retryAfter time.Duration
		nameless   bool          // no response, so no request id
		within     time.Duration // the limit that strikes; 0: at once
	}{
		"fault=400":                      {reason: conversation.UpstreamRejected},
		"fault=401":                      {reason: conversation.UpstreamCredentialRejected},
		"fault=404":                      {reason: conversation.UpstreamRejected},
		"fault=context":                  {reason: conversation.ContextTooLong},
		"fault=429-rate retry-after=7s":  {reason: conversation.UpstreamRateLimited, retryAfter: 7 * time.Second},
		"fault=429-quota":                {reason: conversation.UpstreamAccountExhausted},
		"fault=500":                      {reason: conversation.UpstreamUnavailable},
		"fault=503 retry-after=3s":       {reason: conversation.UpstreamUnavailable, retryAfter: 3 * time.Second},
		"fault=html":                     {reason: conversation.UpstreamUnavailable},
		"fault=cut":                      {reason: conversation.UpstreamUnavailable, nameless: true},
		"fault=cut after=0":              {reason: conversation.UpstreamStreamCut},
		"fault=cut after=3":              {reason: conversation.UpstreamStreamCut, text: partial},
		"fault=eof after=0":              {reason: conversation.UpstreamStreamCut},
		"fault=eof after=3":              {reason: conversation.UpstreamStreamCut, text: partial},
		"fault=no-finish":                {reason: conversation.UpstreamStreamCut, text: whole},
		"fault=error after=0":            {reason: conversation.UpstreamUnavailable},
		"fault=error after=3":            {reason: conversation.UpstreamUnavailable, text: partial},
		"fault=error after=3 comments=3": {reason: conversation.UpstreamUnavailable, text: partial},
		"fault=garbage after=0":          {reason: conversation.UpstreamUnavailable},
		"fault=garbage after=3":          {reason: conversation.UpstreamUnavailable, text: partial},
		"fault=huge after=0 size=1":      {reason: conversation.UpstreamUnavailable},
		"fault=huge after=3 size=1":      {reason: conversation.UpstreamUnavailable, text: partial},
		"fault=stall after=0":            {reason: conversation.UpstreamStalled, within: FirstEventTimeout},
		"fault=stall after=3":            {reason: conversation.UpstreamStalled, text: partial, within: IdleTimeout},
		"delay=1m":                       {reason: conversation.UpstreamStalled, nameless: true, within: FirstEventTimeout},
		"ttft=1m":                        {reason: conversation.UpstreamStalled, within: FirstEventTimeout},
		"rate=0.1":                       {reason: conversation.UpstreamStalled, text: "one", within: IdleTimeout},
		"comments=9000 rate=0.1":         {reason: conversation.UpstreamStalled, text: "one", within: IdleTimeout},
	} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			got := f.read(t, say("[[sim "+script+answer+"]]"))
			var e *conversation.Error
			if !errors.As(got.err, &e) || e.Reason != c.reason {
				t.Fatalf("error %v, want %s", got.err, c.reason)
			}
			if text := got.text(conversation.PartText); text != c.text {
				t.Errorf("text %q, want %q", text, c.text)
			}
			if e.RetryAfter != c.retryAfter {
				t.Errorf("retry after %s, want %s", e.RetryAfter, c.retryAfter)
			}
			if (e.UpstreamRequestID == "") != c.nameless {
				t.Errorf("request id %q", e.UpstreamRequestID)
			}
			if got.took < c.within || got.took > c.within+slack {
				t.Errorf("took %s, limit %s", got.took, c.within)
			}
			if e.Message == "" || strings.Contains(e.Message, "directive") || strings.Contains(e.Message, "server had an error") {
				t.Errorf("message %q is empty or the provider's", e.Message)
			}
			if s := e.Error(); strings.Contains(s, Key) || strings.Contains(s, Key[:4]) || strings.Contains(s, Key[len(Key)-4:]) {
				t.Errorf("%q holds a part of the key", s)
			}
		})
	}

	t.Run("unknown model", func(t *testing.T) {
		t.Parallel()
		r := say("hello")
		r.Model = "no-such-model"
		if got := f.read(t, r); !errors.Is(got.err, &conversation.Error{Reason: conversation.UpstreamRejected}) {
			t.Errorf("error %v", got.err)
		}
	})
}

// testMerging has many deltas arrive at once, and then one at a time.
func testMerging(f *fixture) {
	t := f.t
	got := f.answer(t, say("[[sim tokens=1000 burst=1000]]"))
	if u := got.outcome.Usage; u == nil || u.OutputTokens != 1000 {
		t.Fatalf("usage %+v, want 1,000 output tokens", u)
	}
	if got.deltas > 200 {
		t.Errorf("1,000 deltas that arrived together became %d events", got.deltas)
	}

	slow := f.answer(t, say(`[[sim rate=50 answer="one two three four five"]]`))
	if slow.reads < 3 {
		t.Errorf("5 deltas, 20 ms apart, came in %d reads: they were held back", slow.reads)
	}
}

// testEndless reads a stream without end, which the size limit ends, and closes another.
func testEndless(f *fixture) {
	t := f.t
	got := f.read(t, say("[[sim fault=endless burst=100]]"))
	if !errors.Is(got.err, &conversation.Error{Reason: conversation.UpstreamUnavailable}) {
		t.Errorf("error %v", got.err)
	}
	if n := len(got.text(conversation.PartText)); n == 0 || n > MaxStreamBytes {
		t.Errorf("%d bytes of text", n)
	}

	stream := f.open(t.Context(), t, "[[sim fault=endless]]")
	for range 10 {
		if _, err := stream.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the provider still sends", func() bool { return f.sim.Stats().OpenStreams == 0 })
	if _, err := stream.Next(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("Next after Close: %v", err)
	}
}

// open makes a call that begins well.
func (f *fixture) open(ctx context.Context, t *testing.T, text string) provider.Stream {
	t.Helper()
	stream, err := f.Generate(ctx, say(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	return stream
}

func testCancelling(f *fixture) {
	t := f.t
	gone := func(t *testing.T) {
		t.Helper()
		eventually(t, "the provider still waits", func() bool {
			s := f.sim.Stats()
			return s.Calls > 0 && s.Outcomes[openaisim.Open] == 0
		})
	}

	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := f.Generate(ctx, say("hello")); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("waiting for headers", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := f.Generate(ctx, say("[[sim delay=1m]]")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		gone(t)
	})
	t.Run("in the stream", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream := f.open(ctx, t, `[[sim fault=stall after=1 answer="one two"]]`)
		if _, err := stream.Next(); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := stream.Next(); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		gone(t)
	})
}

func testClosing(f *fixture) {
	t := f.t
	stream := f.open(t.Context(), t, `[[sim fault=stall after=1 answer="one two"]]`)
	if _, err := stream.Next(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := stream.Next()
		ended <- err
	}()
	var closers sync.WaitGroup
	for range 3 {
		closers.Go(func() { _ = stream.Close() })
	}
	closers.Wait()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Next ended with %v", err)
	}
	eventually(t, "the provider still waits", func() bool { return f.sim.Stats().ClosedByClient == 1 })
	if finish := stream.Outcome().Finish; finish != conversation.FinishNone {
		t.Errorf("finish reason %d of a closed stream", finish)
	}
}

// testConnections counts connections. A new one now and then is no fault: a late last packet costs its connection.
func testConnections(f *fixture) {
	t := f.t
	const calls, parallel, each = 20, 8, 10
	for range calls {
		f.answer(t, say("[[sim tokens=20]]"))
	}
	if n := f.connections.Load(); n > calls/5 {
		t.Errorf("%d calls in a row opened %d connections", calls, n)
	}
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for range each {
				if got := f.read(t, say("[[sim tokens=20]]")); !errors.Is(got.err, io.EOF) {
					t.Errorf("ended with %v", got.err)
				}
			}
		})
	}
	wg.Wait()
	if n := f.connections.Load(); n > 3*parallel {
		t.Errorf("%d calls, %d at a time, opened %d connections", parallel*each, parallel, n)
	}
	for range 3 {
		f.read(t, say("[[sim fault=500]]")) // errors do not cost connections either
	}
	if n := f.connections.Load(); n > 3*parallel {
		t.Errorf("errors opened connections: %d", n)
	}
}
