package main

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/term"
)

func TestAskMessage(t *testing.T) {
	for _, tt := range []struct{ name, typed, want, prompts string }{
		{"line", "Bonjour\nnext\n", "Bonjour", "> "},
		{"without its end", "Bonjour", "Bonjour", "> "},
		{"carriage return", "Bonjour\r\n", "Bonjour", "> "},
		{"backslashes", "one\\\ntwo\\\nthree\n", "one\ntwo\nthree", "> … … "},
		{"block", "\"\"\"\none\n\n two\\\n\"\"\"\n", "one\n\n two\\", "> … … … … "},
		{"block on its marks' lines", "\"\"\"one\ntwo\"\"\"\n", "one\ntwo", "> … "},
		{"block of one line", "\"\"\"one\"\"\"\n", "one", "> "},
		{"empty block", "\"\"\"\n\"\"\"\n", "", "> … "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var prompts strings.Builder
			p := &prompt{lines: &plainLines{in: bufio.NewReader(strings.NewReader(tt.typed)), out: &prompts}}
			got, err := p.askMessage(t.Context())
			if err != nil || got != tt.want || prompts.String() != tt.prompts {
				t.Errorf("%q, %v, want %q; prompts %q, want %q", got, err, tt.want, &prompts, tt.prompts)
			}
		})
	}
	for _, unended := range []string{"", "one\\\n", "\"\"\"\none\n"} {
		p := &prompt{lines: &plainLines{in: bufio.NewReader(strings.NewReader(unended)), out: io.Discard}}
		if got, err := p.askMessage(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("after %q: %q, %v, want %v", unended, got, err, io.EOF)
		}
	}
}

// TestKeyWatcher checks, with the editor itself, that Ctrl-C and Ctrl-D can be told apart.
func TestKeyWatcher(t *testing.T) {
	for keys, interrupted := range map[string]bool{"abc\x03": true, "\x04": false, "abc\x7f\x7f\x7f\x04": false} {
		watcher := &keyWatcher{in: strings.NewReader(keys)}
		editor := term.NewTerminal(struct {
			io.Reader
			io.Writer
		}{watcher, io.Discard}, "")
		if _, err := editor.ReadLine(); !errors.Is(err, io.EOF) || watcher.interrupted != interrupted {
			t.Errorf("%q: %v, interrupted %t, want %t", keys, err, watcher.interrupted, interrupted)
		}
	}
}
