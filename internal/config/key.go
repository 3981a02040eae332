package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/chatsvc/chatsvc/internal/auth"
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
	f := &keyFile{path: u.APIKeyFile, logger: logger}
	if err := f.read(); err != nil {
		return nil, fmt.Errorf("reading the upstream key: %w", err)
	}
	f.looked = time.Now()
	return f.key, nil
}

// keyFile is a key in a file.
type keyFile struct {
	path   string
	logger *slog.Logger

	mu      sync.Mutex
	value   string
	changed time.Time // the file's modification time when value was read
	looked  time.Time
	broken  bool // the last look found no good key, and that was logged
}

// lookAgain is how long a key that was replaced may still be used.
const lookAgain = time.Second

func (f *keyFile) key() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= lookAgain {
		f.looked = now
		f.look()
	}
	return f.value
}

// look reads the file again if it has changed. An error leaves the value as it is.
func (f *keyFile) look() {
	info, err := os.Stat(f.path)
	if err == nil && info.ModTime().Equal(f.changed) {
		f.broken = false
		return
	}
	if err == nil {
		if err = f.read(); err == nil {
			f.broken = false
			f.logger.Info("upstream key reloaded", "file", f.path)
			return
		}
	}
	if !f.broken {
		f.broken = true
		f.logger.Error("the upstream key's file is not usable; the last good key stays in use until it is", "error", err)
	}
}

// read reads the file. Errors do not repeat what is in it.
func (f *keyFile) read() (err error) {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	// The time before the content: if the file changes in between, it is read again rather than missed.
	info, err := file.Stat()
	if err != nil {
		return err
	}
	content, err := io.ReadAll(io.LimitReader(file, 2*auth.MaxBearer))
	if err != nil {
		return err
	}
	key := strings.TrimSpace(string(content))
	if !headerSafe(key) {
		return fmt.Errorf("%s must hold 1 to %d visible ASCII characters", f.path, auth.MaxBearer)
	}
	f.value, f.changed = key, info.ModTime()
	return nil
}
