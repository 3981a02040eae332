package service

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/turn"
)

// maxRequestBytes is the largest request that is taken. gRPC itself takes more, so that this limit can be told politely.
const maxRequestBytes = 4 << 20

// maxConversationBytes is the largest conversation: it has to come back in one message, of which gRPC's clients take
// 4 MiB unless they are told otherwise.
const maxConversationBytes = 3 << 20

// checkSize refuses a message that is too large, and names its largest field, which stands below prefix in the request.
func checkSize(prefix string, m proto.Message, limit int) error {
	size := proto.Size(m)
	if size <= limit {
		return nil
	}
	return invalid(prefix+largestField(m.ProtoReflect()), "makes the request too large: %d bytes of at most %d", size, limit)
}

// largestField names the field that most of a message is made of.
func largestField(m protoreflect.Message) string {
	name, most := "", -1
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		alone := m.New()
		alone.Set(fd, v)
		if size := proto.Size(alone.Interface()); size > most {
			name, most = string(fd.Name()), size
			if fd.Message() != nil && !fd.IsList() && !fd.IsMap() {
				name += "." + largestField(v.Message())
			}
		}
		return true
	})
	return name
}

// turnRequest converts a request and refuses what the rules in the proto cannot: first what no release takes, then
// what a later one will. Team, client and times are for the caller to set.
func turnRequest(in *chatsvcv1.CreateTurnRequest, streamed bool) (*turn.Request, error) {
	if err := checkSize("", in, maxRequestBytes); err != nil {
		return nil, err
	}
	r := &turn.Request{
		RequestID:    in.GetRequestId(),
		Instructions: in.Instructions,
		Model:        in.GetModel(),
		Config:       configFromProto(in.GetConfig()),
		Labels:       in.GetLabels(),
		OnConflict:   onConflict(in),
		OnDisconnect: onDisconnect(in),
	}
	var err error
	if name := in.GetConversation(); name != "" {
		if r.Conversation, err = parseName(conversations, "conversation", name); err != nil {
			return nil, err
		}
	}
	if name := in.GetBaseTurn(); name != "" {
		if r.BaseTurn, err = parseName(turns, "base_turn", name); err != nil {
			return nil, err
		}
	}
	if r.Input, err = inputFromProto(in); err != nil {
		return nil, err
	}
	if r.Tools, err = toolsFromProto("tools", in.GetTools()); err != nil {
		return nil, err
	}
	if r.ToolChoice, err = toolChoiceFromProto("tool_choice", in.GetToolChoice(), r.Tools); err != nil {
		return nil, err
	}
	if err := checkDelivery(in, r, streamed); err != nil {
		return nil, err
	}
	if what := laterThanThisRelease(in); what != "" {
		return nil, notImplemented(what)
	}
	if r.RequestID != "" {
		r.Fingerprint = fingerprint(in)
	}
	return r, nil
}

// checkDelivery refuses what a request says of where its turn goes and who waits for it, where that is at odds.
func checkDelivery(in *chatsvcv1.CreateTurnRequest, r *turn.Request, streamed bool) error {
	noWait := in.GetWait() == chatsvcv1.Wait_WAIT_NO_WAIT
	switch {
	case r.Conversation.IsZero() && !r.BaseTurn.IsZero():
		return invalid("base_turn", "needs a conversation: a one-shot turn continues nothing")
	case r.Conversation.IsZero() && r.OnConflict != turn.Reject:
		return invalid("on_conflict", "needs a conversation: nothing is in the way of a one-shot turn")
	case r.OnConflict == turn.Queue && !r.BaseTurn.IsZero():
		return invalid("on_conflict", "cannot be ON_CONFLICT_QUEUE with base_turn: a turn that waits continues the head as it is then")
	case noWait && streamed:
		return invalid("wait", "cannot be WAIT_NO_WAIT on StreamTurn")
	case noWait && r.OnDisconnect == conversation.DisconnectCancel:
		return invalid("wait", "cannot be WAIT_NO_WAIT with ON_DISCONNECT_CANCEL")
	default:
		return nil
	}
}

// laterThanThisRelease names a field of the request whose behaviour comes with a later release; empty if there is none.
func laterThanThisRelease(in *chatsvcv1.CreateTurnRequest) string {
	switch {
	case in.GetAllowOutputReset():
		return "allow_output_reset"
	case in.MaxCostNanoUsd != nil:
		return "max_cost_nano_usd"
	case in.MinOutputTokens != nil:
		return "min_output_tokens"
	case in.GetConfig().GetResponseFormat().GetJsonSchema() != nil:
		return "config.response_format.json_schema"
	}
	for i, m := range in.GetInput() {
		for j, p := range m.GetParts() {
			if p.GetReasoning() != nil {
				return fmt.Sprintf("input[%d].parts[%d].reasoning", i, j)
			}
		}
	}
	return ""
}

func onConflict(in *chatsvcv1.CreateTurnRequest) turn.OnConflict {
	switch in.GetOnConflict() {
	case chatsvcv1.OnConflict_ON_CONFLICT_QUEUE:
		return turn.Queue
	case chatsvcv1.OnConflict_ON_CONFLICT_FORK:
		return turn.Fork
	default:
		return turn.Reject
	}
}

func onDisconnect(in *chatsvcv1.CreateTurnRequest) conversation.OnDisconnect {
	switch in.GetOnDisconnect() {
	case chatsvcv1.OnDisconnect_ON_DISCONNECT_CONTINUE:
		return conversation.DisconnectContinue
	case chatsvcv1.OnDisconnect_ON_DISCONNECT_CANCEL:
		return conversation.DisconnectCancel
	default:
		if in.GetRequestId() != "" || in.GetWait() == chatsvcv1.Wait_WAIT_NO_WAIT {
			return conversation.DisconnectContinue
		}
		return conversation.DisconnectCancel
	}
}

func inputFromProto(in *chatsvcv1.CreateTurnRequest) ([]conversation.Message, error) {
	switch text := in.GetText(); {
	case text == "" && len(in.GetInput()) == 0:
		return nil, invalid("text", "or input is needed: there is nothing to answer")
	case text != "" && len(in.GetInput()) > 0:
		return nil, invalid("text", "and input cannot be given together")
	case text != "":
		return []conversation.Message{{Role: conversation.RoleUser, Parts: []conversation.Part{conversation.TextPart(text)}}}, nil
	}
	input := make([]conversation.Message, len(in.GetInput()))
	for i, m := range in.GetInput() {
		var err error
		if input[i], err = messageFromProto(fmt.Sprintf("input[%d]", i), m); err != nil {
			return nil, err
		}
	}
	return input, nil
}

func messageFromProto(field string, m *chatsvcv1.Message) (conversation.Message, error) {
	out := conversation.Message{Role: conversation.RoleUser}
	if m.GetRole() != chatsvcv1.Role_ROLE_UNSPECIFIED {
		out.Role = conversation.Role(m.GetRole()) //nolint:gosec // Both count the roles alike; a test compares them.
	}
	if len(m.GetParts()) == 0 {
		return out, invalid(field+".parts", "must have at least one part")
	}
	out.Parts = make([]conversation.Part, len(m.GetParts()))
	calls := make(map[string]bool)
	for i, p := range m.GetParts() {
		field := fmt.Sprintf("%s.parts[%d]", field, i)
		part, err := partFromProto(field, p)
		if err != nil {
			return out, err
		}
		if !mayCarry(out.Role, part.Kind) {
			return out, invalid(field, "is not a kind of part that a message of role %s may carry", strings.ToUpper(out.Role.String()))
		}
		if part.Kind == conversation.PartToolCall {
			if calls[part.ToolCall.ID] {
				return out, invalid(field+".tool_call.id", "must be unique within the message")
			}
			calls[part.ToolCall.ID] = true
		}
		out.Parts[i] = part
	}
	return out, nil
}

// mayCarry says which parts belong to whom; the comments at Role in the proto say the same.
func mayCarry(role conversation.Role, kind conversation.PartKind) bool {
	switch role {
	case conversation.RoleSystem, conversation.RoleDeveloper:
		return kind == conversation.PartText
	case conversation.RoleUser:
		return kind == conversation.PartText || kind == conversation.PartImage
	case conversation.RoleAssistant:
		return kind == conversation.PartText || kind == conversation.PartToolCall ||
			kind == conversation.PartRefusal || kind == conversation.PartReasoning
	case conversation.RoleTool:
		return kind == conversation.PartToolResult
	default:
		return false
	}
}

func partFromProto(field string, p *chatsvcv1.Part) (conversation.Part, error) {
	switch part := p.GetPart().(type) {
	case *chatsvcv1.Part_Text:
		if part.Text == "" {
			return conversation.Part{}, invalid(field+".text", "must not be empty")
		}
		return conversation.TextPart(part.Text), nil
	case *chatsvcv1.Part_Image:
		image, err := imageFromProto(field+".image", part.Image)
		return conversation.Part{Kind: conversation.PartImage, Image: image}, err
	case *chatsvcv1.Part_ToolCall:
		call := part.ToolCall
		if !json.Valid([]byte(call.GetArgumentsJson())) {
			return conversation.Part{}, invalid(field+".tool_call.arguments_json", "must be valid JSON")
		}
		return conversation.Part{Kind: conversation.PartToolCall, ToolCall: &conversation.ToolCall{
			ID: call.GetId(), Name: call.GetName(), Arguments: call.GetArgumentsJson(),
		}}, nil
	case *chatsvcv1.Part_ToolResult:
		result := part.ToolResult
		return conversation.Part{Kind: conversation.PartToolResult, Text: result.GetText(), ToolResult: &conversation.ToolResult{
			ToolCallID: result.GetToolCallId(), IsError: result.GetIsError(),
		}}, nil
	case *chatsvcv1.Part_Refusal:
		if part.Refusal.GetText() == "" {
			return conversation.Part{}, invalid(field+".refusal.text", "must not be empty")
		}
		return conversation.Part{Kind: conversation.PartRefusal, Text: part.Refusal.GetText()}, nil
	case *chatsvcv1.Part_Reasoning:
		return conversation.Part{
			Kind: conversation.PartReasoning, Text: part.Reasoning.GetSummary(), ProviderState: part.Reasoning.GetProviderState(),
		}, nil
	default:
		return conversation.Part{}, invalid(field, "must be one of the kinds of parts")
	}
}

func imageFromProto(field string, in *chatsvcv1.Image) (*conversation.Image, error) {
	image := &conversation.Image{
		URI: in.GetUri(), Data: in.GetData(), MIMEType: in.GetMimeType(), Detail: spelling(in.GetDetail(), "IMAGE_DETAIL_"),
	}
	switch {
	case image.URI == "" && len(image.Data) == 0:
		return nil, invalid(field, "must have a uri or data")
	case len(image.Data) > 0 && image.MIMEType == "":
		return nil, invalid(field+".mime_type", "is required with data")
	case image.URI != "" && image.MIMEType != "":
		return nil, invalid(field+".mime_type", "belongs to data, and says nothing with a uri")
	}
	return image, nil
}

func toolsFromProto(field string, in []*chatsvcv1.Tool) ([]conversation.Tool, error) {
	if len(in) == 0 {
		return nil, nil
	}
	tools := make([]conversation.Tool, len(in))
	names := make(map[string]bool, len(in))
	for i, t := range in {
		if names[t.GetName()] {
			return nil, invalid(fmt.Sprintf("%s[%d].name", field, i), "must be unique among the tools")
		}
		names[t.GetName()] = true
		if schema := t.GetParametersJson(); schema != "" && !isJSONObject(schema) {
			return nil, invalid(fmt.Sprintf("%s[%d].parameters_json", field, i), "must be a JSON object, the schema of the arguments")
		}
		tools[i] = conversation.Tool{
			Name: t.GetName(), Description: t.GetDescription(), Parameters: t.GetParametersJson(), Strict: t.GetStrict(),
		}
	}
	return tools, nil
}

func isJSONObject(text string) bool {
	return strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") && json.Valid([]byte(text))
}

// toolChoiceFromProto checks the tool's name against tools where there are any: otherwise they come from the
// conversation or, for a conversation's own choice, from its turns, and only the engine knows them.
func toolChoiceFromProto(field string, in *chatsvcv1.ToolChoice, tools []conversation.Tool) (conversation.ToolChoice, error) {
	choice := conversation.ToolChoice{Mode: spelling(in.GetMode(), "MODE_"), Tool: in.GetTool()}
	named := func(t conversation.Tool) bool { return t.Name == choice.Tool }
	switch {
	case choice.Mode != conversation.ToolChoiceTool && choice.Tool != "":
		return choice, invalid(field+".tool", "needs MODE_TOOL")
	case choice.Mode != conversation.ToolChoiceTool:
		return choice, nil
	case choice.Tool == "":
		return choice, invalid(field+".tool", "is required with MODE_TOOL")
	case len(tools) > 0 && !slices.ContainsFunc(tools, named):
		return choice, invalid(field+".tool", "must be one of the tools")
	default:
		return choice, nil
	}
}

// specFromProto converts what callers set in a conversation; fields are named as in a conversation.
func specFromProto(in *chatsvcv1.Conversation) (conversation.Spec, error) {
	spec := conversation.Spec{
		DisplayName:  in.GetDisplayName(),
		Instructions: in.GetInstructions(),
		Model:        in.GetModel(),
		Config:       configFromProto(in.GetConfig()),
		Labels:       in.GetLabels(),
	}
	var err error
	if spec.Tools, err = toolsFromProto("conversation.tools", in.GetTools()); err != nil {
		return spec, err
	}
	if spec.ToolChoice, err = toolChoiceFromProto("conversation.tool_choice", in.GetToolChoice(), spec.Tools); err != nil {
		return spec, err
	}
	if in.GetConfig().GetResponseFormat().GetJsonSchema() != nil {
		return spec, notImplemented("conversation.config.response_format.json_schema")
	}
	return spec, nil
}

func configFromProto(in *chatsvcv1.GenerationConfig) conversation.Config {
	if in == nil {
		return conversation.Config{}
	}
	c := conversation.Config{
		Temperature:       in.Temperature,
		TopP:              in.TopP,
		MaxOutputTokens:   in.MaxOutputTokens,
		Stop:              in.GetStop(),
		Seed:              in.Seed,
		PresencePenalty:   in.PresencePenalty,
		FrequencyPenalty:  in.FrequencyPenalty,
		ReasoningEffort:   spelling(in.GetReasoningEffort(), "REASONING_EFFORT_"),
		Verbosity:         spelling(in.GetVerbosity(), "VERBOSITY_"),
		ParallelToolCalls: in.ParallelToolCalls,
	}
	switch in.GetResponseFormat().GetFormat().(type) {
	case *chatsvcv1.ResponseFormat_Text:
		c.ResponseFormat = conversation.FormatText
	case *chatsvcv1.ResponseFormat_JsonObject:
		c.ResponseFormat = conversation.FormatJSONObject
	}
	return c
}

// spelling returns an enum's value as the provider spells it: its name without the prefix, in lower case; empty if
// unspecified.
func spelling(value interface {
	Number() protoreflect.EnumNumber
	String() string
}, prefix string,
) string {
	if value.Number() == 0 {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(value.String(), prefix))
}

// timeFromProto returns a time that callers may leave out; zero for none. What is older than the epoch of Unix is a mistake, and
// the first moment of the year 1 would be taken for none.
func timeFromProto(field string, in *timestamppb.Timestamp) (time.Time, error) {
	switch {
	case in == nil:
		return time.Time{}, nil
	case in.CheckValid() != nil:
		return time.Time{}, invalid(field, "must be a time")
	case in.GetSeconds() < 0:
		return time.Time{}, invalid(field, "must be a time from 1970 on")
	default:
		return in.AsTime(), nil
	}
}
