package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/chatsvc/chatsvc/internal/pgtest"
)

// postgres returns the URL of a database with the schema, on the server that all tests share.
func postgres(t *testing.T) string {
	t.Helper()
	return pgtest.Clone(t, "chatsvc", migrate)
}

// migrate brings a database up to date, as an operator does.
func migrate(databaseURL string) error {
	var out bytes.Buffer
	std := stdio{strings.NewReader(""), &out, &out}
	if code := run(context.Background(), []string{"migrate", "up", "--dev", "--database-url", databaseURL}, std); code != 0 {
		return fmt.Errorf("chatsvc migrate up: exit code %d\n%s", code, &out)
	}
	return nil
}

// serveOn runs a replica inside of the test. Its schema must be up to date on PostgreSQL; yaml is added to its
// configuration, which has two teams.
func serveOn(t *testing.T, databaseURL, baseURL, yaml string) *program {
	t.Helper()
	return launch(t, "serve", "--config", configure(t, databaseURL, baseURL, yaml))
}

// spawnOn runs a replica in a process of its own, on addresses that it can have again after a restart.
func spawnOn(t *testing.T, databaseURL, baseURL, yaml string) *program {
	t.Helper()
	return spawn(t, "serve", "--config", configure(t, databaseURL, baseURL, yaml),
		"--listen", lastingAddress(t), "--admin-listen", lastingAddress(t))
}

// spawn runs a service in a process of its own.
func spawn(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{logs: &lockedBuffer{}, args: args}
	if err := p.restart(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", p.data, p.logs.tail(4<<10))
		}
	})
	return p
}

// restart starts the process again, after it has ended by stop or kill.
func (p *program) restart() error {
	cmd := exec.Command(os.Args[0], p.args...)
	cmd.Env = append(os.Environ(), asProgram+"="+leashed)
	cmd.Stderr = p.logs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if _, err := cmd.StdinPipe(); err != nil { // the leash
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.process = cmd
	p.stop = func() int {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		return cmd.ProcessState.ExitCode()
	}
	if err := p.readAnnouncement(out); err != nil {
		p.kill()
		return err
	}
	return nil
}

// kill ends the process with SIGKILL, if it runs, and returns when it has ended. A paused one dies too.
func (p *program) kill() {
	if p.process.ProcessState == nil {
		_ = p.process.Process.Kill()
		_ = p.process.Wait()
	}
}

// pause stops the process with SIGSTOP, as if its machine had stood still; resume lets it go on.
func (p *program) pause(t *testing.T)  { t.Helper(); p.signal(t, syscall.SIGSTOP) }
func (p *program) resume(t *testing.T) { t.Helper(); p.signal(t, syscall.SIGCONT) }

func (p *program) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := p.process.Process.Signal(signal); err != nil {
		t.Errorf("%v: %v", signal, err)
	}
}

// lastingAddress returns an address that is free, with a port that the kernel does not give to connections: there, a
// service that is killed would now and then not get it back.
func lastingAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(18000))
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		if err != nil {
			continue
		}
		_ = l.Close()
		return address
	}
	t.Fatal("no port is free")
	return ""
}

// dialAll returns a caller that takes the replicas by turns, each call the next one that can be reached.
func dialAll(t *testing.T, key string, replicas ...*program) *client {
	t.Helper()
	var addresses []resolver.Address
	for _, p := range replicas {
		addresses = append(addresses, resolver.Address{Addr: p.data})
	}
	replicated := manual.NewBuilderWithScheme("replicas")
	replicated.InitialState(resolver.State{Addresses: addresses})
	again := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond}
	return dial(t, "replicas:///", key, grpc.WithResolvers(replicated),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: 2 * time.Second}))
}
