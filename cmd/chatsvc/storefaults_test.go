package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/status"

	"github.com/chatsvc/chatsvc/internal/netfault"
	"github.com/chatsvc/chatsvc/internal/pgtest"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	storeCallers = 16
	// recoveryTime is how soon a replica serves again when its store does.
	recoveryTime = 5 * time.Second
	// admittedTime is how long after the store has gone a turn may call upstream that was admitted before.
	admittedTime = 500 * time.Millisecond
)

// storeFault is something that happens to the database.
type storeFault struct {
	name       string
	lasts      time.Duration
	begin, end func() error
	// strikes: somebody is refused meanwhile. down: everybody is.
	strikes, down bool
}

// The database goes away, hangs, is slow, or dies under its callers. No answer that was acknowledged is lost, nobody is
// asked upstream for a turn that cannot be recorded, nothing is generated again when the database is back, and the service
// is back with it, without a restart.
func TestStoreFaultsPostgreSQL(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	url := server.Clone(t, "chatsvc", migrate)
	proxy := netfault.Listen(t, server.Addr())
	s := newStorm(t, 1, strings.Replace(url, server.Addr(), proxy.Addr(), 1), 2)
	var stopTerminating func() error
	s.run(storeCallers, func() {
		for _, f := range []storeFault{
			{"stopped", 10 * time.Second, server.Stop, server.Restart, true, true},
			{"blackholed", 5 * time.Second, quietly(proxy.Blackhole), quietly(proxy.Restore), true, true},
			{"2 s late", 8 * time.Second, quietly(func() { proxy.Delay(time.Second) }), quietly(func() { proxy.Delay(0) }), false, false},
			{"killed", time.Second, server.Kill, server.Restart, true, true},
			{"cut off every 100 ms", time.Second, quietly(func() { proxy.CutEvery(100 * time.Millisecond) }), quietly(func() { proxy.CutEvery(0) }), false, false},
			{"ending its sessions", 3 * time.Second, func() error {
				stopTerminating = terminateEvery(t, url, 100*time.Millisecond)
				return nil
			}, func() error { return stopTerminating() }, false, false},
		} {
			s.endure(f)
		}
	})
	s.generatedOnce()
}

func quietly(do func()) func() error { return func() error { do(); return nil } }

// terminateEvery ends all other sessions of a database again and again, until it is told to stop.
func terminateEvery(t *testing.T, url string, interval time.Duration) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() {
		ended <- func() error {
			conn, err := pgconn.Connect(ctx, url)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
			for tick := time.Tick(interval); ctx.Err() == nil; {
				err := conn.Exec(context.WithoutCancel(ctx),
					"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").Close()
				if err != nil {
					return err
				}
				select {
				case <-tick:
				case <-ctx.Done():
				}
			}
			return nil
		}()
	}()
	return func() error {
		cancel()
		return <-ended
	}
}

// The same for the file: its disk is full, and its fsync fails.
func TestStoreFaultsSQLite(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can mount the small disk that this fills")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("mount a small disk: %v", err)
		}
		t.Skipf("skipped: mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) }) // after the service has ended
	s := newStorm(t, 1, "sqlite:"+filepath.Join(disk, "chatsvc.db"), 1)
	filler := filepath.Join(disk, "filler")
	faults := []storeFault{{"full", 4 * time.Second, func() error { return fill(filler) }, func() error { return os.Remove(filler) }, true, false}}
	if path, err := exec.LookPath("strace"); err == nil {
		var tracer *exec.Cmd
		faults = append(faults, storeFault{"unable to sync", 4 * time.Second, func() (err error) {
			tracer, err = failSyncs(path, s.replicas[0].process.Process.Pid)
			return err
		}, func() error { return release(tracer) }, true, true})
	} else {
		t.Log("without strace, the file's fsync is not made to fail")
	}
	s.run(storeCallers, func() {
		for _, f := range faults {
			s.endure(f)
		}
	})
	s.generatedOnce()
}

// fill writes a file until the disk is full.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2 // to the last byte
		} else if err != nil {
			return err
		}
	}
	return nil
}

// failSyncs makes every fsync of a process fail from now on, with the tracer that it returns.
func failSyncs(strace string, pid int) (*exec.Cmd, error) {
	tracer := exec.Command(strace, "-f", "-p", strconv.Itoa(pid), "-o", os.DevNull,
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO")
	var said lockedBuffer
	tracer.Stderr = &said
	if err := tracer.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(said.String(), "attached"); {
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("strace does not attach: %s", said.String()), release(tracer))
		}
		time.Sleep(5 * time.Millisecond) // a poll, with a deadline
	}
	return tracer, nil
}

// release ends a tracer, and leaves its process as it was.
func release(tracer *exec.Cmd) error {
	if err := tracer.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	_ = tracer.Wait() // it ends with the signal
	return nil
}

// endure has a fault happen while callers call, and measures how soon each replica answers when it is over.
func (s *storm) endure(f storeFault) {
	time.Sleep(1500 * time.Millisecond) // the pace of the faults
	live := s.live(f)
	if err := f.begin(); err != nil {
		s.t.Errorf("%s: %v", f.name, err)
		return
	}
	from := time.Now()
	answered, refused := 0, 0
	for n := 0; time.Since(from) < f.lasts; n++ {
		if s.ask(n%len(s.direct), fmt.Sprintf("meanwhile.%s.%d", f.id(), n), time.Second) == nil {
			answered++
		} else {
			refused++
		}
		time.Sleep(50 * time.Millisecond) // the pace of a caller among others
	}
	if f.strikes && refused == 0 || f.down && answered > 0 {
		s.t.Errorf("while the database was %s, %d turns were answered and %d not", f.name, answered, refused)
	}
	last := time.Now() // when it ends is not when its end is noticed
	if err := f.end(); err != nil {
		s.t.Errorf("the end of %s: %v", f.name, err)
		return
	}
	to := time.Now()
	var recovered []string
	for i := range s.direct {
		took, err := s.probe(i, fmt.Sprintf("probe.%s.%d", f.id(), i), to)
		if err != nil || took > recoveryTime {
			s.ledger.violation("recovery", "after the database was %s, replica %d took %v: %v", f.name, i, took, err)
		}
		recovered = append(recovered, took.Round(time.Millisecond).String())
	}
	live(from, last)
	if f.down {
		for _, call := range s.upstream.all() {
			if call.began.After(from.Add(admittedTime)) && call.began.Before(last) {
				s.ledger.violation("calls", "%s: a call for %s began %v after the database was %s", call.replica, call.ask, call.began.Sub(from), f.name)
			}
		}
	}
	s.t.Logf("the database was %s for %v; of turns on trial %d were answered meanwhile and %d not; the replicas answered after %s",
		f.name, to.Sub(from).Round(100*time.Millisecond), answered, refused, strings.Join(recovered, ", "))
}

// live begins a turn that takes as long as a fault, on the first replica. The function that it returns waits for the turn's
// end, and fails the test unless its caller has seen it go on meanwhile, and complete.
func (s *storm) live(f storeFault) (check func(from, to time.Time)) {
	const pace = 20
	a := &ask{id: "live." + f.id(), words: int(f.lasts.Seconds()*pace) + pace}
	a.request = &chatsvcv1.CreateTurnRequest{RequestId: a.id, Text: question(a.id, a.words, pace)}
	s.ledger.open(a)
	r := readingAfter("", 0)
	var came []time.Time
	stream, err := s.direct[0].chat.StreamTurn(context.Background(), a.request)
	for err == nil && r.text.Len() == 0 {
		var e *chatsvcv1.TurnEvent
		if e, err = stream.Recv(); err == nil {
			r.add(e)
		}
	}
	ended := make(chan error, 1)
	go func() {
		for err == nil {
			var e *chatsvcv1.TurnEvent
			if e, err = stream.Recv(); err == nil {
				r.add(e)
				came = append(came, time.Now())
			}
		}
		ended <- err
	}()
	return func(from, to time.Time) {
		err := <-ended
		s.ledger.saw(r)
		if !errors.Is(err, io.EOF) || r.end.GetState() != turnCompleted {
			s.t.Errorf("%s: %v, %v", a.id, r.end, err)
			return
		}
		s.ledger.answered(a.id, r.end)
		came = slices.DeleteFunc(came, func(at time.Time) bool { return at.Before(from) || at.After(to) })
		if n := int(to.Sub(from).Seconds() * pace / 2); len(came) < n {
			s.t.Errorf("while the database was %s, %d events of a running turn came, of at least %d", f.name, len(came), n)
		}
	}
}

// id returns the name for a request's id.
func (f storeFault) id() string { return strings.ReplaceAll(f.name, " ", "-") }

// ask tries a short turn on one replica.
func (s *storm) ask(replica int, id string, patience time.Duration) error {
	a := &ask{id: id, words: 1, refused: true}
	a.request = &chatsvcv1.CreateTurnRequest{RequestId: id, Text: question(id, a.words, 0)}
	s.ledger.open(a)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	turn, err := s.direct[replica].chat.CreateTurn(ctx, a.request)
	if err != nil {
		reason, _ := reasonOf(err)
		s.ledger.heard(strings.TrimSpace(status.Code(err).String() + " " + reason))
		return err
	}
	s.ledger.answered(id, turn)
	return nil
}

// probe asks a replica until it answers, and returns how long that took.
func (s *storm) probe(replica int, id string, since time.Time) (time.Duration, error) {
	for {
		err := s.ask(replica, id, 2*time.Second)
		if err == nil || time.Since(since) > 4*recoveryTime {
			return time.Since(since), err
		}
		time.Sleep(20 * time.Millisecond) // a poll, with a deadline
	}
}

// generatedOnce fails the test where a turn was generated more than once: every server lived, and still had its turns.
func (s *storm) generatedOnce() {
	turns, calls := s.turns(), s.upstream.count()
	if calls > len(turns) {
		s.t.Errorf("%d turns, and %d calls upstream", len(turns), calls)
	}
	for _, turn := range turns {
		full, err := s.direct[0].chat.GetTurn(context.Background(), &chatsvcv1.GetTurnRequest{Name: turn.GetName(), View: chatsvcv1.TurnView_TURN_VIEW_FULL})
		if err != nil || len(full.GetAttempts()) > 1 {
			s.t.Errorf("%s: %v, attempts %v", turn.GetName(), err, full.GetAttempts())
		}
	}
}
