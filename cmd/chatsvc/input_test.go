package main

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

func userMessage(parts ...*chatsvcv1.Part) *chatsvcv1.Message {
	return &chatsvcv1.Message{Role: chatsvcv1.Role_ROLE_USER, Parts: parts}
}

func textPart(text string) *chatsvcv1.Part {
	return &chatsvcv1.Part{Part: &chatsvcv1.Part_Text{Text: text}}
}

// Bad input is refused with the name of the field, before anything is recorded or sent.
func TestBadInput(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	c := p.dial(t, redKey)
	nan, huge, negative := math.NaN(), math.Inf(1), -0.5
	parts := make([]*chatsvcv1.Part, 10_000)
	for i := range parts {
		parts[i] = textPart("x")
	}
	messages := make([]*chatsvcv1.Message, 10_000)
	for i := range messages {
		messages[i] = userMessage(textPart("x"))
	}
	for name, bad := range map[string]struct {
		request *chatsvcv1.CreateTurnRequest
		field   string
	}{
		"nothing":              {&chatsvcv1.CreateTurnRequest{}, "text"},
		"text and input":       {&chatsvcv1.CreateTurnRequest{Text: "a", Input: []*chatsvcv1.Message{userMessage(textPart("b"))}}, "text"},
		"U+0000":               {&chatsvcv1.CreateTurnRequest{Text: "a\x00b"}, "text"},
		"U+0000 in a part":     {&chatsvcv1.CreateTurnRequest{Input: []*chatsvcv1.Message{userMessage(textPart("a\x00b"))}}, "input[0].parts[0].text"},
		"more than 4 MiB":      {&chatsvcv1.CreateTurnRequest{Text: strings.Repeat("x", 4<<20+1)}, "text"},
		"4 MiB in parts":       {&chatsvcv1.CreateTurnRequest{Input: []*chatsvcv1.Message{userMessage(textPart(strings.Repeat("x", 3<<20)), textPart(strings.Repeat("x", 2<<20)))}}, "input"},
		"10,000 parts":         {&chatsvcv1.CreateTurnRequest{Input: []*chatsvcv1.Message{userMessage(parts...)}}, "input[0].parts"},
		"10,000 messages":      {&chatsvcv1.CreateTurnRequest{Input: messages}, "input"},
		"no parts":             {&chatsvcv1.CreateTurnRequest{Input: []*chatsvcv1.Message{userMessage()}}, "input[0].parts"},
		"an empty part":        {&chatsvcv1.CreateTurnRequest{Input: []*chatsvcv1.Message{userMessage(&chatsvcv1.Part{})}}, "input[0].parts[0].part"},
		"NaN":                  {&chatsvcv1.CreateTurnRequest{Text: "a", Config: &chatsvcv1.GenerationConfig{Temperature: &nan}}, "config.temperature"},
		"infinite":             {&chatsvcv1.CreateTurnRequest{Text: "a", Config: &chatsvcv1.GenerationConfig{PresencePenalty: &huge}}, "config.presence_penalty"},
		"negative":             {&chatsvcv1.CreateTurnRequest{Text: "a", Config: &chatsvcv1.GenerationConfig{TopP: &negative}}, "config.top_p"},
		"no output":            {&chatsvcv1.CreateTurnRequest{Text: "a", Config: &chatsvcv1.GenerationConfig{MaxOutputTokens: proto.Int32(0)}}, "config.max_output_tokens"},
		"a malformed name":     {&chatsvcv1.CreateTurnRequest{Text: "a", Conversation: "conversations/1"}, "conversation"},
		"a name of upper case": {&chatsvcv1.CreateTurnRequest{Text: "a", Conversation: "conversations/01A1FF4F-DA2E-7377-B9DD-E40C50D6C4A1"}, "conversation"},
		"a strange model":      {&chatsvcv1.CreateTurnRequest{Text: "a", Model: "a b"}, "model"},
		"an unknown enum":      {&chatsvcv1.CreateTurnRequest{Text: "a", OnDisconnect: 99}, "on_disconnect"},
		"a tool result by the user": {&chatsvcv1.CreateTurnRequest{Input: []*chatsvcv1.Message{userMessage(&chatsvcv1.Part{
			Part: &chatsvcv1.Part_ToolResult{ToolResult: &chatsvcv1.ToolResult{ToolCallId: "a", Text: "b"}},
		})}}, "input[0].parts[0]"},
		"tools that are no JSON": {&chatsvcv1.CreateTurnRequest{Text: "a", Tools: []*chatsvcv1.Tool{{Name: "f", ParametersJson: "{"}}}, "tools[0].parameters_json"},
		"a tool choice of none":  {&chatsvcv1.CreateTurnRequest{Text: "a", ToolChoice: &chatsvcv1.ToolChoice{Mode: chatsvcv1.ToolChoice_MODE_TOOL, Tool: "f"}}, "tool_choice.tool"},
		"an insecure image": {&chatsvcv1.CreateTurnRequest{Input: []*chatsvcv1.Message{userMessage(&chatsvcv1.Part{
			Part: &chatsvcv1.Part_Image{Image: &chatsvcv1.Image{Source: &chatsvcv1.Image_Uri{Uri: "file:///etc/passwd"}}},
		})}}, "input[0].parts[0].image.uri"},
		"a label in capitals": {&chatsvcv1.CreateTurnRequest{Text: "a", Labels: map[string]string{"Feature": "x"}}, `labels["Feature"]`},
	} {
		t.Run(name, func(t *testing.T) {
			_, unary := c.chat.CreateTurn(t.Context(), bad.request)
			stream, streamed := c.chat.StreamTurn(t.Context(), bad.request)
			if streamed == nil {
				_, streamed = collect(stream)
			}
			for _, err := range []error{unary, streamed} {
				wantReason(t, err, codes.InvalidArgument, "INVALID_REQUEST")
				var fields []string
				for _, d := range status.Convert(err).Details() {
					if d, ok := d.(*errdetails.BadRequest); ok {
						for _, v := range d.GetFieldViolations() {
							fields = append(fields, v.GetField())
						}
					}
				}
				if len(fields) == 0 || fields[0] != bad.field {
					t.Errorf("fields %q, want %q first", fields, bad.field)
				}
			}
		})
	}
	if calls := p.simulator.Stats().Calls; calls != 0 {
		t.Errorf("%d upstream calls", calls)
	}
	if turns, err := c.chat.ListTurns(t.Context(), &chatsvcv1.ListTurnsRequest{}); err != nil || len(turns.GetTurns()) != 0 {
		t.Errorf("recorded: %v, %v", turns, err)
	}
}
