package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// startTimeout is how long the server may take to answer, the replay of its log after a Kill included.
const startTimeout = time.Minute

// findPrograms returns the directory of initdb and postgres: the newest below /usr/lib/postgresql, where Debian keeps
// them out of PATH, or else the one in PATH.
func findPrograms() (string, error) {
	installed, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	if len(installed) > 0 {
		major := func(initdb string) int {
			n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb))))
			return n
		}
		return filepath.Dir(slices.MaxFunc(installed, func(a, b string) int { return major(a) - major(b) })), nil
	}
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return "", ErrMissing
	}
	if initdb, err = filepath.EvalSymlinks(initdb); err != nil { // postgres lies beside the file, not beside a link to it
		return "", err
	}
	return filepath.Dir(initdb), nil
}

// command prepares a program of PostgreSQL, which writes to the server's log. PostgreSQL refuses to run as root, so then
// it runs as the user that its package made. In a session of its own it does not see a Ctrl-C in the terminal.
func (s *Server) command(log *os.File, program string, args ...string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(context.Background(), filepath.Join(s.programs, program), args...) //nolint:gosec // found by findPrograms
	cmd.Dir = s.dir                                                                               // it insists on being able to read where it is
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() != 0 {
		return cmd, nil
	}
	uid, gid, err := owner()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	return cmd, nil
}

// owner returns who owns the server's files where this process is root.
func owner() (uid, gid uint32, err error) {
	u, err := osuser.Lookup("postgres")
	if err != nil {
		return 0, 0, fmt.Errorf("root needs a user postgres to run the server as: %w", err)
	}
	user, errUser := strconv.ParseUint(u.Uid, 10, 32)
	group, errGroup := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(user), uint32(group), errors.Join(errUser, errGroup)
}

// initialize makes the data directory.
func (s *Server) initialize() error {
	if os.Geteuid() == 0 {
		uid, gid, err := owner()
		if err != nil {
			return err
		}
		if err := os.Chown(s.dir, int(uid), int(gid)); err != nil {
			return fmt.Errorf("give the directory to the user postgres: %w", err)
		}
	}
	log, err := s.openLog()
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd, err := s.command(log, "initdb", "--pgdata="+s.data(), "--username="+superuser, "--auth=trust", "--no-sync",
		"--encoding=UTF8", "--no-locale")
	if err != nil {
		return err
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, s.logTail())
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }
func (s *Server) log() string  { return filepath.Join(s.dir, "log") }

func (s *Server) openLog() (*os.File, error) {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	return log, nil
}

// logTail returns the end of the server's log, for errors.
func (s *Server) logTail() string {
	log, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-2000):])
}

// Restart starts the server where it was, or first stops it in the way of Stop. It returns when the server answers.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.end(syscall.SIGINT); err != nil {
		return err
	}
	log, err := s.openLog()
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd, err := s.command(log, "postgres", append([]string{"-D", s.data(), "-p", strconv.Itoa(s.port)}, s.args...)...)
	if err != nil {
		return err
	}
	if s.running, err = startProcesses(cmd); err != nil {
		return err
	}
	if err := s.await(); err != nil {
		return errors.Join(fmt.Errorf("wait for PostgreSQL: %w\n%s", err, s.logTail()), s.end(syscall.SIGKILL))
	}
	return nil
}

// await returns when the server takes connections.
func (s *Server) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		conn, err := pgconn.Connect(ctx, s.URL(superuser))
		if err == nil {
			return conn.Close(ctx)
		}
		if ctx.Err() != nil {
			return err
		}
		if s.running.ended(20 * time.Millisecond) {
			return errors.New("it has ended by itself")
		}
	}
}

// Running reports whether the server was started and not stopped since; a paused one runs.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running != nil
}

// Stop ends the server in its orderly way: connections are cut, running transactions rolled back. It returns when all
// processes have ended.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end(syscall.SIGINT)
}

// Kill ends all processes of the server with SIGKILL, as a crash would, and returns when they have ended.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end(syscall.SIGKILL)
}

// Close kills the server and removes what it left. It cannot be started again.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.end(syscall.SIGKILL), os.RemoveAll(s.dir), s.watchdog.dismiss())
}

// end stops the server, if it runs. s.mu is held.
func (s *Server) end(signal syscall.Signal) error {
	if s.running == nil {
		return nil
	}
	err := s.running.end(signal)
	s.running = nil
	// A killed server leaves it, and the watchdog would one day signal another process.
	if removeErr := os.Remove(filepath.Join(s.data(), "postmaster.pid")); !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return err
}

// Pause stops all processes of the server with SIGSTOP: connections stay open and nothing answers, not even the kernel's
// accept of a new one for long. Resume lets them go on.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		return errors.New("PostgreSQL does not run")
	}
	return s.running.signal(signal)
}

// PIDs returns the processes of the server, the one that started the others first.
func (s *Server) PIDs() ([]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		return nil, nil
	}
	return s.running.pids()
}
