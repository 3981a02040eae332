package tenant

import "strings"

// IDRule is what the id of a team or client looks like, for people: it has to fit into names, logs and other systems.
const IDRule = "1 to 63 lower-case letters, digits and . _ -, of which the first is a letter or digit"

// ValidID reports whether id can be that of a team or client, see IDRule.
func ValidID(id string) bool {
	letterOrDigit := func(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
	ok := 0 < len(id) && len(id) <= maxIDLen && letterOrDigit(id[0])
	for i := range len(id) {
		ok = ok && (letterOrDigit(id[i]) || strings.IndexByte("._-", id[i]) >= 0)
	}
	return ok
}

// ValidKeyID reports whether id can be that of a key.
func ValidKeyID(id string) bool { return len(id) == idLen && strings.Trim(id, tokenAlphabet) == "" }

// TeamName returns the resource name of a team.
func TeamName(team string) string { return "teams/" + team }

// ClientName returns the resource name of a client.
func ClientName(team, client string) string { return TeamName(team) + "/clients/" + client }

// KeyName returns the resource name of a key.
func KeyName(team, client, key string) string { return ClientName(team, client) + "/keys/" + key }

// Name returns the team's resource name.
func (t *Team) Name() string { return TeamName(t.ID) }

// Name returns the client's resource name.
func (c *Client) Name() string { return ClientName(c.Team, c.ID) }

// Name returns the key's resource name.
func (k *Key) Name() string { return KeyName(k.Team, k.Client, k.ID) }
