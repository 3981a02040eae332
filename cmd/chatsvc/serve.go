package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/conversation/sqlstore"
	"github.com/chatsvc/chatsvc/internal/provider/catalog"
	"github.com/chatsvc/chatsvc/internal/provider/openai"
	"github.com/chatsvc/chatsvc/internal/provider/openaisim"
	"github.com/chatsvc/chatsvc/internal/service"
	"github.com/chatsvc/chatsvc/internal/telemetry"
	"github.com/chatsvc/chatsvc/internal/tenant"
	"github.com/chatsvc/chatsvc/internal/tokens"
	"github.com/chatsvc/chatsvc/internal/turn"
)

// serveCommand runs the service.
type serveCommand struct {
	settings
}

// Run serves until ctx ends, and then shuts down in order.
func (c *serveCommand) Run(ctx context.Context, std stdio) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	logger := telemetry.NewLogger(std.err, cfg.Log.Level, cfg.Log.Format == config.LogText)
	s := &server{cfg: cfg, logger: logger}
	if err := s.start(ctx); err != nil {
		return errors.Join(err, s.close())
	}
	if err := s.announce(std.out); err != nil {
		return errors.Join(err, s.close())
	}
	logger.InfoContext(ctx, "serving", "version", version, "config", cfg)

	var failure error
	select {
	case <-ctx.Done():
		logger.InfoContext(ctx, "stopping", "grace", cfg.Limits.ShutdownGrace)
	case failure = <-s.failed:
	}
	err = errors.Join(failure, s.close())
	logger.InfoContext(ctx, "stopped")
	return err
}

// server is the parts that run. closers end them, the last one first.
type server struct {
	cfg     *config.Config
	logger  *slog.Logger
	closers []func(context.Context) error
	// failed gets the error of a listener that stopped by itself.
	failed chan error
	// draining: no turn is taken any more.
	draining atomic.Bool
	// writable: by the last look, the database can be written.
	writable atomic.Bool

	certificates *certificates // nil without TLS
	providers    *telemetry.Providers
	data, admin  string // addresses, as bound
}

// onClose has f called at the end, before all that were added earlier.
func (s *server) onClose(f func(context.Context) error) { s.closers = append(s.closers, f) }

// background runs work until the end, which waits for it, and returns the context that it has.
func (s *server) background(ctx context.Context, work ...func(context.Context)) context.Context {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	for _, f := range work {
		running.Go(func() { f(ctx) })
	}
	s.onClose(func(context.Context) error {
		stop()
		running.Wait()
		return nil
	})
	return ctx
}

// close ends everything. Turns have the grace to end by themselves; a few seconds more go into ending those that do not and
// into the last spans.
func (s *server) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Limits.ShutdownGrace)
	defer cancel()
	var errs []error
	for _, end := range slices.Backward(s.closers) {
		errs = append(errs, end(ctx))
	}
	return errors.Join(errs...)
}

// start is the wiring: every part is made here, from the bottom up.
func (s *server) start(ctx context.Context) error {
	cfg := s.cfg
	s.failed = make(chan error, 4)

	var err error
	if cfg.TLS.CertFile != "" {
		if s.certificates, err = newCertificates(cfg.TLS, s.logger); err != nil {
			return err
		}
		s.background(ctx, s.certificates.watch)
	}
	if s.providers, err = telemetry.Setup(ctx, telemetry.Options{Version: version, Logger: s.logger}); err != nil {
		return fmt.Errorf("set up telemetry: %w", err)
	}
	s.onClose(func(context.Context) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // spans of the last turns are worth a wait of their own
		defer cancel()
		if err := s.providers.Shutdown(ctx); err != nil { // a collector that is away is no failure of ours
			s.logger.WarnContext(ctx, "the last telemetry is lost", "error", err)
		}
		return nil
	})

	store, err := openStore(ctx, cfg, s.logger, false)
	if err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return store.Close() })
	who, err := s.startAccess(ctx, store)
	if err != nil {
		return err
	}

	upstream, err := s.upstream(ctx)
	if err != nil {
		return err
	}
	models, err := catalog.Embedded()
	if err != nil {
		return err
	}
	counter := tokens.NewCounter()
	go counter.Count(tokens.O200kBase, "warm") // the first turn should not wait for the vocabulary
	engine := turn.New(turn.Options{
		Store:        store,
		Provider:     upstream,
		Catalog:      models,
		Tokens:       counter,
		DefaultModel: cfg.DefaultModel,
		Logger:       s.logger,
		Tracer:       s.providers.TracerProvider.Tracer("github.com/chatsvc/chatsvc/internal/turn"),
		MaxDuration:  cfg.Limits.MaxTurnDuration,
	})

	var transport []grpc.ServerOption
	if s.certificates != nil {
		transport = append(transport, grpc.Creds(credentials.NewTLS(s.certificates.config(dataClients(cfg.TLS), "h2"))))
	}
	data, err := s.newPlane(who.gate, func(_ context.Context, e tenant.Entry) { who.auditor.DeniedData(e) },
		func(r grpc.ServiceRegistrar) { service.Register(r, engine, store) }, transport...)
	if err != nil {
		return err
	}
	// Its connections are net/http's, and so is their TLS.
	control, err := s.newPlane(who.gate, who.auditor.DeniedControl,
		func(r grpc.ServiceRegistrar) { service.RegisterControl(r, who.registry, store) },
		grpc.MaxRecvMsgSize(adminMessage))
	if err != nil {
		return err
	}

	checkHealth := s.healthChecker(store, data, control)
	checkHealth(ctx) // before the first call can ask
	if err := s.serveAdmin(ctx, control.rpc); err != nil {
		return err
	}
	listener, err := listen(ctx, cfg.Listen)
	if err != nil {
		return err
	}
	s.data = listener.Addr().String()
	// From here on nothing fails: what takes turns over must get to Drain.
	duties, stopDuties := context.WithCancel(context.WithoutCancel(ctx))
	var onDuty sync.WaitGroup
	onDuty.Go(func() { engine.Serve(duties) })
	watch, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		for {
			select {
			case <-watch.Done():
				return
			case <-time.After(healthInterval):
				checkHealth(watch)
			}
		}
	}()
	go func() {
		if err := data.rpc.Serve(listener); err != nil {
			s.failed <- fmt.Errorf("serve %s: %w", s.data, err)
		}
	}()
	s.onClose(func(ctx context.Context) error {
		s.draining.Store(true)
		stopWatching()
		data.health.Shutdown() // callers that look go elsewhere from now on
		control.health.Shutdown()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			data.rpc.GracefulStop() // tells connections to go away, and waits for their calls
		}()
		engine.Drain(ctx) // waits for the turns, and hands over what is left of them
		stopDuties()
		onDuty.Wait()
		select {
		case <-drained:
		case <-time.After(time.Second): // every turn has ended: what is left is a client that does not read
			data.rpc.Stop()
		}
		settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		engine.Settle(settle) // the callers whose calls have just ended
		return nil
	})
	return nil
}

// openStore opens the database. A SQLite file has one process, which brings its schema up to date; PostgreSQL has several,
// some of them older, so that there an operator says when. A process that runs no turns is retired: it takes none over.
func openStore(ctx context.Context, cfg *config.Config, logger *slog.Logger, retired bool) (*sqlstore.DB, error) {
	options := sqlstore.Options{
		Logger:    logger,
		Retired:   retired,
		Retention: sqlstore.Retention{OneShots: cfg.Retention.OneShots, Events: cfg.Retention.Events},
	}
	if path, isSQLite := cfg.SQLitePath(); isSQLite {
		return sqlstore.OpenSQLite(ctx, path, options)
	}
	return sqlstore.OpenPostgres(ctx, cfg.DatabaseURL.Reveal(), options)
}

// upstream returns the provider, and starts the simulator if that is to answer.
func (s *server) upstream(ctx context.Context) (*openai.Client, error) {
	cfg := s.cfg.Upstream
	base := cfg.BaseURL
	if cfg.Mode == config.ModeSimulator {
		// A pace at which one can watch an answer come; a request can set its own.
		sim := openaisim.New(openaisim.Options{Logger: s.logger, TTFT: 80 * time.Millisecond, Rate: 60, JournalCalls: -1})
		address, err := s.serveHTTP(ctx, "127.0.0.1:0", sim)
		if err != nil {
			return nil, err
		}
		base = "http://" + address + "/v1"
	}
	key, err := cfg.KeySource(s.logger)
	if err != nil {
		return nil, err
	}
	client, err := openai.New(openai.Options{
		BaseURL:           base,
		Key:               key,
		ConnectTimeout:    cfg.ConnectTimeout,
		FirstEventTimeout: cfg.FirstEventTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		Logger:            s.logger,
	})
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	s.onClose(func(context.Context) error { return client.Close() })
	return client, nil
}

// serveHTTP serves handler until the end and returns the address that it is bound to.
func (s *server) serveHTTP(ctx context.Context, address string, handler http.Handler) (string, error) {
	listener, err := listen(ctx, address)
	if err != nil {
		return "", err
	}
	web := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
	}
	go func() {
		if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serve %s: %w", listener.Addr(), err)
		}
	}()
	s.onClose(func(context.Context) error { return web.Close() }) // by now nobody needs an answer
	return listener.Addr().String(), nil
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return listener, nil
}

// announce prints where the service is and, in dev, a line to paste.
func (s *server) announce(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "chatsvc %s\n", version)
	fmt.Fprintf(&b, "  data plane  %s\n", s.data)
	scheme, transport := "http", "-plaintext"
	if s.certificates != nil {
		scheme, transport = "https", "-insecure"
	}
	fmt.Fprintf(&b, "  admin       %s://%s/readyz\n", scheme, s.admin)
	fmt.Fprintf(&b, "  database    %s\n", s.cfg.RedactedDatabase())
	if s.cfg.Upstream.Mode == config.ModeSimulator {
		fmt.Fprintln(&b, "  upstream    the embedded simulator: no key is used, nothing is billed")
	} else {
		fmt.Fprintf(&b, "  upstream    %s\n", s.cfg.Upstream.BaseURL)
	}
	if s.cfg.Dev {
		key := "dev"
		if s.cfg.DevKey.Reveal() != key {
			key = "$CHATSVC_DEV_KEY"
		}
		fmt.Fprintf(&b, "\nTry it:\n\n  grpcurl %s -H \"authorization: Bearer %s\" -d '{\"text\":\"Bonjour\"}' %s chatsvc.v1.ChatService/CreateTurn\n\n", transport, key, s.data)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
