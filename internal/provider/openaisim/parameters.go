package openaisim

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

const (
	maxTools    = 128
	maxStops    = 4
	maxToolName = 64
)

func arrayTooLong(param string, limit, got int) *apiError {
	return badRequest(param, "array_above_max_length", "Invalid '%s': array too long. Expected an array with maximum length %d, but got an array with length %d instead.", param, limit, got)
}

func (req *request) validateSampling() *apiError {
	for _, p := range []struct {
		name        string
		value       *float64
		least, most float64
		only        float64 // what a reasoning model takes
	}{
		{"temperature", req.Temperature, 0, 2, 1},
		{"top_p", req.TopP, 0, 1, 1},
		{"presence_penalty", req.PresencePenalty, -2, 2, 0},
		{"frequency_penalty", req.FrequencyPenalty, -2, 2, 0},
	} {
		switch {
		case p.value == nil:
		case *p.value < p.least:
			return badRequest(p.name, "decimal_below_min_value", "Invalid '%s': decimal below minimum value. Expected a value >= %g, but got %g instead.", p.name, p.least, *p.value)
		case *p.value > p.most:
			return badRequest(p.name, "decimal_above_max_value", "Invalid '%s': decimal above maximum value. Expected a value <= %g, but got %g instead.", p.name, p.most, *p.value)
		case req.model.reasoning && *p.value != p.only:
			return badRequest(p.name, "unsupported_value", "Unsupported value: '%s' does not support %g with this model. Only the default (%g) value is supported.", p.name, *p.value, p.only)
		}
	}
	if effort := req.ReasoningEffort; effort != nil {
		if !req.model.reasoning {
			return badRequest("", "", "Unrecognized request argument supplied: reasoning_effort")
		}
		if _, known := effortTokens(*effort); !known {
			return invalidValue("reasoning_effort", *effort, "none", "minimal", "low", "medium", "high", "xhigh")
		}
	}
	if v := req.Verbosity; v != nil && *v != "low" && *v != "medium" && *v != "high" {
		return invalidValue("verbosity", *v, "low", "medium", "high")
	}
	switch {
	case req.N != nil && *req.N < 1:
		return tooSmall("n", *req.N)
	case req.N != nil && *req.N > 1:
		return notInSimulator("n")
	case req.Logprobs != nil && *req.Logprobs || req.TopLogprobs != nil:
		return notInSimulator("logprobs")
	case slices.ContainsFunc(req.Modalities, func(m string) bool { return m != "text" }) || !absent(req.Audio):
		return notInSimulator("modalities")
	case !absent(req.Functions) || !absent(req.FunctionCall):
		return notInSimulator("functions")
	case !absent(req.LogitBias) && req.LogitBias[0] != '{':
		return invalidType("logit_bias", "an object", jsonTypeOf(req.LogitBias))
	}
	return nil
}

func tooSmall(param string, got int64) *apiError {
	return badRequest(param, "integer_below_min_value", "Invalid '%s': integer below minimum value. Expected a value >= 1, but got %d instead.", param, got)
}

func (req *request) validateLimits() *apiError {
	if req.StreamOptions != nil && !req.Stream {
		return badRequest("stream_options", "", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
	}
	switch {
	case req.MaxTokens != nil && req.MaxCompletionTokens != nil:
		return badRequest("max_tokens", "invalid_parameter_combination", "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
	case req.MaxTokens != nil && req.model.reasoning:
		return unsupportedParameter("max_tokens", " Use 'max_completion_tokens' instead.")
	}
	param, limit := "max_tokens", req.MaxTokens
	if limit == nil {
		param, limit = "max_completion_tokens", req.MaxCompletionTokens
	}
	switch {
	case limit == nil:
	case *limit < 1:
		return tooSmall(param, *limit)
	case *limit > int64(req.model.maxOutput):
		return badRequest(param, "invalid_value", "%s is too large: %d. This model supports at most %d completion tokens, whereas you provided %d.", param, *limit, req.model.maxOutput, *limit)
	}
	return req.readStops()
}

// readStops reads the stop sequences: a string, or up to four of them.
func (req *request) readStops() *apiError {
	if absent(req.Stop) {
		return nil
	}
	switch req.Stop[0] {
	case '"':
		req.stops = make([]string, 1)
		if err := json.Unmarshal(req.Stop, &req.stops[0]); err != nil {
			return invalidType("stop", "a string", jsonTypeOf(req.Stop))
		}
	case '[':
		if err := json.Unmarshal(req.Stop, &req.stops); err != nil {
			return invalidType("stop", "an array of strings", "another array")
		}
	default:
		return invalidType("stop", "one of a string or array of strings", jsonTypeOf(req.Stop))
	}
	if n := len(req.stops); n > maxStops {
		return arrayTooLong("stop", maxStops, n)
	}
	if len(req.stops) > 0 && req.model.reasoning {
		return unsupportedParameter("stop", "")
	}
	req.stops = slices.DeleteFunc(req.stops, func(s string) bool { return s == "" })
	return nil
}

func (req *request) validateTools() *apiError {
	if n := len(req.Tools); req.Tools != nil && n == 0 {
		return badRequest("tools", "empty_array", "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead.")
	} else if n > maxTools {
		return arrayTooLong("tools", maxTools, n)
	}
	for i := range req.Tools {
		t, in := &req.Tools[i], "tools["+strconv.Itoa(i)+"]."
		switch {
		case t.Type == "":
			return missingParameter(in + "type")
		case t.Type != "function":
			return invalidValue(in+"type", t.Type, "function")
		case t.Function.Name == "":
			return missingParameter(in + "function.name")
		case len(t.Function.Name) > maxToolName:
			return badRequest(in+"function.name", "string_above_max_length", "Invalid '%sfunction.name': string too long. Expected a string with maximum length %d, but got a string with length %d instead.", in, maxToolName, len(t.Function.Name))
		case strings.ContainsFunc(t.Function.Name, notInToolName):
			return badRequest(in+"function.name", "invalid_value", "Invalid '%sfunction.name': string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'.", in)
		case !absent(t.Function.Parameters) && t.Function.Parameters[0] != '{':
			return invalidType(in+"function.parameters", "an object", jsonTypeOf(t.Function.Parameters))
		}
	}
	if req.ParallelToolCalls != nil && req.Tools == nil {
		return badRequest("parallel_tool_calls", "", "Invalid value for 'parallel_tool_calls': 'parallel_tool_calls' is only allowed when 'tools' are specified.")
	}
	return req.readToolChoice()
}

func notInToolName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-')
}

// readToolChoice reads the tool choice: none, auto, required, or a tool's name.
func (req *request) readToolChoice() *apiError {
	req.choice = toolChoice{mode: "auto"}
	if absent(req.ToolChoice) {
		return nil
	}
	if req.Tools == nil {
		return badRequest("tool_choice", "", "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.")
	}
	switch req.ToolChoice[0] {
	case '"':
		if err := json.Unmarshal(req.ToolChoice, &req.choice.mode); err != nil {
			return invalidType("tool_choice", "a string", jsonTypeOf(req.ToolChoice))
		}
		switch req.choice.mode {
		case "none", "auto", "required":
			return nil
		}
		return invalidValue("tool_choice", req.choice.mode, "none", "auto", "required")
	case '{':
		var named tool
		if err := json.Unmarshal(req.ToolChoice, &named); err != nil || named.Type != "function" {
			return invalidValue("tool_choice.type", named.Type, "function")
		}
		if named.Function.Name == "" {
			return missingParameter("tool_choice.function")
		}
		if !slices.ContainsFunc(req.Tools, func(t tool) bool { return t.Function.Name == named.Function.Name }) {
			return badRequest("tool_choice", "", "Invalid value for 'tool_choice': Tool choice '%s' not found in 'tools' parameter.", named.Function.Name)
		}
		req.choice = toolChoice{mode: "named", name: named.Function.Name}
		return nil
	default:
		return invalidType("tool_choice", "one of an object or a string", jsonTypeOf(req.ToolChoice))
	}
}

func (req *request) validateFormat() *apiError {
	format := req.ResponseFormat
	if format == nil {
		return nil
	}
	switch format.Type {
	case "":
		return missingParameter("response_format.type")
	case "text":
	case "json_object":
		mentioned := slices.ContainsFunc(req.Messages, func(m message) bool { return strings.Contains(strings.ToLower(m.text), "json") })
		if !mentioned {
			return badRequest("messages", "", "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.")
		}
	case "json_schema":
		switch {
		case format.JSONSchema == nil:
			return missingParameter("response_format.json_schema")
		case format.JSONSchema.Name == "":
			return missingParameter("response_format.json_schema.name")
		case absent(format.JSONSchema.Schema):
			return missingParameter("response_format.json_schema.schema")
		case format.JSONSchema.Schema[0] != '{':
			return invalidType("response_format.json_schema.schema", "an object", jsonTypeOf(format.JSONSchema.Schema))
		}
	default:
		return invalidValue("response_format.type", format.Type, "json_object", "json_schema", "text")
	}
	return nil
}
