package config

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/watched"
)

// simulatorKey is what the embedded simulator gets instead of a key. A real one that happens to be configured stays here.
const simulatorKey = "simulator"

// KeySource returns a function that returns the upstream key of the moment. It is safe for concurrent use and, but for one
// look at the file per second, does not block.
//
// A key from a file is read here, so that a missing one stops the start, and again when the file changes. A file that is
// gone or holds nothing useful at that moment leaves the last key in place: a rotation is not atomic everywhere.
func (u Upstream) KeySource(logger *slog.Logger) (func() string, error) {
	switch {
	case u.Mode == ModeSimulator:
		return func() string { return simulatorKey }, nil
	case u.APIKeyFile == "":
		return u.APIKey.Reveal, nil
	}
	file, err := watched.Open(watched.Options[Secret]{
		Path: u.APIKeyFile, Holds: "the upstream key", Parse: parseKey, Logger: logger,
	})
	if err != nil {
		return nil, fmt.Errorf("reading the upstream key: %w", err)
	}
	return func() string { return file.Value().Reveal() }, nil
}

// parseKey returns the key that a file holds. Its error does not repeat what is there.
func parseKey(content []byte) (Secret, error) {
	key := strings.TrimSpace(string(content))
	if !headerSafe(key) {
		return Secret{}, fmt.Errorf("must hold 1 to %d visible ASCII characters", auth.MaxBearer)
	}
	return NewSecret(key), nil
}
