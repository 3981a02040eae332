package conversation

import (
	"context"
	"errors"
	"iter"
)

// ErrHeadMoved means that the conversation's head is not the one that the admission was assembled on. The engine
// assembles again; callers never see it.
var ErrHeadMoved = errors.New("the conversation's head has moved")

// ErrTurnEnded means that the turn has ended already, or is not this owner's any more; what was to be written is void.
var ErrTurnEnded = errors.New("the turn has ended already")

// Store keeps conversations and turns. Implementations are safe for concurrent use and pass the suite storetest.
//
// Every method takes the team, and another team's id is as unknown as a random one: ErrNotFound. What a method has
// written is durable when it returns nil. When the database cannot be used every method returns an Error with reason
// StoreUnavailable; if it was returned by a write, whether the write happened is not known. A read returns ctx's error
// when ctx ends first. A write returns ctx's error only if it was still waiting for its turn when ctx ended, and then it
// does not happen; once it has begun, it waits for its outcome.
type Store interface {
	// CreateConversation records c. It sets nothing in c but Version, CreateTime and UpdateTime (from c.CreateTime).
	CreateConversation(ctx context.Context, c *Conversation) error
	// GetConversation returns a conversation with its head and its active turn.
	GetConversation(ctx context.Context, team string, id ID) (*Conversation, error)
	// ListConversations returns at most limit conversations with an id below before (zero: no bound), by falling id.
	ListConversations(ctx context.Context, team string, before ID, limit int) ([]*Conversation, error)
	// UpdateConversation replaces c.Spec and sets UpdateTime if the stored version equals c.Version, and returns what
	// is stored then; otherwise ErrEtagMismatch. A caller without an etag reads and tries again.
	UpdateConversation(ctx context.Context, c *Conversation) (*Conversation, error)
	// DeleteConversation removes a conversation with its turns and messages. It is ErrConversationBusy (naming the turn)
	// while a turn runs in it and ErrEtagMismatch unless version is zero or the stored one. The conversation is gone for
	// every reader when it returns; its rows may go later, in bounded batches.
	DeleteConversation(ctx context.Context, team string, id ID, version Version) error

	// History yields the messages of the main line from position upTo (exclusive; HeadPosition is all) back to the first.
	// It reads in bounded pieces and keeps no transaction open between them; the messages up to a head never change.
	History(ctx context.Context, team string, conversation ID, upTo int64) iter.Seq2[*StoredMessage, error]
	// ListMessages returns messages of the main line from position from (inclusive, the first is 0) up to the head, by
	// rising position: at most limit of them, and none after those whose content together passes maxBytes.
	ListMessages(ctx context.Context, team string, conversation ID, from int64, limit, maxBytes int) ([]*StoredMessage, error)

	// BeginTurn records a running turn with its input: all of a or, with an error, nothing of it. ErrNotFound: no such
	// conversation. ErrConversationBusy: another turn runs on the main line; the Error names it. ErrHeadMoved: see there.
	BeginTurn(ctx context.Context, a *Admission) error
	// EndTurn records the end of a running turn: state, end time, result and output. If the state is answered, the
	// conversation's head moves to the turn, in the same transaction. ErrTurnEnded: it had ended already, or is an orphan
	// that Orphans has not returned yet. ErrNotFound: it was never recorded.
	EndTurn(ctx context.Context, e *End) error
	// GetTurn returns a turn, with input and output if content is true.
	GetTurn(ctx context.Context, team string, id ID, content bool) (*Turn, error)
	// ListTurns returns at most limit turns without content and with an id below before (zero: no bound), by falling id:
	// those of a conversation (ErrNotFound if there is none), or all of the team where conversation is zero.
	ListTurns(ctx context.Context, team string, conversation ID, before ID, limit int) ([]*Turn, error)
	// DeleteTurn removes an ended one-shot turn with its content. ErrConversationBusy while it runs, ErrInvalidState for
	// a turn of a conversation.
	DeleteTurn(ctx context.Context, team string, id ID) error

	// Orphans returns the running turns, of all teams, whose owner is gone; after that they are this process's to end.
	// To be called once, before the first BeginTurn. Without content.
	Orphans(ctx context.Context) ([]*Turn, error)
	// Ping reports whether the store can be written, without writing any turn. It returns as soon as ctx ends.
	Ping(ctx context.Context) error
	// Close waits for writes that have begun and closes the database. Every later call is StoreUnavailable.
	Close() error
}

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
	// Turn is the turn in state Running, with Input and the first attempt as AttemptIntent.
	Turn *Turn
	// InputTokens are the sizes of Turn.Input, as StoredMessage.Tokens.
	InputTokens []int64
}

// End is what EndTurn records: the final State, EndTime, Output and Result of the turn.
type End struct {
	Turn *Turn
	// OutputTokens are the sizes of Turn.Output, as StoredMessage.Tokens.
	OutputTokens []int64
}
