package openai

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// maxParts bounds the parts of an answer, since each costs far more than the bytes that begin it.
const maxParts = 512

// maxModelName bounds a name that is stored and shown.
const maxModelName = 256

// answer puts the chunks of a stream together to events.
type answer struct {
	model  string
	finish conversation.FinishReason
	usage  *conversation.Usage

	events []conversation.Event
	text   []byte // what is to be added to the text of the last event
	chunk  namedChunk
	frames decoder
	common envelope

	parts                    int
	textPart, refusal, think int            // parts, plus 1
	tools                    map[int]tool   // by the index of the tool call
	calls                    map[string]int // parts by id
	lastTool                 int
}

// chunk is what is read of a chat.completion.chunk. Every string costs an allocation per delta: what is not needed is
// not here.
type chunk struct {
	Choices []choice        `json:"choices"`
	Usage   *usage          `json:"usage"`
	Error   json.RawMessage `json:"error"`
}

// namedChunk is read until the model is known.
type namedChunk struct {
	Model string `json:"model"`
	chunk
}

type choice struct {
	Index int `json:"index"`
	Delta struct {
		Content   string     `json:"content"`
		Refusal   string     `json:"refusal"`
		Reasoning string     `json:"reasoning_content"` // not OpenAI's, but of several servers with its wire
		ToolCalls []toolCall `json:"tool_calls"`
	} `json:"delta"`
	FinishReason string `json:"finish_reason"`
}

type toolCall struct {
	Index    *int   `json:"index"`
	ID       string `json:"id"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

type usage struct {
	Prompt        int64 `json:"prompt_tokens"`
	Completion    int64 `json:"completion_tokens"`
	PromptDetails struct {
		Cached int64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionDetails struct {
		Reasoning int64 `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

// decoder is json.Unmarshal for many values: it keeps what encoding/json allocates for each.
type decoder struct {
	json   *json.Decoder
	source source
	fed    int64
}

// source is one frame and the line break that ends it.
type source struct {
	frame []byte
	ended bool
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	switch {
	case len(s.frame) > 0:
		n := copy(p, s.frame)
		s.frame = s.frame[n:]
		return n, nil
	case !s.ended:
		s.ended = true
		return copy(p, "\n"), nil
	default:
		return 0, io.EOF
	}
}

// decode decodes the frame, which must be one value without white space around it. After an error it is of no more use.
func (d *decoder) decode(frame []byte, v any) error {
	if d.json == nil {
		d.json = json.NewDecoder(&d.source)
	}
	d.source = source{frame: frame}
	if err := d.json.Decode(v); err != nil {
		return err
	}
	end := d.fed + int64(len(frame))
	if d.json.InputOffset() != end {
		return errors.New("more than one JSON value")
	}
	// The line break is read now or with the next frame.
	d.fed = end
	if d.source.ended {
		d.fed++
	}
	return nil
}

func (a *answer) finished() bool { return a.finish != conversation.FinishNone }

// begin forgets the events that were taken.
func (a *answer) begin() {
	clear(a.events)
	a.events = a.events[:0]
}

// take returns the events since begin.
func (a *answer) take() []conversation.Event {
	a.flush()
	return a.events
}

// add takes in one frame. Its error is a *conversation.Error; what came before it stays.
func (a *answer) add(frame []byte, call *call) error {
	if text, ok := a.common.open(frame); ok {
		a.extend(conversation.EventTextDelta, a.part(&a.textPart))
		a.text = append(a.text, text...)
		return nil
	}
	c := &a.chunk.chunk
	choices := c.Choices[:cap(c.Choices)]
	clear(choices) // encoding/json fills in elements that it finds
	*c = chunk{Choices: choices[:0]}
	var err error
	if a.model == "" {
		err = a.frames.decode(frame, &a.chunk)
		if len(a.chunk.Model) <= maxModelName {
			a.model = a.chunk.Model
		}
	} else {
		err = a.frames.decode(frame, c)
	}
	switch {
	case err != nil:
		return nonsense(call, err)
	case len(c.Error) > 0 && string(c.Error) != "null":
		return upstreamError(call, 0, parseError(c.Error))
	case len(c.Choices) == 0 && c.Usage == nil:
		return unnamedError(call, frame)
	}
	if u := c.Usage; u != nil && min(u.Prompt, u.Completion, u.PromptDetails.Cached, u.CompletionDetails.Reasoning) >= 0 {
		a.usage = &conversation.Usage{
			InputTokens:       u.Prompt,
			CachedInputTokens: u.PromptDetails.Cached,
			OutputTokens:      u.Completion,
			ReasoningTokens:   u.CompletionDetails.Reasoning,
		}
	}
	for i := range c.Choices {
		if c.Choices[i].Index != 0 { // one was asked for
			continue
		}
		if err := a.addChoice(&c.Choices[i]); err != nil {
			return nonsense(call, err)
		}
	}
	a.common.learn(frame, c)
	return nil
}

func (a *answer) addChoice(c *choice) error {
	d := &c.Delta
	if d.Reasoning != "" {
		a.extend(conversation.EventReasoningDelta, a.part(&a.think))
		a.text = append(a.text, d.Reasoning...)
	}
	if d.Content != "" {
		a.extend(conversation.EventTextDelta, a.part(&a.textPart))
		a.text = append(a.text, d.Content...)
	}
	if d.Refusal != "" {
		a.extend(conversation.EventRefusalDelta, a.part(&a.refusal))
		a.text = append(a.text, d.Refusal...)
	}
	for i := range d.ToolCalls {
		if err := a.addToolCall(&d.ToolCalls[i]); err != nil {
			return err
		}
	}
	return a.addFinish(c.FinishReason)
}

// tool is a tool call that has begun.
type tool struct {
	part int
	id   string
}

// maxCallID is what the API takes as the id of the call that a result answers.
const maxCallID = 256

// addToolCall takes in a piece of a tool call. Some servers send no index, and some the same for all: there another id
// begins the next call.
func (a *answer) addToolCall(t *toolCall) error {
	index := a.lastTool
	switch {
	case t.Index != nil:
		index = *t.Index
	case t.ID != "":
		index = len(a.calls)
	}
	a.lastTool = index
	part, twice := a.calls[t.ID]
	goesOn := twice && t.Index == nil
	if known, ok := a.tools[index]; ok && (t.ID == "" || t.ID == known.id || t.Function.Name == "") {
		part, goesOn = known.part, true // nothing begins without a name
	}
	if goesOn {
		if t.Function.Arguments != "" {
			a.extend(conversation.EventToolCallDelta, part)
			a.text = append(a.text, t.Function.Arguments...)
		}
		return nil
	}
	switch {
	case t.ID == "" || t.Function.Name == "":
		return fmt.Errorf("tool call %d begins without id or name", index)
	case len(t.ID) > maxCallID, strings.ContainsRune(t.ID, 0), twice:
		return fmt.Errorf("tool call %d has an id that no result could answer", index)
	case !toolName(t.Function.Name):
		return fmt.Errorf("tool call %d has a name that no tool has", index)
	case a.parts >= maxParts:
		return fmt.Errorf("the answer has more than %d parts", maxParts)
	case a.tools == nil:
		a.tools, a.calls = make(map[int]tool), make(map[string]int)
	}
	a.tools[index], a.calls[t.ID] = tool{a.parts, t.ID}, a.parts
	a.flush()
	a.events = append(a.events, conversation.Event{
		Kind: conversation.EventToolCallDelta, PartIndex: a.parts,
		ToolCallID: t.ID, ToolName: t.Function.Name, Text: t.Function.Arguments,
	})
	a.parts++
	return nil
}

// toolName reports whether a name is one that a tool can have, as the API and OpenAI both rule.
func toolName(name string) bool {
	return len(name) > 0 && len(name) <= 64 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '_' && r != '-'
	})
}

// addFinish takes in a finish reason; "" is none yet. One that is not known is no positive end: there are servers that
// say "error".
func (a *answer) addFinish(reason string) error {
	switch reason {
	case "":
	case "stop":
		switch {
		case len(a.calls) > 0: // so it ends where tool_choice names a tool
			a.finish = conversation.FinishToolCalls
		case a.refusal != 0:
			a.finish = conversation.FinishRefusal
		default:
			a.finish = conversation.FinishStop
		}
	case "length":
		a.finish = conversation.FinishLength
	case "tool_calls", "function_call":
		if len(a.calls) == 0 {
			return errors.New("the answer is to have tool calls, and has none")
		}
		a.finish = conversation.FinishToolCalls
	case "content_filter":
		a.finish = conversation.FinishContentFilter
	default:
		return fmt.Errorf("unknown finish reason %.40q", reason)
	}
	return nil
}

// part returns the part that *slot stands for, and makes it the next one if it stands for none.
func (a *answer) part(slot *int) int {
	if *slot == 0 {
		a.parts++
		*slot = a.parts
	}
	return *slot - 1
}

// extend makes the last event one of the kind and the part, so that text can be added to it.
func (a *answer) extend(kind conversation.EventKind, part int) {
	if n := len(a.events); n > 0 && a.events[n-1].Kind == kind && a.events[n-1].PartIndex == part {
		return
	}
	a.flush()
	a.events = append(a.events, conversation.Event{Kind: kind, PartIndex: part})
}

// flush gives the last event the text that was added to it.
func (a *answer) flush() {
	if len(a.text) > 0 {
		a.events[len(a.events)-1].Text += string(a.text)
		a.text = a.text[:0]
	}
}
