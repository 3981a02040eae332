package main

import (
	"slices"
	"testing"
	"time"
)

func TestGoals(t *testing.T) {
	took := []commitTime{{P50: 2 * time.Millisecond}, {P50: 4 * time.Millisecond}}
	r := report{
		Options: options{Store: true, Callers: []int{1, 256}, Targets: []string{targetForgetful, targetSQLite, targetPostgres}},
		Commits: map[string][]commitTime{targetSQLite: took, targetPostgres: took},
	}
	// Of 100 turns each; the machine is three times slower in the second repetition, its disk twice.
	for repetition, millisecond := range []time.Duration{time.Millisecond, 3 * time.Millisecond} {
		for _, w := range storeWorkloads() {
			for _, s := range []sample{
				{Target: targetForgetful, Callers: 1, P50: millisecond},
				{Target: targetForgetful, Callers: 256, ServerCPU: 20 * millisecond},
				{Target: targetSQLite, Callers: 1, P50: millisecond + took[repetition].P50*3/2},
				{Target: targetSQLite, Callers: 256, ServerCPU: 29 * millisecond, Commits: 5},
				{Target: targetPostgres, Callers: 1, P50: millisecond + took[repetition].P50*5/2},
				{Target: targetPostgres, Callers: 256, ServerCPU: 31 * millisecond, Commits: 7},
			} {
				s.Workload, s.Repetition, s.Turns = w.Name, repetition, 100
				r.Samples = append(r.Samples, s)
			}
		}
	}
	got := r.goals()
	want := []string{
		"met: sqlite, one-shot turns, CPU per turn ÷ forgetful with 256 callers: 1.45, goal ≤ 1.50",
		"met: sqlite, one-shot turns, commits per turn with 256 callers: 0.05, goal ≤ 0.05",
		"met: sqlite, one-shot turns, p50 beyond forgetful with 1 caller, in commits of one row: 1.50, goal ≤ 2.00",
		"missed: postgres, one-shot turns, CPU per turn ÷ forgetful with 256 callers: 1.55, goal ≤ 1.50",
		"missed: postgres, one-shot turns, commits per turn with 256 callers: 0.07, goal ≤ 0.05",
		"missed: postgres, one-shot turns, p50 beyond forgetful with 1 caller, in commits of one row: 2.50, goal ≤ 2.00",
	}
	if len(got) != 2*len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("got  %q\nwant %q, and as many for the other workload", got, want)
	}
	r.Options.Callers = []int{32}
	if got := r.goals(); len(got) > 0 {
		t.Errorf("goals for 1 and 256 callers are judged with 32: %q", got)
	}
}
