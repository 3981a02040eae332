// Package auth says who is calling. It knows nothing of gRPC: the interceptor hands it what the transport carried, and
// puts the Principal that comes back into the call's context.
package auth

import (
	"context"
	"log/slog"
)

// Principal is who a call is made by. The team owns everything that the call creates, and sees nothing else.
type Principal struct {
	// Team is the team's id, without the `teams/` of its resource name.
	Team string
	// Client is the id of the team's service that calls.
	Client string
	// CredentialID names the credential in logs and audits. It is not a secret and cannot be presented as one.
	CredentialID string
}

// Credential is what a call presented to prove who it is.
type Credential struct {
	// Bearer is the token of the authorization header, as ParseBearer returns it.
	Bearer string
}

// LogValue hides the token: a credential that strays into a log line says only that it is one.
func (Credential) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// String hides the token.
func (Credential) String() string { return "[redacted]" }

// GoString hides the token.
func (Credential) GoString() string { return "[redacted]" }

// Authenticator finds the principal of a credential.
type Authenticator interface {
	// Authenticate returns the credential's principal. Its error is a *conversation.Error: CREDENTIAL_MISSING if there
	// is nothing to check, CREDENTIAL_INVALID if the credential is not known. The message is safe to send and never
	// holds any part of the credential, nor does it tell an unknown credential from one that nearly fits.
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
