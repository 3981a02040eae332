package sqlstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// encode returns v as JSON by its tags, with <, > and & as they are: it is not going into a page.
func encode(what string, v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %s: %w", what, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

// errUnreadable is in the chain of the error of a stored value that cannot be decoded.
var errUnreadable = errors.New("what is stored cannot be read")

func decode(what string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %s: %w: %w", what, errUnreadable, err)
	}
	return nil
}

// plainText begins the stored form of a message that is one text part, as nearly all are: the text follows as it is. All
// others are JSON, which begins with a brace. A turn reads dozens of messages, and parsing JSON would be most of that.
const plainText = 't'

func encodeMessage(m *conversation.Message) ([]byte, error) {
	if len(m.Parts) == 1 {
		if p := &m.Parts[0]; p.Kind == conversation.PartText && p.Image == nil && p.ToolCall == nil && p.ToolResult == nil &&
			p.ProviderState == nil {
			return append(append(make([]byte, 0, 1+len(p.Text)), plainText), p.Text...), nil
		}
	}
	return encode("message", m)
}

// decodeMessage sets what encodeMessage stored: the parts.
func decodeMessage(b []byte, m *conversation.Message) error {
	if len(b) > 0 && b[0] == plainText {
		m.Parts = []conversation.Part{conversation.TextPart(string(b[1:]))}
		return nil
	}
	return decode("message", b, m)
}

// encodeLabels returns NULL for none.
func encodeLabels(labels map[string]string) (any, error) {
	if len(labels) == 0 {
		return nil, nil //nolint:nilnil // NULL is a value.
	}
	return encode("labels", labels)
}

// nanos is how a time is stored: in nanoseconds since 1970, and the zero time as 0.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// flag is how a bool is stored.
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// bytesArg is s as bytes, or NULL for none.
func bytesArg(s string) any {
	if s == "" {
		return nil
	}
	return []byte(s)
}

// A draft is a message on its way to the table; where it goes is known when its turn is decided.
type draft struct {
	id      any
	role    any
	tokens  int64
	content any
	size    int // of content
}

func size(ds []draft) int {
	n := 0
	for i := range ds {
		n += ds[i].size
	}
	return n
}

func drafts(what string, messages []conversation.Message, tokens []int64) ([]draft, error) {
	if len(messages) != len(tokens) {
		return nil, fmt.Errorf("%d token counts for %d messages of %s", len(tokens), len(messages), what)
	}
	ds := make([]draft, len(messages))
	for i := range messages {
		m := &messages[i]
		content, err := encodeMessage(m)
		if err != nil {
			return nil, err
		}
		ds[i] = draft{id: bytes.Clone(m.ID[:]), role: int64(m.Role), tokens: tokens[i], content: content, size: len(content)}
	}
	return ds, nil
}
