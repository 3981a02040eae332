package interceptor

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/telemetry"
	"github.com/chatsvc/chatsvc/internal/telemetry/otlptest"
)

// TestSettings looks at what the server tells a client on a real connection.
func TestSettings(t *testing.T) {
	tests := []struct {
		name    string
		limits  Limits
		streams uint32
	}{
		{name: "defaults", streams: 1000},
		{name: "configured", limits: Limits{MaxConcurrentStreams: 7}, streams: 7},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, func(o *Options) { o.Limits = tt.limits })
			conn, err := net.Dial("tcp", f.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
				t.Fatal(err)
			}
			framer := http2.NewFramer(conn, conn)
			if err := framer.WriteSettings(); err != nil {
				t.Fatal(err)
			}
			frame, err := framer.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			settings, ok := frame.(*http2.SettingsFrame)
			if !ok {
				t.Fatalf("the first frame is %T", frame)
			}
			for id, want := range map[http2.SettingID]uint32{
				http2.SettingMaxConcurrentStreams: tt.streams,
				http2.SettingMaxHeaderListSize:    16 << 10,
			} {
				if got, ok := settings.Value(id); !ok || got != want {
					t.Errorf("%s is %d, want %d", id, got, want)
				}
			}
		})
	}
}

func TestMessageSize(t *testing.T) {
	f := start(t, nil)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer sk-red")
	for size, want := range map[int]codes.Code{
		// Beyond the 4 MiB of the contract, our own refusal with its reason; beyond the limit, grpc's.
		5 << 20:  codes.InvalidArgument,
		17 << 20: codes.ResourceExhausted,
	} {
		for _, tw := range twins() {
			err := tw.call(ctx, f.conn, &chatsvcv1.CreateTurnRequest{Text: strings.Repeat("a", size)})
			if status.Code(err) != want {
				t.Errorf("%s of %d bytes: %v, want %s", tw.method, size, err, want)
			}
		}
	}
}

func TestStopWaitsForHandlers(t *testing.T) {
	f := start(t, nil)
	running, ended := make(chan struct{}), make(chan struct{})
	f.chat.handler = func(ctx context.Context) error {
		close(running)
		<-ctx.Done()
		// Whatever a handler does on its way out, here something slow, is done before the server is gone.
		<-time.After(50 * time.Millisecond)
		close(ended)
		return ctx.Err()
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer sk-red")
	stream, err := chatsvcv1.NewChatServiceClient(f.conn).StreamTurn(ctx, &chatsvcv1.CreateTurnRequest{Text: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	<-running
	f.server.Stop()
	select {
	case <-ended:
	default:
		t.Error("Stop returned before the handler did")
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the client is told %v", err)
	}
}

// TestTracing sends real calls with a caller's trace and looks at what a collector receives, and at the log.
func TestTracing(t *testing.T) {
	receiver := otlptest.Start(t)
	receiver.Setenv(t)
	providers, err := telemetry.Setup(t.Context(), telemetry.Options{Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	f := start(t, func(o *Options) {
		o.Tracing = Tracing{TracerProvider: providers.TracerProvider, MeterProvider: providers.MeterProvider, Propagator: providers.Propagator}
	})
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	ctx := metadata.AppendToOutgoingContext(t.Context(),
		"authorization", "Bearer sk-red", "traceparent", "00-"+trace+"-"+parent+"-01")

	for _, tw := range twins() {
		if err := tw.call(ctx, f.conn, &chatsvcv1.CreateTurnRequest{Text: "hello"}); err != nil {
			t.Fatal(err)
		}
		for _, line := range f.log.take(t) {
			if line["trace_id"] != trace {
				t.Errorf("%s is logged with the trace %v", tw.method, line["trace_id"])
			}
		}
	}
	// None of these is to be seen.
	if _, err := healthpb.NewHealthClient(f.conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"/chatsvc.v1.ChatService/MadeUp", "/chatsvc.v1.MadeUp/MadeUp", "/made.up/MadeUp"} {
		if err := f.conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unimplemented {
			t.Fatalf("%s: %v", method, err)
		}
	}

	// A span ends when its status has been written, which the client may see before: wait for both, then for the rest.
	for _, name := range []string{"chatsvc.v1.ChatService/CreateTurn", "chatsvc.v1.ChatService/StreamTurn"} {
		span := receiver.WaitSpan(t.Context(), t, name)
		if got := hex.EncodeToString(span.GetTraceId()); got != trace {
			t.Errorf("%s is in the trace %s", name, got)
		}
		if got := hex.EncodeToString(span.GetParentSpanId()); got != parent {
			t.Errorf("%s is below the span %s", name, got)
		}
		if attrs := otlptest.Attributes(span.GetAttributes()); attrs["chatsvc.team"] != "red" {
			t.Errorf("%s has the attributes %v", name, attrs)
		}
	}
	f.server.Stop()
	if err := providers.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if spans := receiver.Spans(); len(spans) != 2 {
		t.Errorf("%d spans: %v", len(spans), spans)
	}
	points := receiver.Metrics()[telemetry.RPCServerCallDuration].GetHistogram().GetDataPoints()
	if len(points) != 2 {
		t.Errorf("%d series of durations: %v", len(points), points)
	}
}

// TestTraceWithoutExport: a caller's trace id reaches the log also where nothing is exported.
func TestTraceWithoutExport(t *testing.T) {
	for key := range (&otlptest.Receiver{}).Env() {
		t.Setenv(key, "")
	}
	providers, err := telemetry.Setup(t.Context(), telemetry.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	f := start(t, func(o *Options) {
		o.Tracing = Tracing{TracerProvider: providers.TracerProvider, MeterProvider: providers.MeterProvider, Propagator: providers.Propagator}
	})
	const trace = "0af7651916cd43dd8448eb211c80319c"
	ctx := metadata.AppendToOutgoingContext(t.Context(),
		"authorization", "Bearer sk-red", "traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	for _, tw := range twins() {
		if err := tw.call(ctx, f.conn, &chatsvcv1.CreateTurnRequest{Text: "hello"}); err != nil {
			t.Fatal(err)
		}
		if got := f.log.take(t); len(got) != 1 || got[0]["trace_id"] != trace {
			t.Errorf("logged %v", got)
		}
	}
}
