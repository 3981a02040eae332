package auth

import (
	"context"
	"fmt"

	"github.com/go-jose/go-jose/v4"

	"github.com/chatsvc/chatsvc/internal/watched"
)

// keyFile is a JWKS in a file, which is looked at again when there is a token: a key that is taken out of it counts for one
// second more.
type keyFile struct {
	*watched.File[*keySet]
}

var _ keySource = keyFile{}

// newKeyFile reads the file: one that is missing or broken stops the start.
func newKeyFile(path string, o Options) (keyFile, error) {
	file, err := watched.Open(watched.Options[*keySet]{
		Path: path, Holds: "an issuer's keys", Parse: parseKeySet, Logger: o.Logger, Now: o.Now,
	})
	if err != nil {
		return keyFile{}, fmt.Errorf("reading jwks_file: %w", err)
	}
	return keyFile{file}, nil
}

func (f keyFile) current() *keySet { return f.Value() }

func (f keyFile) find(_ context.Context, keyID string, algorithm jose.SignatureAlgorithm) ([]jose.JSONWebKey, error) {
	if keys := f.Value().find(keyID, algorithm); len(keys) > 0 {
		return keys, nil
	}
	return nil, errUnknownToken
}
