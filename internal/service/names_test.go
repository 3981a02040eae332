package service

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// testID returns an ID that is the same for the same number.
func testID(n byte) conversation.ID {
	return conversation.ID{0x01, 0x93, 0xab, 0xcd, 0xef, 0x01, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, n}
}

func TestNames(t *testing.T) {
	const want = "turns/0193abcd-ef01-7000-8000-000000000007"
	if got := formatName(turns, testID(7)); got != want {
		t.Errorf("formatName = %q, want %q", got, want)
	}
	if got := formatName(turns, conversation.ID{}); got != "" {
		t.Errorf("the zero id has the name %q", got)
	}
	if got, err := parseName(turns, "name", want); err != nil || got != testID(7) {
		t.Errorf("parseName = %v, %v", got, err)
	}
}

func TestNamesThatAreNone(t *testing.T) {
	for _, name := range []string{
		"",
		"turns/",
		"0193abcd-ef01-7000-8000-000000000007",
		"conversations/0193abcd-ef01-7000-8000-000000000007",
		"turns/0193ABCD-EF01-7000-8000-000000000007",
		"turns/0193abcdef0170008000000000000007",
		"turns/0193abcde-f01-7000-8000-000000000007",
		"turns/{0193abcd-ef01-7000-8000-000000000007}",
		"turns/0193abcd-ef01-7000-8000-00000000000g",
		"turns/0193abcd-ef01-7000-8000-000000000007/",
		"turns/turns/0193abcd-ef01-7000-8000-000000000007",
		"turns/0193abcd-ef01-7000-8000-00000000000\u00e9",
	} {
		_, err := parseName(turns, "name", name)
		wantInvalid(t, err, "name")
	}
	// It would mean "none" further in: a one-shot, or all conversations.
	if _, err := parseName(turns, "name", "turns/00000000-0000-0000-0000-000000000000"); !errors.Is(err, conversation.ErrNotFound) {
		t.Errorf("the UUID of zeros: %v, want NOT_FOUND", err)
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("turns/0193abcd-ef01-7000-8000-000000000007")
	f.Add("turns/00000000-0000-0000-0000-000000000000")
	f.Add("turns/----")
	shape := regexp.MustCompile(`^turns/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	f.Fuzz(func(t *testing.T, name string) {
		id, err := parseName(turns, "name", name)
		zero := name == "turns/00000000-0000-0000-0000-000000000000"
		switch {
		case err == nil && formatName(turns, id) != name:
			t.Errorf("%q is read as %q", name, formatName(turns, id))
		case err == nil != (shape.MatchString(name) && !zero):
			t.Errorf("%q: %v", name, err)
		}
	})
}

// wantInvalid checks that err is INVALID_REQUEST and names the field.
func wantInvalid(t *testing.T, err error, field string) {
	t.Helper()
	e, ok := errors.AsType[*conversation.Error](err)
	if !ok || e.Reason != conversation.InvalidRequest || e.Field != field {
		t.Errorf("error %v, want INVALID_REQUEST about %s", err, field)
	}
}

func TestControlPlaneNames(t *testing.T) {
	const client, key = "teams/red/clients/web-1.eu_a", "teams/red/clients/web-1.eu_a/keys/abcdefghijklmn27"
	if team, err := parseTeam("name", "teams/0-r.e_d"); err != nil || team != "0-r.e_d" || tenant.TeamName(team) != "teams/0-r.e_d" {
		t.Errorf("team %q, %v", team, err)
	}
	if team, id, err := parseClient("name", client); err != nil || tenant.ClientName(team, id) != client || team != "red" || id != "web-1.eu_a" {
		t.Errorf("client %q %q, %v", team, id, err)
	}
	if team, c, id, err := parseKey(key); err != nil || tenant.KeyName(team, c, id) != key || id != "abcdefghijklmn27" {
		t.Errorf("key %q %q %q, %v", team, c, id, err)
	}
	if team, c, err := parseKeysParent("parent", "teams/red"); err != nil || team != "red" || c != "" {
		t.Errorf("the parent of a team's keys: %q %q, %v", team, c, err)
	}
	if team, c, err := parseKeysParent("parent", client); err != nil || team != "red" || c != "web-1.eu_a" {
		t.Errorf("the parent of a client's keys: %q %q, %v", team, c, err)
	}
	if _, err := parseTeam("name", teams+strings.Repeat("a", 63)); err != nil {
		t.Errorf("the longest id: %v", err)
	}
}

func TestControlPlaneNamesThatAreNone(t *testing.T) {
	for _, id := range []string{
		"", ".a", "_a", "-a", "A", "a b", "a/b", "a\x00", "a\n", "é", "a%2f", "*", "-", strings.Repeat("a", 64), "a/", "../a", "a'--",
	} {
		_, err := parseTeam("name", "teams/"+id)
		wantInvalid(t, err, "name")
		_, _, err = parseClient("parent", "teams/"+id+"/clients/web")
		wantInvalid(t, err, "parent")
		_, _, err = parseClient("parent", "teams/red/clients/"+id)
		wantInvalid(t, err, "parent")
		_, _, err = parseKeysParent("parent", "teams/"+id)
		wantInvalid(t, err, "parent")
		_, _, _, err = parseKey("teams/red/clients/web/keys/" + id)
		wantInvalid(t, err, "name")
	}
	for _, name := range []string{
		"", "red", "teams", "teams/", "Teams/red", "team/red", "/teams/red", "teams//red", "teams/red/clients", "teams/red/clients/",
		"teams/red/clients/web/", "teams/red/client/web", "clients/web", "teams/red/clients/web/keys", "teams/red/clients/web/keys/",
		"teams/red/keys/abcdefghijklmn27", "teams/red/clients/web/keys/abcdefghijklmn2", "teams/red/clients/web/keys/abcdefghijklmn271",
		"teams/red/clients/web/keys/abcdefghijklmn01", "teams/red/clients/web/keys/ABCDEFGHIJKLMN27",
		"teams/red/clients/web/keys/abcdefghijklmn27/keys/abcdefghijklmn27", "teams/red/clients/web/clients/web",
	} {
		_, err := parseTeam("name", name)
		wantInvalid(t, err, "name")
		_, _, err = parseClient("name", name)
		wantInvalid(t, err, "name")
		_, _, _, err = parseKey(name)
		wantInvalid(t, err, "name")
		_, _, err = parseKeysParent("name", name)
		wantInvalid(t, err, "name")
	}
}

func FuzzControlPlaneNames(f *testing.F) {
	f.Add("teams/red")
	f.Add("teams/red/clients/web")
	f.Add("teams/red/clients/web/keys/abcdefghijklmn27")
	f.Add("teams/red/clients/web/keys/abcdefghijklmn27/clients/")
	const id = `[a-z0-9][a-z0-9._-]{0,62}`
	isTeam := regexp.MustCompile(`^teams/` + id + `$`).MatchString
	isClient := regexp.MustCompile(`^teams/` + id + `/clients/` + id + `$`).MatchString
	isKey := regexp.MustCompile(`^teams/` + id + `/clients/` + id + `/keys/[a-z2-7]{16}$`).MatchString
	f.Fuzz(func(t *testing.T, name string) {
		team, err := parseTeam("name", name)
		if err == nil != isTeam(name) || err == nil && tenant.TeamName(team) != name {
			t.Errorf("%q is read as the team %q, %v", name, team, err)
		}
		team, client, err := parseClient("name", name)
		if err == nil != isClient(name) || err == nil && tenant.ClientName(team, client) != name {
			t.Errorf("%q is read as the client %q %q, %v", name, team, client, err)
		}
		team, client, key, err := parseKey(name)
		if err == nil != isKey(name) || err == nil && tenant.KeyName(team, client, key) != name {
			t.Errorf("%q is read as the key %q %q %q, %v", name, team, client, key, err)
		}
		if _, _, err = parseKeysParent("name", name); err == nil != (isTeam(name) || isClient(name)) {
			t.Errorf("%q as the parent of keys: %v", name, err)
		}
	})
}
