package config

import (
	"strings"
	"testing"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

func TestLoadRefuses(t *testing.T) {
	key := []string{"OPENAI_API_KEY=sk-openai"}
	dev := map[string]string{"dev": "true"}
	const notLoopback = "dev serves loopback addresses only: use 127.0.0.1, [::1] or localhost"
	const noTLS = "is not a loopback address, and would send keys in the clear: set tls.cert_file and tls.key_file; where something else encrypts, such as a mesh, set allow_plaintext"
	const noURI = "san must be a URI with scheme, host and path, all in the usual form, the host in lower case"
	const noSegment = "san may have {team} and {client} only as whole segments of its path"
	const roles = "use caller, viewer, team_admin, platform_admin, auditor"
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
		{
			name: "no lists", environ: key, yaml: "auth: {api_keys: x, certificates: 5, jwt: {}}",
			want: []string{
				"auth.jwt (chatsvc.yaml): has no value",
				"auth.api_keys (chatsvc.yaml): must be a list of entries with sha256, team and client",
				"auth.certificates (chatsvc.yaml): must be a list of entries with san",
			},
		},
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
				"auth.api_keys (chatsvc.yaml): entry 6 (Red): team and client must be " + tenant.IDRule,
				"auth.api_keys (chatsvc.yaml): entry 7 (red): the same sha256 stands there twice",
				"auth.api_keys (chatsvc.yaml): entry 8 (red): sha256 is the digest of the well-known key of --dev",
				"auth.api_keys (chatsvc.yaml): entry 9 (red): sha256 is the digest of nothing",
			},
		},
		{
			name: "what keys allow", environ: key,
			yaml: "auth:\n  api_keys:\n" +
				"    - {sha256: " + auth.Digest("one") + ", team: red, client: web, roles: [admin]}\n" +
				"    - {sha256: " + auth.Digest("two") + ", team: red, client: web, roles: caller}\n" +
				"    - {sha256: " + auth.Digest("three") + ", team: red, client: web, roles: []}\n" +
				"    - {sha256: " + auth.Digest("four") + ", team: red, client: web, roles: [caller, 7]}\n" +
				"    - {sha256: '', team: red, client: web}\n",
			want: []string{
				"auth.api_keys (chatsvc.yaml): entry 1: roles has a name that is none: no such role: " + roles,
				"auth.api_keys (chatsvc.yaml): entry 2: roles must be a list of names",
				"auth.api_keys (chatsvc.yaml): entry 3: roles must be a list of names",
				"auth.api_keys (chatsvc.yaml): entry 4: roles must be a list of names",
				"auth.api_keys (chatsvc.yaml): entry 5: must have sha256, team and client",
			},
		},
		{
			name: "certificates", environ: key, yaml: tlsFiles + "auth:\n  certificates:\n" +
				"    - spiffe://example.org/red/web\n" +
				"    - {team: red, client: web}\n" +
				"    - {san: 'spiffe://{team}/{client}'}\n" +
				"    - {san: 'spiffe://example.org'}\n" +
				"    - {san: 'spiffe://example.org//{team}/{client}'}\n" +
				"    - {san: 'spiffe://example.org/{team}/sa-{client}', client: web}\n" +
				"    - {san: 'spiffe://example.org/{team}/{team}', client: web}\n" +
				"    - {san: 'spiffe://example.org/{team}/web', team: red, client: web}\n" +
				"    - {san: '{client}.red.internal'}\n" +
				"    - {san: Web.red.internal, team: red, client: web}\n" +
				"    - {san: '*.red.internal', team: red, client: web}\n" +
				"    - {san: web.red.internal, team: red, client: WEB}\n" +
				"    - {san: models.red.internal, team: red, client: web, allowed_models: [gpt-6, a model]}\n" +
				"    - {san: web.red.internal, team: red, client: web, roles: [admin]}\n" +
				"    - {san: web.red.internal, team: red, client: web, allowed_models: gpt-6}\n" +
				"    - {san: 'spiffe://example.org/{team}/{client}', models: [gpt-6]}\n" +
				"    - {san: twice.red.internal, team: red, client: web}\n" +
				"    - {san: twice.red.internal, team: red, client: batch}\n" +
				"    - {san: 'spiffe://example.org/a%20b/{client}', team: red}\n" +
				"    - {san: web_.red.internal, team: red, client: web}\n", // which is good
			want: []string{
				"auth.certificates (chatsvc.yaml): entry 1: must have san",
				"auth.certificates (chatsvc.yaml): entry 2: must have san",
				"auth.certificates (chatsvc.yaml): entry 14: roles has a name that is none: no such role: " + roles,
				"auth.certificates (chatsvc.yaml): entry 15: allowed_models must be a list of names",
				"auth.certificates (chatsvc.yaml): entry 16: no such setting: models",
				"auth.certificates (chatsvc.yaml): entry 3: " + noSegment,
				"auth.certificates (chatsvc.yaml): entry 4: " + noURI,
				"auth.certificates (chatsvc.yaml): entry 5: " + noURI,
				"auth.certificates (chatsvc.yaml): entry 6: " + noSegment,
				"auth.certificates (chatsvc.yaml): entry 7: san has the same placeholder twice",
				"auth.certificates (chatsvc.yaml): entry 8: team and {team} in san say the same thing; drop one",
				"auth.certificates (chatsvc.yaml): entry 9: has neither a team nor {team} in san",
				"auth.certificates (chatsvc.yaml): entry 10: san is neither a URI nor a DNS name in lower case, whose labels may be {team} and {client}",
				"auth.certificates (chatsvc.yaml): entry 11: san has a wildcard; use {team} and {client}, or a rule for each name",
				"auth.certificates (chatsvc.yaml): entry 12: client must be " + tenant.IDRule,
				"auth.certificates (chatsvc.yaml): entry 13: allowed_models has what is no name of a model",
				"auth.certificates (chatsvc.yaml): entry 18: the same san stands there twice",
				"auth.certificates (chatsvc.yaml): entry 19: " + noURI,
			},
		},
		{
			name: "issuers", environ: key, yaml: "auth:\n  jwt:\n" +
				"    - https://issuer.example\n" +
				"    - {issuer: 'https://issuer.example'}\n" +
				"    - {issuer: 'https://issuer.example', audience: chatsvc, key: x}\n" +
				"    - {issuer: 'http://issuer.example', audience: chatsvc}\n" +
				"    - {issuer: 'https://user:pw@issuer.example', audience: chatsvc}\n" +
				"    - {issuer: issuer.example, audience: chatsvc}\n" +
				"    - {issuer: 'http://127.0.0.1:1', audience: chatsvc}\n" +
				"    - {issuer: 'http://127.0.0.1:1', audience: other}\n",
			want: []string{
				"auth.jwt (chatsvc.yaml): entry 1: must have issuer and audience",
				"auth.jwt (chatsvc.yaml): entry 2: must have issuer and audience",
				"auth.jwt (chatsvc.yaml): entry 3: no such setting: key",
				"auth.jwt (chatsvc.yaml): entry 4: issuer must be a URL with https, or with http on this machine",
				"auth.jwt (chatsvc.yaml): entry 5: issuer must be a URL with https, or with http on this machine",
				"auth.jwt (chatsvc.yaml): entry 6: issuer must be a URL with https, or with http on this machine",
				"auth.jwt (chatsvc.yaml): entry 8: the same issuer stands there twice",
			},
		},
		{
			name: "a certificate without its key", environ: append(key, "CHATSVC_TLS_CERT_FILE=c.pem"), yaml: callers,
			want: []string{"tls.key_file: is needed with tls.cert_file"},
		},
		{
			name: "a key without its certificate", environ: append(key, "CHATSVC_TLS_KEY_FILE=k.pem"), yaml: callers,
			want: []string{"tls.cert_file: is needed with tls.key_file"},
		},
		{
			name: "client certificates without TLS", environ: append(key, "CHATSVC_TLS_CLIENT_CA_FILE=ca.pem"), yaml: callers,
			want: []string{"tls.client_ca_file (CHATSVC_TLS_CLIENT_CA_FILE): is of no use without tls.cert_file"},
		},
		{
			name: "client certificates of no authority", environ: key,
			yaml: "tls: {cert_file: c.pem, key_file: k.pem, require_client_cert: true}\nauth:\n  certificates:\n    - {san: web.red.internal, team: red, client: web}\n",
			want: []string{
				"tls.require_client_cert (chatsvc.yaml): is of no use without tls.client_ca_file",
				"auth.certificates (chatsvc.yaml): is of no use without tls.client_ca_file",
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
