package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// stormBetween has callers of two processes do everything at once to a few conversations, with request ids that others have
// too, and then looks whether all is consistent.
func stormBetween(a, b *bench) {
	const conversations, callers, steps = 3, 12, 12
	both := []*bench{a, b}
	cs := make([]*conversation.Conversation, conversations)
	for i := range cs {
		cs[i] = a.create(team)
	}
	turns := make([][]*conversation.Turn, callers)
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(i))) //nolint:gosec // the same choices in every run
			s := both[i%2]
			for step := range steps {
				turn, err := s.storm(r, cs[r.IntN(conversations)], fmt.Sprintf("%d", (step+i)/4))
				if err != nil {
					errs[i] = fmt.Errorf("step %d: %w", step, err)
					return
				}
				if turn != nil {
					turns[i] = append(turns[i], turn)
				}
			}
		})
	}
	wg.Wait()
	a.ok(errors.Join(errs...))
	answered := make(map[conversation.ID]int)
	for i := range turns {
		for _, turn := range turns[i] {
			both[(i+1)%2].stored(turn)
			if turn.State == conversation.Completed {
				answered[turn.Conversation]++
			}
		}
	}
	for i, c := range cs {
		equal(a.t, "active turn", a.get(c).ActiveTurn, conversation.ID{})
		equal(a.t, "messages", len(both[i%2].line(c)), 2*answered[c.ID])
		a.ok(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}))
	}
}

// storm has one turn begin in some way, be written about by several callers, and end. It is nil if it was refused.
func (b *bench) storm(r *rand.Rand, c *conversation.Conversation, id string) (*conversation.Turn, error) {
	head, err := b.GetConversation(b.ctx(), team, c.ID)
	if err != nil {
		return nil, err
	}
	turn := newTurn(team, c.ID, head.HeadTurn, "hi")
	if r.IntN(2) == 0 {
		turn.RequestID = id
	}
	a := b.admission(turn)
	a.Base = head.Head
	kind := r.IntN(4)
	switch kind {
	case 0:
		turn.Conversation, turn.Parent, a.Base = conversation.ID{}, conversation.ID{}, conversation.Place{}
	case 1:
		a.Fork = true
	case 2:
		turn.State = conversation.Queued
	}
	if err := b.BeginTurn(b.ctx(), a); err != nil {
		var claimed *conversation.ClaimedError
		if errors.As(err, &claimed) || errors.Is(err, conversation.ErrConversationBusy) || errors.Is(err, conversation.ErrHeadMoved) {
			return nil, nil //nolint:nilnil // refused
		}
		return nil, fmt.Errorf("begin: %w", err)
	}
	if kind == 2 {
		if err := b.startWhenFirst(a); err != nil {
			return nil, fmt.Errorf("start: %w", err)
		}
	}
	var others sync.WaitGroup
	errs := make([]error, 4)
	others.Go(func() { errs[0] = b.AttachTurn(b.ctx(), team, turn.ID) })
	others.Go(func() { errs[1] = b.RequestCancel(b.ctx(), team, turn.ID) })
	others.Go(func() { errs[2] = b.DetachTurn(b.ctx(), team, turn.ID) })
	_, errs[3] = b.AppendEvents(b.ctx(), []conversation.EventBatch{{Team: team, Turn: turn.ID, Events: deltas(2, "a")}})
	ended := *turn
	ended.State, ended.EndTime = conversation.Completed, at(5)
	ended.Output = []conversation.Message{text(conversation.RoleAssistant, "ho")}
	states := []conversation.State{conversation.Completed, conversation.Failed, conversation.Cancelled}
	if kind == 0 || kind == 1 {
		states = states[1:] // so that what is answered is on the main line
	}
	ended.State = states[r.IntN(len(states))]
	err = b.EndTurn(b.ctx(), &conversation.End{Turn: &ended, OutputTokens: count(ended.Output), Events: deltas(3, "b")})
	others.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, conversation.ErrTurnEnded) {
			return nil, fmt.Errorf("beside the end: %w", err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("end: %w", err)
	}
	return &ended, nil
}

// startWhenFirst has a turn that waits begin as soon as no other is before it.
func (b *bench) startWhenFirst(a *conversation.Admission) error {
	wake, stop := b.Subscribe(a.Turn.Conversation)
	defer stop()
	for {
		c, err := b.GetConversation(b.ctx(), team, a.Turn.Conversation)
		if err != nil {
			return err
		}
		a.Turn.State, a.Turn.Parent, a.Base = conversation.Running, c.HeadTurn, c.Head
		err = b.BeginTurn(b.ctx(), a)
		if _, waits := errors.AsType[*conversation.QueuedError](err); !waits && !errors.Is(err, conversation.ErrHeadMoved) {
			return err
		}
		select {
		case <-wake:
		case <-time.After(20 * time.Millisecond): // a wake-up can be lost
		}
	}
}
