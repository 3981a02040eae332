package openaisim

import (
	"context"
	"errors"
	"hash/fnv"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// call is one chat completion being served.
type call struct {
	server  *Server
	w       http.ResponseWriter
	r       *http.Request
	record  *Call
	key     string
	started time.Time
	timer   *time.Timer // of the last wait, used again

	req    *request
	script script
	reply  *reply

	outcome Outcome // ClientGone until something better is known
	sent    int     // tokens
}

// serve answers the request in body.
func (c *call) serve(body []byte) {
	if err := c.prepare(body); err != nil {
		c.refuse(Refused, err)
		return
	}
	defer func() {
		if c.timer != nil {
			c.timer.Stop()
		}
	}()
	if !c.wait(c.script.delay) {
		return
	}
	if err := c.scriptedError(); err != nil {
		c.refuse(Faulted, err)
		return
	}
	c.reply = newReply(c.req, &c.script)
	c.server.journal.update(func() { c.record.PromptTokens = c.reply.usage.prompt })
	if !c.req.Stream {
		c.serveWhole()
		return
	}
	c.server.journal.openStream()
	defer func() { c.server.journal.closeStream(c.outcome == ClientGone) }()
	c.serveStream()
}

// prepare reads and checks the request and its script.
func (c *call) prepare(body []byte) *apiError {
	req, err := decodeRequest(body, c.server.known)
	if err != nil {
		return err
	}
	c.req = req
	c.server.journal.update(func() {
		c.record.Model, c.record.Messages, c.record.Stream = req.Model, len(req.Messages), req.Stream
	})
	if req.Model == "" {
		return badRequest("", "", "you must provide a model parameter")
	}
	c.script = newScript(c.server.ttft, c.server.rate)
	name, settings, _ := strings.Cut(req.Model, "@")
	req.Model = name
	if _, err := c.script.readSettings(settings, ""); err != nil {
		return badRequest("model", "sim_directive", "The directive cannot be read: %v.", err)
	}
	if err := req.validate(c.server.models); err != nil {
		return err
	}
	if last := lastSpoken(req.Messages); last != nil {
		if _, err := c.script.readDirectives(last.text); err != nil {
			return badRequest("messages", "sim_directive", "The directive cannot be read: %v.", err)
		}
	}
	if err := c.script.check(); err != nil {
		return badRequest("", "sim_directive", "The directive cannot be obeyed: %v.", err)
	}
	if c.script.times > 0 && !c.server.failures.next(c.script.key, c.script.times) {
		c.script.fault = ""
	}
	c.server.journal.update(func() { c.record.Fault = c.script.fault })
	if n, _ := promptTokens(req); n > req.model.context {
		return contextTooLong(req.model.context, n)
	}
	return nil
}

// lastSpoken returns the last message of a user or a tool. The latter counts so
// that a directive that asks for a tool call is over when its result comes.
func lastSpoken(messages []message) *message {
	for i := len(messages) - 1; i >= 0; i-- {
		if role := messages[i].Role; role == "user" || role == "tool" {
			return &messages[i]
		}
	}
	return nil
}

// scriptedError returns the error that the script asks for in place of an answer.
func (c *call) scriptedError() *apiError {
	retryAfter := c.script.retryAfter
	switch c.script.fault {
	case "400":
		return badRequest("messages", "invalid_value", "Invalid 'messages': this request is refused as its directive asks.")
	case "401":
		return invalidKey(c.key)
	case "404":
		return modelNotFound(c.req.Model)
	case "429", "429-rate":
		if retryAfter < 0 {
			retryAfter = time.Second
		}
		return rateLimited(c.req.Model, retryAfter)
	case "429-quota":
		return quotaSpent()
	case "500":
		return serverError()
	case "503":
		return overloaded(max(retryAfter, 0))
	case "context":
		return contextTooLong(c.req.model.context, c.req.model.context+1)
	}
	return nil
}

// refuse answers with err.
func (c *call) refuse(outcome Outcome, err *apiError) {
	c.outcome = outcome
	c.status(err.status)
	c.server.refuse(c.w, c.started, err)
}

func (c *call) status(code int) {
	c.server.journal.update(func() { c.record.Status = code })
}

// begin sends the headers of a good answer, which leave with the next flush.
func (c *call) begin(contentType string, length int) {
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	if length >= 0 {
		h.Set("Content-Length", strconv.Itoa(length))
	}
	h.Set("X-Ratelimit-Limit-Requests", strconv.Itoa(requestLimit))
	h.Set("X-Ratelimit-Limit-Tokens", strconv.Itoa(tokenLimit))
	h.Set("X-Ratelimit-Remaining-Requests", strconv.Itoa(requestLimit-1))
	h.Set("X-Ratelimit-Remaining-Tokens", strconv.Itoa(max(tokenLimit-c.reply.usage.prompt, 0)))
	h.Set("X-Ratelimit-Reset-Requests", "6ms")
	h.Set("X-Ratelimit-Reset-Tokens", "0s")
	setProcessingTime(c.w, c.started)
	c.status(http.StatusOK)
	c.w.WriteHeader(http.StatusOK)
}

// wait pauses for d and reports whether the client is still there.
func (c *call) wait(d time.Duration) bool {
	ctx := c.r.Context()
	if d <= 0 {
		return ctx.Err() == nil
	}
	if c.timer == nil {
		c.timer = time.NewTimer(d)
	} else {
		c.timer.Reset(d)
	}
	select {
	case <-c.timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// stall waits until the client goes away.
func (c *call) stall() { <-c.r.Context().Done() }

// abort cuts the connection. It does not return.
func (c *call) abort() {
	c.outcome = Faulted
	panic(http.ErrAbortHandler)
}

// fault reports whether the script asks for the fault called name.
func (c *call) fault(name string) bool { return c.script.fault == name }

// sendHTML answers as a proxy does that knows nothing of the API.
func (c *call) sendHTML() {
	c.outcome = Faulted
	c.begin("text/html; charset=utf-8", -1)
	_, _ = io.WriteString(c.w, "<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n")
}

// flush pushes what was written to the client, and reports whether it could.
func flush(ctx context.Context, rc *http.ResponseController) bool {
	if err := rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return false
	}
	return ctx.Err() == nil
}

// fingerprintOf returns the system_fingerprint of a model, which never changes.
func fingerprintOf(model string) string {
	h := fnv.New64a()
	_, _ = io.WriteString(h, model) // never fails
	return "fp_" + strconv.FormatUint(h.Sum64()>>24|1<<39, 16)
}
