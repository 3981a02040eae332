package service

import (
	"encoding/hex"
	"strings"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// The collections that names begin with.
const (
	conversations = "conversations/"
	turns         = "turns/"
	messages      = "messages/"
)

// uuidLength is the length of a UUID in its canonical form.
const uuidLength = 36

// formatName returns the name of id in a collection; empty for the zero id.
func formatName(collection string, id conversation.ID) string {
	if id.IsZero() {
		return ""
	}
	name := make([]byte, 0, len(collection)+uuidLength)
	name = append(name, collection...)
	name = hex.AppendEncode(name, id[0:4])
	for _, group := range [...][]byte{id[4:6], id[6:8], id[8:10], id[10:16]} {
		name = append(name, '-')
		name = hex.AppendEncode(name, group)
	}
	return string(name)
}

// parseName reads a name of a collection, which must be spelled exactly as formatName does: a second spelling would be a
// second key in callers' maps. The UUID of zeros is as unknown as a random one, and must not be taken for "none".
func parseName(collection, field, name string) (conversation.ID, error) {
	var id conversation.ID
	if name == collection+"00000000-0000-0000-0000-000000000000" {
		return id, conversation.ErrNotFound
	}
	digits := strings.ReplaceAll(strings.TrimPrefix(name, collection), "-", "")
	if len(digits) != hex.EncodedLen(len(id)) {
		return id, invalid(field, "must be %s and a UUID in lower case, 36 characters", collection)
	}
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil || formatName(collection, id) != name {
		return conversation.ID{}, invalid(field, "must be %s and a UUID in lower case, 36 characters", collection)
	}
	return id, nil
}
