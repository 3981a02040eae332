package catalog

import (
	"slices"
	"strings"
	"testing"
)

func mustEmbedded(t *testing.T) *Catalog {
	t.Helper()
	c, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEmbedded(t *testing.T) {
	c := mustEmbedded(t)
	if c.Revision() < "2026-01-01" {
		t.Errorf("Revision() = %q", c.Revision())
	}
	models := c.Models()
	if len(models) < 30 {
		t.Errorf("%d models", len(models))
	}
	if !slices.IsSortedFunc(models, func(a, b Model) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("Models() is not sorted")
	}
	for _, m := range append(models, c.patterns...) {
		if room := m.InputTokens(m.DefaultOutputTokens); room < m.ContextTokens/2 {
			t.Errorf("%q: %d tokens of %d left for the input", m.Name, room, m.ContextTokens)
		}
		if strings.Contains(m.Name, "*") {
			t.Errorf("%q: the pattern was not recognised", m.Name)
		}
	}
	models[0].Name = "changed"
	if c.Models()[0].Name == "changed" {
		t.Error("the caller of Models() changed the catalogue")
	}
}

func TestLookup(t *testing.T) {
	c := mustEmbedded(t)
	for _, want := range []struct {
		asked, name     string
		context, output int
		reasoning       bool
		known           bool
	}{
		{"gpt-4o", "gpt-4o", 128_000, 16_384, false, true},
		{"gpt-4o-2024-08-06", "gpt-4o", 128_000, 16_384, false, true},
		{"gpt-4o-2024-05-13", "gpt-4o-2024-05-13", 128_000, 4_096, false, true},
		{"ft:gpt-4o-mini-2024-07-18:org:name:id", "gpt-4o-mini", 128_000, 16_384, false, true},
		{"ft:gpt-4o", "gpt-4o", 128_000, 16_384, false, true},
		{"gpt-4-0613", "gpt-4", 8_192, 8_192, false, true},
		{"gpt-4-1106-preview", "gpt-4-1106-preview", 128_000, 4_096, false, true},
		{"gpt-3.5-turbo-0125", "gpt-3.5-turbo", 16_385, 4_096, false, true},
		{"o3-2025-04-16", "o3", 200_000, 100_000, true, true},
		{"gpt-5-mini", "gpt-5-mini", 400_000, 128_000, true, true},
		{"gpt-5-chat-latest", "gpt-5-chat-latest", 128_000, 16_384, false, true},
		{"gpt-6-sol", "gpt-6-sol", 1_050_000, 128_000, true, true},
		{"sim", "sim", 128_000, 16_384, false, true},
		{"sim-small", "sim-small", 1_000, 500, false, true},
		{"sim-anything", "sim-anything", 128_000, 16_384, false, true},
		{"gpt-5.9-nova", "gpt-5.9-nova", 128_000, 16_384, true, false},
		{"gpt-6.1-sol", "gpt-6.1-sol", 400_000, 128_000, true, false},
		{"ft:nobody:org::id", "ft:nobody:org::id", 8_192, 4_096, false, false},
		{"gpt-4o-2024", "gpt-4o", 128_000, 16_384, false, true},
		{"gpt-4o-2024-08", "gpt-4o-2024-08", 8_192, 4_096, false, false},
		{"GPT-4o", "GPT-4o", 8_192, 4_096, false, false},
		{"simple", "simple", 8_192, 4_096, false, false},
		{"*", "*", 8_192, 4_096, false, false},
		{"sim@fault=stall", "sim@fault=stall", 128_000, 16_384, false, true},
		{"", "", 8_192, 4_096, false, false},
	} {
		m, known := c.Lookup(want.asked)
		if m.Name != want.name || m.ContextTokens != want.context || m.MaxOutputTokens != want.output || m.Reasoning != want.reasoning || known != want.known || m.Assumed == known {
			t.Errorf("Lookup(%q) = %+v, %v, want %+v", want.asked, m, known, want)
		}
	}
}

func TestInputTokens(t *testing.T) {
	c := mustEmbedded(t)
	for _, want := range []struct {
		model         string
		output, input int
	}{
		{"gpt-4", 2_048, 6_144},
		{"gpt-4", 10_000, 0},
		{"gpt-5", 1_000, 272_000}, // not 399,000: the longest answer's room is set aside
		{"gpt-5", 128_000, 272_000},
		{"sim-small", 200, 800},
	} {
		m, _ := c.Lookup(want.model)
		if got := m.InputTokens(want.output); got != want.input {
			t.Errorf("%s: InputTokens(%d) = %d, want %d", want.model, want.output, got, want.input)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const good = `{"name":"*","context_tokens":100,"max_output_tokens":50,"default_output_tokens":10}`
	table := func(models ...string) string {
		return `{"revision":"2026-01-02","models":[` + strings.Join(models, ",") + `]}`
	}
	if _, err := parse([]byte(table(good))); err != nil {
		t.Fatalf("the good table: %v", err)
	}
	named := strings.Replace(good, "*", "a", 1)
	for want, data := range map[string]string{
		"EOF":                   "",
		"unknown field":         table(strings.Replace(good, "name", "title", 1)),
		"revision":              strings.Replace(table(good), "2026-01-02", "soon", 1),
		"listed twice":          table(good, named, named),
		"the default":           table(named),
		"name is missing":       table(good, strings.Replace(good, "*", "", 1)),
		"context_tokens":        table(strings.Replace(good, "100", "0", 1)),
		"max_input_tokens":      table(strings.Replace(good, `"context_tokens"`, `"max_input_tokens":101,"context_tokens"`, 1)),
		"max_output_tokens":     table(strings.Replace(good, ":50", ":101", 1)),
		"default_output_tokens": table(strings.Replace(good, ":10}", ":51}", 1)),
	} {
		if _, err := parse([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse(%s) = %v, want an error with %q", data, err, want)
		}
	}
}
