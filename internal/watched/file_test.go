package watched

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var errNoWord = errors.New("must hold a word")

func parseWord(content []byte) (string, error) {
	if word := strings.TrimSpace(string(content)); word != "" {
		return word, nil
	}
	return "", errNoWord
}

// A replacement is in use a second later, whatever of the file's time, size and identity it keeps; what is of no use leaves
// the last good value, and is said once each time.
func TestValue(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "word")
	written := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	write := func(content string, modified time.Time) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chtimes(path, modified, modified)); err != nil {
			t.Fatal(err)
		}
	}
	write("one", written)
	var log strings.Builder
	now := time.Now()
	f, err := Open(Options[string]{
		Path: path, Holds: "the word", Parse: parseWord, Logger: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	reloads, complaints := 0, 0
	look := func(what, want string, reloaded, broken int) {
		t.Helper()
		if got := f.Value(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
		reloads, complaints = reloads+reloaded, complaints+broken
		if r, b := strings.Count(log.String(), "reloaded"), strings.Count(log.String(), "not usable"); r != reloads || b != complaints {
			t.Errorf("%s: %d reloads and %d complaints are logged, want %d and %d:\n%s", what, r, b, reloads, complaints, &log)
		}
		now = now.Add(lookAgain)
	}
	look("nothing happens", "one", 0, 0)
	look("nothing happens", "one", 0, 0)

	write("two", written.Add(time.Second))
	now = now.Add(-time.Nanosecond)
	look("too early", "one", 0, 0)
	look("another time", "two", 1, 0)
	write("three", written.Add(time.Second))
	look("the same time, another size", "three", 1, 0)
	kept, aside := written.Add(time.Second), path+".new"
	if err := errors.Join(os.WriteFile(aside, []byte("seven"), 0o600), os.Chtimes(aside, kept, kept), os.Rename(aside, path)); err != nil {
		t.Fatal(err)
	}
	look("the same time and size, another file", "seven", 1, 0)
	write("eight", kept)
	look("the same time and size, in place", "eight", 1, 0)
	write("eight", written)
	look("only another time", "eight", 0, 0)

	write("", written)
	look("empty", "eight", 0, 1)
	look("still empty", "eight", 0, 0)
	write("four", written)
	look("mended", "four", 1, 0)
	write(strings.Repeat("x", maxBytes+1), written)
	look("too long", "four", 0, 1)
	write("four", written)
	look("as before", "four", 0, 0)
	if err := os.Rename(path, aside); err != nil {
		t.Fatal(err)
	}
	look("gone", "four", 0, 1)
	if err := os.Rename(aside, path); err != nil {
		t.Fatal(err)
	}
	look("back", "four", 0, 0)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	look("gone again", "four", 0, 1)
	if !strings.Contains(log.String(), path) || !strings.Contains(log.String(), "the word") {
		t.Errorf("the log does not say which file it is:\n%s", &log)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty, long := filepath.Join(dir, "empty"), filepath.Join(dir, "long")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.WriteFile(long, make([]byte, maxBytes+1), 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file", empty: errNoWord.Error(), long: "has more than 1048576 bytes",
	} {
		_, err := Open(Options[string]{Path: path, Parse: parseWord, Logger: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", path, err, want)
		}
	}
}
