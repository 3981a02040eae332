package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// typist is a lineSource that is fed line by line: each prompt is offered before its line is taken.
type typist struct {
	prompts chan string
	lines   chan string // closed at the end of the input
}

func (p *typist) readLine(prompt string) (string, error) {
	p.prompts <- prompt
	line, ok := <-p.lines
	if !ok {
		return "", io.EOF
	}
	return line, nil
}

func (p *typist) close() {}

// talk is an interactive session under test.
type talk struct {
	*typist
	t          *testing.T
	out, notes *screen
	interrupts chan os.Signal
	ended      chan error
}

// startTalk begins a session with service, as a person at a terminal without color would see it.
func startTalk(t *testing.T, service *scriptedService, c chatCommand) *talk {
	t.Helper()
	t.Setenv("CHATSVC_KEY", "")
	c.Address = service.start(t)
	conn, err := c.dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	k := &talk{
		typist: &typist{prompts: make(chan string), lines: make(chan string)}, t: t,
		out: newScreen(), notes: newScreen(), interrupts: make(chan os.Signal), ended: make(chan error, 1),
	}
	session := newChatSession(conn, &c, stdio{out: k.out, err: k.notes}, k.interrupts)
	session.out.terminal, session.notes.terminal = true, true
	session.prompt.lines = k.typist
	go func() { k.ended <- session.converse(t.Context()) }()
	return k
}

// say waits for the prompt and answers it.
func (k *talk) say(prompt, line string) {
	k.t.Helper()
	k.awaitPrompt(prompt)
	k.lines <- line
}

func (k *talk) awaitPrompt(want string) {
	k.t.Helper()
	select {
	case got := <-k.prompts:
		if got != want {
			k.t.Fatalf("the prompt is %q, want %q; notes:\n%s", got, want, k.notes)
		}
	case err := <-k.ended:
		k.t.Fatalf("the session ended (%v) instead of asking; notes:\n%s", err, k.notes)
	case <-time.After(patience):
		k.t.Fatalf("no prompt; notes:\n%s", k.notes)
	}
}

// interrupt presses Ctrl-C.
func (k *talk) interrupt() {
	k.t.Helper()
	select {
	case k.interrupts <- os.Interrupt:
	case <-time.After(patience):
		k.t.Fatal("nobody takes the interrupt")
	}
}

func (k *talk) awaitEnd() {
	k.t.Helper()
	select {
	case err := <-k.ended:
		if err != nil {
			k.t.Fatalf("the session ended with %v", err)
		}
	case <-time.After(patience):
		k.t.Fatal("the session does not end")
	}
}

func TestConverse(t *testing.T) {
	service := answering()
	k := startTalk(t, service, chatCommand{})
	k.say("> ", "")
	k.say("> ", `Bonjour\`)
	k.say("… ", "toi")
	k.say("> ", "/model sim-small")
	k.say("> ", "//etc is a folder\x1b[2J")
	k.say("> ", "/new")
	k.say("> ", "/nonsense")
	k.say("> ", `"""one`)
	k.say("… ", `two\`)
	k.say("… ", `"""`)
	k.awaitPrompt("> ")
	close(k.lines)
	k.awaitEnd()

	if want := "You said: Bonjour\ntoi\nYou said: /etc is a folder␛[2J\nYou said: one\ntwo\\\n"; k.out.String() != want {
		t.Errorf("out %q, want %q", k.out, want)
	}
	var got []string
	for _, r := range service.asked() {
		got = append(got, r.GetConversation()+" "+r.GetModel()+" "+r.GetText())
	}
	want := testConversation + "  Bonjour\ntoi|" + testConversation + " sim-small /etc is a folder\x1b[2J|" + testConversation + " sim-small one\ntwo\\"
	if strings.Join(got, "|") != want || len(service.created) != 2 {
		t.Errorf("asked %q, want %q; created %d conversations, want 2", got, want, len(service.created))
	}
	for _, want := range []string{
		"sim · 7 tokens in, 3 out · first token ", "The model is sim-small.\n", "There is no command /nonsense;",
		"continue with: chatsvc chat --conversation " + testConversation + "\n",
	} {
		if !strings.Contains(k.notes.String(), want) {
			t.Errorf("the notes lack %q:\n%s", want, k.notes)
		}
	}
}

func TestConverseInterrupted(t *testing.T) {
	service := hanging()
	k := startTalk(t, service, chatCommand{})
	k.say("> ", "hang")
	k.out.await(t, "One ")
	k.interrupt()
	k.awaitPrompt("> ")
	if name := <-service.cancelled; name != testTurn {
		t.Errorf("cancelled %q, want %q", name, testTurn)
	}
	k.notes.await(t, "cancelled "+testTurn+"\n/retry sends the message again.\n")

	k.interrupt() // at the prompt: a warning, and the simulatorQuestion again
	k.notes.await(t, "Ctrl-C again, or Ctrl-D, ends.\n> ")
	k.lines <- "still there?" // taken by the read that the interrupt left behind
	k.awaitPrompt("> ")
	if want := "One \nYou said: still there?\n"; k.out.String() != want {
		t.Errorf("out %q, want %q", k.out, want)
	}
	k.interrupt()
	k.interrupt()
	k.awaitEnd()
	close(k.lines)
}

// TestConverseInterruptedTwice has a service that does not confirm the end of a turn.
func TestConverseInterruptedTwice(t *testing.T) {
	service := hanging()
	service.cancelled = make(chan string) // nobody reads it: CancelTurn hangs
	k := startTalk(t, service, chatCommand{})
	k.say("> ", "hang")
	k.out.await(t, "One ")
	k.interrupt()
	k.interrupt()
	k.awaitPrompt("> ")
	k.notes.await(t, "cancelled "+testTurn)
	close(k.lines)
	k.awaitEnd()
}

func TestConverseRetry(t *testing.T) {
	service := refusing(codes.Unavailable, "busy", errorInfo("UPSTREAM_STALLED"))
	refuse, answer := service.script, answering().script
	service.script = func(r *chatsvcv1.CreateTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
		if len(service.asked()) == 1 {
			return refuse(r, stream)
		}
		return answer(r, stream)
	}
	k := startTalk(t, service, chatCommand{})
	k.say("> ", "/retry")
	k.say("> ", "Bonjour")
	k.say("> ", "/retry")
	k.say("> ", "/retry")
	k.say("> ", "/quit")
	k.awaitEnd()
	if want := "You said: Bonjour\n"; k.out.String() != want || len(service.asked()) != 2 || len(service.created) != 1 {
		t.Errorf("out %q, want %q; asked %d times, want 2; created %d, want 1", k.out, want, len(service.asked()), len(service.created))
	}
	if got := strings.Count(k.notes.String(), "Every message has its answer.\n"); got != 2 {
		t.Errorf("%d times nothing to retry, want 2:\n%s", got, k.notes)
	}
}

func TestConverseContinued(t *testing.T) {
	message := func(role chatsvcv1.Role, parts ...*chatsvcv1.Part) *chatsvcv1.Message {
		return &chatsvcv1.Message{Role: role, Parts: parts}
	}
	text := func(s string) *chatsvcv1.Part { return &chatsvcv1.Part{Part: &chatsvcv1.Part_Text{Text: s}} }
	call := func(id string) *chatsvcv1.Part {
		return &chatsvcv1.Part{Part: &chatsvcv1.Part_ToolCall{ToolCall: &chatsvcv1.ToolCall{Id: id, Name: "weather", ArgumentsJson: `{"at":"` + id + `"}`}}}
	}
	service := answering()
	for range recapMessages {
		service.messages = append(service.messages, message(chatsvcv1.Role_ROLE_USER, text("old")))
	}
	service.messages = append(service.messages,
		message(chatsvcv1.Role_ROLE_USER, text("How is it? "+strings.Repeat("x", 2*recapRunes))),
		message(chatsvcv1.Role_ROLE_ASSISTANT, text("I look."), call("Paris"), call("Lyon")),
	)
	k := startTalk(t, service, chatCommand{Conversation: testConversation})
	k.say("result of weather> ", "/history")
	k.say("result of weather> ", "sunny")
	k.say("result of weather> ", "//rain")
	k.say("> ", "/quit")
	k.awaitEnd()

	for want, times := range map[string]int{
		"> old\n": 4 + 6, "(earlier messages: /history)\n": 1, "xxxx…\n": 1, "I look.\n→ weather({\"at\":\"Paris\"})\n→ weather({\"at\":\"Lyon\"})\n": 2,
	} {
		if got := strings.Count(k.notes.String(), want); got != times {
			t.Errorf("%d times %q, want %d:\n%s", got, want, times, k.notes)
		}
	}
	var results []string
	for _, m := range service.asked()[0].GetInput() {
		result := m.GetParts()[0].GetToolResult()
		results = append(results, m.GetRole().String()+" "+result.GetToolCallId()+" "+result.GetText())
	}
	if got, want := strings.Join(results, ", "), "ROLE_TOOL Paris sunny, ROLE_TOOL Lyon /rain"; got != want {
		t.Errorf("results %q, want %q", got, want)
	}
}

func TestConverseUnknownConversation(t *testing.T) {
	service := answering()
	service.notFound = status.Error(codes.NotFound, "no such conversation")
	k := startTalk(t, service, chatCommand{Conversation: testConversation})
	select {
	case err := <-k.ended:
		if err == nil || err.Error() != "no such conversation" {
			t.Errorf("err = %v", err)
		}
	case prompt := <-k.prompts:
		t.Errorf("asked %q", prompt)
	case <-time.After(patience):
		t.Error("the session does not end")
	}
}

func TestFailedOutput(t *testing.T) {
	full := errors.New("disk full")
	d := &display{w: failingWriter{full}}
	d.write(inkPlain, "a")
	d.write(inkPlain, "b")
	if !errors.Is(d.err, full) {
		t.Errorf("err = %v, want %v", d.err, full)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
