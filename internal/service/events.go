package service

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A delta as one block of memory: event, time, oneof and content are four allocations otherwise, for every delta of every
// stream. The block must not be used again for the next delta: gRPC lets stats handlers look at a message after Send.
type (
	textBlock struct {
		event chatsvcv1.TurnEvent
		time  timestamppb.Timestamp
		oneof chatsvcv1.TurnEvent_TextDelta
		delta chatsvcv1.TextDelta
	}
	toolCallBlock struct {
		event chatsvcv1.TurnEvent
		time  timestamppb.Timestamp
		oneof chatsvcv1.TurnEvent_ToolCallDelta
		delta chatsvcv1.ToolCallDelta
	}
)

// eventToProto converts an event of a turn, or a note to the reader.
func eventToProto(e *conversation.Event) *chatsvcv1.TurnEvent {
	if e.Kind == conversation.EventTextDelta {
		return textDeltaToProto(e)
	}
	if e.Kind == conversation.EventToolCallDelta {
		return toolCallDeltaToProto(e)
	}

	out := &chatsvcv1.TurnEvent{Sequence: e.Sequence, EventTime: timeToProto(e.Time)}
	part := int32(e.PartIndex) //nolint:gosec // Bounded by the answer's 3 MiB.
	switch e.Kind {
	case conversation.EventAccepted:
		out.Event = &chatsvcv1.TurnEvent_Accepted{Accepted: &chatsvcv1.Accepted{
			Turn: formatName(turns, e.Turn.ID), Conversation: formatName(conversations, e.Turn.Conversation),
		}}
	case conversation.EventAttemptStarted:
		out.Event = &chatsvcv1.TurnEvent_AttemptStarted{AttemptStarted: &chatsvcv1.AttemptStarted{
			Attempt: int32(e.Attempt), Model: e.Model, //nolint:gosec // Few.
		}}
	case conversation.EventReasoningDelta:
		out.Event = &chatsvcv1.TurnEvent_ReasoningDelta{ReasoningDelta: &chatsvcv1.ReasoningDelta{PartIndex: part, Text: e.Text}}
	case conversation.EventRefusalDelta:
		out.Event = &chatsvcv1.TurnEvent_RefusalDelta{RefusalDelta: &chatsvcv1.RefusalDelta{PartIndex: part, Text: e.Text}}
	case conversation.EventOutputReset:
		out.Event = &chatsvcv1.TurnEvent_OutputReset{OutputReset: &chatsvcv1.OutputReset{}}
	case conversation.EventTerminal:
		out.Event = &chatsvcv1.TurnEvent_Terminal{Terminal: &chatsvcv1.Terminal{
			Turn: turnToProto(e.Turn, chatsvcv1.TurnView_TURN_VIEW_OUTPUT),
		}}
	case conversation.NoteHeartbeat:
		out.Event = &chatsvcv1.TurnEvent_Heartbeat{Heartbeat: &chatsvcv1.Heartbeat{}}
	case conversation.NoteDraining:
		out.Event = &chatsvcv1.TurnEvent_Draining{Draining: &chatsvcv1.Draining{}}
	case conversation.NoteQueueUpdate:
		out.Event = &chatsvcv1.TurnEvent_QueueUpdate{QueueUpdate: &chatsvcv1.QueueUpdate{
			Position: int32(e.Ahead), //nolint:gosec // At most conversation.MaxQueued.
		}}
	default: // none; the deltas above are done
	}
	return out
}

func textDeltaToProto(e *conversation.Event) *chatsvcv1.TurnEvent {
	b := &textBlock{}
	b.time.Seconds, b.time.Nanos = e.Time.Unix(), int32(e.Time.Nanosecond()) //nolint:gosec // Below 1e9.
	b.delta.PartIndex, b.delta.Text = int32(e.PartIndex), e.Text             //nolint:gosec // Bounded by the answer's 3 MiB.
	b.oneof.TextDelta = &b.delta
	b.event.Sequence, b.event.EventTime, b.event.Event = e.Sequence, &b.time, &b.oneof
	return &b.event
}

func toolCallDeltaToProto(e *conversation.Event) *chatsvcv1.TurnEvent {
	b := &toolCallBlock{}
	b.time.Seconds, b.time.Nanos = e.Time.Unix(), int32(e.Time.Nanosecond()) //nolint:gosec // Below 1e9.
	b.delta.PartIndex, b.delta.ArgumentsJson = int32(e.PartIndex), e.Text    //nolint:gosec // Bounded by the answer's 3 MiB.
	b.delta.Id, b.delta.Name = e.ToolCallID, e.ToolName
	b.oneof.ToolCallDelta = &b.delta
	b.event.Sequence, b.event.EventTime, b.event.Event = e.Sequence, &b.time, &b.oneof
	return &b.event
}
