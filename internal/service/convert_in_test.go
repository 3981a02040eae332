package service

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/turn"
)

// fromJSON reads a message from the JSON that grpcurl takes.
func fromJSON[T proto.Message](t *testing.T, text string, into T) T {
	t.Helper()
	if err := protojson.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return into
}

const (
	someTurn         = "turns/0193abcd-ef01-7000-8000-000000000001"
	someConversation = "conversations/0193abcd-ef01-7000-8000-000000000002"
)

func TestTurnRequestRefuses(t *testing.T) {
	input := func(message string) string { return `{"input":[{"parts":[{"text":"a"}]},` + message + `]}` }
	tests := []struct {
		request string
		field   string
	}{
		{`{}`, "text"},
		{`{"text":""}`, "text"},
		{`{"text":"a","input":[{"parts":[{"text":"b"}]}]}`, "text"},
		{`{"text":"a","conversation":"conversations/1"}`, "conversation"},
		{input(`{}`), "input[1].parts"},
		{input(`{"role":"ROLE_USER","parts":[]}`), "input[1].parts"},
		{input(`{"role":99,"parts":[{"text":"a"}]}`), "input[1].parts[0]"},
		{input(`{"parts":[{}]}`), "input[1].parts[0]"},
		{input(`{"parts":[{"text":"a"},{"text":""}]}`), "input[1].parts[1].text"},
		{input(`{"role":"ROLE_SYSTEM","parts":[{"image":{"uri":"https://a"}}]}`), "input[1].parts[0]"},
		{input(`{"role":"ROLE_DEVELOPER","parts":[{"refusal":{"text":"a"}}]}`), "input[1].parts[0]"},
		{input(`{"role":"ROLE_USER","parts":[{"toolResult":{"toolCallId":"a"}}]}`), "input[1].parts[0]"},
		{input(`{"parts":[{"toolCall":{"id":"a","name":"b","argumentsJson":"{}"}}]}`), "input[1].parts[0]"},
		{input(`{"parts":[{"reasoning":{"summary":"a"}}]}`), "input[1].parts[0]"},
		{input(`{"role":"ROLE_ASSISTANT","parts":[{"image":{"uri":"https://a"}}]}`), "input[1].parts[0]"},
		{input(`{"role":"ROLE_ASSISTANT","parts":[{"refusal":{}}]}`), "input[1].parts[0].refusal.text"},
		{input(`{"role":"ROLE_ASSISTANT","parts":[{"toolCall":{"id":"a","name":"b","argumentsJson":"{"}}]}`), "input[1].parts[0].tool_call.arguments_json"},
		{input(`{"role":"ROLE_ASSISTANT","parts":[{"toolCall":{"id":"a","name":"b"}}]}`), "input[1].parts[0].tool_call.arguments_json"},
		{
			input(`{"role":"ROLE_ASSISTANT","parts":[{"toolCall":{"id":"a","name":"b","argumentsJson":"{}"}},{"toolCall":{"id":"a","name":"b","argumentsJson":"{}"}}]}`),
			"input[1].parts[1].tool_call.id",
		},
		{input(`{"role":"ROLE_TOOL","parts":[{"text":"a"}]}`), "input[1].parts[0]"},
		{input(`{"parts":[{"image":{}}]}`), "input[1].parts[0].image"},
		{input(`{"parts":[{"image":{"data":"aGk="}}]}`), "input[1].parts[0].image.mime_type"},
		{`{"text":"a","tools":[{"name":"f"},{"name":"g"},{"name":"f"}]}`, "tools[2].name"},
		{`{"text":"a","tools":[{"name":"f","parametersJson":"[]"}]}`, "tools[0].parameters_json"},
		{`{"text":"a","tools":[{"name":"f","parametersJson":"{\"a\":}"}]}`, "tools[0].parameters_json"},
		{`{"text":"a","tools":[{"name":"f","parametersJson":"{} {}"}]}`, "tools[0].parameters_json"},
		{`{"text":"a","toolChoice":{"mode":"MODE_TOOL"}}`, "tool_choice.tool"},
		{`{"text":"a","toolChoice":{"mode":"MODE_AUTO","tool":"f"}}`, "tool_choice.tool"},
		{`{"text":"a","toolChoice":{"tool":"f"}}`, "tool_choice.tool"},
		{`{"text":"a","tools":[{"name":"f"}],"toolChoice":{"mode":"MODE_TOOL","tool":"g"}}`, "tool_choice.tool"},
		{`{"text":"a","wait":"WAIT_NO_WAIT","onDisconnect":"ON_DISCONNECT_CANCEL"}`, "wait"},
		{`{"text":"a","conversation":"` + someConversation + `","baseTurn":"turns/1"}`, "base_turn"},
		{`{"text":"a","baseTurn":"` + someTurn + `"}`, "base_turn"},
		{`{"text":"a","onConflict":"ON_CONFLICT_QUEUE"}`, "on_conflict"},
		{`{"text":"a","onConflict":"ON_CONFLICT_FORK"}`, "on_conflict"},
		{`{"text":"a","conversation":"` + someConversation + `","baseTurn":"` + someTurn + `","onConflict":"ON_CONFLICT_QUEUE"}`, "on_conflict"},
		// What is wrong is said before what comes later.
		{`{"allowOutputReset":true}`, "text"},
		{`{"text":"a","baseTurn":"` + someTurn + `","allowOutputReset":true}`, "base_turn"},
	}
	for _, test := range tests {
		_, err := turnRequest(fromJSON(t, test.request, &chatsvcv1.CreateTurnRequest{}), false)
		if e, ok := errors.AsType[*conversation.Error](err); !ok || e.Reason != conversation.InvalidRequest || e.Field != test.field {
			t.Errorf("%s: %v, want INVALID_REQUEST about %s", test.request, err, test.field)
		}
	}
	_, err := turnRequest(fromJSON(t, `{"text":"a","wait":"WAIT_NO_WAIT"}`, &chatsvcv1.CreateTurnRequest{}), true)
	wantInvalid(t, err, "wait")
}

func TestTurnRequestTooLarge(t *testing.T) {
	long := strings.Repeat("x", maxRequestBytes)
	half := long[:maxRequestBytes/2]
	for field, in := range map[string]*chatsvcv1.CreateTurnRequest{
		"text":  {Text: long},
		"input": {Instructions: new(half), Input: []*chatsvcv1.Message{{Parts: []*chatsvcv1.Part{{Part: &chatsvcv1.Part_Text{Text: half + "x"}}}}}},
		"config.stop": {Text: "a", Config: &chatsvcv1.GenerationConfig{
			Temperature: proto.Float64(1), Stop: []string{long},
		}},
	} {
		_, err := turnRequest(in, false)
		wantInvalid(t, err, field)
	}
	if _, err := turnRequest(&chatsvcv1.CreateTurnRequest{Text: long[:maxRequestBytes-8]}, false); err != nil {
		t.Errorf("just below the limit: %v", err)
	}
}

func TestTurnRequestSaysWhatComesLater(t *testing.T) {
	for _, test := range []struct{ field, set string }{
		{"allow_output_reset", `"allowOutputReset":true`},
		{"max_cost_nano_usd", `"maxCostNanoUsd":"0"`},
		{"min_output_tokens", `"minOutputTokens":1`},
		{"config.response_format.json_schema", `"config":{"responseFormat":{"jsonSchema":{"name":"a","schemaJson":"{}"}}}`},
	} {
		_, err := turnRequest(fromJSON(t, `{"text":"a",`+test.set+`}`, &chatsvcv1.CreateTurnRequest{}), false)
		wantNotImplemented(t, err, test.field)
	}
	_, err := turnRequest(fromJSON(t, `{"input":[{"role":"ROLE_ASSISTANT","parts":[{"text":"a"},{"reasoning":{"summary":"b"}}]}]}`,
		&chatsvcv1.CreateTurnRequest{}), false)
	wantNotImplemented(t, err, "input[0].parts[1].reasoning")

	_, err = turnRequest(fromJSON(t, `{"text":"a","onConflict":"ON_CONFLICT_REJECT","wait":"WAIT_COMPLETION","allowOutputReset":false}`,
		&chatsvcv1.CreateTurnRequest{}), false)
	if err != nil {
		t.Errorf("the defaults, spelled out: %v", err)
	}
}

func wantNotImplemented(t *testing.T, err error, what string) {
	t.Helper()
	e, ok := errors.AsType[*conversation.Error](err)
	if !ok || e.Reason != conversation.NotImplemented || !strings.Contains(e.Message, what) {
		t.Errorf("error %v, want NOT_IMPLEMENTED naming %s", err, what)
	}
}

// Every field of the request is either converted or refused: a field that is added to the proto must be thought of here.
func TestTurnRequestKnowsEveryField(t *testing.T) {
	known := []protoreflect.Name{
		"conversation", "request_id", "input", "text", "instructions", "model", "config", "tools", "tool_choice", "labels",
		"base_turn", "on_conflict", "wait", "on_disconnect", "allow_output_reset", "max_cost_nano_usd", "min_output_tokens",
	}
	fields := (&chatsvcv1.CreateTurnRequest{}).ProtoReflect().Descriptor().Fields()
	if fields.Len() != len(known) {
		t.Errorf("the request has %d fields, of which %d are known", fields.Len(), len(known))
	}
	for _, name := range known {
		if fields.ByName(name) == nil {
			t.Errorf("the request has no field %s", name)
		}
	}
}

func TestTurnRequest(t *testing.T) {
	in := fromJSON(t, `{
		"conversation": "`+someConversation+`",
		"instructions": "",
		"model": "m",
		"config": {"temperature": 0, "stop": ["a"], "reasoningEffort": "REASONING_EFFORT_XHIGH"},
		"tools": [{"name": "f", "description": "d", "parametersJson": " {\"b\":1,\"a\":2}", "strict": true}],
		"toolChoice": {"mode": "MODE_TOOL", "tool": "f"},
		"labels": {"k": "v"},
		"onDisconnect": "ON_DISCONNECT_CONTINUE",
		"input": [
			{"parts": [{"text": "a"}, {"image": {"data": "aGk=", "mimeType": "image/png", "detail": "IMAGE_DETAIL_LOW"}}]},
			{"role": "ROLE_ASSISTANT", "parts": [{"toolCall": {"id": "c", "name": "f", "argumentsJson": "{}"}}, {"refusal": {"text": "r"}}]},
			{"role": "ROLE_TOOL", "parts": [{"toolResult": {"toolCallId": "c", "isError": true}}]},
			{"role": "ROLE_DEVELOPER", "parts": [{"text": "d"}]}
		]
	}`, &chatsvcv1.CreateTurnRequest{})
	got, err := turnRequest(in, false)
	if err != nil {
		t.Fatal(err)
	}
	wantInput := []conversation.Message{
		{Role: conversation.RoleUser, Parts: []conversation.Part{
			conversation.TextPart("a"),
			{Kind: conversation.PartImage, Image: &conversation.Image{Data: []byte("hi"), MIMEType: "image/png", Detail: "low"}},
		}},
		{Role: conversation.RoleAssistant, Parts: []conversation.Part{
			{Kind: conversation.PartToolCall, ToolCall: &conversation.ToolCall{ID: "c", Name: "f", Arguments: "{}"}},
			{Kind: conversation.PartRefusal, Text: "r"},
		}},
		{Role: conversation.RoleTool, Parts: []conversation.Part{
			{Kind: conversation.PartToolResult, ToolResult: &conversation.ToolResult{ToolCallID: "c", IsError: true}},
		}},
		{Role: conversation.RoleDeveloper, Parts: []conversation.Part{conversation.TextPart("d")}},
	}
	if !reflect.DeepEqual(got.Input, wantInput) {
		t.Errorf("input %+v", got.Input)
	}
	if got.Instructions == nil || *got.Instructions != "" {
		t.Error("instructions that are set and empty were lost")
	}
	if c := got.Config; c.Temperature == nil || *c.Temperature != 0 || c.TopP != nil || c.ReasoningEffort != "xhigh" || len(c.Stop) != 1 {
		t.Errorf("config %+v", c)
	}
	wantTools := []conversation.Tool{{Name: "f", Description: "d", Parameters: ` {"b":1,"a":2}`, Strict: true}}
	if !reflect.DeepEqual(got.Tools, wantTools) {
		t.Errorf("tools %+v", got.Tools)
	}
	if got.ToolChoice != (conversation.ToolChoice{Mode: "tool", Tool: "f"}) || got.Model != "m" || got.Labels["k"] != "v" ||
		got.OnDisconnect != conversation.DisconnectContinue || formatName(conversations, got.Conversation) != someConversation {
		t.Errorf("request %+v", got)
	}
	// And the way back.
	for i, m := range messagesToProto(got.Input) {
		want := proto.CloneOf(in.GetInput()[i])
		if want.GetRole() == chatsvcv1.Role_ROLE_UNSPECIFIED {
			want.Role = chatsvcv1.Role_ROLE_USER
		}
		if !proto.Equal(m, want) {
			t.Errorf("message %d comes back as %v, want %v", i, m, want)
		}
	}
}

func TestTurnRequestDelivery(t *testing.T) {
	const in = `{"text":"a","conversation":"` + someConversation + `"`
	for _, test := range []struct {
		request    string
		baseTurn   conversation.ID
		onConflict turn.OnConflict
	}{
		{in + `}`, conversation.ID{}, turn.Reject},
		{in + `,"onConflict":"ON_CONFLICT_REJECT"}`, conversation.ID{}, turn.Reject},
		{in + `,"baseTurn":"` + someTurn + `"}`, testID(1), turn.Reject},
		{in + `,"onConflict":"ON_CONFLICT_QUEUE"}`, conversation.ID{}, turn.Queue},
		{in + `,"onConflict":"ON_CONFLICT_FORK"}`, conversation.ID{}, turn.Fork},
		{in + `,"onConflict":"ON_CONFLICT_FORK","baseTurn":"` + someTurn + `"}`, testID(1), turn.Fork},
		{`{"text":"a","onConflict":"ON_CONFLICT_REJECT"}`, conversation.ID{}, turn.Reject},
	} {
		got, err := turnRequest(fromJSON(t, test.request, &chatsvcv1.CreateTurnRequest{}), true)
		if err != nil || got.BaseTurn != test.baseTurn || got.OnConflict != test.onConflict {
			t.Errorf("%s: %+v, %v", test.request, got, err)
		}
	}
}

func TestTextIsAUserMessage(t *testing.T) {
	got, err := turnRequest(&chatsvcv1.CreateTurnRequest{Text: "Bonjour"}, true)
	want := []conversation.Message{{Role: conversation.RoleUser, Parts: []conversation.Part{conversation.TextPart("Bonjour")}}}
	if err != nil || !reflect.DeepEqual(got.Input, want) {
		t.Errorf("input %+v, %v", got, err)
	}
	if got.OnDisconnect != conversation.DisconnectCancel || got.Instructions != nil {
		t.Errorf("defaults %+v", got)
	}
}

func TestOnDisconnectDefault(t *testing.T) {
	for request, want := range map[string]conversation.OnDisconnect{
		`{}`:                      conversation.DisconnectCancel,
		`{"requestId":"a"}`:       conversation.DisconnectContinue,
		`{"wait":"WAIT_NO_WAIT"}`: conversation.DisconnectContinue,
		`{"onDisconnect":"ON_DISCONNECT_CONTINUE"}`:               conversation.DisconnectContinue,
		`{"onDisconnect":"ON_DISCONNECT_CANCEL","requestId":"a"}`: conversation.DisconnectCancel,
	} {
		if got := onDisconnect(fromJSON(t, request, &chatsvcv1.CreateTurnRequest{})); got != want {
			t.Errorf("%s: %d, want %d", request, got, want)
		}
	}
}

const fullSpec = `{
	"displayName": "n", "instructions": "i", "model": "m",
	"config": {
		"temperature": 0, "topP": 1, "maxOutputTokens": 5, "stop": ["a", "b"], "seed": "0", "presencePenalty": -2, "frequencyPenalty": 2,
		"reasoningEffort": "REASONING_EFFORT_MINIMAL", "verbosity": "VERBOSITY_HIGH", "parallelToolCalls": false,
		"responseFormat": {"jsonObject": {}}
	},
	"tools": [{"name": "f", "description": "d", "parametersJson": "{}", "strict": true}, {"name": "g"}],
	"toolChoice": {"mode": "MODE_TOOL", "tool": "g"},
	"labels": {"k": "v"}
}`

// An update goes through the proto and back, so nothing may be lost on the way.
func TestSpecSurvives(t *testing.T) {
	for _, text := range []string{
		fullSpec, `{}`, `{"config":{"temperature":0}}`, `{"toolChoice":{"mode":"MODE_NONE"}}`,
		`{"toolChoice":{"mode":"MODE_AUTO"}}`, `{"toolChoice":{"mode":"MODE_REQUIRED"}}`, `{"config":{"responseFormat":{"text":{}}}}`,
	} {
		in := fromJSON(t, text, &chatsvcv1.Conversation{})
		spec, err := specFromProto(in)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		var read conversation.Spec
		if err := json.Unmarshal(stored, &read); err != nil {
			t.Fatal(err)
		}
		if got := specToProto(&read); !proto.Equal(got, in) {
			t.Errorf("%v comes back as %v", in, got)
		}
	}
	// The test is worth something only if the full one sets every field.
	full := fromJSON(t, fullSpec, &chatsvcv1.Conversation{})
	for _, m := range []protoreflect.Message{full.GetConfig().ProtoReflect(), full.GetTools()[0].ProtoReflect()} {
		for i := range m.Descriptor().Fields().Len() {
			if fd := m.Descriptor().Fields().Get(i); !m.Has(fd) {
				t.Errorf("%s is not set", fd.FullName())
			}
		}
	}
}

func TestSpecRefuses(t *testing.T) {
	for text, field := range map[string]string{
		`{"tools":[{"name":"f"},{"name":"f"}]}`:                                 "conversation.tools[1].name",
		`{"tools":[{"name":"f"}],"toolChoice":{"mode":"MODE_TOOL","tool":"g"}}`: "conversation.tool_choice.tool",
		`{"tools":[{"name":"f","parametersJson":"\"no\""}]}`:                    "conversation.tools[0].parameters_json",
	} {
		_, err := specFromProto(fromJSON(t, text, &chatsvcv1.Conversation{}))
		wantInvalid(t, err, field)
	}
	_, err := specFromProto(fromJSON(t, `{"config":{"responseFormat":{"jsonSchema":{"name":"a"}}}}`, &chatsvcv1.Conversation{}))
	wantNotImplemented(t, err, "json_schema")
	// Its turns may bring the tool.
	if _, err := specFromProto(fromJSON(t, `{"toolChoice":{"mode":"MODE_TOOL","tool":"g"}}`, &chatsvcv1.Conversation{})); err != nil {
		t.Error(err)
	}
}

func FuzzTurnRequest(f *testing.F) {
	for _, text := range []string{
		`{"text":"a"}`,
		`{"text":"a","conversation":"` + someConversation + `","tools":[{"name":"f","parametersJson":"{}"}],"toolChoice":{"mode":"MODE_TOOL","tool":"f"}}`,
		`{"input":[{"parts":[{"text":"a"},{"image":{"uri":"https://a"}}]},{"role":"ROLE_TOOL","parts":[{"toolResult":{"toolCallId":"a"}}]}]}`,
		`{"input":[{"role":"ROLE_ASSISTANT","parts":[{"toolCall":{"id":"a","name":"b","argumentsJson":"{}"}},{"refusal":{"text":"a"}},{"reasoning":{}}]}]}`,
	} {
		var in chatsvcv1.CreateTurnRequest
		if err := protojson.Unmarshal([]byte(text), &in); err != nil {
			f.Fatal(err)
		}
		wire, err := proto.Marshal(&in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var in chatsvcv1.CreateTurnRequest
		if err := proto.Unmarshal(wire, &in); err != nil {
			t.Skip()
		}
		r, err := turnRequest(&in, false)
		if err != nil {
			e, ok := errors.AsType[*conversation.Error](err)
			if !ok || e.Reason != conversation.InvalidRequest && e.Reason != conversation.NotImplemented && e.Reason != conversation.NotFound {
				t.Errorf("error %v", err)
			}
			return
		}
		if len(r.Input) == 0 {
			t.Error("a request without input was taken")
		}
		for _, m := range r.Input {
			for _, p := range m.Parts {
				if !mayCarry(m.Role, p.Kind) {
					t.Errorf("role %v carries %v", m.Role, p.Kind)
				}
			}
		}
		messagesToProto(r.Input) // What was taken can be shown.
	})
}
