package main

import (
	"fmt"
	"slices"
	"time"
)

// The goals of a durable store, against one that forgets: with many callers what a turn costs, and alone how long it
// takes, in commits of one row.
const (
	goalCallers        = 256
	goalCPURatio       = 1.5
	goalCommitsPerTurn = 0.05
	goalCommitsWaited  = 2
)

// goals returns a line for each goal that the run can tell something about.
func (r report) goals() []string {
	var lines []string
	say := func(load workload, target, what string, got, goal float64) {
		verdict := "met"
		if got > goal {
			verdict = "missed"
		}
		lines = append(lines, fmt.Sprintf("%s: %s, %s, %s: %.2f, goal ≤ %.2f", verdict, target, load.Name, what, got, goal))
	}
	if !r.Options.Store || !slices.Contains(r.Options.Targets, targetForgetful) {
		return nil
	}
	for _, load := range r.Options.workloads() {
		for _, target := range r.Options.Targets {
			took := commits(r.Commits[target], func(c commitTime) time.Duration { return c.P50 })
			if len(took) == 0 {
				continue
			}
			against := func(callers int, of func(sample) float64, f func(a, b float64) float64) []float64 {
				return combine(r.values(load, callers, target, of), r.values(load, callers, targetForgetful, of), f)
			}
			if slices.Contains(r.Options.Callers, goalCallers) {
				cpu := against(goalCallers, cpuPerTurn, func(a, b float64) float64 { return a / b })
				say(load, target, fmt.Sprintf("CPU per turn ÷ forgetful with %d callers", goalCallers), median(cpu), goalCPURatio)
				perTurn := median(r.values(load, goalCallers, target, commitsPerTurn))
				say(load, target, fmt.Sprintf("commits per turn with %d callers", goalCallers), perTurn, goalCommitsPerTurn)
			}
			if slices.Contains(r.Options.Callers, 1) {
				waited := against(1, p50, func(a, b float64) float64 { return a - b })
				say(load, target, "p50 beyond forgetful with 1 caller, in commits of one row",
					median(combine(waited, took, func(a, b float64) float64 { return a / b })), goalCommitsWaited)
			}
		}
	}
	return lines
}
