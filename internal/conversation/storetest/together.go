package storetest

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// reads are all the methods that look something up, each with the error of a name of the team.
func (b *bench) reads(ctx context.Context, owner string, c, turn conversation.ID) map[string]error {
	errs := make(map[string]error)
	_, errs["GetConversation"] = b.GetConversation(ctx, owner, c)
	_, errs["ListMessages"] = b.ListMessages(ctx, owner, c, conversation.Place{}, 0, 10, 1000)
	for _, err := range b.History(ctx, owner, c, conversation.Place{Branch: c, Position: 10}) {
		errs["History"] = err
		break
	}
	_, errs["GetTurn"] = b.GetTurn(ctx, owner, turn, false)
	_, errs["GetTurn with content"] = b.GetTurn(ctx, owner, turn, true)
	_, errs["Events"] = b.Events(ctx, owner, turn, 0, 1000)
	_, errs["ListTurns"] = b.ListTurns(ctx, owner, conversation.TurnFilter{Conversation: c}, conversation.ID{}, 10)
	return errs
}

func (b *bench) writes(ctx context.Context, owner string, c, turn conversation.ID) map[string]error {
	errs := make(map[string]error)
	_, errs["UpdateConversation"] = b.UpdateConversation(ctx, &conversation.Conversation{
		ID: c, Team: owner, Version: conversation.Version{Spec: 1, Head: 1},
	})
	errs["DeleteConversation"] = b.DeleteConversation(ctx, owner, c, conversation.Version{})
	next := newTurn(owner, c, conversation.ID{}, "hi")
	errs["BeginTurn"] = b.BeginTurn(ctx, &conversation.Admission{Turn: next, InputTokens: []int64{1}})
	ended := newTurn(owner, c, conversation.ID{}, "")
	ended.ID, ended.State, ended.EndTime = turn, conversation.Completed, at(1)
	errs["EndTurn"] = b.EndTurn(ctx, &conversation.End{Turn: ended})
	errs["DeleteTurn"] = b.DeleteTurn(ctx, owner, turn)
	fork := &conversation.Conversation{ID: newID(), Team: owner, CreateTime: at(1)}
	errs["ForkConversation"] = b.ForkConversation(ctx, fork, c, conversation.ID{})
	errs["RecordAttempt"] = b.RecordAttempt(ctx, ended, 0)
	errs["RequestCancel"] = b.RequestCancel(ctx, owner, turn)
	errs["AttachTurn"] = b.AttachTurn(ctx, owner, turn)
	errs["DetachTurn"] = b.DetachTurn(ctx, owner, turn)
	return errs
}

func teams(b *bench) {
	t := b.t
	c := b.create(team)
	turn := newTurn(team, c.ID, conversation.ID{}, "secret")
	b.ok(b.begin(turn))
	for _, errs := range []map[string]error{b.reads(b.ctx(), other, c.ID, turn.ID), b.writes(b.ctx(), other, c.ID, turn.ID)} {
		for method, err := range errs {
			if !errors.Is(err, conversation.ErrNotFound) {
				t.Errorf("%s with another team's name: %v", method, err)
			}
		}
	}
	for method, err := range b.reads(b.ctx(), team, c.ID, turn.ID) {
		if err != nil {
			t.Errorf("%s with its own: %v", method, err)
		}
	}
	b.stored(turn)
}

func unknownNames(b *bench) {
	t := b.t
	b.create(team)
	for _, errs := range []map[string]error{b.reads(b.ctx(), team, newID(), newID()), b.writes(b.ctx(), team, newID(), newID())} {
		for method, err := range errs {
			if !errors.Is(err, conversation.ErrNotFound) {
				t.Errorf("%s with an unknown name: %v", method, err)
			}
		}
	}
}

func concurrentBegin(b *bench) {
	t := b.t
	c := b.create(team)
	var head conversation.ID
	for range 5 {
		const callers = 40
		turns, errs := make([]*conversation.Turn, callers), make([]error, callers)
		var wg sync.WaitGroup
		for i := range callers {
			turns[i] = newTurn(team, c.ID, head, "me")
			wg.Go(func() { errs[i] = b.begin(turns[i]) })
		}
		wg.Wait()
		winner := b.get(c).ActiveTurn
		won := 0
		for i, err := range errs {
			if err == nil {
				won++
				equal(t, "active turn", winner, turns[i].ID)
				head = turns[i].ID
				defer b.stored(turns[i])
				continue
			}
			b.busy(err, winner)
			_, err := b.GetTurn(b.ctx(), team, turns[i].ID, false)
			b.is(err, conversation.ErrNotFound)
		}
		equal(t, "winners", won, 1)
		for i := range turns {
			if errs[i] == nil {
				b.ok(b.end(turns[i], conversation.Completed, "you"))
			}
		}
	}
	equal(t, "the line's length", len(b.line(c)), 10)
}

// chains has hundreds of turns in many conversations at once, with other work between them, and then looks whether all is
// consistent.
func chains(b *bench) {
	t := b.t
	const conversations, turns = 60, 8
	type chain struct {
		c        *conversation.Conversation
		answered []*conversation.Turn
		all      []*conversation.Turn
	}
	cs := make([]chain, conversations)
	var wg sync.WaitGroup
	for i := range cs {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i))) //nolint:gosec // the same turns in every run
			owner := []string{team, other}[i%2]
			ch := &cs[i]
			ch.c = &conversation.Conversation{ID: newID(), Team: owner, CreateTime: at(0)}
			if err := b.CreateConversation(b.ctx(), ch.c); err != nil {
				t.Error(err)
				return
			}
			var head conversation.ID
			for range turns {
				turn := newTurn(owner, ch.c.ID, head, "q")
				for range r.IntN(3) {
					turn.Input = append(turn.Input, text(conversation.RoleUser, "q too"))
				}
				if err := b.begin(turn); err != nil {
					t.Error(err)
					return
				}
				shot := newTurn(owner, conversation.ID{}, conversation.ID{}, "shot")
				state := []conversation.State{
					conversation.Completed, conversation.Incomplete, conversation.Failed, conversation.Cancelled,
				}[r.IntN(4)]
				var shots sync.WaitGroup
				shots.Go(func() { // a bystander
					if err := errors.Join(b.begin(shot), b.end(shot, state, "a"), b.DeleteTurn(b.ctx(), owner, shot.ID)); err != nil {
						t.Error(err)
					}
				})
				if err := b.end(turn, state, "a"); err != nil {
					t.Error(err)
				}
				shots.Wait()
				ch.all = append(ch.all, turn)
				if state.Answered() {
					head = turn.ID
					ch.answered = append(ch.answered, turn)
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, ch := range cs {
		line := b.line(ch.c)
		for _, turn := range ch.answered {
			for _, m := range append(turn.Input, turn.Output...) {
				equal(t, "message", line[0].Message, m)
				equal(t, "its turn", line[0].Turn, turn.ID)
				line = line[1:]
			}
		}
		equal(t, "messages of no answered turn", len(line), 0)
		equal(t, "head version", b.get(ch.c).Version.Head, int64(1+len(ch.answered)))
		for _, turn := range ch.all {
			b.stored(turn)
		}
	}
}

func cancelledContext(b *bench) {
	t := b.t
	c := b.create(team)
	before := b.get(c)
	shot := newTurn(team, conversation.ID{}, conversation.ID{}, "hi")
	b.ok(b.begin(shot))
	ctx, cancel := context.WithCancel(b.ctx())
	cancel()
	errs := b.reads(ctx, team, c.ID, shot.ID)
	maps.Copy(errs, b.writes(ctx, team, c.ID, shot.ID))
	errs["CreateConversation"] = b.CreateConversation(ctx, &conversation.Conversation{ID: newID(), Team: team})
	_, errs["ListConversations"] = b.ListConversations(ctx, team, conversation.ID{}, 10)
	_, errs["GetClaim"] = b.GetClaim(ctx, team, "id")
	_, errs["AppendEvents"] = b.AppendEvents(ctx, []conversation.EventBatch{{Team: team, Turn: shot.ID, Events: deltas(1, "a")}})
	_, errs["Duties"] = b.Duties(ctx)
	errs["Ping"] = b.Ping(ctx)
	for method, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", method, err)
		}
	}
	equal(t, "the conversation", *b.get(c), *before)
	b.stored(shot)
	list, err := b.ListConversations(b.ctx(), team, conversation.ID{}, 10)
	b.ok(err)
	equal(t, "number of conversations", len(list), 1)
}

func closed(b *bench) {
	t := b.t
	c := b.create(team)
	b.ok(b.Ping(b.ctx()))
	b.ok(b.Close())
	errs := b.reads(b.ctx(), team, c.ID, newID())
	maps.Copy(errs, b.writes(b.ctx(), team, c.ID, newID()))
	errs["CreateConversation"] = b.CreateConversation(b.ctx(), &conversation.Conversation{ID: newID(), Team: team})
	_, errs["ListConversations"] = b.ListConversations(b.ctx(), team, conversation.ID{}, 10)
	_, errs["GetClaim"] = b.GetClaim(b.ctx(), team, "id")
	_, errs["AppendEvents"] = b.AppendEvents(b.ctx(), []conversation.EventBatch{{Team: team, Turn: newID(), Events: deltas(1, "a")}})
	_, errs["Duties"] = b.Duties(b.ctx())
	errs["Ping"] = b.Ping(b.ctx())
	for method, err := range errs {
		if !errors.Is(err, conversation.ErrStoreUnavailable) {
			t.Errorf("%s: %v", method, err)
		}
	}
}
