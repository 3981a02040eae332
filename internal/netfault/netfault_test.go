package netfault_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/netfault"
)

// echo starts a server that sends back what it gets, and ends with its caller.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// dial connects, with a deadline for all that the test does.
func dial(t *testing.T, p *netfault.Proxy) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// wantReset connects and waits for a reset, which may come so early that connecting fails.
func wantReset(t *testing.T, p *netfault.Proxy) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", p.Addr(), 20*time.Second)
	if err == nil {
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %v, want a reset", err)
	}
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("received %q, %v; want %q", got, err, want)
	}
}

// silent fails the test if anything comes soon.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes and %v, want silence", n, err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
}

func TestForwardsEverythingAndTheEnd(t *testing.T) {
	t.Parallel()
	conn := dial(t, netfault.Listen(t, echo(t)))
	sent := bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB: more than any buffer between
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.CloseWrite()
	}()
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("received %d bytes, %v; want the %d sent", len(got), err, len(sent))
	}
}

func TestCutAll(t *testing.T) {
	t.Parallel()
	p := netfault.Listen(t, echo(t))
	one, two := dial(t, p), dial(t, p)
	for _, conn := range []net.Conn{one, two} {
		send(t, conn, "hello")
		receive(t, conn, "hello")
	}
	p.CutAll()
	for _, conn := range []net.Conn{one, two} {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after the cut: %v, want a reset", err)
		}
	}
	if p.Cuts() != 2 || p.Connections() != 0 {
		t.Errorf("%d cuts and %d connections left, want 2 and 0", p.Cuts(), p.Connections())
	}
	again := dial(t, p)
	send(t, again, "hello")
	receive(t, again, "hello")
}

func TestCutEvery(t *testing.T) {
	t.Parallel()
	p := netfault.Listen(t, echo(t))
	p.CutEvery(5 * time.Millisecond)
	for range 3 {
		wantReset(t, p)
	}
	p.CutEvery(0)
	if p.Cuts() < 3 {
		t.Errorf("%d cuts, want 3", p.Cuts())
	}
	conn := dial(t, p)
	silent(t, conn)
	send(t, conn, "hello")
	receive(t, conn, "hello")
}

func TestBlackhole(t *testing.T) {
	t.Parallel()
	p := netfault.Listen(t, echo(t))
	before := dial(t, p)
	send(t, before, "one")
	receive(t, before, "one")
	p.Blackhole()
	send(t, before, "two")
	during := dial(t, p)
	send(t, during, "three")
	silent(t, before)
	silent(t, during)
	p.Restore()
	receive(t, before, "two")
	receive(t, during, "three")

	p.Blackhole()
	p.CutAll() // also what is held
	if _, err := before.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the cut: %v, want a reset", err)
	}
}

func TestDelay(t *testing.T) {
	t.Parallel()
	p := netfault.Listen(t, echo(t))
	conn := dial(t, p)
	const delay = 100 * time.Millisecond
	p.Delay(delay)
	start := time.Now()
	for range 5 {
		send(t, conn, "hello")
	}
	receive(t, conn, strings.Repeat("hello", 5))
	if took := time.Since(start); took < 2*delay {
		t.Errorf("there and back in %v, want at least %v", took, 2*delay)
	}
	p.Delay(0)
	start = time.Now()
	send(t, conn, "hello")
	receive(t, conn, "hello")
	if took := time.Since(start); took >= 2*delay {
		t.Errorf("%v without a delay", took)
	}
}

func TestHalfOpen(t *testing.T) {
	t.Parallel()
	p := netfault.Listen(t, echo(t))
	conn := dial(t, p)
	send(t, conn, "hello")
	receive(t, conn, "hello")
	p.HalfOpen()
	send(t, conn, "anybody there?")
	silent(t, conn)
	again := dial(t, p)
	send(t, again, "hello")
	receive(t, again, "hello")
	p.CutAll()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the cut: %v, want a reset", err)
	}
}

func TestTargetIsDown(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	wantReset(t, netfault.Listen(t, l.Addr().String()))
}

func TestCleanupEndsEverything(t *testing.T) { // not parallel: it looks at all goroutines
	target := echo(t)
	t.Run("faults", func(t *testing.T) {
		p := netfault.Listen(t, target)
		p.CutEvery(time.Hour)
		held, halved := dial(t, p), dial(t, p)
		send(t, halved, "hello")
		receive(t, halved, "hello")
		p.HalfOpen()
		p.Delay(time.Hour)
		late := dial(t, p)
		send(t, late, "hello")
		p.Blackhole()
		send(t, held, "hello")
		dial(t, p)
	})
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	if strings.Contains(string(stacks), "netfault.(*") {
		t.Errorf("goroutines are left:\n%s", stacks)
	}
}
