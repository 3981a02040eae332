package interceptor

import (
	"context"

	grpcauth "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/auth"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/telemetry"
)

// authenticate returns the function that finds the caller of an RPC and puts it where it is needed: into the context for
// the handler, into the log line, and into the server span.
func authenticate(a auth.Authenticator) grpcauth.AuthFunc {
	return func(ctx context.Context) (context.Context, error) {
		token, err := auth.ParseBearer(metadata.ValueFromIncomingContext(ctx, "authorization"))
		if err != nil {
			return nil, err
		}
		p, err := a.Authenticate(ctx, auth.Credential{Bearer: token})
		if err != nil {
			return nil, err
		}
		FieldsFrom(ctx).setPrincipal(p)
		trace.SpanFromContext(ctx).SetAttributes(telemetry.Team.String(p.Team))
		return auth.NewContext(ctx, p), nil
	}
}
