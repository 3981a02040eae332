package interceptor

import (
	"context"
	"crypto/x509"
	"net/netip"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/telemetry"
)

// authentication finds the caller of an RPC, puts it where it is needed (into the context for the handler, into the log
// line, into the server span), and refuses it what its roles do not allow.
//
// It is our own rather than the middleware's, because that one does not know the method, and lets a service replace the
// check by a method with a certain name.
type authentication struct {
	authenticator auth.Authenticator
	methods       accessTable
	// needsCertificate and openReflection are as in Options.
	needsCertificate, openReflection bool
}

var errNoCertificate = conversation.Errorf(conversation.CredentialMissing,
	"this service needs a client certificate: connect with one that it accepts")

func (a authentication) handle(ctx context.Context, method string, next func(context.Context) error) error {
	if a.needsCertificate && certificateOf(ctx) == nil {
		return errNoCertificate
	}
	if a.openReflection && isReflection(serviceOf(method)) {
		return next(ctx)
	}
	credential, err := credentialOf(ctx)
	if err != nil {
		return err
	}
	p, err := a.authenticator.Authenticate(ctx, credential)
	if p.Team != "" { // known also of some who are refused
		FieldsFrom(ctx).setPrincipal(p)
		trace.SpanFromContext(ctx).SetAttributes(telemetry.Team.String(p.Team))
	}
	if err != nil {
		return err
	}
	// Reflection is the same for every caller; that who asks has a credential is enough.
	if !isReflection(serviceOf(method)) {
		if err := a.methods.check(method, p.Roles); err != nil {
			return err
		}
	}
	return next(auth.NewContext(ctx, p))
}

// credentialOf returns what a call presented. Only a call that has no authorization header at all is one by certificate:
// whatever is wrong with a header is an error, so that it never depends on the transport who a call is made by.
func credentialOf(ctx context.Context) (auth.Credential, error) {
	c := auth.Credential{Certificate: certificateOf(ctx), Source: sourceOf(ctx)}
	header := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(header) == 0 && c.Certificate != nil {
		return c, nil
	}
	token, err := auth.ParseBearer(header)
	if err != nil {
		return auth.Credential{}, err
	}
	c.Bearer = token
	return c, nil
}

// certificateOf returns the certificate that the client's end of the connection proved to have, or nil. One that came
// unasked, and that no authority of ours has signed, does not count.
func certificateOf(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return nil
	}
	return info.State.VerifiedChains[0][0]
}

// sourceOf returns the address at the other end of the connection, whatever headers say of another one. It is the zero Addr
// for what has none, such as a Unix socket. An IPv4 address is one also where the socket is of IPv6, and there is no zone,
// which would make an address part of no network.
func sourceOf(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return netip.Addr{}
	}
	// From its text, because below net/http it is nothing else.
	addr, err := netip.ParseAddrPort(p.Addr.String())
	if err != nil {
		return netip.Addr{}
	}
	return addr.Addr().Unmap().WithZone("")
}
