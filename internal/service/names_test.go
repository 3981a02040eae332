package service

import (
	"errors"
	"regexp"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
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
