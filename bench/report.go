package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// A report is everything that a run found. Its JSON has the samples as they were taken.
type report struct {
	Machine  machine                 `json:"machine"`
	Options  options                 `json:"options"`
	Datasync datasyncTime            `json:"datasync"`
	Commits  map[string][]commitTime `json:"commits,omitempty"` // of each database, before each repetition
	Samples  []sample                `json:"samples"`
}

// A machine is where a run was made.
type machine struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPUs int    `json:"cpus"`
	Go   string `json:"go"`
}

func thisMachine() machine {
	return machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version()}
}

// writeJSON writes the report to a file.
func (r report) writeJSON(path string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the report: %w", err)
	}
	if err := os.WriteFile(path, append(content, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// A metric is a row of the table: one number made from a sample.
type metric struct {
	name     string
	of       func(sample) float64
	decimals int
	streams  bool // has a meaning for streams only
	stores   bool // has a meaning for stores only
}

func metrics() []metric {
	perTurn := func(d func(sample) time.Duration) func(sample) float64 {
		return func(s sample) float64 { return microseconds(d(s)) / float64(s.Turns) }
	}
	milliseconds := func(d func(sample) time.Duration) func(sample) float64 {
		return func(s sample) float64 { return microseconds(d(s)) / 1000 }
	}
	return []metric{
		{name: "CPU µs / turn", of: cpuPerTurn},
		{name: "database's CPU µs / turn", of: perTurn(func(s sample) time.Duration { return s.DatabaseCPU }), stores: true},
		{name: "commits / turn", of: commitsPerTurn, decimals: 3, stores: true},
		{name: "CPU µs / delta", of: func(s sample) float64 { return microseconds(s.ServerCPU) / float64(s.Deltas) }, decimals: 2, streams: true},
		{name: "turns / s", of: func(s sample) float64 { return float64(s.Turns) / s.Elapsed.Seconds() }},
		{name: "latency p50 ms", of: p50, decimals: 2},
		{name: "latency p99 ms", of: milliseconds(func(s sample) time.Duration { return s.P99 }), decimals: 2},
		{name: "first text p50 ms", of: milliseconds(func(s sample) time.Duration { return s.FirstTextP50 }), decimals: 1, streams: true},
		{name: "deltas / message", of: func(s sample) float64 { return float64(s.Deltas) / float64(s.Messages) }, decimals: 1, streams: true},
		{name: "new upstream connections", of: func(s sample) float64 { return float64(s.Connections) }},
		{name: "resident MiB", of: func(s sample) float64 { return float64(s.ResidentBytes) / (1 << 20) }},
		{name: "simulator CPU µs / turn", of: perTurn(func(s sample) time.Duration { return s.SimulatorCPU })},
		{name: "callers' CPU µs / turn", of: perTurn(func(s sample) time.Duration { return s.ClientCPU })},
		// Callers never pause: where this is well below the number of CPUs, something waits, or something else runs.
		{name: "CPUs busy in all of it", of: func(s sample) float64 {
			return (s.ServerCPU + s.DatabaseCPU + s.SimulatorCPU + s.ClientCPU).Seconds() / s.Elapsed.Seconds()
		}, decimals: 2},
	}
}

func commitsPerTurn(s sample) float64 { return float64(s.Commits) / float64(s.Turns) }

func cpuPerTurn(s sample) float64 { return microseconds(s.ServerCPU) / float64(s.Turns) }

func p50(s sample) float64 { return microseconds(s.P50) / 1000 }

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// print writes a table for each workload and number of callers: medians of the targets, and medians of their ratios.
func (r report) print(w io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s/%s, %d CPUs, %s; write and datasync of 4 KiB: p50 %s, p99 %s\n", r.Machine.OS, r.Machine.Arch, r.Machine.CPUs, r.Machine.Go,
		r.Datasync.P50.Round(time.Microsecond), r.Datasync.P99.Round(time.Microsecond))
	for _, target := range r.Options.Targets {
		if took := r.Commits[target]; len(took) > 0 {
			fmt.Fprintf(&text, "one commit of one row, %s: p50 %.3fms, p99 %.3fms\n", target,
				median(commits(took, func(c commitTime) time.Duration { return c.P50 })),
				median(commits(took, func(c commitTime) time.Duration { return c.P99 })))
		}
	}
	fmt.Fprintf(&text, "medians of %d repetitions of %s\n", r.Options.Reps, r.Options.Duration)
	for _, load := range r.Options.workloads() {
		for _, callers := range r.Options.Callers {
			fmt.Fprintf(&text, "\n%s, %d tokens each, callers: %d\n", load.Name, load.Tokens, callers)
			table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
			if _, err := io.WriteString(table, r.rows(load, callers)); err != nil {
				return fmt.Errorf("aligning the report: %w", err)
			}
			if err := table.Flush(); err != nil {
				return fmt.Errorf("aligning the report: %w", err)
			}
		}
	}
	if lines := r.goals(); len(lines) > 0 {
		fmt.Fprintf(&text, "\n%s\n", strings.Join(lines, "\n"))
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("printing the report: %w", err)
	}
	return nil
}

// commits returns one figure of each measurement, in milliseconds.
func commits(took []commitTime, of func(commitTime) time.Duration) []float64 {
	all := make([]float64, len(took))
	for i, t := range took {
		all[i] = microseconds(of(t)) / 1000
	}
	return all
}

// rows returns the table of a workload with a tab after each cell.
func (r report) rows(load workload, callers int) string {
	var rows strings.Builder
	row := func(name string, cells []string) {
		fmt.Fprintf(&rows, "%-24s\t%s\t\n", name, strings.Join(cells, "\t")) // the name alone stands to the left
	}
	pairs := r.pairs()
	header := slices.Clone(r.Options.Targets)
	for _, p := range pairs {
		header = append(header, p[0]+" ÷ "+p[1])
	}
	row("", header)
	for _, m := range metrics() {
		if m.streams && !load.Stream || m.stores && !r.Options.Store {
			continue
		}
		var cells []string
		for _, target := range r.Options.Targets {
			cells = append(cells, strconv.FormatFloat(median(r.values(load, callers, target, m.of)), 'f', m.decimals, 64))
		}
		for _, p := range pairs {
			cells = append(cells, ratio(r.values(load, callers, p[0], m.of), r.values(load, callers, p[1], m.of)))
		}
		row(m.name, cells)
	}
	return rows.String()
}

// pairs returns which targets are compared with which: each with those before it.
func (r report) pairs() [][2]string {
	var pairs [][2]string
	for i, target := range r.Options.Targets {
		for _, before := range r.Options.Targets[:i] {
			pairs = append(pairs, [2]string{target, before})
		}
	}
	return pairs
}

// values returns a metric in each repetition.
func (r report) values(load workload, callers int, target string, of func(sample) float64) []float64 {
	var values []float64
	for _, s := range r.Samples {
		if s.Workload == load.Name && s.Callers == callers && s.Target == target {
			values = append(values, of(s))
		}
	}
	return values
}

// ratio returns the median of the ratios within each repetition, or a dash where one would divide by zero.
func ratio(values, by []float64) string {
	if slices.Contains(by, 0) {
		return "–"
	}
	return strconv.FormatFloat(median(combine(values, by, func(a, b float64) float64 { return a / b })), 'f', 2, 64)
}

// combine returns f of the values of each repetition.
func combine(values, others []float64, f func(value, other float64) float64) []float64 {
	combined := make([]float64, len(values))
	for i := range values {
		combined[i] = f(values[i], others[i])
	}
	return combined
}
