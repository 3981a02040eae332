package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"unicode/utf8"
)

// maxMessage is what the service takes in one request.
const maxMessage = 4 << 20

// chatCommand is the terminal client. It speaks to a running service over gRPC, like every other caller.
type chatCommand struct {
	connection `set:"address=localhost:50051" set:"variable=CHATSVC_ADDRESS" set:"callee=chatsvc"` //nolint:staticcheck // kong takes one tag for each variable

	Message []string `arg:"" optional:"" help:"What to say. Without it: all of stdin, or a prompt where stdin is a terminal."`

	Model        string  `placeholder:"NAME" help:"The model to ask. Otherwise the conversation's, or the service's default."`
	Instructions *string `placeholder:"TEXT" help:"What the model is told before everything else."`
	Conversation string  `xor:"history" placeholder:"NAME" help:"Continue this conversation."`
	OneShot      bool    `xor:"history" help:"Keep no conversation: every message stands alone."`
	JSON         bool    `name:"json" help:"Print one line of JSON per turn: turn, error, latency."`
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
