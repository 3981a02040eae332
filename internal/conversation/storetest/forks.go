package storetest

import (
	"slices"
	"strconv"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// fork begins t on a branch of its own.
func (b *bench) fork(t *conversation.Turn, base conversation.Place) error {
	b.t.Helper()
	a := b.admission(t)
	a.Base, a.Fork = base, true
	return b.BeginTurn(b.ctx(), a)
}

// place is the end of a turn.
func (b *bench) place(t *conversation.Turn) conversation.Place {
	b.t.Helper()
	got, err := b.GetTurn(b.ctx(), t.Team, t.ID, false)
	b.ok(err)
	return got.End
}

// said checks what stands before a place, read backwards and forwards.
func (b *bench) said(c *conversation.Conversation, before conversation.Place, want ...string) {
	b.t.Helper()
	texts := make([]string, before.Position)
	n := before.Position
	tokens := before.Tokens
	for m, err := range b.History(b.ctx(), c.Team, c.ID, before) {
		b.ok(err)
		n--
		tokens -= m.Tokens
		if m.Position != n || m.TokensBefore != tokens {
			b.t.Fatalf("a message stands at %d with %d tokens before it, want %d and %d", m.Position, m.TokensBefore, n, tokens)
		}
		texts[n] = m.Text()
	}
	if n != 0 || tokens != 0 {
		b.t.Fatalf("%d messages and %d tokens are missing", n, tokens)
	}
	if want == nil {
		want = []string{}
	}
	equal(b.t, "history", texts, want)
	listed, err := b.ListMessages(b.ctx(), c.Team, c.ID, before, 0, 1<<20, 1<<30)
	b.ok(err)
	rising := []string{}
	for _, m := range listed {
		rising = append(rising, m.Text())
	}
	equal(b.t, "ListMessages", rising, want)
}

func forkTurns(b *bench) {
	t := b.t
	c := b.create(team)
	turns := b.talk(c, 3)
	before := b.get(c)
	main := newTurn(team, c.ID, turns[2].ID, "main")
	b.ok(b.begin(main))

	// Beside the running turn: of its head, of an earlier turn, of a branch, of what failed, and of nothing.
	early := newTurn(team, c.ID, turns[0].ID, "early")
	b.ok(b.fork(early, b.place(turns[0])))
	b.stored(early)
	head := newTurn(team, c.ID, turns[2].ID, "head")
	b.ok(b.fork(head, before.Head))
	none := newTurn(team, c.ID, conversation.ID{}, "none")
	b.ok(b.fork(none, conversation.Place{}))
	equal(t, "active turn", b.get(c).ActiveTurn, main.ID)
	b.ok(b.end(head, conversation.Failed, "f"))
	b.ok(b.end(early, conversation.Completed, "e"))
	b.ok(b.end(none, conversation.Incomplete, "n"))
	b.ok(b.end(main, conversation.Cancelled, "c"))
	equal(t, "the conversation", *b.get(c), *before)
	further := newTurn(team, c.ID, early.ID, "further")
	b.ok(b.fork(further, b.place(early)))
	b.ok(b.end(further, conversation.Completed, "g"))
	failed := newTurn(team, c.ID, head.ID, "of a failed one")
	b.ok(b.fork(failed, b.place(head)))
	b.ok(b.end(failed, conversation.Completed, "h"))
	cancelled := newTurn(team, c.ID, main.ID, "of a cancelled one")
	b.ok(b.fork(cancelled, b.place(main)))
	b.ok(b.end(cancelled, conversation.Completed, "i"))

	three := []string{"say a", "re: say a", "say b", "re: say b", "say c", "re: say c"}
	with := func(n int, more ...string) []string { return append(three[:n:n], more...) }
	b.said(c, b.get(c).Head, three...)
	b.said(c, b.place(early), with(2, "early", "e")...)
	b.said(c, b.place(head), with(6, "head", "f")...)
	b.said(c, b.place(none), "none", "n")
	b.said(c, b.place(main), with(6, "main", "c")...)
	b.said(c, b.place(further), with(2, "early", "e", "further", "g")...)
	b.said(c, b.place(failed), with(6, "head", "f", "of a failed one", "h")...)
	b.said(c, b.place(cancelled), with(6, "main", "c", "of a cancelled one", "i")...)
	b.said(c, b.place(turns[1]), three[:4]...)
	for _, turn := range []*conversation.Turn{main, early, head, none, further, failed, cancelled} {
		b.stored(turn)
	}
	equal(t, "the conversation", *b.get(c), *before)

	running := newTurn(team, c.ID, early.ID, "runs on a branch")
	b.ok(b.fork(running, b.place(early)))
	b.busy(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}), running.ID)
	b.ok(b.end(running, conversation.Completed, ""))
	b.is(b.fork(newTurn(other, c.ID, early.ID, "theirs"), b.place(early)), conversation.ErrNotFound)
	b.ok(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}))
	b.is(b.fork(newTurn(team, c.ID, early.ID, "late"), conversation.Place{}), conversation.ErrNotFound)
	_, err := b.GetTurn(b.ctx(), team, further.ID, true)
	b.is(err, conversation.ErrNotFound)
}

// pick selects a turn as the head of c.
func (b *bench) pick(c *conversation.Conversation, turn conversation.ID) (*conversation.Conversation, error) {
	b.t.Helper()
	change := *b.get(c)
	change.HeadTurn = turn
	return b.UpdateConversation(b.ctx(), &change)
}

func selectHead(b *bench) {
	t := b.t
	c := b.create(team)
	turns := b.talk(c, 3)
	failed := b.turn(c, turns[2].ID, conversation.Failed, "failed")
	fork := newTurn(team, c.ID, turns[0].ID, "fork")
	b.ok(b.fork(fork, b.place(turns[0])))
	before := b.get(c)

	_, err := b.pick(c, fork.ID)
	b.is(err, conversation.ErrInvalidState)
	b.ok(b.end(fork, conversation.Completed, "f"))
	elsewhere := b.turn(b.create(team), conversation.ID{}, conversation.Completed, "elsewhere")
	shot := newTurn(team, conversation.ID{}, conversation.ID{}, "shot")
	b.ok(b.begin(shot))
	b.ok(b.end(shot, conversation.Completed, ""))
	for _, turn := range []conversation.ID{newID(), {}, elsewhere.ID, shot.ID} {
		_, err := b.pick(c, turn)
		b.is(err, conversation.ErrNotFound)
	}
	equal(t, "the conversation", *b.get(c), *before)

	for _, x := range []struct {
		turn *conversation.Turn
		said []string
	}{
		{fork, []string{"say a", "re: say a", "fork", "f"}},
		{turns[1], []string{"say a", "re: say a", "say b", "re: say b"}},
		{failed, []string{"say a", "re: say a", "say b", "re: say b", "say c", "re: say c", "failed", "re: failed"}},
		{turns[1], []string{"say a", "re: say a", "say b", "re: say b"}},
	} {
		was := b.get(c)
		got, err := b.pick(c, x.turn.ID)
		b.ok(err)
		equal(t, "what is stored", *b.get(c), *got)
		equal(t, "head", got.HeadTurn, x.turn.ID)
		equal(t, "version", got.Version, conversation.Version{Spec: was.Version.Spec + 1, Head: was.Version.Head + 1})
		b.said(c, got.Head, x.said...)
		b.line(c)
		stale := *was
		_, err = b.UpdateConversation(b.ctx(), &stale)
		b.is(err, conversation.ErrEtagMismatch)

		lost := b.turn(c, x.turn.ID, conversation.Cancelled, "lost")
		next := b.turn(c, x.turn.ID, conversation.Completed, "next")
		last := b.turn(c, next.ID, conversation.Completed, "last")
		b.said(c, b.get(c).Head, append(x.said, "next", "re: next", "last", "re: last")...)
		b.said(c, b.place(lost), append(x.said, "lost", "re: lost")...)
		for _, turn := range []*conversation.Turn{x.turn, lost, next, last} {
			b.stored(turn)
		}
	}
	b.said(c, before.Head, "say a", "re: say a", "say b", "re: say b", "say c", "re: say c")

	running := newTurn(team, c.ID, b.get(c).HeadTurn, "running")
	b.ok(b.begin(running))
	waits := b.wait(c, "waits")
	_, err = b.pick(c, fork.ID)
	b.busy(err, running.ID)
	b.ok(b.end(running, conversation.Failed, ""))
	_, err = b.pick(c, fork.ID)
	b.busy(err, waits.ID)
	_, err = b.pick(c, b.get(c).HeadTurn) // is the head
	b.ok(err)
	b.ok(b.end(waits, conversation.Failed, ""))
	_, err = b.pick(c, waits.ID)
	b.ok(err)
	b.said(c, b.get(c).Head, "waits", "") // it never had a place behind anything
}

// chained grows a line on which each turn stands on a branch of its own.
func chained(b *bench) {
	t := b.t
	c := b.create(team)
	const depth = 100
	var want []string
	var end conversation.Place
	var parent conversation.ID
	var turns []*conversation.Turn
	for i := range depth {
		turn := newTurn(team, c.ID, parent, strconv.Itoa(i))
		b.ok(b.fork(turn, end))
		b.ok(b.end(turn, conversation.Completed, "re"))
		want = append(want, strconv.Itoa(i), "re")
		turns = append(turns, turn)
		parent, end = turn.ID, b.place(turn)
	}
	b.said(c, end, want...)
	b.said(c, b.place(turns[70]), want[:142]...)
	equal(t, "head", b.get(c).HeadTurn, conversation.ID{})
	_, err := b.pick(c, parent)
	b.ok(err)
	equal(t, "length", len(b.line(c)), 2*depth)
	got, err := b.ListMessages(b.ctx(), team, c.ID, end, 99, 3, 1<<20)
	b.ok(err)
	equal(t, "number of messages", len(got), 3)
	equal(t, "first message", got[0].Text(), want[99])
	n := 0
	for m, err := range b.History(b.ctx(), team, c.ID, end) {
		b.ok(err)
		equal(t, "message", m.Text(), want[len(want)-1-n])
		if n++; n == 10 {
			break
		}
	}
}

// forkOf records a fork of a conversation.
func (b *bench) forkOf(from *conversation.Conversation, turn conversation.ID) (*conversation.Conversation, error) {
	c := &conversation.Conversation{
		ID: newID(), Team: team, CreateTime: at(7), ExpireTime: at(2_000_000), Spec: conversation.Spec{DisplayName: "a fork"},
	}
	return c, b.ForkConversation(b.ctx(), c, from.ID, turn)
}

func forkConversation(b *bench) {
	t := b.t
	c := b.create(team)
	empty, err := b.forkOf(c, conversation.ID{})
	b.ok(err)
	b.said(empty, b.get(empty).Head)
	b.turn(empty, conversation.ID{}, conversation.Completed, "on nothing")
	b.said(empty, b.get(empty).Head, "on nothing", "re: on nothing")

	turns := b.talk(c, 3)
	failed := b.turn(c, turns[2].ID, conversation.Failed, "failed")
	running := newTurn(team, c.ID, turns[2].ID, "running")
	b.ok(b.begin(running))
	before := b.get(c)

	_, err = b.forkOf(c, running.ID)
	b.is(err, conversation.ErrInvalidState)
	for _, turn := range []conversation.ID{newID(), b.get(empty).HeadTurn} {
		_, err := b.forkOf(c, turn)
		b.is(err, conversation.ErrNotFound)
	}
	_, err = b.forkOf(&conversation.Conversation{ID: newID()}, conversation.ID{})
	b.is(err, conversation.ErrNotFound)
	theirs := &conversation.Conversation{ID: newID(), Team: other}
	b.is(b.ForkConversation(b.ctx(), theirs, c.ID, conversation.ID{}), conversation.ErrNotFound)
	refused, err := b.forkOf(c, newID())
	b.is(err, conversation.ErrNotFound)
	_, err = b.GetConversation(b.ctx(), team, refused.ID)
	b.is(err, conversation.ErrNotFound)

	all := []string{"say a", "re: say a", "say b", "re: say b", "say c", "re: say c"}
	var forks []*conversation.Conversation
	for _, x := range []struct {
		turn, head conversation.ID
		said       []string
	}{
		{conversation.ID{}, turns[2].ID, all},
		{turns[2].ID, turns[2].ID, all},
		{turns[0].ID, turns[0].ID, all[:2]},
		{failed.ID, failed.ID, append(all[:6:6], "failed", "re: failed")},
	} {
		f, err := b.forkOf(c, x.turn)
		b.ok(err)
		forks = append(forks, f)
		equal(t, "what is stored", *b.get(f), *f)
		equal(t, "head", f.HeadTurn, x.head)
		equal(t, "version", f.Version, conversation.Version{Spec: 1, Head: 1})
		equal(t, "times", f.UpdateTime, at(7))
		equal(t, "expire time", f.ExpireTime, at(2_000_000))
		equal(t, "active turn", f.ActiveTurn, conversation.ID{})
		b.said(f, f.Head, x.said...)
		list, err := b.ListTurns(b.ctx(), team, conversation.TurnFilter{Conversation: f.ID}, conversation.ID{}, 10)
		b.ok(err)
		equal(t, "turns of its own", len(list), 0)
		lost := b.turn(f, x.head, conversation.Failed, "lost")
		own := b.turn(f, x.head, conversation.Completed, "own")
		said := append(slices.Clip(x.said), "own", "re: own")
		b.said(f, b.get(f).Head, said...)
		b.said(f, b.place(lost), append(slices.Clip(x.said), "lost", "re: lost")...)
		b.stored(own)
		b.stored(lost)

		again, err := b.forkOf(f, conversation.ID{}) // a fork of a fork
		b.ok(err)
		b.said(again, again.Head, said...)
		b.turn(again, own.ID, conversation.Completed, "again")
		b.said(again, b.get(again).Head, append(said, "again", "re: again")...)
		forks = append(forks, again)
	}
	equal(t, "the conversation", *b.get(c), *before)
	b.ok(b.end(running, conversation.Completed, "done"))
	b.said(c, b.get(c).Head, append(all[:6:6], "running", "done")...)
	// What a fork has is its own, also at a turn that is not.
	_, err = b.pick(forks[0], turns[0].ID)
	b.is(err, conversation.ErrNotFound)
	same, err := b.forkOf(forks[2], forks[2].HeadTurn)
	b.is(err, conversation.ErrNotFound) // that was the head of the fork once, and is a turn of another conversation
	_, err = b.GetConversation(b.ctx(), team, same.ID)
	b.is(err, conversation.ErrNotFound)
	b.ok(b.DeleteConversation(b.ctx(), team, forks[7].ID, conversation.Version{}))
	b.ok(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}))
	b.said(forks[0], b.get(forks[0]).Head, append(all[:6:6], "own", "re: own")...)
	b.said(forks[1], b.get(forks[1]).Head, append(all[:6:6], "own", "re: own", "again", "re: again")...)
}
