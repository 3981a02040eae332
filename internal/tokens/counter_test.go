package tokens_test

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tiktoken-go/tokenizer"

	"github.com/chatsvc/chatsvc/internal/tokens"
)

var both = []tokens.Encoding{tokens.O200kBase, tokens.CL100kBase}

// Counts as tiktoken gives them.
func TestCountReference(t *testing.T) {
	counter := tokens.NewCounter()
	for _, c := range []struct {
		text          string
		o200k, cl100k int
	}{
		{"", 0, 0},
		{"a", 1, 1},
		{"hello world", 2, 2},
		{"hello  world", 3, 3},
		{"tiktoken is great!", 6, 6},
		{"antidisestablishmentarianism", 6, 6},
		{"2 + 2 = 4", 7, 7},
		{"お誕生日おめでとう", 8, 9},
		{"supercalifragilistic", 6, 7},
		{"We know what we are, but know not what we may be.", 14, 14},
	} {
		if got := counter.Count(tokens.O200kBase, c.text); got != c.o200k {
			t.Errorf("o200k_base count of %q = %d, want %d", c.text, got, c.o200k)
		}
		if got := counter.Count(tokens.CL100kBase, c.text); got != c.cl100k {
			t.Errorf("cl100k_base count of %q = %d, want %d", c.text, got, c.cl100k)
		}
		if got, want := counter.Count(tokens.Encoding(99), c.text), c.o200k; got != want {
			t.Errorf("count of %q in an unknown encoding = %d, want that of the default, %d", c.text, got, want)
		}
	}
}

// The Cookbook's example conversation, with the prompt tokens that the API reported for it.
func TestOverheadsMatchTheAPI(t *testing.T) {
	messages := []struct{ name, text string }{
		{"", "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
		{"example_user", "New synergies will help drive top-line growth."},
		{"example_assistant", "Things working well together will increase revenue."},
		{"example_user", "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."},
		{"example_assistant", "Let's talk later when we're less busy about how to do better."},
		{"", "This late pivot means we don't have time to boil the ocean for the client deliverable."},
	}
	counter := tokens.NewCounter()
	for model, want := range map[string]int{"gpt-4": 129, "gpt-4o": 124} {
		enc := tokens.ForModel(model)
		got := tokens.ReplyPrimer
		for _, m := range messages {
			got += tokens.PerMessage + counter.Count(enc, m.text)
			if m.name != "" {
				got += 1 + counter.Count(enc, m.name)
			}
		}
		if got != want {
			t.Errorf("%s: %d prompt tokens, want %d", model, got, want)
		}
	}
}

func library(t testing.TB, enc tokens.Encoding) func(string) int {
	t.Helper()
	codec, err := tokenizer.Get(tokenizer.Encoding(enc.String()))
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) int {
		n, err := codec.Count(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// Text with words in it is cut only where the tokenizer splits, so that counting in segments changes nothing.
func TestCountOfProseIsExact(t *testing.T) {
	words := []string{
		"the", "We're", "don't", "L'été", "ÉCOLE", "naïve", "Straße", "中文", "слово", "ab1c2", "2024", "x's", "O'Neill", "HTTPServer", "नमस्ते",
		"(see", "below)", "\n", "\r\n\r\n", "  ", "\t\tif", "a.b(c)", "{\"k\":", "\"v\"}", "https://example.com/a?b=c", "—", "👍🏽", "e\u0301", "ʰx", "'s",
	}
	r := rand.New(rand.NewPCG(1, 2))
	counter := tokens.NewCounter()
	for _, enc := range both {
		exact := library(t, enc)
		for range 200 {
			var b strings.Builder
			for b.Len() < 1000 {
				b.WriteString(words[r.IntN(len(words))])
				if r.IntN(8) > 0 {
					b.WriteByte(' ')
				}
			}
			if got, want := counter.Count(enc, b.String()), exact(b.String()); got != want {
				t.Fatalf("%v: count = %d, want %d, of %q", enc, got, want, b.String())
			}
		}
	}
}

// Where there is no sure place to cut, the count is at or above the true one, and not far above.
func TestCountOfRunsIsAnUpperBound(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	alphabets := []string{"a", " ", "\n", "ab", "xyz", "etaoinshrdlu", "ETAOIN", "!", "=-", " \t", "0123456789", "中文字的是不了人我", "あいうえおかきくけこ", "👍😀", "aeiou\u0301", "-_ab"}
	counter := tokens.NewCounter()
	for _, enc := range both {
		exact := library(t, enc)
		for _, alphabet := range alphabets {
			runes := []rune(alphabet)
			for range 20 {
				var b strings.Builder
				for size := 300 + r.IntN(3000); b.Len() < size; {
					b.WriteRune(runes[r.IntN(len(runes))])
				}
				text := b.String()
				got, want := counter.Count(enc, text), exact(text)
				segments := len(text)/250 + 1
				if got < want || got > want+3*segments {
					t.Errorf("%v: count = %d, want %d or up to %d more, of %d bytes over %q", enc, got, want, 3*segments, len(text), alphabet)
				}
			}
		}
	}
}

func TestCountOfConcatenation(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	pieces := []string{"Hello, ", "world. ", "It's ", "42 ", "(yes)\n", "中文，", "été ", "func main() {", "}\n\n"}
	counter := tokens.NewCounter()
	for _, enc := range both {
		for range 200 {
			var whole strings.Builder
			sum := 0
			for range 1 + r.IntN(60) {
				piece := strings.Repeat(pieces[r.IntN(len(pieces))], 1+r.IntN(5))
				whole.WriteString(piece)
				sum += counter.Count(enc, piece)
			}
			// A joint can change how both sides merge, by a token; the pieces above end in at most one such joint each.
			if got := counter.Count(enc, whole.String()); got > sum+whole.Len()/250+1 {
				t.Fatalf("%v: count = %d, more than that of its pieces, %d, of %q", enc, got, sum, whole.String())
			}
		}
	}
}

// The tokenizer alone takes many minutes for some of these.
func TestCountTakesLinearTime(t *testing.T) {
	const size = 1 << 20
	r := rand.New(rand.NewPCG(7, 8))
	random := make([]byte, size*3/4)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	var characters strings.Builder
	for characters.Len() < size-utf8.UTFMax {
		characters.WriteRune(rune(r.IntN(0xd800)))
	}
	texts := map[string]string{
		"letters":                strings.Repeat("a", size),
		"spaces":                 strings.Repeat(" ", size),
		"spaces and line breaks": strings.Repeat(" \n", size/2),
		"line breaks and spaces": strings.Repeat("\n ", size/2),
		"combining marks":        strings.Repeat("\u0301", size/2),
		"invalid bytes":          strings.Repeat("\xff", size),
		"random characters":      characters.String(),
		"base64":                 base64.StdEncoding.EncodeToString(random),
	}
	counter := tokens.NewCounter()
	for name, text := range texts {
		start := time.Now()
		n := counter.Count(tokens.O200kBase, text)
		took := time.Since(start)
		t.Logf("%s: %d tokens in %v", name, n, took)
		if n == 0 || n > len(text) {
			t.Errorf("%s: %d tokens of %d bytes", name, n, len(text))
		}
		// A quarter of a second, and much less in most cases; the limit leaves room for a busy machine and the race detector.
		if took > 10*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

func TestCounterIsSafeForConcurrentUse(t *testing.T) {
	counter := tokens.NewCounter()
	text := strings.Repeat("Many goroutines count this sentence. ", 20)
	results := make([]int, 16)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i] = counter.Count(both[i%2], text) })
	}
	wg.Wait()
	for i, got := range results {
		if want := results[i%2]; got != want || got == 0 {
			t.Errorf("goroutine %d counted %d, another %d", i, got, want)
		}
	}
}

func FuzzCount(f *testing.F) {
	for _, seed := range []string{"", "hello", "\x7f\x7f", "\xff\xfe", "\xe8\x96", strings.Repeat("\x80", 600), strings.Repeat("é'", 200), strings.Repeat("<|endoftext|>", 50)} {
		f.Add(seed)
	}
	counter := tokens.NewCounter()
	f.Fuzz(func(t *testing.T, text string) {
		for _, enc := range both {
			if n := counter.Count(enc, text); n > len(text) || (n == 0) != (text == "") {
				t.Errorf("%v: %d tokens of %d bytes", enc, n, len(text))
			}
		}
	})
}

func BenchmarkCount(b *testing.B) {
	counter := tokens.NewCounter()
	for _, size := range []int{20, 400, 64 << 10} {
		text := strings.Repeat("Hello, how are you? ", size/20+1)[:size]
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				counter.Count(tokens.O200kBase, text)
			}
		})
	}
}
