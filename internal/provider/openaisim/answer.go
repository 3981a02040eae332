package openaisim

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// talk is a conversation as the simulator remembers it: from the messages of the one
// request, for it keeps nothing between requests.
type talk struct {
	said         []string // what the user said, oldest first, without directives
	instructions string   // system and developer messages
	results      []string // tool results since the last user message, as sentences
}

// readTalk reads the conversation from messages.
func readTalk(messages []message) talk {
	var t talk
	names := make(map[string]string) // tool call id to tool name
	for i := range messages {
		m := &messages[i]
		switch m.Role {
		case "system", "developer":
			t.instructions += " " + m.text
		case "user":
			t.said = append(t.said, withoutDirectives(m.text))
			t.results = nil
		case "assistant":
			for _, call := range m.ToolCalls {
				names[call.ID] = call.Function.Name
			}
		case "tool":
			t.results = append(t.results, fmt.Sprintf("The tool %s answered: %s.", names[m.ToolCallID], quote(withoutDirectives(m.text))))
		}
	}
	return t
}

// ago returns what the user said n turns before the last one.
func (t talk) ago(n int) (string, bool) {
	i := len(t.said) - 1 - n
	if n < 0 || i < 0 || len(t.said) == 0 {
		return "", false
	}
	return t.said[i], true
}

// answer returns the answer to the last message; the package documentation lists the rules.
func (t talk) answer() string {
	last, ok := t.ago(0)
	if !ok {
		return "Hello! How can I help you?"
	}
	if len(t.results) > 0 {
		return strings.Join(t.results, " ")
	}
	question := normalise(last)
	asks := func(phrases ...string) bool {
		for _, phrase := range phrases {
			if strings.Contains(question, " "+phrase+" ") {
				return true
			}
		}
		return false
	}
	switch {
	case asks("what is my name", "what's my name", "who am i"):
		if name := t.name(); name != "" {
			return "Your name is " + name + "."
		}
		return "You have not told me your name."
	case asks("what did i say first"):
		return "You first said: " + quote(t.said[0]) + "."
	case asks("what did i say before", "what did i say last", "what did i just say"):
		if before, ok := t.ago(1); ok {
			return "Before that you said: " + quote(before) + "."
		}
		return "You have not said anything before."
	case asks("turns ago", "turn ago") && asks("what did i say"):
		return t.recall(question)
	case asks("how many turns"):
		return fmt.Sprintf("This is turn %d.", len(t.said))
	case asks("what are your instructions"):
		if n := len(strings.Fields(t.instructions)); n > 0 {
			return fmt.Sprintf("My instructions are %d words long.", n)
		}
		return "I have no instructions."
	}
	if name := nameIn(last); name != "" {
		return "Nice to meet you, " + name + "."
	}
	answer := "You said: " + quote(last) + "."
	if before, ok := t.ago(1); ok {
		answer += " Before that you said: " + quote(before) + "."
	}
	return answer
}

// recall answers "what did I say N turns ago".
func (t talk) recall(question string) string {
	words := strings.Fields(question)
	for i := 1; i < len(words); i++ {
		n, err := strconv.Atoi(words[i-1])
		if err != nil || !strings.HasPrefix(words[i], "turn") {
			continue
		}
		if said, ok := t.ago(n); ok {
			return fmt.Sprintf("%s ago you said: %s.", plural(n, "turn"), quote(said))
		}
		return fmt.Sprintf("This is only turn %d.", len(t.said))
	}
	return "How many turns ago?"
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// name returns the last name that the user gave, or "".
func (t talk) name() string {
	for n := range t.said {
		said, _ := t.ago(n)
		if name := nameIn(said); name != "" {
			return name
		}
	}
	return ""
}

// nameIn returns the name in a sentence such as "My name is Ada Lovelace.": the word
// after "is", and the capitalised ones that follow it up to a sign.
func nameIn(text string) string {
	const opening = "my name is "
	for i := range text {
		if len(text)-i < len(opening) || !strings.EqualFold(text[i:i+len(opening)], opening) {
			continue
		}
		var name []string
		for word := range strings.FieldsSeq(clip(text[i+len(opening):], 100)) {
			letters := strings.TrimRightFunc(word, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsMark(r) })
			first := []rune(letters + " ")[0]
			if !unicode.IsLetter(first) || len(name) > 0 && !unicode.IsUpper(first) {
				break
			}
			name = append(name, letters)
			if letters != word {
				break
			}
		}
		return strings.Join(name, " ")
	}
	return ""
}

// normalise puts text in lower case, its words and figures parted by one space, with a
// space at each end, so that phrases can be looked for as whole words.
func normalise(text string) string {
	words := strings.FieldsFunc(strings.ToLower(clip(text, 1000)), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '\'' && r != '_' && r != '-'
	})
	return " " + strings.Join(words, " ") + " "
}

// quote puts text in quotation marks, long text cut short.
func quote(text string) string { return "«" + clip(text, 200) + "»" }

// clip returns at most limit runes of text, and says so with an ellipsis.
func clip(text string, limit int) string {
	count := 0
	for i := range text {
		if count == limit {
			return text[:i] + "…"
		}
		count++
	}
	return text
}
