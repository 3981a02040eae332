package interceptor

import (
	"cmp"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Limits bounds what one connection may cost. The zero value of each field is its default; none of them is "unlimited",
// which is what grpc's own defaults amount to.
type Limits struct {
	// MaxConcurrentStreams is how many RPCs may run on one connection; 1000. Those above it wait in the client.
	MaxConcurrentStreams uint32
	// MaxTurnDuration is how long a stream may have to be read, so that no connection is closed under it for its age; 15
	// minutes.
	MaxTurnDuration time.Duration
}

// What is not configurable.
const (
	// maxHeaderList is what request metadata may take: the key, the trace, and room for a mesh's own.
	maxHeaderList = 16 << 10
	// maxMessage leaves room above the 4 MiB that a request may have, which the service refuses with a reason; grpc's
	// own refusal has none. The other way it holds a turn with its input and output.
	maxMessage = 16 << 20
	// handshake is how long a new connection may take to become one.
	handshake = 10 * time.Second
	// A client that is gone without a word is noticed after pingAfter + pingTimeout: a turn whose on_disconnect is CANCEL
	// should not run on for nobody.
	pingAfter   = 30 * time.Second
	pingTimeout = 10 * time.Second
	// idle connections are closed after maxIdle, and all after maxAge (give or take 10 %), so that load spreads to new
	// replicas. Streams that run may end first.
	maxIdle = 15 * time.Minute
	maxAge  = 30 * time.Minute
	// minPing is the shortest interval at which clients may ping; faster ones lose the connection.
	minPing = 10 * time.Second
)

// Tracing is where spans and metrics of RPCs go. A nil field means OpenTelemetry's global one.
type Tracing struct {
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	Propagator     propagation.TextMapPropagator
}

// ServerOptions returns everything that makes a plain grpc.Server one of ours: the interceptors, tracing, and limits. With
// them, Stop waits for handlers to return; give GracefulStop a deadline, as it waits for streams without one.
func ServerOptions(opts Options) ([]grpc.ServerOption, error) {
	chain, err := newChain(&opts)
	if err != nil {
		return nil, err
	}
	var unary []grpc.UnaryServerInterceptor
	var stream []grpc.StreamServerInterceptor
	for _, l := range chain {
		unary = append(unary, l.unary)
		stream = append(stream, l.stream)
	}
	turn := cmp.Or(opts.Limits.MaxTurnDuration, 15*time.Minute)
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(unary...),
		grpc.ChainStreamInterceptor(stream...),
		grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(opts.Tracing.TracerProvider),
			otelgrpc.WithMeterProvider(opts.Tracing.MeterProvider),
			otelgrpc.WithPropagators(opts.Tracing.Propagator),
			otelgrpc.WithFilter(observed),
		)),
		grpc.MaxConcurrentStreams(cmp.Or(opts.Limits.MaxConcurrentStreams, 1000)),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.ConnectionTimeout(handshake),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle:     maxIdle,
			MaxConnectionAge:      maxAge,
			MaxConnectionAgeGrace: turn + time.Minute,
			Time:                  pingAfter,
			Timeout:               pingTimeout,
		}),
		grpc.WaitForHandlers(true),
	}, nil
}

// observed accepts the methods of our own services that exist. Health and reflection would bury the rest; and the stats
// handler hears of a call before anything has checked that its method exists: a name that a stranger made up must not
// start a span, or become a series.
func observed(info *stats.RPCTagInfo) bool {
	service, method, ok := strings.Cut(strings.TrimPrefix(info.FullMethodName, "/"), "/")
	if !ok || !ours(service) {
		return false
	}
	descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + method))
	if err != nil {
		return false
	}
	_, ok = descriptor.(protoreflect.MethodDescriptor)
	return ok
}
