package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/chatsvc/chatsvc/internal/pgtest"
)

// A sample is what one target did with one workload in one repetition.
type sample struct {
	Target     string        `json:"target"`
	Workload   string        `json:"workload"`
	Callers    int           `json:"callers"`
	Repetition int           `json:"repetition"`
	Turns      int           `json:"turns"`
	Deltas     int64         `json:"deltas"`   // that the upstream sent; 0 where nothing was streamed to the caller
	Messages   int           `json:"messages"` // that brought them to the callers
	Elapsed    time.Duration `json:"elapsed_ns"`

	ServerCPU    time.Duration `json:"server_cpu_ns"`
	DatabaseCPU  time.Duration `json:"database_cpu_ns"` // outside of the server
	SimulatorCPU time.Duration `json:"simulator_cpu_ns"`
	ClientCPU    time.Duration `json:"client_cpu_ns"`

	P50           time.Duration `json:"p50_ns"`
	P99           time.Duration `json:"p99_ns"`
	FirstTextP50  time.Duration `json:"first_text_p50_ns"` // of streams
	ResidentBytes int64         `json:"resident_bytes"`    // of the server, at the end
	Connections   int64         `json:"connections"`       // new ones to the upstream
	Commits       int64         `json:"commits"`           // of transactions that wrote; 0 where there is no database
}

// runBench measures and reports.
func runBench(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	if !supported {
		return fmt.Errorf("%s is not supported: CPU time and memory of a process are read from Linux's /proc", runtime.GOOS)
	}
	ctx, bed, err := newTestbed(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause // errors that follow from it say less
		}
		err = errors.Join(err, bed.close())
	}()
	disk, err := measureDatasync(bed.dir)
	if err != nil {
		return err
	}
	m, err := newMeter(ctx, bed, o, stderr)
	if err != nil {
		return err
	}
	defer m.close()
	samples, err := m.measure(ctx)
	if err != nil {
		return err
	}
	r := report{Machine: thisMachine(), Options: m.options, Datasync: disk, Commits: m.commits, Samples: samples}
	if o.json != "" {
		if err := r.writeJSON(o.json); err != nil {
			return err
		}
	}
	return r.print(stdout)
}

// A meter has everything running that is measured.
type meter struct {
	options   options
	progress  io.Writer
	key       string
	upstream  string // URL of the simulator, without a path
	simulator server
	servers   map[string]server
	databases map[string]database // of the targets that have one and are measured with it
	commits   map[string][]commitTime
	counts    *http.Client
}

// newMeter starts the simulator and the targets. A target that this machine cannot have is left out, in one line.
func newMeter(ctx context.Context, bed *testbed, o options, progress io.Writer) (*meter, error) {
	m := &meter{
		options: o, progress: progress, key: newKey(),
		servers: make(map[string]server), databases: make(map[string]database), commits: make(map[string][]commitTime),
		counts: &http.Client{Transport: &http.Transport{}},
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	if m.simulator, err = bed.startSimulator(ctx, address); err != nil {
		return nil, err
	}
	m.upstream = "http://" + address
	m.options.Targets = nil
	for _, target := range o.Targets {
		err := m.start(ctx, bed, target)
		if errors.Is(err, pgtest.ErrMissing) && os.Getenv("CI") != "true" {
			_, _ = fmt.Fprintf(progress, "skipped: %s: %v\n", target, err) // the report lacks it too
			continue
		}
		if err != nil {
			return nil, err
		}
		m.options.Targets = append(m.options.Targets, target)
	}
	return m, nil
}

// start starts one target, with its database.
func (m *meter) start(ctx context.Context, bed *testbed, target string) error {
	address, err := freeAddress(ctx)
	if err != nil {
		return err
	}
	upstream := m.upstream + "/v1"
	switch target {
	case targetFloor, targetPooled:
		m.servers[target], err = bed.startFloor(ctx, target, address, upstream)
		return err
	case targetForgetful:
		m.servers[target], err = bed.startForgetful(ctx, m.key, address, upstream)
		return err
	}
	db, err := bed.startDatabase(ctx, target)
	if err != nil {
		return err
	}
	if m.options.Store {
		m.databases[target] = db
	}
	m.servers[target], err = bed.startChatsvc(ctx, target, m.options.binary, m.key, address, upstream, db.url())
	return err
}

func (m *meter) close() { m.counts.CloseIdleConnections() }

// measureCommits measures the least commit of each database, while nothing else runs.
func (m *meter) measureCommits(ctx context.Context) error {
	for target, db := range m.databases {
		took, err := db.measureCommit(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
		m.commits[target] = append(m.commits[target], took)
	}
	return nil
}

// measure lets the targets take turns in every workload with every number of callers, and that as often as there are
// repetitions.
func (m *meter) measure(ctx context.Context) ([]sample, error) {
	var samples []sample
	for repetition := range m.options.Reps {
		if err := m.measureCommits(ctx); err != nil {
			return nil, err
		}
		for _, w := range m.options.workloads() {
			want, err := m.expect(ctx, w)
			if err != nil {
				return nil, err
			}
			for _, callers := range m.options.Callers {
				for _, target := range m.options.Targets {
					_, _ = fmt.Fprintf(m.progress, "%d/%d %s, %d callers, %s\n", // only for who waits
						repetition+1, m.options.Reps, w.Name, callers, target)
					s, err := m.cell(ctx, target, w, callers, want)
					if err != nil {
						return nil, fmt.Errorf("measuring %s: %w", target, err)
					}
					s.Repetition = repetition
					samples = append(samples, s)
				}
			}
		}
	}
	return samples, nil
}

// expect asks the simulator itself for the answer.
func (m *meter) expect(ctx context.Context, w workload) (string, error) {
	turn, err := newFloor(m.upstream+"/v1", false).CreateTurn(ctx, w.request())
	if err != nil {
		return "", fmt.Errorf("asking the simulator for its answer: %w", err)
	}
	return turn.GetOutputText(), nil
}

// cell measures one target with one workload, over connections of its own and after a tenth of the time to warm up.
func (m *meter) cell(ctx context.Context, target string, w workload, callers int, want string) (_ sample, err error) {
	conns := make([]*grpc.ClientConn, (callers+callersPerConnection-1)/callersPerConnection)
	for i := range conns {
		conn, err := grpc.NewClient(m.servers[target].address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return sample{}, fmt.Errorf("connecting: %w", err)
		}
		defer func() { _ = conn.Close() }() // no call is on it
		conns[i] = conn
	}
	callCtx := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+m.key)
	if _, err := drive(callCtx, conns, callers, w, want, m.options.Duration/10); err != nil {
		return sample{}, fmt.Errorf("warming up: %w", err)
	}
	before, err := m.read(ctx, target)
	if err != nil {
		return sample{}, err
	}
	seen, err := drive(callCtx, conns, callers, w, want, m.options.Duration)
	if err != nil {
		return sample{}, err
	}
	after, err := m.read(ctx, target)
	if err != nil {
		return sample{}, err
	}
	did := after.counts.minus(before.counts)
	turns := int64(len(seen.latencies))
	if wanted := (counts{did.Connections, turns, turns, turns * int64(w.Tokens)}); did != wanted {
		return sample{}, fmt.Errorf("%d turns of %d tokens made the simulator answer %d of %d calls with %d tokens",
			turns, w.Tokens, did.Answered, did.Calls, did.Tokens)
	}
	s := sample{
		Target: target, Workload: w.Name, Callers: callers, Turns: len(seen.latencies), Messages: seen.messages, Elapsed: seen.elapsed,
		ServerCPU: after.server - before.server, DatabaseCPU: after.database - before.database,
		SimulatorCPU: after.simulator - before.simulator, ClientCPU: after.client - before.client,
		P50: percentile(seen.latencies, 50), P99: percentile(seen.latencies, 99), FirstTextP50: percentile(seen.firsts, 50),
		ResidentBytes: after.resident, Connections: did.Connections, Commits: after.commits - before.commits,
	}
	if w.Stream {
		s.Deltas = did.Tokens
	}
	return s, nil
}

// A reading is where all counters stand while nothing is called.
type reading struct {
	counts                              counts
	server, database, simulator, client time.Duration // CPU
	resident                            int64
	commits                             int64
}

// read reads the counters of everything that takes part in measuring a target.
func (m *meter) read(ctx context.Context, target string) (r reading, err error) {
	pid := m.servers[target].pid
	if r.counts, err = readCounts(ctx, m.counts, m.upstream); err != nil {
		return reading{}, err
	}
	if db := m.databases[target]; db != nil {
		if r.commits, err = db.commits(ctx); err != nil {
			return reading{}, err
		}
		if r.database, err = db.cpu(); err != nil {
			return reading{}, err
		}
	}
	if r.server, err = cpuTime(pid); err != nil {
		return reading{}, err
	}
	if r.simulator, err = cpuTime(m.simulator.pid); err != nil {
		return reading{}, err
	}
	if r.client, err = cpuTime(os.Getpid()); err != nil {
		return reading{}, err
	}
	r.resident, err = residentBytes(pid)
	return r, err
}
