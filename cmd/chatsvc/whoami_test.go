package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Who calls is told to whoever calls, in words and for scripts; the other port is told from this one.
func TestWhoami(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	p.must(t, "teams", "create", "checkout", "--client=web")
	file := filepath.Join(t.TempDir(), "key")
	token := p.must(t, "keys", "create", "checkout/web", "--role=caller", "--role=viewer", "--model=sim", "--expires-in=1h")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	id := strings.Split(token, "_")[1]
	whoami := func(args ...string) (code int, out, notes string) {
		t.Helper()
		return command(t, append([]string{"whoami", "--key-file", file}, args...)...)
	}
	code, out, notes := whoami("--address", p.data)
	if code != 0 || notes != "" || !matches(out, `^CLIENT +ROLES +ENDS +MODELS +CREDENTIAL\ncheckout/web  caller,viewer  `+aTime+`  sim     key:`+id+`\n$`) {
		t.Errorf("code %d, notes %q, out:\n%s", code, notes, out)
	}
	code, out, notes = whoami("--address", p.data, "--json")
	var caller struct {
		Client  string
		Methods []string
	}
	if err := json.Unmarshal([]byte(out), &caller); err != nil || code != 0 || notes != "" || caller.Client != "teams/checkout/clients/web" ||
		!slices.Contains(caller.Methods, "chatsvc.v1.ChatService/CreateTurn") {
		t.Errorf("code %d, notes %q, %v, out:\n%s", code, notes, err, out)
	}
	code, out, notes = whoami("--address", p.admin)
	if want := "chatsvc: unknown service chatsvc.v1.CallerService; callers and the control plane have a port each, and " + p.admin + " is the other one: see --address\n"; code != 1 || out != "" || notes != want {
		t.Errorf("code %d, out %q, notes %q, want %q", code, out, notes, want)
	}
}
