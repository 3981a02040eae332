package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chatsvc/chatsvc/internal/pgtest"
)

// command runs a command that ends by itself.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, stdio{strings.NewReader(""), &out, &errs})
	return code, out.String(), errs.String()
}

// An operator looks, migrates and looks again, on both engines; before that PostgreSQL is not served, and says why.
func TestMigrate(t *testing.T) {
	t.Parallel()
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		url := strings.Replace(pgtest.Database(t), "postgres@", "postgres:secret-password@", 1)
		code, out, errs := command(t, "serve", "--config", configure(t, url, "http://127.0.0.1:1/v1", ""))
		if code != 1 || out != "" || !strings.Contains(errs, "run `chatsvc migrate up`") || strings.Count(errs, "chatsvc: ") != 1 {
			t.Errorf("serve: exit code %d\n%s%s", code, out, errs)
		}
		if strings.Contains(errs, "secret-password") {
			t.Errorf("serve tells the password: %s", errs)
		}
		testMigrate(t, url)
		_, baseURL := simulate(t)
		p := serveOn(t, url, baseURL, "")
		if got := p.dial(t, redKey).say(t, "", `[[sim answer="Four."]]`); got != "Four." {
			t.Errorf("answered %q", got)
		}
		if strings.Contains(p.logs.String(), "secret-password") {
			t.Error("the password is in the log")
		}
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		here, err := filepath.Abs(".")
		if err != nil {
			t.Fatal(err)
		}
		path, err := filepath.Rel(here, filepath.Join(t.TempDir(), "chatsvc.db")) // relative, as the default is
		if err != nil {
			t.Fatal(err)
		}
		if code, _, _ := command(t, "migrate", "status", "--database-url", "sqlite:"+path); code != 1 {
			t.Errorf("status of no database: exit code %d, want 1", code)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("to look at a file has made it: %v", err)
		}
		testMigrate(t, "sqlite:"+path)
	})
}

var schemas = regexp.MustCompile(`have +(\d+)\n +want +(\d+)\n`)

func testMigrate(t *testing.T, databaseURL string) {
	t.Helper()
	status := func(wantCode int) (have, want string) {
		t.Helper()
		code, out, errs := command(t, "migrate", "status", "--database-url", databaseURL)
		m := schemas.FindStringSubmatch(out)
		if code != wantCode || m == nil || strings.Contains(out+errs, "secret-password") {
			t.Fatalf("status: exit code %d, want %d\n%s%s", code, wantCode, out, errs)
		}
		return m[1], m[2]
	}
	if have, want := status(1); have != "0" || want == "0" {
		t.Errorf("before: have %s, want %s", have, want)
	}
	for range 2 { // the second time there is nothing to do
		if code, out, errs := command(t, "migrate", "up", "--database-url", databaseURL); code != 0 || strings.Contains(out+errs, "secret-password") {
			t.Fatalf("up: exit code %d\n%s%s", code, out, errs)
		}
	}
	if have, want := status(0); have != want {
		t.Errorf("after: have %s, want %s", have, want)
	}
}

func TestMigrateRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ url, want string }{
		"another database": {"mysql:x", "database_url (--database-url): must be sqlite:PATH or postgres://USER@HOST/DATABASE"},
		"nobody there":     {"postgres://user:secret-password@127.0.0.1:1/chat", "127.0.0.1"},
	} {
		for _, subcommand := range []string{"up", "status"} {
			code, out, errs := command(t, "migrate", subcommand, "--database-url", tt.url)
			if code != 1 || out != "" || !strings.Contains(errs, tt.want) || strings.Contains(errs, "secret-password") {
				t.Errorf("%s, %s: exit code %d, want 1 and %q\n%s%s", name, subcommand, code, tt.want, out, errs)
			}
		}
	}
}

// Jobs that migrate at the same time do it once.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	results := make(chan error, 4)
	for range cap(results) {
		go func() { results <- migrate(url) }()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}
