package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSecretsHide(t *testing.T) {
	c := Default()
	c.Upstream.APIKey, c.DevKey = NewSecret("sk-openai"), NewSecret("sk-dev")
	c.DatabaseURL = NewSecret("postgres://user:sk-database@db/chatsvc")

	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("config", "config", &c, "key", c.Upstream.APIKey)
	slog.New(slog.NewTextHandler(&log, nil)).Info("config", "config", &c, "key", c.Upstream.APIKey)
	shown := []string{log.String(), fmt.Sprint(c, &c), fmt.Errorf("with %v", c.DevKey).Error(), Table()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%t"} {
		shown = append(shown, fmt.Sprintf(verb, c.DevKey), fmt.Sprintf(verb, c))
	}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	shown = append(shown, string(asJSON))
	for _, s := range shown {
		if strings.Contains(s, "sk-") || strings.Contains(strings.ToLower(s), fmt.Sprintf("%x", "sk-")) {
			t.Errorf("a secret shows: %s", s)
		}
	}
	if !strings.Contains(log.String(), `"upstream.api_key":"[redacted]"`) || !strings.Contains(log.String(), `"listen":"127.0.0.1:50051"`) {
		t.Errorf("logged %s", log.String())
	}
	if s := (Secret{}).String(); s != "" {
		t.Errorf("no secret shows as %q", s)
	}
	if s := c.DevKey.Reveal(); s != "sk-dev" {
		t.Errorf("revealed %q", s)
	}
}

func TestKeySource(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("  sk-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, u := range map[string]Upstream{
		"sk-env":    {Mode: ModeOpenAI, APIKey: NewSecret("sk-env")},
		"sk-file":   {Mode: ModeOpenAI, APIKey: NewSecret("sk-env"), APIKeyFile: file},
		"simulator": {Mode: ModeSimulator, APIKey: NewSecret("sk-env"), APIKeyFile: file},
	} {
		key, err := u.KeySource(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if got := key(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestKeySourceRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := (Upstream{APIKeyFile: filepath.Join(dir, "missing")}).KeySource(slog.New(slog.DiscardHandler)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	for name, content := range map[string]string{
		"empty": "", "blank": " \n", "two lines": "sk-one\nsk-two", "too long": strings.Repeat("sk-", 3000), "binary": "sk-\x00",
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := (Upstream{APIKeyFile: file}).KeySource(slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), "must hold 1 to 4096 visible ASCII characters") || strings.Contains(err.Error(), "sk-") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestKeyRotation replaces the file under a source, in virtual time.
func TestKeyRotation(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	write := writer(t, file)
	synctest.Test(t, func(t *testing.T) {
		write("sk-1")
		key, err := Upstream{APIKeyFile: file}.KeySource(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		expect := func(want string) {
			t.Helper()
			if got := key(); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		second := func() { <-time.After(time.Second) }

		expect("sk-1")
		write("sk-2")
		expect("sk-1") // Looked a moment ago.
		second()
		expect("sk-2")

		// What cannot be a key leaves the last one, and is looked at again.
		write("")
		second()
		expect("sk-2")
		write("sk-3")
		second()
		expect("sk-3")

		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		second()
		expect("sk-3")
		write("sk-4")
		second()
		expect("sk-4")
	})
}

// An operator sees when a rotation worked, and when it did not: once for each time that the file is broken.
func TestKeyFileIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "key")
		write := writer(t, file)
		var log strings.Builder
		write("sk-1")
		key, err := Upstream{APIKeyFile: file}.KeySource(slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		look := func(reloaded, broken int) {
			t.Helper()
			<-time.After(lookAgain)
			key()
			if r, b := strings.Count(log.String(), "reloaded"), strings.Count(log.String(), "not usable"); r != reloaded || b != broken {
				t.Errorf("%d reloads and %d broken files are logged, want %d and %d:\n%s", r, b, reloaded, broken, log.String())
			}
		}
		look(0, 0)
		write("sk-2")
		look(1, 0)
		write("")
		look(1, 1)
		look(1, 1)
		write("sk-3")
		look(2, 1)
		if err := os.Rename(file, file+".away"); err != nil {
			t.Fatal(err)
		}
		look(2, 2)
		if err := os.Rename(file+".away", file); err != nil { // the same file is back
			t.Fatal(err)
		}
		look(2, 2)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		look(2, 3)
		if strings.Contains(log.String(), "sk-") {
			t.Error("a key is in the log")
		}
	})
}

// writer returns a function that replaces a file, each time with a later time of modification: the clock of a bubble
// need not have moved.
func writer(t *testing.T, file string) func(content string) {
	modified := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return func(content string) {
		t.Helper()
		modified = modified.Add(time.Second)
		if err := errors.Join(os.WriteFile(file, []byte(content), 0o600), os.Chtimes(file, modified, modified)); err != nil {
			t.Fatal(err)
		}
	}
}
