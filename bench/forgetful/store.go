// Package forgetful is a store that forgets: it has what the running turns need, in memory, and of conversations the
// messages. What the benchmark finds on it is what everything but a store costs.
//
// It keeps the contract of conversation.Store for turns on the main line of a conversation and for one-shot turns, as
// long as they run: a turn that has ended was never there, and its request id is free. It has no branches, no queues and
// no events, and so does not pass the suite that stores pass.
package forgetful

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// Store is a conversation.Store without a database. It is safe for concurrent use.
type Store struct {
	mu            sync.Mutex
	conversations map[conversation.ID]*thread
	turns         map[conversation.ID]*running
	claims        map[claimant]conversation.Claim
	cancel        []conversation.ID // asked for, and not yet in Duties
	asked         chan struct{}     // has a value when cancel may have some
}

var _ conversation.Store = (*Store)(nil)

// New returns a store that has nothing.
func New() *Store {
	return &Store{
		conversations: make(map[conversation.ID]*thread),
		turns:         make(map[conversation.ID]*running),
		claims:        make(map[claimant]conversation.Claim),
		asked:         make(chan struct{}, 1),
	}
}

// A thread is a conversation with its messages. Those that are there never change; new ones are only appended.
type thread struct {
	conversation.Conversation
	messages []*conversation.StoredMessage
}

// running is a turn that runs.
type running struct {
	turn        conversation.Turn
	inputTokens []int64
	read        bool // by its creators
}

// A claimant is who can have a request id.
type claimant struct{ team, requestID string }

// errForgotten is returned for what this store does not keep.
var errForgotten = fmt.Errorf("this store keeps nothing: %w", errors.ErrUnsupported)

// CreateConversation implements conversation.Store.
func (s *Store) CreateConversation(_ context.Context, c *conversation.Conversation) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Version, c.UpdateTime = conversation.Version{Spec: 1, Head: 1}, c.CreateTime
	s.conversations[c.ID] = &thread{Conversation: *c}
	return nil
}

// GetConversation implements conversation.Store.
func (s *Store) GetConversation(_ context.Context, team string, id conversation.ID) (*conversation.Conversation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	th, err := s.thread(team, id)
	if err != nil {
		return nil, err
	}
	c := th.Conversation
	return &c, nil
}

// thread returns a conversation of the team. The caller holds the lock.
func (s *Store) thread(team string, id conversation.ID) (*thread, error) {
	if th := s.conversations[id]; th != nil && th.Team == team {
		return th, nil
	}
	return nil, conversation.ErrNotFound
}

// History implements conversation.Store.
func (s *Store) History(
	_ context.Context, team string, id conversation.ID, before conversation.Place,
) iter.Seq2[*conversation.StoredMessage, error] {
	return func(yield func(*conversation.StoredMessage, error) bool) {
		messages, err := s.before(team, id, before)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, stored := range slices.Backward(messages) {
			m := *stored // the reader's to change
			if !yield(&m, nil) {
				return
			}
		}
	}
}

func (s *Store) before(team string, id conversation.ID, place conversation.Place) ([]*conversation.StoredMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	th, err := s.thread(team, id)
	if err != nil {
		return nil, err
	}
	return th.messages[:min(place.Position, int64(len(th.messages)))], nil
}

// BeginTurn implements conversation.Store.
func (s *Store) BeginTurn(_ context.Context, a *conversation.Admission) error {
	t := a.Turn
	if t.State != conversation.Running || a.Fork {
		return errForgotten
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	who := claimant{t.Team, t.RequestID}
	if claim, claimed := s.claims[who]; claimed {
		return &conversation.ClaimedError{Claim: claim}
	}
	if !t.Conversation.IsZero() {
		th, err := s.thread(t.Team, t.Conversation)
		switch {
		case err != nil:
			return err
		case !th.ActiveTurn.IsZero():
			busy := *conversation.ErrConversationBusy
			busy.Turn = th.ActiveTurn
			return &busy
		case th.HeadTurn != t.Parent:
			return conversation.ErrHeadMoved
		}
		th.ActiveTurn = t.ID
	}
	if t.RequestID != "" {
		s.claims[who] = conversation.Claim{Turn: t.ID, Fingerprint: a.Fingerprint}
	}
	s.turns[t.ID] = &running{turn: *t, inputTokens: a.InputTokens, read: true}
	return nil
}

// RecordAttempt implements conversation.Store.
func (s *Store) RecordAttempt(_ context.Context, t *conversation.Turn, _ int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.running(t.Team, t.ID)
	if err != nil {
		return err
	}
	r.turn.Result.Attempts = t.Result.Attempts
	return nil
}

// running returns a turn of the team. The caller holds the lock.
func (s *Store) running(team string, id conversation.ID) (*running, error) {
	if r := s.turns[id]; r != nil && r.turn.Team == team {
		return r, nil
	}
	return nil, conversation.ErrTurnEnded
}

// EndTurn implements conversation.Store. What it leaves of the turn is its messages, where a conversation goes on from them.
func (s *Store) EndTurn(_ context.Context, e *conversation.End) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.running(e.Turn.Team, e.Turn.ID)
	if err != nil {
		return err
	}
	delete(s.turns, e.Turn.ID)
	delete(s.claims, claimant{e.Turn.Team, r.turn.RequestID})
	if r.turn.Conversation.IsZero() {
		return nil
	}
	th, err := s.thread(r.turn.Team, r.turn.Conversation)
	if err != nil {
		return err
	}
	th.ActiveTurn = conversation.ID{}
	if e.Turn.State.Answered() {
		th.append(e.Turn.ID, r.turn.Input, r.inputTokens)
		th.append(e.Turn.ID, e.Turn.Output, e.OutputTokens)
		th.HeadTurn, th.UpdateTime = e.Turn.ID, e.Turn.EndTime
		th.Version.Head++
	}
	return nil
}

// append puts messages of a turn behind the others and moves the head there.
func (th *thread) append(turn conversation.ID, messages []conversation.Message, tokens []int64) {
	for i, m := range messages {
		th.messages = append(th.messages, &conversation.StoredMessage{
			Message: m, Turn: turn, Position: th.Head.Position, Tokens: tokens[i], TokensBefore: th.Head.Tokens,
		})
		th.Head = conversation.Place{Branch: th.ID, Position: th.Head.Position + 1, Tokens: th.Head.Tokens + tokens[i]}
	}
}

// GetTurn implements conversation.Store for turns that run.
func (s *Store) GetTurn(_ context.Context, team string, id conversation.ID, content bool) (*conversation.Turn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.running(team, id)
	if err != nil {
		return nil, conversation.ErrNotFound
	}
	t := r.turn
	if !content {
		t.Input = nil
	}
	return &t, nil
}

// GetClaim implements conversation.Store for turns that run.
func (s *Store) GetClaim(_ context.Context, team, requestID string) (*conversation.Claim, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if claim, claimed := s.claims[claimant{team, requestID}]; claimed {
		return &claim, nil
	}
	return nil, conversation.ErrNotFound
}

// AppendEvents implements conversation.Store but for keeping the events.
func (s *Store) AppendEvents(_ context.Context, batches []conversation.EventBatch) (lost []conversation.ID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range batches {
		if s.turns[b.Turn] == nil {
			lost = append(lost, b.Turn)
		}
	}
	return lost, nil
}

// Events returns none.
func (s *Store) Events(context.Context, string, conversation.ID, int64, int) ([]conversation.Event, error) {
	return nil, nil
}

// Subscribe returns a channel that never gets a value: nobody but this process changes anything.
func (s *Store) Subscribe(conversation.ID) (wake <-chan struct{}, stop func()) {
	return nil, func() {}
}

// Duties implements conversation.Store.
func (s *Store) Duties(ctx context.Context) (*conversation.Duties, error) {
	for {
		select {
		case <-s.asked:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s.mu.Lock()
		ids := s.cancel
		s.cancel = nil
		s.mu.Unlock()
		if len(ids) > 0 {
			return &conversation.Duties{Cancel: ids}, nil
		}
	}
}

// RequestCancel implements conversation.Store.
func (s *Store) RequestCancel(_ context.Context, team string, id conversation.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.running(team, id); err != nil {
		return err
	}
	s.askToCancel(id)
	return nil
}

// askToCancel adds a turn to the duties. The caller holds the lock.
func (s *Store) askToCancel(id conversation.ID) {
	s.cancel = append(s.cancel, id)
	select {
	case s.asked <- struct{}{}:
	default: // it has a value
	}
}

// AttachTurn implements conversation.Store.
func (s *Store) AttachTurn(_ context.Context, team string, id conversation.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.running(team, id)
	if err == nil {
		r.read = true
	}
	return err
}

// DetachTurn implements conversation.Store.
func (s *Store) DetachTurn(_ context.Context, team string, id conversation.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.running(team, id)
	if err != nil {
		return err
	}
	if r.read {
		s.askToCancel(id)
	}
	r.read = false
	return nil
}

// Retire does nothing: there is nothing to take over.
func (*Store) Retire() {}

// Release does nothing: there is nobody to take the turns over.
func (s *Store) Release(context.Context) error { return nil }

// Ping does nothing.
func (s *Store) Ping(context.Context) error { return nil }

// Close does nothing.
func (s *Store) Close() error { return nil }

// What follows is what a store would have to keep something for.

// ForkConversation is not supported.
func (s *Store) ForkConversation(context.Context, *conversation.Conversation, conversation.ID, conversation.ID) error {
	return errForgotten
}

// ListConversations is not supported.
func (s *Store) ListConversations(context.Context, string, conversation.ID, int) ([]*conversation.Conversation, error) {
	return nil, errForgotten
}

// UpdateConversation is not supported.
func (s *Store) UpdateConversation(context.Context, *conversation.Conversation) (*conversation.Conversation, error) {
	return nil, errForgotten
}

// DeleteConversation is not supported.
func (s *Store) DeleteConversation(context.Context, string, conversation.ID, conversation.Version) error {
	return errForgotten
}

// ListMessages is not supported.
func (s *Store) ListMessages(
	context.Context, string, conversation.ID, conversation.Place, int64, int, int,
) ([]*conversation.StoredMessage, error) {
	return nil, errForgotten
}

// ListTurns is not supported.
func (s *Store) ListTurns(context.Context, string, conversation.TurnFilter, conversation.ID, int) ([]*conversation.Turn, error) {
	return nil, errForgotten
}

// DeleteTurn is not supported.
func (s *Store) DeleteTurn(context.Context, string, conversation.ID) error { return errForgotten }
