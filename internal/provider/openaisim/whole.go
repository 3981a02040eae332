package openaisim

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// completion is the body of an answer that is not streamed.
type completion struct {
	ID                string             `json:"id"`
	Object            string             `json:"object"`
	Created           int64              `json:"created"`
	Model             string             `json:"model"`
	Choices           []completionChoice `json:"choices"`
	Usage             json.RawMessage    `json:"usage,omitempty"`
	ServiceTier       string             `json:"service_tier"`
	SystemFingerprint string             `json:"system_fingerprint"`
}

type completionChoice struct {
	Index        int               `json:"index"`
	Message      completionMessage `json:"message"`
	Logprobs     *struct{}         `json:"logprobs"`
	FinishReason *string           `json:"finish_reason"`
}

type completionMessage struct {
	Role        string     `json:"role"`
	Content     *string    `json:"content"`
	ToolCalls   []toolCall `json:"tool_calls,omitempty"`
	Refusal     *string    `json:"refusal"`
	Annotations []string   `json:"annotations"`
}

// completion builds the body.
func (c *call) completion() completion {
	r := c.reply
	msg := completionMessage{Role: "assistant", Content: &r.text, Annotations: []string{}}
	switch {
	case r.refusal != "":
		msg.Content, msg.Refusal = nil, &r.refusal
	case len(r.calls) > 0 && r.text == "":
		msg.Content = nil
	}
	for _, made := range r.calls {
		out := toolCall{ID: made.id, Type: "function"}
		out.Function.Name, out.Function.Arguments = made.name, made.arguments
		msg.ToolCalls = append(msg.ToolCalls, out)
	}
	choice := completionChoice{Message: msg, FinishReason: &r.finish}
	if c.fault("no-finish") {
		choice.FinishReason = nil
	}
	body := completion{
		ID: newID("chatcmpl-", 29), Object: "chat.completion", Created: c.started.Unix(), Model: c.req.model.snapshot,
		Choices: []completionChoice{choice}, ServiceTier: "default", SystemFingerprint: fingerprintOf(c.req.model.snapshot),
	}
	if !c.fault("no-usage") {
		body.Usage = r.usage.appendJSON(nil)
	}
	return body
}

// serveWhole answers with one JSON body.
func (c *call) serveWhole() {
	const contentType = "application/json"
	rc := http.NewResponseController(c.w)
	switch c.script.fault {
	case "html":
		c.sendHTML()
		return
	case "error":
		c.refuse(Faulted, serverError())
		return
	case "stall":
		if c.script.after >= 0 {
			c.begin(contentType, -1)
			if !flush(c.r.Context(), rc) {
				return
			}
		}
		c.stall()
		return
	case "cut":
		if c.script.after < 0 {
			c.abort()
		}
	case "endless":
		c.sendEndless(rc)
		return
	case "huge":
		c.reply.text = strings.Repeat("x", c.script.size<<20)
	}
	took := c.script.ttft
	if c.script.rate > 0 {
		took += time.Duration(float64(c.reply.usage.completion) / c.script.rate * float64(time.Second))
	}
	if !c.wait(took) {
		return
	}
	body, err := json.Marshal(c.completion())
	if err != nil { // structs of strings and numbers always marshal
		c.refuse(Faulted, serverError())
		return
	}
	c.sent = c.reply.usage.completion
	length := len(body)
	half := body[:length/2]
	switch c.script.fault {
	case "cut":
		c.begin(contentType, length)
		_, _ = c.w.Write(half)
		flush(c.r.Context(), rc)
		c.abort()
	case "eof", "garbage":
		c.begin(contentType, -1)
		c.outcome = Faulted
		_, _ = c.w.Write(half)
	default:
		c.begin(contentType, length)
		if _, err := c.w.Write(body); err == nil {
			c.outcome = Answered
		}
	}
}

// sendEndless sends a body that never ends.
func (c *call) sendEndless(rc *http.ResponseController) {
	c.begin("application/json", -1)
	buf := []byte(`{"id":"chatcmpl-endless","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"`)
	first := time.Now()
	for d := range endless {
		if !c.pace(first, c.sent) {
			return
		}
		buf = append(buf, d.text...)
		if _, err := c.w.Write(buf); err != nil || !flush(c.r.Context(), rc) {
			return
		}
		buf = buf[:0]
		c.sent++
	}
}
