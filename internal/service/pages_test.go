package service

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

func TestPageTokenBelongsToItsQuery(t *testing.T) {
	q := newQuery("ListTurns", "red", "conversations/a", "")
	token := q.idToken(testID(9))
	if got, err := q.beforeID(token); err != nil || got != testID(9) {
		t.Fatalf("beforeID = %v, %v", got, err)
	}
	if got, err := q.beforeID(""); err != nil || !got.IsZero() {
		t.Errorf("the first page: %v, %v", got, err)
	}
	if got := q.idToken(conversation.ID{}); got != "" {
		t.Errorf("the last page has the token %q", got)
	}

	for name, other := range map[string]query{
		"another team":         newQuery("ListTurns", "blue", "conversations/a", ""),
		"another method":       newQuery("ListMessages", "red", "conversations/a", ""),
		"another conversation": newQuery("ListTurns", "red", "conversations/b", ""),
		"fields moved":         newQuery("ListTurns", "red", "", "conversations/a"),
		"fields glued":         newQuery("ListTurns", "red", "conversations/a"),
	} {
		if _, err := other.beforeID(token); err == nil {
			t.Errorf("%s: the token was taken", name)
		} else {
			wantInvalid(t, err, "page_token")
		}
	}
	_, err := q.fromOffset(token)
	wantInvalid(t, err, "page_token")
	for _, bad := range []string{"x", "!!!", token + "AA", token[:len(token)-1], strings.ToUpper(token), q.offsetToken(-1)} {
		_, err := q.beforeID(bad)
		wantInvalid(t, err, "page_token")
	}
	_, err = q.fromOffset(q.offsetToken(-1))
	wantInvalid(t, err, "page_token")
	if got, err := q.fromOffset(q.offsetToken(12345)); err != nil || got != 12345 {
		t.Errorf("fromOffset = %d, %v", got, err)
	}
}

func FuzzPageToken(f *testing.F) {
	q := newQuery("ListTurns", "red", "")
	f.Add("")
	f.Add(q.idToken(testID(1)))
	f.Add(newQuery("ListTurns", "blue", "").idToken(testID(1)))
	f.Fuzz(func(t *testing.T, token string) {
		id, err := q.beforeID(token)
		// The decoder skips line ends; what is left must be the one token of the position.
		token = strings.NewReplacer("\r", "", "\n", "").Replace(token)
		if err == nil && token != "" && q.token(id[:]) != token {
			t.Errorf("%q is read as the position of %q", token, q.token(id[:]))
		}
		if err != nil && !errors.Is(err, &conversation.Error{Reason: conversation.InvalidRequest}) {
			t.Errorf("%q: %v", token, err)
		}
	})
}

func TestPageSize(t *testing.T) {
	for asked, want := range map[int32]int{-1: 50, 0: 50, 1: 1, 1000: 1000, 1001: 1000, 1 << 30: 1000} {
		if got := pageSize(asked); got != want {
			t.Errorf("pageSize(%d) = %d, want %d", asked, got, want)
		}
	}
}

func TestFillPage(t *testing.T) {
	tests := []struct {
		name      string
		have      int // with ids from have down to 1
		valueSize int
		size      int
		want      int
		more      bool
	}{
		{"none", 0, 1, 5, 0, false},
		{"less than a page", 3, 1, 5, 3, false},
		{"exactly a page", 5, 1, 5, 5, false},
		{"one more than a page", 6, 1, 5, 5, true},
		{"more than one read", 200, 1, 150, 150, true},
		{"all in more than one read", 200, 1, 1000, 200, false},
		{"as many as a read", maxRead, 1, 1000, maxRead, false},
		{"ended by bytes", 5, 1 << 20, 5, 1, true},
		{"the first is too large by itself", 2, 3 << 20, 5, 1, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			value := strings.Repeat("x", test.valueSize)
			list := func(before conversation.ID, limit int) ([]conversation.ID, error) {
				if limit < 1 || limit > maxRead {
					t.Errorf("%d read at once", limit)
				}
				from := test.have
				if !before.IsZero() {
					from = int(before[15]) - 1
				}
				var ids []conversation.ID
				for n := from; n > 0 && len(ids) < limit; n-- {
					ids = append(ids, testID(byte(n)))
				}
				return ids, nil
			}
			var seen []conversation.ID
			page, last, err := fillPage(conversation.ID{}, test.size, maxRead, list,
				func(id conversation.ID) conversation.ID { return id },
				func(id conversation.ID) *wrapperspb.StringValue {
					seen = append(seen, id)
					return wrapperspb.String(value)
				})
			if err != nil || len(page) != test.want {
				t.Fatalf("%d values, %v, want %d", len(page), err, test.want)
			}
			if last.IsZero() == test.more {
				t.Errorf("the next page begins below %v", last)
			}
			if test.more && last != testID(byte(test.have-test.want+1)) {
				t.Errorf("the next page begins below %v, not below the last one shown", last)
			}
			if len(slices.Compact(seen)) != len(seen) {
				t.Error("a value was shown twice")
			}
		})
	}

	broken := errors.New("broken")
	_, _, err := fillPage(conversation.ID{}, 5, maxRead,
		func(conversation.ID, int) ([]conversation.ID, error) { return nil, broken },
		func(id conversation.ID) conversation.ID { return id },
		func(conversation.ID) *wrapperspb.StringValue { return nil })
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

// The pages of a list show each row once, whatever is added meanwhile.
func TestPageOf(t *testing.T) {
	q := newQuery("ListTeams", "red")
	same := func(s string) string { return s }
	all := func(rows []string, size int32, valueSize int, added func([]string) []string) (pages []int, seen []string) {
		t.Helper()
		for token := ""; ; {
			page, next, err := pageOf(q, token, size, rows, same, func(s string) *wrapperspb.StringValue {
				return wrapperspb.String(s + strings.Repeat(" ", valueSize))
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range page {
				seen = append(seen, strings.TrimRight(row.GetValue(), " "))
			}
			pages = append(pages, len(page))
			if token = next; token == "" {
				return pages, seen
			}
			rows = added(rows)
		}
	}
	none := func(rows []string) []string { return rows }
	rows := strings.Split("b d f h j", " ")
	for _, test := range []struct {
		name      string
		rows      []string
		size      int32
		valueSize int
		added     func([]string) []string
		pages     []int
		seen      string
	}{
		{"none", nil, 2, 0, none, []int{0}, ""},
		{"one page", rows, 5, 0, none, []int{5}, "b d f h j"},
		{"three pages", rows, 2, 0, none, []int{2, 2, 1}, "b d f h j"},
		{"by bytes", rows, 5, maxPageBytes*2/5 + 1, none, []int{2, 2, 1}, "b d f h j"},
		{"each larger than a page", rows, 5, maxPageBytes, none, []int{1, 1, 1, 1, 1}, "b d f h j"},
		{"added behind, between and before", rows, 4, 0, func([]string) []string { return strings.Split("a b c d e f g h i j k", " ") }, []int{4, 3}, "b d f h i j k"},
	} {
		if pages, seen := all(test.rows, test.size, test.valueSize, test.added); !slices.Equal(pages, test.pages) || strings.Join(seen, " ") != test.seen {
			t.Errorf("%s: pages of %v: %q, want %v: %q", test.name, pages, seen, test.pages, test.seen)
		}
	}

	convert := func(s string) *wrapperspb.StringValue { return wrapperspb.String(s) }
	for _, token := range []string{"x", q.token(nil), q.token([]byte("nothing")), newQuery("ListTeams", "blue").token([]byte("b"))} {
		_, _, err := pageOf(q, token, 2, rows, same, convert)
		wantInvalid(t, err, "page_token")
	}
}
