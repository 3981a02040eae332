// Package otlptest is an OTLP receiver inside the test process: what a program exports over real gRPC can be looked at as
// the collector would see it.
package otlptest

import (
	"context"
	"net"
	"strconv"
	"sync"
	"testing"

	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// Receiver keeps everything that it is sent. It is safe for concurrent use.
type Receiver struct {
	// Endpoint is the URL for OTEL_EXPORTER_OTLP_ENDPOINT, with the protocol grpc.
	Endpoint string

	mu      sync.Mutex
	spans   []*tracepb.ResourceSpans
	metrics []*metricspb.ResourceMetrics
	arrived chan struct{} // closed and replaced whenever something arrives
}

// Start starts a receiver on a loopback port. It stops when the test ends.
func Start(tb testing.TB) *Receiver {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &Receiver{Endpoint: "http://" + listener.Addr().String(), arrived: make(chan struct{})}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	coltrace.RegisterTraceServiceServer(server, traceService{r: r})
	colmetrics.RegisterMetricsServiceServer(server, metricsService{r: r})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(listener); err != nil {
			tb.Errorf("otlptest: %v", err)
		}
	})
	tb.Cleanup(func() {
		server.Stop()
		wg.Wait()
	})
	return r
}

// Setenv points the standard OTEL_* variables at the receiver, for this test and for the processes that it starts, and
// makes exporters send soon rather than in large batches.
func (r *Receiver) Setenv(tb testing.TB) {
	tb.Helper()
	for key, value := range r.Env() {
		tb.Setenv(key, value)
	}
}

// Env returns the variables that Setenv sets, for a process with an environment of its own.
func (r *Receiver) Env() map[string]string {
	return map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": r.Endpoint,
		"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
		"OTEL_BSP_SCHEDULE_DELAY":     "50",
		"OTEL_METRIC_EXPORT_INTERVAL": "100",
	}
}

// Spans returns all spans so far, in the order of arrival. The receiver's own are returned: do not change them.
func (r *Receiver) Spans() []*tracepb.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.spansLocked()
}

func (r *Receiver) spansLocked() []*tracepb.Span {
	var spans []*tracepb.Span
	for _, resource := range r.spans {
		for _, scope := range resource.GetScopeSpans() {
			spans = append(spans, scope.GetSpans()...)
		}
	}
	return spans
}

// Metrics returns the latest state of each metric by name. Where several scopes or resources have one of the same name,
// the last to arrive wins.
func (r *Receiver) Metrics() map[string]*metricspb.Metric {
	r.mu.Lock()
	defer r.mu.Unlock()
	metrics := make(map[string]*metricspb.Metric)
	for _, resource := range r.metrics {
		for _, scope := range resource.GetScopeMetrics() {
			for _, m := range scope.GetMetrics() {
				metrics[m.GetName()] = m
			}
		}
	}
	return metrics
}

// Resource returns the attributes of the resource that sent the first spans, or the first metrics if there are no spans,
// as text.
func (r *Receiver) Resource() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.spans) > 0:
		return Attributes(r.spans[0].GetResource().GetAttributes())
	case len(r.metrics) > 0:
		return Attributes(r.metrics[0].GetResource().GetAttributes())
	default:
		return nil
	}
}

// WaitSpan waits for a span of that name and returns the first one. It fails the test when ctx ends before.
func (r *Receiver) WaitSpan(ctx context.Context, tb testing.TB, name string) *tracepb.Span {
	tb.Helper()
	for {
		r.mu.Lock()
		spans, arrived := r.spansLocked(), r.arrived
		r.mu.Unlock()
		for _, span := range spans {
			if span.GetName() == name {
				return span
			}
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			tb.Fatalf("no span %q came; %d others did", name, len(spans))
		}
	}
}

// Attributes returns attributes as text: strings and integers as they are, other values as protobuf prints them.
func Attributes(attrs []*commonpb.KeyValue) map[string]string {
	m := make(map[string]string, len(attrs))
	for _, kv := range attrs {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			m[kv.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			m[kv.GetKey()] = strconv.FormatInt(v.IntValue, 10)
		default:
			m[kv.GetKey()] = kv.GetValue().String()
		}
	}
	return m
}

// wake wakes everyone who waits. The caller holds the mutex.
func (r *Receiver) wake() {
	close(r.arrived)
	r.arrived = make(chan struct{})
}

type traceService struct {
	coltrace.UnimplementedTraceServiceServer
	r *Receiver
}

// Export keeps the spans.
func (s traceService) Export(_ context.Context, req *coltrace.ExportTraceServiceRequest) (*coltrace.ExportTraceServiceResponse, error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.spans = append(s.r.spans, req.GetResourceSpans()...)
	s.r.wake()
	return &coltrace.ExportTraceServiceResponse{}, nil
}

type metricsService struct {
	colmetrics.UnimplementedMetricsServiceServer
	r *Receiver
}

// Export keeps the metrics.
func (s metricsService) Export(_ context.Context, req *colmetrics.ExportMetricsServiceRequest) (*colmetrics.ExportMetricsServiceResponse, error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.metrics = append(s.r.metrics, req.GetResourceMetrics()...)
	s.r.wake()
	return &colmetrics.ExportMetricsServiceResponse{}, nil
}
