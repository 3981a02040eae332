package interceptor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
)

// Fields is what is learnt about a call on its way in, for the line that is logged on its way out. The context goes only
// inwards, so the log interceptor puts a pointer into it, which the others fill. It is safe for concurrent use.
type Fields struct {
	mu        sync.Mutex
	turn      string
	principal auth.Principal
}

type fieldsKey struct{}

// FieldsFrom returns the fields of the call that ctx belongs to. It is never nil: outside of a call it returns fields that
// nobody will read, so that callers need not care.
func FieldsFrom(ctx context.Context) *Fields {
	if f, ok := ctx.Value(fieldsKey{}).(*Fields); ok {
		return f
	}
	return &Fields{}
}

// SetTurn sets the resource name of the turn that the call is about. The last one wins.
func (f *Fields) SetTurn(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn = name
}

func (f *Fields) setPrincipal(p auth.Principal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.principal = p
}

func (f *Fields) get() (turn string, p auth.Principal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.turn, f.principal
}

// callLog logs each RPC once, when it has ended. The line holds names, ids, numbers and, where there is one, the cause of
// the error; never content, metadata or a key. The trace id is added by the logger's handler, from the context.
//
// It is our own rather than the middleware's, because the cause of an error is gone once the status is made: whoever logs
// it has to make the status too.
type callLog struct {
	logger   *slog.Logger
	toStatus func(error) error
}

func (l callLog) handle(ctx context.Context, method string, next func(context.Context) error) error {
	start := time.Now()
	fields := &Fields{}
	cause := next(context.WithValue(ctx, fieldsKey{}, fields))
	elapsed := time.Since(start)

	var err error
	if cause != nil {
		err = l.status(cause)
	}
	level := levelOf(method, status.Code(err))
	if !l.logger.Enabled(ctx, level) {
		return err
	}
	turn, principal := fields.get()
	attrs := make([]slog.Attr, 0, 11)
	attrs = append(attrs,
		slog.String("method", method),
		slog.String("code", status.Code(err).String()),
		slog.Float64("duration_ms", float64(elapsed)/float64(time.Millisecond)),
	)
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		attrs = append(attrs, slog.String("peer", p.Addr.String()))
	}
	if principal.Team != "" {
		attrs = append(attrs, slog.String("team", principal.Team), slog.String("client", principal.Client),
			slog.String("credential", principal.CredentialID))
	}
	if info := errorInfo(err); info != nil {
		attrs = append(attrs, slog.String("reason", info.GetReason()))
		if turn == "" {
			turn = info.GetMetadata()["turn"]
		}
	}
	if turn != "" {
		attrs = append(attrs, slog.String("turn", turn))
	}
	attrs = append(attrs, causeOf(cause)...)
	// The call's own context may have ended, but its values, the trace among them, are what the handler needs.
	l.logger.LogAttrs(context.WithoutCancel(ctx), level, "call", attrs...)
	return err
}

// status returns err as the status error that goes to the caller.
func (l callLog) status(err error) error {
	// Not errors.As: what wraps a status has words of its own, which are not for the caller.
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	return l.toStatus(err)
}

// levelOf says how much a call's outcome matters to those who run the service. What callers do wrong is no concern of
// theirs; probes of health come every second and say nothing, nor does reflection, which comes with every call of grpcurl.
func levelOf(method string, code codes.Code) slog.Level {
	switch code {
	case codes.Unknown, codes.Internal, codes.DataLoss:
		return slog.LevelError
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		return slog.LevelWarn
	case codes.OK, codes.Canceled:
		if service := serviceOf(method); service == healthService || isReflection(service) {
			return slog.LevelDebug
		}
		return slog.LevelInfo
	default:
		return slog.LevelInfo
	}
}

func errorInfo(err error) *errdetails.ErrorInfo {
	if err == nil {
		return nil
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// causeOf returns what the caller is not told. The message of a *conversation.Error is left out: it went to the caller, and
// may name what the caller sent.
func causeOf(err error) []slog.Attr {
	if err == nil {
		return nil
	}
	var attrs []slog.Attr
	if p := (*panicError)(nil); errors.As(err, &p) {
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	var domain *conversation.Error
	if !errors.As(err, &domain) {
		switch status.Code(err) {
		case codes.Unknown, codes.Internal, codes.DataLoss: // Unknown is also what is no status at all.
			return append(attrs, slog.String("error", err.Error()))
		default:
			return attrs
		}
	}
	switch {
	case domain.Cause != nil:
		return append(attrs, slog.String("error", domain.Cause.Error()))
	case domain.Reason == conversation.Internal:
		return append(attrs, slog.String("error", err.Error()))
	default:
		return attrs
	}
}

// maxPanicText bounds what a panic's value adds to the log: enough for any message, too little for a conversation.
const maxPanicText = 256

// panicError is a panic that was caught.
type panicError struct {
	text  string
	stack []byte
}

func (e *panicError) Error() string { return "panic: " + e.text }

// recovered makes the error of a call that panicked. It is called by the deferred function that caught the panic, so the
// stack is still that of the panic.
func recovered(_ context.Context, value any) error {
	err := conversation.Errorf(conversation.Internal, "a fault in chatsvc; its log has the rest under this call's trace id")
	err.Cause = &panicError{text: clip(fmt.Sprint(value), maxPanicText), stack: debug.Stack()}
	return err
}
