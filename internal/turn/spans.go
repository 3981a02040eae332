package turn

import (
	"errors"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/telemetry"
)

// requestAttributes are what the span of a call says before it is made. Never content.
func (r *run) requestAttributes() []attribute.KeyValue {
	c := &r.request.Config
	attrs := []attribute.KeyValue{
		telemetry.GenAIOperationName.String(telemetry.OperationChat),
		telemetry.GenAIProviderName.String(telemetry.ProviderOpenAI),
		telemetry.GenAIRequestModel.String(r.request.Model),
		telemetry.GenAIRequestStream.Bool(true),
		telemetry.Team.String(r.turn.Team),
		telemetry.Turn.String("turns/" + uuid.UUID(r.turn.ID).String()),
	}
	if id := r.turn.Conversation; !id.IsZero() {
		attrs = append(attrs, telemetry.GenAIConversationID.String("conversations/"+uuid.UUID(id).String()))
	}
	if c.MaxOutputTokens != nil {
		attrs = append(attrs, telemetry.GenAIRequestMaxTokens.Int(int(*c.MaxOutputTokens)))
	}
	if c.Seed != nil {
		attrs = append(attrs, telemetry.GenAIRequestSeed.Int64(*c.Seed))
	}
	for _, p := range []struct {
		key   attribute.Key
		value *float64
	}{
		{telemetry.GenAIRequestTemperature, c.Temperature},
		{telemetry.GenAIRequestTopP, c.TopP},
		{telemetry.GenAIRequestFrequencyPenalty, c.FrequencyPenalty},
		{telemetry.GenAIRequestPresencePenalty, c.PresencePenalty},
	} {
		if p.value != nil {
			attrs = append(attrs, p.key.Float64(*p.value))
		}
	}
	return attrs
}

// outcomeAttributes are what the span of a call says when it has ended.
func outcomeAttributes(end *ended) []attribute.KeyValue {
	var attrs []attribute.KeyValue
	o := &end.outcome
	if o.Model != "" {
		attrs = append(attrs, telemetry.GenAIResponseModel.String(o.Model))
	}
	if o.RequestID != "" {
		attrs = append(attrs, telemetry.UpstreamRequestID.String(o.RequestID))
	}
	if reason := finishName(o.Finish); reason != "" {
		attrs = append(attrs, telemetry.GenAIResponseFinishReasons.StringSlice([]string{reason}))
	}
	if !end.first.IsZero() {
		attrs = append(attrs, telemetry.GenAIResponseTimeToFirstChunk.Float64(end.first.Sub(end.began).Seconds()))
	}
	if u := o.Usage; u != nil {
		attrs = append(attrs,
			telemetry.GenAIUsageInputTokens.Int64(u.InputTokens),
			telemetry.GenAIUsageCacheReadInputTokens.Int64(u.CachedInputTokens),
			telemetry.GenAIUsageOutputTokens.Int64(u.OutputTokens),
			telemetry.GenAIUsageReasoningOutputTokens.Int64(u.ReasoningTokens))
	}
	if end.err != nil && !errors.Is(end.err, errOutputFull) {
		attrs = append(attrs, telemetry.ErrorType.String(string(reasonOf(end.err))))
	}
	return attrs
}

// setStatus marks a span as failed, with the reason.
func setStatus(span trace.Span, err error) { span.SetStatus(codes.Error, string(reasonOf(err))) }

// finishName spells a finish reason as chat completions do.
func finishName(f conversation.FinishReason) string {
	switch f {
	case conversation.FinishStop, conversation.FinishRefusal:
		return "stop"
	case conversation.FinishLength:
		return "length"
	case conversation.FinishToolCalls:
		return "tool_calls"
	case conversation.FinishContentFilter:
		return "content_filter"
	default:
		return ""
	}
}
