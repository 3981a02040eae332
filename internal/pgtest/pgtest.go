// Package pgtest runs a private, real PostgreSQL for tests and benchmarks: its own data directory, its own port on
// loopback, nothing shared with a server that may already run on the machine. It needs PostgreSQL's programs installed
// and no set-up; a test that asks for it where they are missing is skipped, or fails where CI is set, as in CI=true.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrMissing means that PostgreSQL is not installed.
var ErrMissing = errors.New("PostgreSQL is not installed (no initdb in /usr/lib/postgresql/*/bin or PATH)")

// Options are how a server runs. The zero value is for tests of behaviour.
type Options struct {
	// Fsync makes commits survive more than the death of the processes. It is for what measures time; a SIGKILL loses
	// nothing without it.
	Fsync bool
	// Dir is where the server's files go, in a directory of their own; the default is the temporary directory, which
	// may be memory and then makes Fsync meaningless.
	Dir string
	// Settings are more settings of postgresql.conf.
	Settings map[string]string
}

// Start runs a server of the test's own, ended at the test's cleanup.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	s, err := Launch(o)
	require(tb, err)
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("end PostgreSQL: %v", err)
		}
	})
	return s
}

// Database returns the URL of a fresh, empty database on a server that all tests of the binary share. The database is
// dropped at the test's cleanup, with whatever is still connected to it.
func Database(tb testing.TB) string {
	tb.Helper()
	s, err := shared()
	require(tb, err)
	return s.Database(tb)
}

// Clone is Server.Clone on the server that all tests of the binary share.
func Clone(tb testing.TB, template string, fill func(url string) error) string {
	tb.Helper()
	s, err := shared()
	require(tb, err)
	return s.Clone(tb, template, fill)
}

// shared starts the server of Database at its first use. Nothing ends it but the end of the test binary, which its
// watchdog notices: so it belongs to no test, and packages that use it need no TestMain.
var shared = sync.OnceValues(func() (*Server, error) { return Launch(Options{}) })

// require skips or fails the test on err.
func require(tb testing.TB, err error) {
	tb.Helper()
	switch {
	case errors.Is(err, ErrMissing) && os.Getenv("CI") == "":
		tb.Skipf("skipped: %v", err)
	case err != nil:
		tb.Fatalf("start PostgreSQL: %v", err)
	}
}

// A Server is a running PostgreSQL. Its methods may be called from any goroutine; each waits for the one before.
type Server struct {
	programs string // the directory of initdb and postgres
	dir      string // everything that the server leaves
	port     int
	args     []string
	watchdog *watchdog

	mu      sync.Mutex
	running *processes // nil while stopped

	templatesMu sync.Mutex
	templates   map[string]error
}

// Launch is Start for programs that are not tests. The caller must Close the server; if it is killed before it could,
// the server ends all the same.
func Launch(o Options) (_ *Server, err error) {
	programs, err := findPrograms()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.Dir, "pgtest-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the server: %w", err)
	}
	s := &Server{programs: programs, dir: dir, templates: make(map[string]error)}
	if s.watchdog, err = watch(dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.initialize(); err != nil {
		return nil, err
	}
	all := settings(o)
	for _, setting := range slices.Sorted(maps.Keys(all)) {
		s.args = append(s.args, "-c", setting+"="+all[setting])
	}
	// A port that is free now can be taken by the time the server binds it.
	for range 3 {
		if s.port, err = freePort(); err != nil {
			return nil, err
		}
		if err = s.Restart(); err == nil || !strings.Contains(err.Error(), "Address already in use") {
			break
		}
	}
	return s, err
}

func settings(o Options) map[string]string {
	all := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "", // their paths have a limit of 107 bytes, and nobody needs them
		"max_connections":         "300",
		"fsync":                   onOff(o.Fsync),
		"full_page_writes":        onOff(o.Fsync),
	}
	maps.Copy(all, o.Settings)
	return all
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// freePort returns a port that nobody has now, and that the kernel does not give to outgoing connections: one of those,
// even one that looks for the stopped server itself, would have the port when the server is started again.
func freePort() (int, error) {
	for range 100 {
		port := 15000 + mathrand.IntN(15000) //nolint:gosec // no secret
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, errors.New("find a free port: none of 100 is")
}

// Addr returns the host and port, for a proxy before the server.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL returns how to connect to a database as the superuser.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User(superuser), Host: s.Addr(), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// superuser owns everything and needs no password.
const superuser = "postgres"

// Database creates an empty database, dropped at the test's cleanup if the server runs then, and returns its URL.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	return s.create(tb, "template0")
}

// Clone is Database with a copy of a template, which is much quicker than to fill each test's own. The template is named
// by the caller, and filled at the first call with its name; fill must close its connections.
func (s *Server) Clone(tb testing.TB, template string, fill func(url string) error) string {
	tb.Helper()
	s.templatesMu.Lock()
	defer s.templatesMu.Unlock()
	name := "template_" + template
	err, filled := s.templates[name]
	if !filled {
		if err = s.exec(`CREATE DATABASE ` + quote(name) + ` TEMPLATE template0`); err == nil {
			err = fill(s.URL(name))
		}
		s.templates[name] = err
	}
	if err != nil {
		tb.Fatalf("fill the template %s: %v", template, err)
	}
	return s.create(tb, name)
}

func (s *Server) create(tb testing.TB, template string) string {
	tb.Helper()
	name := "test_" + strings.ToLower(rand.Text())
	if err := s.exec(`CREATE DATABASE ` + quote(name) + ` TEMPLATE ` + quote(template)); err != nil {
		tb.Fatalf("create a database: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.exec(`DROP DATABASE ` + quote(name) + ` WITH (FORCE)`); err != nil && s.Running() {
			tb.Errorf("drop the database: %v", err)
		}
	})
	return s.URL(name)
}

// exec runs a statement on a connection of its own.
func (s *Server) exec(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgconn.Connect(ctx, s.URL(superuser))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return conn.Exec(ctx, sql).Close()
}

func quote(identifier string) string { return `"` + strings.ReplaceAll(identifier, `"`, `""`) + `"` }
