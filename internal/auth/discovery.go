package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// fetchTimeout is how long reading an issuer's keys may take.
	fetchTimeout = 5 * time.Second
	// fetchSpacing is the least time between two reads, whatever key ids strangers invent. After failures it doubles, up to
	// maxFetchSpacing.
	fetchSpacing    = 10 * time.Second
	maxFetchSpacing = time.Minute
	// Keys are read again, in passing, when there is a token and they are older than refreshAfter; from waitAfter on the
	// token waits for it, so that a key that was withdrawn while nobody called does not count once more.
	refreshAfter = 5 * time.Minute
	waitAfter    = 30 * time.Minute
)

// discovery reads an issuer's keys from where its OpenID configuration says that they are. It reads when there is a token
// that needs it, one read at a time, which all tokens wait for together. While the issuer cannot be reached the last good
// keys stay in use.
//
// So a key that its issuer withdraws counts for about six minutes more: the first token to be verified that is later than
// refreshAfter begins the next read, a token in steady use is verified each verifiedFor, and a read takes fetchTimeout at
// most. After a pause in the calls it counts until the read that the first of them begins has ended, and where the issuer
// cannot be read, until it can.
type discovery struct {
	issuer string
	client *http.Client
	logger *slog.Logger
	now    func() time.Time

	mu       sync.Mutex
	set      *keySet
	read     time.Time // when set was read
	next     time.Time // when it may be read again
	failures int       // since it was last read
	err      error     // of the last read
	reading  chan struct{}
}

var _ keySource = (*discovery)(nil)

// newDiscovery reads nothing yet.
func newDiscovery(issuer string, o Options) *discovery {
	return &discovery{issuer: issuer, client: newClient(), logger: o.Logger, now: o.Now, set: &keySet{}}
}

func (d *discovery) current() *keySet {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.set
}

func (d *discovery) find(ctx context.Context, keyID string, algorithm jose.SignatureAlgorithm) ([]jose.JSONWebKey, error) {
	keys, reading := d.look(ctx, keyID, algorithm)
	if reading != nil {
		select {
		case <-reading:
		case <-ctx.Done():
			return nil, errKeysUnreadable(ctx.Err())
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if reading != nil {
		keys = d.set.find(keyID, algorithm)
	}
	switch {
	case len(keys) > 0:
		return keys, nil
	case d.err != nil:
		return nil, errKeysUnreadable(d.err)
	}
	return nil, errUnknownToken
}

// look returns the keys that there are, and what to wait for before they count.
func (d *discovery) look(
	ctx context.Context, keyID string, algorithm jose.SignatureAlgorithm,
) ([]jose.JSONWebKey, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	keys := d.set.find(keyID, algorithm)
	age := d.now().Sub(d.read)
	if len(keys) == 0 || age >= refreshAfter {
		// The read is everyone's: it goes on when this call ends.
		d.startLocked(context.WithoutCancel(ctx))
	}
	if len(keys) > 0 && (age < waitAfter || d.err != nil) {
		return keys, nil
	}
	return keys, d.reading
}

// start begins to read the keys, and does not wait for it.
func (d *discovery) start(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.startLocked(ctx)
}

func (d *discovery) startLocked(ctx context.Context) {
	now := d.now()
	if d.reading != nil || now.Before(d.next) {
		return
	}
	d.next = now.Add(min(fetchSpacing<<min(d.failures, 10), maxFetchSpacing))
	done := make(chan struct{})
	d.reading = done
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		set, err := d.fetch(ctx)

		d.mu.Lock()
		defer d.mu.Unlock()
		d.reading, d.err = nil, err
		if err != nil {
			d.failures++
			d.logger.WarnContext(ctx, "an issuer's keys cannot be read; those that are known stay in use",
				"issuer", d.issuer, "known", len(d.set.keys), "error", err)
			return
		}
		if d.failures > 0 {
			d.logger.InfoContext(ctx, "an issuer's keys can be read again", "issuer", d.issuer)
		}
		d.set, d.read, d.failures = set, now, 0
	}()
}

// fetch reads the issuer's configuration, and its keys.
func (d *discovery) fetch(ctx context.Context) (*keySet, error) {
	body, err := get(ctx, d.client, strings.TrimSuffix(d.issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, fmt.Errorf("read the issuer's configuration: %w", err)
	}
	var configuration struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &configuration); err != nil {
		return nil, fmt.Errorf("decode the issuer's configuration: %w", err)
	}
	if configuration.Issuer != d.issuer {
		return nil, fmt.Errorf("the issuer's configuration is of another issuer, %.200q", configuration.Issuer)
	}
	// This machine's own http is for issuers on it: what one elsewhere says of here is not to be asked.
	if err := checkURL(configuration.JWKSURI, strings.HasPrefix(d.issuer, "http:")); err != nil {
		return nil, fmt.Errorf("jwks_uri of the issuer's configuration %w", err)
	}
	if body, err = get(ctx, d.client, configuration.JWKSURI); err != nil {
		return nil, fmt.Errorf("read the issuer's JWKS: %w", err)
	}
	return parseKeySet(body)
}

// newClient returns a client for issuers. It keeps no connections: it is used every few minutes, and leaves nothing to be
// closed.
func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DisableKeepAlives:     true,
			ForceAttemptHTTP2:     true,
			ResponseHeaderTimeout: fetchTimeout,
		},
		// An issuer that has moved says so in the configuration. A redirect to elsewhere could be anybody's.
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme || len(via) > 3 {
				return errors.New("it redirects to another host, or too often")
			}
			return nil
		},
	}
}

// get returns what is at a URL.
func get(ctx context.Context, client *http.Client, address string) (body []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", address, response.StatusCode)
	}
	body, err = io.ReadAll(io.LimitReader(response.Body, maxKeySet+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	if len(body) > maxKeySet {
		return nil, fmt.Errorf("%s has more than %d bytes", address, maxKeySet)
	}
	return body, nil
}

// checkIssuerURL refuses what cannot be an issuer.
func checkIssuerURL(s string) error {
	if err := checkURL(s, true); err != nil {
		return err
	}
	if strings.ContainsAny(s, "?#") {
		return errors.New("must have no query and no fragment")
	}
	return nil
}

// checkURL refuses a URL over which keys could be replaced on the way. Where it may be local, http on this machine will do.
func checkURL(s string, local bool) error {
	u, err := url.Parse(s)
	switch {
	case err == nil && u.Host != "" && u.User == nil &&
		(u.Scheme == "https" || local && u.Scheme == "http" && IsLoopback(u.Hostname())):
		return nil
	case local:
		return errors.New("must be a URL with https, or with http on this machine")
	}
	return errors.New("must be a URL with https, as the issuer is")
}

// IsLoopback reports whether a host, as it stands in an address or a URL, can only be this machine, to which credentials go
// unencrypted too. A name other than localhost is not resolved: what it resolves to now is not what it will tomorrow.
func IsLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
