package auth_test

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

func TestParseBearer(t *testing.T) {
	long := strings.Repeat("k", auth.MaxBearer)
	tests := []struct {
		name   string
		values []string
		token  string
		reason conversation.Reason
	}{
		{name: "usual", values: []string{"Bearer sk-secret"}, token: "sk-secret"},
		{name: "scheme in lower case", values: []string{"bearer sk-secret"}, token: "sk-secret"},
		{name: "scheme in upper case", values: []string{"BEARER sk-secret"}, token: "sk-secret"},
		{name: "longest", values: []string{"Bearer " + long}, token: long},
		{name: "all visible characters", values: []string{"Bearer !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"}, token: "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"},

		{name: "none", reason: conversation.CredentialMissing},
		{name: "empty", values: []string{""}, reason: conversation.CredentialMissing},
		{name: "two", values: []string{"Bearer sk-secret", "Bearer sk-secret"}, reason: conversation.CredentialInvalid},
		{name: "two, one empty", values: []string{"", "Bearer sk-secret"}, reason: conversation.CredentialInvalid},
		{name: "basic", values: []string{"Basic sk-secret"}, reason: conversation.CredentialInvalid},
		{name: "no scheme", values: []string{"sk-secret"}, reason: conversation.CredentialInvalid},
		{name: "scheme only", values: []string{"Bearer"}, reason: conversation.CredentialInvalid},
		{name: "no token", values: []string{"Bearer "}, reason: conversation.CredentialInvalid},
		{name: "two spaces", values: []string{"Bearer  sk-secret"}, reason: conversation.CredentialInvalid},
		{name: "leading space", values: []string{" Bearer sk-secret"}, reason: conversation.CredentialInvalid},
		{name: "trailing space", values: []string{"Bearer sk-secret "}, reason: conversation.CredentialInvalid},
		{name: "tab", values: []string{"Bearer\tsk-secret"}, reason: conversation.CredentialInvalid},
		{name: "two in one value", values: []string{"Bearer sk-secret, Bearer sk-secret"}, reason: conversation.CredentialInvalid},
		{name: "control character", values: []string{"Bearer sk-secret\x00"}, reason: conversation.CredentialInvalid},
		{name: "not ASCII", values: []string{"Bearer sk-secrét"}, reason: conversation.CredentialInvalid},
		{name: "not UTF-8", values: []string{"Bearer sk-secret\xff"}, reason: conversation.CredentialInvalid},
		{name: "too long", values: []string{"Bearer " + long + "k"}, reason: conversation.CredentialInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			token, err := auth.ParseBearer(tt.values)
			if token != tt.token {
				t.Errorf("token %q, want %q", token, tt.token)
			}
			if tt.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, &conversation.Error{Reason: tt.reason}) {
				t.Fatalf("error %v, want %s", err, tt.reason)
			}
			if strings.Contains(err.Error(), "secr") {
				t.Errorf("the error repeats the header: %v", err)
			}
		})
	}
}

func FuzzParseBearer(f *testing.F) {
	f.Add("Bearer sk-secret")
	f.Add("bearer ")
	f.Add("Basic dXNlcjpwYXNz")
	f.Fuzz(func(t *testing.T, value string) {
		token, err := auth.ParseBearer([]string{value})
		if err != nil {
			if token != "" {
				t.Errorf("a token %q beside the error %v", token, err)
			}
			return
		}
		if len(token) == 0 || len(token) > auth.MaxBearer || strings.TrimFunc(token, func(r rune) bool { return r > ' ' && r < 0x7f }) != "" {
			t.Errorf("token %q", token)
		}
		if rest, ok := strings.CutSuffix(value, token); !ok || !strings.EqualFold(rest, "bearer ") {
			t.Errorf("%q was read as %q", value, token)
		}
	})
}

func TestAPIKeys(t *testing.T) {
	a, err := auth.NewAPIKeys([]auth.APIKey{
		{SHA256: auth.Digest("one"), Team: "red", Client: "web"},
		{SHA256: strings.ToUpper(auth.Digest("two")), Team: "blue", Client: "batch", Roles: tenant.RolesOf(tenant.RoleViewer)},
	})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		bearer string
		want   auth.Principal
		reason conversation.Reason
	}{
		{
			bearer: "one",
			want:   auth.Principal{Team: "red", Client: "web", CredentialID: "sha256:7692c3ad3540", Roles: tenant.RolesOf(tenant.RoleCaller)},
		},
		{
			bearer: "two",
			want:   auth.Principal{Team: "blue", Client: "batch", CredentialID: "sha256:3fc4ccfe7458", Roles: tenant.RolesOf(tenant.RoleViewer)},
		},
		{bearer: "", reason: conversation.CredentialMissing},
		{bearer: "One", reason: conversation.CredentialInvalid},
		{bearer: "three", reason: conversation.CredentialInvalid},
		// Who has read the configuration does not have the key.
		{bearer: auth.Digest("one"), reason: conversation.CredentialInvalid},
	}
	for _, tt := range tests {
		p, err := a.Authenticate(t.Context(), auth.Credential{Bearer: tt.bearer})
		if !reflect.DeepEqual(p, tt.want) {
			t.Errorf("%q: principal %+v, want %+v", tt.bearer, p, tt.want)
		}
		if tt.reason == "" && err != nil || tt.reason != "" && !errors.Is(err, &conversation.Error{Reason: tt.reason}) {
			t.Errorf("%q: error %v, want %s", tt.bearer, err, tt.reason)
		}
	}
}

func TestNewAPIKeysRefuses(t *testing.T) {
	tests := []struct {
		name, want string
		keys       []auth.APIKey
	}{
		{name: "short", keys: []auth.APIKey{{SHA256: "abcd"}}, want: "api_keys: entry 1: sha256 must be 64 hex digits"},
		{name: "not hex", keys: []auth.APIKey{{SHA256: strings.Repeat("x", 64)}}, want: "api_keys: entry 1: sha256 must be 64 hex digits"},
		{name: "long", keys: []auth.APIKey{{SHA256: strings.Repeat("a", 66)}}, want: "api_keys: entry 1: sha256 must be 64 hex digits"},
		{
			name: "twice, in another case",
			keys: []auth.APIKey{{SHA256: auth.Digest("one")}, {SHA256: strings.ToUpper(auth.Digest("one"))}},
			want: "api_keys: entry 2: the same sha256 stands there twice",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := auth.NewAPIKeys(tt.keys); err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestCredentialHidesItself(t *testing.T) {
	c := auth.Credential{Bearer: "sk-secret"}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("call", "credential", c)
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%q", c), log.String()} {
		if strings.Contains(s, "secret") {
			t.Errorf("the token shows: %s", s)
		}
	}
}

func TestContext(t *testing.T) {
	if p, ok := auth.FromContext(t.Context()); ok {
		t.Errorf("a context without a call has %+v", p)
	}
	want := auth.Principal{Team: "red", Client: "web", CredentialID: "id"}
	if p, ok := auth.FromContext(auth.NewContext(t.Context(), want)); !ok || !reflect.DeepEqual(p, want) {
		t.Errorf("got %+v, %t", p, ok)
	}
}

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST": true, "127.0.0.1": true, "127.1.2.3": true, "::1": true, "::ffff:127.0.0.1": true,
		"": false, "localhost.": false, "localhost.example.com": false, "0.0.0.0": false, "::": false, "128.0.0.1": false, "127.1": false,
	} {
		if got := auth.IsLoopback(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}
