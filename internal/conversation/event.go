package conversation

import "time"

// EventKind says what an Event is. The numbers are stored.
type EventKind uint8

// The events of a turn's log, then the notes to one reader, which are never part of it.
const (
	EventAccepted EventKind = iota + 1
	EventAttemptStarted
	EventTextDelta
	EventReasoningDelta
	EventRefusalDelta
	EventToolCallDelta
	EventOutputReset
	EventTerminal
	NoteHeartbeat
	NoteDraining
	NoteQueueUpdate
)

// SequenceBlock is how far the sequence numbers of one owner of a turn are from those of the next. The n-th takeover of a turn
// begins its log at n*SequenceBlock + 1, which no earlier owner can have used: none appends more events than this.
const SequenceBlock = 1_000_000

// Event is one entry of a turn's log. Kind says which fields mean something. An event in a log is never changed, so
// readers share it.
type Event struct {
	Sequence int64
	Time     time.Time
	Kind     EventKind

	// PartIndex is the part of the output that a delta goes to.
	PartIndex int
	// Text is what a delta appends: text, reasoning, refusal, or JSON of a tool call's arguments.
	Text string
	// ToolCallID and ToolName are set in the first delta of a tool call.
	ToolCallID string
	ToolName   string
	// Attempt counts from 1; Model is the one asked.
	Attempt int
	Model   string
	// Ahead is how many turns are before this one (NoteQueueUpdate).
	Ahead int
	// Turn is the turn as it was recorded (accepted) or as it ended (terminal); without input.
	Turn *Turn
}

// IsDelta reports whether the event adds to the output.
func (k EventKind) IsDelta() bool { return k >= EventTextDelta && k <= EventToolCallDelta }
