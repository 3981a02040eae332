package config

import (
	"fmt"
	"log/slog"
)

// redacted is what a secret looks like everywhere but in Reveal.
const redacted = "[redacted]"

// Secret is a string that shows itself to nobody by accident: not in an error, a log line, JSON, YAML or any verb of fmt.
type Secret struct{ value string }

// NewSecret returns value as a secret.
func NewSecret(value string) Secret { return Secret{value: value} }

// Reveal returns the secret itself. Each call of it is a place to look at twice.
func (s Secret) Reveal() string { return s.value }

// IsSet reports whether there is a secret.
func (s Secret) IsSet() bool { return s.value != "" }

// String says that there is a secret, or nothing where there is none.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return redacted
}

// Format prints what String returns, whatever the verb: fmt would otherwise look inside for verbs such as %d.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret from JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
