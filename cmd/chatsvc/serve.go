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
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/conversation/sqlstore"
	"github.com/chatsvc/chatsvc/internal/interceptor"
	"github.com/chatsvc/chatsvc/internal/provider/catalog"
	"github.com/chatsvc/chatsvc/internal/provider/openai"
	"github.com/chatsvc/chatsvc/internal/provider/openaisim"
	"github.com/chatsvc/chatsvc/internal/service"
	"github.com/chatsvc/chatsvc/internal/telemetry"
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

	data, admin string // addresses, as bound
}

// onClose has f called at the end, before all that were added earlier.
func (s *server) onClose(f func(context.Context) error) { s.closers = append(s.closers, f) }

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

	providers, err := telemetry.Setup(ctx, telemetry.Options{Version: version, Logger: s.logger})
	if err != nil {
		return fmt.Errorf("set up telemetry: %w", err)
	}
	s.onClose(func(context.Context) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // spans of the last turns are worth a wait of their own
		defer cancel()
		if err := providers.Shutdown(ctx); err != nil { // a collector that is away is no failure of ours
			s.logger.WarnContext(ctx, "the last telemetry is lost", "error", err)
		}
		return nil
	})

	store, err := openStore(ctx, cfg, s.logger)
	if err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return store.Close() })

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
		Tracer:       providers.TracerProvider.Tracer("github.com/chatsvc/chatsvc/internal/turn"),
		MaxDuration:  cfg.Limits.MaxTurnDuration,
	})

	keys, err := authenticator(cfg)
	if err != nil {
		return err
	}
	options, err := interceptor.ServerOptions(interceptor.Options{
		Logger:         s.logger,
		Authenticator:  keys,
		ToStatus:       service.ToStatus,
		OpenReflection: cfg.Reflection == config.ReflectionOpen,
		Limits: interceptor.Limits{
			MaxConcurrentStreams: cfg.Limits.MaxConcurrentStreams,
			MaxTurnDuration:      cfg.Limits.MaxTurnDuration,
		},
		Tracing: interceptor.Tracing{
			TracerProvider: providers.TracerProvider,
			MeterProvider:  providers.MeterProvider,
			Propagator:     providers.Propagator,
		},
	})
	if err != nil {
		return err
	}
	rpc := grpc.NewServer(options...)
	service.Register(rpc, engine, store)
	healthy := health.NewServer()
	healthpb.RegisterHealthServer(rpc, healthy)
	if cfg.Reflection != config.ReflectionOff {
		reflection.Register(rpc)
	}

	if err := s.serveAdmin(ctx, store); err != nil {
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
	checkHealth := healthChecker(healthy, store, s.logger)
	checkHealth(watch) // before the first call can ask
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
		if err := rpc.Serve(listener); err != nil {
			s.failed <- fmt.Errorf("serve %s: %w", s.data, err)
		}
	}()
	s.onClose(func(ctx context.Context) error {
		s.draining.Store(true)
		stopWatching()
		healthy.Shutdown() // callers that look go elsewhere from now on
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			rpc.GracefulStop() // tells connections to go away, and waits for their calls
		}()
		engine.Drain(ctx) // waits for the turns, and hands over what is left of them
		stopDuties()
		onDuty.Wait()
		select {
		case <-drained:
		case <-time.After(time.Second): // every turn has ended: what is left is a client that does not read
			rpc.Stop()
		}
		settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		engine.Settle(settle) // the callers whose calls have just ended
		return nil
	})
	return nil
}

// openStore opens the database. A SQLite file has one process, which brings its schema up to date; PostgreSQL has several,
// some of them older, so that there an operator says when.
func openStore(ctx context.Context, cfg *config.Config, logger *slog.Logger) (*sqlstore.DB, error) {
	options := sqlstore.Options{
		Logger:    logger,
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

// serveAdmin answers whether the process lives and whether it can take turns.
func (s *server) serveAdmin(ctx context.Context, store conversation.Store) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
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
	var err error
	s.admin, err = s.serveHTTP(ctx, s.cfg.AdminListen, mux)
	return err
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

func authenticator(cfg *config.Config) (auth.Authenticator, error) {
	keys := make([]auth.APIKey, len(cfg.Auth.APIKeys))
	for i, k := range cfg.Auth.APIKeys {
		keys[i] = auth.APIKey{SHA256: k.SHA256, Team: k.Team, Client: k.Client}
	}
	return auth.NewAPIKeys(keys)
}

// healthInterval is how often the database is asked whether it can be written.
const healthInterval = 2 * time.Second

// healthChecker returns a function that sets the health of each service to what the database allows. It is called by one
// goroutine at a time.
func healthChecker(healthy *health.Server, store conversation.Store, logger *slog.Logger) func(context.Context) {
	services := []string{
		"", chatsvcv1.ChatService_ServiceDesc.ServiceName, chatsvcv1.ConversationService_ServiceDesc.ServiceName,
		chatsvcv1.CallerService_ServiceDesc.ServiceName,
	}
	last := healthpb.HealthCheckResponse_UNKNOWN
	return func(ctx context.Context) {
		ping, cancel := context.WithTimeout(ctx, healthInterval)
		defer cancel()
		err := store.Ping(ping)
		if ctx.Err() != nil {
			return
		}
		now := healthpb.HealthCheckResponse_SERVING
		if err != nil {
			now = healthpb.HealthCheckResponse_NOT_SERVING
		}
		if now == last {
			return
		}
		switch {
		case err != nil:
			logger.ErrorContext(ctx, "the database cannot be written", "error", err)
		case last == healthpb.HealthCheckResponse_NOT_SERVING:
			logger.InfoContext(ctx, "the database can be written again")
		}
		for _, name := range services {
			healthy.SetServingStatus(name, now)
		}
		last = now
	}
}

// announce prints where the service is and, in dev, a line to paste.
func (s *server) announce(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "chatsvc %s\n", version)
	fmt.Fprintf(&b, "  data plane  %s\n", s.data)
	fmt.Fprintf(&b, "  admin       http://%s/readyz\n", s.admin)
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
		fmt.Fprintf(&b, "\nTry it:\n\n  grpcurl -plaintext -H \"authorization: Bearer %s\" -d '{\"text\":\"Bonjour\"}' %s chatsvc.v1.ChatService/CreateTurn\n\n", key, s.data)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
