package config

import (
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
)

// Setting describes one setting to people.
type Setting struct {
	// Name is the path in the YAML file, such as upstream.idle_timeout.
	Name string
	// Env is the environment variable; empty for what only the file can hold.
	Env string
	// Flag is the flag of `chatsvc serve` without its dashes; empty for what has none, as no secret does.
	Flag string
	// Default is the default as it would be written; empty for none.
	Default string
	// Meaning is a sentence without its full stop.
	Meaning string
}

// Settings returns all settings, in the order of the documentation.
func Settings() []Setting {
	var settings []Setting
	defaults := Default()
	for _, f := range fields() {
		f.Default = f.text(&defaults)
		if f.Name == "database_url" { // hidden because of others' passwords
			f.Default = defaults.RedactedDatabase()
		}
		settings = append(settings, f.Setting)
	}
	return append(settings,
		Setting{Name: apiKeys, Meaning: "Keys that callers may present, besides those of the database: a list of `sha256` (hex), `team`, `client`, `roles` (`[caller]`)"},
		Setting{Name: certificates, Meaning: "Names in client certificates: a list of `san`, `team`, `client`, `roles`, `allowed_models`; instead of `team` and `client`, `{team}` and `{client}` may stand in `san`"},
		Setting{Name: jwt, Meaning: "Issuers of JWTs: a list of `issuer`, `audience`, `jwks_file` (else OIDC discovery), `team_claim` (`team`), `client_claim` (`client_id`), `roles_claim`, `roles`"},
	)
}

// Table returns the settings as a table in Markdown, for the README.
func Table() string {
	var b strings.Builder
	b.WriteString("| setting | environment | flag | default | meaning |\n|---|---|---|---|---|\n")
	code := func(prefix, s string) string {
		if s == "" {
			return ""
		}
		return "`" + prefix + s + "`"
	}
	for _, s := range Settings() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n",
			code("", s.Name), code("", s.Env), code("--", s.Flag), code("", s.Default), s.Meaning)
	}
	return b.String()
}

// The settings that are lists, and that only the file can hold.
const (
	apiKeys      = "auth.api_keys"
	certificates = "auth.certificates"
	jwt          = "auth.jwt"
)

// field is a setting and where it is kept.
type field struct {
	Setting
	at func(*Config) any
}

// fields returns every setting but the lists. A variable that is not given here is CHATSVC_ and the name in capitals.
func fields() []field {
	all := []field{
		{Setting{Name: "listen", Flag: "listen", Meaning: "Where callers connect"}, func(c *Config) any { return &c.Listen }},
		{Setting{Name: "admin_listen", Flag: "admin-listen", Meaning: "Where teams, keys and the audit are managed, and `/livez` and `/readyz` answer"}, func(c *Config) any { return &c.AdminListen }},
		{Setting{Name: "database_url", Flag: "database-url", Meaning: "Where conversations are kept: `sqlite:PATH`, or `postgres://USER@HOST/DATABASE` for several replicas"}, func(c *Config) any { return &c.DatabaseURL }},
		{Setting{Name: "default_model", Flag: "default-model", Meaning: "The model of a request that names none; with `--dev` and the simulator `sim`"}, func(c *Config) any { return &c.DefaultModel }},
		{Setting{Name: "upstream.mode", Flag: "upstream", Meaning: "Who answers: `openai`, or the embedded `simulator`, which is the default with `--dev` and no base URL"}, func(c *Config) any { return &c.Upstream.Mode }},
		{Setting{Name: "upstream.base_url", Env: "CHATSVC_OPENAI_BASE_URL", Meaning: "The upstream's base URL; `OPENAI_BASE_URL` is not read"}, func(c *Config) any { return &c.Upstream.BaseURL }},
		{Setting{Name: "upstream.api_key_file", Env: "OPENAI_API_KEY_FILE", Meaning: "A file with the upstream key; it is read again when it changes, and wins over the key itself"}, func(c *Config) any { return &c.Upstream.APIKeyFile }},
		{Setting{Name: "upstream.api_key", Env: "OPENAI_API_KEY", Meaning: "The upstream key"}, func(c *Config) any { return &c.Upstream.APIKey }},
		{Setting{Name: "upstream.first_event_timeout", Meaning: "How long the upstream may take to begin an answer; ten times that for a model that reasons"}, func(c *Config) any { return &c.Upstream.FirstEventTimeout }},
		{Setting{Name: "upstream.idle_timeout", Meaning: "How long the upstream may pause within an answer"}, func(c *Config) any { return &c.Upstream.IdleTimeout }},
		{Setting{Name: "upstream.connect_timeout", Meaning: "How long a connection to the upstream may take"}, func(c *Config) any { return &c.Upstream.ConnectTimeout }},
		{Setting{Name: "tls.cert_file", Meaning: "The server's certificate chain for both listeners, in PEM; read again when it changes, as all files here"}, func(c *Config) any { return &c.TLS.CertFile }},
		{Setting{Name: "tls.key_file", Meaning: "The certificate's key, in PEM"}, func(c *Config) any { return &c.TLS.KeyFile }},
		{Setting{Name: "tls.client_ca_file", Meaning: "The authorities that client certificates must be from, in PEM; without it none are asked for"}, func(c *Config) any { return &c.TLS.ClientCAFile }},
		{Setting{Name: "tls.require_client_cert", Meaning: "Refuse whoever has no client certificate; `/livez` and `/readyz` answer all the same"}, func(c *Config) any { return &c.TLS.RequireClientCert }},
		{Setting{Name: "allow_plaintext", Meaning: "Allow other addresses than loopback without TLS, as behind a mesh"}, func(c *Config) any { return &c.AllowPlaintext }},
		{Setting{Name: "dev", Flag: "dev", Meaning: "Try it on this machine: loopback only, the team `dev`, open reflection, the simulator"}, func(c *Config) any { return &c.Dev }},
		{Setting{Name: "dev_key", Meaning: "With `dev`, the key of the team `dev` instead of the literal `dev`"}, func(c *Config) any { return &c.DevKey }},
		{Setting{Name: "reflection", Meaning: "Who may read the schema: `off`, `authenticated`, or `open`, which is the default with `dev`"}, func(c *Config) any { return &c.Reflection }},
		{Setting{Name: "limits.max_concurrent_streams", Meaning: "How many calls may run on one connection"}, func(c *Config) any { return &c.Limits.MaxConcurrentStreams }},
		{Setting{Name: "limits.max_turn_duration", Meaning: "How long a turn may take that has no other deadline"}, func(c *Config) any { return &c.Limits.MaxTurnDuration }},
		{Setting{Name: "limits.shutdown_grace", Meaning: "How long running turns get when the server is told to stop"}, func(c *Config) any { return &c.Limits.ShutdownGrace }},
		{Setting{Name: "retention.one_shots", Meaning: "How long the content of a turn outside of a conversation is kept, from when it was made; at least `24h`"}, func(c *Config) any { return &c.Retention.OneShots }},
		{Setting{Name: "retention.events", Meaning: "How long the events of an ended turn can be replayed, from when it was made; at least `1h`"}, func(c *Config) any { return &c.Retention.Events }},
		{Setting{Name: "log.level", Flag: "log-level", Meaning: "`debug`, `info`, `warn` or `error`"}, func(c *Config) any { return &c.Log.Level }},
		{Setting{Name: "log.format", Flag: "log-format", Meaning: "`json`, or `text`, which is the default with `dev`"}, func(c *Config) any { return &c.Log.Format }},
	}
	for i, f := range all {
		if f.Env == "" {
			all[i].Env = "CHATSVC_" + strings.ToUpper(strings.ReplaceAll(f.Name, ".", "_"))
		}
	}
	return all
}

// parse sets the field from text. Errors do not repeat it.
func (f field) parse(c *Config, text string) error {
	switch p := f.at(c).(type) {
	case *string:
		*p = text
	case *Secret:
		*p = NewSecret(text)
	case *bool:
		// Not strconv.ParseBool, which takes t, F and 1.
		if text != "true" && text != "false" {
			return errors.New("must be true or false")
		}
		*p = text == "true"
	case *uint32:
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return fmt.Errorf("must be a whole number from 0 to %d", uint32(math.MaxUint32))
		}
		*p = uint32(n)
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return errors.New("must be a duration such as 30s or 15m")
		}
		*p = d
	case *slog.Level:
		level, ok := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[text]
		if !ok {
			return errors.New("must be debug, info, warn or error")
		}
		*p = level
	case encoding.TextUnmarshaler:
		return p.UnmarshalText([]byte(text))
	default:
		panic(fmt.Sprintf("config: the setting %s has a type that parse does not know", f.Name))
	}
	return nil
}

// text returns the field as it would be written, with secrets hidden.
func (f field) text(c *Config) string {
	switch p := f.at(c).(type) {
	case *string:
		return *p
	case *Secret:
		return p.String()
	case *bool:
		return strconv.FormatBool(*p)
	case *uint32:
		return strconv.FormatUint(uint64(*p), 10)
	case *time.Duration:
		return short(*p)
	case *slog.Level:
		return strings.ToLower(p.String())
	case *Mode:
		return string(*p)
	case *Reflection:
		return string(*p)
	case *LogFormat:
		return string(*p)
	default:
		panic(fmt.Sprintf("config: the setting %s has a type that text does not know", f.Name))
	}
}

// short writes 15m0s as 15m.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
