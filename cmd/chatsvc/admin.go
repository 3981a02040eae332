package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
)

const (
	// adminGrace is how long calls of the control plane may take to end, once the turns have.
	adminGrace = 3 * time.Second
	// What the data plane has from its own transport, net/http is told here.
	adminHeaders = 16 << 10
	adminIdle    = 15 * time.Minute
	adminPing    = 30 * time.Second
	adminStreams = 100
	// adminRead is how long a request may take to arrive. The answer may take longer, as that of who watches the health.
	adminRead = 10 * time.Second
	// adminMessage is the most that a call may send, and many times what the largest message of the control plane has.
	adminMessage = 64 << 10
	// grpcPrefix is the bytes before a message.
	grpcPrefix = 5
	// adminAge is when a connection is to end: a client certificate is verified only when one begins.
	adminAge = 30 * time.Minute
)

// serveAdmin serves the control plane, and says over HTTP whether the process lives and whether it can take turns: one
// port, on which net/http has the connections and hands the calls of gRPC on.
func (s *server) serveAdmin(ctx context.Context, rpc *grpc.Server) error {
	listener, err := listen(ctx, s.cfg.AdminListen)
	if err != nil {
		return err
	}
	web := s.adminServer(rpc, adminRead, adminAge)
	serve := func() error { return web.Serve(listener) }
	if s.certificates != nil {
		serve = func() error { return web.ServeTLS(listener, "", "") }
	}
	s.admin = listener.Addr().String()
	go func() {
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serve %s: %w", s.admin, err)
		}
	}()
	s.onClose(func(context.Context) error {
		// Not rpc.GracefulStop, which cannot drain connections that it does not have.
		ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
		defer cancel()
		if err := web.Shutdown(ctx); err != nil {
			_ = web.Close() // somebody watches the health, or does not read
		}
		rpc.Stop() // waits for the handlers
		return nil
	})
	return nil
}

// connectionBegan is the key of the time at which a connection began, in the context of its requests.
type connectionBegan struct{}

// adminServer returns the server of the admin listener. A request arrives within read, and a connection that is older than
// age takes no more of them.
func (s *server) adminServer(rpc *grpc.Server, read, age time.Duration) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	if s.certificates != nil {
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	web := &http.Server{
		Handler:           s.adminHandler(rpc, age),
		Protocols:         &protocols,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       read,
		IdleTimeout:       adminIdle,
		MaxHeaderBytes:    adminHeaders,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: int(min(s.cfg.Limits.MaxConcurrentStreams, adminStreams)),
			SendPingTimeout:      adminPing,
		},
		ErrorLog: log.New(panicLog{s.logger}, "", 0),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, connectionBegan{}, time.Now())
		},
	}
	if s.certificates != nil {
		// Whoever has a certificate shows it; that it is needed is for the interceptors to say, as a probe has none.
		web.TLSConfig = s.certificates.config(tls.VerifyClientCertIfGiven, "h2", "http/1.1")
	}
	return web
}

// panicLog is where net/http says what went wrong. Nearly all of it is what strangers' connections do, in their own words,
// and without end: only a panic is ours. Of that it keeps where it was, and not the value, which may be a stranger's, too.
type panicLog struct{ logger *slog.Logger }

// Write takes one message.
func (l panicLog) Write(message []byte) (int, error) {
	text := string(message)
	if strings.HasPrefix(text, "http: panic serving ") || strings.HasPrefix(text, "http2: panic serving ") {
		stack := text[strings.LastIndex(text, "\ngoroutine ")+1:] // the value stands before it
		if !strings.HasPrefix(stack, "goroutine ") {
			stack = ""
		}
		l.logger.Error("a request on the admin listener panicked", "stack", stack)
	}
	return len(message), nil
}

// adminHandler tells calls of gRPC from probes. A connection older than age is told to end.
func (s *server) adminHandler(rpc *grpc.Server, age time.Duration) http.Handler {
	probes := http.NewServeMux()
	probes.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	probes.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch {
		case s.draining.Load():
			http.Error(w, "stopping", http.StatusServiceUnavailable)
		case !s.writable.Load():
			http.Error(w, "the database cannot be written", http.StatusServiceUnavailable)
		default:
			_, _ = io.WriteString(w, "ok\n")
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if began, ok := r.Context().Value(connectionBegan{}).(time.Time); ok && time.Since(began) > age {
			w.Header().Set("Connection", "close") // in HTTP/2 a GOAWAY: the calls that run may end
		}
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			// grpc-go reads ahead of its handlers, without a bound.
			r.Body = http.MaxBytesReader(w, r.Body, adminMessage+grpcPrefix)
			rpc.ServeHTTP(w, r)
		} else {
			probes.ServeHTTP(w, r)
		}
	})
}
