package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/chatsvc/chatsvc/internal/provider/openaisim"
)

// simulateGrace is how long answers that are on their way may take when the simulator stops. Those that never end are
// part of what it simulates.
const simulateGrace = 2 * time.Second

// simulateCommand runs the simulator by itself, so that any program that speaks to OpenAI can be tested against it.
type simulateCommand struct {
	Listen   string        `default:"127.0.0.1:8089" placeholder:"HOST:PORT" help:"Where to listen (${default}). Port 0 takes a free one."`
	KeysFile string        `placeholder:"FILE" help:"Accept only the keys in this file, one per line. Otherwise any key is accepted."`
	TTFT     time.Duration `name:"ttft" placeholder:"DURATION" help:"Time to the first token, where the request does not say otherwise."`
	Rate     float64       `placeholder:"N" help:"Tokens per second, where the request does not say otherwise. 0 is as fast as possible."`
	Quiet    bool          `short:"q" help:"Log no calls."`
}

// Run serves until ctx ends.
func (c *simulateCommand) Run(ctx context.Context, std stdio) error {
	options := openaisim.Options{TTFT: c.TTFT, Rate: c.Rate}
	if c.TTFT < 0 || !(c.Rate >= 0) { // also not a number
		return errors.New("--ttft and --rate must not be negative")
	}
	if c.KeysFile != "" {
		var err error
		if options.Keys, err = readKeys(c.KeysFile); err != nil {
			return err
		}
	}
	errorLog := slog.New(slog.NewTextHandler(std.err, nil))
	if !c.Quiet {
		options.Logger = errorLog
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("another program listens on %s already: choose another address with --listen", c.Listen)
	}
	if err != nil {
		return fmt.Errorf("open the simulator's port: %w", err)
	}
	server := &http.Server{
		Handler:           openaisim.New(options),
		ReadHeaderTimeout: 10 * time.Second, // and none for writing: a stream may be slow, or stall on purpose
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(errorLog.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	if err := c.greet(std, listener.Addr()); err != nil {
		return errors.Join(err, server.Close())
	}
	select {
	case err := <-served:
		return fmt.Errorf("serve the simulator: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), simulateGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return server.Close()
	}
	return nil
}

// greet says where the simulator is, in lines that a shell can take as they are.
func (c *simulateCommand) greet(std stdio, address net.Addr) error {
	base := "http://" + reachable(address) + "/v1"
	key := "sim"
	if c.KeysFile != "" {
		key = "'<a key of " + strings.ReplaceAll(c.KeysFile, "'", "") + ">'"
	}
	_, err := fmt.Fprintf(std.out, "# The OpenAI simulator is at %s\nexport CHATSVC_OPENAI_BASE_URL=%s\nexport OPENAI_API_KEY=%s\n", base, base, key)
	return err
}

// reachable returns the address under which this machine reaches a listener: one that listens everywhere is on loopback
// as well.
func reachable(address net.Addr) string {
	at, err := netip.ParseAddrPort(address.String())
	if err != nil || !at.Addr().IsUnspecified() {
		return address.String()
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port()).String()
}

// readKeys returns the keys in a file: one per line, without empty lines and those that begin with #.
func readKeys(file string) ([]string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the keys: %w", err)
	}
	var keys []string
	for line := range strings.Lines(string(content)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			keys = append(keys, line)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("read the keys: %s holds none", file)
	}
	return keys, nil
}
