// Package catalog knows the limits of the models that chatsvc may ask: what must be known to assemble a turn, and no
// prices. The table is embedded and dated.
//
// The context windows in catalog.json are taken from the package @pydantic/genai-prices 0.1.8 (MIT licence, copyright Pydantic
// Services Inc.), published on the day the revision names; the limits of input and output come from OpenAI's model
// pages. Models that only the Responses API offers are left out.
package catalog

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

//go:embed catalog.json
var embedded []byte

// Model is what is known of one model. Every limit is in tokens and positive.
type Model struct {
	// Name is the entry that was found: the asked name without a snapshot's date or a fine-tuning's suffix. Where only a
	// pattern or the default matches, it is the asked name.
	Name string `json:"name"`
	// ContextTokens bounds input and output together.
	ContextTokens int `json:"context_tokens"`
	// MaxInputTokens bounds the input alone. It is less than ContextTokens for the models that set the space for the
	// longest answer aside, whatever limit of output a request asks for.
	MaxInputTokens int `json:"max_input_tokens"`
	// MaxOutputTokens bounds the answer, reasoning included.
	MaxOutputTokens int `json:"max_output_tokens"`
	// DefaultOutputTokens is what to keep free for the answer when a request names no limit: our choice, a compromise
	// between a long answer and a long memory, and generous for models that reason.
	DefaultOutputTokens int `json:"default_output_tokens"`
	// Reasoning says that the model thinks before it answers, in tokens that are billed as output and not shown, and that
	// it may refuse sampling parameters such as temperature.
	Reasoning bool `json:"reasoning"`
	// Assumed says that the name is not in the table and the limits are careful guesses.
	Assumed bool `json:"assumed"`
}

// InputTokens returns how many tokens of input leave room for an answer of this many tokens; 0 when none do.
func (m Model) InputTokens(output int) int {
	return max(0, min(m.MaxInputTokens, m.ContextTokens-output))
}

// Catalog is an immutable table of models, safe for concurrent use.
type Catalog struct {
	revision string
	models   map[string]Model
	patterns []Model // Name without its "*", longest first; the last one is empty and matches everything
}

// Embedded returns the table that is built in. It is parsed at each call: call it once and pass the value on. An error
// would mean that the program was built from a damaged table.
func Embedded() (*Catalog, error) {
	c, err := parse(embedded)
	if err != nil {
		return nil, fmt.Errorf("read the embedded model catalogue: %w", err)
	}
	return c, nil
}

func parse(data []byte) (*Catalog, error) {
	var file struct {
		Revision string  `json:"revision"`
		Models   []Model `json:"models"`
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		return nil, err
	}
	if _, err := time.Parse(time.DateOnly, file.Revision); err != nil {
		return nil, fmt.Errorf("revision: %w", err)
	}
	c := &Catalog{revision: file.Revision, models: make(map[string]Model, len(file.Models))}
	for _, m := range file.Models {
		m.MaxInputTokens = cmp.Or(m.MaxInputTokens, m.ContextTokens)
		if err := m.check(); err != nil {
			return nil, fmt.Errorf("model %q: %w", m.Name, err)
		}
		if _, twice := c.models[m.Name]; twice {
			return nil, fmt.Errorf("model %q: listed twice", m.Name)
		}
		c.models[m.Name] = m
	}
	for name, m := range c.models {
		if prefix, isPattern := strings.CutSuffix(name, "*"); isPattern {
			delete(c.models, name)
			m.Name = prefix
			c.patterns = append(c.patterns, m)
		}
	}
	slices.SortFunc(c.patterns, func(a, b Model) int {
		return cmp.Or(cmp.Compare(len(b.Name), len(a.Name)), cmp.Compare(a.Name, b.Name))
	})
	if len(c.patterns) == 0 || c.patterns[len(c.patterns)-1].Name != "" {
		return nil, fmt.Errorf("the default %q is missing", "*")
	}
	return c, nil
}

func (m Model) check() error {
	switch {
	case m.Name == "":
		return fmt.Errorf("the name is missing")
	case m.ContextTokens <= 0:
		return fmt.Errorf("context_tokens = %d, want a positive number", m.ContextTokens)
	case m.MaxInputTokens <= 0 || m.MaxInputTokens > m.ContextTokens:
		return fmt.Errorf("max_input_tokens = %d, want 1 to context_tokens", m.MaxInputTokens)
	case m.MaxOutputTokens <= 0 || m.MaxOutputTokens > m.ContextTokens:
		return fmt.Errorf("max_output_tokens = %d, want 1 to context_tokens", m.MaxOutputTokens)
	case m.DefaultOutputTokens <= 0 || m.DefaultOutputTokens > m.MaxOutputTokens || m.DefaultOutputTokens > m.ContextTokens/2:
		return fmt.Errorf("default_output_tokens = %d, want 1 to max_output_tokens, and half of the context left for the input", m.DefaultOutputTokens)
	}
	return nil
}

// snapshot matches what OpenAI appends to the name of a dated snapshot: "-2024-08-06", and formerly "-0613".
var snapshot = regexp.MustCompile(`-(\d{4}-\d{2}-\d{2}|\d{4})$`)

// Lookup returns the model of this name: as it is listed, or without a snapshot's date, or the base of a fine-tuned model
// ("ft:gpt-4o-mini:org::id"). Every name gets an answer; known is false when it is a guess.
//
// The guess for a name of no family is a context of 8,192 tokens, the smallest of the models in service, so that a
// request fits wherever it goes; newer members of the current GPT families are given no more than the least that the family has.
// "sim", and names that begin with "sim-" or "sim@", are the simulator's, and known.
func (c *Catalog) Lookup(name string) (m Model, known bool) {
	base := name
	if tuned, ok := strings.CutPrefix(base, "ft:"); ok {
		base, _, _ = strings.Cut(tuned, ":")
	}
	for _, candidate := range []string{base, snapshot.ReplaceAllString(base, "")} {
		if m, ok := c.models[candidate]; ok {
			return m, true
		}
	}
	for _, m = range c.patterns {
		if strings.HasPrefix(base, m.Name) {
			break
		}
	}
	m.Name = name
	return m, !m.Assumed
}

// Models returns the listed models, sorted by name, without snapshots and guesses. The caller owns the slice.
func (c *Catalog) Models() []Model {
	list := make([]Model, 0, len(c.models))
	for _, m := range c.models {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b Model) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Revision returns the day, as YYYY-MM-DD, on which the table's data was published.
func (c *Catalog) Revision() string { return c.revision }
