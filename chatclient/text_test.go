package chatclient_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

func TestTextIsTheTurns(t *testing.T) {
	part := func(s string) *chatsvcv1.Message {
		return &chatsvcv1.Message{Parts: []*chatsvcv1.Part{{Part: &chatsvcv1.Part_Text{Text: s}}, {Part: &chatsvcv1.Part_Refusal{}}}}
	}
	for _, tt := range []struct {
		name   string
		stored *chatsvcv1.Turn
		log    []*chatsvcv1.TurnEvent
		want   string
		given  string // by TextDeltas
		code   codes.Code
		void   bool
	}{
		{
			name: "output_text", stored: &chatsvcv1.Turn{OutputText: "ab"},
			log: []*chatsvcv1.TurnEvent{text("a"), text("b")}, want: "ab", given: "ab",
		},
		{
			name: "output alone, as of a long answer", stored: &chatsvcv1.Turn{Output: []*chatsvcv1.Message{part("a"), part("b")}},
			log: []*chatsvcv1.TurnEvent{text("ab")}, want: "ab", given: "ab",
		},
		{
			name: "more than was streamed", stored: &chatsvcv1.Turn{OutputText: "abc"},
			log: []*chatsvcv1.TurnEvent{text("a")}, want: "abc", given: "abc",
		},
		{
			name: "less than was streamed", stored: &chatsvcv1.Turn{OutputText: "a"},
			log: []*chatsvcv1.TurnEvent{text("ab")}, want: "a", given: "ab", void: true,
		},
		{
			name: "parts in another order", stored: &chatsvcv1.Turn{OutputText: "abc"},
			log: []*chatsvcv1.TurnEvent{textPart(2, "bc"), textPart(0, "a")}, want: "abc", given: "bc", void: true,
		},
		{
			name: "a reset, with the same in other pieces", stored: &chatsvcv1.Turn{OutputText: "abcdef"},
			log: []*chatsvcv1.TurnEvent{
				textPart(0, "ab"), textPart(1, "cd"), outputReset(9), textPart(0, "a"), textPart(0, "bcde"), textPart(1, "f"),
			},
			want: "abcdef", given: "abcdef",
		},
		{
			name: "gone", stored: &chatsvcv1.Turn{ContentExpired: true}, code: codes.FailedPrecondition,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{plan: func(_ int, turn *fakeTurn) {
				turn.add(tt.log...)
				turn.mu.Lock()
				turn.turn.OutputText = ""
				proto.Merge(turn.turn, tt.stored)
				turn.mu.Unlock()
				turn.complete()
			}}
			c := newClient(f.start(t))
			got, err := c.Stream(within(t), &chatsvcv1.CreateTurnRequest{}).Text()
			if got != tt.want || status.Code(err) != tt.code {
				t.Errorf("Text: %q, %v, want %q", got, err, tt.want)
			}
			var given strings.Builder
			var last error
			for piece, err := range c.Stream(within(t), &chatsvcv1.CreateTurnRequest{}).TextDeltas() {
				given.WriteString(piece)
				last = err
			}
			if given.String() != tt.given || errors.Is(last, chatclient.ErrTextVoid) != tt.void || !tt.void && status.Code(last) != tt.code {
				t.Errorf("TextDeltas: %q, %v, want %q", given.String(), last, tt.given)
			}
		})
	}
}
