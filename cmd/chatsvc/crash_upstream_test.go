package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/provider/openaisim"
)

// upstream is a simulator that knows which request each call to it was for, and which replica made it. No two calls get
// the same answer: the number of the call is in it, so that an answer that was generated twice shows.
type upstream struct {
	sim  *openaisim.Server
	base string

	mu    sync.Mutex
	calls []*upstreamCall // the number of a call is its place, from 1
}

// upstreamCall is one call.
type upstreamCall struct {
	replica string
	ask     string // the request that it is for
	id      string // x-request-id
	began   time.Time
	ended   time.Time // zero while it runs
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{sim: openaisim.New(openaisim.Options{JournalCalls: -1})}
	server := httptest.NewServer(u)
	t.Cleanup(server.Close)
	u.base = server.URL
	return u
}

// at returns the base URL for a replica.
func (u *upstream) at(replica int) string { return fmt.Sprintf("%s/%d/v1", u.base, replica) }

// asked finds whose request a body is: the last one in it, those before being history.
var asked = regexp.MustCompile(`#([0-9A-Za-z.-]+)#`)

// callMark stands in a request for the number of the call.
const callMark = "@@"

// ServeHTTP notes a call and has the simulator answer it.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	replica, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	r.URL.Path = "/" + path
	body, err := io.ReadAll(r.Body)
	if err != nil { // the caller died while it asked
		panic(http.ErrAbortHandler)
	}
	call := &upstreamCall{replica: replica, began: time.Now()}
	if found := asked.FindAllSubmatch(body, -1); found != nil {
		call.ask = string(found[len(found)-1][1])
	}
	u.mu.Lock()
	u.calls = append(u.calls, call)
	number := len(u.calls)
	u.mu.Unlock()
	defer func() { // also when a fault aborts the handler
		u.mu.Lock()
		defer u.mu.Unlock()
		call.id, call.ended = w.Header().Get("X-Request-Id"), time.Now()
	}()
	r.Body = io.NopCloser(bytes.NewReader(bytes.ReplaceAll(body, []byte(callMark), []byte(strconv.Itoa(number)))))
	u.sim.ServeHTTP(w, r)
}

// all returns the calls so far, by their number less one.
func (u *upstream) all() []upstreamCall {
	u.mu.Lock()
	defer u.mu.Unlock()
	calls := make([]upstreamCall, len(u.calls))
	for i, c := range u.calls {
		calls[i] = *c
	}
	return calls
}

// count returns how many calls there were.
func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.calls)
}

// countOf returns how many calls there were for a request.
func (u *upstream) countOf(ask string) (n int) {
	for _, call := range u.all() {
		if call.ask == ask {
			n++
		}
	}
	return n
}

// open returns the requests that a replica is asking about now.
func (u *upstream) open(replica int) (asks []string) {
	for _, call := range u.all() {
		if call.ended.IsZero() && call.replica == strconv.Itoa(replica) {
			asks = append(asks, call.ask)
		}
	}
	return asks
}

// question returns the text of a request whose answer is answer(id, call, words), generated at a pace of so many words
// a second.
func question(id string, words, pace int) string {
	return fmt.Sprintf("#%s# [[sim answer='%s' rate=%d]]", id, answer(id, callMark, words), pace)
}

// answer returns what the simulator says to a question.
func answer(id, call string, words int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "call %s for %s:", call, id)
	for i := range words {
		fmt.Fprintf(&b, " %d", i)
	}
	return b.String()
}

// answered finds what an answer is to.
var answered = regexp.MustCompile(`^call (\d+) for ([0-9A-Za-z.-]+):`)

// callOf returns the number of the call that a text is the whole answer of.
func callOf(text, id string, words int) (int, error) {
	m := answered.FindStringSubmatch(text)
	if m == nil || m[2] != id || text != answer(id, m[1], words) {
		return 0, fmt.Errorf("the answer to %s is %.200q", id, text)
	}
	return strconv.Atoi(m[1])
}
