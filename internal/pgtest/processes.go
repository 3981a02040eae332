package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// processes are the server's: the postmaster, and one for each connection and chore, which are its children.
type processes struct {
	cmd *exec.Cmd
	// alive is a pipe that all of them hold the other end of, having inherited it: it ends when the last of them has,
	// which a process id cannot tell of a child that is not ours.
	alive *os.File
}

func startProcesses(cmd *exec.Cmd) (*processes, error) {
	alive, theirs, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer func() { _ = theirs.Close() }()
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), alive.Close())
	}
	return &processes{cmd: cmd, alive: alive}, nil
}

// ended waits until all processes have ended, at most for the time given, and reports whether they have.
func (p *processes) ended(within time.Duration) bool {
	if err := p.alive.SetReadDeadline(time.Now().Add(within)); err != nil {
		return false
	}
	_, err := p.alive.Read(make([]byte, 1)) // nobody writes
	return errors.Is(err, io.EOF)
}

// end sends the postmaster a signal that ends the server, and everything SIGKILL if that is the signal or if it took too
// long.
func (p *processes) end(signal syscall.Signal) error {
	if signal != syscall.SIGKILL {
		// A stopped process would see the signal only when it goes on.
		if err := errors.Join(p.signal(syscall.SIGCONT), p.cmd.Process.Signal(signal)); err != nil {
			return fmt.Errorf("stop PostgreSQL: %w", err)
		}
		if p.ended(20 * time.Second) {
			return p.reap()
		}
	}
	if err := p.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill PostgreSQL: %w", err)
	}
	if !p.ended(20 * time.Second) {
		return errors.New("kill PostgreSQL: processes are left")
	}
	return p.reap()
}

// reap takes the postmaster's exit status, which says only how it was told to end.
func (p *processes) reap() error {
	_ = p.cmd.Wait()
	return p.alive.Close()
}

// signal sends a signal to all processes. The postmaster is stopped meanwhile, so that it starts no more of them; and
// told last, because the children of one that has ended are not to be found.
func (p *processes) signal(signal syscall.Signal) error {
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the postmaster: %w", err)
	}
	pids, err := p.pids()
	if err != nil {
		return err
	}
	for _, pid := range slices.Backward(pids) {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return nil
}

// pids returns the postmaster and its children.
func (p *processes) pids() ([]int, error) {
	postmaster := p.cmd.Process.Pid
	table, err := processTable()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	pids := []int{postmaster}
	for pid, parent := range table {
		if parent == postmaster {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// processTable returns the parent of each process.
func processTable() (map[int]int, error) {
	table := make(map[int]int)
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// PID (NAME) STATE PARENT …, where NAME may have spaces and parentheses.
		var pid, parent int
		var state string
		_, err1 := fmt.Sscan(string(stat), &pid)
		_, err2 := fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &parent)
		if err1 == nil && err2 == nil {
			table[pid] = parent
		}
	}
	if len(stats) > 0 {
		return table, nil
	}
	out, err := exec.CommandContext(context.Background(), "ps", "-A", "-o", "pid=,ppid=").Output() // where there is no /proc
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(out) {
		var pid, parent int
		if _, err := fmt.Sscan(string(line), &pid, &parent); err == nil {
			table[pid] = parent
		}
	}
	return table, nil
}
