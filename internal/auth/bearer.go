package auth

import (
	"strings"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// MaxBearer is the most bytes that a bearer token may have.
const MaxBearer = 4096

// ParseBearer returns the token of the authorization header whose values are given, one element per header line.
//
// It is strict, because two parsers that read the same header differently are how credentials get confused: exactly one
// value, the scheme Bearer in any case, one space, then 1 to MaxBearer visible ASCII characters. Errors are
// *conversation.Error and never repeat what was sent.
func ParseBearer(values []string) (string, error) {
	switch {
	case len(values) == 0, len(values) == 1 && values[0] == "":
		return "", errMissing
	case len(values) > 1:
		return "", conversation.Errorf(conversation.CredentialInvalid,
			"the call carries more than one authorization header; send one")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "bearer") {
		return "", conversation.Errorf(conversation.CredentialInvalid,
			"the authorization header has another scheme than Bearer; send `authorization: Bearer KEY`")
	}
	if len(token) == 0 || len(token) > MaxBearer || strings.ContainsFunc(token, invisible) {
		return "", conversation.Errorf(conversation.CredentialInvalid,
			"the authorization header must be `Bearer`, one space, and a key of 1 to %d visible ASCII characters", MaxBearer)
	}
	return token, nil
}

// invisible reports whether r is anything but a visible ASCII character. Space counts as invisible.
func invisible(r rune) bool { return r < '!' || r > '~' }
