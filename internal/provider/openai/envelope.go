package openai

import (
	"bytes"
	"encoding/json"
	"slices"
	"unicode/utf8"
)

// envelope is what the frames of one stream have in common. Nearly all of them differ only in the text of their delta and in
// their padding, so once one has been decoded in full, another that has the very same bytes around its text can mean
// nothing else: the text is cut out, and nothing is decoded. A frame that differs anywhere else takes the long way.
type envelope struct {
	before, after []byte // with the quotes of the text and without the padding; empty until there is one
	learnt        int
}

// unpadded returns a frame without its last brace and without the padding before that, which OpenAI adds so that the
// sizes of frames do not tell what they say. ok is false for a frame that does not end as an object.
func unpadded(frame []byte) (body []byte, ok bool) {
	body, ok = bytes.CutSuffix(frame, []byte{'}'})
	if !ok || !bytes.HasSuffix(body, []byte{'"'}) {
		return body, ok
	}
	at := bytes.LastIndex(body, []byte(padding))
	if at < 0 || bytes.ContainsFunc(body[at+len(padding):len(body)-1], func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return body, ok
	}
	return body[:at], ok
}

const padding = `,"obfuscation":"`

// lessons bounds how often a stream's envelope is learnt: some streams have another one in each frame.
const lessons = 4

// opening is how the text begins. It can stand in no JSON string, where its quotes would be escaped.
const opening = `"content":"`

// learn takes the envelope of a frame that was decoded to c, if it is a text delta and nothing else.
func (e *envelope) learn(frame []byte, c *chunk) {
	if e.learnt == lessons || !plain(c) || bytes.Count(frame, []byte(opening)) != 1 {
		return
	}
	e.learnt++
	body, ok := unpadded(frame)
	if !ok {
		return
	}
	start := bytes.Index(frame, []byte(opening)) + len(opening)
	end := start
	for end < len(body) && body[end] != '"' {
		if body[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(body) {
		return
	}
	// The proof that this string is the text, and not one of the same name elsewhere: with another in its place, the text is
	// that other.
	other := "not " + c.Choices[0].Delta.Content
	quoted, err := json.Marshal(other)
	if err != nil {
		return
	}
	var changed chunk
	if json.Unmarshal(slices.Concat(frame[:start-1], quoted, frame[end+1:]), &changed) != nil || !plain(&changed) || changed.Choices[0].Delta.Content != other {
		return
	}
	e.before = append(e.before[:0], frame[:start]...)
	e.after = append(e.after[:0], body[end:]...)
}

// plain reports whether a chunk is a text delta and nothing else.
func plain(c *chunk) bool {
	if len(c.Choices) != 1 || c.Usage != nil || len(c.Error) > 0 {
		return false
	}
	d := &c.Choices[0].Delta
	return d.Content != "" && d.Refusal == "" && d.Reasoning == "" && len(d.ToolCalls) == 0 &&
		c.Choices[0].Index == 0 && c.Choices[0].FinishReason == ""
}

// open returns the text of a frame that has the envelope, or false. The text may be a part of frame.
func (e *envelope) open(frame []byte) ([]byte, bool) {
	if len(e.before) == 0 || !bytes.HasPrefix(frame, e.before) {
		return nil, false
	}
	frame, ok := unpadded(frame)
	start, end := len(e.before), len(frame)-len(e.after)
	if !ok || start >= end || !bytes.HasSuffix(frame, e.after) {
		return nil, false
	}
	text := frame[start:end]
	special := bytes.IndexFunc(text, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' || r == utf8.RuneError })
	switch {
	case special < 0:
		return text, true
	case text[special] != '\\':
		return nil, false
	}
	// It is one string with escapes only if the quote that ends it is the envelope's.
	var s string
	if err := json.Unmarshal(frame[start-1:end+1], &s); err != nil {
		return nil, false
	}
	return []byte(s), true
}
