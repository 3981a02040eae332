package storetest

import (
	"slices"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// without is t as it is read without content.
func without(t *conversation.Turn) conversation.Turn {
	c := *t
	c.Input, c.Output = nil, nil
	return c
}

// stored checks that t is what the store returns for it.
func (b *bench) stored(t *conversation.Turn) {
	b.t.Helper()
	got, err := b.GetTurn(b.ctx(), t.Team, t.ID, true)
	b.ok(err)
	want := *t
	want.End = got.End // where that is depends on the store; what stands before it does not
	equal(b.t, "turn with content", *got, want)
	got, err = b.GetTurn(b.ctx(), t.Team, t.ID, false)
	b.ok(err)
	equal(b.t, "turn without content", *got, without(&want))
	if !t.State.Ended() {
		equal(b.t, "end of a turn that has not ended", got.End, conversation.Place{})
		return
	}
	if t.Conversation.IsZero() {
		return
	}
	messages := slices.Concat(t.Input, t.Output)
	listed, err := b.ListMessages(b.ctx(), t.Team, t.Conversation, got.End, got.End.Position-int64(len(messages)), 100, 1<<30)
	b.ok(err)
	equal(b.t, "number of messages of the turn", len(listed), len(messages))
	for i, m := range listed {
		equal(b.t, "message of the turn", m.Message, messages[i])
		equal(b.t, "turn of the message", m.Turn, t.ID)
		equal(b.t, "position", m.Position, got.End.Position-int64(len(messages)-i))
	}
	if last := listed[len(listed)-1]; last.TokensBefore+last.Tokens != got.End.Tokens {
		b.t.Fatalf("%d tokens before and in the last message, the end says %d", last.TokensBefore+last.Tokens, got.End.Tokens)
	}
}

func fullTurn(in conversation.ID) *conversation.Turn {
	t := newTurn(team, in, conversation.ID{}, "one")
	t.Client = "a client"
	t.RequestID = "request\x00id"
	t.OnDisconnect = conversation.DisconnectContinue
	t.TraceID = [16]byte{1, 2, 15: 3}
	t.Labels = map[string]string{"k": "v<&>\x00"}
	t.Input = append(t.Input, text(conversation.RoleSystem, "two"), text(conversation.RoleDeveloper, "three"))
	t.Result.Config = fullSpec().Config
	return t
}

func beginTurn(b *bench) {
	t := b.t
	c := b.create(team)
	before := b.get(c)
	turn := fullTurn(c.ID)
	b.ok(b.begin(turn))
	b.stored(turn)
	want := *before
	want.ActiveTurn = turn.ID
	equal(t, "the conversation", *b.get(c), want)
}

func beginTurnRefused(b *bench) {
	t := b.t
	c := b.create(team)
	first := b.turn(c, conversation.ID{}, conversation.Completed, "first")
	before := b.get(c)

	refused := func(turn *conversation.Turn) {
		t.Helper()
		_, err := b.GetTurn(b.ctx(), turn.Team, turn.ID, true)
		b.is(err, conversation.ErrNotFound)
	}
	for name, x := range map[string]struct {
		in, parent conversation.ID
		owner      string
		want       error
	}{
		"no parent":           {c.ID, conversation.ID{}, team, conversation.ErrHeadMoved},
		"unknown parent":      {c.ID, newID(), team, conversation.ErrHeadMoved},
		"unknown":             {newID(), conversation.ID{}, team, conversation.ErrNotFound},
		"another team's":      {c.ID, first.ID, other, conversation.ErrNotFound},
		"another team's head": {c.ID, conversation.ID{}, other, conversation.ErrNotFound},
	} {
		turn := newTurn(x.owner, x.in, x.parent, name)
		b.is(b.begin(turn), x.want)
		refused(turn)
	}
	equal(t, "the conversation", *b.get(c), *before)

	running := newTurn(team, c.ID, first.ID, "running")
	b.ok(b.begin(running))
	for _, parent := range []conversation.ID{first.ID, {}} { // busy comes before the head
		turn := newTurn(team, c.ID, parent, "too")
		b.busy(b.begin(turn), running.ID)
		refused(turn)
	}
	again := *running
	again.Conversation = conversation.ID{}
	if err := b.begin(&again); err == nil {
		t.Fatal("a turn could be begun twice")
	}
	b.stored(running)
	wrong := newTurn(team, conversation.ID{}, conversation.ID{}, "no counts")
	if err := b.BeginTurn(b.ctx(), &conversation.Admission{Turn: wrong}); err == nil {
		t.Fatal("input without token counts was taken")
	}
	refused(wrong)
	for name, state := range map[string]conversation.State{
		"a one-shot that waits": conversation.Queued, "a turn that has ended": conversation.Completed, "no state": 0,
	} {
		wrong := newTurn(team, conversation.ID{}, conversation.ID{}, name)
		wrong.State = state
		if err := b.begin(wrong); err == nil {
			t.Fatalf("%s was begun", name)
		}
		refused(wrong)
	}
	if err := b.fork(b.queuedIn(c.ID, team), conversation.Place{}); err == nil {
		t.Fatal("a turn waits for a branch of its own")
	}
	if err := b.EndTurn(b.ctx(), &conversation.End{Turn: running}); err == nil {
		t.Fatal("a turn was ended as running")
	}
	b.stored(running)
}

func endTurnAnswered(b *bench) {
	t := b.t
	c := b.create(team)
	turn := fullTurn(c.ID)
	var head conversation.ID
	var position, tokens int64
	for i, state := range []conversation.State{conversation.Completed, conversation.Incomplete, conversation.Completed} {
		turn.Parent = head
		b.ok(b.begin(turn))
		ended := *turn
		ended.State, ended.EndTime = state, at(10+i)
		ended.Output = []conversation.Message{text(conversation.RoleAssistant, "x"), text(conversation.RoleAssistant, "y")}
		ended.Result = conversation.Result{
			Model: "m", Config: fullSpec().Config, FinishReason: conversation.FinishLength,
			Usage:  &conversation.Usage{InputTokens: 1, CachedInputTokens: 2, OutputTokens: 3, ReasoningTokens: 4, Estimated: true},
			Timing: conversation.Timing{Queue: 1, Context: 2, TimeToFirstEvent: 3, Generation: 4, Overhead: 5},
			Attempts: []conversation.Attempt{
				{State: conversation.AttemptSettled, Model: "m", Error: conversation.Errorf(conversation.UpstreamStalled, "s"), CreateTime: at(1)},
				{State: conversation.AttemptSettled, Model: "m", UpstreamRequestID: "r", Usage: &conversation.Usage{}, EndTime: at(9)},
			},
			LastSequence: 99,
		}
		b.ok(b.EndTurn(b.ctx(), &conversation.End{Turn: &ended, OutputTokens: []int64{5, 6}}))
		b.stored(&ended)

		head = turn.ID
		position += int64(len(turn.Input)) + 2
		for _, n := range count(turn.Input) {
			tokens += n
		}
		tokens += 11
		got := b.get(c)
		equal(t, "head", got.HeadTurn, head)
		equal(t, "position", got.Head.Position, position)
		equal(t, "tokens", got.Head.Tokens, tokens)
		equal(t, "active turn", got.ActiveTurn, conversation.ID{})
		equal(t, "version", got.Version, conversation.Version{Spec: 1, Head: int64(2 + i)})
		if got.UpdateTime.Before(c.UpdateTime) {
			t.Fatal("the update time went back")
		}
		equal(t, "length of the line", int64(len(b.line(c))), position)
		turn = newTurn(team, c.ID, head, "next")
	}
}

func endTurnUnanswered(b *bench) {
	t := b.t
	c := b.create(team)
	head := b.talk(c, 2)[1].ID
	before := b.get(c)
	line := b.line(c)
	var lost []*conversation.Turn
	for _, state := range []conversation.State{conversation.Failed, conversation.Cancelled, conversation.Failed} {
		turn := newTurn(team, c.ID, head, "lost")
		turn.Input = append(turn.Input, text(conversation.RoleUser, "also lost"))
		b.ok(b.begin(turn))
		b.ok(b.end(turn, state, "partial"))
		equal(t, "the conversation", *b.get(c), *before)
		equal(t, "its line", b.line(c), line)
		lost = append(lost, turn)
	}
	silent := newTurn(team, c.ID, head, "silent")
	b.ok(b.begin(silent))
	silent.State, silent.EndTime = conversation.Failed, at(9)
	b.ok(b.EndTurn(b.ctx(), &conversation.End{Turn: silent}))

	next := b.turn(c, head, conversation.Completed, "next")
	equal(t, "head", b.get(c).HeadTurn, next.ID)
	equal(t, "the line's length", len(b.line(c)), len(line)+2)
	for _, turn := range append(lost, silent, next) {
		b.stored(turn) // all keep their content
	}
}

func endTurnTwice(b *bench) {
	t := b.t
	c := b.create(team)
	turn := b.turn(c, conversation.ID{}, conversation.Completed, "hi")
	for _, state := range []conversation.State{conversation.Completed, conversation.Failed} {
		again := *turn
		b.is(b.end(&again, state, "other words"), conversation.ErrTurnEnded)
	}
	b.stored(turn)
	equal(t, "the line's length", len(b.line(c)), 2)

	shot := newTurn(team, conversation.ID{}, conversation.ID{}, "hi")
	b.ok(b.begin(shot))
	stranger := *shot
	stranger.Team = other
	b.is(b.end(&stranger, conversation.Completed, "theirs"), conversation.ErrNotFound)
	b.ok(b.end(shot, conversation.Failed, "hi"))
	again := *shot
	b.is(b.end(&again, conversation.Completed, "hi"), conversation.ErrTurnEnded)
	b.stored(shot)
	b.is(b.end(newTurn(team, c.ID, turn.ID, "never begun"), conversation.Completed, "x"), conversation.ErrNotFound)
}

func oneShot(b *bench) {
	t := b.t
	turn := fullTurn(conversation.ID{})
	b.ok(b.begin(turn))
	b.stored(turn)
	b.ok(b.begin(newTurn(team, conversation.ID{}, conversation.ID{}, "one-shots do not wait for each other")))
	b.ok(b.end(turn, conversation.Completed, "answer"))
	b.stored(turn)
	equal(t, "text", turn.OutputText(), "answer")
}

func deleteTurn(b *bench) {
	t := b.t
	for _, state := range []conversation.State{conversation.Completed, conversation.Failed, conversation.Cancelled} {
		turn := newTurn(team, conversation.ID{}, conversation.ID{}, "hi")
		b.ok(b.begin(turn))
		b.busy(b.DeleteTurn(b.ctx(), team, turn.ID), turn.ID)
		b.ok(b.end(turn, state, "hi"))
		b.is(b.DeleteTurn(b.ctx(), other, turn.ID), conversation.ErrNotFound)
		b.ok(b.DeleteTurn(b.ctx(), team, turn.ID))
		_, err := b.GetTurn(b.ctx(), team, turn.ID, true)
		b.is(err, conversation.ErrNotFound)
		b.is(b.DeleteTurn(b.ctx(), team, turn.ID), conversation.ErrNotFound)
		b.is(b.end(turn, state, "late"), conversation.ErrNotFound)
	}
	c := b.create(team)
	turn := newTurn(team, c.ID, conversation.ID{}, "hi")
	b.ok(b.begin(turn))
	b.is(b.DeleteTurn(b.ctx(), team, turn.ID), conversation.ErrInvalidState)
	b.ok(b.end(turn, conversation.Completed, "hi"))
	b.is(b.DeleteTurn(b.ctx(), team, turn.ID), conversation.ErrInvalidState)
	b.stored(turn)
	equal(t, "the line's length", len(b.line(c)), 2)
}

func listTurns(b *bench) {
	t := b.t
	c, d := b.create(team), b.create(team)
	var inC, all []*conversation.Turn // by falling id
	var head conversation.ID
	add := func(turn *conversation.Turn) {
		listed, err := b.GetTurn(b.ctx(), team, turn.ID, false)
		b.ok(err)
		all = append([]*conversation.Turn{listed}, all...)
		if turn.Conversation == c.ID {
			inC = append([]*conversation.Turn{listed}, inC...)
		}
	}
	for i := range 6 {
		turn := b.turn(c, head, conversation.Completed, "c")
		head = turn.ID
		add(turn)
		add(b.turn(c, head, conversation.Failed, "failed"))
		shot := newTurn(team, conversation.ID{}, conversation.ID{}, "shot")
		b.ok(b.begin(shot))
		add(shot)
		if i == 0 {
			add(b.turn(d, conversation.ID{}, conversation.Completed, "d"))
		}
		b.ok(b.begin(newTurn(other, conversation.ID{}, conversation.ID{}, "theirs")))
	}
	for _, x := range []struct {
		in   conversation.ID
		want []*conversation.Turn
	}{{c.ID, inC}, {conversation.ID{}, all}} {
		for _, size := range []int{1, 4, 100} {
			var got []*conversation.Turn
			var before conversation.ID
			for {
				page, err := b.ListTurns(b.ctx(), team, conversation.TurnFilter{Conversation: x.in}, before, size)
				b.ok(err)
				if len(page) == 0 {
					break
				}
				if len(page) > size {
					t.Fatalf("a page of %d has %d", size, len(page))
				}
				got = append(got, page...)
				before = page[len(page)-1].ID
			}
			equal(t, "number of turns", len(got), len(x.want))
			for i := range got {
				equal(t, "turn", *got[i], *x.want[i])
			}
		}
	}
	none, err := b.ListTurns(b.ctx(), team, conversation.TurnFilter{Conversation: b.create(team).ID}, conversation.ID{}, 10)
	b.ok(err)
	equal(t, "turns of an empty conversation", len(none), 0)
}
