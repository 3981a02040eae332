package storetest

import (
	"github.com/chatsvc/chatsvc/internal/conversation"
)

func durable(b *bench, reopen func()) {
	t := b.t
	c := b.create(team)
	turns := b.talk(c, 5)
	turns = append(turns, b.turn(c, turns[4].ID, conversation.Failed, "lost"))
	shot := newTurn(other, conversation.ID{}, conversation.ID{}, "shot")
	b.ok(b.begin(shot))
	b.ok(b.end(shot, conversation.Completed, "shot"))
	want, line := b.get(c), b.line(c)
	for range 2 {
		reopen()
		equal(t, "the conversation", *b.get(c), *want)
		equal(t, "its line", b.line(c), line)
		for _, turn := range append(turns, shot) {
			b.stored(turn)
		}
	}
	b.turn(c, turns[4].ID, conversation.Completed, "goes on")
	equal(t, "the line's length", len(b.line(c)), len(line)+2)
}

// takenOver has a process end with turns of every kind, and the next take them over.
func takenOver(b *bench, reopen func()) {
	t := b.t
	c := b.create(team)
	base := b.turn(c, conversation.ID{}, conversation.Completed, "base")
	head := b.get(c).Head
	want := make(map[conversation.ID]*conversation.Taken)
	add := func(turn *conversation.Turn, fork bool, base conversation.Place, overrides conversation.Overrides) {
		a := b.admission(turn)
		a.Base, a.Fork, a.Overrides = base, fork, overrides
		b.ok(b.BeginTurn(b.ctx(), a))
		want[turn.ID] = &conversation.Taken{
			Turn: turn, Base: base, Fork: fork, Overrides: overrides, Deadline: a.Deadline, Takeovers: 1,
		}
	}
	none := conversation.Overrides{}
	instructions, zero := "be \x00 brief", 0.0
	main := newTurn(team, c.ID, base.ID, "in a conversation")
	add(main, false, head, conversation.Overrides{
		Instructions: &instructions, Model: "m", Config: conversation.Config{Temperature: &zero}, Tools: fullSpec().Tools,
		ToolChoice: fullSpec().ToolChoice,
	})
	fork := newTurn(team, c.ID, base.ID, "on a branch")
	add(fork, true, head, none)
	waits := newTurn(team, c.ID, conversation.ID{}, "waits")
	waits.State = conversation.Queued
	add(waits, false, conversation.Place{}, none)
	shot := fullTurn(conversation.ID{})
	add(shot, false, conversation.Place{}, none)
	theirs := newTurn(other, conversation.ID{}, conversation.ID{}, "another team's")
	add(theirs, false, conversation.Place{}, none)
	b.ok(b.RequestCancel(b.ctx(), other, theirs.ID)) // outlives the owner
	want[theirs.ID].Cancel = true
	lost, err := b.AppendEvents(b.ctx(), []conversation.EventBatch{{Team: team, Turn: main.ID, Events: deltas(1, "a", "b")}})
	b.ok(err)
	equal(t, "number of lost turns", len(lost), 0)
	over := b.turn(b.create(team), conversation.ID{}, conversation.Failed, "over")

	reopen()
	got := make(map[conversation.ID]*conversation.Taken)
	for len(got) < len(want) {
		for _, taken := range b.duties().Taken {
			got[taken.Turn.ID] = taken
		}
	}
	for id, w := range want {
		g := got[id]
		if g == nil {
			t.Fatalf("the turn %q is not taken over", w.Turn.Input[0].Text())
		}
		equal(t, "turn", *g.Turn, *w.Turn)
		if w.Turn.State == conversation.Running && !w.Turn.Conversation.IsZero() {
			equal(t, "position", g.Base.Position, w.Base.Position)
			equal(t, "tokens", g.Base.Tokens, w.Base.Tokens)
			var before []conversation.Message
			for m, err := range b.History(b.ctx(), team, c.ID, g.Base) {
				b.ok(err)
				before = append([]conversation.Message{m.Message}, before...)
			}
			equal(t, "messages before", before, append(base.Input, base.Output...))
		}
		a, z := *g, *w
		a.Turn, z.Turn, a.Base, z.Base = nil, nil, conversation.Place{}, conversation.Place{}
		equal(t, "what is known of a turn that was taken over", a, z)
	}

	b.busy(b.begin(newTurn(team, c.ID, base.ID, "next")), main.ID)
	events := append(deltas(1, "a", "b"), deltas(conversation.SequenceBlock+1, "c")...)
	lost, err = b.AppendEvents(b.ctx(), []conversation.EventBatch{
		{Team: team, Turn: main.ID, Events: events[2:]}, {Team: team, Turn: over.ID}, {Team: team, Turn: shot.ID},
	})
	b.ok(err)
	equal(t, "lost turns", lost, []conversation.ID{over.ID})
	log, err := b.Events(b.ctx(), team, main.ID, 0, 1000)
	b.ok(err)
	equal(t, "log of both owners", log, events)
	for _, turn := range []*conversation.Turn{main, fork, shot} {
		b.ok(b.end(turn, conversation.Completed, "answer"))
		b.stored(turn)
	}
	equal(t, "head", b.get(c).HeadTurn, main.ID)
	waits.State, waits.Parent = conversation.Running, main.ID
	b.ok(b.begin(waits))
	b.ok(b.end(waits, conversation.Completed, "last"))
	b.stored(waits)
	equal(t, "the line's length", len(b.line(c)), 6)

	reopen()
	again := b.duties().Taken
	if len(again) != 1 || again[0].Turn.ID != theirs.ID || again[0].Takeovers != 2 {
		t.Fatalf("%d turns are taken over again, want the one that was not ended", len(again))
	}
}

func deletedStaysDeleted(b *bench, reopen func()) {
	t := b.t
	c := b.create(team)
	turns := b.talk(c, 50)
	b.ok(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}))
	for range 2 {
		reopen()
		for method, err := range b.reads(b.ctx(), team, c.ID, turns[7].ID) {
			if err == nil {
				t.Errorf("%s finds what was deleted", method)
				continue
			}
			b.is(err, conversation.ErrNotFound)
		}
	}
}

// callersEnd checks that a turn whose callers end with its owner is not asked to be cancelled for that: it is taken over.
func callersEnd(b *bench, reopen func()) {
	turn := newTurn(team, conversation.ID{}, conversation.ID{}, "hi")
	turn.RequestID = "id"
	b.ok(b.begin(turn))
	reopen()
	for taken := false; !taken; {
		for _, d := range b.duties().Taken {
			equal(b.t, "to be cancelled", d.Cancel, false)
			taken = true
		}
	}
	b.ok(b.end(turn, conversation.Failed, ""))
}
