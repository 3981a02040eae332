package storetest

import (
	"strconv"
	"sync"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

func fullSpec() conversation.Spec {
	temperature, zero, limit, seed, parallel := 0.25, 0.0, int32(100), int64(-5), false
	return conversation.Spec{
		DisplayName:  "a name with \x00, <html> & 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
		Instructions: "be\u2028brief",
		Model:        "m",
		Config: conversation.Config{
			Temperature: &temperature, TopP: &zero, MaxOutputTokens: &limit, Stop: []string{"x", "\n"}, Seed: &seed,
			PresencePenalty: &zero, FrequencyPenalty: &zero, ReasoningEffort: "low", Verbosity: "high",
			ParallelToolCalls: &parallel, ResponseFormat: conversation.FormatJSONObject,
		},
		Tools:      []conversation.Tool{{Name: "f", Description: "d", Parameters: `{"b":1,"a":2}`, Strict: true}},
		ToolChoice: conversation.ToolChoice{Mode: conversation.ToolChoiceTool, Tool: "f"},
		Labels:     map[string]string{"k": "v", "": "\x00"},
	}
}

func createConversation(b *bench) {
	t := b.t
	for name, spec := range map[string]conversation.Spec{"empty": {}, "full": fullSpec()} {
		c := &conversation.Conversation{ID: newID(), Team: team, Spec: spec, CreateTime: at(3)}
		if name == "full" {
			c.ExpireTime = at(1_000_000)
		}
		want := *c
		want.Version = conversation.Version{Spec: 1, Head: 1}
		want.UpdateTime = at(3)
		b.ok(b.CreateConversation(b.ctx(), c))
		equal(t, name+": what was created", *c, want)
		equal(t, name+": what is stored", *b.get(c), want)
		equal(t, name+": its messages", len(b.line(c)), 0)
	}
}

func createConversationTwice(b *bench) {
	t := b.t
	c := b.create(team)
	for _, owner := range []string{team, other} {
		again := &conversation.Conversation{ID: c.ID, Team: owner, CreateTime: at(1)}
		if err := b.CreateConversation(b.ctx(), again); err == nil {
			t.Fatalf("%s could create it again", owner)
		}
	}
	equal(t, "the first", *b.get(c), *c)
}

func listConversations(b *bench) {
	t := b.t
	var want []*conversation.Conversation // by falling id
	for range 7 {
		want = append([]*conversation.Conversation{b.create(team)}, want...)
		b.create(other)
	}
	b.turn(want[3], conversation.ID{}, conversation.Completed, "hi")
	want[3] = b.get(want[3])
	running := newTurn(team, want[5].ID, conversation.ID{}, "hi")
	b.ok(b.begin(running))
	want[5].ActiveTurn = running.ID

	for _, size := range []int{1, 3, 7, 100} {
		var got []*conversation.Conversation
		var before conversation.ID
		for {
			page, err := b.ListConversations(b.ctx(), team, before, size)
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
		equal(t, "pages", got, want)
	}
	none, err := b.ListConversations(b.ctx(), "nobody", conversation.ID{}, 10)
	b.ok(err)
	equal(t, "an empty team's", len(none), 0)
}

func updateConversation(b *bench) {
	t := b.t
	c := b.create(team)
	change := *c
	change.Spec, change.ExpireTime = fullSpec(), at(1_000_000)
	updated, err := b.UpdateConversation(b.ctx(), &change)
	b.ok(err)
	equal(t, "spec", updated.Spec, fullSpec())
	equal(t, "version", updated.Version, conversation.Version{Spec: 2, Head: 1})
	equal(t, "create time", updated.CreateTime, c.CreateTime)
	equal(t, "expire time", updated.ExpireTime, at(1_000_000))
	equal(t, "what is stored", *b.get(c), *updated)

	_, err = b.UpdateConversation(b.ctx(), &change) // the version that it had before
	b.is(err, conversation.ErrEtagMismatch)

	turn := b.turn(c, conversation.ID{}, conversation.Completed, "hi")
	_, err = b.UpdateConversation(b.ctx(), updated)
	b.is(err, conversation.ErrEtagMismatch)

	now := b.get(c)
	equal(t, "version after a turn", now.Version, conversation.Version{Spec: 2, Head: 2})
	running := newTurn(team, c.ID, turn.ID, "again")
	b.ok(b.begin(running)) // does not change the version
	now.Spec = conversation.Spec{}
	updated, err = b.UpdateConversation(b.ctx(), now)
	b.ok(err)
	equal(t, "head", updated.HeadTurn, turn.ID)
	equal(t, "active turn", updated.ActiveTurn, running.ID)
	equal(t, "what is stored", *b.get(c), *updated)
	if updated.UpdateTime.Before(c.UpdateTime) {
		t.Fatal("the update time went back")
	}

	stranger := *b.get(c)
	stranger.Team = other
	_, err = b.UpdateConversation(b.ctx(), &stranger)
	b.is(err, conversation.ErrNotFound)
	_, err = b.UpdateConversation(b.ctx(), &conversation.Conversation{ID: newID(), Team: team, Version: c.Version})
	b.is(err, conversation.ErrNotFound)
}

func updateConversationRace(b *bench) {
	t := b.t
	c := b.create(team)
	const callers = 50
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			change := *c
			change.Spec.DisplayName = strconv.Itoa(i)
			_, errs[i] = b.UpdateConversation(b.ctx(), &change)
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err != nil:
			b.is(err, conversation.ErrEtagMismatch)
		case winner >= 0:
			t.Fatal("two updates of one version")
		default:
			winner = i
		}
	}
	if winner < 0 {
		t.Fatal("no update succeeded")
	}
	equal(t, "name", b.get(c).Spec.DisplayName, strconv.Itoa(winner))
}

func deleteConversation(b *bench) {
	t := b.t
	c := b.create(team)
	turns := b.talk(c, 3)
	last := turns[2].ID
	turns = append(turns, b.turn(c, last, conversation.Failed, "f"), b.turn(c, last, conversation.Cancelled, "c"))
	kept := b.create(team)
	keptTurn := b.turn(kept, conversation.ID{}, conversation.Completed, "kept")

	running := newTurn(team, c.ID, last, "running")
	b.ok(b.begin(running))
	b.busy(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}), running.ID)
	b.ok(b.end(running, conversation.Completed, "done"))
	turns = append(turns, running)
	head := b.get(c).Head

	b.is(b.DeleteConversation(b.ctx(), other, c.ID, conversation.Version{}), conversation.ErrNotFound)
	b.ok(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}))

	gone := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Fatalf("%s still knows the conversation", what)
		}
		b.is(err, conversation.ErrNotFound)
	}
	_, err := b.GetConversation(b.ctx(), team, c.ID)
	gone("GetConversation", err)
	_, err = b.ListMessages(b.ctx(), team, c.ID, head, 0, 10, 1000)
	gone("ListMessages", err)
	_, err = b.ListTurns(b.ctx(), team, conversation.TurnFilter{Conversation: c.ID}, conversation.ID{}, 10)
	gone("ListTurns", err)
	_, err = b.UpdateConversation(b.ctx(), c)
	gone("UpdateConversation", err)
	gone("DeleteConversation", b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{}))
	gone("BeginTurn", b.begin(newTurn(team, c.ID, running.ID, "late")))
	gone("EndTurn", b.end(newTurn(team, c.ID, last, ""), conversation.Completed, "late"))
	yields := 0
	for _, err := range b.History(b.ctx(), team, c.ID, head) {
		gone("History", err)
		yields++
	}
	equal(t, "errors of History", yields, 1)
	for _, turn := range turns {
		for _, content := range []bool{false, true} {
			_, err := b.GetTurn(b.ctx(), team, turn.ID, content)
			gone("GetTurn", err)
		}
		gone("DeleteTurn", b.DeleteTurn(b.ctx(), team, turn.ID))
	}
	left, err := b.ListTurns(b.ctx(), team, conversation.TurnFilter{}, conversation.ID{}, 100)
	b.ok(err)
	if len(left) != 1 || left[0].ID != keptTurn.ID {
		t.Fatalf("the team has %d turns left, want the other conversation's", len(left))
	}
	list, err := b.ListConversations(b.ctx(), team, conversation.ID{}, 100)
	b.ok(err)
	if len(list) != 1 || list[0].ID != kept.ID {
		t.Fatalf("the team has %d conversations left, want the other", len(list))
	}
	equal(t, "the other's messages", len(b.line(kept)), 2)
}

func deleteConversationVersions(b *bench) {
	c := b.create(team)
	old := c.Version
	b.turn(c, conversation.ID{}, conversation.Completed, "hi")
	b.is(b.DeleteConversation(b.ctx(), team, c.ID, old), conversation.ErrEtagMismatch)
	now := b.get(c).Version
	b.is(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{Spec: now.Spec}), conversation.ErrEtagMismatch)
	b.is(b.DeleteConversation(b.ctx(), team, c.ID, conversation.Version{Spec: now.Spec + 1, Head: now.Head}), conversation.ErrEtagMismatch)
	b.ok(b.DeleteConversation(b.ctx(), team, c.ID, now))
}
