// Package interceptor is what every RPC passes before its handler: it is logged, its panics are caught, its caller is
// found and must have a role that allows the method, and its request is checked. It also sets the limits of the server and
// its tracing.
package interceptor

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"buf.build/go/protovalidate"
	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/selector"
	"google.golang.org/grpc"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// link is one interceptor in both of its forms, so that no RPC can pass a check that its streaming twin has.
type link struct {
	name   string
	unary  grpc.UnaryServerInterceptor
	stream grpc.StreamServerInterceptor
}

// newChain returns the interceptors, outermost first. The order matters:
//
//  1. log sees the outcome of all the others, and makes the one status that the caller gets. It is the only one that a
//     panic's outcome cannot pass by.
//  2. recover turns a panic of anything below it, not only of the handler, into an error.
//  3. denials tells the audit of who was refused, by auth or by the handler, which knows whose the names in a message are.
//  4. auth finds the caller, and looks whether its roles allow the method. It comes before anything that looks at the
//     message, so that a stranger learns nothing about what is valid.
//  5. validate hands the handler only messages that keep the rules of the proto.
//
// grpc-go reads the message of a unary RPC before the first of them. What is no message of the method's type, or too large,
// it refuses by itself, whoever calls: no link sees that, so that it is neither logged nor told to the audit.
func newChain(opts *Options) ([]link, error) {
	// Lazy, as is the default: with WithDisableLazy the validator would know no message but those listed, and let the
	// others pass unchecked or fail.
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("setting up the validation of requests: %w", err)
	}
	methods, err := ownMethods()
	if err != nil {
		return nil, err
	}
	log := around(callLog{logger: opts.Logger, toStatus: opts.ToStatus}.handle)
	caught := recovery.WithRecoveryHandlerContext(recovered)
	denied := around(denials{tell: opts.Denied}.handle)
	who := around(authentication{
		authenticator: opts.Authenticator, methods: methods,
		needsCertificate: opts.NeedsCertificate, openReflection: opts.OpenReflection,
	}.handle)
	check := validate{validator: validator, toStatus: opts.ToStatus}
	return []link{
		{
			name:   "log",
			unary:  log.unary,
			stream: log.stream,
		},
		{
			name:   "recover",
			unary:  recovery.UnaryServerInterceptor(caught),
			stream: recovery.StreamServerInterceptor(caught),
		},
		{
			name:   "denials",
			unary:  denied.unary,
			stream: denied.stream,
		},
		only(notHealth, link{
			name:   "auth",
			unary:  who.unary,
			stream: who.stream,
		}),
		// Reflection and health have messages without rules; they are none of our business.
		only(ours, link{
			name:   "validate",
			unary:  check.unary,
			stream: check.stream,
		}),
	}, nil
}

// only returns l for the services that applies accepts by their full name, and nothing for the others.
func only(applies func(service string) bool, l link) link {
	match := selector.MatchFunc(func(_ context.Context, call interceptors.CallMeta) bool { return applies(call.Service) })
	return link{
		name:   l.name,
		unary:  selector.UnaryServerInterceptor(l.unary, match),
		stream: selector.StreamServerInterceptor(l.stream, match),
	}
}

// ours reports whether a service is chatsvc's own.
func ours(service string) bool { return strings.HasPrefix(service, "chatsvc.") }

// serviceOf returns the service of a method as gRPC has it: /chatsvc.v1.ChatService/CreateTurn.
func serviceOf(fullMethod string) string {
	service, _, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	return service
}

// healthService is open to everyone: those who ask are load balancers, and the answer says nothing about any team.
const healthService = "grpc.health.v1.Health"

// isReflection reports whether a service is one of the two forms in which tools ask for the schema.
func isReflection(service string) bool {
	return service == "grpc.reflection.v1.ServerReflection" || service == "grpc.reflection.v1alpha.ServerReflection"
}

// notHealth reports whether a service asks who calls: all but health, so that one which is registered one day is closed until
// someone decides otherwise.
func notHealth(service string) bool { return service != healthService }

// around is an interceptor that only needs what both kinds of RPC have in common. next runs the rest of the chain.
type around func(ctx context.Context, method string, next func(context.Context) error) error

func (a around) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	err = a(ctx, info.FullMethod, func(ctx context.Context) error {
		var err error
		resp, err = handler(ctx, req)
		return err
	})
	return resp, err
}

func (a around) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return a(stream.Context(), info.FullMethod, func(ctx context.Context) error {
		wrapped := middleware.WrapServerStream(stream)
		wrapped.WrappedContext = ctx
		return handler(srv, wrapped)
	})
}

// Options is what the chain and the server are made of.
type Options struct {
	// Logger gets one line per RPC that reaches the chain; see newChain.
	Logger *slog.Logger
	// Authenticator knows the callers.
	Authenticator auth.Authenticator
	// Denied, if set, is told of each call that was refused for who made it, once and before the caller hears of it. Its
	// context does not end with the call: how long the caller waits is for Denied to bound. It is called concurrently.
	Denied func(context.Context, tenant.Entry)
	// ToStatus turns the errors of handlers, and those of this package, which are *conversation.Error, into the status
	// errors that callers see. It is called once per failed RPC, and not for an error that is a status already.
	ToStatus func(error) error
	// OpenReflection lets callers without a credential read the schema.
	OpenReflection bool
	// NeedsCertificate refuses calls over connections without a client certificate that was verified, but for health: for a
	// transport that does not refuse the connections themselves.
	NeedsCertificate bool

	Limits  Limits
	Tracing Tracing
}
