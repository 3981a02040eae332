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

// TestMain lets the test binary be its own processes, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{floorCommand, simulateCommand, forgetCommand}, os.Args[1]) {
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

func TestBenchMeasuresAStoreThatForgets(t *testing.T) {
	if !supported {
		t.Skip("skipped: measuring needs Linux")
	}
	t.Setenv("TMPDIR", t.TempDir())
	raw := filepath.Join(t.TempDir(), "bench.json")
	var stdout, stderr strings.Builder
	args := []string{"-store", "-only", "forgetful", "-callers", "1,4", "-duration", "100ms", "-reps", "1", "-json", raw}
	if code := run(t.Context(), args, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d\n%s", code, stderr.String())
	}
	for _, want := range []string{"one-shot turns, 20 tokens each, callers: 4", "turns in conversations of ten", "commits / turn"} {
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
	if len(r.Samples) != 4 { // two workloads, two numbers of callers
		t.Errorf("%d samples, want 4", len(r.Samples))
	}
	for _, s := range r.Samples {
		// Every answer was compared with the simulator's, and every call counted there.
		if s.Turns == 0 || s.ServerCPU == 0 || s.P50 <= 0 || s.Commits != 0 || s.DatabaseCPU != 0 {
			t.Errorf("measured %+v", s)
		}
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
		{"-store", "forgetful,sqlite,postgres"},
		{"-store -only sqlite,forgetful", "forgetful,sqlite"},
		{"-store -only floor", `-only: "floor" is none of forgetful, sqlite, postgres`},
		{"-only sqlite", `-only: "sqlite" is none of floor, pooled, chatsvc`},
		{"-reps 0", "at least 1 repetition and 100ms are needed"},
		{"-callers 0", `-callers: "0" is no number of callers`},
		{"-callers 1,,2", `-callers: "" is no number of callers`},
		{"-duration 1ms", "at least 1 repetition and 100ms are needed"},
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
	for _, tc := range []struct {
		args     string
		callers  []int
		duration time.Duration
		reps     int
	}{
		{"", []int{64}, 5 * time.Second, 3},
		{"-callers 2,8", []int{2, 8}, 5 * time.Second, 3},
		{"-short -reps 9 -callers 3", []int{16}, time.Second, 1},
		{"-store", []int{1, 32, 256}, 3 * time.Second, 3},
		{"-store -duration 5s -callers 4", []int{4}, 5 * time.Second, 3},
		{"-store -short", []int{1, 32, 256}, time.Second, 1},
	} {
		o, err := parseOptions(strings.Fields(tc.args), io.Discard)
		if err != nil || o.Reps != tc.reps || o.Duration != tc.duration || !slices.Equal(o.Callers, tc.callers) {
			t.Errorf("bench %s is %+v (%v)", tc.args, o, err)
		}
	}
}
