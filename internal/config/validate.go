package config

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/chatsvc/chatsvc/internal/auth"
)

// validate checks the configuration as a whole.
func (l *loader) validate() {
	l.addresses()
	l.database()
	l.upstream()
	l.callers()
	l.bounds()
}

func (l *loader) addresses() {
	c := &l.config
	for _, a := range []struct{ name, addr string }{{"listen", c.Listen}, {"admin_listen", c.AdminListen}} {
		name := a.name
		host, port, err := net.SplitHostPort(a.addr)
		if err != nil {
			l.fail(name, "must be host:port, such as 127.0.0.1:50051")
			continue
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			l.fail(name, "the port must be a number from 0 to 65535")
			continue
		}
		switch {
		case loopback(host):
		case c.Dev:
			l.fail(name, "dev serves loopback addresses only: use 127.0.0.1, [::1] or localhost")
		case !c.AllowPlaintext:
			l.fail(name, "is not a loopback address, and TLS comes with a later release; where something else encrypts, such as a mesh, set allow_plaintext")
		}
	}
	if c.Listen == c.AdminListen && !strings.HasSuffix(c.Listen, ":0") {
		l.fail("admin_listen", "is the same address as listen")
	}
}

// loopback reports whether a host, as it stands in an address or a URL, can only be this machine. A name other than
// localhost is not resolved: what it resolves to now is not what it will tomorrow.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func (l *loader) database() {
	u := l.config.DatabaseURL.Reveal()
	switch path, isSQLite := strings.CutPrefix(u, "sqlite:"); {
	case isSQLite && path == "":
		l.fail("database_url", "names no file: use sqlite:PATH")
	case isSQLite && strings.Contains(path, ":memory:"):
		l.fail("database_url", "must be a file: conversations have to survive a restart")
	case isSQLite:
	case strings.HasPrefix(u, "postgres://"), strings.HasPrefix(u, "postgresql://"):
		l.fail("database_url", "PostgreSQL comes with a later release: use sqlite:PATH")
	default:
		l.fail("database_url", "must be sqlite:PATH")
	}
}

// modelName is the rule of CreateTurnRequest.model.
var modelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@=,+-]{0,127}$`)

func (l *loader) upstream() {
	c, u := &l.config, &l.config.Upstream
	if !modelName.MatchString(c.DefaultModel) {
		l.fail("default_model", "is not the name of a model: letters, digits and . _ : / @ = , + -, at most 128")
	}
	if u.Mode == ModeSimulator {
		if l.set("upstream.base_url") {
			l.fail("upstream.base_url", "contradicts upstream.mode simulator, which has none")
		}
		return
	}
	base, err := url.Parse(u.BaseURL)
	switch {
	case err != nil, base.Scheme != "http" && base.Scheme != "https", base.Hostname() == "", base.User != nil, base.RawQuery != "", base.Fragment != "":
		l.fail("upstream.base_url", "must be an http or https URL without user, query and fragment")
	case base.Scheme == "http" && !loopback(base.Hostname()) && !c.AllowPlaintext:
		l.fail("upstream.base_url", "would send the key in the clear: use https, or set allow_plaintext where something else encrypts")
	}
	u.BaseURL = strings.TrimRight(u.BaseURL, "/")
	switch {
	case u.APIKeyFile != "":
	case !u.APIKey.IsSet():
		l.fail("upstream.api_key", "there is no upstream key: set OPENAI_API_KEY_FILE or OPENAI_API_KEY")
	case !headerSafe(u.APIKey.Reveal()):
		l.fail("upstream.api_key", "must be 1 to %d visible ASCII characters", auth.MaxBearer)
	}
}

// headerSafe reports whether a key can be sent as a bearer token.
func headerSafe(key string) bool {
	token, err := auth.ParseBearer([]string{"Bearer " + key})
	return err == nil && token == key
}

// Ids of teams and clients are parts of resource names, and stand in log lines and traces.
var (
	id     = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	digest = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func (l *loader) callers() {
	c := &l.config
	switch {
	case !c.Dev && c.DevKey.IsSet():
		l.fail("dev_key", "is set without dev")
	case c.Dev && !headerSafe(c.DevKey.Reveal()):
		l.fail("dev_key", "must be 1 to %d visible ASCII characters", auth.MaxBearer)
	}
	if len(c.Auth.APIKeys) == 0 {
		l.fail(apiKeys, "is empty, so that nobody could call; add the SHA-256 of a key, or try it with --dev")
	}
	seen := make(map[string]bool)
	for i, k := range c.Auth.APIKeys {
		switch {
		case k == (APIKey{}): // Not readable, and said so.
			continue
		case !digest.MatchString(k.SHA256):
			l.fail(apiKeys, "%s: sha256 must be 64 hex digits", describe(i, k))
		case k.SHA256 == auth.Digest(""), k.SHA256 == auth.Digest("\n"):
			l.fail(apiKeys, "%s: sha256 is the digest of nothing", describe(i, k))
		case !c.Dev && k.SHA256 == auth.Digest("dev"):
			l.fail(apiKeys, "%s: sha256 is the digest of the well-known key of --dev", describe(i, k))
		case seen[k.SHA256]:
			l.fail(apiKeys, "%s: the same sha256 stands there twice", describe(i, k))
		}
		seen[k.SHA256] = true
		if !id.MatchString(k.Team) || !id.MatchString(k.Client) {
			l.fail(apiKeys, "%s: team and client must be lower-case letters, digits and . _ -, at most 63", describe(i, k))
		}
	}
}

func (l *loader) bounds() {
	c := &l.config
	for _, b := range []struct {
		name     string
		value    time.Duration
		min, max time.Duration
	}{
		{"upstream.first_event_timeout", c.Upstream.FirstEventTimeout, time.Millisecond, time.Hour},
		{"upstream.idle_timeout", c.Upstream.IdleTimeout, time.Millisecond, time.Hour},
		{"upstream.connect_timeout", c.Upstream.ConnectTimeout, time.Millisecond, time.Hour},
		{"limits.max_turn_duration", c.Limits.MaxTurnDuration, time.Second, 24 * time.Hour},
		{"limits.shutdown_grace", c.Limits.ShutdownGrace, 0, 24 * time.Hour},
	} {
		if b.value < b.min || b.value > b.max {
			l.fail(b.name, "must be from %s to %s", short(b.min), short(b.max))
		}
	}
	if c.Limits.MaxConcurrentStreams == 0 {
		l.fail("limits.max_concurrent_streams", "must be at least 1")
	}
}
