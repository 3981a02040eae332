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
)

// callers is a valid section auth.
var callers = "auth:\n  api_keys:\n    - {sha256: " + auth.Digest("sk-red") + ", team: red, client: web}\n"

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
	devKey := APIKey{SHA256: auth.Digest("dev"), Team: "dev", Client: "dev"}
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
					{SHA256: auth.Digest("other"), Team: "dev", Client: "dev"},
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
					Auth: c.Auth, AllowPlaintext: true, Reflection: ReflectionOff,
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

func TestLoadRefuses(t *testing.T) {
	key := []string{"OPENAI_API_KEY=sk-openai"}
	dev := map[string]string{"dev": "true"}
	const notLoopback = "dev serves loopback addresses only: use 127.0.0.1, [::1] or localhost"
	const noTLS = "is not a loopback address, and TLS comes with a later release; where something else encrypts, such as a mesh, set allow_plaintext"
	tests := []struct {
		name    string
		yaml    string
		environ []string
		flags   map[string]string
		want    []string // the lines
	}{
		{
			name: "nothing set",
			want: []string{
				"upstream.api_key: there is no upstream key: set OPENAI_API_KEY_FILE or OPENAI_API_KEY",
				"auth.api_keys: is empty, so that nobody could call; add the SHA-256 of a key, or try it with --dev",
			},
		},
		{
			name: "unknown in the file", environ: key, yaml: "listn: x\nlimits: {max_turns: 1}\nlisten.x: 1\nlog: {level: {a: b}, format: {}}\n" + callers,
			want: []string{
				"limits.max_turns (chatsvc.yaml): no such setting",
				"listen.x (chatsvc.yaml): no such setting",
				"listn (chatsvc.yaml): no such setting",
				"log.format (chatsvc.yaml): has no value",
				"log.level.a (chatsvc.yaml): no such setting",
			},
		},
		{
			name: "a path as a key", environ: key, yaml: "log.level: debug\n" + callers,
			want: []string{"log.level (chatsvc.yaml): no such setting"},
		},
		{
			name: "unknown variables", yaml: callers, environ: append(key, "CHATSVC_LISTN=x", "CHATSVC_AUTH_API_KEYS=x", "CHATSVC_PORTS=x"),
			want: []string{"CHATSVC_AUTH_API_KEYS: no such variable", "CHATSVC_LISTN: no such variable", "CHATSVC_PORTS: no such variable"},
		},
		{
			name: "what is no flag", yaml: callers, environ: key, flags: map[string]string{"upstream.api_key": "sk-flag", "unknown": "x", "dev_key": "x"},
			want: []string{"dev_key: cannot be set by a flag", "unknown: cannot be set by a flag", "upstream.api_key: cannot be set by a flag"},
		},
		{
			name: "bad values", environ: append(key, "CHATSVC_DEV=yes", "CHATSVC_LIMITS_MAX_CONCURRENT_STREAMS=-1", "CHATSVC_LOG_LEVEL=loud"),
			flags: map[string]string{"upstream.mode": "other", "log.format": "xml"},
			yaml:  "reflection: maybe\nupstream: {idle_timeout: 30, base_url: 5}\nallow_plaintext: 'yes'\nlimits: {shutdown_grace: [1s]}\nlisten:\n" + callers,
			want: []string{
				"listen (chatsvc.yaml): has no value",
				"upstream.mode (--upstream): must be openai or simulator",
				"upstream.base_url (chatsvc.yaml): must be text; put it in quotes",
				"upstream.idle_timeout (chatsvc.yaml): must be a duration such as 30s or 15m",
				"allow_plaintext (chatsvc.yaml): must be true or false",
				"dev (CHATSVC_DEV): must be true or false",
				"reflection (chatsvc.yaml): must be off, authenticated or open",
				"limits.max_concurrent_streams (CHATSVC_LIMITS_MAX_CONCURRENT_STREAMS): must be a whole number from 0 to 4294967295",
				"limits.shutdown_grace (chatsvc.yaml): must be a single value",
				"log.level (CHATSVC_LOG_LEVEL): must be debug, info, warn or error",
				"log.format (--log-format): must be json or text",
			},
		},
		{
			name: "out of bounds", environ: key,
			yaml: "upstream: {first_event_timeout: 0s, idle_timeout: 2h, connect_timeout: -1s}\nlimits: {max_concurrent_streams: 0, max_turn_duration: 25h, shutdown_grace: -1s}\nretention: {one_shots: 23h, events: 59m}\n" + callers,
			want: []string{
				"upstream.first_event_timeout (chatsvc.yaml): must be from 1ms to 1h",
				"upstream.idle_timeout (chatsvc.yaml): must be from 1ms to 1h",
				"upstream.connect_timeout (chatsvc.yaml): must be from 1ms to 1h",
				"limits.max_turn_duration (chatsvc.yaml): must be from 1s to 24h",
				"limits.shutdown_grace (chatsvc.yaml): must be from 0s to 24h",
				"limits.max_concurrent_streams (chatsvc.yaml): must be at least 1",
				"retention.one_shots (chatsvc.yaml): must be from 24h to 8760h",
				"retention.events (chatsvc.yaml): must be from 1h to 8760h",
			},
		},
		{name: "a section without its settings", environ: key, yaml: "limits: 5\n" + callers, want: []string{"limits (chatsvc.yaml): is a section of settings, not a setting"}},
		{
			name: "addresses", environ: append(key, "CHATSVC_LISTEN=localhost", "CHATSVC_ADMIN_LISTEN=127.0.0.1:http"), yaml: callers,
			want: []string{
				"listen (CHATSVC_LISTEN): must be host:port, such as 127.0.0.1:50051",
				"admin_listen (CHATSVC_ADMIN_LISTEN): the port must be a number from 0 to 65535",
			},
		},
		{
			name: "one address for both", environ: append(key, "CHATSVC_ADMIN_LISTEN=127.0.0.1:50051"), yaml: callers,
			want: []string{"admin_listen (CHATSVC_ADMIN_LISTEN): is the same address as listen"},
		},
		{
			name: "not loopback", environ: append(key, "CHATSVC_LISTEN=0.0.0.0:50051", "CHATSVC_ADMIN_LISTEN=:50052"), yaml: callers,
			want: []string{"listen (CHATSVC_LISTEN): " + noTLS, "admin_listen (CHATSVC_ADMIN_LISTEN): " + noTLS},
		},
		{name: "dev on all addresses", flags: dev, environ: []string{"CHATSVC_LISTEN=0.0.0.0:50051"}, want: []string{"listen (CHATSVC_LISTEN): " + notLoopback}},
		{name: "dev on all IPv6 addresses", flags: dev, environ: []string{"CHATSVC_LISTEN=[::]:50051"}, want: []string{"listen (CHATSVC_LISTEN): " + notLoopback}},
		{name: "dev without a host", flags: dev, environ: []string{"CHATSVC_LISTEN=:50051"}, want: []string{"listen (CHATSVC_LISTEN): " + notLoopback}},
		{name: "dev on a name", flags: dev, environ: []string{"CHATSVC_LISTEN=localhost.example.com:50051"}, want: []string{"listen (CHATSVC_LISTEN): " + notLoopback}},
		{
			name: "dev, whatever else is allowed", flags: dev, yaml: "allow_plaintext: true\n", environ: []string{"CHATSVC_ADMIN_LISTEN=10.0.0.1:50052"},
			want: []string{"admin_listen (CHATSVC_ADMIN_LISTEN): " + notLoopback},
		},
		{name: "another database", yaml: callers, environ: key, flags: map[string]string{"database_url": "mysql:x"}, want: []string{"database_url (--database-url): must be sqlite:PATH or postgres://USER@HOST/DATABASE"}},
		{name: "no file", yaml: callers, environ: append(key, "CHATSVC_DATABASE_URL=sqlite:"), want: []string{"database_url (CHATSVC_DATABASE_URL): names no file: use sqlite:PATH"}},
		{
			name: "memory", yaml: callers, environ: append(key, "CHATSVC_DATABASE_URL=sqlite::memory:"),
			want: []string{"database_url (CHATSVC_DATABASE_URL): must be a file: conversations have to survive a restart"},
		},
		{
			name: "model", yaml: callers, environ: append(key, "CHATSVC_DEFAULT_MODEL=a model"),
			want: []string{"default_model (CHATSVC_DEFAULT_MODEL): is not the name of a model: letters, digits and . _ : / @ = , + -, at most 128"},
		},
		{
			name: "the simulator has no base URL", yaml: "upstream: {mode: simulator}\n" + callers, environ: []string{"CHATSVC_OPENAI_BASE_URL=https://x/v1"},
			want: []string{"upstream.base_url (CHATSVC_OPENAI_BASE_URL): contradicts upstream.mode simulator, which has none"},
		},
		{
			name: "a user in the base URL", yaml: callers, environ: append(key, "CHATSVC_OPENAI_BASE_URL=https://user:pw@x/v1"),
			want: []string{"upstream.base_url (CHATSVC_OPENAI_BASE_URL): must be an http or https URL without user, query and fragment"},
		},
		{
			name: "another scheme", yaml: callers, environ: append(key, "CHATSVC_OPENAI_BASE_URL=localhost:8080"),
			want: []string{"upstream.base_url (CHATSVC_OPENAI_BASE_URL): must be an http or https URL without user, query and fragment"},
		},
		{
			name: "the key in the clear", yaml: callers, environ: append(key, "CHATSVC_OPENAI_BASE_URL=http://gateway/v1"),
			want: []string{"upstream.base_url (CHATSVC_OPENAI_BASE_URL): would send the key in the clear: use https, or set allow_plaintext where something else encrypts"},
		},
		{
			name: "dev with the real upstream and no key", flags: map[string]string{"dev": "true", "upstream.mode": "openai"},
			want: []string{"upstream.api_key: there is no upstream key: set OPENAI_API_KEY_FILE or OPENAI_API_KEY"},
		},
		{
			name: "a key that cannot be sent", yaml: callers, environ: []string{"OPENAI_API_KEY=sk-openai\n"},
			want: []string{"upstream.api_key (OPENAI_API_KEY): must be 1 to 4096 visible ASCII characters"},
		},
		{name: "a dev key without dev", yaml: callers, environ: append(key, "CHATSVC_DEV_KEY=x"), want: []string{"dev_key (CHATSVC_DEV_KEY): is set without dev"}},
		{
			name: "a dev key that cannot be sent", flags: dev, environ: []string{"CHATSVC_DEV_KEY=a b"},
			want: []string{"dev_key (CHATSVC_DEV_KEY): must be 1 to 4096 visible ASCII characters"},
		},
		{name: "keys, but no list", environ: key, yaml: "auth: {api_keys: x}", want: []string{
			"auth.api_keys (chatsvc.yaml): must be a list of sha256, team and client",
			"auth.api_keys (chatsvc.yaml): is empty, so that nobody could call; add the SHA-256 of a key, or try it with --dev",
		}},
		{
			name: "keys", environ: key,
			yaml: "auth:\n  api_keys:\n" +
				"    - sk-openai\n" +
				"    - {sha256: " + auth.Digest("one") + ", team: red, client: web, key: sk-openai}\n" +
				"    - {sha256: " + auth.Digest("one") + ", team: 7, client: web}\n" +
				"    - {sha256: " + auth.Digest("one") + ", team: red}\n" +
				"    - {sha256: sk-openai, team: red, client: web}\n" +
				"    - {sha256: " + auth.Digest("one") + ", team: Red, client: web}\n" +
				"    - {sha256: " + strings.ToUpper(auth.Digest("one")) + ", team: red, client: web}\n" +
				"    - {sha256: " + auth.Digest("dev") + ", team: red, client: web}\n" +
				"    - {sha256: " + auth.Digest("") + ", team: red, client: web}\n",
			want: []string{
				"auth.api_keys (chatsvc.yaml): entry 1: must have sha256, team and client",
				"auth.api_keys (chatsvc.yaml): entry 2: no such setting: key",
				"auth.api_keys (chatsvc.yaml): entry 3: team must be text; put it in quotes",
				"auth.api_keys (chatsvc.yaml): entry 4: must have sha256, team and client",
				"auth.api_keys (chatsvc.yaml): entry 5 (red): sha256 must be 64 hex digits",
				"auth.api_keys (chatsvc.yaml): entry 6 (Red): team and client must be lower-case letters, digits and . _ -, at most 63",
				"auth.api_keys (chatsvc.yaml): entry 7 (red): the same sha256 stands there twice",
				"auth.api_keys (chatsvc.yaml): entry 8 (red): sha256 is the digest of the well-known key of --dev",
				"auth.api_keys (chatsvc.yaml): entry 9 (red): sha256 is the digest of nothing",
			},
		},
		{name: "a key in place of the file", yaml: "sk-openai", want: []string{"reading the configuration: chatsvc.yaml: unmarshal errors: line 1: cannot unmarshal !!str a value into map[string]interface {}"}},
		{name: "twice in the file", yaml: "listen: a\nlisten: b", want: []string{`reading the configuration: chatsvc.yaml: unmarshal errors: line 2: mapping key "listen" already defined at line 1`}},
		{name: "not YAML", yaml: "listen: [", want: []string{"reading the configuration: chatsvc.yaml: line 1: did not find expected node content"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := load(t, tt.yaml, tt.environ, tt.flags)
			if err == nil {
				t.Fatalf("Load takes it: %+v", c)
			}
			if got, want := err.Error(), strings.Join(tt.want, "\n"); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			for _, secret := range []string{"sk-", "pw"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error tells a secret: %v", err)
				}
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
		apiKeys:                    {},
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
