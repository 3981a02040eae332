package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// checkConversation compares a conversation's main line with the chain of turns behind its head, and those with its
// answered turns.
func (s *storm) checkConversation(p place, turns []*chatsvcv1.Turn) {
	fault := func(format string, args ...any) {
		s.ledger.violation("history", p.name+": "+format, args...)
	}
	c := s.direct[s.random.IntN(len(s.direct))]
	conv, err := c.conv.GetConversation(context.Background(), &chatsvcv1.GetConversationRequest{Name: p.name})
	if err != nil {
		fault("%v", err)
		return
	}
	if conv.GetActiveTurn() != "" {
		fault("%s is active, and nothing runs", conv.GetActiveTurn())
	}
	byName := make(map[string]*chatsvcv1.Turn)
	for _, turn := range turns {
		if turn.GetConversation() == p.name {
			byName[turn.GetName()] = turn
		}
	}
	line := chain(byName, conv.GetHeadTurn())
	var want []string
	for _, turn := range line {
		if turn.GetState() != turnCompleted {
			fault("%s is history and %v", turn.GetName(), turn.GetState())
		}
		want = append(want, messagesOf(turn)...)
	}
	if got := s.messages(c, p.name, ""); !slices.Equal(got, want) {
		fault("the main line has %d messages, the turns behind the head %d", len(got), len(want))
	}
	branches := 0
	for _, turn := range byName {
		if turn.GetState() != turnCompleted || slices.Contains(line, turn) {
			continue
		}
		if p.onConflict != chatsvcv1.OnConflict_ON_CONFLICT_FORK {
			fault("%s is answered and no history", turn.GetName())
			continue
		}
		if branches++; branches > 5 { // enough of them
			continue
		}
		var want []string
		for _, before := range chain(byName, turn.GetName()) {
			want = append(want, messagesOf(before)...)
		}
		if got := s.messages(c, p.name, turn.GetName()); !slices.Equal(got, want) {
			fault("the branch of %s has %d messages, its turns %d", turn.GetName(), len(got), len(want))
		}
	}
}

// chain returns the turns that lead to one, the first one first.
func chain(byName map[string]*chatsvcv1.Turn, last string) (line []*chatsvcv1.Turn) {
	for turn := byName[last]; turn != nil; turn = byName[turn.GetParentTurn()] {
		line = append(line, turn)
	}
	slices.Reverse(line)
	return line
}

// messagesOf returns a turn's messages: name and role of the one that was asked and the one that was answered.
func messagesOf(turn *chatsvcv1.Turn) (names []string) {
	for _, m := range slices.Concat(turn.GetInput(), turn.GetOutput()) {
		names = append(names, m.GetName()+m.GetRole().String())
	}
	return names
}

func (s *storm) messages(c *client, conversation, turn string) (names []string) {
	for token := ""; ; {
		page, err := c.conv.ListMessages(context.Background(), &chatsvcv1.ListMessagesRequest{Parent: conversation, Turn: turn, PageToken: token})
		if err != nil {
			s.ledger.violation("history", "%s %s: %v", conversation, turn, err)
			return names
		}
		for i, m := range page.GetMessages() {
			names = append(names, m.GetName()+m.GetRole().String())
			if want := chatsvcv1.Role(int32(chatsvcv1.Role_ROLE_USER) + int32(i%2)); token == "" && m.GetRole() != want {
				s.ledger.violation("history", "%s %s: message %d is by %v", conversation, turn, i, m.GetRole())
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			return names
		}
	}
}

// repeat asks once more what was asked before, on every replica: the answers are the same, and nothing is generated.
func (s *storm) repeat() {
	const sample = 100
	before := s.upstream.count()
	asks := make(chan *ask)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for a := range asks {
				for _, c := range s.direct {
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					turn, err := c.chat.CreateTurn(ctx, a.request)
					cancel()
					last := a.acks[len(a.acks)-1]
					if reason, name := reasonOf(err); reason == "TURN_CANCELLED" && last.state == turnCancelled && last.turn == name {
						continue
					}
					if err != nil || turn.GetName() != last.turn || textOf(turn) != last.text {
						s.ledger.violation("told otherwise", "%s, repeated at the end: %v, %v; before %v", a.id, turn, err, last)
					}
				}
			}
		})
	}
	n := 0
	for _, a := range s.ledger.asks {
		if len(a.acks) == 0 {
			continue
		}
		if n++; n > sample {
			break
		}
		asks <- a
	}
	close(asks)
	callers.Wait()
	if after := s.upstream.count(); after != before {
		s.ledger.violation("calls", "%d calls upstream for repeats of what was answered", after-before)
	}
}

// errorOf returns the error of a FAILED turn.
func errorOf(turn *chatsvcv1.Turn) error { return status.ErrorProto(turn.GetError()) }
