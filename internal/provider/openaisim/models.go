package openaisim

import (
	"cmp"
	"strings"
)

// model is what the simulator knows about a model.
type model struct {
	id        string
	snapshot  string // the name that answers; the id if empty
	context   int    // tokens
	maxOutput int    // tokens
	reasoning bool
}

// models returns the catalogue, more specific names of a family before its others.
func models() []model {
	return []model{
		{id: "gpt-4o-mini", snapshot: "gpt-4o-mini-2024-07-18", context: 128_000, maxOutput: 16_384},
		{id: "gpt-4o", snapshot: "gpt-4o-2024-08-06", context: 128_000, maxOutput: 16_384},
		{id: "gpt-4.1-mini", snapshot: "gpt-4.1-mini-2025-04-14", context: 1_047_576, maxOutput: 32_768},
		{id: "gpt-4.1", snapshot: "gpt-4.1-2025-04-14", context: 1_047_576, maxOutput: 32_768},
		{id: "gpt-5-mini", snapshot: "gpt-5-mini-2025-08-07", context: 400_000, maxOutput: 128_000, reasoning: true},
		{id: "gpt-5", snapshot: "gpt-5-2025-08-07", context: 400_000, maxOutput: 128_000, reasoning: true},
		{id: "o3", snapshot: "o3-2025-04-16", context: 200_000, maxOutput: 100_000, reasoning: true},
		{id: "o4-mini", snapshot: "o4-mini-2025-04-16", context: 200_000, maxOutput: 100_000, reasoning: true},
		{id: "sim-reasoning", context: 128_000, maxOutput: 16_384, reasoning: true},
		{id: "sim-small", context: 1_000, maxOutput: 500},
		{id: "sim", context: 128_000, maxOutput: 1_000_000},
	}
}

// findModel returns the model called name. A name outside the catalogue that looks
// like one of OpenAI's takes the properties of the nearest family.
func findModel(catalogue []model, name string) (model, bool) {
	if name == "" {
		return model{}, false
	}
	for _, m := range catalogue {
		switch name {
		case m.id:
			m.snapshot = cmp.Or(m.snapshot, m.id)
			return m, true
		case m.snapshot:
			m.id = name
			return m, true
		}
	}
	family := strings.TrimPrefix(name, "ft:")
	for _, m := range catalogue {
		if strings.HasPrefix(family, m.id+"-") || strings.HasPrefix(family, m.id+":") || strings.HasPrefix(family, m.id+".") {
			m.id, m.snapshot = name, name
			return m, true
		}
	}
	m := model{id: name, snapshot: name, context: 128_000, maxOutput: 16_384}
	if len(family) >= 2 && family[0] == 'o' && family[1] >= '0' && family[1] <= '9' {
		m.reasoning = true
		return m, true
	}
	for _, prefix := range []string{"gpt-", "chatgpt-", "sim"} {
		if strings.HasPrefix(family, prefix) {
			return m, true
		}
	}
	return model{}, false
}
