package openai

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// How much of a refusal is read, and for how long, before the connection is given up.
const (
	refusalBytes   = 64 << 10
	refusalTimeout = 2 * time.Second
)

// call is what the round tripper is told and tells about one call; it travels in the request's context.
type call struct {
	// payload is the members that take the place of placeholder in the body.
	payload []byte

	sent    bool
	key     string              // as sent, for masking
	header  http.Header         // of the response
	frames  *frames             // the body of a good response
	refusal *conversation.Error // what any other response means
}

type callKey struct{}

// placeholder is what go-openai writes for a request without messages. It can stand nowhere else in the body, because
// quotes inside of a string are escaped.
const placeholder = `"messages":null`

// roundTripper is our side of the seam to go-openai.
type roundTripper struct {
	options Options
	base    *url.URL
	next    http.RoundTripper
	buffers sync.Pool // for frames
}

// RoundTrip sends the request with the call's payload and the key, and puts frames around the body of a good response.
// As any other it is taken to be a refusal, which is left in the call.
func (rt *roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	call, ok := req.Context().Value(callKey{}).(*call)
	if !ok {
		return nil, errors.New("a request without its call")
	}
	out, err := rt.outgoing(req, call)
	if err != nil {
		return nil, err
	}
	call.sent = true
	resp, err := rt.next.RoundTrip(out)
	if err != nil {
		return nil, err
	}

	call.header = resp.Header
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // "" is no event stream either
	if resp.StatusCode >= 300 || media != "text/event-stream" {
		body := readRefusal(resp.Body)
		call.refusal = refusal(call, resp.StatusCode, body)
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	}
	call.frames = newFrames(resp.Body, rt.options.MaxLineBytes, rt.options.MaxStreamBytes, &rt.buffers)
	resp.Body = call.frames
	return resp, nil
}

// outgoing returns a copy of the request as it goes out. Its headers are only those named here; in particular no trace
// context leaves for a third party.
func (rt *roundTripper) outgoing(req *http.Request, call *call) (*http.Request, error) {
	defer req.Body.Close()
	if req.URL.Scheme != rt.base.Scheme || req.URL.Host != rt.base.Host {
		return nil, fmt.Errorf("a request for %s, which is not the configured host", req.URL.Host)
	}
	envelope, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the request's body: %w", err)
	}
	before, after, found := bytes.Cut(envelope, []byte(placeholder))
	if !found {
		return nil, errors.New("go-openai's request has no place for the messages")
	}
	body := slices.Concat(before, call.payload, after)

	out := req.WithContext(req.Context())
	out.Header = http.Header{
		"Accept":       {"text/event-stream"},
		"Content-Type": {"application/json"},
		"User-Agent":   {"chatsvc"},
	}
	if call.key = strings.TrimSpace(rt.options.Key()); call.key != "" {
		out.Header.Set("Authorization", "Bearer "+call.key)
	}
	out.ContentLength = int64(len(body))
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body, _ = out.GetBody() // never fails
	return out, nil
}

// readRefusal reads what it can of a response that is no stream. It goes to the end where that is near, so that the
// connection can be used again.
func readRefusal(body io.ReadCloser) []byte {
	timer := time.AfterFunc(refusalTimeout, func() { _ = body.Close() })
	defer timer.Stop()
	defer body.Close()
	read, _ := io.ReadAll(io.LimitReader(body, refusalBytes)) // a part will do
	return read
}
