package openai

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/chatsvc/chatsvc/internal/provider"
	"github.com/chatsvc/chatsvc/internal/provider/providertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProvider(t *testing.T) {
	providertest.Run(t, func(t *testing.T, url string) provider.Provider {
		return newTestClient(t, Options{
			BaseURL:           url,
			FirstEventTimeout: providertest.FirstEventTimeout,
			IdleTimeout:       providertest.IdleTimeout,
			MaxLineBytes:      providertest.MaxLineBytes,
			MaxStreamBytes:    providertest.MaxStreamBytes,
		})
	})
}

func newTestClient(t testing.TB, o Options) *Client {
	t.Helper()
	if o.Key == nil {
		o.Key = func() string { return providertest.Key }
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
