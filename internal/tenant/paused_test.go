//go:build unix

package tenant_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

const pausedVariable = "CHATSVC_TEST_PAUSED"

// The process is stopped in the middle of a read that Fresh waits for, for longer than any of its limits.
func TestDirectoryFreshInAProcessThatIsStopped(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPausedProcess$", "-test.timeout=30s")
	cmd.Env = append(os.Environ(), pausedVariable+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for stopped := false; lines.Scan(); {
		t.Log(lines.Text())
		if strings.Contains(lines.Text(), "reading") && !stopped {
			stopped = true
			if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Error(err)
			}
			<-time.After(2500 * time.Millisecond)
			if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestPausedProcess is what runs in that process.
func TestPausedProcess(t *testing.T) {
	if os.Getenv(pausedVariable) == "" {
		t.Skip("it is run by TestDirectoryFreshInAProcessThatIsStopped")
	}
	var reads atomic.Int64
	d := tenant.NewDirectory(&script{changes: func(ctx context.Context, _ tenant.Head) (*tenant.Changes, error) {
		if reads.Add(1) == 2 {
			if _, err := fmt.Fprintln(os.Stdout, "reading"); err != nil {
				return nil, err
			}
			<-time.After(700 * time.Millisecond)
		}
		return &tenant.Changes{}, ctx.Err()
	}}, slog.New(slog.DiscardHandler))
	if _, err := d.Fresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-time.After(1600 * time.Millisecond)
	begin := time.Now()
	if _, err := d.Fresh(t.Context()); err != nil {
		t.Errorf("after %s and %d reads: %v", time.Since(begin), reads.Load(), err)
	}
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("it took %s: it was not stopped", took)
	}
}
