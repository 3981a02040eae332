package openaisim

import (
	"encoding/json"
	"errors"
	"iter"
	"reflect"
	"strings"
)

// request is the body of POST /v1/chat/completions. A pointer or raw message is nil
// where the parameter is absent; the API treats null alike. Parameters that change
// nothing here are only known by name, to ignoredParameter.
type request struct {
	Model               string          `json:"model"`
	Messages            []message       `json:"messages"`
	Stream              bool            `json:"stream"`
	StreamOptions       *streamOptions  `json:"stream_options"`
	N                   *int64          `json:"n"`
	Temperature         *float64        `json:"temperature"`
	TopP                *float64        `json:"top_p"`
	PresencePenalty     *float64        `json:"presence_penalty"`
	FrequencyPenalty    *float64        `json:"frequency_penalty"`
	MaxTokens           *int64          `json:"max_tokens"`
	MaxCompletionTokens *int64          `json:"max_completion_tokens"`
	Stop                json.RawMessage `json:"stop"`
	Seed                *int64          `json:"seed"`
	Tools               []tool          `json:"tools"`
	ToolChoice          json.RawMessage `json:"tool_choice"`
	ParallelToolCalls   *bool           `json:"parallel_tool_calls"`
	ResponseFormat      *responseFormat `json:"response_format"`
	ReasoningEffort     *string         `json:"reasoning_effort"`
	Verbosity           *string         `json:"verbosity"`
	LogitBias           json.RawMessage `json:"logit_bias"`
	Logprobs            *bool           `json:"logprobs"`
	TopLogprobs         *int64          `json:"top_logprobs"`
	Modalities          []string        `json:"modalities"`
	Audio               json.RawMessage `json:"audio"`
	Functions           json.RawMessage `json:"functions"`
	FunctionCall        json.RawMessage `json:"function_call"`

	// What validation makes of it.
	model  model
	stops  []string
	choice toolChoice
}

type streamOptions struct {
	IncludeUsage       bool  `json:"include_usage"`
	IncludeObfuscation *bool `json:"include_obfuscation"` // unset is true
}

type message struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	Name       string          `json:"name"`
	Refusal    *string         `json:"refusal"`
	ToolCalls  []toolCall      `json:"tool_calls"`
	ToolCallID string          `json:"tool_call_id"`

	text  string // the content, or its text parts joined with line breaks
	image int    // tokens of its image parts
}

// contentTokens returns the tokens of the content.
func (m *message) contentTokens() int { return countTokens(m.text) + m.image }

type contentPart struct {
	Type     string    `json:"type"`
	Text     *string   `json:"text"`
	Refusal  *string   `json:"refusal"`
	ImageURL *imageURL `json:"image_url"`
}

type imageURL struct {
	URL    string `json:"url"`
	Detail string `json:"detail"`
}

type toolCall struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

type tool struct {
	Type     string `json:"type"`
	Function struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Parameters  json.RawMessage `json:"parameters"`
	} `json:"function"`
}

// toolChoice is mode none, auto or required, or named with the name of a tool.
type toolChoice struct{ mode, name string }

type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema *struct {
		Name   string          `json:"name"`
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
}

// ignoredParameter reports whether name is a parameter of the API that request does
// not hold: such are accepted, and change nothing.
func ignoredParameter(name string) bool {
	switch name {
	case "metadata", "store", "user", "service_tier", "prediction", "prompt_cache_key", "prompt_cache_retention",
		"safety_identifier", "web_search_options":
		return true
	}
	return false
}

// parameterNames returns the names of the parameters that request holds.
func parameterNames() map[string]bool {
	names := make(map[string]bool)
	for field := range reflect.TypeFor[request]().Fields() {
		if name := field.Tag.Get("json"); name != "" {
			names[name] = true
		}
	}
	return names
}

// decodeRequest reads body, checking no more than the types. known are the parameter
// names.
func decodeRequest(body []byte, known map[string]bool) (*request, *apiError) {
	req := &request{}
	if err := json.Unmarshal(body, req); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) && wrong.Field != "" {
			got, _, _ := strings.Cut(wrong.Value, " ")
			return nil, invalidType(wrong.Field, expected(wrong.Type), article(got))
		}
		return nil, badRequest("", "", "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)")
	}
	for name := range topLevelKeys(body) {
		if !known[name] && !ignoredParameter(name) {
			return nil, badRequest("", "", "Unrecognized request argument supplied: %.64s", name)
		}
	}
	return req, nil
}

// expected names the JSON type that a Go type is read from.
func expected(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "a boolean"
	case reflect.Int64:
		return "an integer"
	case reflect.Float64:
		return "a decimal"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "an array of objects"
	default:
		return "an object"
	}
}

// article puts a or an before the name of a JSON type.
func article(jsonType string) string {
	switch jsonType {
	case "array", "object":
		return "an " + jsonType
	case "bool":
		return "a boolean"
	case "null":
		return "null"
	default:
		return "a " + jsonType
	}
}

// jsonTypeOf names the type of a valid JSON value.
func jsonTypeOf(raw json.RawMessage) string {
	switch raw[0] {
	case '"':
		return "a string"
	case '[':
		return "an array"
	case '{':
		return "an object"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

// absent reports whether a parameter is missing or null.
func absent(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// topLevelKeys yields the keys of body, a valid JSON object, as they are spelt in it.
// It exists because json.Unmarshal ignores unknown keys, and reading the body a second
// time into a map would cost as much as the first.
func topLevelKeys(body []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		depth, atKey := 0, false
		for i := 0; i < len(body); i++ {
			switch body[i] {
			case '{', '[':
				depth++
				atKey = depth == 1
			case '}', ']':
				depth--
			case ',':
				atKey = depth == 1
			case '"':
				start := i + 1
				for i++; i < len(body) && body[i] != '"'; i++ {
					if body[i] == '\\' {
						i++
					}
				}
				if atKey && i < len(body) && !yield(string(body[start:i])) {
					return
				}
				atKey = false
			}
		}
	}
}
