package main

import (
	"os"
	"testing"
	"time"
)

func TestParseCPUTime(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194560 300 0 0 0 1234 66 7 8 20 0 9 0 5000 1 2"
	for _, tc := range []struct {
		name, stat  string
		own, reaped time.Duration
		fails       bool
	}{
		{"plain", "42 (chatsvc)" + rest, 13 * time.Second, 150 * time.Millisecond, false},
		{"a name with spaces and parentheses", "42 (a) b (c 1 2))" + rest, 13 * time.Second, 150 * time.Millisecond, false},
		{"no name", "42 chatsvc S 1", 0, 0, true},
		{"cut short", "42 (chatsvc) S 1 2 3", 0, 0, true},
		{"no number", "42 (chatsvc) S 1 2 3 0 -1 4194560 300 0 0 0 x 66 7 8", 0, 0, true},
		{"empty", "", 0, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			own, reaped, err := parseCPUTime(tc.stat)
			if own != tc.own || reaped != tc.reaped || (err != nil) != tc.fails {
				t.Errorf("got %v and %v, %v; want %v and %v", own, reaped, err, tc.own, tc.reaped)
			}
		})
	}
}

func TestParseResidentPages(t *testing.T) {
	for _, tc := range []struct {
		statm string
		want  int64
		fails bool
	}{
		{"3051 1200 900 500 0 700 0\n", 1200, false},
		{"3051", 0, true},
		{"3051 many", 0, true},
	} {
		got, err := parseResidentPages(tc.statm)
		if got != tc.want || (err != nil) != tc.fails {
			t.Errorf("%q: got %d, %v; want %d", tc.statm, got, err, tc.want)
		}
	}
}

func TestOwnProcessIsMeasured(t *testing.T) {
	if !supported {
		t.Skip("skipped: measuring needs Linux")
	}
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for after := before; after < before+3*clockTick; {
		if after, err = cpuTime(os.Getpid()); err != nil {
			t.Fatal(err)
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("10 s of work cost less than 30 ms of CPU")
		}
	}
	if n, err := residentBytes(os.Getpid()); err != nil || n < 1<<20 || n > 1<<40 {
		t.Errorf("resident: %d, %v", n, err)
	}
	if _, err := cpuTime(-1); err == nil {
		t.Error("a process that does not exist has CPU time")
	}
}
