package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/conversation/sqlstore"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// access is who may call, and the record of who may not.
type access struct {
	registry *tenant.Registry
	auditor  *tenant.Auditor
	gate     *auth.Gate
}

// access makes it, and has it follow the database until the end.
func (s *server) access(ctx context.Context, store *sqlstore.DB) (*access, error) {
	directory := tenant.NewDirectory(store, s.logger)
	view, err := directory.Refresh(ctx)
	if err != nil {
		return nil, fmt.Errorf("read who may call: %w", err)
	}
	a := &access{registry: tenant.NewRegistry(store, directory), auditor: tenant.NewAuditor(store, s.logger)}
	running := s.background(ctx, directory.Run, a.auditor.Run) // which writes what it still has when it is told to end
	if a.gate, err = auth.New(running, gateOptions(s.cfg.Auth, directory, s.logger)); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	if who := s.cfg.Auth; len(who.APIKeys)+len(who.Certificates)+len(who.JWT) == 0 && !anyKey(view, time.Now()) {
		s.logger.WarnContext(ctx, "nobody may call: no key is in the database and none in the configuration; "+
			"make the first admin's with `chatsvc bootstrap`")
	}
	return a, nil
}

// anyKey reports whether there is a key that has not ended.
func anyKey(view *tenant.View, now time.Time) bool {
	for _, team := range view.Teams() {
		for _, key := range view.Keys(team.ID, "") {
			if !key.Ended(now) {
				return true
			}
		}
	}
	return false
}

func gateOptions(who config.Auth, directory *tenant.Directory, logger *slog.Logger) auth.Options {
	o := auth.Options{Directory: directory, Logger: logger}
	for _, k := range who.APIKeys {
		o.APIKeys = append(o.APIKeys, auth.APIKey(k))
	}
	for _, c := range who.Certificates {
		o.Certificates = append(o.Certificates, auth.CertificateRule(c))
	}
	for _, j := range who.JWT {
		o.Issuers = append(o.Issuers, auth.Issuer(j))
	}
	return o
}

const (
	// adminGrace is how long calls of the control plane may take to end, once the turns have.
	adminGrace = 3 * time.Second
	// What the data plane has from its own transport, net/http is told here.
	adminHeaders = 16 << 10
	adminIdle    = 15 * time.Minute
	adminPing    = 30 * time.Second
)

// serveAdmin serves the control plane, and says over HTTP whether the process lives and whether it can take turns: one
// port, on which net/http has the connections and hands the calls of gRPC on.
func (s *server) serveAdmin(ctx context.Context, store conversation.Store, rpc *grpc.Server) error {
	listener, err := listen(ctx, s.cfg.AdminListen)
	if err != nil {
		return err
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	if s.certificates != nil {
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	web := &http.Server{
		Handler:           s.adminHandler(store, rpc),
		Protocols:         &protocols,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       adminIdle,
		MaxHeaderBytes:    adminHeaders,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: int(s.cfg.Limits.MaxConcurrentStreams),
			SendPingTimeout:      adminPing,
		},
		// What a stranger's connection does wrong is no warning: there would be no end of them.
		ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	serve := func() error { return web.Serve(listener) }
	if s.certificates != nil {
		// Whoever has a certificate shows it; that it is needed is for adminHandler to say, as a probe has none.
		web.TLSConfig = s.certificates.config(tls.VerifyClientCertIfGiven, "h2", "http/1.1")
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

// adminHandler tells calls of gRPC from probes.
func (s *server) adminHandler(store conversation.Store, rpc *grpc.Server) http.Handler {
	probes := http.NewServeMux()
	probes.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	probes.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if s.draining.Load() {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if err := store.Ping(ctx); err != nil {
			http.Error(w, "the database cannot be written", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.ProtoMajor != 2 || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			probes.ServeHTTP(w, r)
		case s.cfg.TLS.RequireClientCert && len(r.TLS.VerifiedChains) == 0:
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "16") // UNAUTHENTICATED
			w.Header().Set("Grpc-Message", "this service asks for a client certificate")
		default:
			rpc.ServeHTTP(w, r)
		}
	})
}
