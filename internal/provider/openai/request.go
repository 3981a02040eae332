package openai

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

// encode returns the members of the request's body that are ours to write: all but model, stream and stream_options.
// go-openai would leave out zeros and empty contents, narrow numbers to 32 bits, rewrite the schemas of tools, and
// refuse by the model's name what may long be allowed. Its errors are safe to show.
//
// What has no counterpart on the wire: a tool's result that is an error is sent with the prefix "error: ", and reasoning
// parts are left out. parallel_tool_calls, and a tool_choice of auto or none, are sent only with tools: without, they
// mean nothing, and OpenAI refuses them.
func encode(r *provider.Request) ([]byte, error) {
	e := &encoder{}
	e.json = json.NewEncoder(&e.buf)
	e.json.SetEscapeHTML(false)

	e.raw(`"messages":[`)
	if r.Instructions != "" {
		e.open(conversation.RoleSystem)
		e.member("content", r.Instructions)
		e.raw(`}`)
	}
	for i, m := range r.Messages {
		if err := e.message(m); err != nil {
			return nil, fmt.Errorf("message %d: %w", i+1, err)
		}
	}
	e.raw(`]`)
	if err := e.tools(r.Tools, r.ToolChoice); err != nil {
		return nil, err
	}
	e.config(r.Config, len(r.Tools) > 0)
	return e.buf.Bytes(), e.err
}

type encoder struct {
	buf  bytes.Buffer
	json *json.Encoder
	err  error // the first value that JSON does not know
}

func (e *encoder) raw(s string) { e.buf.WriteString(s) }

// comma writes the comma before an element, unless it is the first.
func (e *encoder) comma() {
	switch b := e.buf.Bytes(); b[len(b)-1] {
	case '[', '{':
	default:
		e.buf.WriteByte(',')
	}
}

// value writes v as JSON.
func (e *encoder) value(v any) {
	if err := e.json.Encode(v); err != nil {
		if e.err == nil {
			e.err = errors.New("a number is not finite")
		}
		return
	}
	e.buf.Truncate(e.buf.Len() - 1) // Encode ends with a line break
}

// member writes a member of an object.
func (e *encoder) member(name string, v any) {
	e.name(name)
	e.value(v)
}

func (e *encoder) name(name string) {
	e.comma()
	e.raw(`"` + name + `":`)
}

// open begins a message.
func (e *encoder) open(role conversation.Role) {
	e.comma()
	e.raw(`{`)
	e.member("role", role.String())
}

func (e *encoder) message(m conversation.Message) error {
	switch m.Role {
	case conversation.RoleTool:
		return e.toolResults(m)
	case conversation.RoleAssistant:
		return e.assistant(m)
	case conversation.RoleSystem, conversation.RoleDeveloper, conversation.RoleUser:
		e.open(m.Role)
		if err := e.content(m.Parts, m.Role); err != nil {
			return err
		}
		e.raw(`}`)
		return nil
	default:
		return errors.New("it has no role")
	}
}

// content writes a message's content: a string if it is one text or none, else an array.
func (e *encoder) content(parts []conversation.Part, role conversation.Role) error {
	e.name("content")
	switch {
	case len(parts) == 0:
		e.raw(`""`)
		return nil
	case len(parts) == 1 && parts[0].Kind == conversation.PartText:
		e.value(parts[0].Text)
		return nil
	}
	e.raw(`[`)
	for _, p := range parts {
		switch {
		case p.Kind == conversation.PartText:
			e.comma()
			e.raw(`{"type":"text"`)
			e.member("text", p.Text)
			e.raw(`}`)
		case p.Kind == conversation.PartImage && p.Image != nil && role == conversation.RoleUser:
			e.image(p.Image)
		default:
			return fmt.Errorf("a %s message cannot hold a part of this kind", role)
		}
	}
	e.raw(`]`)
	return nil
}

func (e *encoder) image(i *conversation.Image) {
	e.comma()
	e.raw(`{"type":"image_url","image_url":{"url":`)
	if i.URI != "" {
		e.value(i.URI)
	} else {
		mimeType := i.MIMEType
		if mimeType == "" {
			mimeType = http.DetectContentType(i.Data)
		}
		e.value("data:" + mimeType + ";base64,")
		e.buf.Truncate(e.buf.Len() - 1) // open the string again
		e.buf.Grow(base64.StdEncoding.EncodedLen(len(i.Data)) + 1)
		e.buf.Write(base64.StdEncoding.AppendEncode(e.buf.AvailableBuffer(), i.Data))
		e.raw(`"`)
	}
	if i.Detail != "" {
		e.member("detail", i.Detail)
	}
	e.raw(`}}`)
}

// assistant writes an answer. Its content is null only beside tool calls: elsewhere the wire demands one.
func (e *encoder) assistant(m conversation.Message) error {
	var (
		texts   []conversation.Part
		calls   []*conversation.ToolCall
		refusal strings.Builder
	)
	for _, p := range m.Parts {
		switch {
		case p.Kind == conversation.PartText:
			texts = append(texts, p)
		case p.Kind == conversation.PartRefusal:
			refusal.WriteString(p.Text)
		case p.Kind == conversation.PartToolCall && p.ToolCall != nil:
			calls = append(calls, p.ToolCall)
		case p.Kind == conversation.PartReasoning:
		default:
			return errors.New("an assistant message cannot hold a part of this kind")
		}
	}
	e.open(conversation.RoleAssistant)
	if len(texts) == 0 && len(calls) > 0 {
		e.raw(`,"content":null`)
	} else if err := e.content(texts, conversation.RoleAssistant); err != nil {
		return err
	}
	if refusal.Len() > 0 {
		e.member("refusal", refusal.String())
	}
	if len(calls) > 0 {
		e.name("tool_calls")
		e.raw(`[`)
		for _, c := range calls {
			e.comma()
			e.raw(`{"type":"function"`)
			e.member("id", c.ID)
			e.raw(`,"function":{`)
			e.member("name", c.Name)
			e.member("arguments", c.Arguments)
			e.raw(`}}`)
		}
		e.raw(`]`)
	}
	e.raw(`}`)
	return nil
}

// toolResults writes one message per result: on the wire each names its call.
func (e *encoder) toolResults(m conversation.Message) error {
	for _, p := range m.Parts {
		if p.Kind != conversation.PartToolResult || p.ToolResult == nil {
			return errors.New("a tool message can hold only results")
		}
		text := p.Text
		if p.ToolResult.IsError {
			text = "error: " + text
		}
		e.open(conversation.RoleTool)
		e.member("tool_call_id", p.ToolResult.ToolCallID)
		e.member("content", text)
		e.raw(`}`)
	}
	return nil
}

func (e *encoder) tools(tools []conversation.Tool, choice conversation.ToolChoice) error {
	if len(tools) > 0 {
		e.name("tools")
		e.raw(`[`)
		for _, t := range tools {
			e.comma()
			e.raw(`{"type":"function","function":{`)
			e.member("name", t.Name)
			if t.Description != "" {
				e.member("description", t.Description)
			}
			if t.Parameters != "" {
				if !json.Valid([]byte(t.Parameters)) {
					return errors.New("the parameters of a tool are not JSON")
				}
				e.name("parameters")
				e.raw(t.Parameters)
			}
			if t.Strict {
				e.member("strict", true)
			}
			e.raw(`}}`)
		}
		e.raw(`]`)
	}
	switch choice.Mode {
	case "":
	case conversation.ToolChoiceAuto, conversation.ToolChoiceNone:
		if len(tools) > 0 {
			e.member("tool_choice", choice.Mode)
		}
	case conversation.ToolChoiceTool:
		e.name("tool_choice")
		e.raw(`{"type":"function","function":{`)
		e.member("name", choice.Tool)
		e.raw(`}}`)
	default:
		e.member("tool_choice", choice.Mode)
	}
	return nil
}

func (e *encoder) config(c conversation.Config, tools bool) {
	optional(e, "temperature", c.Temperature)
	optional(e, "top_p", c.TopP)
	optional(e, "max_completion_tokens", c.MaxOutputTokens)
	optional(e, "seed", c.Seed)
	optional(e, "presence_penalty", c.PresencePenalty)
	optional(e, "frequency_penalty", c.FrequencyPenalty)
	if len(c.Stop) > 0 {
		e.member("stop", c.Stop)
	}
	if c.ReasoningEffort != "" {
		e.member("reasoning_effort", c.ReasoningEffort)
	}
	if c.Verbosity != "" {
		e.member("verbosity", c.Verbosity)
	}
	if tools {
		optional(e, "parallel_tool_calls", c.ParallelToolCalls)
	}
	if c.ResponseFormat != conversation.FormatUnset {
		e.name("response_format")
		e.raw(`{`)
		e.member("type", string(c.ResponseFormat))
		e.raw(`}`)
	}
}

func optional[T any](e *encoder, name string, p *T) {
	if p != nil {
		e.member(name, *p)
	}
}
