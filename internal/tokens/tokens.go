// Package tokens counts the tokens that a text costs a model, offline and in bounded time, and knows what the
// chat format adds around the text.
package tokens

import "strings"

// Encoding names a byte-pair vocabulary. Its zero value is [O200kBase].
type Encoding uint8

const (
	// O200kBase is the vocabulary of GPT-4o and of everything published since. It is also taken for names that
	// nobody knows, because a new name is most often a new model of the current family.
	O200kBase Encoding = iota
	// CL100kBase is the vocabulary of GPT-4, GPT-4 Turbo and GPT-3.5.
	CL100kBase

	encodings = iota
)

var names = [encodings]string{O200kBase: "o200k_base", CL100kBase: "cl100k_base"}

// String returns the name under which the vocabulary is published, such as "o200k_base".
func (e Encoding) String() string {
	if int(e) >= len(names) {
		return O200kBase.String()
	}
	return names[e]
}

// ForModel returns the encoding of a model by the family its name begins with; dated snapshots and fine-tuned models
// ("ft:gpt-4o-mini:org::id") follow their family. It answers [O200kBase] for names it does not know.
func ForModel(name string) Encoding {
	name = strings.TrimPrefix(name, "ft:")
	family, _, _ := strings.Cut(name, ":")
	switch {
	case family == "gpt-4", strings.HasPrefix(family, "gpt-4-"), // gpt-4o and gpt-4.1 do not match, and must not
		strings.HasPrefix(family, "gpt-3.5"), strings.HasPrefix(family, "gpt-35"):
		return CL100kBase
	default:
		return O200kBase
	}
}
