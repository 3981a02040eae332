package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	// recapMessages is how many messages of a conversation are shown when it is continued.
	recapMessages = 6
	// recapRunes is how much of a text is shown of them.
	recapRunes = 600
)

// errQuit is the answer to /quit.
var errQuit = errors.New("quit")

const chatHelp = `/new           begin a new conversation
/model [NAME]  ask this model from now on; without NAME, say which
/history       show the conversation
/retry         send a message again that got no answer
/quit          end; so does Ctrl-D

A line that ends with \ goes on in the next one; """ begins and ends a block of lines.
Ctrl-C cancels the answer that is coming. A message that begins with / is written with //.`

// command runs a command, given without its slash. What goes wrong with it is shown; an error ends the conversation.
func (s *chatSession) command(ctx context.Context, line string) error {
	name, argument, _ := strings.Cut(strings.TrimSpace(line), " ")
	argument = strings.TrimSpace(argument)
	switch name {
	case "help", "?":
		s.notes.line(inkPlain, "%s", chatHelp)
	case "new":
		s.conversation, s.created, s.calls, s.unanswered = "", false, nil, nil
		s.notes.line(inkDim, "The next message begins a new conversation.")
	case "model":
		s.chooseModel(argument)
	case "history":
		if s.conversation == "" {
			s.notes.line(inkDim, "There is no conversation yet.")
		} else if err := s.recall(ctx, 0); err != nil {
			s.notes.line(inkRed, "%s", err)
		}
	case "retry":
		if s.unanswered == nil {
			s.notes.line(inkDim, "Every message has its answer.")
			return nil
		}
		s.show(ctx, s.say(ctx, s.unanswered))
		return s.out.err
	case "quit", "exit":
		return errQuit
	default:
		s.notes.line(inkRed, "There is no command /%s; /help lists them, and // begins a message with a slash.", name)
	}
	return nil
}

func (s *chatSession) chooseModel(name string) {
	if name != "" {
		s.model = name
	}
	if s.model == "" {
		s.notes.line(inkDim, "The model is the conversation's, or the service's default.")
		return
	}
	s.notes.line(inkDim, "The model is %s.", s.model)
}

// recall shows the last messages of the conversation, shortened, or all of them and in full if last is 0. It also finds
// out whether the conversation waits for the results of tools.
func (s *chatSession) recall(ctx context.Context, last int) error {
	messages, more, err := s.lastMessages(ctx, last)
	if errors.Is(err, errInterrupted) {
		return nil
	}
	if err != nil {
		return s.connection.explain(err, "")
	}
	if more {
		s.notes.line(inkDim, "(earlier messages: /history)")
	}
	printer := &answerPrinter{out: s.notes, notes: s.notes}
	for _, m := range messages {
		if last > 0 {
			shorten(m)
		}
		s.notes.lead(inkDim, speaker(m.GetRole()))
		printer.message(m)
	}
	s.calls = nil
	if len(messages) > 0 {
		s.calls = toolCalls(messages[len(messages)-1])
	}
	return nil
}

// lastMessages returns the last messages of the conversation, or all if last is 0, and whether there are more.
func (s *chatSession) lastMessages(ctx context.Context, last int) (messages []*chatsvcv1.Message, more bool, err error) {
	ctx, stop := s.interruptible(ctx)
	defer stop()
	request := &chatsvcv1.ListMessagesRequest{Parent: s.conversation, PageSize: 1000}
	for {
		page, err := s.conversations.ListMessages(ctx, request)
		if err != nil {
			return nil, false, causeOr(ctx, err)
		}
		messages = append(messages, page.GetMessages()...)
		if surplus := len(messages) - last; last > 0 && surplus > 0 {
			messages, more = slices.Delete(messages, 0, surplus), true
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return messages, more, nil
		}
	}
}

// speaker returns what stands before a message: for a person's the prompt, as when it was typed.
func speaker(role chatsvcv1.Role) string {
	switch role {
	case chatsvcv1.Role_ROLE_ASSISTANT:
		return ""
	case chatsvcv1.Role_ROLE_TOOL:
		return "result" + firstLine
	case chatsvcv1.Role_ROLE_SYSTEM, chatsvcv1.Role_ROLE_DEVELOPER:
		return "rules" + firstLine
	default:
		return firstLine
	}
}

// shorten cuts the texts of m.
func shorten(m *chatsvcv1.Message) {
	for _, part := range m.GetParts() {
		text, ok := part.GetPart().(*chatsvcv1.Part_Text)
		if !ok {
			continue
		}
		if runes := []rune(text.Text); len(runes) > recapRunes {
			text.Text = string(runes[:recapRunes]) + "…"
		}
	}
}
