package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	// maxKeySet is the most bytes that a JWKS, or what leads to it, may have.
	maxKeySet = 1 << 20
	// maxTried is how many keys a token without a key id is tried with: it costs us a verification for each.
	maxTried = 8
	// minRSA is the fewest bits that an RSA key may have.
	minRSA = 2048
)

// keySource has the public keys of an issuer. It is safe for concurrent use.
type keySource interface {
	// current returns the keys in use, and does not wait for newer ones. What was verified with other keys does not count.
	current() *keySet
	// find returns the keys that a token may be signed with whose header has this key id, which may be empty, and this
	// algorithm, and reads the keys again for it if it may. If there is none the error is STORE_UNAVAILABLE where the last
	// try to read them failed, else errUnknownToken: also for a key so new that they may not be read again yet.
	find(ctx context.Context, keyID string, algorithm jose.SignatureAlgorithm) ([]jose.JSONWebKey, error)
}

// keySet is the keys of a JWKS that can be used here. Nobody changes it: keys that were read anew are another one.
type keySet struct {
	keys []jose.JSONWebKey
}

// parseKeySet returns the keys of a JWKS. Those that are for something else, or too weak, or of a kind that is not known,
// are left out; one of them must be left.
func parseKeySet(body []byte) (*keySet, error) {
	// One by one, so that a key of a kind that was invented later does not hide the others.
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return nil, fmt.Errorf("decode the JWKS: %w", err)
	}
	var set keySet
	for _, raw := range document.Keys {
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(raw); err == nil && usable(&k) {
			set.keys = append(set.keys, k)
		}
	}
	if len(set.keys) == 0 {
		return nil, errors.New("the JWKS has no public key that signatures can be verified with")
	}
	return &set, nil
}

func usable(k *jose.JSONWebKey) bool {
	if k.Use != "" && k.Use != "sig" || !k.Valid() {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= minRSA
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

// find returns the keys with an id, or with any if it is empty, for an algorithm.
func (s *keySet) find(keyID string, algorithm jose.SignatureAlgorithm) []jose.JSONWebKey {
	var found []jose.JSONWebKey
	for _, k := range s.keys {
		if (keyID == "" || k.KeyID == keyID) && fits(&k, algorithm) && len(found) < maxTried {
			found = append(found, k)
		}
	}
	return found
}

// fits reports whether an algorithm is one of the key, and the one that it is for if it says so.
func fits(k *jose.JSONWebKey, algorithm jose.SignatureAlgorithm) bool {
	if k.Algorithm != "" && k.Algorithm != string(algorithm) {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(string(algorithm), "RS") || strings.HasPrefix(string(algorithm), "PS")
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			return algorithm == jose.ES256
		case 384:
			return algorithm == jose.ES384
		case 521:
			return algorithm == jose.ES512
		}
	case ed25519.PublicKey:
		return algorithm == jose.EdDSA
	}
	return false
}

// errKeysUnreadable is the error for a token that might be good, if only its issuer's keys could be read.
func errKeysUnreadable(cause error) error {
	return &conversation.Error{
		Reason:  conversation.StoreUnavailable,
		Message: "the keys of the token's issuer cannot be read at the moment; try again",
		Cause:   cause,
	}
}
