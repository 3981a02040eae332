package tenant

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"strings"

	"github.com/google/uuid"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A token is what callers present: csk_{id}_{secret}, where the id is 16 and the secret 52 characters of a-z and 2-7, of 80
// and 256 random bits.

// TokenPrefix is what every token begins with.
const TokenPrefix = "csk_"

const (
	tokenAlphabet = "abcdefghijklmnopqrstuvwxyz234567"
	idBytes       = 10
	secretBytes   = 32
	idLen         = 16 // idBytes in base32
	secretLen     = 52 // secretBytes in base32
)

// ParseToken returns the id of the key that a token claims to be of, and false for what cannot be a token.
func ParseToken(token string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(token, TokenPrefix)
	if !ok || len(rest) != idLen+1+secretLen || rest[idLen] != '_' {
		return "", false
	}
	id, secret := rest[:idLen], rest[idLen+1:]
	if !ValidKeyID(id) || strings.Trim(secret, tokenAlphabet) != "" {
		return "", false
	}
	return id, true
}

// Is reports whether a token is that of the key, in a time that does not depend on where they differ.
func (k *Key) Is(token string) bool {
	digest := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(digest[:], k.Digest[:]) == 1
}

// encode returns bytes in the alphabet of tokens.
func encode(b []byte) string {
	return base32.NewEncoding(tokenAlphabet).WithPadding(base32.NoPadding).EncodeToString(b)
}

// random returns n random bytes; crypto/rand does not fail.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func newToken(id string, secret []byte) string { return TokenPrefix + id + "_" + encode(secret) }

// A requestID is a request_id, and what it is kept as. The zero value is none.
type requestID struct {
	id          uuid.UUID
	digest      Digest
	fingerprint Digest
}

// newRequestID checks a request_id: empty, or a UUID of version 4, which alone is random all over. It belongs to the team
// that calls and the method, so that nobody else's repeat finds it.
func newRequestID(text, team, method string) (requestID, error) {
	if text == "" {
		return requestID{}, nil
	}
	id, err := uuid.Parse(text)
	// Parse also takes other spellings, such as one in braces.
	if err != nil || len(text) != len(uuid.UUID{}.String()) || id.Version() != 4 || id.Variant() != uuid.RFC4122 {
		return requestID{}, invalid("request_id", "request_id must be a random UUID (version 4), such as uuidgen -r prints")
	}
	return requestID{id: id, digest: digestOf("chatsvc key request", team, method, id.String())}, nil
}

// secret returns the secret of a key with a salt: a repeat of the request has the same one, and neither what is stored
// nor the request_id alone says what it is.
func (r requestID) secret(salt []byte, key string) []byte {
	mac := hmac.New(sha256.New, r.id[:])
	mac.Write(salt)
	mac.Write([]byte(key))
	return mac.Sum(nil)
}

// issue sets the id of k, what is kept of its token, and what it is found by when the request is repeated; it returns
// the token.
func (r requestID) issue(k *Key) string {
	k.ID = encode(random(idBytes))
	var secret []byte
	if r.digest.IsZero() {
		secret = random(secretBytes)
	} else {
		k.Request, k.Fingerprint, k.Salt = r.digest, r.fingerprint, random(secretBytes)
		secret = r.secret(k.Salt, k.ID)
	}
	token := newToken(k.ID, secret)
	k.Digest = sha256.Sum256([]byte(token))
	return token
}

// token returns the token of a key that the request has made.
func (r requestID) token(k *Key) (string, error) {
	token := newToken(k.ID, r.secret(k.Salt, k.ID))
	if !k.Is(token) {
		return "", conversation.Errorf(conversation.Internal, "key %s is not what its request made", k.ID)
	}
	return token, nil
}

// digestOf is the SHA-256 of some texts, each of which is told from the next.
func digestOf(parts ...string) Digest {
	h := sha256.New()
	for _, part := range parts {
		sum := sha256.Sum256([]byte(part))
		h.Write(sum[:])
	}
	return Digest(h.Sum(nil))
}
