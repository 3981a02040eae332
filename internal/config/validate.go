package config

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chatsvc/chatsvc/internal/auth"
)

// validate checks the configuration as a whole.
func (l *loader) validate() {
	l.addresses()
	l.tls()
	l.database()
	l.upstream()
	l.callers()
	l.bounds()
	l.retention()
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
		case auth.IsLoopback(host):
		case c.Dev:
			l.fail(name, "dev serves loopback addresses only: use 127.0.0.1, [::1] or localhost")
		case c.TLS.CertFile == "" && !c.AllowPlaintext:
			l.fail(name, "is not a loopback address, and would send keys in the clear: set tls.cert_file and tls.key_file; "+
				"where something else encrypts, such as a mesh, set allow_plaintext")
		}
	}
	if c.Listen == c.AdminListen && !strings.HasSuffix(c.Listen, ":0") {
		l.fail("admin_listen", "is the same address as listen")
	}
}

func (l *loader) tls() {
	t := l.config.TLS
	for _, need := range []struct {
		name  string
		lacks bool
		why   string
	}{
		{"tls.cert_file", t.CertFile == "" && t.KeyFile != "", "is needed with tls.key_file"},
		{"tls.key_file", t.KeyFile == "" && t.CertFile != "", "is needed with tls.cert_file"},
		{"tls.client_ca_file", t.ClientCAFile != "" && t.CertFile == "", "is of no use without tls.cert_file"},
		{"tls.require_client_cert", t.RequireClientCert && t.ClientCAFile == "", "is of no use without tls.client_ca_file"},
		{certificates, len(l.config.Auth.Certificates) > 0 && t.ClientCAFile == "", "is of no use without tls.client_ca_file"},
	} {
		if need.lacks {
			l.fail(need.name, "%s", need.why)
		}
	}
}

func (l *loader) database() {
	const name, forms = "database_url", "must be sqlite:PATH or postgres://USER@HOST/DATABASE"
	c := &l.config
	if path, isSQLite := c.SQLitePath(); isSQLite {
		switch {
		case path == "":
			l.fail(name, "names no file: use sqlite:PATH")
		case strings.Contains(path, ":memory:"):
			l.fail(name, "must be a file: conversations have to survive a restart")
		}
		return
	}
	u, err := url.Parse(c.DatabaseURL.Reveal()) // whose error repeats the password
	switch {
	case err != nil, u.Scheme != "postgres" && u.Scheme != "postgresql", u.Opaque != "":
		l.fail(name, forms)
	case u.Query().Has("host"):
		l.fail(name, "names its host in a parameter: use postgres://USER@HOST/DATABASE")
	case u.Host == "":
		l.fail(name, "names no host: use postgres://USER@HOST/DATABASE")
	case strings.Trim(u.Path, "/") == "":
		l.fail(name, "names no database: use postgres://USER@HOST/DATABASE")
	case u.Fragment != "":
		l.fail(name, "has a # in it, which must be written as %%23")
	case !c.AllowPlaintext && !encrypted(u.Query()) && !loopbackHosts(u.Host):
		l.fail(name, "would send conversations in the clear: add ?sslmode=verify-full, or set allow_plaintext where something else encrypts")
	}
}

// encrypted reports whether a connection with these parameters has TLS or fails. Without sslmode, a client takes what
// the server offers.
func encrypted(parameters url.Values) bool {
	return slices.Contains([]string{"require", "verify-ca", "verify-full"}, parameters.Get("sslmode"))
}

// loopbackHosts is auth.IsLoopback for the hosts of a PostgreSQL URL, which may be several, each with a port.
func loopbackHosts(hosts string) bool {
	for address := range strings.SplitSeq(hosts, ",") {
		if u := (url.URL{Host: address}); !auth.IsLoopback(u.Hostname()) {
			return false
		}
	}
	return true
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
	case base.Scheme == "http" && !auth.IsLoopback(base.Hostname()) && !c.AllowPlaintext:
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

func (l *loader) bounds() {
	c := &l.config
	l.between("upstream.first_event_timeout", c.Upstream.FirstEventTimeout, time.Millisecond, time.Hour)
	l.between("upstream.idle_timeout", c.Upstream.IdleTimeout, time.Millisecond, time.Hour)
	l.between("upstream.connect_timeout", c.Upstream.ConnectTimeout, time.Millisecond, time.Hour)
	l.between("limits.max_turn_duration", c.Limits.MaxTurnDuration, time.Second, 24*time.Hour)
	l.between("limits.shutdown_grace", c.Limits.ShutdownGrace, 0, 24*time.Hour)
	if c.Limits.MaxConcurrentStreams == 0 {
		l.fail("limits.max_concurrent_streams", "must be at least 1")
	}
}

func (l *loader) retention() {
	const year = 365 * 24 * time.Hour
	r := &l.config.Retention
	l.between("retention.one_shots", r.OneShots, 24*time.Hour, year) // a request_id stands for its answer that long
	l.between("retention.events", r.Events, time.Hour, year)
}

func (l *loader) between(name string, value, least, most time.Duration) {
	if value < least || value > most {
		l.fail(name, "must be from %s to %s", short(least), short(most))
	}
}
