// Package auth says who is calling. It knows nothing of gRPC: the interceptor hands it what the transport carried, and
// puts the Principal that comes back into the call's context.
package auth

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/netip"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// Principal is who a call is made by. The team owns everything that the call creates, and sees nothing else.
type Principal struct {
	// Team is the team's id, without the `teams/` of its resource name.
	Team string
	// Client is the id of the team's service that calls.
	Client string
	// CredentialID names the credential in logs and audits. It is not a secret and cannot be presented as one.
	CredentialID string
	// Roles are what the credential allows. With none it may call only what needs no particular role.
	Roles tenant.Roles
	// AllowedModels are the models that may be asked; empty is all. Nobody changes it.
	AllowedModels []string
	// ExpireTime is when the credential ends; zero if it does not.
	ExpireTime time.Time
}

// Credential is what a call presented to prove who it is, and where it came from.
type Credential struct {
	// Bearer is the token of the authorization header, as ParseBearer returns it; empty without one.
	Bearer string
	// Certificate is the client's, which the TLS handshake verified; nil without one. It counts only where there is no
	// Bearer.
	Certificate *x509.Certificate
	// Source is the address that the connection comes from.
	Source netip.Addr
}

// LogValue hides the token: a credential that strays into a log line says only that it is one.
func (Credential) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// String hides the token.
func (Credential) String() string { return "[redacted]" }

// GoString hides the token.
func (Credential) GoString() string { return "[redacted]" }

// Authenticator finds the principal of a credential.
type Authenticator interface {
	// Authenticate returns the credential's principal. Its error is a *conversation.Error with one of these reasons:
	//
	//   - CREDENTIAL_MISSING: there is nothing to check.
	//   - CREDENTIAL_INVALID: it is nobody's. A credential that nearly fits gets the same error as any other.
	//   - CREDENTIAL_EXPIRED, CREDENTIAL_REVOKED, IP_NOT_ALLOWED: it is somebody's, but does not count any more, or not from
	//     there. Only who presented all of it learns that. The principal is returned as well, for the audit.
	//   - STORE_UNAVAILABLE: whose it is cannot be found out at the moment.
	//
	// The message is safe to send, and no part of the error holds any of the credential.
	//
	// It is called once per RPC, concurrently, on the caller's time: it must not wait longer than ctx allows.
	Authenticate(ctx context.Context, c Credential) (Principal, error)
}

type principalKey struct{}

// NewContext returns a context that carries p.
func NewContext(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// FromContext returns the principal of the call that ctx belongs to. It reports false for a method that needs no
// credential; a handler of one that does may treat that as a fault of the wiring.
func FromContext(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}
