package auth

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// An issuer with https has its keys under https too, even on the same machine.
func TestKeysInPlaintext(t *testing.T) {
	asked := false
	keys := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer keys.Close()
	var is *httptest.Server
	is = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": is.URL, "jwks_uri": keys.URL})
	}))
	defer is.Close()
	d := newDiscovery(is.URL, Options{})
	d.client = is.Client()
	const want = "jwks_uri of the issuer's configuration must be a URL with https"
	if _, err := d.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), want) || asked {
		t.Errorf("error %v, asked for the keys: %t", err, asked)
	}
}
