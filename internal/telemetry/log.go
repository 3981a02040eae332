package telemetry

import (
	"context"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// NewLogger returns a logger that writes one line per record to w, as text for people or as JSON for machines, from level
// on. Records logged with the context of a call carry its trace_id and span_id.
func NewLogger(w io.Writer, level slog.Leveler, text bool) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if text {
		return slog.New(NewLogHandler(slog.NewTextHandler(w, opts)))
	}
	return slog.New(NewLogHandler(slog.NewJSONHandler(w, opts)))
}

// LogHandler adds trace_id and span_id to each record whose context belongs to a trace, whether or not the trace is
// sampled or exported: the caller may have the other half of it. In a logger with an open group they stand in the group.
type LogHandler struct {
	next slog.Handler
}

var _ slog.Handler = LogHandler{}

// NewLogHandler returns a handler that hands its records on to next.
func NewLogHandler(next slog.Handler) LogHandler { return LogHandler{next: next} }

// Enabled reports whether the next handler wants the record.
func (h LogHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle hands the record on with the ids added.
func (h LogHandler) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r = r.Clone()
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs returns a handler whose records have attrs too.
func (h LogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return LogHandler{next: h.next.WithAttrs(attrs)}
}

// WithGroup returns a handler whose records' attributes stand in a group.
func (h LogHandler) WithGroup(name string) slog.Handler {
	return LogHandler{next: h.next.WithGroup(name)}
}
