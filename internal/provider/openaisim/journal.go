package openaisim

import (
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Outcome says how a call to the chat completions endpoint ended.
type Outcome string

// The outcomes. A call has the outcome Open until it has ended.
const (
	Open       Outcome = "open"
	Answered   Outcome = "answered"    // in full, also where a scripted fault spoilt the stream
	Refused    Outcome = "refused"     // by validation, authentication or a directive that cannot be read
	Faulted    Outcome = "faulted"     // ended by the fault that its directive asked for
	ClientGone Outcome = "client_gone" // the client closed the call before its end
)

// Stats counts the calls to the chat completions endpoint.
type Stats struct {
	Calls            int64             // started
	Outcomes         map[Outcome]int64 // by how they ended; Open is what runs now
	OpenStreams      int64             // streamed responses being sent right now
	ClosedByClient   int64             // streamed responses that the client closed before their end
	PromptTokens     int64             // of calls that reached the model
	CompletionTokens int64             // generated, which after a cut is what was sent
}

// Call is the record of one call to the chat completions endpoint.
type Call struct {
	RequestID        string // as in the response's x-request-id
	Model            string // as asked for, with its directive
	Messages         int
	Body             []byte // as received; cut short where it alone exceeds the journal's bound
	BodyBytes        int    // the length of the body as received
	Header           http.Header
	KeyFingerprint   string // the first 8 hexadecimal digits of the key's SHA-256; never the key
	Stream           bool
	Fault            string // the scripted fault that applied
	Outcome          Outcome
	Status           int // 0 until the headers are sent, and where they never are
	Started, Ended   time.Time
	PromptTokens     int
	CompletionTokens int
}

// journal keeps the last calls and counts all of them. It is safe for concurrent use.
type journal struct {
	maxCalls, maxBytes int

	mu    sync.Mutex
	stats Stats
	calls []*Call // oldest first
	bytes int     // of their bodies
}

// begin records that a call has started, and drops the oldest beyond the bounds.
func (j *journal) begin(c *Call) {
	if len(c.Body) > j.maxBytes {
		c.Body = slices.Clone(c.Body[:j.maxBytes])
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stats.Calls++
	j.stats.Outcomes[Open]++
	if j.maxCalls == 0 {
		return
	}
	drop := 0
	for ; len(j.calls)-drop >= j.maxCalls || drop < len(j.calls) && j.bytes+len(c.Body) > j.maxBytes; drop++ {
		j.bytes -= len(j.calls[drop].Body)
	}
	j.calls = append(slices.Delete(j.calls, 0, drop), c)
	j.bytes += len(c.Body)
}

// update changes a call that begin has recorded.
func (j *journal) update(change func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change()
}

// end records how a call has ended.
func (j *journal) end(c *Call, outcome Outcome, completion int) {
	now := time.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	c.Outcome, c.CompletionTokens, c.Ended = outcome, completion, now
	if j.stats.Outcomes[Open]--; j.stats.Outcomes[Open] == 0 {
		delete(j.stats.Outcomes, Open)
	}
	j.stats.Outcomes[outcome]++
	j.stats.PromptTokens += int64(c.PromptTokens)
	j.stats.CompletionTokens += int64(completion)
}

func (j *journal) openStream() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stats.OpenStreams++
}

func (j *journal) closeStream(byClient bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stats.OpenStreams--
	if byClient {
		j.stats.ClosedByClient++
	}
}

func (j *journal) snapshot() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.stats
	s.Outcomes = maps.Clone(s.Outcomes)
	return s
}

// list returns copies of the recorded calls, oldest first. Bodies and headers are
// shared, and never change.
func (j *journal) list() []Call {
	j.mu.Lock()
	defer j.mu.Unlock()
	calls := make([]Call, len(j.calls))
	for i, c := range j.calls {
		calls[i] = *c
	}
	return calls
}

// countdown counts calls by key, for faults that strike only the first calls. It
// keeps the last maxCountdownKeys keys. It is safe for concurrent use.
type countdown struct {
	mu    sync.Mutex
	calls map[string]int
	order []string // of first use
}

const maxCountdownKeys = 1024

// next counts a call with the key and reports whether it is one of the first n.
func (c *countdown) next(key string, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.calls[key]; !known {
		if len(c.order) == maxCountdownKeys {
			delete(c.calls, c.order[0])
			c.order = slices.Delete(c.order, 0, 1)
		}
		c.order = append(c.order, key)
	}
	c.calls[key]++
	return c.calls[key] <= n
}
