package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"
)

// errInterrupted is the answer to a prompt at which Ctrl-C was pressed.
var errInterrupted = errors.New("interrupted")

// lineSource is where a person's lines come from.
type lineSource interface {
	// readLine shows prompt and blocks until there is a line, which it returns without its end. The error is io.EOF at
	// the end of the input, or errInterrupted.
	readLine(prompt string) (string, error)
	// close leaves the terminal as it was found. It may be called while readLine blocks.
	close()
}

// newLineSource returns an editor of lines if in and one of the displays are a terminal that can do it.
func newLineSource(in io.Reader, out, notes *display) lineSource {
	screen := out
	if !out.terminal {
		screen = notes // a prompt does not belong in a file
	}
	file, ok := in.(*os.File)
	if ok && screen.terminal && os.Getenv("TERM") != "dumb" {
		fd := int(file.Fd())
		if state, err := term.GetState(fd); err == nil {
			return &terminalLines{fd: fd, in: &keyWatcher{in: file}, out: screen.w, found: state}
		}
	}
	return &plainLines{in: bufio.NewReader(in), out: screen.w}
}

// plainLines reads lines as they are.
type plainLines struct {
	in  *bufio.Reader
	out io.Writer
}

var _ lineSource = (*plainLines)(nil)

func (p *plainLines) readLine(prompt string) (string, error) {
	if _, err := io.WriteString(p.out, prompt); err != nil {
		return "", err
	}
	line, err := p.in.ReadString('\n')
	if err != nil && line == "" {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}

func (p *plainLines) close() {}

// terminalLines edits lines, with a history. The terminal is raw only while a line is read, so that between them Ctrl-C
// is a signal again.
type terminalLines struct {
	fd      int
	in      *keyWatcher
	out     io.Writer
	found   *term.State // the terminal's state before
	editor  *term.Terminal
	history term.History
}

var _ lineSource = (*terminalLines)(nil)

func (t *terminalLines) readLine(prompt string) (string, error) {
	if t.editor == nil {
		t.editor = term.NewTerminal(struct {
			io.Reader
			io.Writer
		}{t.in, t.out}, "")
		if t.history != nil {
			t.editor.History = t.history
		}
		t.history = t.editor.History
	}
	if _, err := term.MakeRaw(t.fd); err != nil {
		return "", err
	}
	defer t.close()
	if width, height, err := term.GetSize(t.fd); err == nil && width > 0 {
		_ = t.editor.SetSize(width, height) // a wrong width only looks wrong
	}
	_, _ = io.WriteString(t.out, pasteMarked) // without it, pasted lines are sent one by one
	t.in.interrupted = false
	t.editor.SetPrompt(prompt)
	var pasted []string
	for {
		line, err := t.editor.ReadLine()
		switch {
		case errors.Is(err, term.ErrPasteIndicator): // a pasted line end does not send the message
			pasted = append(pasted, line)
			t.editor.SetPrompt(continuation)
		case err != nil && t.in.interrupted:
			t.editor = nil // it would take Ctrl-C for the end of the input for ever
			return "", errInterrupted
		case err != nil:
			return "", err
		default:
			return strings.TrimSuffix(strings.Join(append(pasted, line), "\n"), "\n"), nil
		}
	}
}

func (t *terminalLines) close() {
	_, _ = io.WriteString(t.out, pasteUnmarked)
	_ = term.Restore(t.fd, t.found) // there is nobody left to tell
}

// The terminal marks what is pasted, or does not.
const (
	pasteMarked   = "\x1b[?2004h"
	pasteUnmarked = "\x1b[?2004l"
)

// keyWatcher tells Ctrl-C, which the editor takes for the end of the input, from that end.
type keyWatcher struct {
	in          io.Reader
	interrupted bool
}

// Read reads keys.
func (k *keyWatcher) Read(keys []byte) (int, error) {
	const ctrlC = 3
	n, err := k.in.Read(keys)
	if slices.Contains(keys[:n], ctrlC) {
		k.interrupted = true
	}
	return n, err
}

// prompt asks a person, who may interrupt, in a program that may be stopped.
type prompt struct {
	lines      lineSource
	interrupts <-chan os.Signal
	notes      *display
	waiting    chan typedLine // a read that an interrupt left behind; the next question takes its line
}

type typedLine struct {
	line string
	err  error
}

// ask returns the next line. The error is io.EOF, errInterrupted, or that of ctx.
func (p *prompt) ask(ctx context.Context, question string) (string, error) {
	if p.waiting == nil {
		waiting := make(chan typedLine, 1)
		p.waiting = waiting
		go func() {
			line, err := p.lines.readLine(question)
			waiting <- typedLine{line, err}
		}()
	} else {
		p.notes.lead(inkPlain, question)
	}
	select {
	case a := <-p.waiting:
		p.waiting = nil
		return a.line, a.err
	case <-p.interrupts:
		return "", errInterrupted
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

const (
	firstLine    = "> "
	continuation = "… "
	blockMark    = `"""`
)

// askMessage returns a message of one line or more: a line that ends with a backslash goes on in the next, and between
// two """ are lines as they are.
func (p *prompt) askMessage(ctx context.Context) (string, error) {
	line, err := p.ask(ctx, firstLine)
	if err != nil {
		return "", err
	}
	if block, ok := strings.CutPrefix(line, blockMark); ok {
		return p.askBlock(ctx, block)
	}
	var message strings.Builder
	for {
		more, goesOn := strings.CutSuffix(line, `\`)
		message.WriteString(more)
		if !goesOn {
			return message.String(), nil
		}
		message.WriteByte('\n')
		if line, err = p.ask(ctx, continuation); err != nil {
			return "", err
		}
	}
}

// askBlock returns the lines up to the next """, the first of which is known.
func (p *prompt) askBlock(ctx context.Context, line string) (string, error) {
	var block []string
	for {
		last, ended := strings.CutSuffix(line, blockMark)
		if !ended || last != "" || len(block) == 0 {
			block = append(block, last)
		}
		if ended {
			return strings.TrimPrefix(strings.Join(block, "\n"), "\n"), nil
		}
		var err error
		if line, err = p.ask(ctx, continuation); err != nil {
			return "", err
		}
	}
}
