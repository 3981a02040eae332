// Package telemetry sets up what chatsvc tells about itself: traces and metrics through OpenTelemetry, and log lines that
// carry the trace they belong to. The names of everything that is told stand in genai.go.
//
// Nothing here is global: the providers are passed to who needs them. The one exception is OpenTelemetry's error handler,
// which exists only once per process.
package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/google/uuid"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"
)

// Options is what Setup needs to know beside the environment.
type Options struct {
	// Version is chatsvc's own, for the resource.
	Version string
	// Logger hears of exports that did not work.
	Logger *slog.Logger
}

// Providers is where tracers and meters come from. All of its fields are set and safe for concurrent use.
type Providers struct {
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	// Propagator reads and writes W3C trace context and baggage. It works also where nothing is exported, so that a
	// caller's trace id reaches the log and the upstream call in any case.
	Propagator propagation.TextMapPropagator

	shutdown []func(context.Context) error
}

// Setup reads the standard OTEL_* variables and returns the providers that they ask for. They ask for traces with
// OTEL_TRACES_EXPORTER, for metrics with OTEL_METRICS_EXPORTER, and for either or both with OTEL_EXPORTER_OTLP_ENDPOINT or
// its form for one signal; whatever is not asked for gets a provider that does nothing and costs next to nothing.
// OTEL_SDK_DISABLED=true turns everything off.
//
// The caller must call Shutdown.
func Setup(ctx context.Context, opts Options) (*Providers, error) {
	p := &Providers{
		TracerProvider: nooptrace.NewTracerProvider(),
		MeterProvider:  noopmetric.NewMeterProvider(),
		Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	}
	traces, metrics := asked("TRACES"), asked("METRICS")
	if !traces && !metrics {
		return p, nil
	}
	logger := opts.Logger
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logger.LogAttrs(context.WithoutCancel(ctx), slog.LevelWarn, "telemetry is being lost", slog.Any("error", err))
	}))
	res, err := newResource(ctx, opts.Version)
	if err != nil {
		return nil, err
	}
	if traces {
		exporter, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return nil, fmt.Errorf("setting up the export of traces that OTEL_* asks for: %w", err)
		}
		tp := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
		p.TracerProvider = tp
		p.shutdown = append(p.shutdown, tp.Shutdown)
	}
	if metrics {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("setting up the export of metrics that OTEL_* asks for: %w", err), p.Shutdown(ctx))
		}
		mp := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(res), sdkmetric.WithView(rpcDuration()))
		p.MeterProvider = mp
		p.shutdown = append(p.shutdown, mp.Shutdown)
	}
	return p, nil
}

// Shutdown exports what is still waiting, for as long as ctx allows, and stops. Spans that end later are dropped, so it
// belongs after everything that makes them.
func (p *Providers) Shutdown(ctx context.Context) error {
	var errs []error
	for _, stop := range p.shutdown {
		errs = append(errs, stop(ctx))
	}
	return errors.Join(errs...)
}

// asked reports whether the environment asks for the export of a signal, TRACES or METRICS. The OpenTelemetry
// specification exports to localhost unless told not to; chatsvc exports nothing unless told to.
func asked(signal string) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	if exporter := os.Getenv("OTEL_" + signal + "_EXPORTER"); exporter != "" {
		return exporter != "none"
	}
	return cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")) != ""
}

// newResource says what process this is. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override and add.
func newResource(ctx context.Context, version string) (*resource.Resource, error) {
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(
			attribute.String("service.name", "chatsvc"),
			attribute.String("service.version", version),
			// Tells replicas apart, and a process from the one that it replaced: their counters must not be mixed.
			attribute.String("service.instance.id", uuid.NewString()),
		),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("reading OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return res, nil
}

// RPCServerCallDuration is the name of a histogram in s, made by otelgrpc.
const RPCServerCallDuration = "rpc.server.call.duration"

// rpcDuration widens the buckets of the RPC durations, which otelgrpc ends at 10 s: a streamed answer takes minutes, and
// would say no more than "above 10 s".
func rpcDuration() sdkmetric.View {
	return sdkmetric.NewView(
		sdkmetric.Instrument{Name: RPCServerCallDuration},
		sdkmetric.Stream{Aggregation: sdkmetric.AggregationExplicitBucketHistogram{Boundaries: []float64{
			0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 300,
		}}},
	)
}
