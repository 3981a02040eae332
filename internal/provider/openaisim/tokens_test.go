package openaisim

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPieces(t *testing.T) {
	for _, tc := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{" ", []string{" "}},
		{"Hello, world!", []string{"Hello", ",", " world", "!"}},
		{"don't  do\n\nit ", []string{"don't", " ", " do", "\n\n", "it", " "}},
		{"'quoted'", []string{"'", "quoted", "'"}},
		{"year 12345x", []string{"year", " 123", "45", "x"}},
		{`{"city":"Paris"}`, []string{`{"`, "city", `":"`, "Paris", `"}`}},
		{strings.Repeat("a", 45), []string{strings.Repeat("a", 20), strings.Repeat("a", 20), "aaaaa"}},
		{"Bonjour à tous", []string{"Bonjour", " à", " tous"}},
		{"e\u0301te\u0301", []string{"e\u0301te\u0301"}},
		{strings.Repeat("x", 19) + "e\u0301\u0302y", []string{strings.Repeat("x", 19) + "e\u0301\u0302", "y"}},
		{strings.Repeat("!", 15) + "👩‍👩‍👧", []string{strings.Repeat("!", 15) + "👩‍👩‍👧"}},
		{strings.Repeat("!", 15) + "👍🏽!", []string{strings.Repeat("!", 15) + "👍🏽", "!"}},
		{strings.Repeat("!", 15) + "🇫🇷🇮🇹", []string{strings.Repeat("!", 15) + "🇫🇷", "🇮🇹"}},
		{"1\ufe0f\u20e32", []string{"1\ufe0f\u20e3", "2"}},
		{strings.Repeat(" ", 70) + "a", []string{strings.Repeat(" ", 63), strings.Repeat(" ", 6), " a"}},
		{"\t a", []string{"\t", " a"}},
	} {
		if got := slices.Collect(pieces(tc.text)); !slices.Equal(got, tc.want) {
			t.Errorf("pieces(%q) = %q, want %q", tc.text, got, tc.want)
		}
	}
}

func FuzzPieces(f *testing.F) {
	for _, s := range []string{"", "Hello, world", "  \n\n x", "👩‍👩‍👧🇫🇷", "\xff\xfe", "é\u0301"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var joined strings.Builder
		count := 0
		for p := range pieces(s) {
			if p == "" {
				t.Fatalf("an empty piece in %q", s)
			}
			if utf8.ValidString(s) && !utf8.ValidString(p) {
				t.Fatalf("a rune of %q is cut: %q", s, p)
			}
			joined.WriteString(p)
			count++
		}
		if joined.String() != s {
			t.Fatalf("the pieces of %q join to %q", s, joined.String())
		}
		if got := countTokens(s); got != count {
			t.Fatalf("countTokens(%q) = %d, there are %d pieces", s, got, count)
		}
		for limit := range min(count, 5) {
			cut, n := firstTokens(s, limit)
			if n != limit || !strings.HasPrefix(s, cut) {
				t.Fatalf("firstTokens(%q, %d) = %q, %d", s, limit, cut, n)
			}
		}
	})
}

func TestFillerHasExactlyTheTokens(t *testing.T) {
	for _, n := range []int{0, 1, 2, 10, 11, 500} {
		if got := countTokens(filler(n)); got != n {
			t.Errorf("filler(%d) has %d tokens: %q", n, got, filler(n))
		}
	}
}
