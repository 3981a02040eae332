package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/chatsvc/chatsvc/internal/provider/openaisim"
)

const (
	simulateCommand = "simulate"
	countsPath      = "/bench/counts"

	// upstreamKey is sent to the simulator, which takes any.
	upstreamKey = "sk-bench"
)

// counts are what the simulator has done since it started.
type counts struct {
	Connections int64 `json:"connections"` // accepted, the one that asks for the counts included
	Calls       int64 `json:"calls"`       // started
	Answered    int64 `json:"answered"`    // in full
	Tokens      int64 `json:"tokens"`      // generated, each of which a stream sends as one delta
}

// minus returns what was done since before.
func (c counts) minus(before counts) counts {
	return counts{
		Connections: c.Connections - before.Connections,
		Calls:       c.Calls - before.Calls,
		Answered:    c.Answered - before.Answered,
		Tokens:      c.Tokens - before.Tokens,
	}
}

// runSimulator serves the simulator until ctx ends.
func runSimulator(ctx context.Context, args []string, _, stderr io.Writer) error {
	flags := flag.NewFlagSet(simulateCommand, flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "", "address")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", *listen)
	if err != nil {
		return fmt.Errorf("listening for the simulator: %w", err)
	}
	server := newSimulator()
	defer context.AfterFunc(ctx, func() { _ = server.Close() })() // the process ends with it
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// newSimulator returns the simulator, which remembers no call, with its counts at countsPath.
func newSimulator() *http.Server {
	var connections atomic.Int64
	simulator := openaisim.New(openaisim.Options{JournalCalls: -1})
	mux := http.NewServeMux()
	mux.Handle("/", simulator)
	mux.HandleFunc("GET "+countsPath, func(w http.ResponseWriter, _ *http.Request) {
		stats := simulator.Stats()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(counts{ // a client that is gone needs no answer
			Connections: connections.Load(),
			Calls:       stats.Calls,
			Answered:    stats.Outcomes[openaisim.Answered],
			Tokens:      stats.CompletionTokens,
		})
	})
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: time.Minute,
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		},
	}
}

// readCounts asks the simulator at baseURL for its counts. It asks over one connection that it keeps, so that it counts as
// new only once.
func readCounts(ctx context.Context, client *http.Client, baseURL string) (counts, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, baseURL+countsPath, http.NoBody) //nolint:gosec // The simulator is ours.
	if err != nil {
		return counts{}, fmt.Errorf("asking the simulator for its counts: %w", err)
	}
	res, err := client.Do(req) //nolint:gosec // The simulator is ours.
	if err != nil {
		return counts{}, fmt.Errorf("asking the simulator for its counts: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return counts{}, fmt.Errorf("reading the simulator's counts: %w", err)
	}
	var c counts
	if err := json.Unmarshal(body, &c); err != nil {
		return counts{}, fmt.Errorf("reading the simulator's counts: %w", err)
	}
	return c, nil
}
