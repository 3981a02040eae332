// Package config is what can be set from outside: one struct, its defaults in one function, read from a YAML file, then
// the environment, then flags, and checked as a whole before anything starts.
package config

import (
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// Config is a configuration that has been checked. Load makes it; nothing changes it afterwards.
type Config struct {
	// Listen is the address of the data plane.
	Listen string
	// AdminListen is the address of the admin listener.
	AdminListen string
	// DatabaseURL says where conversations are kept. It may hold a password: RedactedDatabase is what to show of it.
	DatabaseURL Secret
	// DefaultModel is the model of a request that names none.
	DefaultModel string
	Upstream     Upstream
	Auth         Auth
	// TLS is what both listeners present, and accept.
	TLS TLS
	// AllowPlaintext allows addresses other than loopback without TLS, and an upstream without TLS.
	AllowPlaintext bool
	// Dev is the mode for trying chatsvc on one machine; see Load for what it changes.
	Dev bool
	// DevKey is the API key of the team dev in Dev.
	DevKey     Secret
	Reflection Reflection
	Limits     Limits
	Retention  Retention
	Log        Log
}

// Upstream is the provider that answers, and how long it may take.
type Upstream struct {
	Mode Mode
	// BaseURL is the provider's, without a trailing slash. Unused with ModeSimulator.
	BaseURL string
	// APIKey and APIKeyFile are where the key comes from; KeySource reads them.
	APIKey     Secret
	APIKeyFile string
	// FirstEventTimeout is how long the provider may take to begin an answer, IdleTimeout how long to go on with it,
	// ConnectTimeout how long a connection may take.
	FirstEventTimeout, IdleTimeout, ConnectTimeout time.Duration
}

// TLS is the certificates of the listeners. All files are read again when they change.
type TLS struct {
	// CertFile and KeyFile are the server's certificate chain and its key, in PEM; empty for none, and no TLS.
	CertFile, KeyFile string
	// ClientCAFile is the authorities, in PEM, that client certificates must be from; empty: none are asked for.
	ClientCAFile string
	// RequireClientCert refuses connections without a client certificate.
	RequireClientCert bool
}

// Auth says who may call, besides those who have a key of the database.
type Auth struct {
	// APIKeys are the keys that callers present. In Dev the dev key is among them.
	APIKeys []APIKey
	// Certificates are the names in client certificates that may call.
	Certificates []Certificate
	// JWT are the issuers whose tokens may call.
	JWT []JWT
}

// APIKey is an API key by its digest, and who it belongs to.
type APIKey struct {
	// SHA256 is the digest of the key, 64 hex digits in lower case.
	SHA256 string
	// Team and Client are ids.
	Team, Client string
	// Roles are what it allows; none is tenant.RoleCaller.
	Roles tenant.Roles
}

// Certificate is auth.CertificateRule.
type Certificate struct {
	SAN, Team, Client string
	Roles             tenant.Roles
	AllowedModels     []string
}

// JWT is auth.Issuer.
type JWT struct {
	Issuer, Audience, JWKSFile         string
	TeamClaim, ClientClaim, RolesClaim string
	Roles                              tenant.Roles
}

// Limits bounds what callers can use.
type Limits struct {
	// MaxConcurrentStreams is how many RPCs may run on one connection.
	MaxConcurrentStreams uint32
	// MaxTurnDuration is the deadline of a turn that has no other.
	MaxTurnDuration time.Duration
	// ShutdownGrace is how long turns may take to end once the server is told to stop.
	ShutdownGrace time.Duration
}

// Retention is how long what callers leave is kept. Conversations are kept until they are deleted or expire.
type Retention struct {
	// OneShots is how long the content of a turn outside of a conversation is kept, from when it was made. It is as long as
	// its request_id stands for it, at least.
	OneShots time.Duration
	// Events is how long the events of a turn can be replayed, from when it was made; a turn that runs keeps its own.
	Events time.Duration
}

// Log says what is logged, and how.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// Mode is who answers.
type Mode string

// The modes.
const (
	ModeOpenAI    Mode = "openai"    // A server that speaks OpenAI's wire.
	ModeSimulator Mode = "simulator" // The embedded simulator.
)

// UnmarshalText takes one of the modes.
func (m *Mode) UnmarshalText(text []byte) error {
	return oneOf(m, string(text), ModeOpenAI, ModeSimulator)
}

// Reflection is who may read the schema from the server.
type Reflection string

// The choices.
const (
	ReflectionOff           Reflection = "off"           // Nobody.
	ReflectionAuthenticated Reflection = "authenticated" // Callers with a credential.
	ReflectionOpen          Reflection = "open"          // Everyone.
)

// UnmarshalText takes one of the choices.
func (r *Reflection) UnmarshalText(text []byte) error {
	return oneOf(r, string(text), ReflectionOff, ReflectionAuthenticated, ReflectionOpen)
}

// LogFormat is the form of a log line.
type LogFormat string

// The formats.
const (
	LogJSON LogFormat = "json" // For machines.
	LogText LogFormat = "text" // For people.
)

// UnmarshalText takes one of the formats.
func (f *LogFormat) UnmarshalText(text []byte) error {
	return oneOf(f, string(text), LogJSON, LogText)
}

func oneOf[T ~string](target *T, text string, choices ...T) error {
	var names []string
	for _, choice := range choices {
		if string(choice) == text {
			*target = choice
			return nil
		}
		names = append(names, string(choice))
	}
	last := len(names) - 1
	return errors.New("must be " + strings.Join(names[:last], ", ") + " or " + names[last])
}

// Default returns the configuration of a server that nothing is said to, before Dev is taken into account. It is not
// valid yet: without an upstream key there is nothing to serve.
func Default() Config {
	return Config{
		Listen:       "127.0.0.1:50051",
		AdminListen:  "127.0.0.1:50052",
		DatabaseURL:  NewSecret("sqlite:data/chatsvc.db"),
		DefaultModel: "gpt-5-mini",
		Upstream: Upstream{
			Mode:              ModeOpenAI,
			BaseURL:           "https://api.openai.com/v1",
			FirstEventTimeout: time.Minute,
			IdleTimeout:       30 * time.Second,
			ConnectTimeout:    10 * time.Second,
		},
		Reflection: ReflectionAuthenticated,
		Limits: Limits{
			MaxConcurrentStreams: 1000,
			MaxTurnDuration:      15 * time.Minute,
			ShutdownGrace:        30 * time.Second,
		},
		Retention: Retention{OneShots: 24 * time.Hour, Events: 24 * time.Hour},
		Log:       Log{Level: slog.LevelInfo, Format: LogJSON},
	}
}

// devDefaults replaces the defaults that are different in Dev, except where set says that somebody set them.
func (c *Config) devDefaults(set func(name string) bool) {
	// A key that merely lies in the environment must not be spent: only an address, or the mode itself, says that
	// somebody wants the real thing.
	if !set("upstream.mode") && !set("upstream.base_url") {
		c.Upstream.Mode = ModeSimulator
	}
	if !set("default_model") && c.Upstream.Mode == ModeSimulator {
		c.DefaultModel = "sim"
	}
	if !set("dev_key") {
		c.DevKey = NewSecret("dev")
	}
	if !set("reflection") {
		c.Reflection = ReflectionOpen
	}
	if !set("log.format") {
		c.Log.Format = LogText
	}
}

// SQLitePath returns the path of the SQLite file, and false where conversations are kept in PostgreSQL.
func (c *Config) SQLitePath() (path string, ok bool) {
	return strings.CutPrefix(c.DatabaseURL.Reveal(), "sqlite:")
}

// RedactedDatabase returns DatabaseURL as it may be shown: of PostgreSQL the scheme, the hosts and the database.
func (c *Config) RedactedDatabase() string {
	if _, isSQLite := c.SQLitePath(); isSQLite {
		return c.DatabaseURL.Reveal()
	}
	u, err := url.Parse(c.DatabaseURL.Reveal())
	if err != nil { // of a configuration that was never checked
		return c.DatabaseURL.String()
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// LogValue returns every setting by its name, secrets hidden.
func (c *Config) LogValue() slog.Value {
	var attrs []slog.Attr
	for _, f := range fields() {
		text := f.text(c)
		switch {
		case f.Name == "database_url":
			text = c.RedactedDatabase()
		case f.Name == "upstream.base_url" && c.Upstream.Mode == ModeSimulator:
			text = "" // not in use
		}
		attrs = append(attrs, slog.String(f.Name, text))
	}
	return slog.GroupValue(append(attrs,
		slog.Int(apiKeys, len(c.Auth.APIKeys)),
		slog.Int(certificates, len(c.Auth.Certificates)),
		slog.Int(jwt, len(c.Auth.JWT)),
	)...)
}
