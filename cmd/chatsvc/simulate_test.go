package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// startSimulator runs `chatsvc simulate` and returns its base URL, its output, and how to stop it, which gives the code.
func startSimulator(t *testing.T, args ...string) (base string, out, notes *screen, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, notes = newScreen(), newScreen()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"simulate", "--listen", "127.0.0.1:0"}, args...), stdio{nil, out, notes})
	}()
	stop = func() int {
		t.Helper()
		cancel()
		select {
		case got := <-code:
			return got
		case <-time.After(patience):
			t.Fatal("the simulator does not stop")
			return -1
		}
	}
	t.Cleanup(cancel)
	out.await(t, "OPENAI_API_KEY=")
	match := regexp.MustCompile(`(?m)^export CHATSVC_OPENAI_BASE_URL=(http://127\.0\.0\.1:\d+/v1)$`).FindStringSubmatch(out.String())
	if match == nil {
		t.Fatalf("no base URL in %q", out)
	}
	return match[1], out, notes, stop
}

func askSimulator(t *testing.T, base, key, body string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

const simulatorQuestion = `{"model":"sim","messages":[{"role":"user","content":"[[sim answer='Bonjour Ada']]"}]}`

func TestSimulate(t *testing.T) {
	base, out, notes, stop := startSimulator(t)
	if !strings.HasSuffix(out.String(), "\nexport OPENAI_API_KEY=sim\n") {
		t.Errorf("out %q", out)
	}
	if status, answer := askSimulator(t, base, "sim", simulatorQuestion); status != http.StatusOK || !strings.Contains(answer, "Bonjour Ada") {
		t.Errorf("status %d: %s", status, answer)
	}
	notes.await(t, "chat completion")
	if code := stop(); code != 0 {
		t.Errorf("code %d; notes %s", code, notes)
	}
}

func TestSimulateKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte("# ours\n\nsecret-key\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base, out, notes, stop := startSimulator(t, "--quiet", "--keys-file", file)
	for key, want := range map[string]int{"secret-key": http.StatusOK, "sim": http.StatusUnauthorized, "# ours": http.StatusUnauthorized} {
		if status, answer := askSimulator(t, base, key, simulatorQuestion); status != want {
			t.Errorf("key %q: status %d, want %d: %s", key, status, want, answer)
		}
	}
	if code := stop(); code != 0 || notes.String() != "" || strings.Contains(out.String(), "secret-key") {
		t.Errorf("code %d, out %q, notes %q", code, out, notes)
	}
}

// TestSimulateStopsWhileAnAnswerHangs: an answer that never ends does not keep the program.
func TestSimulateStopsWhileAnAnswerHangs(t *testing.T) {
	base, _, _, stop := startSimulator(t, "--quiet")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/chat/completions",
		strings.NewReader(`{"model":"sim","stream":true,"messages":[{"role":"user","content":"[[sim fault=stall after=1]]"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer sim")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := response.Body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if code := stop(); code != 0 {
		t.Errorf("code %d", code)
	}
}

func TestSimulateUsage(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	empty := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(empty, []byte("# none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"port taken", []string{"--listen", taken.Addr().String()}, "another program listens on " + taken.Addr().String()},
		{"no address", []string{"--listen", "nonsense"}, "open the simulator's port"},
		{"no keys", []string{"--keys-file", empty}, "holds none"},
		{"rate is no number", []string{"--rate=NaN"}, "must not be negative"},
		{"time runs back", []string{"--ttft=-1s"}, "must not be negative"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, notes := newScreen(), newScreen()
			code := run(t.Context(), append([]string{"simulate"}, tt.args...), stdio{nil, out, notes})
			if code != 1 || out.String() != "" || !strings.Contains(notes.String(), tt.want) {
				t.Errorf("code %d, out %q, notes %q, want %q", code, out, notes, tt.want)
			}
		})
	}
}

func TestReachable(t *testing.T) {
	for listening, want := range map[string]string{
		"0.0.0.0:8089": "127.0.0.1:8089", "[::]:8089": "127.0.0.1:8089", "10.1.2.3:8089": "10.1.2.3:8089", "[::1]:8089": "[::1]:8089",
	} {
		address, err := net.ResolveTCPAddr("tcp", listening)
		if err != nil {
			t.Fatal(err)
		}
		if got := reachable(address); got != want {
			t.Errorf("reachable(%s) = %s, want %s", listening, got, want)
		}
	}
}
