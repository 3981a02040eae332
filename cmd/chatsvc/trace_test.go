package main

import (
	"encoding/hex"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/metadata"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/telemetry/otlptest"
)

// One turn is one trace, which goes on from the caller's: the server's span, and below it what the turn did.
func TestTrace(t *testing.T) {
	receiver := otlptest.Start(t)
	receiver.Setenv(t)
	p := serve(t, "")
	c := p.dial(t, redKey)
	const traceID = "0af7651916cd43dd8448eb211c80319c"
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+traceID+"-b7ad6b7169203331-01")
	turn, err := c.chat.CreateTurn(ctx, &chatsvcv1.CreateTurnRequest{Text: "PROMPT-CANARY [[sim tokens=7]]"})
	if err != nil {
		t.Fatal(err)
	}
	if turn.GetTraceId() != traceID {
		t.Errorf("Turn.trace_id is %q, want the caller's", turn.GetTraceId())
	}
	p.stop() // what is not sent yet is flushed

	spans := make(map[string]*tracepb.Span)
	for _, s := range receiver.Spans() {
		if hex.EncodeToString(s.GetTraceId()) != traceID {
			t.Errorf("span %s is in another trace", s.GetName())
		}
		if spans[s.GetName()] != nil {
			t.Errorf("a second span %s", s.GetName())
		}
		spans[s.GetName()] = s
	}
	server := spans["chatsvc.v1.ChatService/CreateTurn"]
	if server == nil {
		t.Fatalf("no server span in %v", spans)
	}
	for _, name := range []string{"assemble", "admit", "chat sim", "end"} {
		s := spans[name]
		if s == nil {
			t.Errorf("no span %s", name)
			continue
		}
		if hex.EncodeToString(s.GetParentSpanId()) != hex.EncodeToString(server.GetSpanId()) {
			t.Errorf("%s is not below the server's span", name)
		}
	}
	attributes := otlptest.Attributes(spans["chat sim"].GetAttributes())
	for key, want := range map[string]string{
		"gen_ai.operation.name":      "chat",
		"gen_ai.provider.name":       "openai",
		"gen_ai.request.model":       "sim",
		"gen_ai.response.model":      "sim",
		"gen_ai.usage.output_tokens": "7",
		"chatsvc.team":               "red",
	} {
		if got := attributes[key]; got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	for _, s := range receiver.Spans() {
		if text := s.String(); containsAny(text, "PROMPT-CANARY", "sk-canary", redKey) {
			t.Errorf("a span holds content or a key: %s", text)
		}
	}
	if log := p.logs.String(); containsAny(log, "PROMPT-CANARY", "sk-canary", redKey) {
		t.Error("the log holds content or a key")
	}
}

// A collector that is away costs telemetry, and neither answers nor the exit code.
func TestCollectorAway(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	p := serve(t, "")
	if got := p.dial(t, redKey).say(t, "", "Bonjour"); got == "" {
		t.Error("no answer")
	}
	if code := p.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(p.logs.String(), "the last telemetry is lost") {
		t.Error("nobody is told that telemetry is lost")
	}
}
