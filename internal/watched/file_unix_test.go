//go:build unix

package watched

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A pipe that takes the file's place would have whoever asks wait for its writer.
func TestPipe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "word")
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	f, err := Open(Options[string]{
		Path: path, Holds: "the word", Parse: parseWord, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookAgain)
	value := make(chan string, 1)
	go func() { value <- f.Value() }()
	select {
	case got := <-value:
		if got != "one" {
			t.Errorf("%q, want what the file held", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for whoever writes the pipe")
	}
}
