package telemetry

import "go.opentelemetry.io/otel/attribute"

// The attributes of the OpenTelemetry conventions for generative AI, v1.41, on the span `chat {model}` (CLIENT, one per
// call to the provider). They are our own constants because the conventions have left
// OpenTelemetry's Go module. The attributes that hold prompts, answers and tool arguments are left out on purpose.
const (
	// GenAIOperationName is what is asked of the model: OperationChat.
	GenAIOperationName = attribute.Key("gen_ai.operation.name")
	// GenAIProviderName is who answers: ProviderOpenAI.
	GenAIProviderName = attribute.Key("gen_ai.provider.name")
	// GenAIConversationID is the conversation's resource name.
	GenAIConversationID = attribute.Key("gen_ai.conversation.id")
	// GenAIRequestModel is the model that is asked.
	GenAIRequestModel = attribute.Key("gen_ai.request.model")
	// GenAIRequestMaxTokens is the output limit that is sent.
	GenAIRequestMaxTokens = attribute.Key("gen_ai.request.max_tokens")
	// GenAIRequestTemperature is the temperature that is sent.
	GenAIRequestTemperature = attribute.Key("gen_ai.request.temperature")
	// GenAIRequestTopP is the top_p that is sent.
	GenAIRequestTopP = attribute.Key("gen_ai.request.top_p")
	// GenAIRequestFrequencyPenalty is the frequency penalty that is sent.
	GenAIRequestFrequencyPenalty = attribute.Key("gen_ai.request.frequency_penalty")
	// GenAIRequestPresencePenalty is the presence penalty that is sent.
	GenAIRequestPresencePenalty = attribute.Key("gen_ai.request.presence_penalty")
	// GenAIRequestSeed is the seed that is sent.
	GenAIRequestSeed = attribute.Key("gen_ai.request.seed")
	// GenAIRequestStream is true: every call is streamed.
	GenAIRequestStream = attribute.Key("gen_ai.request.stream")
	// GenAIResponseModel is the model that answered.
	GenAIResponseModel = attribute.Key("gen_ai.response.model")
	// GenAIResponseFinishReasons is why the answer ended, in the provider's words; a list of one.
	GenAIResponseFinishReasons = attribute.Key("gen_ai.response.finish_reasons")
	// GenAIResponseTimeToFirstChunk is the time from the request to the first piece of the answer, in seconds.
	GenAIResponseTimeToFirstChunk = attribute.Key("gen_ai.response.time_to_first_chunk")
	// GenAIUsageInputTokens is the number of tokens sent, cached ones included.
	GenAIUsageInputTokens = attribute.Key("gen_ai.usage.input_tokens")
	// GenAIUsageCacheReadInputTokens is the number of tokens sent that the provider had in its cache.
	GenAIUsageCacheReadInputTokens = attribute.Key("gen_ai.usage.cache_read.input_tokens")
	// GenAIUsageOutputTokens is the number of tokens generated, reasoning included.
	GenAIUsageOutputTokens = attribute.Key("gen_ai.usage.output_tokens")
	// GenAIUsageReasoningOutputTokens is the number of tokens generated for reasoning.
	GenAIUsageReasoningOutputTokens = attribute.Key("gen_ai.usage.reasoning.output_tokens")
	// ErrorType is set where an operation failed: the reason of chatsvc's error.
	ErrorType = attribute.Key("error.type")
)

// The values of the attributes that have a fixed set.
const (
	// OperationChat is the GenAIOperationName of a chat completion, and the first word of its span's name.
	OperationChat = "chat"
	// ProviderOpenAI is the GenAIProviderName of OpenAI and of what speaks its wire.
	ProviderOpenAI = "openai"
)

// chatsvc's own attributes.
const (
	// Team is the team's id, on the server span.
	Team = attribute.Key("chatsvc.team")
	// Turn is the turn's resource name, on spans.
	Turn = attribute.Key("chatsvc.turn")
	// TurnState is the state in which a turn ended, in lower case.
	TurnState = attribute.Key("chatsvc.turn.state")
	// Overhead is how much of the turn's time was chatsvc's own work, in seconds.
	Overhead = attribute.Key("chatsvc.overhead")
	// Attempts is how many calls to the provider the turn took.
	Attempts = attribute.Key("chatsvc.attempts")
	// UpstreamRequestID is the provider's id of a call, for their support.
	UpstreamRequestID = attribute.Key("chatsvc.upstream.request_id")
)

// The names of the spans below the server span. That of a call to the provider is "chat " and the model.
const (
	// SpanAssemble reads the history and fits it into the model's context.
	SpanAssemble = "assemble"
	// SpanAdmit is the transaction that records the turn.
	SpanAdmit = "admit"
	// SpanEnd is the transaction that ends it.
	SpanEnd = "end"
)
