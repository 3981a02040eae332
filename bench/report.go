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
	Machine  machine      `json:"machine"`
	Options  options      `json:"options"`
	Datasync datasyncTime `json:"datasync"`
	Samples  []sample     `json:"samples"`
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
}

func metrics() []metric {
	perTurn := func(d func(sample) time.Duration) func(sample) float64 {
		return func(s sample) float64 { return microseconds(d(s)) / float64(s.Turns) }
	}
	milliseconds := func(d func(sample) time.Duration) func(sample) float64 {
		return func(s sample) float64 { return microseconds(d(s)) / 1000 }
	}
	return []metric{
		{name: "CPU µs / turn", of: perTurn(func(s sample) time.Duration { return s.ServerCPU })},
		{name: "CPU µs / delta", of: func(s sample) float64 { return microseconds(s.ServerCPU) / float64(s.Deltas) }, decimals: 2, streams: true},
		{name: "turns / s", of: func(s sample) float64 { return float64(s.Turns) / s.Elapsed.Seconds() }},
		{name: "latency p50 ms", of: milliseconds(func(s sample) time.Duration { return s.P50 }), decimals: 1},
		{name: "latency p99 ms", of: milliseconds(func(s sample) time.Duration { return s.P99 }), decimals: 1},
		{name: "first text p50 ms", of: milliseconds(func(s sample) time.Duration { return s.FirstTextP50 }), decimals: 1, streams: true},
		{name: "deltas / message", of: func(s sample) float64 { return float64(s.Deltas) / float64(s.Messages) }, decimals: 1, streams: true},
		{name: "new upstream connections", of: func(s sample) float64 { return float64(s.Connections) }},
		{name: "resident MiB", of: func(s sample) float64 { return float64(s.ResidentBytes) / (1 << 20) }},
		{name: "simulator CPU µs / turn", of: perTurn(func(s sample) time.Duration { return s.SimulatorCPU })},
		{name: "callers' CPU µs / turn", of: perTurn(func(s sample) time.Duration { return s.ClientCPU })},
		// Callers never pause: where this is well below the number of CPUs, something waits, or something else runs.
		{name: "CPUs busy in all three", of: func(s sample) float64 {
			return (s.ServerCPU + s.SimulatorCPU + s.ClientCPU).Seconds() / s.Elapsed.Seconds()
		}, decimals: 2},
	}
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// print writes a table for each workload: medians of the targets, and medians of their ratios.
func (r report) print(w io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s/%s, %d CPUs, %s; write and datasync of 4 KiB: p50 %s, p99 %s\n", r.Machine.OS, r.Machine.Arch, r.Machine.CPUs, r.Machine.Go,
		r.Datasync.P50.Round(time.Microsecond), r.Datasync.P99.Round(time.Microsecond))
	fmt.Fprintf(&text, "medians of %d repetitions of %s with %d callers\n", r.Options.Reps, r.Options.Duration, r.Options.Callers)
	for _, load := range workloads() {
		fmt.Fprintf(&text, "\n%s, %d tokens each\n", load.Name, load.Tokens)
		table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
		if _, err := io.WriteString(table, r.rows(load)); err != nil {
			return fmt.Errorf("aligning the report: %w", err)
		}
		if err := table.Flush(); err != nil {
			return fmt.Errorf("aligning the report: %w", err)
		}
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("printing the report: %w", err)
	}
	return nil
}

// rows returns the table of a workload with a tab after each cell.
func (r report) rows(load workload) string {
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
		if m.streams && !load.Stream {
			continue
		}
		var cells []string
		for _, target := range r.Options.Targets {
			cells = append(cells, strconv.FormatFloat(median(r.values(load, target, m)), 'f', m.decimals, 64))
		}
		for _, p := range pairs {
			cells = append(cells, ratio(r.values(load, p[0], m), r.values(load, p[1], m)))
		}
		row(m.name, cells)
	}
	return rows.String()
}

// pairs returns which targets are compared with which: each with the floors before it.
func (r report) pairs() [][2]string {
	var pairs [][2]string
	for i, target := range r.Options.Targets {
		for _, before := range r.Options.Targets[:i] {
			pairs = append(pairs, [2]string{target, before})
		}
	}
	return pairs
}

// values returns the metric in each repetition.
func (r report) values(load workload, target string, m metric) []float64 {
	var values []float64
	for _, s := range r.Samples {
		if s.Workload == load.Name && s.Target == target {
			values = append(values, m.of(s))
		}
	}
	return values
}

// ratio returns the median of the ratios within each repetition, or a dash where one would divide by zero.
func ratio(values, by []float64) string {
	ratios := make([]float64, len(values))
	for i := range values {
		if by[i] == 0 {
			return "–"
		}
		ratios[i] = values[i] / by[i]
	}
	return strconv.FormatFloat(median(ratios), 'f', 2, 64)
}
