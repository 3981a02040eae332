package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// lookAgain is how long keys that were replaced in their file may still be used.
const lookAgain = time.Second

// keyFile is a JWKS in a file. It is looked at again, at most once in lookAgain, when there is a token; a file that is
// gone or broken then leaves the last good keys in place, for it may be half written.
type keyFile struct {
	path   string
	logger *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	set     keySet
	changed time.Time // the file's modification time when set was read
	size    int64
	looked  time.Time
	broken  bool // the last look found no good keys, and that was logged
}

var _ keySource = (*keyFile)(nil)

// newKeyFile reads the file: one that is missing or broken stops the start.
func newKeyFile(path string, o Options) (*keyFile, error) {
	f := &keyFile{path: path, logger: o.Logger, now: o.Now, looked: o.Now()}
	if err := f.read(); err != nil {
		return nil, fmt.Errorf("reading jwks_file: %w", err)
	}
	return f, nil
}

func (f *keyFile) find(ctx context.Context, keyID string, algorithm jose.SignatureAlgorithm) ([]jose.JSONWebKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.looked) >= lookAgain {
		f.looked = now
		f.look(ctx)
	}
	if keys := f.set.find(keyID, algorithm); len(keys) > 0 {
		return keys, nil
	}
	return nil, errUnknownToken
}

// look reads the file again if it has changed. An error leaves the keys as they are.
func (f *keyFile) look(ctx context.Context) {
	info, err := os.Stat(f.path)
	if err == nil && info.ModTime().Equal(f.changed) && info.Size() == f.size {
		f.broken = false
		return
	}
	if err == nil {
		if err = f.read(); err == nil {
			f.broken = false
			f.logger.InfoContext(ctx, "issuer's keys reloaded", "file", f.path)
			return
		}
	}
	if !f.broken {
		f.broken = true
		f.logger.ErrorContext(ctx, "the file with an issuer's keys is not usable; the last good keys stay in use until it is",
			"file", f.path, "error", err)
	}
}

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
	body, err := io.ReadAll(io.LimitReader(file, maxKeySet+1))
	if err != nil {
		return err
	}
	if len(body) > maxKeySet {
		return fmt.Errorf("%s has more than %d bytes", f.path, maxKeySet)
	}
	set, err := parseKeySet(body)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.set, f.changed, f.size = set, info.ModTime(), info.Size()
	return nil
}
