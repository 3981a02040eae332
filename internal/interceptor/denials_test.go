package interceptor

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// incoming returns the context of a call with metadata.
func incoming(ctx context.Context, kv ...string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs(kv...))
}

func TestDenialOf(t *testing.T) {
	told := map[conversation.Reason]bool{
		conversation.CredentialMissing: true, conversation.CredentialInvalid: true, conversation.CredentialExpired: true,
		conversation.CredentialRevoked: true, conversation.RoleMissing: true, conversation.IPNotAllowed: true, conversation.ModelNotAllowed: true,
	}
	for number, name := range chatsvcv1.ErrorReason_name {
		reason := conversation.Reason(name[len("ERROR_REASON_"):])
		err := fmt.Errorf("doing it: %w", conversation.Errorf(reason, "no"))
		want := ""
		if told[reason] {
			want = string(reason)
			delete(told, reason)
		}
		if got := denialOf(err); got != want {
			t.Errorf("%d %s is told as %q", number, reason, got)
		}
	}
	if len(told) != 0 {
		t.Errorf("not in the proto: %v", told)
	}
	for err, want := range map[error]string{
		nil:                           "",
		errors.New("disk on fire"):    "",
		status.Error(7, "of its own"): "",
		tenant.ErrOtherTeam:           "",
		&conversation.Error{Reason: conversation.NotFound, Cause: fmt.Errorf("turns/1: %w", tenant.ErrOtherTeam)}:      tenant.OtherTeam,
		&conversation.Error{Reason: conversation.Internal, Cause: fmt.Errorf("turns/1: %w", tenant.ErrOtherTeam)}:      "",
		&conversation.Error{Reason: conversation.Internal, Cause: conversation.Errorf(conversation.RoleMissing, "no")}: "",
	} {
		if got := denialOf(err); got != want {
			t.Errorf("%v is told as %q, want %q", err, got, want)
		}
	}
}

// TestDenialOutlivesTheCall: who hangs up at once is told of nevertheless.
func TestDenialOutlivesTheCall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	told := 0
	d := denials{tell: func(ctx context.Context, _ tenant.Entry) {
		told++
		if err := ctx.Err(); err != nil {
			t.Error(err)
		}
	}}
	refusal := conversation.Errorf(conversation.CredentialInvalid, "no")
	err := d.handle(ctx, "/a/B", func(context.Context) error { cancel(); return refusal })
	if !errors.Is(err, refusal) || told != 1 {
		t.Errorf("told %d times, returns %v", told, err)
	}
	if err := (denials{}).handle(ctx, "/a/B", func(context.Context) error { return refusal }); !errors.Is(err, refusal) {
		t.Errorf("with nobody to tell: %v", err)
	}
}

// TestAuditEntry looks at what a handler gets, which is more than the denials show.
func TestAuditEntry(t *testing.T) {
	f := start(t, nil)
	for _, tw := range twins() {
		f.chat.handler = func(ctx context.Context) error {
			traceID := trace.TraceID{1, 2, 3}
			ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: trace.SpanID{1}}))
			want := denial(tw.method, "", "key:1")
			want.Outcome, want.Count, want.TraceID = "", 0, traceID.String()
			got := AuditEntry(ctx)
			if got.Time.Location() != time.UTC || time.Since(got.Time) > time.Minute {
				t.Errorf("%s: time %v", tw.method, got.Time)
			}
			got.Time = time.Time{}
			if asJSON(t, got) != asJSON(t, want) {
				t.Errorf("%s: entry %s\nwant %s", tw.method, asJSON(t, got), asJSON(t, want))
			}
			return nil
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer sk-red",
			"x-forwarded-for", "203.0.113.7", "x-team", "blue", "chatsvc-team", "blue")
		if err := tw.call(ctx, f.conn, &chatsvcv1.CreateTurnRequest{Text: "hello"}); err != nil {
			t.Error(err)
		}
	}
	outside := AuditEntry(t.Context())
	outside.Time = time.Time{}
	if asJSON(t, outside) != asJSON(t, tenant.Entry{}) {
		t.Errorf("outside of a call: %s", asJSON(t, outside))
	}
}
