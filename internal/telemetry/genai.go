package telemetry

import "go.opentelemetry.io/otel/attribute"

// The attributes of the OpenTelemetry conventions for generative AI, v1.41, on the span `chat {model}` (CLIENT, one per
// call to the provider) and, where said so, on metrics. They are our own constants because the conventions have left
// OpenTelemetry's Go module. The attributes that hold prompts, answers and tool arguments are left out on purpose.
const (
	// GenAIOperationName is what is asked of the model: OperationChat. Required on spans and metrics.
	GenAIOperationName = attribute.Key("gen_ai.operation.name")
	// GenAIProviderName is who answers: ProviderOpenAI. Required on spans and metrics.
	GenAIProviderName = attribute.Key("gen_ai.provider.name")
	// GenAIConversationID is the conversation's resource name. Spans only.
	GenAIConversationID = attribute.Key("gen_ai.conversation.id")
	// GenAIRequestModel is the model that is asked. Spans and metrics; a metric takes only names that the catalogue
	// knows, since callers could otherwise make series at will.
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
	// GenAIOutputType is the form that is asked for: text or json.
	GenAIOutputType = attribute.Key("gen_ai.output.type")
	// GenAIResponseID is the provider's id of the answer.
	GenAIResponseID = attribute.Key("gen_ai.response.id")
	// GenAIResponseModel is the model that answered. Spans and metrics.
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
	// GenAITokenType is TokenInput or TokenOutput, on MetricTokenUsage only.
	GenAITokenType = attribute.Key("gen_ai.token.type")
	// ErrorType is set where an operation failed: the reason of chatsvc's error. Spans and metrics.
	ErrorType = attribute.Key("error.type")
	// ServerAddress is the provider's host name. Spans and metrics.
	ServerAddress = attribute.Key("server.address")
	// ServerPort is the provider's port. Spans and metrics.
	ServerPort = attribute.Key("server.port")
)

// The values of the attributes that have a fixed set.
const (
	// OperationChat is the GenAIOperationName of a chat completion, and the first word of its span's name.
	OperationChat = "chat"
	// ProviderOpenAI is the GenAIProviderName of OpenAI and of what speaks its wire.
	ProviderOpenAI = "openai"
	// TokenInput is the GenAITokenType of tokens sent.
	TokenInput = "input"
	// TokenOutput is the GenAITokenType of tokens generated.
	TokenOutput = "output"
)

// chatsvc's own attributes.
const (
	// Team is the team's id, on the server span. Never on a metric.
	Team = attribute.Key("chatsvc.team")
	// Turn is the turn's resource name, on spans. Never on a metric.
	Turn = attribute.Key("chatsvc.turn")
	// TurnState is the state in which a turn ended, in lower case. Spans and metrics.
	TurnState = attribute.Key("chatsvc.turn.state")
	// QueueWait is how long the turn waited for the one before it, in seconds.
	QueueWait = attribute.Key("chatsvc.queue.wait")
	// Overhead is how much of the turn's time was chatsvc's own work, in seconds.
	Overhead = attribute.Key("chatsvc.overhead")
	// Attempts is how many calls to the provider the turn took.
	Attempts = attribute.Key("chatsvc.attempts")
	// UpstreamRequestID is the provider's id of a call, for their support. Never on a metric.
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

// The names of the metrics, each with its kind and unit.
const (
	// RPCServerCallDuration is a histogram in s, made by otelgrpc.
	RPCServerCallDuration = "rpc.server.call.duration"
	// MetricOperationDuration is a histogram in s: one call to the provider, from the request to the end of the stream.
	MetricOperationDuration = "gen_ai.client.operation.duration"
	// MetricTimeToFirstChunk is a histogram in s: from the request to the first piece of the answer.
	MetricTimeToFirstChunk = "gen_ai.client.operation.time_to_first_chunk"
	// MetricTokenUsage is a histogram in {token}, one record for the input of a call and one for the output.
	MetricTokenUsage = "gen_ai.client.token.usage"
	// MetricTurnsEnded is a counter in {turn}, by TurnState and, where it failed, ErrorType.
	MetricTurnsEnded = "chatsvc.turns.ended"
	// MetricUpstreamAttempts is a counter in {attempt}: calls to the provider, by ErrorType where one failed.
	MetricUpstreamAttempts = "chatsvc.upstream.attempts"
	// MetricOverhead is a histogram in s: chatsvc's own work per turn.
	MetricOverhead = "chatsvc.overhead"
)

// OperationDurationBuckets are the bounds of MetricOperationDuration in s: those of the conventions, and 163.84 and 327.68
// for long answers.
func OperationDurationBuckets() []float64 {
	return []float64{0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68}
}

// TimeToFirstChunkBuckets are the bounds of MetricTimeToFirstChunk in s, up to models that think before they speak.
func TimeToFirstChunkBuckets() []float64 {
	return []float64{0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}
}

// TokenUsageBuckets are the bounds of MetricTokenUsage in tokens, as the conventions give them.
func TokenUsageBuckets() []float64 {
	return []float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864}
}

// OverheadBuckets are the bounds of MetricOverhead in s. A turn should stay in the first half of them.
func OverheadBuckets() []float64 {
	return []float64{0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2.5, 10}
}
