package openaisim

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// discard is a response writer that costs nothing, so that what is measured is ours.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Flush()                      {}

func serveDiscarding(ctx context.Context, s *Server, body string) {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/chat/completions", strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer k")
	s.ServeHTTP(&discard{header: make(http.Header)}, r)
}

// BenchmarkHandler measures a streamed call without the network; compare the two sizes
// for the cost of a delta.
func BenchmarkHandler(b *testing.B) {
	for _, tokens := range []int{1, 1000} {
		b.Run(fmt.Sprintf("tokens=%d", tokens), func(b *testing.B) {
			s := New(Options{JournalCalls: -1})
			body := fmt.Sprintf(`{"model":"sim","stream":true,"messages":[{"role":"user","content":"[[sim tokens=%d]]"}]}`, tokens)
			b.ReportAllocs()
			for b.Loop() {
				serveDiscarding(b.Context(), s, body)
			}
			b.ReportMetric(float64(tokens)*float64(b.N)/b.Elapsed().Seconds(), "deltas/s")
		})
	}
}

// BenchmarkLoopback measures streamed calls over TCP with net/http on both sides.
func BenchmarkLoopback(b *testing.B) {
	for _, burst := range []int{1, 16} {
		b.Run(fmt.Sprintf("tokens=200,burst=%d", burst), func(b *testing.B) {
			u := startUpstream(b, Options{JournalCalls: -1})
			body := fmt.Sprintf(`{"model":"sim","stream":true,"messages":[{"role":"user","content":"[[sim tokens=200 burst=%d]]"}]}`, burst)
			for b.Loop() {
				resp, err := u.client.Do(u.request(b, body))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					b.Fatal(err)
				}
				_ = resp.Body.Close()
			}
			b.ReportMetric(200*float64(b.N)/b.Elapsed().Seconds(), "deltas/s")
		})
	}
}

func TestDeltasAllocateNothing(t *testing.T) {
	s := New(Options{JournalCalls: -1})
	allocs := func(tokens int) float64 {
		body := fmt.Sprintf(`{"model":"sim","stream":true,"messages":[{"role":"user","content":"[[sim tokens=%d]]"}]}`, tokens)
		return testing.AllocsPerRun(20, func() { serveDiscarding(t.Context(), s, body) })
	}
	if few, many := allocs(10), allocs(2000); many-few > 5 {
		t.Errorf("%v allocations for 10 tokens, %v for 2,000", few, many)
	}
}
