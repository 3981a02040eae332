package tokens_test

import (
	"testing"

	"github.com/chatsvc/chatsvc/internal/tokens"
)

func TestForModel(t *testing.T) {
	for name, want := range map[string]tokens.Encoding{
		"gpt-3.5-turbo":               tokens.CL100kBase,
		"gpt-3.5-turbo-0125":          tokens.CL100kBase,
		"gpt-35-turbo":                tokens.CL100kBase,
		"gpt-4":                       tokens.CL100kBase,
		"gpt-4-0613":                  tokens.CL100kBase,
		"gpt-4-turbo-2024-04-09":      tokens.CL100kBase,
		"ft:gpt-3.5-turbo:org::id":    tokens.CL100kBase,
		"ft:gpt-4:org::id":            tokens.CL100kBase,
		"gpt-4o":                      tokens.O200kBase,
		"gpt-4o-mini-2024-07-18":      tokens.O200kBase,
		"ft:gpt-4o-mini:gpt-4:org:id": tokens.O200kBase,
		"gpt-4.1-nano":                tokens.O200kBase,
		"gpt-5-mini":                  tokens.O200kBase,
		"gpt-6-sol":                   tokens.O200kBase,
		"o1":                          tokens.O200kBase,
		"o4-mini":                     tokens.O200kBase,
		"sim-small":                   tokens.O200kBase,
		"somebody/gpt-4":              tokens.O200kBase,
		"":                            tokens.O200kBase,
	} {
		if got := tokens.ForModel(name); got != want {
			t.Errorf("ForModel(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestEncodingNames(t *testing.T) {
	for name, enc := range map[string]tokens.Encoding{"o200k_base": tokens.O200kBase, "cl100k_base": tokens.CL100kBase} {
		if got := enc.String(); got != name {
			t.Errorf("String() = %q, want %q", got, name)
		}
	}
	if got := tokens.Encoding(200).String(); got != "o200k_base" {
		t.Errorf("an encoding out of range is %q, want the default", got)
	}
}

func TestImage(t *testing.T) {
	for _, c := range []struct {
		model, detail string
		want          int
	}{
		{"gpt-4o", "low", 85},
		{"gpt-4o", "high", 1445},
		{"gpt-4o", "", 1445},
		{"o3", "auto", 1445},
		{"gpt-4o-mini", "low", 2833},
		{"ft:gpt-4o-mini-2024-07-18:org::id", "high", 48169},
		{"gpt-4.1-mini", "low", 3778},
		{"o4-mini", "high", 3778},
		{"gpt-5", "low", 85},
		{"gpt-5.1", "high", 1445},
		{"gpt-5.4-mini", "low", 10_000},
		{"gpt-5.10", "low", 10_000},
		{"gpt-5.6-sol", "", 10_000},
		{"gpt-6-sol", "high", 10_000},
		{"somebody's", "high", 1445},
	} {
		if got := tokens.Image(c.model, c.detail); got != c.want {
			t.Errorf("Image(%q, %q) = %d, want %d", c.model, c.detail, got, c.want)
		}
	}
}
