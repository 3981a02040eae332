package main

import (
	"bytes"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// serveDev runs the service as a newcomer does.
func serveDev(t *testing.T) *program {
	t.Helper()
	return launch(t, "serve", "--dev", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0",
		"--database-url=sqlite:"+filepath.Join(t.TempDir(), "chatsvc.db"))
}

// cli runs a command that calls the control plane of p.
func (p *program) cli(t *testing.T, args ...string) (code int, out, notes string) {
	t.Helper()
	return p.cliIn(t, "", args...)
}

// cliIn is cli with in on stdin.
func (p *program) cliIn(t *testing.T, in string, args ...string) (code int, out, notes string) {
	t.Helper()
	var o, n bytes.Buffer
	code = run(t.Context(), append(args, "--address", p.admin), stdio{strings.NewReader(in), &o, &n})
	return code, o.String(), n.String()
}

// must is cli for what succeeds. It returns stdout.
func (p *program) must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, notes := p.cli(t, args...)
	if code != 0 {
		t.Fatalf("%v: code %d, %s%s", args, code, out, notes)
	}
	return out
}

// refused is cli for what fails: with exit code 1, nothing on stdout, and one line with want on stderr.
func (p *program) refused(t *testing.T, want string, args ...string) {
	t.Helper()
	code, out, notes := p.cli(t, args...)
	if code != 1 || out != "" || !strings.Contains(notes, want) || strings.Count(notes, "\n") != 1 {
		t.Errorf("%v: code %d, out %q, notes %q, want code 1 and one line with %q", args, code, out, notes, want)
	}
}

// misused is cli for what makes no sense: with exit code 2, nothing on stdout, and one line with want on stderr.
func (p *program) misused(t *testing.T, want string, args ...string) {
	t.Helper()
	code, out, notes := p.cli(t, args...)
	if code != 2 || out != "" || !strings.Contains(notes, want) || strings.Count(notes, "\n") != 1 {
		t.Errorf("%v: code %d, out %q, notes %q, want code 2 and one line with %q", args, code, out, notes, want)
	}
}

func matches(text, expression string) bool { return regexp.MustCompile(expression).MatchString(text) }
