// Command bench measures the running chatsvc against a bare floor, on this machine and in one run: only ratios travel
// from one machine to another.
//
//	go run ./bench            # about two minutes
//	go run ./bench -store     # chatsvc on SQLite and PostgreSQL against a store that forgets, about four minutes
//	go run ./bench -short     # does it still run? says little about speed; also with -store
//
// Each part is a process of its own, so that the kernel counts its CPU: the OpenAI simulator in its cheapest mode, the
// floor, and chatsvc as it is shipped, with an API key, the log and SQLite that is durable before it answers. The callers
// are in this process. All of them share the machine, so turns per second say what the whole chain carries, and CPU per
// turn and per delta what the measured process costs in it.
//
// The floor is the least program that answers the same two calls: grpc-go in front of go-openai, with no
// authentication, no store, no log, no trace and no handling of anything that goes wrong. CreateTurn asks for one JSON
// body and StreamTurn sends one message per Recv. It runs twice: "floor" has everything at its default, "pooled" gives
// connections back and keeps them.
//
// The targets take turns (A B C A B C …), and a ratio is the median of the ratios within each repetition, so that a
// machine that slows down half-way moves no ratio. A ratio of CPU or time is better below 1, one of turns per second above.
//
// With -store the targets are the whole of chatsvc three times: "forgetful" has a store in memory that keeps only what
// running turns need, "sqlite" and "postgres" are the shipped program. CPU per turn is that of the chatsvc process;
// PostgreSQL's own stands beside it. What the machine's disk can do bounds any store, so it is measured too: a datasync at
// the start, and before each repetition the commit of one row by one caller alone.
//
// The databases lie in the temporary folder; TMPDIR puts them on another disk.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the benchmark or, started again by itself, one of its processes. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()

	command := runBench
	if len(args) > 0 {
		switch args[0] {
		case floorCommand:
			command, args = runFloor, args[1:]
		case simulateCommand:
			command, args = runSimulator, args[1:]
		case forgetCommand:
			command, args = runForgetful, args[1:]
		}
	}
	err := command(ctx, args, stdout, stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case ctx.Err() != nil:
		err = errors.New("interrupted")
	}
	_, _ = fmt.Fprintln(stderr, "bench:", err) // the exit code says it too
	return 1
}

// options are what a run can be told.
type options struct {
	Store    bool          `json:"store"`
	Callers  []int         `json:"callers"`
	Duration time.Duration `json:"duration_ns"`
	Reps     int           `json:"repetitions"`
	Targets  []string      `json:"targets"`
	binary   string
	json     string
}

// The targets.
const (
	targetFloor   = "floor"
	targetPooled  = "pooled"
	targetChatsvc = "chatsvc"

	targetForgetful = "forgetful"
	targetSQLite    = "sqlite"
	targetPostgres  = "postgres"
)

// workloads are what the targets are measured with.
func (o options) workloads() []workload {
	if o.Store {
		return storeWorkloads()
	}
	return floorWorkloads()
}

// parseOptions reads the command line. Where it makes no sense, the error says why.
func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.Store, "store", false, "measure chatsvc on its stores, instead of against the floor")
	callers := flags.String("callers", "", "callers, each with one call at a time; several numbers are measured one after the other (default 64, with -store 1,32,256)")
	flags.DurationVar(&o.Duration, "duration", 0, "how long callers start calls, per cell (default 5s, with -store 3s)")
	flags.IntVar(&o.Reps, "reps", 3, "repetitions")
	only := flags.String("only", "", "the targets to measure (default all)")
	short := flags.Bool("short", false, "one repetition of 1s, and 16 callers where there is no -store, whatever the other flags say")
	flags.StringVar(&o.binary, "binary", "", "a chatsvc that is built already, instead of building ./cmd/chatsvc")
	flags.StringVar(&o.json, "json", "", "write the raw figures to this file")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	// In the order in which they take turns.
	all := []string{targetFloor, targetPooled, targetChatsvc}
	defaultCallers, defaultDuration, shortCallers := "64", 5*time.Second, "16"
	if o.Store {
		all = []string{targetForgetful, targetSQLite, targetPostgres}
		defaultCallers, defaultDuration, shortCallers = "1,32,256", 3*time.Second, "1,32,256"
	}
	*callers, o.Duration = cmp.Or(*callers, defaultCallers), cmp.Or(o.Duration, defaultDuration)
	if *short {
		*callers, o.Duration, o.Reps = shortCallers, time.Second, 1
	}
	if flags.NArg() > 0 {
		return options{}, fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	for text := range strings.SplitSeq(*callers, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return options{}, fmt.Errorf("-callers: %q is no number of callers", text)
		}
		o.Callers = append(o.Callers, n)
	}
	if o.Reps < 1 || o.Duration < 100*time.Millisecond {
		return options{}, errors.New("at least 1 repetition and 100ms are needed")
	}
	asked := strings.Split(cmp.Or(*only, strings.Join(all, ",")), ",")
	for _, name := range asked {
		if !slices.Contains(all, name) {
			return options{}, fmt.Errorf("-only: %q is none of %s", name, strings.Join(all, ", "))
		}
	}
	o.Targets = slices.DeleteFunc(all, func(name string) bool { return !slices.Contains(asked, name) })
	return o, nil
}
