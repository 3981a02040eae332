package service

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"

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
	// maxRead does not bound how many entries of the audit are read at once, which are small, but this.
	maxEntriesRead = 256
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

// open returns the position that a page token holds; nil for the first page.
func (q query) open(token string) ([]byte, error) {
	if token == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) <= 1+len(q) || b[0] != tokenVersion || !bytes.Equal(b[1:1+len(q)], q[:]) {
		return nil, errPageToken()
	}
	return b[1+len(q):], nil
}

func errPageToken() error {
	return invalid("page_token", "must be the next_page_token of the same query")
}

// position is open for a position of size bytes; zeros for the first page.
func (q query) position(token string, size int) ([]byte, error) {
	b, err := q.open(token)
	switch {
	case err != nil:
		return nil, err
	case token == "":
		return make([]byte, size), nil
	case len(b) != size:
		return nil, errPageToken()
	}
	return b, nil
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
		return 0, errPageToken()
	}
	return offset, nil
}

// lister reads at most limit values that come after a position; none or zero is the first page.
type lister[D, I any] func(after I, limit int) ([]D, error)

// fillPage reads at most read values at once until the page is full, by number or by bytes, and returns them converted, with
// the last one's position if there are more, and the zero position if not.
func fillPage[D any, I comparable, P proto.Message](
	after I, size, read int, list lister[D, I], position func(D) I, convert func(D) P,
) (page []P, last I, err error) {
	var end I
	total := 0
	for {
		limit := min(size-len(page)+1, read) // one more than fits, to know whether there are more
		values, err := list(after, limit)
		if err != nil {
			return nil, end, err
		}
		for _, v := range values {
			p := convert(v)
			total += proto.Size(p)
			if len(page) == size || len(page) > 0 && total > maxPageBytes {
				return page, after, nil
			}
			page = append(page, p)
			after = position(v)
		}
		if len(values) < limit {
			return page, end, nil
		}
	}
}

// pageOf returns a page of rows that are all in memory, and the token of the next page. A position is the id of the last row
// shown: rows keep their order among each other and are never removed, so that a page begins where the one before has ended
// whatever was added meanwhile.
func pageOf[D any, P proto.Message](
	q query, token string, asked int32, rows []D, id func(D) string, convert func(D) P,
) (page []P, next string, err error) {
	after, err := q.open(token)
	if err != nil {
		return nil, "", err
	}
	if token != "" {
		i := slices.IndexFunc(rows, func(row D) bool { return id(row) == string(after) })
		if i < 0 {
			return nil, "", errPageToken()
		}
		rows = rows[i+1:]
	}
	size, total := pageSize(asked), 0
	for i, row := range rows {
		p := convert(row)
		total += proto.Size(p)
		if len(page) == size || len(page) > 0 && total > maxPageBytes {
			return page, q.token([]byte(id(rows[i-1]))), nil
		}
		page = append(page, p)
	}
	return page, "", nil
}
