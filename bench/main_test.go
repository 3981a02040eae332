package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be its own floor and simulator, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == floorCommand || os.Args[1] == simulateCommand) {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestBenchMeasuresTheFloors(t *testing.T) {
	if !supported {
		t.Skip("skipped: measuring needs Linux")
	}
	t.Setenv("TMPDIR", t.TempDir())
	raw := filepath.Join(t.TempDir(), "bench.json")
	var stdout, stderr strings.Builder
	code := run(t.Context(), []string{"-only", "pooled,floor", "-callers", "2", "-duration", "100ms", "-reps", "2", "-json", raw}, &stdout, &stderr)
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, stderr.String())
	}
	for _, want := range []string{"unary, 20 tokens", "stream, 200 tokens", "pooled ÷ floor", "CPU µs / delta", "datasync of 4 KiB"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, stdout.String())
		}
	}

	content, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(content, &r); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, s := range r.Samples {
		order = append(order, s.Workload+" "+s.Target)
		if s.Turns == 0 || s.Elapsed < 100*time.Millisecond || s.P50 <= 0 || s.P99 < s.P50 || s.ResidentBytes == 0 {
			t.Errorf("nothing measured: %+v", s)
		}
		if s.Workload == "stream" && (s.Deltas != int64(s.Turns)*200 || s.Messages != s.Turns*200 || s.FirstTextP50 <= 0) {
			t.Errorf("the floor sends one message per delta, 200 for a turn: %+v", s)
		}
		if s.Target == targetPooled && s.Connections != 0 {
			t.Errorf("%d new connections after warming up the pool", s.Connections)
		}
	}
	round := []string{"unary floor", "unary pooled", "stream floor", "stream pooled"}
	if want := slices.Concat(round, round); !slices.Equal(order, want) {
		t.Errorf("measured in the order %q, want %q", order, want)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("the run leaves %v behind (%v)", left, err)
	}
}

func TestBenchSaysWhyAProcessEnded(t *testing.T) {
	if !supported {
		t.Skip("skipped: measuring needs Linux")
	}
	program := filepath.Join(t.TempDir(), "chatsvc")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho no such thing as $1 >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	if code := run(t.Context(), []string{"-only", "chatsvc", "-binary", program}, io.Discard, &stderr); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, want := range []string{"chatsvc has ended: exit status 3", "no such thing as serve"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, stderr.String())
		}
	}
}

func TestOptions(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string // targets, or the error
	}{
		{"", "floor,pooled,chatsvc"},
		{"-only chatsvc,floor", "floor,chatsvc"},
		{"-only floor,flor", `-only: "flor" is none of floor, pooled, chatsvc`},
		{"faster", `"faster" is no flag`},
		{"-reps 0", "at least 1 caller, 1 repetition and 100ms are needed"},
		{"-callers 0", "at least 1 caller, 1 repetition and 100ms are needed"},
		{"-duration 1ms", "at least 1 caller, 1 repetition and 100ms are needed"},
	} {
		o, err := parseOptions(strings.Fields(tc.args), io.Discard)
		got := strings.Join(o.Targets, ",")
		if err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("bench %s\ngot  %s\nwant %s", tc.args, got, tc.want)
		}
	}
	o, err := parseOptions([]string{"-short", "-reps", "9"}, io.Discard)
	if err != nil || o.Reps != 1 || o.Duration != time.Second || o.Callers != 16 {
		t.Errorf("-short is %+v (%v)", o, err)
	}
}
