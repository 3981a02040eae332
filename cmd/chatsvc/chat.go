package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// maxMessage is what the service takes in one request.
	maxMessage = 4 << 20
	// maxReply holds the largest turn: an answer of 3 MiB stands in it twice, in parts and as text for people.
	maxReply = 16 << 20
)

// keyVariable is the environment variable that holds the key.
const keyVariable = "CHATSVC_KEY"

// chatEnvironment returns the names of the environment variables that the chat command reads.
func chatEnvironment() []string { return []string{"CHATSVC_ADDRESS", keyVariable} }

// chatCommand is the terminal client. It speaks to a running service over gRPC, like every other caller.
//
// The key has no flag: what stands on a command line is seen by every user of the machine.
type chatCommand struct {
	Message []string `arg:"" optional:"" help:"What to say. Without it: all of stdin, or a prompt where stdin is a terminal."`

	Address           string  `default:"localhost:50051" env:"CHATSVC_ADDRESS" placeholder:"HOST:PORT" help:"Where chatsvc listens (${default})."`
	KeyFile           string  `placeholder:"FILE" help:"Read the key from this file. Otherwise it is CHATSVC_KEY, or the key of --dev for an address on this machine."`
	Model             string  `placeholder:"NAME" help:"The model to ask. Otherwise the conversation's, or the service's default."`
	Instructions      *string `placeholder:"TEXT" help:"What the model is told before everything else."`
	Conversation      string  `xor:"history" placeholder:"NAME" help:"Continue this conversation."`
	OneShot           bool    `xor:"history" help:"Keep no conversation: every message stands alone."`
	JSON              bool    `name:"json" help:"Print one line of JSON per turn: turn, error, latency."`
	TLSCA             string  `name:"tls-ca" xor:"transport" placeholder:"FILE" help:"Use TLS and trust the certificates in this PEM file, instead of the system's."`
	InsecurePlaintext bool    `xor:"transport" help:"Use no TLS: the key and all that is said cross the network in the clear. The default for an address on this machine."`
}

// Run says one message and prints the answer, or converses until the end of the input.
//
// SIGINT is not in ctx: it cancels the turn that runs, or counts as a key at the prompt.
func (c *chatCommand) Run(ctx context.Context, std stdio) error {
	// Read before SIGINT is taken, so that Ctrl-C still ends a program that waits for its input.
	message, given, err := c.message(ctx, std.in)
	if err != nil {
		return err
	}
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it only fails when closed already

	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)

	session := newChatSession(conn, c, std, interrupts)
	if given {
		return session.sayOnce(ctx, message)
	}
	lines := newLineSource(std.in, session.out, session.notes)
	defer lines.close()
	session.prompt.lines = lines
	return session.converse(ctx)
}

// message returns what to say, if it is known without a conversation: the arguments, or all of a stdin that is no
// terminal.
func (c *chatCommand) message(ctx context.Context, in io.Reader) (text string, given bool, err error) {
	switch {
	case len(c.Message) > 0:
		text = strings.Join(c.Message, " ")
	case isTerminal(in):
		return "", false, nil
	default:
		all, err := readAll(ctx, io.LimitReader(in, maxMessage+1))
		if err != nil {
			return "", false, fmt.Errorf("read the message from stdin: %w", err)
		}
		text = strings.TrimRight(string(all), "\r\n")
	}
	switch {
	case strings.TrimSpace(text) == "":
		return "", false, errors.New("the message is empty: give it as an argument or on stdin")
	case len(text) > maxMessage:
		return "", false, errors.New("the message is too long: chatsvc takes at most 4 MiB")
	case !utf8.ValidString(text):
		return "", false, errors.New("the message is not text in UTF-8")
	}
	return text, true, nil
}

// readAll reads r to its end, or until ctx ends; what blocks in the read then is left behind.
func readAll(ctx context.Context, r io.Reader) ([]byte, error) {
	type result struct {
		all []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		all, err := io.ReadAll(r)
		done <- result{all, err}
	}()
	select {
	case r := <-done:
		return r.all, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// dial prepares the connection; it is made by the first call.
func (c *chatCommand) dial() (*grpc.ClientConn, error) {
	local, err := isLocal(c.Address)
	if err != nil {
		return nil, err
	}
	key, err := c.key(local)
	if err != nil {
		return nil, err
	}
	plaintext := c.InsecurePlaintext || local && c.TLSCA == ""
	transport := insecure.NewCredentials()
	if !plaintext {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if c.TLSCA != "" {
			if config.RootCAs, err = readCertificates(c.TLSCA); err != nil {
				return nil, err
			}
		}
		transport = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient(c.Address,
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(bearerKey{key: key, needsTLS: !plaintext}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
		grpc.WithUserAgent("chatsvc-chat/"+version),
		// A person who has just started the service does not wait two minutes for the next attempt.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.Address, err)
	}
	return conn, nil
}

// key returns the key to send. Errors never repeat it.
func (c *chatCommand) key(local bool) (string, error) {
	key, source := os.Getenv(keyVariable), keyVariable
	switch {
	case c.KeyFile != "":
		content, err := os.ReadFile(c.KeyFile)
		if err != nil {
			return "", fmt.Errorf("read the key: %w", err)
		}
		key, source = string(content), c.KeyFile
	case key == "" && local:
		return "dev", nil
	case key == "":
		return "", fmt.Errorf("%s needs a key: set CHATSVC_KEY, or give --key-file", c.Address)
	}
	key = strings.TrimSpace(key)
	if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' }) {
		return "", fmt.Errorf("%s does not hold a key: one line of visible ASCII characters without spaces", source)
	}
	return key, nil
}

// bearerKey sends a key with every call, and only over TLS where needsTLS says so.
type bearerKey struct {
	key      string
	needsTLS bool
}

var _ credentials.PerRPCCredentials = bearerKey{}

// GetRequestMetadata returns the authorization header.
func (b bearerKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.key}, nil
}

// RequireTransportSecurity reports whether the key must not be sent in the clear.
func (b bearerKey) RequireTransportSecurity() bool { return b.needsTLS }

// isLocal reports whether address never leaves this machine. By name that is only localhost: what another name means
// is for a resolver to say, which may be wrong.
func isLocal(address string) (bool, error) {
	if strings.HasPrefix(address, "unix:") {
		return true, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return false, fmt.Errorf("--address %q is not a host and a port, such as localhost:50051", address)
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback(), nil
}

func readCertificates(file string) (*x509.CertPool, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return pool, nil
}
