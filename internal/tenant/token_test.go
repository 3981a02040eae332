package tenant_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

const (
	anID      = "abcdefghijklm267"
	aSecret   = "abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst"
	aToken    = "csk_" + anID + "_" + aSecret
	aStranger = "csk_" + anID + "_" + "bbcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst"
)

func TestParseToken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		token, id string
	}{
		"a token":                  {aToken, anID},
		"empty":                    {"", ""},
		"the prefix alone":         {"csk_", ""},
		"another prefix":           {"sk-_" + anID + "_" + aSecret, ""},
		"the prefix in upper case": {"CSK_" + anID + "_" + aSecret, ""},
		"no secret":                {"csk_" + anID + "_", ""},
		"too short":                {aToken[:len(aToken)-1], ""},
		"too long":                 {aToken + "a", ""},
		"a short id":               {"csk_" + anID[1:] + "_a" + aSecret, ""},
		"no separator":             {"csk_" + anID + "a" + aSecret, ""},
		"upper case":               {strings.Replace(aToken, "m", "M", 1), ""},
		"a digit that is not used": {strings.Replace(aToken, "2", "1", 1), ""},
		"a separator in the id":    {"csk_" + "_" + anID[1:] + "_" + aSecret, ""},
		"a newline at the end":     {aToken[:len(aToken)-1] + "\n", ""},
		"not ASCII":                {aToken[:len(aToken)-2] + "é", ""},
		"a space before":           {" " + aToken, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id, ok := tenant.ParseToken(c.token)
			if id != c.id || ok != (c.id != "") {
				t.Errorf("ParseToken(%q) = %q, %t; want %q", c.token, id, ok, c.id)
			}
		})
	}
}

func TestKeyIs(t *testing.T) {
	t.Parallel()
	k := &tenant.Key{ID: anID, Digest: sha256.Sum256([]byte(aToken))}
	for token, want := range map[string]bool{aToken: true, aStranger: false, "": false, aToken + "a": false, aSecret: false} {
		if got := k.Is(token); got != want {
			t.Errorf("Is(%q) = %t, want %t", token, got, want)
		}
	}
	if (&tenant.Key{ID: anID}).Is("") {
		t.Error("a key without a digest is the empty token")
	}
}

func FuzzParseToken(f *testing.F) {
	for _, seed := range []string{aToken, "", "csk_", "csk_" + anID, strings.ToUpper(aToken), aToken + "\x00", "Bearer " + aToken} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		id, ok := tenant.ParseToken(token)
		if !ok {
			if id != "" {
				t.Fatalf("an id without a token: %q", id)
			}
			return
		}
		// What passes has exactly one form, so it may stand in a log or a query as it is.
		rest, found := strings.CutPrefix(token, tenant.TokenPrefix+id+"_")
		if !found || len(id) != 16 || len(rest) != 52 || strings.Trim(id+rest, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			t.Fatalf("ParseToken(%q) = %q", token, id)
		}
	})
}
