package pgtest_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/chatsvc/chatsvc/internal/pgtest"
)

// query runs SQL on a connection of its own and returns the first column of the first row.
func query(ctx context.Context, url, sql string) (string, error) {
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", err
	}
	for _, r := range results {
		if len(r.Rows) > 0 {
			return string(r.Rows[0][0]), nil
		}
	}
	return "", nil
}

func want(t *testing.T, url, sql, want string) {
	t.Helper()
	if got, err := query(t.Context(), url, sql); err != nil || got != want {
		t.Errorf("%s: %q, %v; want %q", sql, got, err, want)
	}
}

func TestDatabaseIsFreshAndDropped(t *testing.T) {
	t.Parallel()
	var first string
	t.Run("first", func(t *testing.T) {
		first = pgtest.Database(t)
		want(t, first, `CREATE TABLE a (n int); INSERT INTO a VALUES (1); SELECT count(*) FROM a`, "1")
		conn, err := pgconn.Connect(t.Context(), first) // one that the test forgets
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
	})
	second := pgtest.Database(t)
	want(t, second, `SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`, "0")
	want(t, second, `SHOW fsync`, "off")
	_, err := query(t.Context(), first, `SELECT 1`)
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != "3D000" {
		t.Errorf("connecting to a dropped database: %v, want SQLSTATE 3D000", err)
	}
}

func TestClone(t *testing.T) {
	t.Parallel()
	fills := 0
	fill := func(url string) error {
		fills++
		_, err := query(t.Context(), url, `CREATE TABLE a (n int); INSERT INTO a VALUES (7)`)
		return err
	}
	template := rand.Text() // another in each run of -count
	a, b := pgtest.Clone(t, template, fill), pgtest.Clone(t, template, fill)
	want(t, a, `UPDATE a SET n = 8; SELECT n FROM a`, "8")
	want(t, b, `SELECT n FROM a`, "7")
	if fills != 1 {
		t.Errorf("filled %d times, want once", fills)
	}
}

func TestKillStopRestart(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{Fsync: true, Settings: map[string]string{"max_connections": "20"}})
	url := s.Database(t)
	want(t, url, `SHOW fsync`, "on")
	want(t, url, `SHOW max_connections`, "20")
	want(t, url, `CREATE TABLE a (n int); INSERT INTO a VALUES (1)`, "")
	for _, down := range []struct {
		name string
		how  func() error
	}{{"Kill", s.Kill}, {"Stop", s.Stop}} {
		if err := down.how(); err != nil {
			t.Fatalf("%s: %v", down.name, err)
		}
		if s.Running() {
			t.Errorf("%s: it says that it runs", down.name)
		}
		if _, err := query(t.Context(), url, `SELECT 1`); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: connecting gives %v, want connection refused", down.name, err)
		}
		if err := s.Restart(); err != nil {
			t.Fatalf("restart after %s: %v", down.name, err)
		}
		want(t, url, `SELECT n FROM a`, "1")
	}
	// Of a paused server, too, nothing is left after the test: not even processes that a signal does not reach.
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		t.Fatalf("kill a paused server: %v", err)
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{})
	conn, err := pgconn.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), `SELECT 1`).ReadAll()
		answer <- err
	}()
	select {
	case err := <-answer:
		t.Fatalf("a paused server answered: %v", err)
	case <-time.After(200 * time.Millisecond): // that it does not answer is what is to be seen
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Errorf("after Resume: %v", err)
	}
}

// asVictim makes the test binary start a server and wait to be killed.
const asVictim = "PGTEST_VICTIM"

func TestNothingSurvivesTheTestBinary(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv(asVictim); dir != "" {
		s, err := pgtest.Launch(pgtest.Options{Dir: dir})
		if err == nil {
			err = s.Pause() // the hardest to end
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stdout.WriteString("ready " + s.Addr() + "\n"); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	pgtest.Database(t)                             // skips where there is no PostgreSQL
	dir, err := os.MkdirTemp("", "pgtest-victim-") //nolint:usetesting // root's t.TempDir is not for the user postgres to look into
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	victim := exec.Command(os.Args[0], "-test.run=^TestNothingSurvivesTheTestBinary$")
	victim.Env = append(os.Environ(), asVictim+"="+dir)
	victim.Stderr = os.Stderr
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 256)
	n, err := out.Read(line)
	if err != nil || !strings.HasPrefix(string(line[:n]), "ready ") {
		t.Errorf("the victim says %q, %v", line[:n], err)
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait() // killed

	address := strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "ready "))
	deadline := time.Now().Add(20 * time.Second)
	for {
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err = query(ctx, "postgres://postgres@"+address+"/postgres?sslmode=disable", `SELECT 1`)
		cancel()
		if len(left) == 0 && errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %v; connecting gives %v", left, err)
		}
		time.Sleep(20 * time.Millisecond) // a poll of another process, with a deadline
	}
}
