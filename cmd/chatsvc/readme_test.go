package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/config"
)

const root = "../.."

// fenced returns the README's code blocks of a language.
func fenced(t *testing.T, language string) []string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllSubmatch(readme, -1) {
		blocks = append(blocks, string(m[1]))
	}
	if len(blocks) == 0 {
		t.Fatalf("README.md has no block of %s", language)
	}
	return blocks
}

// build builds a program and returns its path.
func build(t *testing.T, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", append([]string{"build", "-o", path}, args...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		if os.Getenv("CI") == "" && bytes.Contains(out, []byte("dial tcp")) {
			t.Skipf("skipped: the module proxy is out of reach: %s", out)
		}
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return path
}

// The README's sh blocks work when pasted, one after the other into one shell, with the addresses and the upstream of this test.
func TestREADMEShell(t *testing.T) {
	t.Parallel()
	grpcurl := build(t, "-modfile=tools/grpcurl/go.mod", "github.com/fullstorydev/grpcurl/cmd/grpcurl")
	if _, err := exec.LookPath("sh"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("skipped: %v", err)
	}
	dir := t.TempDir()
	if err := os.Rename(grpcurl, filepath.Join(dir, "grpcurl")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	program := "#!/bin/sh\nexport " + asProgram + "=1\nexec '" + os.Args[0] + "' \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "bin", "chatsvc"), []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	p := launch(t, "serve", "--dev", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--database-url=sqlite:"+filepath.Join(dir, "chatsvc.db"))
	_, upstream := simulate(t)
	// Those of a server that the README starts itself.
	data, admin := freeAddress(t), freeAddress(t)
	addresses := strings.NewReplacer("localhost:50051", p.data,
		"127.0.0.1:50061", data, "localhost:50061", data, "127.0.0.1:50062", admin, "localhost:50062", admin)

	blocks := fenced(t, "sh")
	const next = "--- the next block ---\n"
	script := "set -eu\ntrap 'kill ${SERVER:-} 2> /dev/null || true' EXIT\numask 022\n" + addresses.Replace(strings.Join(blocks, "echo '"+strings.TrimSpace(next)+"'\n")) + "wait\n"
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with all that it starts
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(script)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "CHATSVC_ADDRESS="+p.data, "CHATSVC_ADMIN_ADDRESS="+p.admin, "CHATSVC_OPENAI_BASE_URL="+upstream)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, errs.String())
	}
	outputs := strings.Split(string(out), next)
	if len(outputs) != len(blocks) {
		t.Fatalf("%d outputs of %d blocks:\n%s", len(outputs), len(blocks), out)
	}
	for _, tt := range []struct{ block, output string }{
		{"CreateTurn", `"outputText": "You said: «Bonjour».`},
		{"StreamTurn", `(?s)"textDelta".*"terminal"`},
		{"What is my name?", "(?s)Ada.*Your name is Ada"},
		{"keys rotate", `(?s)^TEAM .*\ncheckout .*\ncheckout/web .*You said: «Bonjour»\..*\ncsk_.* revoked .*KeyService/RevokeKey.*TeamService/CreateTeam`},
		{"SERVER", `(?s)\nplatform/admin .*\ncheckout .*\ncheckout/web .*You said: «Bonjour»\.`},
		{"[[sim answer", `"outputText": "Four\."`},
	} {
		i := slices.IndexFunc(blocks, func(block string) bool { return strings.Contains(block, tt.block) })
		if i < 0 || !matches(outputs[i], tt.output) {
			t.Errorf("the block with %s (%d) does not print %s:\n%s", tt.block, i, tt.output, out)
		}
	}
	coin := slices.IndexFunc(blocks, func(block string) bool { return strings.Contains(block, "# the same turn twice") })
	if coin < 0 || !matches(outputs[coin], `^ *"name": "turns/[-0-9a-f]+",\n *"name": "turns/[-0-9a-f]+",\n$`) ||
		len(slices.Compact(strings.Fields(strings.ReplaceAll(outputs[coin], `"name":`, "")))) != 1 {
		t.Errorf("a request_id gives (%d)\n%s", coin, out)
	}

	for _, name := range []string{"admin.key", "openai.key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want a file that only its owner reads", name, info, err)
		}
	}
	if key, err := os.ReadFile(filepath.Join(dir, "admin.key")); err != nil || !onlyToken.MatchString(strings.TrimSuffix(string(key), "\n")) {
		t.Errorf("bootstrap printed %d bytes, which are no key: %v", len(key), err)
	}
}

// freeAddress returns an address on which nothing listens, at this moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// The README's settings are settings.
func TestREADMESettings(t *testing.T) {
	t.Parallel()
	for _, block := range fenced(t, "yaml") {
		path := filepath.Join(t.TempDir(), "chatsvc.yaml")
		if err := os.WriteFile(path, []byte(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(config.Source{File: path, Environ: []string{"OPENAI_API_KEY=sk-none"}}); err != nil {
			t.Errorf("%v, of\n%s", err, block)
		}
	}
}

// The README's program compiles and prints an answer.
func TestREADMEProgram(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp(".", "_readme") //nolint:usetesting // inside the module, so that its imports resolve
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := launch(t, "serve", "--dev", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--database-url=sqlite:"+filepath.Join(t.TempDir(), "chatsvc.db"))
	source := strings.ReplaceAll(fenced(t, "go")[0], "localhost:50051", p.data)
	file := filepath.Join(dir, "main.go")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	absolute, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(build(t, absolute)).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "«Bonjour».\nTURN_STATE_COMPLETED, ") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The README's table is what the program reads.
func TestREADMEConfiguration(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(readme, []byte("\n"+config.Table()+"\n")) {
		t.Errorf("the table of settings in README.md should be:\n%s", config.Table())
	}
}
