package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/netfault"
)

// The life of a key: made, used, rotated, revoked, and seen in the audit.
func TestKeyCommands(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	p.must(t, "teams", "create", "checkout", "--client=web")

	code, first, notes := p.cli(t, "keys", "create", "checkout/web", "--display-name=The shop")
	if code != 0 || !matches(first, `^csk_[a-z2-7]{16}_[a-z2-7]{52}\n$`) ||
		!matches(notes, `^checkout/web/[a-z2-7]{16} \(caller\) works until `+aTime+`\. This is the only time that it is shown\.\n$`) {
		t.Fatalf("code %d, out %q, notes %q", code, first, notes)
	}
	firstName := idOf(t, first)
	if got := p.chatAs(t, first); !strings.Contains(got, "Bonjour") {
		t.Errorf("the key is answered %q", got)
	}

	code, second, notes := p.cli(t, "keys", "rotate", firstName, "--overlap=1h")
	secondName := idOf(t, second)
	if code != 0 || !matches(notes, "^"+secondName+` \(caller\) works until `+aTime+"; "+firstName+", whose place it takes, for another 1h at most\\. This .*\n$") {
		t.Errorf("code %d, notes %q", code, notes)
	}
	for name, key := range map[string]string{"old": first, "new": second} {
		if got := p.chatAs(t, key); !strings.Contains(got, "Bonjour") {
			t.Errorf("after the rotation the %s key is answered %q", name, got)
		}
	}
	p.refused(t, "(INVALID_STATE)", "keys", "rotate", firstName)
	if got := p.must(t, "keys", "list", "checkout"); !matches(got, "^KEY +STATE +ROLES +ENDS +DISPLAY NAME\n"+
		secondName+"  active  caller  "+aTime+"  The shop\n"+firstName+"  active  caller  "+aTime+"  The shop\n$") {
		t.Errorf("keys:\n%s", got)
	}
	if got := p.must(t, "keys", "get", firstName); !matches(got, "^KEY .*\n"+firstName+" .*\n\nCREATED +REPLACED BY +MODELS +ADDRESSES\n"+
		aTime+"  "+secondName+"  all     all\n$") {
		t.Errorf("the old key:\n%s", got)
	}

	if got := p.must(t, "keys", "revoke", secondName); !matches(got, "^KEY .*\n"+secondName+"  revoked ") || endOf(t, got).After(time.Now()) {
		t.Errorf("revoked:\n%s", got)
	}
	if code, out, notes := p.cli(t, "keys", "list", "checkout/web"); code != 0 || !matches(out, "^KEY .*\n"+firstName+" +active .*\n$") ||
		notes != "chatsvc: 1 key that has ended is not listed: see --all\n" {
		t.Errorf("code %d, notes %q, keys:\n%s", code, notes, out)
	}
	if got := p.must(t, "keys", "list", "checkout", "--all"); !matches(got, "^KEY .*\n"+secondName+" +revoked .*\n"+firstName+" +active .*\n$") {
		t.Errorf("all keys:\n%s", got)
	}
	eventually(t, 2*time.Second, "the revoked key is refused", func() bool { return strings.Contains(p.chatAs(t, second), "(CREDENTIAL_REVOKED)") })
	p.refused(t, "(INVALID_STATE)", "keys", "rotate", secondName)

	audit := p.must(t, "audit", "list", "--oldest-first", "--team=checkout", "--since=1h")
	for i, want := range []string{
		"# +TIME +OUTCOME +ACTION +ACTOR +CREDENTIAL +SOURCE +RESOURCE +DETAILS",
		"1 +" + aTime + " +changed +TeamService/CreateTeam +dev/dev +sha256:[0-9a-f]{12} +127.0.0.1 +checkout +",
		"2 .* TeamService/CreateClient +dev/dev +sha256:[0-9a-f]{12} +127.0.0.1 +checkout/web +",
		"3 .* KeyService/CreateKey .* " + firstName + " .*display_name: The shop; roles: caller; .*",
		"4 .* KeyService/RotateKey .*",
		"5 .* KeyService/RevokeKey .* " + secondName + " .*state: active → revoked.*",
		"6 .* denied +ChatService/StreamTurn +checkout/web +key:[a-z2-7]{16} +127.0.0.1 +- +CREDENTIAL_REVOKED.*",
	} {
		lines := strings.Split(audit, "\n")
		if i >= len(lines) || !matches(lines[i], "^"+want) {
			t.Errorf("line %d of the audit is not %s:\n%s", i, want, audit)
		}
	}
	everything := audit + p.must(t, "audit", "list", "--json") + p.must(t, "teams", "get", "checkout", "--json") + p.logs.String()
	for _, key := range []string{first, second} {
		if strings.Contains(everything, strings.TrimSpace(key)[len("csk_"):]) || strings.Contains(everything, strings.TrimSpace(key)[30:]) {
			t.Error("a key is in the audit, the lists or the log")
		}
	}
	if got := p.must(t, "audit", "verify"); !matches(got, `^[67] entries, head [67]:[0-9a-f]{64}\n$`) {
		t.Errorf("verified: %s", got)
	}
}

// A key that has not ended does not look as if it worked where its team or client is disabled.
func TestKeysOfTheDisabled(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	p.must(t, "teams", "create", "checkout", "--client=web", "--client=cron")
	key := idOf(t, p.must(t, "keys", "create", "checkout/web"))
	other := strings.Replace(idOf(t, p.must(t, "keys", "create", "checkout/cron")), "web", "cron", 1)
	for what, commands := range map[string][]string{"team": {"teams", "checkout"}, "client": {"clients", "checkout/web"}} {
		p.must(t, commands[0], "disable", commands[1])
		for _, args := range [][]string{
			{"keys", "list", "checkout"}, {"keys", "list", "checkout/web"}, {"keys", "get", key}, {"teams", "get", "checkout"}, {"clients", "get", "checkout/web"},
		} {
			if got := p.must(t, args...); !matches(got, key+" +"+what+" disabled +caller ") || matches(got, key+" +active") {
				t.Errorf("%s disabled, %v:\n%s", what, args, got)
			}
		}
		if got := p.must(t, "keys", "get", other); matches(got, "active") != (what == "client") {
			t.Errorf("%s disabled, another client's:\n%s", what, got)
		}
		p.must(t, commands[0], "enable", commands[1])
	}
}

// endOf returns when the key in the second line of a table ends.
func endOf(t *testing.T, table string) time.Time {
	t.Helper()
	end, err := time.Parse(time.RFC3339, regexp.MustCompile(aTime).FindString(table))
	if err != nil {
		t.Fatalf("%v in\n%s", err, table)
	}
	return end
}

// idOf returns the name of the key that a token is of, of checkout/web.
func idOf(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(token, "_")
	if len(parts) != 3 {
		t.Fatalf("%q is no key", token)
	}
	return "checkout/web/" + parts[1]
}

// chatAs says something with a key, and returns the answer or the error.
func (p *program) chatAs(t *testing.T, key string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	_, out, notes := command(t, "chat", "--address", p.data, "--key-file", file, "--one-shot", "[[sim answer=Bonjour]]")
	return out + notes
}

// All that can be said of a new key is in it.
func TestKeyCreateFlags(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	p.must(t, "teams", "create", "checkout", "--client=web")
	code, out, notes := p.cli(t, "keys", "create", "checkout/web", "--role=caller", "--role=team_admin", "--model=gpt-5-mini", "--model=sim",
		"--cidr=10.0.0.0/8", "--cidr=2001:db8::/32", "--cidr=192.0.2.1", "--cidr=2001:db8::1", "--expires-in=1d12h", "--quiet", "--json")
	var key struct {
		Name, Secret, ExpireTime, State    string
		Roles, AllowedModels, AllowedCidrs []string
	}
	if err := json.Unmarshal([]byte(out), &key); code != 0 || err != nil || notes != "" {
		t.Fatalf("code %d, %v, out %q, notes %q", code, err, out, notes)
	}
	expires, err := time.Parse(time.RFC3339Nano, key.ExpireTime)
	if left := time.Until(expires); err != nil || left > 36*time.Hour || left < 36*time.Hour-time.Minute {
		t.Errorf("expires %s", key.ExpireTime)
	}
	if strings.Join(key.Roles, " ") != "ACCESS_ROLE_CALLER ACCESS_ROLE_TEAM_ADMIN" || strings.Join(key.AllowedModels, " ") != "gpt-5-mini sim" ||
		strings.Join(key.AllowedCidrs, " ") != "10.0.0.0/8 2001:db8::/32 192.0.2.1/32 2001:db8::1/128" || key.State != "KEY_STATE_ACTIVE" {
		t.Errorf("made %+v", key)
	}
	name := idOf(t, key.Secret)
	if got := p.must(t, "keys", "get", name, "--json"); strings.Contains(got, "csk_") || !strings.Contains(got, key.Name) {
		t.Errorf("got %s", got)
	}
	if code, out, notes = p.cli(t, "keys", "rotate", key.Name, "--overlap=0", "--quiet"); code != 0 || notes != "" {
		t.Errorf("code %d, out %q, notes %q", code, out, notes)
	}
	if got := p.must(t, "keys", "list", "checkout/web", "--all"); !matches(got, `active +caller,team_admin .*\n`+name+" +expired ") {
		t.Errorf("after a rotation without an overlap:\n%s", got)
	}
	p.refused(t, "(NOT_FOUND)", "keys", "create", "checkout/nobody")
	p.refused(t, "(INVALID_REQUEST)", "keys", "create", "checkout/web", "--expires-in=367d")
	p.misused(t, "must be an address or a network", "keys", "create", "checkout/web", "--cidr=10.0.0.1.1")
	p.misused(t, "must be an address or a network", "keys", "create", "checkout/web", "--cidr=fe80::1%eth0")
	p.refused(t, "(NOT_FOUND)", "keys", "revoke", "checkout/web/"+strings.Repeat("a", 16))

	// A team's admin sees its team and no other.
	admin := filepath.Join(t.TempDir(), "admin")
	if err := os.WriteFile(admin, []byte(p.must(t, "keys", "create", "checkout/web", "--role=team_admin")), 0o600); err != nil {
		t.Fatal(err)
	}
	p.must(t, "teams", "create", "search")
	if got := p.must(t, "teams", "list", "--key-file", admin); strings.Contains(got, "search") || !strings.Contains(got, "checkout") {
		t.Errorf("a team's admin sees:\n%s", got)
	}
	p.refused(t, "(NOT_FOUND)", "teams", "get", "search", "--key-file", admin)
	p.refused(t, "(ROLE_MISSING)", "teams", "create", "another", "--key-file", admin)
	p.refused(t, "(ROLE_MISSING)", "keys", "create", "checkout/web", "--role=auditor", "--key-file", admin)
	p.refused(t, "(ROLE_MISSING)", "audit", "verify", "--key-file", admin)
}

// A key whose answer is lost with the connection is answered all the same, and there is one.
func TestLostKeyIsRepeated(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	p.must(t, "teams", "create", "checkout", "--client=web")
	proxy := netfault.Listen(t, p.admin)
	const late = 300 * time.Millisecond
	for n, args := range [][]string{{"keys", "create", "checkout/web"}, {"keys", "rotate", ""}} {
		if n == 1 {
			args[2] = strings.Fields(p.must(t, "keys", "list", "checkout"))[6]
		}
		proxy.Delay(late)
		type result struct {
			code       int
			out, notes string
		}
		done := make(chan result, 1)
		go func() {
			code, out, notes := command(t, append(args, "--quiet", "--address", proxy.Addr())...)
			done <- result{code, out, notes}
		}()
		eventually(t, patience, "the key is made", func() bool {
			return strings.Count(p.must(t, "keys", "list", "checkout", "--json"), "\n") == n+1
		})
		proxy.Delay(0)
		proxy.CutAll() // the answer is on its way
		got := <-done
		if got.code != 0 || !strings.HasPrefix(got.out, "csk_") || proxy.Cuts() != n+1 {
			t.Fatalf("%v: code %d, %d cuts, notes %q", args, got.code, proxy.Cuts(), got.notes)
		}
		if keys := p.must(t, "keys", "list", "checkout", "--json"); strings.Count(keys, "\n") != n+1 || !strings.Contains(keys, strings.Split(got.out, "_")[1]) {
			t.Errorf("%v: the keys are\n%s", args, keys)
		}
		if answer := p.chatAs(t, got.out); !strings.Contains(answer, "Bonjour") {
			t.Errorf("the repeated key is answered %q", answer)
		}
	}
}

// fullDisk is a stdout that takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A key that cannot be printed is named, so that it can be ended.
func TestKeyThatCannotBePrinted(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	p.must(t, "teams", "create", "checkout", "--client=web")
	name := idOf(t, p.must(t, "keys", "create", "checkout/web"))
	for _, args := range [][]string{
		{"keys", "create", "checkout/web", "--quiet"},
		{"keys", "create", "checkout/web", "--json", "--quiet"},
		{"keys", "rotate", name, "--quiet"},
	} {
		var notes bytes.Buffer
		code := run(t.Context(), append(args, "--address", p.admin), stdio{strings.NewReader(""), fullDisk{}, &notes})
		made := "checkout/web/" + strings.Split(p.must(t, "keys", "list", "checkout", "--json"), `"`)[3][len("teams/checkout/clients/web/keys/"):]
		want := "chatsvc: " + made + " was made and could not be printed: no space left on device; revoke it with: chatsvc keys revoke " + made + "\n"
		if code != 1 || notes.String() != want {
			t.Errorf("%v: code %d, notes %q, want %q", args, code, notes.String(), want)
		}
	}
}

func TestRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			name  string
			sent  bool
			codes []string // of the errors, each with its reason, if any; the last one for ever; empty is success
			calls int
			want  string
		}{
			{"the first time", true, []string{""}, 1, ""},
			{"the third time", true, []string{"UNAVAILABLE", "DEADLINE_EXCEEDED", ""}, 3, ""},
			{"refused", true, []string{"UNAVAILABLE", "ALREADY_EXISTS ALREADY_EXISTS"}, 2, "ALREADY_EXISTS (ALREADY_EXISTS)"},
			{"the store is away", true, []string{"UNAVAILABLE STORE_UNAVAILABLE", ""}, 2, ""},
			{"lost behind a proxy", true, []string{"INTERNAL", "UNKNOWN", "CANCELLED", ""}, 4, ""},
			{"a mistake of the service", true, []string{"INTERNAL INTERNAL"}, 1, "INTERNAL (INTERNAL)"},
			{"no such service", true, []string{"UNIMPLEMENTED"}, 1, "UNIMPLEMENTED"},
			{"refused by a proxy", true, []string{"PERMISSION_DENIED"}, 1, "PERMISSION_DENIED"},
			{"nobody there", false, []string{"UNAVAILABLE"}, 1, "UNAVAILABLE"},
			{"never", true, []string{"UNAVAILABLE"}, 19, "UNAVAILABLE; whether there is a new key is not known: see chatsvc keys list a/b"},
		} {
			calls, began := 0, time.Now()
			var notes bytes.Buffer
			key, err := repeated(t.Context(), &notes, "a/b", func(_ context.Context, options ...grpc.CallOption) (*chatsvcv1.Key, error) {
				code := tt.codes[min(calls, len(tt.codes)-1)]
				calls++
				for _, option := range options {
					if o, ok := option.(grpc.PeerCallOption); ok && tt.sent {
						o.PeerAddr.Addr = &net.TCPAddr{}
					}
				}
				if code == "" {
					return &chatsvcv1.Key{}, nil
				}
				code, reason, _ := strings.Cut(code, " ")
				return nil, &callError{Code: code, Message: code, Reason: reason}
			})
			if noted := strings.Count(notes.String(), "chatsvc: no answer yet; "); noted != strings.Count(notes.String(), "\n") || (noted == 1) != (time.Since(began) > noteTime) {
				t.Errorf("%s: notes %q after %v", tt.name, notes.String(), time.Since(began))
			}
			text := ""
			if err != nil {
				text = err.Error()
			}
			if calls != tt.calls || text != tt.want || (key == nil) != (tt.want != "") || time.Since(began) > repeatTime {
				t.Errorf("%s: %d calls in %v, error %q; want %d calls, error %q", tt.name, calls, time.Since(began), text, tt.calls, tt.want)
			}
		}
		stopped, stop := context.WithCancelCause(t.Context())
		stop(errors.New("interrupted"))
		if _, err := repeated(stopped, io.Discard, "a/b", func(context.Context, ...grpc.CallOption) (*chatsvcv1.Key, error) {
			return nil, &callError{Code: "CANCELLED", Message: "interrupted"}
		}); err == nil || err.Error() != "interrupted" {
			t.Errorf("err = %v", err)
		}
	})
}
