package openaisim

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// requestLimit and tokenLimit are the rate limits that the headers speak of. They are
// not enforced: a directive asks for a refusal.
const (
	requestLimit = 10_000
	tokenLimit   = 2_000_000
)

// Options configure a Server. The zero value is usable.
type Options struct {
	Keys         []string      // the API keys that are accepted; none accepts any that is not empty
	Logger       *slog.Logger  // gets a line for each call, without its content; nil logs nothing
	TTFT         time.Duration // time to first token, where no directive says otherwise
	Rate         float64       // tokens per second, where no directive says otherwise; 0 is as fast as possible
	MaxBodyBytes int64         // of a request; 0 is 32 MiB
	JournalCalls int           // how many calls Calls remembers; 0 is 256, negative is none
	JournalBytes int           // how many bytes of their bodies in all; 0 is 1 MiB
}

// Server is the simulator. It is an [http.Handler], safe for concurrent use, that keeps
// nothing between requests but its journal and the counts of times= directives. It starts
// no goroutine; a request that waits ends with its context. It cuts a connection by
// panicking with [http.ErrAbortHandler], so it must be served by net/http.
type Server struct {
	keys     [][sha256.Size]byte
	log      *slog.Logger
	ttft     time.Duration
	rate     float64
	maxBody  int64
	models   []model
	known    map[string]bool
	journal  journal
	failures countdown
}

var _ http.Handler = (*Server)(nil)

// New returns a Server.
func New(o Options) *Server {
	orDefault := func(n, otherwise int) int {
		if n == 0 {
			return otherwise
		}
		return max(n, 0)
	}
	s := &Server{
		log: o.Logger, ttft: o.TTFT, rate: o.Rate, maxBody: o.MaxBodyBytes,
		models: models(), known: parameterNames(),
		journal: journal{
			maxCalls: orDefault(o.JournalCalls, 256), maxBytes: orDefault(o.JournalBytes, 1<<20),
			stats: Stats{Outcomes: make(map[Outcome]int64)},
		},
		failures: countdown{calls: make(map[string]int)},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.maxBody == 0 {
		s.maxBody = 32 << 20
	}
	for _, key := range o.Keys {
		s.keys = append(s.keys, sha256.Sum256([]byte(key)))
	}
	return s
}

// Stats returns the counts of calls so far.
func (s *Server) Stats() Stats { return s.journal.snapshot() }

// Calls returns the last calls, oldest first. Their bodies and headers must not be changed.
func (s *Server) Calls() []Call { return s.journal.list() }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	id := newID("req_", 32)
	h := w.Header()
	h.Set("X-Request-Id", id)
	h.Set("Openai-Version", "2020-10-01")
	h.Set("Openai-Organization", "org-sim")

	path := strings.TrimPrefix(r.URL.Path, "/v1")
	name, isModel := strings.CutPrefix(path, "/models/")
	method := http.MethodGet
	if path == "/chat/completions" {
		method = http.MethodPost
	}
	switch {
	case path != "/chat/completions" && path != "/models" && !isModel:
		s.refuse(w, started, &apiError{status: http.StatusNotFound, kind: "invalid_request_error", message: fmt.Sprintf("Invalid URL (%s %s)", r.Method, r.URL.Path)})
	case r.Method != method:
		h.Set("Allow", method)
		s.refuse(w, started, &apiError{status: http.StatusMethodNotAllowed, kind: "invalid_request_error", message: fmt.Sprintf("Not allowed to %s on %s. (HINT: Perhaps you meant to use a different HTTP method?)", r.Method, r.URL.Path)})
	case path == "/chat/completions":
		s.serveChat(w, r, started, id)
	default:
		if _, err := s.authenticate(r); err != nil {
			s.refuse(w, started, err)
			return
		}
		s.serveModels(w, started, name, isModel)
	}
}

// refuse answers with err.
func (s *Server) refuse(w http.ResponseWriter, started time.Time, err *apiError) {
	setProcessingTime(w, started)
	err.write(w)
}

func setProcessingTime(w http.ResponseWriter, started time.Time) {
	w.Header().Set("Openai-Processing-Ms", strconv.FormatInt(time.Since(started).Milliseconds(), 10))
}

// authenticate returns the key of the request.
func (s *Server) authenticate(r *http.Request) (string, *apiError) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if key = strings.TrimSpace(key); key == "" || !strings.EqualFold(scheme, "Bearer") {
		return "", missingKey()
	}
	if len(s.keys) == 0 {
		return key, nil
	}
	digest, accepted := sha256.Sum256([]byte(key)), 0
	for i := range s.keys { // all of them, so that the time does not tell which one is near
		accepted |= subtle.ConstantTimeCompare(digest[:], s.keys[i][:])
	}
	if accepted == 0 {
		return key, invalidKey(key)
	}
	return key, nil
}

// serveModels describes the model called name if one is asked for, else lists all.
func (s *Server) serveModels(w http.ResponseWriter, started time.Time, name string, one bool) {
	type entry struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	describe := func(id string) entry { return entry{id, "model", 1_700_000_000, "openai"} }
	var answer any
	if one {
		if _, found := findModel(s.models, name); !found {
			s.refuse(w, started, modelNotFound(name))
			return
		}
		answer = describe(name)
	} else {
		var list struct {
			Object string  `json:"object"`
			Data   []entry `json:"data"`
		}
		list.Object = "list"
		for _, m := range s.models {
			list.Data = append(list.Data, describe(m.id))
		}
		answer = list
	}
	body, err := json.Marshal(answer)
	if err != nil { // structs of strings and numbers always marshal
		s.refuse(w, started, serverError())
		return
	}
	setProcessingTime(w, started)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a client that is gone needs no answer
}

// serveChat answers a chat completion and records it.
func (s *Server) serveChat(w http.ResponseWriter, r *http.Request, started time.Time, id string) {
	key, authErr := s.authenticate(r)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.maxBody))
	record := &Call{
		RequestID: id, Body: body, BodyBytes: len(body), Header: headerWithoutKey(r.Header),
		KeyFingerprint: fingerprint(key), Outcome: Open, Started: started,
	}
	s.journal.begin(record)
	c := &call{server: s, w: w, r: r, record: record, key: key, started: started, outcome: ClientGone}
	defer func() { // also when a fault aborts the handler
		s.journal.end(record, c.outcome, c.sent)
		s.log.LogAttrs(r.Context(), slog.LevelInfo, "chat completion",
			slog.String("request_id", id), slog.String("model", record.Model), slog.String("outcome", string(c.outcome)),
			slog.Int("status", record.Status), slog.String("fault", record.Fault), slog.Duration("took", time.Since(started)),
			slog.Int("prompt_tokens", record.PromptTokens), slog.Int("completion_tokens", c.sent))
	}()
	switch tooLarge := (*http.MaxBytesError)(nil); {
	case authErr != nil:
		c.refuse(Refused, authErr)
	case errors.As(err, &tooLarge):
		c.refuse(Refused, &apiError{status: http.StatusRequestEntityTooLarge, kind: "invalid_request_error", message: "The request body is too large."})
	case err != nil: // the client stopped sending
		c.refuse(ClientGone, badRequest("", "", "The request body could not be read."))
	default:
		c.serve(body)
	}
}

// headerWithoutKey returns what a test may want to see of a request's header.
func headerWithoutKey(h http.Header) http.Header {
	h = h.Clone()
	for _, secret := range []string{"Authorization", "Cookie", "Proxy-Authorization"} {
		h.Del(secret)
	}
	return h
}

// fingerprint identifies a key without telling it.
func fingerprint(key string) string {
	if key == "" {
		return ""
	}
	digest := sha256.Sum256([]byte(key))
	return hex.EncodeToString(digest[:4])
}

// newID returns prefix and n random letters and digits.
func newID(prefix string, n int) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789ab"
	b := slices.Grow([]byte(prefix), n)[:len(prefix)+n]
	_, _ = rand.Read(b[len(prefix):]) // never fails
	for i := len(prefix); i < len(b); i++ {
		b[i] = alphabet[b[i]&63]
	}
	return string(b)
}
