package openaisim

import (
	"fmt"
	"strings"
	"testing"
)

func TestAnswers(t *testing.T) {
	long := strings.Repeat("é", 300)
	for _, tc := range []struct {
		name string
		said []string
		want string
	}{
		{"nothing said", nil, "Hello! How can I help you?"},
		{"first turn", []string{"Bonjour"}, "You said: «Bonjour»."},
		{"second turn", []string{"Bonjour", "Ça va ?"}, "You said: «Ça va ?». Before that you said: «Bonjour»."},
		{"only the turn before", []string{"a", "b", "c"}, "You said: «c». Before that you said: «b»."},
		{"long text", []string{long}, "You said: «" + long[:400] + "…»."},
		{"directives are forgotten", []string{"One [[sim tokens=3]]", "Two [[sim fault=500]]"}, "You said: «Two». Before that you said: «One»."},
		{"a name", []string{"Hi, my name is Ada Lovelace. And yours?"}, "Nice to meet you, Ada Lovelace."},
		{"a name in lower case", []string{"MY NAME IS zoë and I sing"}, "Nice to meet you, zoë."},
		{"a name that is none", []string{"my name is 42"}, "You said: «my name is 42»."},
		{"name", []string{"My name is Ada.", "Nice weather", "What is my name?"}, "Your name is Ada."},
		{"the last name counts", []string{"My name is Ada.", "My name is Bob", "what's  my NAME"}, "Your name is Bob."},
		{"no name", []string{"What is my name?"}, "You have not told me your name."},
		{"first", []string{"a", "b", "What did I say first?"}, "You first said: «a»."},
		{"before", []string{"a", "b", "what did I say before?"}, "Before that you said: «b»."},
		{"nothing before", []string{"What did I just say?"}, "You have not said anything before."},
		{"turns ago", []string{"a", "b", "c", "What did I say 3 turns ago?"}, "3 turns ago you said: «a»."},
		{"one turn ago", []string{"a", "b", "What did I say 1 turn ago?"}, "1 turn ago you said: «b»."},
		{"too long ago", []string{"a", "What did I say 9 turns ago?"}, "This is only turn 2."},
		{"how long ago", []string{"What did I say some turns ago?"}, "How many turns ago?"},
		{"turns", []string{"a", "b", "How many turns is this?"}, "This is turn 3."},
		{"no instructions", []string{"What are your instructions?"}, "I have no instructions."},
		{"part of a word is no question", []string{"somewho am infinite"}, "You said: «somewho am infinite»."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := (talk{said: plain(tc.said)}).answer(); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// plain returns texts as readTalk remembers them.
func plain(texts []string) []string {
	var messages []message
	for _, text := range texts {
		messages = append(messages, message{Role: "user", text: text})
	}
	return readTalk(messages).said
}

func TestConversationIsRememberedOverTheWire(t *testing.T) {
	u := startUpstream(t, Options{})
	turns := []struct{ said, want string }{
		{"Bonjour, my name is Ada!", "Nice to meet you, Ada."},
		{"I like trains.", "You said: «I like trains.». Before that you said: «Bonjour, my name is Ada!»."},
		{"What is my name?", "Your name is Ada."},
		{"What did I say first?", "You first said: «Bonjour, my name is Ada!»."},
		{"How many turns is this?", "This is turn 5."},
	}
	var history []string
	for _, turn := range turns {
		history = append(history, turn.said)
		got := u.say(t, history...)
		if got != turn.want {
			t.Fatalf("to %q it answers %q, want %q", turn.said, got, turn.want)
		}
		history = append(history, got)
	}
}

func TestInstructionsAndToolResults(t *testing.T) {
	u := startUpstream(t, Options{})
	for _, tc := range []struct{ messages, want string }{
		{
			`[{"role":"system","content":"Be brief and kind."},{"role":"developer","content":[{"type":"text","text":"Really."}]},{"role":"user","content":"What are your instructions?"}]`,
			"My instructions are 5 words long.",
		},
		{
			`[{"role":"user","content":"Weather? [[sim tool=w]]"},{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"w","arguments":"{}"}},{"id":"b","type":"function","function":{"name":"z","arguments":"{}"}}]},{"role":"tool","tool_call_id":"b","content":"3"},{"role":"tool","tool_call_id":"a","content":"sunny"}]`,
			"The tool z answered: «3». The tool w answered: «sunny».",
		},
	} {
		got := u.ask(t, fmt.Sprintf(`{"model":"sim","messages":%s}`, tc.messages))
		if content := got.Choices[0].Message.Content; content == nil || *content != tc.want {
			t.Errorf("%s\ngot %v, want %q", tc.messages, content, tc.want)
		}
	}
}
