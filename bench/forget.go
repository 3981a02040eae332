package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/chatsvc/chatsvc/bench/forgetful"
	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/interceptor"
	"github.com/chatsvc/chatsvc/internal/provider/catalog"
	"github.com/chatsvc/chatsvc/internal/provider/openai"
	"github.com/chatsvc/chatsvc/internal/service"
	"github.com/chatsvc/chatsvc/internal/telemetry"
	"github.com/chatsvc/chatsvc/internal/tenant"
	"github.com/chatsvc/chatsvc/internal/tokens"
	"github.com/chatsvc/chatsvc/internal/turn"
)

const forgetCommand = "forget"

// runForgetful serves, until ctx ends, all of chatsvc that takes part in a turn, on stores that forget. The wiring is
// that of `chatsvc serve` with its default configuration: whoever changes the one changes the other.
func runForgetful(ctx context.Context, args []string, _, stderr io.Writer) error {
	flags := flag.NewFlagSet(forgetCommand, flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "", "address")
	upstream := flags.String("upstream", "", "base URL of the upstream")
	key := flags.String("key", "", "the callers' API key")
	if err := flags.Parse(args); err != nil {
		return err
	}
	cfg := config.Default()
	logger := telemetry.NewLogger(stderr, cfg.Log.Level, cfg.Log.Format == config.LogText)
	providers, err := telemetry.Setup(ctx, telemetry.Options{Version: "bench", Logger: logger})
	if err != nil {
		return fmt.Errorf("setting up telemetry: %w", err)
	}
	client, err := openai.New(openai.Options{
		BaseURL:           *upstream,
		Key:               func() string { return upstreamKey },
		ConnectTimeout:    cfg.Upstream.ConnectTimeout,
		FirstEventTimeout: cfg.Upstream.FirstEventTimeout,
		IdleTimeout:       cfg.Upstream.IdleTimeout,
		Logger:            logger,
	})
	if err != nil {
		return fmt.Errorf("reaching the upstream: %w", err)
	}
	defer func() { _ = client.Close() }() // the process ends with it
	models, err := catalog.Embedded()
	if err != nil {
		return err
	}
	store := forgetful.New()
	engine := turn.New(turn.Options{
		Store:        store,
		Provider:     client,
		Catalog:      models,
		Tokens:       tokens.NewCounter(),
		DefaultModel: cfg.DefaultModel,
		Logger:       logger,
		Tracer:       providers.TracerProvider.Tracer("github.com/chatsvc/chatsvc/internal/turn"),
		MaxDuration:  cfg.Limits.MaxTurnDuration,
	})
	tenants := forgetful.Tenants{}
	directory, auditor := tenant.NewDirectory(tenants, logger), tenant.NewAuditor(tenants, logger)
	if _, err := directory.Refresh(ctx); err != nil {
		return fmt.Errorf("reading who may call: %w", err)
	}
	gate, err := auth.New(ctx, auth.Options{
		APIKeys:   []auth.APIKey{{SHA256: auth.Digest(*key), Team: "bench", Client: "bench"}},
		Directory: directory,
		Logger:    logger,
	})
	if err != nil {
		return err
	}
	options, err := interceptor.ServerOptions(interceptor.Options{
		Logger:        logger,
		Authenticator: gate,
		Denied:        func(_ context.Context, e tenant.Entry) { auditor.DeniedData(e) },
		ToStatus:      service.ToStatus,
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
	server := grpc.NewServer(options...)
	service.Register(server, engine, store)
	healthpb.RegisterHealthServer(server, health.NewServer())
	if err := interceptor.CheckServices(server.GetServiceInfo()); err != nil {
		return err
	}
	var listening net.ListenConfig
	listener, err := listening.Listen(ctx, "tcp", *listen)
	if err != nil {
		return fmt.Errorf("listening for the store that forgets: %w", err)
	}
	go directory.Run(ctx)
	go auditor.Run(ctx)
	go engine.Serve(ctx)
	defer context.AfterFunc(ctx, server.Stop)()
	return server.Serve(listener)
}
