package service

import (
	"encoding/hex"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
)

// maxOutputText bounds Turn.output_text, which says once more what stands in output: together they have to stay below the
// 4 MiB that gRPC's clients take unless they are told otherwise.
const maxOutputText = 512 << 10

// turnToProto converts what the view shows of a turn. States, finish reasons, roles and states of attempts have the same
// numbers in the domain, where they are stored, and in the proto; a test compares their names.
func turnToProto(t *conversation.Turn, view chatsvcv1.TurnView) *chatsvcv1.Turn {
	out := &chatsvcv1.Turn{
		Name:         formatName(turns, t.ID),
		Conversation: formatName(conversations, t.Conversation),
		State:        chatsvcv1.TurnState(t.State),
		RequestId:    t.RequestID,
		ParentTurn:   formatName(turns, t.Parent),
		FinishReason: chatsvcv1.FinishReason(t.Result.FinishReason),
		Model:        t.Result.Model,
		Config:       configToProto(t.Result.Config),
		Usage:        usageToProto(t.Result.Usage),
		LastSequence: t.Result.LastSequence,
		Labels:       t.Labels,
		CreateTime:   timeToProto(t.CreateTime),
		EndTime:      timeToProto(t.EndTime),
	}
	if t.TraceID != [16]byte{} {
		out.TraceId = hex.EncodeToString(t.TraceID[:])
	}
	if t.State == conversation.Failed {
		out.Error = statusOf(errorOf(t)).Proto()
	}
	if t.State.Ended() {
		out.Timing = &chatsvcv1.Timing{
			Queue:            durationpb.New(t.Result.Timing.Queue),
			Context:          durationpb.New(t.Result.Timing.Context),
			TimeToFirstEvent: durationpb.New(t.Result.Timing.TimeToFirstEvent),
			Generation:       durationpb.New(t.Result.Timing.Generation),
			Overhead:         durationpb.New(t.Result.Timing.Overhead),
		}
	}
	if view == chatsvcv1.TurnView_TURN_VIEW_BASIC {
		return out
	}
	out.ContentExpired = t.ContentExpired
	out.Output = messagesToProto(t.Output)
	if text := t.OutputText(); len(text) <= maxOutputText {
		out.OutputText = text
	}
	if view == chatsvcv1.TurnView_TURN_VIEW_FULL {
		out.Input = messagesToProto(t.Input)
		for i := range t.Result.Attempts {
			out.Attempts = append(out.Attempts, attemptToProto(t, &t.Result.Attempts[i]))
		}
	}
	return out
}

func attemptToProto(t *conversation.Turn, a *conversation.Attempt) *chatsvcv1.Attempt {
	out := &chatsvcv1.Attempt{
		State:             chatsvcv1.Attempt_State(a.State),
		Model:             a.Model,
		UpstreamRequestId: a.UpstreamRequestID,
		Usage:             usageToProto(a.Usage),
		CreateTime:        timeToProto(a.CreateTime),
		EndTime:           timeToProto(a.EndTime),
	}
	if a.Error != nil {
		out.Error = statusOf(aboutTurn(a.Error, t.ID)).Proto()
	}
	return out
}

func usageToProto(u *conversation.Usage) *chatsvcv1.Usage {
	if u == nil {
		return nil
	}
	return &chatsvcv1.Usage{
		InputTokens:       u.InputTokens,
		CachedInputTokens: u.CachedInputTokens,
		OutputTokens:      u.OutputTokens,
		ReasoningTokens:   u.ReasoningTokens,
		Estimated:         u.Estimated,
	}
}

func timeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func messagesToProto(in []conversation.Message) []*chatsvcv1.Message {
	if len(in) == 0 {
		return nil
	}
	out := make([]*chatsvcv1.Message, len(in))
	for i := range in {
		out[i] = messageToProto(&in[i])
	}
	return out
}

func messageToProto(m *conversation.Message) *chatsvcv1.Message {
	out := &chatsvcv1.Message{
		Name:  formatName(messages, m.ID),
		Role:  chatsvcv1.Role(m.Role),
		Parts: make([]*chatsvcv1.Part, len(m.Parts)),
	}
	for i := range m.Parts {
		out.Parts[i] = partToProto(&m.Parts[i])
	}
	return out
}

func partToProto(p *conversation.Part) *chatsvcv1.Part {
	switch p.Kind {
	case conversation.PartText:
		return &chatsvcv1.Part{Part: &chatsvcv1.Part_Text{Text: p.Text}}
	case conversation.PartImage:
		return &chatsvcv1.Part{Part: &chatsvcv1.Part_Image{Image: imageToProto(p.Image)}}
	case conversation.PartToolCall:
		return &chatsvcv1.Part{Part: &chatsvcv1.Part_ToolCall{ToolCall: &chatsvcv1.ToolCall{
			Id: p.ToolCall.ID, Name: p.ToolCall.Name, ArgumentsJson: p.ToolCall.Arguments,
		}}}
	case conversation.PartToolResult:
		return &chatsvcv1.Part{Part: &chatsvcv1.Part_ToolResult{ToolResult: &chatsvcv1.ToolResult{
			ToolCallId: p.ToolResult.ToolCallID, Text: p.Text, IsError: p.ToolResult.IsError,
		}}}
	case conversation.PartRefusal:
		return &chatsvcv1.Part{Part: &chatsvcv1.Part_Refusal{Refusal: &chatsvcv1.Refusal{Text: p.Text}}}
	case conversation.PartReasoning:
		return &chatsvcv1.Part{Part: &chatsvcv1.Part_Reasoning{Reasoning: &chatsvcv1.Reasoning{
			Summary: p.Text, ProviderState: p.ProviderState,
		}}}
	default: // From a newer release's database: shown as a part of no kind rather than not at all.
		return &chatsvcv1.Part{}
	}
}

func imageToProto(in *conversation.Image) *chatsvcv1.Image {
	out := &chatsvcv1.Image{
		MimeType: in.MIMEType,
		Detail:   chatsvcv1.ImageDetail(enumNumber(chatsvcv1.ImageDetail_value, "IMAGE_DETAIL_", in.Detail)),
	}
	if len(in.Data) > 0 {
		out.Source = &chatsvcv1.Image_Data{Data: in.Data}
	} else {
		out.Source = &chatsvcv1.Image_Uri{Uri: in.URI}
	}
	return out
}

// conversationToProto converts a conversation as callers see it.
func conversationToProto(c *conversation.Conversation) *chatsvcv1.Conversation {
	out := specToProto(&c.Spec)
	out.Name = formatName(conversations, c.ID)
	out.HeadTurn = formatName(turns, c.HeadTurn)
	out.ActiveTurn = formatName(turns, c.ActiveTurn)
	out.Etag = formatEtag(c.Version)
	out.CreateTime = timeToProto(c.CreateTime)
	out.UpdateTime = timeToProto(c.UpdateTime)
	out.ExpireTime = timeToProto(c.ExpireTime)
	return out
}

// specToProto is the inverse of specFromProto.
func specToProto(s *conversation.Spec) *chatsvcv1.Conversation {
	out := &chatsvcv1.Conversation{
		DisplayName:  s.DisplayName,
		Instructions: s.Instructions,
		Model:        s.Model,
		Config:       configToProto(s.Config),
		Labels:       s.Labels,
	}
	for _, t := range s.Tools {
		out.Tools = append(out.Tools, &chatsvcv1.Tool{
			Name: t.Name, Description: t.Description, ParametersJson: t.Parameters, Strict: t.Strict,
		})
	}
	if s.ToolChoice.Mode != "" {
		out.ToolChoice = &chatsvcv1.ToolChoice{
			Mode: chatsvcv1.ToolChoice_Mode(enumNumber(chatsvcv1.ToolChoice_Mode_value, "MODE_", s.ToolChoice.Mode)),
			Tool: s.ToolChoice.Tool,
		}
	}
	return out
}

// configToProto is the inverse of configFromProto; nil if nothing is set.
func configToProto(c conversation.Config) *chatsvcv1.GenerationConfig {
	out := &chatsvcv1.GenerationConfig{
		Temperature:       c.Temperature,
		TopP:              c.TopP,
		MaxOutputTokens:   c.MaxOutputTokens,
		Stop:              c.Stop,
		Seed:              c.Seed,
		PresencePenalty:   c.PresencePenalty,
		FrequencyPenalty:  c.FrequencyPenalty,
		ReasoningEffort:   chatsvcv1.ReasoningEffort(enumNumber(chatsvcv1.ReasoningEffort_value, "REASONING_EFFORT_", c.ReasoningEffort)),
		Verbosity:         chatsvcv1.Verbosity(enumNumber(chatsvcv1.Verbosity_value, "VERBOSITY_", c.Verbosity)),
		ParallelToolCalls: c.ParallelToolCalls,
	}
	switch c.ResponseFormat {
	case conversation.FormatText:
		out.ResponseFormat = &chatsvcv1.ResponseFormat{Format: &chatsvcv1.ResponseFormat_Text{Text: &chatsvcv1.TextFormat{}}}
	case conversation.FormatJSONObject:
		out.ResponseFormat = &chatsvcv1.ResponseFormat{Format: &chatsvcv1.ResponseFormat_JsonObject{JsonObject: &chatsvcv1.JsonObjectFormat{}}}
	case conversation.FormatUnset:
	}
	if proto.Size(out) == 0 {
		return nil
	}
	return out
}

// enumNumber is the inverse of spelling; 0, unspecified, for what is empty or unknown.
func enumNumber(numbers map[string]int32, prefix, spelled string) int32 {
	if spelled == "" {
		return 0
	}
	return numbers[prefix+strings.ToUpper(spelled)]
}
