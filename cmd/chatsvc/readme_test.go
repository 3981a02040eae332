package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/tenant"
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

// The README's sh blocks work when pasted, one after the other into one shell, with the address of this test's server.
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
	script := "set -eu\n" + strings.ReplaceAll(strings.Join(fenced(t, "sh"), "\n"), "localhost:50051", p.data)
	cmd := exec.Command("sh")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(script)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "CHATSVC_ADDRESS="+p.data, "CHATSVC_ADMIN_ADDRESS="+p.admin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{`"outputText": "You said: «Bonjour».`, `"textDelta"`, `"terminal"`, "Your name is Ada", `"Four."`, "TeamService/CreateTeam", "KeyService/RevokeKey"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %s in the output:\n%s", want, out)
		}
	}

	if key, err := os.ReadFile(filepath.Join(dir, "admin.key")); err != nil || !strings.HasPrefix(string(key), tenant.TokenPrefix) {
		t.Errorf("bootstrap printed %d bytes, which are no key: %v", len(key), err)
	}
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
