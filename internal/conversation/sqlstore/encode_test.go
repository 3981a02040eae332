package sqlstore

import (
	"reflect"
	"testing"
	"unicode/utf8"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A message is read as it was written, whatever is in it.
func FuzzMessage(f *testing.F) {
	for _, s := range []string{"", "t", "{", `{"parts":null}`, "a\x00b", "\U0001F600<&>\u2028", "\xff\xfe"} {
		f.Add(s, []byte(s))
	}
	f.Fuzz(func(t *testing.T, text string, state []byte) {
		messages := []conversation.Message{{Parts: []conversation.Part{conversation.TextPart(text)}}, {}}
		if utf8.ValidString(text) { // as all that comes through the API is; JSON holds nothing else
			if len(state) == 0 {
				state = nil
			}
			messages = append(messages, conversation.Message{Parts: []conversation.Part{
				conversation.TextPart(text),
				{Kind: conversation.PartReasoning, Text: text, ProviderState: state},
				{Kind: conversation.PartToolCall, ToolCall: &conversation.ToolCall{ID: text, Name: text, Arguments: text}},
			}})
		}
		for _, m := range messages {
			stored, err := encodeMessage(&m)
			if err != nil {
				t.Fatal(err)
			}
			var got conversation.Message
			if err := decodeMessage(stored, &got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, m) {
				t.Fatalf("got %+v, want %+v", got, m)
			}
		}
	})
}
