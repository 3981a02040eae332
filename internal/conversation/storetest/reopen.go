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

func orphans(b *bench, reopen func()) {
	t := b.t
	c := b.create(team)
	b.turn(c, conversation.ID{}, conversation.Failed, "over")
	running := []*conversation.Turn{
		newTurn(team, c.ID, conversation.ID{}, "in a conversation"),
		newTurn(team, conversation.ID{}, conversation.ID{}, "one-shot"),
		newTurn(other, conversation.ID{}, conversation.ID{}, "another team's"),
	}
	for _, turn := range running {
		b.ok(b.begin(turn))
	}
	reopen()
	early := *running[1]
	b.is(b.end(&early, conversation.Failed, ""), conversation.ErrTurnEnded) // not this process's yet
	found, err := b.Orphans(b.ctx())
	b.ok(err)
	equal(t, "orphans", len(found), len(running))
	byID := make(map[conversation.ID]*conversation.Turn)
	for _, turn := range found {
		byID[turn.ID] = turn
	}
	for _, turn := range running {
		if byID[turn.ID] == nil {
			t.Fatalf("the turn %q is not among the orphans", turn.Input[0].Text())
		}
		equal(t, "orphan", *byID[turn.ID], without(turn))
		b.stored(turn)
	}
	b.busy(b.begin(newTurn(team, c.ID, conversation.ID{}, "next")), running[0].ID)
	for _, turn := range running[:2] {
		b.ok(b.end(turn, conversation.Failed, ""))
		b.stored(turn)
	}
	b.turn(c, conversation.ID{}, conversation.Completed, "next")
	reopen()
	found, err = b.Orphans(b.ctx())
	b.ok(err)
	if len(found) != 1 || found[0].ID != running[2].ID {
		t.Fatalf("%d orphans, want the one that was not ended", len(found))
	}
	equal(t, "the line's length", len(b.line(c)), 2)
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
