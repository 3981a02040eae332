package openaisim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const maxMessages = 2048

// validate checks req as OpenAI does before it asks the model, and fills in what
// follows from it: the model, the contents' texts, the stops and the tool choice.
func (req *request) validate(catalogue []model) *apiError {
	var found bool
	if req.model, found = findModel(catalogue, req.Model); !found {
		return modelNotFound(req.Model)
	}
	if err := req.validateMessages(); err != nil {
		return err
	}
	if err := req.validateSampling(); err != nil {
		return err
	}
	if err := req.validateLimits(); err != nil {
		return err
	}
	if err := req.validateTools(); err != nil {
		return err
	}
	return req.validateFormat()
}

func (req *request) validateMessages() *apiError {
	switch n := len(req.Messages); {
	case req.Messages == nil:
		return missingParameter("messages")
	case n == 0:
		return badRequest("messages", "empty_array", "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.")
	case n > maxMessages:
		return arrayTooLong("messages", maxMessages, n)
	}
	pending := make(map[string]bool) // ids of the latest tool calls; true is unanswered
	for i := range req.Messages {
		m := &req.Messages[i]
		if m.Role != "tool" {
			if err := unanswered(pending, i); err != nil {
				return err
			}
		}
		if err := m.validate(i); err != nil {
			return err
		}
		switch m.Role {
		case "assistant":
			clear(pending)
			for _, call := range m.ToolCalls {
				pending[call.ID] = true
			}
		case "tool":
			if len(pending) == 0 {
				return badRequest(fmt.Sprintf("messages.[%d].role", i), "", "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.")
			}
			if _, asked := pending[m.ToolCallID]; !asked {
				return badRequest(fmt.Sprintf("messages.[%d].tool_call_id", i), "", "Invalid parameter: 'tool_call_id' of '%.64s' not found in 'tool_calls' of previous message.", m.ToolCallID)
			}
			pending[m.ToolCallID] = false
		default:
			clear(pending)
		}
	}
	return unanswered(pending, len(req.Messages))
}

// unanswered refuses tool calls that have no answer before message i.
func unanswered(pending map[string]bool, i int) *apiError {
	var ids []string
	for id, open := range pending {
		if open {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	return badRequest(fmt.Sprintf("messages.[%d].role", i), "", "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: %s", strings.Join(ids, ", "))
}

// validate checks message i on its own, and reads its content.
func (m *message) validate(i int) *apiError {
	at := func(field string) string { return "messages[" + strconv.Itoa(i) + "]." + field }
	switch m.Role {
	case "":
		return missingParameter(at("role"))
	case "system", "developer", "user":
		if absent(m.Content) {
			return badRequest(fmt.Sprintf("messages.[%d].content", i), "", "Invalid value for 'content': expected a string, got null.")
		}
	case "assistant":
		if absent(m.Content) && len(m.ToolCalls) == 0 && m.Refusal == nil {
			return badRequest(fmt.Sprintf("messages.[%d].content", i), "", "Invalid value for 'content': expected a string, got null.")
		}
	case "tool":
		if m.ToolCallID == "" {
			return missingParameter(at("tool_call_id"))
		}
		if absent(m.Content) {
			return missingParameter(at("content"))
		}
	default:
		return invalidValue(at("role"), m.Role, "system", "assistant", "user", "function", "tool", "developer")
	}
	if m.ToolCalls != nil {
		if m.Role != "assistant" {
			return badRequest(at("tool_calls"), "unknown_parameter", "Unknown parameter: '%s'.", at("tool_calls"))
		}
		if len(m.ToolCalls) == 0 {
			return badRequest(at("tool_calls"), "empty_array", "Invalid '%s': empty array. Expected an array with minimum length 1, but got an empty array instead.", at("tool_calls"))
		}
		for k, call := range m.ToolCalls {
			in := at("tool_calls") + "[" + strconv.Itoa(k) + "]."
			switch {
			case call.ID == "":
				return missingParameter(in + "id")
			case call.Type == "":
				return missingParameter(in + "type")
			case call.Type != "function":
				return invalidValue(in+"type", call.Type, "function")
			case call.Function.Name == "":
				return missingParameter(in + "function.name")
			}
		}
	}
	if absent(m.Content) {
		return nil
	}
	return m.readContent(at("content"))
}

// readContent reads the content, a string or an array of parts.
func (m *message) readContent(param string) *apiError {
	switch m.Content[0] {
	case '"':
		if err := json.Unmarshal(m.Content, &m.text); err != nil {
			return invalidType(param, "a string", jsonTypeOf(m.Content))
		}
		return nil
	case '[':
	default:
		return invalidType(param, "one of a string or array of objects", jsonTypeOf(m.Content))
	}
	var parts []contentPart
	if err := json.Unmarshal(m.Content, &parts); err != nil {
		return invalidType(param, "an array of content parts", "another array")
	}
	if len(parts) == 0 {
		return badRequest(param, "empty_array", "Invalid '%s': empty array. Expected an array with minimum length 1, but got an empty array instead.", param)
	}
	var texts []string
	for i := range parts {
		p, in := &parts[i], param+"["+strconv.Itoa(i)+"]"
		switch {
		case p.Type == "":
			return missingParameter(in + ".type")
		case p.Type == "text" && p.Text == nil:
			return missingParameter(in + ".text")
		case p.Type == "text":
			texts = append(texts, *p.Text)
		case p.Type == "refusal" && m.Role == "assistant" && p.Refusal != nil:
			texts = append(texts, *p.Refusal)
		case p.Type == "image_url" && m.Role == "user":
			tokens, err := p.ImageURL.validate(in + ".image_url")
			if err != nil {
				return err
			}
			m.image += tokens
		case m.Role == "user":
			return invalidValue(in+".type", p.Type, "text", "image_url", "input_audio", "file")
		case m.Role == "assistant":
			return invalidValue(in+".type", p.Type, "text", "refusal")
		default:
			return invalidValue(in+".type", p.Type, "text")
		}
	}
	m.text = strings.Join(texts, "\n")
	return nil
}

// validate checks an image and returns what it costs in tokens.
func (u *imageURL) validate(param string) (int, *apiError) {
	switch {
	case u == nil:
		return 0, missingParameter(param)
	case u.URL == "":
		return 0, missingParameter(param + ".url")
	case !strings.HasPrefix(u.URL, "https://") && !strings.HasPrefix(u.URL, "http://") && !strings.HasPrefix(u.URL, "data:image/"):
		return 0, badRequest(param+".url", "invalid_image_url", "Invalid '%s.url'. Expected a valid URL, but got a value with an invalid format.", param)
	}
	switch u.Detail {
	case "low":
		return tokensPerLowImage, nil
	case "", "auto", "high":
		return tokensPerImage, nil
	default:
		return 0, invalidValue(param+".detail", u.Detail, "low", "high", "auto")
	}
}
