package telemetry_test

import (
	"encoding/json"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/chatsvc/chatsvc/internal/telemetry"
	"github.com/chatsvc/chatsvc/internal/telemetry/otlptest"
)

// clearEnv makes the test independent of the variables that the developer has set.
func clearEnv(t *testing.T) {
	t.Helper()
	for _, key := range []string{
		"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL",
		"OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER",
	} {
		t.Setenv(key, "")
	}
}

func TestSetupExportsOnlyWhatIsAskedFor(t *testing.T) {
	tests := []struct {
		name            string
		env             map[string]string
		traces, metrics bool
	}{
		{name: "nothing set"},
		{name: "endpoint", env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, traces: true, metrics: true},
		{name: "endpoint for traces", env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, traces: true},
		{name: "endpoint, but no metrics", env: map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "none",
		}, traces: true},
		{name: "endpoint for metrics", env: map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"}, metrics: true},
		{name: "exporter by name", env: map[string]string{"OTEL_TRACES_EXPORTER": "console"}, traces: true},
		{name: "none by name", env: map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}},
		{name: "disabled", env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clearEnv(t)
			for key, value := range tt.env {
				t.Setenv(key, value)
			}
			p, err := telemetry.Setup(t.Context(), telemetry.Options{Version: "1.2.3", Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			// There may be nobody to export to: Shutdown's own error is not what is tested.
			defer func() { _ = p.Shutdown(t.Context()) }()
			if _, noop := p.TracerProvider.(nooptrace.TracerProvider); noop == tt.traces {
				t.Errorf("TracerProvider is %T", p.TracerProvider)
			}
			if _, noop := p.MeterProvider.(noopmetric.MeterProvider); noop == tt.metrics {
				t.Errorf("MeterProvider is %T", p.MeterProvider)
			}
			if fields := p.Propagator.Fields(); !slices.Contains(fields, "traceparent") || !slices.Contains(fields, "baggage") {
				t.Errorf("propagates %v", fields)
			}
		})
	}
}

func TestSetupRefusesWhatItCannotDo(t *testing.T) {
	for key, value := range map[string]string{
		"OTEL_TRACES_EXPORTER":        "carrier-pigeon",
		"OTEL_METRICS_EXPORTER":       "carrier-pigeon",
		"OTEL_EXPORTER_OTLP_PROTOCOL": "smoke",
		"OTEL_RESOURCE_ATTRIBUTES":    "no-equals-sign",
	} {
		t.Run(key, func(t *testing.T) {
			clearEnv(t)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			t.Setenv(key, value)
			p, err := telemetry.Setup(t.Context(), telemetry.Options{Logger: slog.New(slog.DiscardHandler)})
			if err == nil {
				_ = p.Shutdown(t.Context())
				t.Fatal("Setup takes it")
			}
			if !strings.Contains(err.Error(), "OTEL_") {
				t.Errorf("the error does not say where to look: %v", err)
			}
		})
	}
}

func TestExport(t *testing.T) {
	clearEnv(t)
	receiver := otlptest.Start(t)
	receiver.Setenv(t)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	p, err := telemetry.Setup(t.Context(), telemetry.Options{Version: "1.2.3", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	_, span := p.TracerProvider.Tracer("test").Start(t.Context(), telemetry.SpanAdmit, trace.WithAttributes(telemetry.Team.String("red")))
	span.End()
	duration, err := p.MeterProvider.Meter("test").Float64Histogram(telemetry.RPCServerCallDuration,
		metric.WithExplicitBucketBoundaries(1, 10))
	if err != nil {
		t.Fatal(err)
	}
	duration.Record(t.Context(), 100)

	// Shutdown flushes, so nothing has to be waited for.
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}

	got := receiver.WaitSpan(t.Context(), t, telemetry.SpanAdmit)
	if attrs := otlptest.Attributes(got.GetAttributes()); attrs["chatsvc.team"] != "red" {
		t.Errorf("attributes %v", attrs)
	}
	resource := receiver.Resource()
	for key, want := range map[string]string{
		"service.name": "chatsvc", "service.version": "1.2.3", "deployment.environment.name": "test", "telemetry.sdk.language": "go",
	} {
		if resource[key] != want {
			t.Errorf("resource has %s=%q, want %q", key, resource[key], want)
		}
	}
	if resource["service.instance.id"] == "" {
		t.Error("nothing tells replicas apart")
	}
	points := receiver.Metrics()[telemetry.RPCServerCallDuration].GetHistogram().GetDataPoints()
	if len(points) != 1 {
		t.Fatalf("%d points", len(points))
	}
	bounds := points[0].GetExplicitBounds()
	if want := []float64{10, 20, 40, 80, 160, 300}; !reflect.DeepEqual(bounds[len(bounds)-len(want):], want) {
		t.Errorf("bounds %v", bounds)
	}
}

func TestLogHandler(t *testing.T) {
	traceID, err := trace.TraceIDFromHex("0af7651916cd43dd8448eb211c80319c")
	if err != nil {
		t.Fatal(err)
	}
	spanID, err := trace.SpanIDFromHex("b7ad6b7169203331")
	if err != nil {
		t.Fatal(err)
	}
	// Neither sampled nor recorded: the ids are logged all the same.
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID}))

	var out strings.Builder
	logger := telemetry.NewLogger(&out, slog.LevelInfo, false).With("team", "red")
	logger.DebugContext(ctx, "below the level")
	logger.InfoContext(ctx, "within")
	logger.InfoContext(t.Context(), "without")
	logger.WithGroup("call").InfoContext(ctx, "grouped", "code", "OK")

	var lines []map[string]any
	for line := range strings.Lines(out.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		delete(m, "time")
		lines = append(lines, m)
	}
	ids := map[string]any{"trace_id": traceID.String(), "span_id": spanID.String()}
	want := []map[string]any{
		{"level": "INFO", "msg": "within", "team": "red", "trace_id": ids["trace_id"], "span_id": ids["span_id"]},
		{"level": "INFO", "msg": "without", "team": "red"},
		{"level": "INFO", "msg": "grouped", "team": "red", "call": map[string]any{
			"code": "OK", "trace_id": ids["trace_id"], "span_id": ids["span_id"],
		}},
	}
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("got  %v\nwant %v", lines, want)
	}

	out.Reset()
	telemetry.NewLogger(&out, slog.LevelInfo, true).InfoContext(ctx, "text")
	if !strings.Contains(out.String(), "msg=text trace_id="+traceID.String()) {
		t.Errorf("text: %s", out.String())
	}
}
