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

// TestKeyRotation replaces the file under a source, in virtual time: what cannot be a key leaves the last one in use. No key
// gets into the log.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "key")
		modified := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		write := func(content string, after time.Duration) {
			t.Helper()
			modified = modified.Add(after)
			if err := errors.Join(os.WriteFile(file, []byte(content), 0o600), os.Chtimes(file, modified, modified)); err != nil {
				t.Fatal(err)
			}
		}
		var log strings.Builder
		write("sk-1", 0)
		key, err := Upstream{APIKeyFile: file}.KeySource(slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		expect := func(want string) {
			t.Helper()
			<-time.After(time.Second)
			if got := key(); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		expect("sk-1")
		write("sk-2\n", time.Second)
		expect("sk-2")
		write("sk-three\n", 0) // by a tool that keeps the time
		expect("sk-three")
		write("sk-two words", time.Second)
		expect("sk-three")
		if got := log.String(); strings.Contains(got, "sk-") || !strings.Contains(got, "the upstream key") {
			t.Errorf("the log shows a key, or does not say whose file it is:\n%s", got)
		}
	})
}
