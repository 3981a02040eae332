package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/chatsvc/chatsvc/internal/certtest"
	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/conversation"
)

// adminListener runs an admin listener with the short times of a test, and health as its only service. A request for /panic panics, and a stream with the metadata slow is not read.
func adminListener(t *testing.T, certificates *certificates, read, age time.Duration) (address string, connections *atomic.Int64, status *health.Server, logs *lockedBuffer) {
	t.Helper()
	logs, connections, status = &lockedBuffer{}, &atomic.Int64{}, health.NewServer()
	s := &server{cfg: &config.Config{}, certificates: certificates, logger: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	s.cfg.Limits.MaxConcurrentStreams = 1000
	rpc := grpc.NewServer(grpc.MaxRecvMsgSize(adminMessage), grpc.StreamInterceptor(
		func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if len(metadata.ValueFromIncomingContext(stream.Context(), "slow")) > 0 {
				<-stream.Context().Done()
			}
			return handler(srv, stream)
		}))
	healthpb.RegisterHealthServer(rpc, status)
	web := s.adminServer(rpc, read, age)
	handler := web.Handler
	web.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("canary\ngoroutine canary")
		}
		handler.ServeHTTP(w, r)
	})
	web.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	listener, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if certificates != nil {
			_ = web.ServeTLS(listener, "", "")
		} else {
			_ = web.Serve(listener)
		}
	}()
	t.Cleanup(func() {
		_ = web.Close()
		<-ended
		rpc.Stop()
	})
	return listener.Addr().String(), connections, status, logs
}

// post sends a body to the health service as a client of gRPC does, but as it comes.
func post(t *testing.T, address, method string, body io.Reader) (*http.Response, error) {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+method, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Slow", "1")
	return transport.RoundTrip(r)
}

// What a stranger sends costs little memory, and that not for long; who only listens is not cut off.
func TestAdminListenerBoundsRequests(t *testing.T) {
	t.Parallel()
	address, _, _, _ := adminListener(t, nil, 500*time.Millisecond, time.Hour)
	watch, err := healthpb.NewHealthClient(dial(t, address, "").conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	listening := make(chan error, 1)
	go func() {
		_, err := watch.Recv()
		listening <- err
	}()

	// One that never comes whole.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reader, writer := io.Pipe()
	defer context.AfterFunc(ctx, func() { _ = writer.Close() })()
	go func() { _, _ = writer.Write([]byte{0, 0, 0, 0, 9, 'x'}) }()
	resp, err := post(t, address, healthpb.Health_Check_FullMethodName, reader)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	if ctx.Err() != nil {
		t.Errorf("a message that does not come whole is waited for: %v, %v", resp, err)
	}

	// One too large, and more of them than are read.
	_, err = healthpb.NewHealthClient(dial(t, address, "").conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: strings.Repeat("x", adminMessage)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message of more than %d bytes: %v", adminMessage, err)
	}
	endless, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	taken := make(chan struct{})
	go func() {
		if _, err := writer.Write(make([]byte, 4<<20)); err == nil {
			close(taken)
		}
	}()
	go func() {
		if resp, err := post(t, address, healthpb.Health_Watch_FullMethodName, endless); err == nil {
			_ = resp.Body.Close()
		}
	}()
	select {
	case <-taken:
		t.Error("all that a stranger sends is kept")
	case err := <-listening:
		t.Errorf("who watches is cut off: %v", err)
	case <-time.After(time.Second):
	}
}

// A connection ends when it is old, as an authority may not be believed any more that was when it began. No call fails for it.
func TestAdminConnectionsEnd(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t, "ours")
	files := newTLSFiles(t)
	files.put(t, lasting(t, ca), ca)
	ours, err := newCertificates(files.TLS, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		certificates *certificates
		options      []grpc.DialOption
	}{"in the clear": {}, "TLS": {ours, []grpc.DialOption{overTLS(trust(t, ca))}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, connections, health, _ := adminListener(t, tt.certificates, time.Minute, 20*time.Millisecond)
			c := healthpb.NewHealthClient(dial(t, address, "", tt.options...).conn)
			watch, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := watch.Recv(); err != nil {
				t.Fatal(err)
			}
			eventually(t, 10*time.Second, "the third connection", func() bool {
				if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
					t.Fatal(err)
				}
				return connections.Load() >= 3
			})
			health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
			if now, err := watch.Recv(); err != nil || now.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
				t.Errorf("who watched on the first connection: %v, %v", now, err)
			}
		})
	}
	address, connections, _, _ := adminListener(t, nil, time.Minute, time.Hour)
	c := healthpb.NewHealthClient(dial(t, address, "").conn)
	for range 20 {
		if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("%d connections that are not old, want one", got)
	}
}

// Of what goes wrong on connections only a panic is logged, with where it was and not with what it said.
func TestAdminPanicIsLogged(t *testing.T) {
	t.Parallel()
	address, _, _, logs := adminListener(t, nil, time.Minute, time.Hour)
	var two http.Protocols
	two.SetUnencryptedHTTP2(true)
	for i, transport := range []*http.Transport{{}, {Protocols: &two}} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/panic", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := transport.RoundTrip(r); err == nil {
			_ = resp.Body.Close()
			t.Errorf("a panic answered %s", resp.Status)
		}
		transport.CloseIdleConnections()
		eventually(t, 10*time.Second, "the line", func() bool {
			return strings.Count(logs.String(), "level=ERROR") == i+1 && strings.Count(logs.String(), "admin_limits_test.go") >= i+1
		})
	}
	before := logs.String()
	for _, line := range []string{"http: TLS handshake error from canary", "http2: server: canary\nhttp: panic serving canary", "canary"} {
		if n, err := (panicLog{slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}).Write([]byte(line)); n != len(line) || err != nil {
			t.Errorf("%q: %d, %v", line, n, err)
		}
	}
	if logs.String() != before || strings.Contains(before, "canary") {
		t.Errorf("what a stranger sent is in the log:\n%s", logs)
	}
}

// pinged is a database that can be written or not, or hangs, and counts who asks.
type pinged struct {
	conversation.Store
	ping  func(context.Context) error
	asked int
}

func (p *pinged) Ping(ctx context.Context) error {
	p.asked++
	return p.ping(ctx)
}

// Whoever asks whether the service is ready hears what was found last, which is three seconds old at most: the database is not
// asked for each.
func TestReadinessIsWhatWasFoundLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, store := &server{cfg: &config.Config{}, logger: slog.New(slog.DiscardHandler)}, &pinged{}
		check, probes := s.healthChecker(store), s.adminHandler(grpc.NewServer(), time.Hour)
		for i, tt := range []struct {
			ping func(context.Context) error
			want int
		}{
			{func(context.Context) error { return nil }, http.StatusOK},
			{func(context.Context) error { return errors.New("no") }, http.StatusServiceUnavailable},
			{func(context.Context) error { return nil }, http.StatusOK},
			{func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, http.StatusServiceUnavailable},
		} {
			store.ping = tt.ping
			began := time.Now()
			check(t.Context())
			if took := healthInterval + time.Since(began); took > 3*time.Second {
				t.Errorf("look %d: it takes %v until it is seen", i, took)
			}
			for range 100 {
				w := httptest.NewRecorder()
				probes.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
				if w.Code != tt.want {
					t.Fatalf("look %d: %d %s", i, w.Code, w.Body)
				}
			}
			if store.asked != i+1 {
				t.Errorf("look %d: the database was asked %d times", i, store.asked)
			}
		}
	})
}
