package openaisim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// script is what a directive asks for; the package documentation has the language.
type script struct {
	answer     *string
	tokens     int // of a made-up answer; -1 is not asked for
	refusal    string
	tools      []scriptedTool
	finish     string
	reasoning  int // -1 leaves it to the model
	delay      time.Duration
	ttft       time.Duration
	rate       float64 // tokens per second; 0 is as fast as possible
	burst      int     // deltas per flush
	split      int     // bytes per flush; 0 flushes whole frames
	comments   int
	fault      string
	after      int // deltas before the fault; -1 was not given
	times      int // calls that see the fault; 0 is all
	key        string
	retryAfter time.Duration // -1 was not given
	size       int           // MiB
}

type scriptedTool struct{ name, args string }

func newScript(ttft time.Duration, rate float64) script {
	return script{tokens: -1, reasoning: -1, ttft: ttft, rate: rate, burst: 1, after: -1, retryAfter: -1, size: 8}
}

// struck returns the number of deltas that come before the fault.
func (sc *script) struck() int { return max(sc.after, 0) }

const (
	directiveOpen  = "[[sim"
	directiveClose = "]]"
)

// faults lists the names that fault= takes.
func faults() []string {
	return []string{
		"400", "401", "404", "429", "429-rate", "429-quota", "500", "503", "context",
		"stall", "cut", "eof", "error", "garbage", "huge", "no-done", "no-finish", "no-usage", "html", "endless",
	}
}

// readDirectives applies the directives in text to sc and returns text without them.
func (sc *script) readDirectives(text string) (string, error) {
	if !strings.Contains(text, directiveOpen) {
		return text, nil
	}
	var plain strings.Builder
	for {
		before, rest, found := strings.Cut(text, directiveOpen)
		plain.WriteString(before)
		if !found {
			return strings.TrimSpace(plain.String()), nil
		}
		if rest != "" && !isSeparator(rest[0]) && !strings.HasPrefix(rest, directiveClose) { // [[simple]] is text
			plain.WriteString(directiveOpen)
			text = rest
			continue
		}
		after, err := sc.readSettings(rest, directiveClose)
		if err != nil {
			return "", err
		}
		text = after
	}
}

// withoutDirectives returns text without its directives, whatever they say; text
// whose directives cannot be read stays as it is.
func withoutDirectives(text string) string {
	ignored := newScript(0, 0)
	plain, err := ignored.readDirectives(text)
	if err != nil {
		return text
	}
	return plain
}

// readSettings applies the settings that s begins with, up to the terminator, and
// returns what follows it. An empty terminator stands for the end of s.
func (sc *script) readSettings(s, terminator string) (string, error) {
	for {
		for s != "" && isSeparator(s[0]) {
			s = s[1:]
		}
		switch {
		case terminator != "" && strings.HasPrefix(s, terminator):
			return s[len(terminator):], nil
		case s == "" && terminator == "":
			return "", nil
		case s == "":
			return "", fmt.Errorf("the directive is not closed with %q", terminator)
		}
		end := strings.IndexFunc(s, func(r rune) bool { return !(r >= 'a' && r <= 'z' || r == '-') })
		if end <= 0 || s[end] != '=' {
			return "", fmt.Errorf("expected name=value at %.20q", s)
		}
		name := s[:end]
		value, rest, err := readValue(s[end+1:], terminator)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		if err := sc.set(name, value); err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		s = rest
	}
}

func isSeparator(c byte) bool {
	return c == ' ' || c == ',' || c == '\t' || c == '\n' || c == '\r'
}

// readValue reads a bare or quoted value from the start of s.
func readValue(s, terminator string) (value, rest string, err error) {
	if s == "" || !strings.Contains("'\"`", s[:1]) {
		end := 0
		for end < len(s) && !isSeparator(s[end]) && (terminator == "" || !strings.HasPrefix(s[end:], terminator)) {
			end++
		}
		return s[:end], s[end:], nil
	}
	quote := s[0]
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		if c == quote {
			return b.String(), s[i+1:], nil
		}
		if c == '\\' && quote != '`' && i+1 < len(s) {
			switch next := s[i+1]; next {
			case 'n':
				c, i = '\n', i+1
			case 't':
				c, i = '\t', i+1
			case '\\', quote:
				c, i = next, i+1
			}
		}
		b.WriteByte(c)
	}
	return "", "", fmt.Errorf("the quote %c is not closed", quote)
}

// set applies one setting.
func (sc *script) set(name, value string) (err error) {
	switch name {
	case "answer":
		sc.answer = &value
	case "tokens":
		sc.tokens, err = readInt(value, 0, 1_000_000)
	case "refusal":
		sc.refusal = value
	case "tool":
		if value == "" {
			return fmt.Errorf("the tool has no name")
		}
		sc.tools = append(slices.Clip(sc.tools), scriptedTool{name: value, args: "{}"})
	case "args":
		if len(sc.tools) == 0 {
			return fmt.Errorf("no tool= before it")
		}
		sc.tools[len(sc.tools)-1].args = value
	case "finish":
		sc.finish, err = readOneOf(value, "stop", "length", "content_filter", "tool_calls")
	case "reasoning":
		sc.reasoning, err = readInt(value, 0, 1_000_000)
	case "delay":
		sc.delay, err = readDuration(value)
	case "ttft":
		sc.ttft, err = readDuration(value)
	case "rate":
		sc.rate, err = readRate(value)
	case "burst":
		sc.burst, err = readInt(value, 1, 100_000)
	case "split":
		sc.split, err = readInt(value, 1, 1<<20)
	case "comments":
		sc.comments, err = readInt(value, 0, 10_000)
	case "fault":
		sc.fault, err = readOneOf(value, faults()...)
	case "after":
		sc.after, err = readInt(value, 0, 1_000_000)
	case "times":
		sc.times, err = readInt(value, 1, 1_000_000)
	case "key":
		sc.key = value
	case "retry-after":
		sc.retryAfter, err = readDuration(value)
	case "size":
		sc.size, err = readInt(value, 1, 64)
	default:
		return fmt.Errorf("no such setting")
	}
	return err
}

// check refuses settings that contradict each other.
func (sc *script) check() error {
	texts := 0
	for _, given := range []bool{sc.answer != nil, sc.tokens >= 0, sc.refusal != ""} {
		if given {
			texts++
		}
	}
	switch {
	case texts > 1:
		return fmt.Errorf("answer, tokens and refusal exclude each other")
	case sc.times > 0 && sc.key == "":
		return fmt.Errorf("times: needs a key to count by")
	case sc.fault == "" && sc.after >= 0:
		return fmt.Errorf("after: needs a fault")
	}
	return nil
}

func readInt(value string, least, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is not a whole number from %d to %d", value, least, most)
	}
	return n, nil
}

func readDuration(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 || d > time.Hour {
		return 0, fmt.Errorf("%q is not a duration from 0s to 1h, such as 50ms", value)
	}
	return d, nil
}

func readRate(value string) (float64, error) {
	rate, err := strconv.ParseFloat(strings.TrimSuffix(value, "/s"), 64)
	if err != nil || !(rate == 0 || rate >= 0.001 && rate <= 1e9) {
		return 0, fmt.Errorf("%q is not a rate, such as 100/s", value)
	}
	return rate, nil
}

func readOneOf(value string, allowed ...string) (string, error) {
	if !slices.Contains(allowed, value) {
		return "", fmt.Errorf("%q is none of %s", value, strings.Join(allowed, ", "))
	}
	return value, nil
}
