package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// chatSession is one run of the chat command: the conversation, and where it is shown.
type chatSession struct {
	turns         chatsvcv1.ChatServiceClient
	conversations chatsvcv1.ConversationServiceClient
	connection    *connection
	interrupts    <-chan os.Signal
	prompt        prompt
	out, notes    *display
	json          bool

	oneShot      bool
	conversation string // empty until the first message, and for one-shot turns
	created      bool   // by this session, with its model and instructions
	model        string
	instructions *string
	calls        []*chatsvcv1.ToolCall        // what the last answer waits for
	unanswered   *chatsvcv1.CreateTurnRequest // the last message, if it got no answer
}

func newChatSession(conn grpc.ClientConnInterface, c *chatCommand, std stdio, interrupts <-chan os.Signal) *chatSession {
	notes := newDisplay(std.err)
	conversation := c.Conversation
	if conversation != "" && !strings.Contains(conversation, "/") {
		conversation = "conversations/" + conversation
	}
	return &chatSession{
		turns:         chatsvcv1.NewChatServiceClient(conn),
		conversations: chatsvcv1.NewConversationServiceClient(conn),
		connection:    &c.connection,
		interrupts:    interrupts,
		prompt:        prompt{interrupts: interrupts, notes: notes},
		out:           newDisplay(std.out), notes: notes, json: c.JSON,
		oneShot: c.OneShot, conversation: conversation, model: c.Model, instructions: c.Instructions,
	}
}

// sayOnce says a message and prints the answer.
func (s *chatSession) sayOnce(ctx context.Context, message string) error {
	err := s.say(ctx, &chatsvcv1.CreateTurnRequest{Text: message})
	if s.created && s.notes.terminal && !s.json {
		s.notes.line(inkDim, "continue with: chatsvc chat --conversation %s", s.conversation)
	}
	return err
}

// say sends a message, which is all that request holds yet, and shows the answer. The error is for a person, and of one
// line.
func (s *chatSession) say(ctx context.Context, request *chatsvcv1.CreateTurnRequest) error {
	select {
	case <-s.interrupts: // one that came too late for the turn before
	default:
	}
	s.unanswered = request
	if err := s.ensureConversation(ctx); err != nil {
		return s.failed(ctx, turnResult{}, err)
	}
	request.Conversation, request.Model = s.conversation, s.model
	request.OnDisconnect = chatsvcv1.OnDisconnect_ON_DISCONNECT_CANCEL
	if !s.created {
		request.Instructions = s.instructions
	}
	printer := &answerPrinter{out: s.out, notes: s.notes}
	show := printer.event
	if s.json {
		show = func(*chatsvcv1.TurnEvent) {}
	}
	result := runTurn(ctx, s.turns, request, s.interrupts, show)
	printer.end()
	if result.err != nil {
		return s.failed(ctx, result, result.err)
	}
	return s.ended(result)
}

// ended shows how a turn ended that did not fail.
func (s *chatSession) ended(r turnResult) error {
	if r.answered() {
		s.unanswered, s.calls = nil, nil
		if !s.oneShot {
			s.calls = toolCalls(r.turn.GetOutput()...)
		}
	}
	var failure *callError
	switch {
	case r.cancelled && r.answered():
		failure = &callError{Message: "the answer was complete before it could be cancelled; chatsvc has all of it"}
	case r.cancelled:
		failure = &callError{Message: strings.TrimSpace("cancelled " + r.name)}
	}
	if failure != nil {
		failure.Code = code.Code_CANCELLED.String()
	}
	switch {
	case s.json:
		s.printJSON(r, failure)
	case failure == nil && s.notes.terminal:
		s.notes.line(inkDim, "%s", turnSummary(r))
	}
	if failure != nil {
		return failure
	}
	return s.out.err
}

// failed shows why there is no answer, where a script looks for it, and returns it for a person.
func (s *chatSession) failed(ctx context.Context, r turnResult, err error) error {
	if errors.Is(err, errInterrupted) {
		return errors.New("cancelled")
	}
	if ctx.Err() != nil {
		return errors.New("stopped before the answer was complete")
	}
	failure := s.connection.explain(err, r.name)
	if s.json {
		s.printJSON(r, failure)
	}
	return failure
}

func (s *chatSession) printJSON(r turnResult, failure *callError) {
	line, err := encodeJSONLine(r, failure)
	if err != nil {
		s.out.err = err
		return
	}
	s.out.write(inkPlain, line)
}

// ensureConversation creates the conversation that the messages go to, if there is none yet.
func (s *chatSession) ensureConversation(ctx context.Context) error {
	if s.oneShot || s.conversation != "" {
		return nil
	}
	ctx, stop := s.interruptible(ctx)
	defer stop()
	c := &chatsvcv1.Conversation{Model: s.model}
	if s.instructions != nil {
		c.Instructions = *s.instructions
	}
	c, err := s.conversations.CreateConversation(ctx, &chatsvcv1.CreateConversationRequest{Conversation: c})
	if err != nil {
		return causeOr(ctx, err)
	}
	s.conversation, s.created = c.GetName(), true
	return nil
}

// interruptible returns a context that an interrupt ends with the cause errInterrupted.
func (s *chatSession) interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-s.interrupts:
			cancel(errInterrupted)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// causeOr returns errInterrupted if that is why a call under ctx ended with err.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errInterrupted) {
		return cause
	}
	return err
}

// toolCalls returns the calls in messages.
func toolCalls(messages ...*chatsvcv1.Message) []*chatsvcv1.ToolCall {
	var calls []*chatsvcv1.ToolCall
	for _, m := range messages {
		for _, part := range m.GetParts() {
			if call := part.GetToolCall(); call != nil {
				calls = append(calls, call)
			}
		}
	}
	return calls
}

// converse reads messages and shows answers until the end of the input, or until ctx ends.
func (s *chatSession) converse(ctx context.Context) error {
	if s.conversation != "" {
		if err := s.recall(ctx, recapMessages); err != nil {
			return err
		}
	}
	s.notes.line(inkDim, "chatsvc at %s. /help lists the commands, Ctrl-D ends.", s.connection.Address)
	interrupted := false
	for {
		err := s.exchange(ctx)
		switch {
		case errors.Is(err, errInterrupted) && !interrupted:
			s.notes.line(inkDim, "\nCtrl-C again, or Ctrl-D, ends.")
			interrupted = true
			continue
		case errors.Is(err, errInterrupted), errors.Is(err, io.EOF), errors.Is(err, errQuit), ctx.Err() != nil:
			s.farewell(errors.Is(err, errQuit))
			return s.out.err
		case err != nil:
			return err
		}
		interrupted = false
	}
}

// farewell says how to go on later.
func (s *chatSession) farewell(onOwnLine bool) {
	if !onOwnLine {
		s.notes.write(inkPlain, "\n")
	}
	if s.conversation != "" {
		s.notes.line(inkDim, "continue with: chatsvc chat --conversation %s", s.conversation)
	}
}

// exchange reads one message or command, and answers it. What goes wrong with it is shown; an error is the end of the
// conversation, or errInterrupted from the prompt.
func (s *chatSession) exchange(ctx context.Context) error {
	if len(s.calls) > 0 {
		return s.exchangeResults(ctx)
	}
	message, err := s.prompt.askMessage(ctx)
	if err != nil {
		return err
	}
	if command, ok := commandIn(message); ok {
		return s.command(ctx, command)
	}
	if strings.TrimSpace(message) == "" {
		return nil
	}
	s.show(ctx, s.say(ctx, &chatsvcv1.CreateTurnRequest{Text: unslash(message)}))
	return s.out.err
}

// commandIn returns the command that line is, without its slash.
func commandIn(line string) (command string, ok bool) {
	command, ok = strings.CutPrefix(line, "/")
	return command, ok && !strings.HasPrefix(command, "/")
}

// unslash returns the message in line: two slashes are how it begins with one.
func unslash(line string) string {
	if strings.HasPrefix(line, "//") {
		return line[1:]
	}
	return line
}

// show shows why a message got no answer.
func (s *chatSession) show(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	s.notes.line(inkRed, "%s", err)
	if s.unanswered != nil {
		s.notes.line(inkDim, "/retry sends the message again.")
	}
}

// exchangeResults asks the person to stand in for the tools that the model called, since the conversation cannot go on
// without their results. A command may come instead.
func (s *chatSession) exchangeResults(ctx context.Context) error {
	request := &chatsvcv1.CreateTurnRequest{}
	for _, call := range s.calls {
		line, err := s.prompt.ask(ctx, "result of "+oneLine(call.GetName())+firstLine)
		if err != nil {
			return err
		}
		if command, ok := commandIn(line); ok {
			return s.command(ctx, command)
		}
		part := &chatsvcv1.Part{Part: &chatsvcv1.Part_ToolResult{
			ToolResult: &chatsvcv1.ToolResult{ToolCallId: call.GetId(), Text: unslash(line)},
		}}
		request.Input = append(request.Input, &chatsvcv1.Message{Role: chatsvcv1.Role_ROLE_TOOL, Parts: []*chatsvcv1.Part{part}})
	}
	s.show(ctx, s.say(ctx, request))
	return s.out.err
}
