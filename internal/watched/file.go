// Package watched reads files that are replaced while the program runs, such as keys that are rotated.
package watched

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	// lookAgain is how long what was replaced in a file may still be used.
	lookAgain = time.Second
	// maxBytes is the most that a file may have: a mistaken path must not fill the memory.
	maxBytes = 1 << 20
)

// Options is what to read.
type Options[T any] struct {
	Path string
	// Holds says what is in the file, in the log.
	Holds string
	// Parse makes the value of what is in the file. Its error says what is wrong with it, and repeats nothing of it.
	Parse  func(content []byte) (T, error)
	Logger *slog.Logger
	// Now is the time by which the file is looked at again; nil is time.Now.
	Now func() time.Time
}

// File is a file's value. It is safe for concurrent use.
type File[T any] struct {
	o Options[T]

	mu     sync.Mutex
	value  T
	digest [sha256.Size]byte // of what value was made of, which may be a secret
	looked time.Time
	broken bool // the last look found no good file, and that was logged
}

// Open reads the file: one that is missing or makes no sense is an error. Errors name the file.
func Open[T any](o Options[T]) (*File[T], error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	f := &File[T]{o: o, looked: o.Now()}
	if _, err := f.readAll(); err != nil {
		return nil, err
	}
	return f, nil
}

// Value returns the value of the moment. But for one look at the file per second it does not block. It is parsed anew only
// when what is in the file changes.
//
// A file that is gone or makes no sense at that moment leaves the last good value in place, for it may be half written: a
// replacement is not atomic everywhere. It is logged once.
func (f *File[T]) Value() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.o.Now(); now.Sub(f.looked) >= lookAgain {
		f.looked = now
		f.look()
	}
	return f.value
}

// look reads the file again. An error leaves the value as it is.
func (f *File[T]) look() {
	changed, err := f.readAll()
	if changed {
		f.o.Logger.Info("file reloaded", "file", f.o.Path, "holds", f.o.Holds)
	}
	if err != nil && !f.broken {
		f.o.Logger.Error("a file is not usable; what was last read of it stays in use until it is",
			"file", f.o.Path, "holds", f.o.Holds, "error", err)
	}
	f.broken = err != nil
}

// readAll makes the value of the file anew if its content has changed, which nothing else says for certain: clocks of file
// systems are coarse, some tools carry over the time of what they copy, and the number of a file that is gone is used again.
func (f *File[T]) readAll() (changed bool, err error) {
	content, err := f.content()
	if err != nil {
		return false, err
	}
	digest := sha256.Sum256(content)
	if digest == f.digest {
		return false, nil
	}
	value, err := f.o.Parse(content)
	if err != nil {
		return false, fmt.Errorf("%s: %w", f.o.Path, err)
	}
	f.value, f.digest = value, digest
	return true, nil
}

func (f *File[T]) content() (content []byte, err error) {
	// To open a pipe would wait for whoever writes it.
	switch info, err := os.Stat(f.o.Path); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", f.o.Path)
	}
	file, err := os.Open(f.o.Path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	content, err = io.ReadAll(io.LimitReader(file, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxBytes {
		return nil, fmt.Errorf("%s has more than %d bytes", f.o.Path, maxBytes)
	}
	return content, nil
}
