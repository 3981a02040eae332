package openaisim

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// frames writes server-sent events. Its buffer is used again for every flush, so that a
// delta costs no allocation.
type frames struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	ctx   context.Context
	split int
	buf   []byte

	head string // of a chunk, up to its choices
	tail string // of a chunk, after its choices and before its last brace
	pads int    // chunks so far, or less than 0 for none to be padded
}

// chunkEnd ends the choice of a chunk that is not the last.
const chunkEnd = `},"logprobs":null,"finish_reason":null}]`

// chunk appends an event whose delta is open + text, escaped + closing.
func (f *frames) chunk(open, text, closing string) {
	b := append(f.buf, f.head...)
	b = append(b, `[{"index":0,"delta":{`...)
	b = append(b, open...)
	b = appendJSON(b, text)
	b = append(b, closing...)
	f.buf = f.end(append(b, chunkEnd...))
}

// padding is cut into the padding of chunks, of 1 to 16 characters.
const padding = "q7Rk2ZpT0mXc9LbVw4HsYdE8"

// end appends what a chunk has after its choices. Chunks are padded as OpenAI does it by default, so that their sizes do
// not tell on the wire what they say.
func (f *frames) end(b []byte) []byte {
	b = append(b, f.tail...)
	if f.pads >= 0 {
		from := f.pads % 8
		b = append(b, `,"obfuscation":"`...)
		b = append(b, padding[from:from+1+f.pads*5%16]...)
		b = append(b, '"')
		f.pads++
	}
	return append(b, "}\n\n"...)
}

// raw appends text as it is.
func (f *frames) raw(text string) { f.buf = append(f.buf, text...) }

// flush sends what was appended and reports whether the client is still there.
func (f *frames) flush() bool {
	defer func() { f.buf = f.buf[:0] }()
	if f.split == 0 {
		if _, err := f.w.Write(f.buf); err != nil {
			return false
		}
		return flush(f.ctx, f.rc)
	}
	for rest := f.buf; len(rest) > 0; {
		n := min(f.split, len(rest))
		if _, err := f.w.Write(rest[:n]); err != nil || !flush(f.ctx, f.rc) {
			return false
		}
		rest = rest[n:]
	}
	return flush(f.ctx, f.rc)
}

// newFrames returns the writer of events of c.
func (c *call) newFrames() *frames {
	f := &frames{
		w: c.w, rc: http.NewResponseController(c.w), ctx: c.r.Context(), split: c.script.split,
		buf: make([]byte, 0, 1024),
	}
	head := fmt.Appendf(nil, `data: {"id":"%s","object":"chat.completion.chunk","created":%d,"model":"`, newID("chatcmpl-", 29), c.started.Unix())
	head = appendJSON(head, c.req.model.snapshot)
	f.head = string(head) + `","service_tier":"default","system_fingerprint":"` + fingerprintOf(c.req.model.snapshot) + `","choices":`
	if c.includeUsage() {
		f.tail = `,"usage":null`
	}
	if o := c.req.StreamOptions; o != nil && o.IncludeObfuscation != nil && !*o.IncludeObfuscation {
		f.pads = -1
	}
	return f
}

func (c *call) includeUsage() bool {
	return c.req.StreamOptions != nil && c.req.StreamOptions.IncludeUsage
}

// serveStream answers with server-sent events.
func (c *call) serveStream() {
	switch {
	case c.fault("cut") && c.script.after < 0:
		c.abort()
	case c.fault("html"):
		c.sendHTML()
		return
	}
	f := c.newFrames()
	c.begin("text/event-stream; charset=utf-8", -1)
	if c.script.fault != "" && c.script.struck() == 0 && !c.strike(f) {
		return
	}
	if c.script.ttft > 0 && !f.flush() || !c.wait(c.script.ttft) {
		return
	}
	switch {
	case len(c.reply.calls) > 0 && c.reply.text == "":
		f.chunk(`"role":"assistant","content":null,"refusal":null`, "", "")
	case c.reply.refusal != "":
		f.chunk(`"role":"assistant","content":null,"refusal":""`, "", "")
	default:
		f.chunk(`"role":"assistant","content":"","refusal":null`, "", "")
	}
	c.sent = c.reply.usage.reasoning
	if !c.sendDeltas(f) {
		return
	}
	c.sendEnd(f)
}

// sendDeltas sends the reply token by token, with the faults that strike in it, and
// reports whether the stream goes on.
func (c *call) sendDeltas(f *frames) bool {
	deltas := c.reply.deltas()
	if c.fault("endless") {
		deltas = endless
	}
	first, count, pending := time.Now(), 0, 0
	for d := range deltas {
		if !c.pace(first, count) {
			return false
		}
		for range c.script.comments {
			f.raw(": keep-alive\n\n")
		}
		c.appendDelta(f, d)
		c.sent++
		count++
		pending++
		if pending >= c.script.burst {
			if !f.flush() {
				return false
			}
			pending = 0
		}
		if c.script.fault != "" && count == c.script.struck() && !c.strike(f) {
			return false
		}
	}
	return c.script.fault == "" || count >= c.script.struck() || c.strike(f)
}

// pace waits until token number i is due, and reports whether the client is still there.
func (c *call) pace(first time.Time, i int) bool {
	if c.script.rate == 0 {
		return true
	}
	return c.wait(time.Until(first.Add(time.Duration(float64(i) / c.script.rate * float64(time.Second)))))
}

func (c *call) appendDelta(f *frames, d delta) {
	switch d.kind {
	case deltaText:
		f.chunk(`"content":"`, d.text, `"`)
	case deltaRefusal:
		f.chunk(`"refusal":"`, d.text, `"`)
	case deltaCall, deltaArguments:
		made := &c.reply.calls[d.call]
		b := append(f.buf, f.head...)
		b = append(b, `[{"index":0,"delta":{"tool_calls":[{"index":`...)
		b = strconv.AppendInt(b, int64(d.call), 10)
		if d.kind == deltaCall {
			b = append(b, `,"id":"`...)
			b = append(b, made.id...)
			b = append(b, `","type":"function","function":{"name":"`...)
			b = appendJSON(b, made.name)
			b = append(b, `","arguments":"`...)
		} else {
			b = append(b, `,"function":{"arguments":"`...)
		}
		b = appendJSON(b, d.text)
		b = append(b, `"}}]`...)
		f.buf = f.end(append(b, chunkEnd...))
	}
}

// strike does what the fault does at its place in the stream, and reports whether the
// stream goes on after it.
func (c *call) strike(f *frames) bool {
	switch c.script.fault {
	case "stall":
		if f.flush() {
			c.stall()
		}
		return false
	case "cut":
		f.flush()
		c.abort()
	case "eof":
		c.outcome = Faulted
		f.flush()
		return false
	case "error":
		c.outcome = Faulted
		f.raw(`data: {"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"server_error","param":null,"code":null}}` + "\n\n")
		f.flush()
		return false
	case "garbage":
		f.raw(`data: {"id":"chatcmpl-` + "\n\n")
		return f.flush()
	case "huge":
		return c.sendHuge(f)
	}
	return true
}

// sendHuge sends one event of as many MiB as the script says.
func (c *call) sendHuge(f *frames) bool {
	f.raw(f.head + `[{"index":0,"delta":{"content":"`)
	block := strings.Repeat("x", 64<<10)
	for range c.script.size * 16 {
		f.raw(block)
		if _, err := f.w.Write(f.buf); err != nil || f.ctx.Err() != nil {
			return false
		}
		f.buf = f.buf[:0]
	}
	f.raw(`"` + chunkEnd)
	f.buf = f.end(f.buf)
	return f.flush()
}

// sendEnd sends the finish reason, the usage and the end marker.
func (c *call) sendEnd(f *frames) {
	if !c.fault("no-finish") {
		f.raw(f.head + `[{"index":0,"delta":{},"logprobs":null,"finish_reason":"` + c.reply.finish + `"}]`)
		f.buf = f.end(f.buf)
	}
	if c.includeUsage() && !c.fault("no-usage") {
		f.raw(f.head + `[],"usage":`)
		f.buf = c.reply.usage.appendJSON(f.buf)
		f.raw("}\n\n")
	}
	if !c.fault("no-done") {
		f.raw("data: [DONE]\n\n")
	}
	if f.split > 0 && !f.flush() {
		return
	}
	// Without a flush, the rest leaves in one packet with the end of the body.
	if _, err := f.w.Write(f.buf); err == nil && f.ctx.Err() == nil {
		c.outcome = Answered
	}
}

// appendJSON appends the usage object.
func (u usage) appendJSON(b []byte) []byte {
	return fmt.Appendf(b, `{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,`+
		`"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":0},`+
		`"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`,
		u.prompt, u.completion, u.prompt+u.completion, u.cached, u.reasoning)
}

// appendJSON appends s as the inside of a JSON string: only what must be escaped is. Text
// that is not UTF-8 gets replacement characters.
func appendJSON(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	s = strings.ToValidUTF8(s, "\ufffd")
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(b, s[start:]...)
}
