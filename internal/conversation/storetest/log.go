package storetest

import (
	"slices"
	"strings"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// deltas are events that say something, with sequence numbers from first on.
func deltas(first int64, say ...string) []conversation.Event {
	events := make([]conversation.Event, len(say))
	for i, s := range say {
		events[i] = conversation.Event{
			Sequence: first + int64(i), Time: at(int(first) + i).Add(time.Duration(i) * 1500), Kind: conversation.EventTextDelta, Text: s,
		}
	}
	return events
}

// fullLog has every kind of event that is kept, with whatever can be in it.
func fullLog() []conversation.Event {
	return []conversation.Event{
		{Sequence: 2, Time: at(1), Kind: conversation.EventAttemptStarted, Attempt: 1, Model: "m\x00"},
		{Sequence: 3, Time: at(1), Kind: conversation.EventReasoningDelta, Text: "hm"},
		{Sequence: 4, Time: at(2), Kind: conversation.EventTextDelta, PartIndex: 1, Text: "nul \x00, \xff no UTF-8, 😀"},
		{Sequence: 5, Time: at(1), Kind: conversation.EventTextDelta, PartIndex: 1}, // the clock was set back
		{Sequence: 6, Time: at(3), Kind: conversation.EventToolCallDelta, PartIndex: 2, ToolCallID: "id", ToolName: "f"},
		{Sequence: 7, Time: at(3), Kind: conversation.EventToolCallDelta, PartIndex: 2, Text: `{"a":1}`},
		{Sequence: 8, Time: at(3), Kind: conversation.EventRefusalDelta, Text: "no"},
		{Sequence: conversation.SequenceBlock + 1, Time: at(4), Kind: conversation.EventOutputReset},
		{Sequence: conversation.SequenceBlock + 2, Time: at(4), Kind: conversation.EventAttemptStarted, Attempt: 2, Model: "n"},
		{Sequence: conversation.SequenceBlock + 3, Time: at(5), Kind: conversation.EventTextDelta, Text: strings.Repeat("long ", 1000)},
	}
}

func (b *bench) appendEvents(turn *conversation.Turn, events []conversation.Event) {
	b.t.Helper()
	lost, err := b.AppendEvents(b.ctx(), []conversation.EventBatch{{Team: turn.Team, Turn: turn.ID, Events: events}})
	b.ok(err)
	if len(lost) != 0 {
		b.t.Fatalf("lost %x", lost)
	}
}

// log checks that want is the log of a turn above after, however much of it is read at once.
func (b *bench) log(turn *conversation.Turn, after int64, want []conversation.Event) {
	b.t.Helper()
	for _, size := range []int{1, 100, 1 << 20} {
		var got []conversation.Event
		for last := after; ; {
			events, err := b.Events(b.ctx(), turn.Team, turn.ID, last, size)
			b.ok(err)
			if len(events) == 0 {
				break
			}
			got = append(got, events...)
			last = events[len(events)-1].Sequence
		}
		if len(got) != 0 || len(want) != 0 {
			equal(b.t, "log", got, want)
		}
	}
}

func appendEvents(b *bench) {
	t := b.t
	c := b.create(team)
	main := newTurn(team, c.ID, conversation.ID{}, "main")
	shot := newTurn(other, conversation.ID{}, conversation.ID{}, "shot")
	silent := newTurn(team, conversation.ID{}, conversation.ID{}, "silent")
	b.ok(b.begin(main))
	b.ok(b.begin(shot))
	b.ok(b.begin(silent))
	b.log(main, 0, nil)

	all := fullLog()
	b.appendEvents(main, all[:1])
	lost, err := b.AppendEvents(b.ctx(), []conversation.EventBatch{
		{Team: team, Turn: main.ID, Events: all[1:4]}, {Team: other, Turn: shot.ID, Events: all}, {Team: team, Turn: silent.ID},
	})
	b.ok(err)
	equal(t, "number of lost turns", len(lost), 0)
	b.appendEvents(main, all[4:])
	b.appendEvents(main, nil)
	for i := range all {
		b.log(main, all[i].Sequence-1, all[i:])
		b.log(shot, all[i].Sequence, all[i+1:])
	}
	b.log(silent, 0, nil)

	// What was written by a transaction of unknown outcome is written again, perhaps with more behind it.
	b.appendEvents(silent, all[:2])
	b.appendEvents(silent, all[:5])
	b.log(silent, 0, all[:5])

	stranger := newTurn(team, conversation.ID{}, conversation.ID{}, "never begun")
	theirs := *shot
	theirs.Team = team
	b.ok(b.end(shot, conversation.Completed, "over"))
	lost, err = b.AppendEvents(b.ctx(), []conversation.EventBatch{
		{Team: team, Turn: stranger.ID, Events: deltas(1, "a")},
		{Team: team, Turn: silent.ID, Events: all[5:]},
		{Team: other, Turn: shot.ID, Events: deltas(9_000_000, "late")},
		{Team: other, Turn: main.ID},
	})
	b.ok(err)
	equal(t, "lost turns", lost, []conversation.ID{stranger.ID, shot.ID, main.ID})
	b.log(silent, 0, all)
	b.log(shot, 0, all)
	_, err = b.Events(b.ctx(), theirs.Team, theirs.ID, 0, 100)
	b.is(err, conversation.ErrNotFound)
	_, err = b.Events(b.ctx(), team, stranger.ID, 0, 100)
	b.is(err, conversation.ErrNotFound)

	for name, bad := range map[string][]conversation.Event{
		"accepted":        {{Sequence: 1, Kind: conversation.EventAccepted}},
		"terminal":        {{Sequence: 1, Kind: conversation.EventTerminal}},
		"falling numbers": append(deltas(5, "a"), deltas(4, "b")...),
		"number 0":        deltas(0, "a"),
	} {
		if _, err := b.AppendEvents(b.ctx(), []conversation.EventBatch{{Team: team, Turn: main.ID, Events: bad}}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// manyEvents is a long log, written in ticks and read while it grows, and then compacted.
func manyEvents(b *bench) {
	t := b.t
	turn := newTurn(team, conversation.ID{}, conversation.ID{}, "hi")
	b.ok(b.begin(turn))
	var all []conversation.Event
	var firsts []int64
	for i := range 100 {
		tick := deltas(int64(len(all)+2), "some", "words", strings.Repeat("x", i))
		firsts = append(firsts, tick[0].Sequence)
		b.appendEvents(turn, tick)
		all = append(all, tick...)
		if i%40 == 30 {
			b.log(turn, int64(len(all)-4), all[len(all)-5:])
		}
	}
	got, err := b.Events(b.ctx(), team, turn.ID, 0, 3_000)
	b.ok(err)
	size := 0
	for _, e := range got {
		size += len(e.Text)
	}
	if size > 4_000 || len(got) < 10 {
		t.Fatalf("%d events with %d bytes for 3 kB", len(got), size)
	}
	equal(t, "the first", got, all[:len(got)])
	b.log(turn, 0, all)

	all = append(all, deltas(int64(len(all)+2), strings.Repeat("large ", 50_000), "the end")...)
	ended := *turn
	ended.State, ended.EndTime = conversation.Completed, at(9)
	b.ok(b.EndTurn(b.ctx(), &conversation.End{Turn: &ended, Events: all, Replaces: firsts}))
	b.log(turn, 0, all)
	b.log(turn, 200, all[199:])
	b.log(turn, all[len(all)-1].Sequence, nil)
}

func endEvents(b *bench) {
	c := b.create(team)
	all := fullLog()
	for i, x := range []struct {
		ticks    [][]conversation.Event
		rest     []conversation.Event
		replaces []int64
	}{
		{rest: all},
		{ticks: [][]conversation.Event{all[:3]}, rest: all[3:]},
		{ticks: [][]conversation.Event{all}},
		{ticks: [][]conversation.Event{all[:2], all[2:5]}, rest: all, replaces: []int64{all[0].Sequence, all[2].Sequence}},
	} {
		for _, state := range []conversation.State{conversation.Completed, conversation.Cancelled} {
			turn := newTurn(team, c.ID, b.get(c).HeadTurn, "hi")
			if i%2 == 0 {
				turn.Conversation, turn.Parent = conversation.ID{}, conversation.ID{}
			}
			b.ok(b.begin(turn))
			for _, tick := range x.ticks {
				b.appendEvents(turn, tick)
			}
			ended := *turn
			ended.State, ended.EndTime = state, at(9)
			b.ok(b.EndTurn(b.ctx(), &conversation.End{Turn: &ended, Events: x.rest, Replaces: x.replaces}))
			b.log(turn, 0, all)
			if turn.Conversation.IsZero() {
				b.ok(b.DeleteTurn(b.ctx(), team, turn.ID))
				_, err := b.Events(b.ctx(), team, turn.ID, 0, 100)
				b.is(err, conversation.ErrNotFound)
			}
		}
	}
}

func recordAttempt(b *bench) {
	t := b.t
	c := b.create(team)
	for _, in := range []conversation.ID{c.ID, {}} {
		turn := newTurn(team, in, conversation.ID{}, "hi")
		b.ok(b.begin(turn))
		turn.Result.Attempts[0].State = conversation.AttemptSettled
		second := conversation.Attempt{State: conversation.AttemptIntent, Model: "n", CreateTime: at(3)}
		turn.Result.Attempts = append(turn.Result.Attempts, second)
		b.ok(b.RecordAttempt(b.ctx(), turn, 0))
		b.stored(turn)
		third := *turn
		third.Result.Attempts = append(slices.Clone(turn.Result.Attempts), second)
		b.ok(b.RecordAttempt(b.ctx(), &third, 0))
		b.stored(&third)
		b.ok(b.end(turn, conversation.Failed, ""))
		b.is(b.RecordAttempt(b.ctx(), turn, 0), conversation.ErrTurnEnded)
		b.stored(turn)
	}
	b.is(b.RecordAttempt(b.ctx(), newTurn(team, c.ID, conversation.ID{}, ""), 0), conversation.ErrNotFound)
	equal(t, "active turn", b.get(c).ActiveTurn, conversation.ID{})
}

// subscribe checks that readers are told of what happens to a turn, and that one who has stopped is no burden.
func subscribe(b *bench) {
	c := b.create(team)
	turn := newTurn(team, c.ID, conversation.ID{}, "hi")
	b.ok(b.begin(turn))
	turns, stopTurns := b.Subscribe(turn.ID)
	defer stopTurns()
	again, stopAgain := b.Subscribe(turn.ID)
	stopAgain()
	stopAgain() // harmless
	conversations, stopConversations := b.Subscribe(c.ID)
	defer stopConversations()
	drain := func() {
		for _, wake := range []<-chan struct{}{turns, conversations, again} {
			select {
			case <-wake:
			default:
			}
		}
	}
	drain()
	b.appendEvents(turn, deltas(2, "a"))
	b.awake(turns)
	drain()
	b.ok(b.RequestCancel(b.ctx(), team, turn.ID))
	b.awake(turns)
	drain()
	b.ok(b.end(turn, conversation.Cancelled, ""))
	b.awake(turns)
	b.awake(conversations)

	next := newTurn(team, c.ID, conversation.ID{}, "waits")
	next.State = conversation.Queued
	b.ok(b.begin(next))
	begun, stopBegun := b.Subscribe(next.ID)
	defer stopBegun()
	drain()
	next.State = conversation.Running
	b.ok(b.begin(next))
	b.awake(begun)
	b.awake(conversations)
}
