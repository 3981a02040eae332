package main

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/interceptor"
	"github.com/chatsvc/chatsvc/internal/service"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// plane is a gRPC server with its health.
type plane struct {
	rpc    *grpc.Server
	health *health.Server
}

// newPlane returns a server with the services that register registers, behind the interceptors. A method of which the proto
// does not say who may call it is an error.
func (s *server) newPlane(gate auth.Authenticator, denied func(context.Context, tenant.Entry), register func(grpc.ServiceRegistrar), more ...grpc.ServerOption) (plane, error) {
	options, err := interceptor.ServerOptions(interceptor.Options{
		Logger:         s.logger,
		Authenticator:  gate,
		Denied:         denied,
		ToStatus:       service.ToStatus,
		OpenReflection: s.cfg.Reflection == config.ReflectionOpen,
		// For the admin listener, whose transport lets probes in without one.
		NeedsCertificate: s.cfg.TLS.RequireClientCert,
		Limits: interceptor.Limits{
			MaxConcurrentStreams: s.cfg.Limits.MaxConcurrentStreams,
			MaxTurnDuration:      s.cfg.Limits.MaxTurnDuration,
		},
		Tracing: interceptor.Tracing{
			TracerProvider: s.providers.TracerProvider,
			MeterProvider:  s.providers.MeterProvider,
			Propagator:     s.providers.Propagator,
		},
	})
	if err != nil {
		return plane{}, err
	}
	p := plane{rpc: grpc.NewServer(append(options, more...)...), health: health.NewServer()}
	register(p.rpc)
	healthpb.RegisterHealthServer(p.rpc, p.health)
	if s.cfg.Reflection != config.ReflectionOff {
		reflection.Register(p.rpc)
	}
	return p, interceptor.CheckServices(p.rpc.GetServiceInfo())
}

// The database is asked every healthInterval whether it can be written, and has healthPatience to answer. What is said of
// it is as old as both together, at most.
const (
	healthInterval = time.Second
	healthPatience = 2 * time.Second // one that is far away is slow, and not down
)

// healthChecker returns a function that sets the health of all services, and what /readyz says, to what the database allows.
// It is called by one goroutine at a time.
func (s *server) healthChecker(store conversation.Store, planes ...plane) func(context.Context) {
	last := healthpb.HealthCheckResponse_UNKNOWN
	return func(ctx context.Context) {
		ping, cancel := context.WithTimeout(ctx, healthPatience)
		defer cancel()
		err := store.Ping(ping)
		if ctx.Err() != nil {
			return
		}
		s.writable.Store(err == nil)
		now := healthpb.HealthCheckResponse_SERVING
		if err != nil {
			now = healthpb.HealthCheckResponse_NOT_SERVING
		}
		if now == last {
			return
		}
		switch {
		case err != nil:
			s.logger.ErrorContext(ctx, "the database cannot be written", "error", err)
		case last == healthpb.HealthCheckResponse_NOT_SERVING:
			s.logger.InfoContext(ctx, "the database can be written again")
		}
		for _, p := range planes {
			p.health.SetServingStatus("", now)
			for name := range p.rpc.GetServiceInfo() {
				if strings.HasPrefix(name, "chatsvc.") { // not of health and reflection
					p.health.SetServingStatus(name, now)
				}
			}
		}
		last = now
	}
}
