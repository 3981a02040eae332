package service

import (
	"encoding/hex"
	"strings"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// The collections that names begin with.
const (
	conversations = "conversations/"
	turns         = "turns/"
	messages      = "messages/"
	teams         = "teams/"
	clients       = "clients/"
	keys          = "keys/"
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

// parseTeam reads `teams/{team}`. As all names, it has one spelling.
func parseTeam(field, name string) (team string, err error) {
	team, ok := strings.CutPrefix(name, teams)
	if !ok || !tenant.ValidID(team) {
		return "", invalid(field, "must be teams/{team}, where an id is %s", tenant.IDRule)
	}
	return team, nil
}

// parseClient reads `teams/{team}/clients/{client}`.
func parseClient(field, name string) (team, client string, err error) {
	parent, client, ok := strings.Cut(name, "/"+clients)
	team, isTeam := strings.CutPrefix(parent, teams)
	if !ok || !isTeam || !tenant.ValidID(team) || !tenant.ValidID(client) {
		return "", "", invalid(field, "must be teams/{team}/clients/{client}, where an id is %s", tenant.IDRule)
	}
	return team, client, nil
}

// parseKey reads `teams/{team}/clients/{client}/keys/{key}` of the field `name`, the only one that names keys.
func parseKey(name string) (team, client, key string, err error) {
	parent, key, ok := strings.Cut(name, "/"+keys)
	team, client, err = parseClient("name", parent)
	if !ok || err != nil || !tenant.ValidKeyID(key) {
		return "", "", "", invalid("name", "must be teams/{team}/clients/{client}/keys/{key}, as ListKeys gives it")
	}
	return team, client, key, nil
}

// parseKeysParent reads the name of a client, or of a team: then client is empty.
func parseKeysParent(field, name string) (team, client string, err error) {
	if strings.Count(name, "/") > 1 {
		return parseClient(field, name)
	}
	if team, err = parseTeam(field, name); err != nil {
		return "", "", invalid(field, "must be teams/{team}/clients/{client}, or teams/{team}, where an id is %s", tenant.IDRule)
	}
	return team, "", nil
}
