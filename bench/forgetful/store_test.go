package forgetful

import (
	"errors"
	"slices"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const team = "red"

func say(text string) []conversation.Message {
	return []conversation.Message{{Role: conversation.RoleUser, Parts: []conversation.Part{{Kind: conversation.PartText, Text: text}}}}
}

// admission returns what a turn with the id begins with.
func admission(id byte, in *conversation.Conversation, requestID string) *conversation.Admission {
	t := &conversation.Turn{ID: conversation.ID{id}, Team: team, State: conversation.Running, RequestID: requestID, Input: say("?")}
	if in != nil {
		t.Conversation, t.Parent = in.ID, in.HeadTurn
	}
	return &conversation.Admission{Turn: t, InputTokens: []int64{5}, Fingerprint: [32]byte{id}}
}

// end returns how the turn of an admission ends, with an answer where the state is that.
func end(a *conversation.Admission, state conversation.State) *conversation.End {
	t := *a.Turn
	t.Input, t.State = nil, state
	if !state.Answered() {
		return &conversation.End{Turn: &t}
	}
	t.Output = say("!")
	return &conversation.End{Turn: &t, OutputTokens: []int64{7}}
}

func TestTurnIsForgottenWhenItEnds(t *testing.T) {
	s := New()
	a := admission(1, nil, "once")
	if err := s.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	var claimed *conversation.ClaimedError
	if err := s.BeginTurn(t.Context(), admission(2, nil, "once")); !errors.As(err, &claimed) || claimed.Turn != a.Turn.ID ||
		claimed.Fingerprint != a.Fingerprint {
		t.Errorf("a request id is taken twice: %v", err)
	}
	if got, err := s.GetTurn(t.Context(), team, a.Turn.ID, true); err != nil || len(got.Input) != 1 {
		t.Errorf("a running turn is %+v (%v)", got, err)
	}
	if _, err := s.GetTurn(t.Context(), "blue", a.Turn.ID, true); !errors.Is(err, conversation.ErrNotFound) {
		t.Errorf("another team reads it: %v", err)
	}
	if err := s.EndTurn(t.Context(), end(a, conversation.Completed)); err != nil {
		t.Fatal(err)
	}
	if err := s.EndTurn(t.Context(), end(a, conversation.Completed)); !errors.Is(err, conversation.ErrTurnEnded) {
		t.Errorf("it ends twice: %v", err)
	}
	if _, err := s.GetTurn(t.Context(), team, a.Turn.ID, false); !errors.Is(err, conversation.ErrNotFound) {
		t.Errorf("it is remembered: %v", err)
	}
	if _, err := s.GetClaim(t.Context(), team, "once"); !errors.Is(err, conversation.ErrNotFound) {
		t.Errorf("its request id is remembered: %v", err)
	}
	if len(s.turns)+len(s.claims) > 0 {
		t.Errorf("%d turns and %d claims are kept", len(s.turns), len(s.claims))
	}
}

func TestConversationGoesOn(t *testing.T) {
	s := New()
	c := &conversation.Conversation{ID: conversation.ID{100}, Team: team}
	if err := s.CreateConversation(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	read := func() (*conversation.Conversation, []int64) {
		t.Helper()
		got, err := s.GetConversation(t.Context(), team, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		var before []int64
		for m, err := range s.History(t.Context(), team, c.ID, got.Head) {
			if err != nil {
				t.Fatal(err)
			}
			before = append(before, m.TokensBefore)
		}
		return got, before
	}
	first := admission(1, c, "")
	if err := s.BeginTurn(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	var busy *conversation.Error
	if err := s.BeginTurn(t.Context(), admission(2, c, "")); !errors.Is(err, conversation.ErrConversationBusy) ||
		!errors.As(err, &busy) || busy.Turn != first.Turn.ID {
		t.Errorf("two turns run on the main line: %v", err)
	}
	if err := s.EndTurn(t.Context(), end(first, conversation.Completed)); err != nil {
		t.Fatal(err)
	}
	got, before := read()
	if got.HeadTurn != first.Turn.ID || got.Head.Tokens != 12 || !slices.Equal(before, []int64{5, 0}) {
		t.Errorf("after a turn the head is %+v, and the tokens before each message are %v", got.Head, before)
	}
	if err := s.BeginTurn(t.Context(), admission(3, c, "")); !errors.Is(err, conversation.ErrHeadMoved) {
		t.Errorf("a turn begins where the head no longer is: %v", err)
	}
	failed := admission(4, got, "")
	if err := errors.Join(s.BeginTurn(t.Context(), failed), s.EndTurn(t.Context(), end(failed, conversation.Failed))); err != nil {
		t.Fatal(err)
	}
	if got, before := read(); got.HeadTurn != first.Turn.ID || len(before) != 2 || !got.ActiveTurn.IsZero() {
		t.Errorf("after a turn that failed the head is %+v, with %d messages", got.Head, len(before))
	}
}

func TestLastReaderCancels(t *testing.T) {
	s := New()
	a := admission(1, nil, "")
	if err := s.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := s.AttachTurn(t.Context(), team, a.Turn.ID); err != nil {
		t.Fatal(err)
	}
	if len(s.asked) > 0 {
		t.Error("the turn is to be cancelled while somebody reads it")
	}
	for range 2 { // a repeat says the same
		if err := s.DetachTurn(t.Context(), team, a.Turn.ID); err != nil {
			t.Fatal(err)
		}
	}
	if d, err := s.Duties(t.Context()); err != nil || !slices.Equal(d.Cancel, []conversation.ID{a.Turn.ID}) {
		t.Errorf("the duties are %+v (%v)", d, err)
	}
	lost, err := s.AppendEvents(t.Context(), []conversation.EventBatch{{Turn: a.Turn.ID}, {Turn: conversation.ID{9}}})
	if err != nil || !slices.Equal(lost, []conversation.ID{{9}}) {
		t.Errorf("lost are %v (%v)", lost, err)
	}
}
