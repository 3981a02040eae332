package storetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A reopenCase is a case of RunReopen: reopen closes the store and opens it again, as the next process would. A store looks for
// what is to go when it is opened.
type reopenCase struct {
	name string
	test func(b *bench, reopen func())
}

// retentionCases are about what a store removes by itself, or later than it was asked to. They expect the retention to be
// what it is where nothing is set, 24 hours.
func retentionCases() []reopenCase {
	return []reopenCase{
		{"ForkOutlivesItsOrigin", forkOutlivesItsOrigin},
		{"DeletedIsGoneAtOnce", deletedIsGoneAtOnce},
		{"OneShotsExpire", oneShotsExpire},
		{"ClaimsExpire", claimsExpire},
		{"EventsExpire", eventsExpire},
		{"ConversationsExpire", conversationsExpire},
		{"ExpiredWhileTurnRuns", expiredWhileTurnRuns},
	}
}

// longAgo is more than a day, the n-th of times that rise.
func longAgo(n int) time.Time { return time.Now().Add(-30*time.Hour + time.Duration(n)*time.Second) }

// idAt returns an id that was made at t.
func idAt(t time.Time) conversation.ID {
	id := newID()
	var time [8]byte
	binary.BigEndian.PutUint64(time[:], uint64(t.UnixMilli())<<16)
	copy(id[:6], time[:6])
	return id
}

// eventually waits until is says true.
func (b *bench) eventually(what string, is func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); runtime.Gosched() {
		if time.Now().After(deadline) {
			b.t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// shot records a one-shot turn that was made at t, with a log of two batches.
func (b *bench) shot(at time.Time, requestID string) *conversation.Turn {
	b.t.Helper()
	t := newTurn(team, conversation.ID{}, conversation.ID{}, "shot")
	t.ID, t.CreateTime, t.RequestID = idAt(at), at, requestID
	b.ok(b.BeginTurn(b.ctx(), &conversation.Admission{Turn: t, InputTokens: count(t.Input)}))
	b.record(t)
	return t
}

// record makes two batches of events of a running turn durable.
func (b *bench) record(t *conversation.Turn) {
	b.t.Helper()
	for i := range 2 {
		lost, err := b.AppendEvents(b.ctx(), []conversation.EventBatch{{Team: t.Team, Turn: t.ID, Events: []conversation.Event{{
			Sequence: int64(i + 2), Time: at(i), Kind: conversation.EventTextDelta, Text: fmt.Sprint("delta ", i),
		}}}})
		b.ok(err)
		if len(lost) > 0 {
			b.t.Fatalf("turn %x is lost", t.ID)
		}
	}
}

// finish ends t with an answer.
func (b *bench) finish(t *conversation.Turn) {
	b.t.Helper()
	ended := *t
	ended.State, ended.EndTime = conversation.Completed, t.CreateTime.Add(time.Second)
	ended.Output = []conversation.Message{text(conversation.RoleAssistant, "answer")}
	ended.Result.FinishReason = conversation.FinishStop
	b.ok(b.EndTurn(b.ctx(), &conversation.End{Turn: &ended, OutputTokens: count(ended.Output)}))
}

// logged returns how many events of a turn of the team are kept.
func (b *bench) logged(id conversation.ID) int {
	b.t.Helper()
	events, err := b.Events(b.ctx(), team, id, 0, 1<<20)
	b.ok(err)
	return len(events)
}

// say returns what the messages before a place say.
func (b *bench) say(c *conversation.Conversation, before conversation.Place) []string {
	b.t.Helper()
	var said []string
	for m, err := range b.History(b.ctx(), c.Team, c.ID, before) {
		b.ok(err)
		said = append(said, m.Text())
	}
	slices.Reverse(said)
	return said
}

// answer adds an answered turn to the head of c.
func (b *bench) answer(c *conversation.Conversation, say string) *conversation.Turn {
	b.t.Helper()
	head := b.get(c)
	t := newTurn(c.Team, c.ID, head.HeadTurn, say)
	b.ok(b.BeginTurn(b.ctx(), &conversation.Admission{Turn: t, Base: head.Head, InputTokens: count(t.Input)}))
	b.record(t)
	b.finish(t)
	return t
}

// gone checks that a conversation and a turn of it are unknown.
func (b *bench) gone(c *conversation.Conversation, turn conversation.ID) {
	b.t.Helper()
	_, err := b.GetConversation(b.ctx(), c.Team, c.ID)
	b.is(err, conversation.ErrNotFound)
	_, err = b.GetTurn(b.ctx(), c.Team, turn, true)
	b.is(err, conversation.ErrNotFound)
	_, err = b.Events(b.ctx(), c.Team, turn, 0, 1<<20)
	b.is(err, conversation.ErrNotFound)
	_, err = b.ListTurns(b.ctx(), c.Team, conversation.TurnFilter{Conversation: c.ID}, conversation.ID{}, 10)
	b.is(err, conversation.ErrNotFound)
	for _, err := range b.History(b.ctx(), c.Team, c.ID, conversation.Place{Branch: c.ID, Position: 1}) {
		b.is(err, conversation.ErrNotFound)
	}
}

func forkOutlivesItsOrigin(b *bench, reopen func()) {
	origin := b.create(team)
	var turns []*conversation.Turn
	for i := range 4 {
		turns = append(turns, b.answer(origin, fmt.Sprint("origin ", i)))
	}
	fork := func(from *conversation.Conversation, turn conversation.ID) *conversation.Conversation {
		c := &conversation.Conversation{ID: newID(), Team: team, CreateTime: at(0)}
		b.ok(b.ForkConversation(b.ctx(), c, from.ID, turn))
		return c
	}
	first := fork(origin, turns[1].ID)
	second := fork(first, conversation.ID{}) // of a fork that has nothing of its own
	b.answer(first, "first")
	third := fork(first, conversation.ID{})
	b.answer(third, "third")

	live := map[string]*conversation.Conversation{"first": first, "second": second, "third": third}
	want := make(map[string][]string)
	for name, c := range live {
		want[name] = b.say(c, b.get(c).Head)
	}
	equal(b.t, "the first fork", want["first"], []string{"origin 0", "answer", "origin 1", "answer", "first", "answer"})
	for _, step := range []struct {
		name string
		c    *conversation.Conversation
		turn conversation.ID
	}{
		{"origin", origin, turns[3].ID}, {"first", first, b.get(first).HeadTurn}, {"second", second, turns[0].ID}, {"third", third, turns[0].ID},
	} {
		b.ok(b.DeleteConversation(b.ctx(), team, step.c.ID, conversation.Version{}))
		delete(live, step.name)
		b.gone(step.c, step.turn)
		for range 2 {
			for name, c := range live {
				equal(b.t, name, b.say(c, b.get(c).Head), want[name])
			}
			reopen()
		}
		b.gone(step.c, step.turn)
	}
}

func deletedIsGoneAtOnce(b *bench, reopen func()) {
	c := b.create(team)
	var last *conversation.Turn
	for i := range 20 {
		last = b.answer(c, fmt.Sprint(i))
	}
	b.ok(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}))
	b.gone(c, last.ID)
	reopen()
	b.gone(c, last.ID)

	shot := b.shot(time.Now(), "")
	b.finish(shot)
	if b.logged(shot.ID) == 0 {
		b.t.Fatal("a turn has no log")
	}
	b.ok(b.DeleteTurn(b.ctx(), team, shot.ID))
	_, err := b.Events(b.ctx(), team, shot.ID, 0, 1<<20)
	b.is(err, conversation.ErrNotFound)
}

func oneShotsExpire(b *bench, reopen func()) {
	old, running, behind, young := b.shot(longAgo(0), ""), b.shot(longAgo(1), ""), b.shot(longAgo(2), ""), b.shot(time.Now(), "")
	for _, t := range []*conversation.Turn{old, behind, young} {
		b.finish(t)
	}
	expired := func(t *conversation.Turn) bool {
		got, err := b.GetTurn(b.ctx(), team, t.ID, true)
		b.ok(err)
		if got.ContentExpired == (len(got.Input) == 1) {
			b.t.Fatalf("content expired %v, with %d messages of input", got.ContentExpired, len(got.Input))
		}
		if without, err := b.GetTurn(b.ctx(), team, t.ID, false); err != nil || without.ContentExpired {
			b.t.Fatalf("the turn without content: %+v, %v", without, err)
		}
		return got.ContentExpired
	}
	reopen()
	b.eventually("the old turn has no content", func() bool { return expired(old) })
	b.eventually("the old turn has no log", func() bool { return b.logged(old.ID) == 0 })
	if expired(running) || expired(young) {
		b.t.Error("a turn that runs, or a young one, has lost its content")
	}
	b.take(running)
	b.finish(running)
	reopen()
	b.eventually("what ran and what is behind it have no content", func() bool { return expired(running) && expired(behind) })
	if expired(young) {
		b.t.Error("a young turn has lost its content")
	}
}

// take waits until a turn that an earlier process left is this one's.
func (b *bench) take(t *conversation.Turn) *conversation.Taken {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx(), 20*time.Second)
	defer cancel()
	for {
		d, err := b.Duties(ctx)
		b.ok(err)
		for _, taken := range d.Taken {
			if taken.Turn.ID == t.ID {
				return taken
			}
		}
	}
}

func claimsExpire(b *bench, reopen func()) {
	old, running, young := b.shot(longAgo(0), "old"), b.shot(longAgo(1), "running"), b.shot(time.Now(), "young")
	b.finish(old)
	b.finish(young)
	claimed := func(requestID string) bool {
		_, err := b.GetClaim(b.ctx(), team, requestID)
		if !errors.Is(err, conversation.ErrNotFound) {
			b.ok(err)
		}
		return err == nil
	}
	for _, id := range []string{"old", "running", "young"} {
		if !claimed(id) && id != "old" { // which may be gone: stores look when they like
			b.t.Fatalf("request id %s is free", id)
		}
	}
	reopen()
	b.eventually("the old request id is free", func() bool { return !claimed("old") })
	if !claimed("running") || !claimed("young") {
		b.t.Error("the request id of a turn that runs, or of a young one, is free")
	}
	b.take(running)
	b.finish(running)
	reopen()
	b.eventually("the request id of the turn that ran is free", func() bool { return !claimed("running") })
}

func eventsExpire(b *bench, reopen func()) {
	c := b.create(team)
	turn := func(at time.Time, parent *conversation.Turn) *conversation.Turn {
		t := newTurn(team, c.ID, conversation.ID{}, "say")
		t.ID, t.CreateTime = idAt(at), at
		a := &conversation.Admission{Turn: t, InputTokens: count(t.Input)}
		if parent != nil {
			t.Parent, a.Base = parent.ID, b.get(c).Head
		}
		b.ok(b.BeginTurn(b.ctx(), a))
		b.record(t)
		return t
	}
	old := turn(longAgo(0), nil)
	b.finish(old)
	running := turn(longAgo(1), old)
	young := b.shot(time.Now(), "")
	b.finish(young)
	reopen()
	b.eventually("the log of the old turn is gone", func() bool { return b.logged(old.ID) == 0 })
	if n, m := b.logged(running.ID), b.logged(young.ID); n != 2 || m != 2 {
		b.t.Errorf("%d and %d events are left of a turn that runs and of a young one", n, m)
	}
	got, err := b.GetTurn(b.ctx(), team, old.ID, true)
	b.ok(err)
	if got.OutputText() != "answer" {
		b.t.Errorf("the answer is %q", got.OutputText())
	}
	b.take(running)
	b.finish(running)
	reopen()
	b.eventually("the log of the turn that ran is gone", func() bool { return b.logged(running.ID) == 0 })
}

func conversationsExpire(b *bench, reopen func()) {
	expiring := func(at time.Time) *conversation.Conversation {
		c := &conversation.Conversation{ID: newID(), Team: team, CreateTime: longAgo(0), ExpireTime: at}
		b.ok(b.CreateConversation(b.ctx(), c))
		b.answer(c, "say")
		return c
	}
	later, never := expiring(time.Now().Add(time.Hour)), expiring(time.Time{})
	var old []*conversation.Conversation
	for i := range 150 { // more than are deleted at once
		old = append(old, expiring(time.Now().Add(time.Minute+time.Duration(i)*time.Microsecond)))
	}
	for _, c := range old {
		c = b.get(c)
		c.ExpireTime = longAgo(0)
		_, err := b.UpdateConversation(b.ctx(), c)
		b.ok(err)
	}
	reopen()
	b.eventually("the expired conversations are gone", func() bool {
		_, err := b.GetConversation(b.ctx(), team, old[0].ID)
		_, lastErr := b.GetConversation(b.ctx(), team, old[len(old)-1].ID)
		return errors.Is(err, conversation.ErrNotFound) && errors.Is(lastErr, conversation.ErrNotFound)
	})
	b.eventually("no other is left", func() bool {
		cs, err := b.ListConversations(b.ctx(), team, conversation.ID{}, 10)
		b.ok(err)
		return len(cs) == 2 && cs[0].ID == never.ID && cs[1].ID == later.ID
	})
}

func expiredWhileTurnRuns(b *bench, reopen func()) {
	c := &conversation.Conversation{ID: newID(), Team: team, CreateTime: longAgo(0), ExpireTime: longAgo(1)}
	b.ok(b.CreateConversation(b.ctx(), c))
	t := newTurn(team, c.ID, conversation.ID{}, "say")
	b.ok(b.BeginTurn(b.ctx(), &conversation.Admission{Turn: t, InputTokens: count(t.Input)}))
	reopen()
	cancelled := b.take(t).Cancel
	ctx, stop := context.WithTimeout(b.ctx(), 20*time.Second)
	defer stop()
	for !cancelled {
		d, err := b.Duties(ctx)
		b.ok(err)
		cancelled = slices.Contains(d.Cancel, t.ID)
	}
	b.get(c) // not before the turn has ended
	b.finish(t)
	reopen()
	b.eventually("the conversation is gone", func() bool {
		_, err := b.GetConversation(b.ctx(), team, c.ID)
		return errors.Is(err, conversation.ErrNotFound)
	})
	b.gone(c, t.ID)
}
