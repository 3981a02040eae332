package conversation

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// ErrHeadMoved means that the conversation's head is not the one that the admission was assembled on. The engine
// assembles again; callers never see it.
var ErrHeadMoved = errors.New("the conversation's head has moved")

// ErrNotWritten is the cause of an Error with reason StoreUnavailable if it is certain that the write did not happen.
var ErrNotWritten = errors.New("nothing was written")

// ErrTurnEnded means that the turn has ended already, or is not this owner's any more; what was to be written is void.
var ErrTurnEnded = errors.New("the turn has ended already")

// Store keeps conversations, turns and their logs. Implementations are safe for concurrent use and pass the suite storetest.
//
// Every method takes the team, and another team's id is as unknown as a random one: ErrNotFound. What a method has
// written is durable when it returns nil. When the database cannot be used every method returns an Error with reason
// StoreUnavailable; if it was returned by a write, whether the write happened is not known, unless ErrNotWritten is in its
// chain. A read returns ctx's error when ctx ends first. A write returns ctx's error only if it was still waiting for its
// turn when ctx ended, and then it does not happen; once it has begun, it waits for its outcome.
//
// Several processes can share a database. Each is an owner, and a running turn belongs to one: whoever began it, or took
// it over. Nothing that a process writes about a turn after it has been taken from it takes effect.
type Store interface {
	Conversations
	Turns
	Log
	Ownership

	// Ping reports whether the store can be written, without writing any turn. It returns as soon as ctx ends.
	Ping(ctx context.Context) error
	// Close waits for writes that have begun and closes the database. Every later call is StoreUnavailable.
	Close() error
}

// Conversations is the part of a Store that keeps conversations and reads their messages.
type Conversations interface {
	// CreateConversation records c. It sets nothing in c but Version, CreateTime and UpdateTime (from c.CreateTime).
	CreateConversation(ctx context.Context, c *Conversation) error
	// ForkConversation records c as one that shares the messages of another conversation of the team up to a turn of it, or
	// to its head where turn is zero; c.Spec is recorded as it is. It sets head, version and times in c. Nothing is copied: what the fork
	// shares stays for as long as the fork does. ErrNotFound: no such conversation, or no such turn in it. ErrInvalidState: the turn
	// has not ended.
	ForkConversation(ctx context.Context, c *Conversation, from, turn ID) error
	// GetConversation returns a conversation with its head and its active turn.
	GetConversation(ctx context.Context, team string, id ID) (*Conversation, error)
	// ListConversations returns at most limit conversations with an id below before (zero: no bound), by falling id.
	ListConversations(ctx context.Context, team string, before ID, limit int) ([]*Conversation, error)
	// UpdateConversation replaces Spec and ExpireTime, and selects c.HeadTurn as the head where that is not the head, if the
	// stored version equals c.Version, and returns what is stored then; otherwise ErrEtagMismatch. A caller without an etag
	// reads and tries again. A turn selected as head must be an ended one of the conversation (ErrNotFound,
	// ErrInvalidState), and none may run or wait on the main line (ErrConversationBusy, naming it).
	UpdateConversation(ctx context.Context, c *Conversation) (*Conversation, error)
	// DeleteConversation removes a conversation with its turns, messages and events. It is ErrConversationBusy (naming one)
	// while a turn runs or waits in it, on a branch too, and ErrEtagMismatch unless version is zero or the stored one. The
	// conversation is gone for every reader when it returns; its rows may go later, in bounded batches, and messages that a
	// fork shares go with the last fork.
	DeleteConversation(ctx context.Context, team string, id ID, version Version) error

	// History yields the messages before a place, which comes from the conversation or from a turn of it, back to the first.
	// It reads in bounded pieces and keeps no transaction open between them; the messages before a place never change.
	History(ctx context.Context, team string, conversation ID, before Place) iter.Seq2[*StoredMessage, error]
	// ListMessages returns the messages before such a place from position from (inclusive, the first is 0) on, by rising
	// position: at most limit of them, and none after those whose content together passes maxBytes.
	ListMessages(ctx context.Context, team string, conversation ID, before Place, from int64, limit, maxBytes int) ([]*StoredMessage, error)
}

// Turns is the part of a Store that keeps turns.
type Turns interface {
	// BeginTurn records a turn with its input and the claim on its request id: all of a or, with an error, nothing of it.
	//
	// A turn in state Running goes to the main line, to a branch of its own (a.Fork), or, without a conversation, nowhere. A
	// turn in state Queued waits in its conversation, behind those that wait there. A turn that was recorded as Queued by
	// this owner begins when BeginTurn is called for it again with state Running; the turn's input is given again.
	//
	// ErrNotFound: no such conversation. ErrConversationBusy: a turn runs on the main line or waits there, or
	// MaxQueued turns wait; the Error names one. *QueuedError: the turn that is to begin is not the first that waits, or
	// another runs. ErrHeadMoved: see there. *ClaimedError: the request id is another turn's. ErrTurnEnded: the turn that
	// waited does so no longer, or is not this owner's.
	BeginTurn(ctx context.Context, a *Admission) error
	// RecordAttempt records t.Result.Attempts of a running turn of this owner, before a further call is made. takeovers is as
	// in End. ErrTurnEnded: it has ended, or is another owner's.
	RecordAttempt(ctx context.Context, t *Turn, takeovers int) error
	// EndTurn records the end of a running or waiting turn: state, end time, result, output, and the rest of its log. If the
	// state is answered and the turn on the main line, the conversation's head moves to the turn; if it is Failed, the
	// request id is free again; all in the same transaction. ErrTurnEnded: it had ended already, or is another owner's.
	// ErrNotFound: it was never recorded.
	EndTurn(ctx context.Context, e *End) error
	// GetTurn returns a turn, with input and output if content is true.
	GetTurn(ctx context.Context, team string, id ID, content bool) (*Turn, error)
	// ListTurns returns at most limit turns without content and with an id below before (zero: no bound), by falling id.
	// ErrNotFound: there is no such conversation.
	ListTurns(ctx context.Context, team string, filter TurnFilter, before ID, limit int) ([]*Turn, error)
	// DeleteTurn removes an ended one-shot turn with its content and its log; its request id stays claimed.
	// ErrConversationBusy while it runs, ErrInvalidState for a turn of a conversation.
	DeleteTurn(ctx context.Context, team string, id ID) error
	// GetClaim returns which turn has a request id; ErrNotFound if it is free. Claims are kept for at least a day, also where
	// the turn is deleted meanwhile.
	GetClaim(ctx context.Context, team, requestID string) (*Claim, error)
}

// Log is the part of a Store that keeps the events of turns, and tells readers of new ones. The accepted and the terminal
// event are not kept: they are the turn itself.
type Log interface {
	// AppendEvents makes events of running turns durable, in one transaction. It returns the turns among them, also
	// among those without events, that are not running turns of this owner; of those nothing is written.
	AppendEvents(ctx context.Context, batches []EventBatch) (lost []ID, err error)
	// Events returns the durable events of a turn of the team above the sequence number after: some of the first, about
	// maxBytes of them, and none where there are none. They are kept for as long as the settings say, and at least as long
	// as the turn runs.
	Events(ctx context.Context, team string, turn ID, after int64, maxBytes int) ([]Event, error)
	// Subscribe returns a channel that gets a value some time after a turn has got events, has begun or ended or is asked to
	// end, or a turn of a conversation has ended or stopped waiting, in whatever process; id names the turn or the
	// conversation. Values can be merged, can come without a reason, and, when a connection is lost, may not come: the reader
	// looks for itself now and then. stop must be called.
	Subscribe(id ID) (wake <-chan struct{}, stop func())
}

// Ownership is the part of a Store that says whose a running turn is.
type Ownership interface {
	// Duties waits until there is something that this process has to do about turns that it did not just begin, or ctx
	// ends, and returns it. It is called by one goroutine, again and again for as long as the process takes turns.
	Duties(ctx context.Context) (*Duties, error)
	// RequestCancel asks the owner of a running or waiting turn to cancel it; the request outlives the owner. ErrTurnEnded:
	// it has ended.
	RequestCancel(ctx context.Context, team string, id ID) error
	// AttachTurn and DetachTurn say whether callers in this process read a turn as its creators; both can be repeated. That is
	// kept for turns with a request id that are to be cancelled when the last caller leaves (Turn.OnDisconnect), and BeginTurn
	// says it for the owner. When the last process detaches, is given up for dead or releases its turns, the turn is asked to
	// be cancelled, as by RequestCancel; but a turn whose owner dies is not, because whoever takes it over ends it.
	// ErrTurnEnded: it has ended.
	AttachTurn(ctx context.Context, team string, id ID) error
	DetachTurn(ctx context.Context, team string, id ID) error
	// Retire says that this process is about to stop: it takes no more turns over. Those that it has stay its own.
	Retire()
	// Release gives up all turns of this process, for another to take over at once. This process begins no more.
	Release(ctx context.Context) error
}

// MaxQueued is how many turns can wait in a conversation.
const MaxQueued = 16

// StoredMessage is a message in its place.
type StoredMessage struct {
	Message
	Turn     ID
	Position int64
	// Tokens is the message's size with its overhead: in o200k_base tokens, or as the provider counted an answer. TokensBefore is the sum of the messages before
	// it on its line.
	Tokens       int64
	TokensBefore int64
}

// Admission is what BeginTurn records.
type Admission struct {
	// Turn is the turn in state Queued, or Running with the first attempt as AttemptIntent; with Input.
	Turn *Turn
	// Base is where the input goes: the end of the turn's parent. Of no meaning where the turn waits.
	Base Place
	// Fork: the turn runs on a branch of its own.
	Fork bool
	// InputTokens are the sizes of Turn.Input, as StoredMessage.Tokens.
	InputTokens []int64
	// Fingerprint is that of the request, for turns with a request id.
	Fingerprint [32]byte
	// Takeovers is as in End, for a turn that has waited.
	Takeovers int
	// Overrides and Deadline are for whoever takes the turn over.
	Overrides Overrides
	Deadline  time.Time
}

// Claim says whose a request id is.
type Claim struct {
	Turn        ID
	Fingerprint [32]byte
}

// ClaimedError says that a request id is another turn's.
type ClaimedError struct{ Claim }

// Error implements error.
func (e *ClaimedError) Error() string {
	return fmt.Sprintf("the request id is that of the turn %x", e.Turn)
}

// QueuedError says that it is not yet the turn of a turn that waits.
type QueuedError struct {
	// Ahead is how many turns are before it, the running one included.
	Ahead int
}

// Error implements error.
func (e *QueuedError) Error() string { return fmt.Sprintf("%d turns are before this one", e.Ahead) }

// End is what EndTurn records: the final State, EndTime, Output and Result of the turn.
type End struct {
	Turn *Turn
	// Takeovers is how often the turn had been taken over when the caller got it: Taken.Takeovers, or 0. If it was taken over
	// since, even by this process, it is another owner's.
	Takeovers int
	// OutputTokens are the sizes of Turn.Output, as StoredMessage.Tokens.
	OutputTokens []int64
	// Events are those of the log that are not durable yet, or all of it where Replaces is set.
	Events []Event
	// Replaces are the batches, by their first sequence numbers, that Events take the place of.
	Replaces []int64
}

// EventBatch is events of one turn that follow each other, to be kept together.
type EventBatch struct {
	Team string
	Turn ID
	// Takeovers is as in End.
	Takeovers int
	Events    []Event
}

// TurnFilter chooses turns; what is zero does not choose.
type TurnFilter struct {
	Conversation ID
	RequestID    string
}

// Duties are what a process has to do about turns that it did not just begin.
type Duties struct {
	// Taken are turns that are this process's from now on: to be gone on with or to be ended.
	Taken []*Taken
	// Cancel are turns of this process that somebody asked to cancel; a turn can come more than once.
	Cancel []ID
	// Lost: this process had been given up for dead. What it ran before is another's, unless AppendEvents says
	// otherwise.
	Lost bool
}

// Taken is a running or waiting turn that another process, or this one before it was restarted, has left.
type Taken struct {
	// Turn is the turn with Input.
	Turn *Turn
	// Base is where the input stands; of no meaning where the turn waits.
	Base      Place
	Fork      bool
	Overrides Overrides
	Deadline  time.Time
	// Cancel: somebody asked to cancel it.
	Cancel bool
	// Unreadable: not all that was recorded can be read, so that the turn can only be ended. What else stands here, and in Turn,
	// is then what could be read.
	Unreadable bool
	// Takeovers is how often the turn was taken over, this time included. Its log goes on at Takeovers*SequenceBlock.
	Takeovers int
}
