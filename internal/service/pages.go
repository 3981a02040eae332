package service

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	defaultPageSize = 50
	maxPageSize     = 1000
	// maxPageBytes ends a page early, so that it stays below the 4 MiB that gRPC clients accept by default.
	maxPageBytes = 2 << 20
	// maxRead bounds how many resources are read from the store at once: each can be as large as a request.
	maxRead = 16
)

// pageSize returns how many resources a page may have.
func pageSize(asked int32) int {
	if asked <= 0 {
		return defaultPageSize
	}
	return min(int(asked), maxPageSize)
}

// query is what a page token belongs to: the method, the team and all fields of the request but the page's own. A token
// given with another query is refused, because its position would mean something else there. That is a guard against
// mistakes and no secret: whoever forges a token still sees only what the query with its explicit team finds.
type query [16]byte

func newQuery(method, team string, fields ...string) query {
	var text []byte
	for _, s := range append([]string{method, team}, fields...) {
		text = binary.AppendUvarint(text, uint64(len(s)))
		text = append(text, s...)
	}
	sum := sha256.Sum256(text)
	return query(sum[:])
}

// tokenVersion is the first byte of a page token; it changes with the token's form.
const tokenVersion = 1

// token returns the page token for the position after a page.
func (q query) token(position []byte) string {
	b := append([]byte{tokenVersion}, q[:]...)
	return base64.RawURLEncoding.EncodeToString(append(b, position...))
}

// position returns the position, of size bytes, that a page token holds; zeros for the first page.
func (q query) position(token string, size int) ([]byte, error) {
	if token == "" {
		return make([]byte, size), nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) != 1+len(q)+size || b[0] != tokenVersion || !bytes.Equal(b[1:1+len(q)], q[:]) {
		return nil, invalid("page_token", "must be the next_page_token of the same query")
	}
	return b[1+len(q):], nil
}

// idToken and beforeID are token and position of lists that go by falling id.
func (q query) idToken(last conversation.ID) string {
	if last.IsZero() {
		return ""
	}
	return q.token(last[:])
}

func (q query) beforeID(token string) (conversation.ID, error) {
	b, err := q.position(token, len(conversation.ID{}))
	if err != nil {
		return conversation.ID{}, err
	}
	return conversation.ID(b), nil
}

// offsetToken and fromOffset are token and position of lists that go by rising position.
func (q query) offsetToken(next int64) string {
	return q.token(binary.BigEndian.AppendUint64(nil, uint64(next))) //nolint:gosec // A position is never negative.
}

func (q query) fromOffset(token string) (int64, error) {
	b, err := q.position(token, 8)
	if err != nil {
		return 0, err
	}
	offset := int64(binary.BigEndian.Uint64(b)) //nolint:gosec // Checked in the next line.
	if offset < 0 {
		return 0, invalid("page_token", "must be the next_page_token of the same query")
	}
	return offset, nil
}

// lister reads at most limit values with an id below before, by falling id.
type lister[D any] func(before conversation.ID, limit int) ([]D, error)

// fillPage reads values in bounded pieces until the page is full, by number or by bytes, and returns them converted, with the
// last id if there are more.
func fillPage[D any, P proto.Message](before conversation.ID, size int, list lister[D], id func(D) conversation.ID, convert func(D) P) ([]P, conversation.ID, error) {
	var page []P
	total := 0
	for {
		limit := min(size-len(page)+1, maxRead) // one more than fits, to know whether there are more
		values, err := list(before, limit)
		if err != nil {
			return nil, conversation.ID{}, err
		}
		for _, v := range values {
			p := convert(v)
			total += proto.Size(p)
			if len(page) == size || len(page) > 0 && total > maxPageBytes {
				return page, before, nil
			}
			page = append(page, p)
			before = id(v)
		}
		if len(values) < limit {
			return page, conversation.ID{}, nil
		}
	}
}
