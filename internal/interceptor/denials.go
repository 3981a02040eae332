package interceptor

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// denials tells of each call that was refused for who made it, before the caller hears of it.
type denials struct {
	tell func(context.Context, tenant.Entry)
}

func (d denials) handle(ctx context.Context, _ string, next func(context.Context) error) error {
	err := next(ctx)
	reason := denialOf(err)
	if reason == "" || d.tell == nil {
		return err
	}
	entry := AuditEntry(ctx)
	entry.Outcome, entry.Reason, entry.Count = tenant.Denied, reason, 1
	d.tell(context.WithoutCancel(ctx), entry) // who hangs up at once is to leave a trace nevertheless
	return err
}

// denialOf returns the reason that the audit has for an error, or "" if it is not a denial. A name that is another team's is
// one, although the caller is told what it is told of a name that does not exist.
func denialOf(err error) string {
	domain, ok := errors.AsType[*conversation.Error](err)
	if !ok {
		return ""
	}
	switch domain.Reason {
	case conversation.CredentialMissing, conversation.CredentialInvalid, conversation.CredentialExpired, conversation.CredentialRevoked,
		conversation.RoleMissing, conversation.IPNotAllowed:
		return string(domain.Reason)
	case conversation.ModelNotAllowed:
		if domain.Turn.IsZero() { // else it is the result of a turn, whoever reads it
			return string(domain.Reason)
		}
		return ""
	case conversation.NotFound:
		if errors.Is(err, tenant.ErrOtherTeam) {
			return tenant.OtherTeam
		}
		return ""
	default:
		return ""
	}
}

// AuditEntry returns what the audit has to know of the call that ctx belongs to: time, method, caller, source and trace. Its
// Team is the caller's; for a change, the rest is the handler's to fill in. What callers write, be it metadata or message,
// is not in it; of a trace that they began, the id.
func AuditEntry(ctx context.Context) tenant.Entry {
	e := tenant.Entry{Time: time.Now().UTC()}
	if method, ok := grpc.Method(ctx); ok {
		e.Action = strings.TrimPrefix(method, "/")
	}
	p, ok := auth.FromContext(ctx)
	if !ok { // it was refused, or its way in has not ended
		_, p = FieldsFrom(ctx).get()
	}
	e.Team = p.Team
	e.Actor = tenant.Actor{Team: p.Team, Client: p.Client, Credential: p.CredentialID}
	if source := sourceOf(ctx); source.IsValid() {
		e.Source = source.String()
	}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		e.TraceID = span.TraceID().String()
	}
	return e
}
