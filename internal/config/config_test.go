package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// callers is a valid section auth.
var callers = "auth:\n  api_keys:\n    - {sha256: " + auth.Digest("sk-red") + ", team: red, client: web}\n"

// tlsFiles is a section tls.
const tlsFiles = "tls: {cert_file: c.pem, key_file: k.pem, client_ca_file: ca.pem}\n"

// load runs Load on a file of that content, an environment and flags.
func load(t *testing.T, yaml string, environ []string, flags map[string]string) (*Config, error) {
	t.Helper()
	src := Source{Environ: environ, Flags: flags, OtherEnv: []string{"CHATSVC_SERVER"}}
	if yaml != "" {
		src.File = filepath.Join(t.TempDir(), "chatsvc.yaml")
		if err := os.WriteFile(src.File, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Load(src)
}

func TestLoad(t *testing.T) {
	key := []string{"OPENAI_API_KEY=sk-openai"}
	dev := map[string]string{"dev": "true"}
	all := tenant.RolesOf(tenant.RoleCaller, tenant.RoleTeamAdmin, tenant.RolePlatformAdmin, tenant.RoleAuditor)
	devKey := APIKey{SHA256: auth.Digest("dev"), Team: "dev", Client: "dev", Roles: all}
	// The defaults, and those with dev.
	plain := func() Config {
		c := Default()
		c.Upstream.APIKey = NewSecret("sk-openai")
		c.Auth.APIKeys = []APIKey{{SHA256: auth.Digest("sk-red"), Team: "red", Client: "web"}}
		return c
	}
	trial := func() Config {
		c := Default()
		c.Dev, c.DevKey, c.Auth.APIKeys = true, NewSecret("dev"), []APIKey{devKey}
		c.Upstream.Mode, c.DefaultModel = ModeSimulator, "sim"
		c.Reflection, c.Log.Format = ReflectionOpen, LogText
		return c
	}
	tests := []struct {
		name    string
		yaml    string
		environ []string
		flags   map[string]string
		base    func() Config
		change  func(*Config)
	}{
		{name: "the least", yaml: callers, environ: key, base: plain},
		{name: "dev needs nothing", flags: dev, base: trial},
		{name: "dev by environment", environ: []string{"CHATSVC_DEV=true"}, base: trial},
		{name: "dev by file", yaml: "dev: true", base: trial},
		{
			name: "a key that merely lies there is not spent", environ: key, flags: dev, base: trial,
			change: func(c *Config) { c.Upstream.APIKey = NewSecret("sk-openai") },
		},
		{
			name: "dev with a base URL", environ: append(key, "CHATSVC_OPENAI_BASE_URL=http://localhost:8080/v1/"), flags: dev, base: trial,
			change: func(c *Config) {
				c.Upstream = Default().Upstream
				c.Upstream.BaseURL, c.Upstream.APIKey = "http://localhost:8080/v1", NewSecret("sk-openai")
				c.DefaultModel = "gpt-5-mini"
			},
		},
		{
			name: "dev with the real upstream", environ: key, flags: map[string]string{"dev": "true", "upstream.mode": "openai"}, base: trial,
			change: func(c *Config) {
				c.Upstream = Default().Upstream
				c.Upstream.APIKey, c.DefaultModel = NewSecret("sk-openai"), "gpt-5-mini"
			},
		},
		{
			name: "dev with settings of its own", flags: dev, base: trial,
			yaml:    "reflection: authenticated\nlog: {format: json}\ndefault_model: sim-reasoning\n" + callers,
			environ: []string{"CHATSVC_DEV_KEY=other"},
			change: func(c *Config) {
				c.DevKey, c.Reflection, c.Log.Format, c.DefaultModel = NewSecret("other"), ReflectionAuthenticated, LogJSON, "sim-reasoning"
				c.Auth.APIKeys = []APIKey{
					{SHA256: auth.Digest("sk-red"), Team: "red", Client: "web"},
					{SHA256: auth.Digest("other"), Team: "dev", Client: "dev", Roles: all},
				}
			},
		},
		{
			name: "OPENAI_BASE_URL does not redirect the key", yaml: callers, environ: append(key, "OPENAI_BASE_URL=http://elsewhere"), base: plain,
		},
		{
			name: "flag over environment over file", base: plain, yaml: "listen: 127.0.0.1:1\nadmin_listen: 127.0.0.1:2\ndefault_model: from-file\n" + callers,
			environ: append(key, "CHATSVC_ADMIN_LISTEN=127.0.0.1:3", "CHATSVC_DEFAULT_MODEL=from-env"), flags: map[string]string{"default_model": "from-flag"},
			change: func(c *Config) {
				c.Listen, c.AdminListen, c.DefaultModel = "127.0.0.1:1", "127.0.0.1:3", "from-flag"
			},
		},
		{name: "an empty variable is not set", yaml: callers, environ: append(key, "CHATSVC_LISTEN=", "CHATSVC_UNKNOWN="), base: plain},
		{
			name: "what Kubernetes and others put there", yaml: callers, base: plain, environ: append(key,
				"CHATSVC_SERVICE_HOST=10.0.0.1", "CHATSVC_SERVICE_PORT=50051", "CHATSVC_SERVICE_PORT_GRPC=50051", "CHATSVC_PORT=tcp://10.0.0.1:50051",
				"CHATSVC_PORT_50051_TCP=tcp://10.0.0.1:50051", "CHATSVC_PORT_50051_TCP_PROTO=tcp", "CHATSVC_PORT_50051_TCP_PORT=50051",
				"CHATSVC_PORT_50051_TCP_ADDR=10.0.0.1", "CHATSVC_SERVER=localhost:50051"),
		},
		{name: "an empty section", yaml: "limits:\nlog: {}\n" + callers, environ: key, base: plain},
		{
			name: "everything", base: plain, yaml: `
listen: 0.0.0.0:1
admin_listen: "[::]:2"
database_url: sqlite:/var/lib/chatsvc.db
default_model: gpt-6
upstream:
  mode: openai
  base_url: http://gateway/v1
  api_key: sk-file
  api_key_file: /run/key
  first_event_timeout: 1s
  idle_timeout: 2s
  connect_timeout: 3s
tls:
  cert_file: c.pem
  key_file: k.pem
  client_ca_file: ca.pem
  require_client_cert: true
allow_plaintext: true
dev: false
reflection: "off"
limits:
  max_concurrent_streams: 5
  max_turn_duration: 6m
  shutdown_grace: 0s
retention:
  one_shots: 48h
  events: 1h
log:
  level: warn
  format: text
` + callers,
			change: func(c *Config) {
				*c = Config{
					Listen: "0.0.0.0:1", AdminListen: "[::]:2", DatabaseURL: NewSecret("sqlite:/var/lib/chatsvc.db"), DefaultModel: "gpt-6",
					Upstream: Upstream{
						Mode: ModeOpenAI, BaseURL: "http://gateway/v1", APIKey: NewSecret("sk-file"), APIKeyFile: "/run/key",
						FirstEventTimeout: time.Second, IdleTimeout: 2 * time.Second, ConnectTimeout: 3 * time.Second,
					},
					Auth: c.Auth, TLS: TLS{CertFile: "c.pem", KeyFile: "k.pem", ClientCAFile: "ca.pem", RequireClientCert: true},
					AllowPlaintext: true, Reflection: ReflectionOff,
					Limits:    Limits{MaxConcurrentStreams: 5, MaxTurnDuration: 6 * time.Minute},
					Retention: Retention{OneShots: 48 * time.Hour, Events: time.Hour},
					Log:       Log{Level: slog.LevelWarn, Format: LogText},
				}
			},
		},
		{
			name: "the simulator without dev", yaml: "upstream: {mode: simulator}\n" + callers, base: plain,
			change: func(c *Config) { c.Upstream.Mode, c.Upstream.APIKey = ModeSimulator, Secret{} },
		},
		{
			name: "nobody but those who have a key of the database", environ: key, base: plain,
			change: func(c *Config) { c.Auth.APIKeys = nil },
		},
		{
			name: "TLS off loopback", base: plain, yaml: callers,
			environ: append(key, "CHATSVC_LISTEN=:1", "CHATSVC_ADMIN_LISTEN=:2", "CHATSVC_TLS_CERT_FILE=c.pem", "CHATSVC_TLS_KEY_FILE=k.pem"),
			change: func(c *Config) {
				c.Listen, c.AdminListen, c.TLS = ":1", ":2", TLS{CertFile: "c.pem", KeyFile: "k.pem"}
			},
		},
		{
			name: "dev with TLS", flags: dev, base: trial, environ: []string{"CHATSVC_TLS_CERT_FILE=c.pem", "CHATSVC_TLS_KEY_FILE=k.pem"},
			change: func(c *Config) { c.TLS = TLS{CertFile: "c.pem", KeyFile: "k.pem"} },
		},
		{
			name: "everybody who may call", environ: key, base: plain, yaml: tlsFiles + "auth:\n" +
				"  api_keys:\n    - {sha256: " + strings.ToUpper(auth.Digest("sk-red")) + ", team: red, client: web, roles: [viewer, auditor]}\n" +
				"  certificates:\n" +
				"    - {san: 'spiffe://example.org/ns/{team}/sa/{client}', roles: [caller], allowed_models: [gpt-6, gpt-5-mini]}\n" +
				"    - {san: '{client}.red.internal', team: red}\n" +
				"    - {san: web.red.internal, team: red, client: web}\n" +
				"  jwt:\n" +
				"    - {issuer: 'https://issuer.example/realm', audience: chatsvc, jwks_file: jwks.json, team_claim: a.b, client_claim: azp, roles_claim: r, roles: [caller, viewer]}\n" +
				"    - {issuer: 'http://localhost:8080', audience: chatsvc}\n",
			change: func(c *Config) {
				c.TLS = TLS{CertFile: "c.pem", KeyFile: "k.pem", ClientCAFile: "ca.pem"}
				c.Auth = Auth{
					APIKeys: []APIKey{{SHA256: auth.Digest("sk-red"), Team: "red", Client: "web", Roles: tenant.RolesOf(tenant.RoleViewer, tenant.RoleAuditor)}},
					Certificates: []Certificate{
						{SAN: "spiffe://example.org/ns/{team}/sa/{client}", Roles: tenant.RolesOf(tenant.RoleCaller), AllowedModels: []string{"gpt-6", "gpt-5-mini"}},
						{SAN: "{client}.red.internal", Team: "red"},
						{SAN: "web.red.internal", Team: "red", Client: "web"},
					},
					JWT: []JWT{
						{
							Issuer: "https://issuer.example/realm", Audience: "chatsvc", JWKSFile: "jwks.json", TeamClaim: "a.b", ClientClaim: "azp", RolesClaim: "r",
							Roles: tenant.RolesOf(tenant.RoleCaller, tenant.RoleViewer),
						},
						{Issuer: "http://localhost:8080", Audience: "chatsvc"},
					},
				}
			},
		},
		{
			name: "all loopback addresses", flags: dev, environ: []string{"CHATSVC_LISTEN=127.1.2.3:0", "CHATSVC_ADMIN_LISTEN=[::1]:0"}, base: trial,
			change: func(c *Config) { c.Listen, c.AdminListen = "127.1.2.3:0", "[::1]:0" },
		},
		{
			name: "localhost, and ports of the system's choice", flags: dev, environ: []string{"CHATSVC_LISTEN=localhost:0", "CHATSVC_ADMIN_LISTEN=localhost:0"}, base: trial,
			change: func(c *Config) { c.Listen, c.AdminListen = "localhost:0", "localhost:0" },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(t, tt.yaml, tt.environ, tt.flags)
			if err != nil {
				t.Fatal(err)
			}
			want := tt.base()
			if tt.change != nil {
				tt.change(&want)
			}
			if !reflect.DeepEqual(*got, want) {
				// %+v hides secrets, so a difference may be there.
				t.Errorf("got  %+v\nwant %+v", *got, want)
			}
		})
	}
}

func TestLoadNoFile(t *testing.T) {
	_, err := Load(Source{File: filepath.Join(t.TempDir(), "missing.yaml")})
	if err == nil || !strings.HasPrefix(err.Error(), "reading the configuration: open ") {
		t.Errorf("error %v", err)
	}
}

func TestSettings(t *testing.T) {
	settings := make(map[string]Setting)
	envs := make(map[string]bool)
	for _, s := range Settings() {
		if _, ok := settings[s.Name]; ok || s.Env != "" && envs[s.Env] {
			t.Errorf("%s or its variable stands there twice", s.Name)
		}
		settings[s.Name], envs[s.Env] = s, true
		if s.Meaning == "" || strings.HasSuffix(s.Meaning, ".") {
			t.Errorf("%s means %q", s.Name, s.Meaning)
		}
		if (s.Name == "upstream.api_key" || s.Name == "dev_key" || s.Name == apiKeys) && s.Flag != "" {
			t.Errorf("the secret %s has a flag", s.Name)
		}
	}
	// The names that are promised.
	for name, want := range map[string]Setting{
		"listen":                   {Env: "CHATSVC_LISTEN", Flag: "listen", Default: "127.0.0.1:50051"},
		"admin_listen":             {Env: "CHATSVC_ADMIN_LISTEN", Flag: "admin-listen", Default: "127.0.0.1:50052"},
		"database_url":             {Env: "CHATSVC_DATABASE_URL", Flag: "database-url", Default: "sqlite:data/chatsvc.db"},
		"default_model":            {Env: "CHATSVC_DEFAULT_MODEL", Flag: "default-model", Default: "gpt-5-mini"},
		"upstream.mode":            {Env: "CHATSVC_UPSTREAM_MODE", Flag: "upstream", Default: "openai"},
		"upstream.base_url":        {Env: "CHATSVC_OPENAI_BASE_URL", Default: "https://api.openai.com/v1"},
		"upstream.api_key":         {Env: "OPENAI_API_KEY"},
		"upstream.api_key_file":    {Env: "OPENAI_API_KEY_FILE"},
		"dev_key":                  {Env: "CHATSVC_DEV_KEY"},
		"limits.max_turn_duration": {Env: "CHATSVC_LIMITS_MAX_TURN_DURATION", Default: "15m"},
		"tls.cert_file":            {Env: "CHATSVC_TLS_CERT_FILE"},
		"tls.key_file":             {Env: "CHATSVC_TLS_KEY_FILE"},
		"tls.client_ca_file":       {Env: "CHATSVC_TLS_CLIENT_CA_FILE"},
		"tls.require_client_cert":  {Env: "CHATSVC_TLS_REQUIRE_CLIENT_CERT", Default: "false"},
		apiKeys:                    {},
		certificates:               {},
		jwt:                        {},
	} {
		got := settings[name]
		want.Name, want.Meaning = name, got.Meaning
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}

	// What is written as the default is read as the default.
	defaults, read := Default(), Config{}
	for _, f := range fields() {
		if text := settings[f.Name].Default; text != "" {
			if err := f.parse(&read, text); err != nil {
				t.Errorf("the default of %s %v", f.Name, err)
			}
		}
	}
	if !reflect.DeepEqual(read, defaults) {
		t.Errorf("got  %+v\nwant %+v", read, defaults)
	}

	if row := "| `upstream.mode` | `CHATSVC_UPSTREAM_MODE` | `--upstream` | `openai` | "; !strings.Contains(Table(), "\n"+row) {
		t.Errorf("the table has no row %s:\n%s", row, Table())
	}
}

func TestPostgresURL(t *testing.T) {
	const (
		forms      = "must be sqlite:PATH or postgres://USER@HOST/DATABASE"
		inTheClear = "would send conversations in the clear: add ?sslmode=verify-full, or set allow_plaintext where something else encrypts"
	)
	for _, tt := range []struct {
		url      string
		shown    string // empty where it is refused
		complain string
	}{
		{url: "postgres://user:pw@127.0.0.1:5432/chat", shown: "postgres://127.0.0.1:5432/chat"},
		{url: "postgresql://localhost/chat?password=pw&sslmode=disable", shown: "postgresql://localhost/chat"},
		{url: "postgres://user:pw@[::1]/chat", shown: "postgres://[::1]/chat"},
		{url: "postgres://user:pw@db.example/chat?sslmode=verify-full", shown: "postgres://db.example/chat"},
		{url: "postgres://user@db.example/chat?sslmode=require&application_name=pw", shown: "postgres://db.example/chat"},
		{url: "postgres://user:pw@a.example:5432,b.example:5433/chat?sslmode=verify-ca", shown: "postgres://a.example:5432,b.example:5433/chat"},
		{url: "postgres://user:pw@db.example/chat", complain: inTheClear},
		{url: "postgres://user:pw@db.example/chat?sslmode=prefer", complain: inTheClear},
		{url: "postgres://user:pw@127.0.0.1:5432,db.example:5432/chat", complain: inTheClear},
		{url: "postgres:///chat", complain: "names no host: use postgres://USER@HOST/DATABASE"},
		{url: "postgres://user:pw@127.0.0.1", complain: "names no database: use postgres://USER@HOST/DATABASE"},
		{url: "postgres://user:pw@127.0.0.1/", complain: "names no database: use postgres://USER@HOST/DATABASE"},
		{url: "postgres://user:pw@127.0.0.1/chat#pw", complain: "has a # in it, which must be written as %23"},
		{url: "postgres://user:pw@127.0.0.1/chat?host=db.example", complain: "names its host in a parameter: use postgres://USER@HOST/DATABASE"},
		{url: "postgres:pw", complain: forms},
		{url: "postgres://user:p%w@127.0.0.1/chat", complain: forms},
		{url: "user=user password=pw host=127.0.0.1 dbname=chat", complain: forms},
	} {
		got, err := load(t, callers, []string{"OPENAI_API_KEY=sk-openai", "CHATSVC_DATABASE_URL=" + tt.url}, nil)
		if tt.complain != "" {
			if want := "database_url (CHATSVC_DATABASE_URL): " + tt.complain; err == nil || err.Error() != want {
				t.Errorf("%s: error %v, want %s", tt.url, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		if _, isSQLite := got.SQLitePath(); isSQLite || got.DatabaseURL.Reveal() != tt.url || got.RedactedDatabase() != tt.shown {
			t.Errorf("%s: SQLite %t, shown %s, want %s", tt.url, isSQLite, got.RedactedDatabase(), tt.shown)
		}
		if logged := got.LogValue().String(); !strings.Contains(logged, tt.shown) || strings.Contains(logged, "pw") {
			t.Errorf("%s: logged %s", tt.url, logged)
		}
	}

	// Behind a mesh, and then without TLS of its own.
	if _, err := load(t, "allow_plaintext: true\n"+callers, []string{"OPENAI_API_KEY=sk-openai", "CHATSVC_DATABASE_URL=postgres://user:pw@db.example/chat"}, nil); err != nil {
		t.Errorf("with allow_plaintext: %v", err)
	}
}

func TestLoadDatabase(t *testing.T) {
	environ := []string{"CHATSVC_DATABASE_URL=postgres://user:pw@localhost/chat", "CHATSVC_RETENTION_EVENTS=2h"}
	c, err := LoadDatabase(Source{Environ: environ}) // nobody who answers, nobody who may call
	if err != nil {
		t.Fatal(err)
	}
	if c.DatabaseURL.Reveal() != "postgres://user:pw@localhost/chat" || c.Retention.Events != 2*time.Hour {
		t.Errorf("got %+v", c)
	}
	_, err = LoadDatabase(Source{Environ: []string{"CHATSVC_DATABASE_URL=x", "CHATSVC_RETENTION_EVENTS=2s", "CHATSVC_LISTN=x", "CHATSVC_DEV=yes"}})
	want := "CHATSVC_LISTN: no such variable\n" +
		"dev (CHATSVC_DEV): must be true or false\n" +
		"database_url (CHATSVC_DATABASE_URL): must be sqlite:PATH or postgres://USER@HOST/DATABASE\n" +
		"retention.events (CHATSVC_RETENTION_EVENTS): must be from 1h to 8760h"
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}
