package tokens

import (
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/tiktoken-go/tokenizer"
)

// segmentBytes is how much text the tokenizer is given at once. It bounds the time: the tokenizer's splitting
// expression takes quadratic time on some texts (a quarter of a MiB of " \n" takes it 36 s), so its input must be short;
// and it is long enough for the cost of a call not to matter.
const segmentBytes = 256

// Counter counts tokens. It is safe for concurrent use. A vocabulary is loaded when it is first needed, which takes
// some tens of milliseconds, and is then kept; share one Counter.
type Counter struct {
	codecs [encodings]func() tokenizer.Codec
}

// NewCounter returns a Counter that has loaded nothing yet.
func NewCounter() *Counter {
	return &Counter{codecs: [encodings]func() tokenizer.Codec{
		O200kBase:  sync.OnceValue(func() tokenizer.Codec { return load(tokenizer.O200kBase) }),
		CL100kBase: sync.OnceValue(func() tokenizer.Codec { return load(tokenizer.Cl100kBase) }),
	}}
}

func load(name tokenizer.Encoding) tokenizer.Codec {
	codec, err := tokenizer.Get(name)
	if err != nil {
		// The vocabularies are compiled in, so this is a name that the library does not have: a mistake in NewCounter.
		panic("tokens: load " + string(name) + ": " + err.Error())
	}
	return codec
}

// Count returns the number of tokens of text, never more than len(text). Its time is linear in len(text) for every
// input. The text is taken as content: what looks like a special token ("<|endoftext|>") is counted as the
// characters it is made of.
//
// Long text is counted in segments. They are cut where the tokenizer would itself split, and then the count is exact; where
// half a KiB offers no such place (base64, a wall of spaces) the cut falls inside a word and one token is added for it.
// Such a count is meant as an upper bound, and is one in all but contrived cases: byte-pair merging is not
// subadditive, so that nothing stronger can be promised.
//
// Text that is not valid UTF-8 cannot be sent to a model; its count is some number, and not an error.
func (c *Counter) Count(enc Encoding, text string) int {
	if text == "" {
		return 0
	}
	if int(enc) >= len(c.codecs) {
		enc = O200kBase
	}
	codec := c.codecs[enc]()
	total, rest := 0, text
	for len(rest) > segmentBytes {
		at, exact := cut(rest)
		total += count(codec, rest[:at])
		if !exact {
			total++
		}
		rest = rest[at:]
	}
	return min(total+count(codec, rest), len(text))
}

// count falls back to the one bound that always holds. The tokenizer fails only when its expression times out, and
// none is set. It leaves out DEL, which its vocabularies do not have and the models' do.
func count(codec tokenizer.Codec, segment string) int {
	n, err := codec.Count(segment)
	if err != nil {
		return len(segment)
	}
	return n + strings.Count(segment, "\x7f")
}

// cut returns where to end the first segment of text, which is longer than segmentBytes: at the last place that the
// tokenizer certainly splits at, or else, not exact, at the last whole character.
//
// Both vocabularies end a word at the letter before anything that is neither a letter nor a combining mark nor an
// apostrophe (which may begin a contraction), whatever comes before and after; no other place is as certain and as cheap to find.
func cut(text string) (at int, exact bool) {
	whole := segmentBytes
	for whole > segmentBytes-utf8.UTFMax && !utf8.RuneStart(text[whole]) {
		whole--
	}
	next, _ := utf8.DecodeRuneInString(text[whole:])
	for at = whole; at > 0; {
		r, size := utf8.DecodeLastRuneInString(text[:at])
		if unicode.IsLetter(r) && !unicode.In(next, unicode.L, unicode.M) && next != '\'' {
			return at, true
		}
		next = r
		at -= size
	}
	return whole, false
}
