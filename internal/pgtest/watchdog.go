package pgtest

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"syscall"
)

// A watchdog is a process that outlives this one, however that ends, and then kills the server and removes its files.
type watchdog struct {
	cmd *exec.Cmd
	// leash is what the watchdog reads from. Only this process has the other end, so the kernel closes it.
	leash io.WriteCloser
}

// watchdogScript is given the server's directory. A clean end leaves no postmaster.pid.
const watchdogScript = `
read -r _
if read -r postmaster <"$1/data/postmaster.pid"; then
	kill -STOP "$postmaster"
	children=
	for stat in /proc/[0-9]*/stat; do
		read -r pid _ _ parent _ <"$stat" && [ "$parent" = "$postmaster" ] && children="$children $pid"
	done
	kill -KILL "$postmaster" $children
fi
rm -rf "$1"
`

// watch starts a watchdog for the server in dir.
func watch(dir string) (*watchdog, error) {
	cmd := exec.CommandContext(context.Background(), "sh", "-c", watchdogScript, "watchdog", dir) //nolint:gosec // a directory that Launch made
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C in the terminal is not for it
	leash, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a watchdog: %w", err)
	}
	return &watchdog{cmd: cmd, leash: leash}, nil
}

// dismiss ends the watchdog without its doing anything.
func (w *watchdog) dismiss() error {
	err := w.cmd.Process.Kill()
	_ = w.cmd.Wait() // "killed"; closes the leash
	return err
}
