package service

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
)

// The domain stores numbers, the wire sends them, and the conversion is a cast: so they must mean the same.
func TestNumbersMeanTheSame(t *testing.T) {
	check := func(number int, name string, enum protoreflect.Enum) {
		t.Helper()
		value := enum.Descriptor().Values().ByNumber(protoreflect.EnumNumber(number))
		if value == nil || string(value.Name()) != name {
			t.Errorf("%d is %v in %s, want %s", number, value, enum.Descriptor().FullName(), name)
		}
	}
	state := chatsvcv1.TurnState(0)
	check(int(conversation.Queued), "TURN_STATE_QUEUED", state)
	check(int(conversation.Running), "TURN_STATE_RUNNING", state)
	check(int(conversation.Completed), "TURN_STATE_COMPLETED", state)
	check(int(conversation.Incomplete), "TURN_STATE_INCOMPLETE", state)
	check(int(conversation.Failed), "TURN_STATE_FAILED", state)
	check(int(conversation.Cancelled), "TURN_STATE_CANCELLED", state)
	finish := chatsvcv1.FinishReason(0)
	check(int(conversation.FinishNone), "FINISH_REASON_UNSPECIFIED", finish)
	check(int(conversation.FinishStop), "FINISH_REASON_STOP", finish)
	check(int(conversation.FinishLength), "FINISH_REASON_LENGTH", finish)
	check(int(conversation.FinishToolCalls), "FINISH_REASON_TOOL_CALLS", finish)
	check(int(conversation.FinishContentFilter), "FINISH_REASON_CONTENT_FILTER", finish)
	check(int(conversation.FinishRefusal), "FINISH_REASON_REFUSAL", finish)
	check(int(conversation.FinishSchemaMismatch), "FINISH_REASON_SCHEMA_MISMATCH", finish)
	role := chatsvcv1.Role(0)
	for _, r := range []conversation.Role{
		conversation.RoleSystem, conversation.RoleDeveloper, conversation.RoleUser, conversation.RoleAssistant, conversation.RoleTool,
	} {
		check(int(r), "ROLE_"+strings.ToUpper(r.String()), role)
	}
	attempt := chatsvcv1.Attempt_State(0)
	check(int(conversation.AttemptIntent), "STATE_INTENT", attempt)
	check(int(conversation.AttemptSent), "STATE_SENT", attempt)
	check(int(conversation.AttemptSettled), "STATE_SETTLED", attempt)
	check(int(conversation.AttemptUnknown), "STATE_UNKNOWN", attempt)
}

// endedTurn returns a turn in which everything is set that its state allows.
func endedTurn(state conversation.State) *conversation.Turn {
	begin := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	usage := &conversation.Usage{InputTokens: 10, CachedInputTokens: 4, OutputTokens: 5, ReasoningTokens: 2, Estimated: true}
	t := &conversation.Turn{
		ID: testID(1), Team: "red", Client: "c", Conversation: testID(2), Parent: testID(3), State: state,
		TraceID: [16]byte{0xab, 15: 1}, Labels: map[string]string{"k": "v"},
		CreateTime: begin, EndTime: begin.Add(time.Second),
		Input:  []conversation.Message{{ID: testID(4), Role: conversation.RoleUser, Parts: []conversation.Part{conversation.TextPart("q")}}},
		Output: []conversation.Message{{ID: testID(5), Role: conversation.RoleAssistant, Parts: []conversation.Part{conversation.TextPart("a"), conversation.TextPart("b")}}},
		Result: conversation.Result{
			Model: "m-1", Config: conversation.Config{Temperature: new(float64)}, FinishReason: conversation.FinishStop, Usage: usage,
			Timing:       conversation.Timing{Queue: 1, Context: 2, TimeToFirstEvent: 3, Generation: 4, Overhead: 5},
			LastSequence: 7,
			Attempts: []conversation.Attempt{{
				State: conversation.AttemptSettled, Model: "m", UpstreamRequestID: "req_1", Usage: usage, CreateTime: begin, EndTime: begin.Add(time.Second),
			}},
		},
	}
	if state == conversation.Failed {
		t.Result.FinishReason = conversation.FinishNone
		t.Result.Error = &conversation.Error{Reason: conversation.UpstreamStreamCut, Message: "cut", UpstreamRequestID: "req_1", RetryAfter: time.Second}
		t.Result.Attempts[0].Error = t.Result.Error
	}
	return t
}

func TestTurnViews(t *testing.T) {
	ended := endedTurn(conversation.Completed)
	full := turnToProto(ended, chatsvcv1.TurnView_TURN_VIEW_FULL)
	want := fromJSON(t, `{
		"name": "turns/0193abcd-ef01-7000-8000-000000000001", "conversation": "conversations/0193abcd-ef01-7000-8000-000000000002",
		"parentTurn": "turns/0193abcd-ef01-7000-8000-000000000003", "state": "TURN_STATE_COMPLETED",
		"input": [{"name": "messages/0193abcd-ef01-7000-8000-000000000004", "role": "ROLE_USER", "parts": [{"text": "q"}]}],
		"output": [{"name": "messages/0193abcd-ef01-7000-8000-000000000005", "role": "ROLE_ASSISTANT", "parts": [{"text": "a"}, {"text": "b"}]}],
		"outputText": "ab", "finishReason": "FINISH_REASON_STOP", "model": "m-1", "config": {"temperature": 0},
		"usage": {"inputTokens": "10", "cachedInputTokens": "4", "outputTokens": "5", "reasoningTokens": "2", "estimated": true},
		"timing": {"queue": "0.000000001s", "context": "0.000000002s", "timeToFirstEvent": "0.000000003s", "generation": "0.000000004s", "overhead": "0.000000005s"},
		"attempts": [{
			"state": "STATE_SETTLED", "model": "m", "upstreamRequestId": "req_1",
			"usage": {"inputTokens": "10", "cachedInputTokens": "4", "outputTokens": "5", "reasoningTokens": "2", "estimated": true},
			"createTime": "2026-05-01T12:00:00Z", "endTime": "2026-05-01T12:00:01Z"
		}],
		"lastSequence": "7", "traceId": "ab000000000000000000000000000001", "labels": {"k": "v"},
		"createTime": "2026-05-01T12:00:00Z", "endTime": "2026-05-01T12:00:01Z"
	}`, &chatsvcv1.Turn{})
	if !proto.Equal(full, want) {
		t.Errorf("FULL is\n%v\nwant\n%v", full, want)
	}

	want.Input, want.Attempts = nil, nil
	if got := turnToProto(ended, chatsvcv1.TurnView_TURN_VIEW_OUTPUT); !proto.Equal(got, want) {
		t.Errorf("OUTPUT is %v", got)
	}
	want.Output, want.OutputText = nil, ""
	if got := turnToProto(ended, chatsvcv1.TurnView_TURN_VIEW_BASIC); !proto.Equal(got, want) {
		t.Errorf("BASIC is %v", got)
	}
}

// Content that is gone must not look like an answer that says nothing.
func TestContentExpired(t *testing.T) {
	ended := endedTurn(conversation.Completed)
	ended.Input, ended.Output, ended.ContentExpired = nil, nil, true
	for _, view := range []chatsvcv1.TurnView{chatsvcv1.TurnView_TURN_VIEW_OUTPUT, chatsvcv1.TurnView_TURN_VIEW_FULL} {
		if got := turnToProto(ended, view); !got.GetContentExpired() || got.GetOutput() != nil {
			t.Errorf("%v: %v", view, got)
		}
	}
}

func TestTurnErrorIsSetOnlyIfFailed(t *testing.T) {
	for state := conversation.Queued; state <= conversation.Cancelled; state++ {
		ended := endedTurn(state)
		got := turnToProto(ended, chatsvcv1.TurnView_TURN_VIEW_FULL)
		if (got.GetError() != nil) != (state == conversation.Failed) {
			t.Errorf("state %v: error %v", got.GetState(), got.GetError())
		}
		if state == conversation.Failed && !proto.Equal(got.GetError(), statusOf(errorOf(ended)).Proto()) {
			t.Errorf("Turn.error is %v, the RPC's status %v", got.GetError(), statusOf(errorOf(ended)).Proto())
		}
	}
	broken := endedTurn(conversation.Failed)
	broken.Result.Error = nil
	if got := turnToProto(broken, chatsvcv1.TurnView_TURN_VIEW_BASIC).GetError(); got.GetCode() == 0 {
		t.Error("a failed turn without its error looks well")
	}
}

func TestEvents(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 5, time.UTC)
	for _, test := range []struct {
		event conversation.Event
		want  string
	}{
		{conversation.Event{Kind: conversation.EventAccepted, Turn: &conversation.Turn{ID: testID(1), Conversation: testID(2)}}, `"accepted":{"turn":"` + someTurn + `","conversation":"` + someConversation + `"}`},
		{conversation.Event{Kind: conversation.EventAttemptStarted, Attempt: 2, Model: "m"}, `"attemptStarted":{"attempt":2,"model":"m"}`},
		{conversation.Event{Kind: conversation.EventTextDelta, PartIndex: 3, Text: "t"}, `"textDelta":{"partIndex":3,"text":"t"}`},
		{conversation.Event{Kind: conversation.EventReasoningDelta, PartIndex: 3, Text: "t"}, `"reasoningDelta":{"partIndex":3,"text":"t"}`},
		{conversation.Event{Kind: conversation.EventRefusalDelta, PartIndex: 3, Text: "t"}, `"refusalDelta":{"partIndex":3,"text":"t"}`},
		{
			conversation.Event{Kind: conversation.EventToolCallDelta, PartIndex: 3, Text: "t", ToolCallID: "c", ToolName: "f"},
			`"toolCallDelta":{"partIndex":3,"id":"c","name":"f","argumentsJson":"t"}`,
		},
		{conversation.Event{Kind: conversation.EventOutputReset}, `"outputReset":{}`},
		{conversation.Event{Kind: conversation.NoteHeartbeat}, `"heartbeat":{}`},
		{conversation.Event{Kind: conversation.NoteDraining}, `"draining":{}`},
		{conversation.Event{Kind: conversation.NoteQueueUpdate, Ahead: 3}, `"queueUpdate":{"position":3}`},
	} {
		test.event.Sequence, test.event.Time = 9, at
		want := fromJSON(t, `{"sequence":"9","eventTime":"2026-05-01T12:00:00.000000005Z",`+test.want+`}`, &chatsvcv1.TurnEvent{})
		if got := eventToProto(&test.event); !proto.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}

	ended := endedTurn(conversation.Completed)
	got := eventToProto(&conversation.Event{Kind: conversation.EventTerminal, Sequence: 9, Turn: ended}).GetTerminal().GetTurn()
	if !proto.Equal(got, turnToProto(ended, chatsvcv1.TurnView_TURN_VIEW_OUTPUT)) {
		t.Errorf("the terminal's turn is %v", got)
	}
}

// A delta costs one allocation, however many messages it is made of.
func TestDeltasAreCheap(t *testing.T) {
	for _, kind := range []conversation.EventKind{conversation.EventTextDelta, conversation.EventToolCallDelta} {
		e := conversation.Event{Sequence: 9, Time: time.Unix(1, 2), Kind: kind, Text: "t"}
		var sink *chatsvcv1.TurnEvent
		if n := testing.AllocsPerRun(100, func() { sink = eventToProto(&e) }); n > 1 {
			t.Errorf("kind %d: %v allocations", kind, n)
		}
		_ = sink
	}
}
