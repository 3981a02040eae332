package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/certtest"
)

const (
	rotations = 100
	reloads   = 20
	// ratePerSecond is how many calls are made meanwhile.
	ratePerSecond = 100
	// rotationInterval is the pace of the rotations: slow enough for calls to be made with each key.
	rotationInterval = 120 * time.Millisecond
	// keyOverlap is how long a rotated key still works. The first ones end while the last ones are made.
	keyOverlap = 4 * time.Second
)

// A client's key is rotated a hundred times, and the server's certificate is replaced on disk twenty times, while calls are made
// on connections old and new: not one of them fails.
func TestRotationsUnderLoad(t *testing.T) {
	t.Parallel()
	issuer, dir := certtest.New(t, "tests"), t.TempDir()
	certificate := filepath.Join(dir, "tls.crt")
	replace(t, dir, issuer)
	p := serve(t, governed(fmt.Sprintf("tls: {cert_file: %s, key_file: %s}\nlog:\n  level: error\n", certificate, filepath.Join(dir, "tls.key"))))

	secure := credentials.NewTLS(&tls.Config{RootCAs: issuer.Pool(), MinVersion: tls.VersionTLS13})
	platform := govern(dialSecure(t, p.admin, secure, func() string { return platformKey }))
	platform.newTeam(t, "red")
	key := platform.newKey(t, "red/web", nil)
	first := key.GetSecret()
	var current atomic.Pointer[string] // what the client presents
	current.Store(&first)

	load := startLoad(t, p.data, secure, func() string { return *current.Load() })
	began := time.Now()
	tick := time.NewTicker(rotationInterval)
	defer tick.Stop()
	var slowest time.Duration
	for n := range rotations {
		<-tick.C
		next, err := platform.keys.RotateKey(t.Context(), &chatsvcv1.RotateKeyRequest{
			Name: key.GetName(), Overlap: durationpb.New(keyOverlap), RequestId: uuid.NewString(),
		})
		if err != nil {
			t.Fatalf("rotation %d: %v", n, err)
		}
		key = next
		secret := next.GetSecret()
		current.Store(&secret)
		if n%(rotations/reloads) == 0 {
			serial := replace(t, dir, issuer)
			replaced := time.Now()
			for _, target := range []string{p.data, p.admin} {
				eventually(t, 10*time.Second, "new connections get the new certificate", func() bool { return serialAt(t, target, issuer.Pool()) == serial })
			}
			slowest = max(slowest, time.Since(replaced))
		}
	}
	eventually(t, 15*time.Second, "the first key has ended", func() bool {
		_, err := callerWith(t, p.data, secure, first)
		if err != nil {
			wantReason(t, err, codes.Unauthenticated, "CREDENTIAL_EXPIRED")
		}
		return err != nil
	})
	took := time.Since(began)
	calls, connections, failures := load.stop()
	for _, err := range failures[:min(len(failures), 5)] {
		t.Errorf("a call failed: %v", err)
	}
	t.Logf("%d rotations and %d reloads in %v; a new certificate was presented within %v; %d calls on %d connections, %d failed",
		rotations, reloads, took.Round(time.Millisecond), slowest.Round(time.Millisecond), calls, connections, len(failures))
	if want := int(took.Seconds() * ratePerSecond * 8 / 10); calls < want {
		t.Errorf("%d calls, want at least %d", calls, want)
	}
	caller, err := callerWith(t, p.data, secure, *current.Load())
	if err != nil || caller.GetCredential() == "" {
		t.Errorf("the last key: %v, %v", caller, err)
	}
	keys, err := platform.keys.ListKeys(t.Context(), &chatsvcv1.ListKeysRequest{Parent: "teams/red", PageSize: 1000})
	if err != nil || len(keys.GetKeys()) != rotations+1 {
		t.Errorf("there are %d keys, %v, want %d", len(keys.GetKeys()), err, rotations+1)
	}
}

// load is calls that are made at a steady pace.
type load struct {
	cancel      context.CancelFunc
	running     sync.WaitGroup
	connections atomic.Int64

	mu       sync.Mutex
	calls    int
	failures []error
}

// startLoad makes calls on some connections that last, and each tenth on one of its own.
func startLoad(t *testing.T, target string, secure credentials.TransportCredentials, key func() string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	var lasting []*grpc.ClientConn
	for range 8 {
		lasting = append(lasting, dialSecure(t, target, secure, key))
	}
	l.connections.Add(int64(len(lasting)))
	t.Cleanup(func() { cancel(); l.running.Wait() })
	l.running.Go(func() {
		tick := time.NewTicker(time.Second / ratePerSecond)
		defer tick.Stop()
		for n, began := 0, time.Now(); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for ; n < int(time.Since(began).Seconds()*ratePerSecond); n++ { // a tick can be missed
				n := n
				l.running.Go(func() {
					conn := lasting[n%len(lasting)]
					if n%10 == 0 {
						conn = newConn(target, secure, key)
						l.connections.Add(1)
						defer func() { _ = conn.Close() }()
					}
					l.count(callOnce(conn, n))
				})
			}
		}
	})
	return l
}

// callOnce makes a call; each tenth is of a turn.
func callOnce(conn *grpc.ClientConn, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if n%10 == 5 {
		_, err := chatsvcv1.NewChatServiceClient(conn).CreateTurn(ctx, &chatsvcv1.CreateTurnRequest{Text: `[[sim answer="Yes."]]`})
		return err
	}
	_, err := chatsvcv1.NewCallerServiceClient(conn).GetCaller(ctx, &chatsvcv1.GetCallerRequest{})
	return err
}

func (l *load) count(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if err != nil {
		l.failures = append(l.failures, err)
	}
}

// stop makes no more calls, waits for those under way, and returns what became of all of them.
func (l *load) stop() (calls, connections int, failures []error) {
	l.cancel()
	l.running.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls, int(l.connections.Load()), slices.Clone(l.failures)
}

// presents puts the key of the moment into each call.
type presents func() string

func (key presents) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + key()}, nil
}

func (presents) RequireTransportSecurity() bool { return true }

func newConn(target string, secure credentials.TransportCredentials, key func() string) *grpc.ClientConn {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(secure), grpc.WithPerRPCCredentials(presents(key)))
	if err != nil {
		panic(err) // a target that is no target
	}
	return conn
}

func dialSecure(t *testing.T, target string, secure credentials.TransportCredentials, key func() string) *grpc.ClientConn {
	t.Helper()
	conn := newConn(target, secure, key)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func callerWith(t *testing.T, target string, secure credentials.TransportCredentials, key string) (*chatsvcv1.Caller, error) {
	t.Helper()
	conn := newConn(target, secure, func() string { return key })
	defer func() { _ = conn.Close() }()
	return chatsvcv1.NewCallerServiceClient(conn).GetCaller(t.Context(), &chatsvcv1.GetCallerRequest{})
}

// replace puts a new certificate and its key where the server reads them, one after the other, and returns its serial number.
func replace(t *testing.T, dir string, issuer *certtest.Authority) int64 {
	t.Helper()
	next := issuer.Issue(t, "127.0.0.1")
	for _, f := range []struct{ name, text string }{{"tls.key", next.Key}, {"tls.crt", next.Certificate}} {
		path := filepath.Join(dir, f.name)
		write(t, path+".next", f.text)
		if err := os.Rename(path+".next", path); err != nil {
			t.Fatal(err)
		}
	}
	return next.TLS.Leaf.SerialNumber.Int64()
}

// serialAt returns the serial number of the certificate that a new connection gets.
func serialAt(t *testing.T, target string, pool *x509.CertPool) int64 {
	t.Helper()
	conn, err := tls.Dial("tcp", target, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatalf("a new connection: %v", err)
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}
