package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/pgtest"
)

// startTimeout bounds the time that a process takes until it listens.
const startTimeout = 20 * time.Second

// A testbed holds the processes and the databases of a run, and the folder for what they write.
type testbed struct {
	dir       string
	fail      context.CancelCauseFunc
	wg        sync.WaitGroup
	databases []database
	chatsvc   string // the program, once it is built
}

// newTestbed returns a testbed, and the context of the run. Until close, the end of any process is the end of that
// context, with what the process wrote last in the cause.
func newTestbed(ctx context.Context) (context.Context, *testbed, error) {
	dir, err := os.MkdirTemp("", "chatsvc-bench-")
	if err != nil {
		return nil, nil, fmt.Errorf("making a folder for the run: %w", err)
	}
	ctx, fail := context.WithCancelCause(ctx)
	return ctx, &testbed{dir: dir, fail: fail}, nil
}

// close kills all processes, waits for their end, and removes what they wrote.
func (t *testbed) close() error {
	t.fail(nil)
	t.wg.Wait()
	var errs []error
	for _, db := range t.databases {
		errs = append(errs, db.close())
	}
	return errors.Join(append(errs, os.RemoveAll(t.dir))...)
}

// A server is a process that listens.
type server struct {
	pid     int
	address string // host and port
}

// start runs program until ctx ends, which kills it, and waits until it listens on address.
func (t *testbed) start(ctx context.Context, name, address string, env []string, program string, args ...string) (server, error) {
	logPath := filepath.Join(t.dir, name+".log")
	log, err := os.Create(logPath)
	if err != nil {
		return server{}, fmt.Errorf("making the log of %s: %w", name, err)
	}
	defer func() { _ = log.Close() }() // the process has its own

	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // Which program it is, is the one who runs us to say.
	cmd.Dir, cmd.Stdout, cmd.Stderr = t.dir, log, log
	cmd.Env = append(inheritedEnvironment(), env...)
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return server{}, fmt.Errorf("starting %s: %w", name, err)
	}
	t.wg.Go(func() {
		_ = cmd.Wait() // its state says more
		t.fail(fmt.Errorf("%s has ended: %s%s", name, cmd.ProcessState, lastLines(logPath)))
	})
	if err := waitListening(ctx, address); err != nil {
		return server{}, fmt.Errorf("waiting for %s: %w%s", name, err, lastLines(logPath))
	}
	return server{pid: cmd.Process.Pid, address: address}, nil
}

// inheritedEnvironment returns what processes get of our environment: nothing that configures chatsvc, and no key.
func inheritedEnvironment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// lastLines returns the end of a log, for an error.
func lastLines(path string) string {
	content, err := os.ReadFile(path)
	if err != nil || len(content) == 0 {
		return ""
	}
	return "\n" + strings.TrimSpace(string(content[max(0, len(content)-2000):]))
}

// freeAddress returns a loopback address that nothing listens on.
func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}

// waitListening waits until connections to address are accepted.
func waitListening(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("nothing listens on %s: %w", address, context.Cause(ctx))
		}
	}
}

// startSimulator starts the upstream, and startFloor a floor before it; both are this program again.
func (t *testbed) startSimulator(ctx context.Context, address string) (server, error) {
	return t.startSelf(ctx, simulateCommand, address, simulateCommand, "-listen", address)
}

func (t *testbed) startFloor(ctx context.Context, name, address, upstream string) (server, error) {
	args := []string{floorCommand, "-listen", address, "-upstream", upstream}
	if name == targetPooled {
		args = append(args, "-pooled")
	}
	return t.startSelf(ctx, name, address, args...)
}

func (t *testbed) startSelf(ctx context.Context, name, address string, args ...string) (server, error) {
	self, err := os.Executable()
	if err != nil {
		return server{}, fmt.Errorf("finding this program: %w", err)
	}
	return t.start(ctx, name, address, nil, self, args...)
}

// startForgetful starts chatsvc on a store that forgets; it is this program again.
func (t *testbed) startForgetful(ctx context.Context, key, address, upstream string) (server, error) {
	return t.startSelf(ctx, targetForgetful, address, forgetCommand, "-listen", address, "-upstream", upstream, "-key", key)
}

// startDatabase makes the database of a target, on the disk of the testbed.
func (t *testbed) startDatabase(ctx context.Context, target string) (database, error) {
	if target != targetPostgres {
		return sqliteFile{path: filepath.Join(t.dir, target+".db")}, nil
	}
	// Not below our folder, which PostgreSQL's own user may not enter.
	db, err := startPostgres(ctx, pgtest.Options{})
	if err != nil {
		return nil, err
	}
	t.databases = append(t.databases, db)
	return db, nil
}

// startChatsvc starts chatsvc, built from this module unless binary names one, as it is run in earnest: with an API key,
// and with the defaults for all else.
func (t *testbed) startChatsvc(ctx context.Context, name, binary, key, address, upstream, databaseURL string) (server, error) {
	if binary == "" {
		var err error
		if binary, err = t.build(ctx); err != nil {
			return server{}, err
		}
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		return server{}, fmt.Errorf("finding chatsvc: %w", err)
	}
	admin, err := freeAddress(ctx)
	if err != nil {
		return server{}, err
	}
	config := filepath.Join(t.dir, name+".yaml")
	content := fmt.Sprintf("auth:\n  api_keys:\n    - {sha256: %s, team: bench, client: bench}\n", auth.Digest(key))
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		return server{}, fmt.Errorf("configuring chatsvc: %w", err)
	}
	env := []string{
		"CHATSVC_LISTEN=" + address,
		"CHATSVC_ADMIN_LISTEN=" + admin,
		"CHATSVC_OPENAI_BASE_URL=" + upstream,
		"CHATSVC_DATABASE_URL=" + databaseURL,
		"OPENAI_API_KEY=" + upstreamKey,
	}
	if isPostgres(databaseURL) {
		migrate := exec.CommandContext(ctx, binary, "migrate", "up", "--config", config) //nolint:gosec // As above.
		migrate.Env = append(inheritedEnvironment(), env...)
		if output, err := migrate.CombinedOutput(); err != nil {
			return server{}, fmt.Errorf("making the tables: %w\n%s", err, output)
		}
	}
	return t.start(ctx, name, address, env, binary, "serve", "--config", config)
}

// build builds chatsvc from this module and returns where it is.
func (t *testbed) build(ctx context.Context) (string, error) {
	if t.chatsvc != "" {
		return t.chatsvc, nil
	}
	binary := filepath.Join(t.dir, "chatsvc")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "github.com/chatsvc/chatsvc/cmd/chatsvc") //nolint:gosec // The path is in our own folder.
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building chatsvc: %w\n%s", err, output)
	}
	t.chatsvc = binary
	return binary, nil
}

// newKey returns a fresh API key.
func newKey() string { return rand.Text() }
