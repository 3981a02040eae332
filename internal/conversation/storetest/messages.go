package storetest

import (
	"bytes"
	"strings"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

func history(b *bench) {
	t := b.t
	c := b.create(team)
	for m, err := range b.History(b.ctx(), team, c.ID, conversation.Place{}) {
		t.Fatalf("an empty conversation has the message %v, %v", m, err)
	}
	turns := b.talk(c, 100) // more than a store reads at once
	line := b.line(c)
	equal(t, "length", len(line), 200)
	for i, turn := range turns {
		for j, m := range []conversation.Message{turn.Input[0], turn.Output[0]} {
			got := line[2*i+j]
			equal(t, "message", got.Message, m)
			equal(t, "turn", got.Turn, turn.ID)
			equal(t, "tokens", got.Tokens, 10)
		}
	}
	for _, upTo := range []int64{0, 1, 33, 150, 200} {
		n := upTo
		before := conversation.Place{Branch: b.get(c).Head.Branch, Position: upTo}
		for m, err := range b.History(b.ctx(), team, c.ID, before) {
			b.ok(err)
			n--
			equal(t, "position", m.Position, n)
		}
		equal(t, "first position", n, 0)
		for m, err := range b.History(b.ctx(), team, c.ID, before) {
			b.ok(err)
			equal(t, "position", m.Position, upTo-1)
			break // must not go on, nor hold anything
		}
	}
}

func historyWhileRunning(b *bench) {
	t := b.t
	c := b.create(team)
	head := b.talk(c, 2)[1].ID
	want := b.line(c)
	running := newTurn(team, c.ID, head, "running")
	for range 50 {
		running.Input = append(running.Input, text(conversation.RoleUser, "more"))
	}
	b.ok(b.begin(running))
	equal(t, "the line", b.line(c), want)
	listed, err := b.ListMessages(b.ctx(), team, c.ID, b.get(c).Head, 0, 1000, 1<<20)
	b.ok(err)
	equal(t, "ListMessages", listed, want)
	b.ok(b.end(running, conversation.Completed, "done"))
	equal(t, "length at the end", len(b.line(c)), len(want)+52)
}

func listMessages(b *bench) {
	t := b.t
	c := b.create(team)
	none, err := b.ListMessages(b.ctx(), team, c.ID, conversation.Place{}, 0, 10, 1000)
	b.ok(err)
	equal(t, "messages of an empty conversation", len(none), 0)
	b.talk(c, 40)
	line := b.line(c)
	for _, x := range []struct {
		from        int64
		limit, size int
		want        []*conversation.StoredMessage
	}{
		{0, 100, 1 << 20, line},
		{0, 80, 1 << 20, line},
		{0, 79, 1 << 20, line[:79]},
		{30, 40, 1 << 20, line[30:70]},
		{0, 7, 1 << 20, line[:7]},
		{5, 7, 1 << 20, line[5:12]},
		{79, 7, 1 << 20, line[79:]},
		{80, 7, 1 << 20, nil},
		{1000, 7, 1 << 20, nil},
		{3, 7, 0, line[3:4]}, // the first passes the bound, and is returned all the same
		{3, 7, 1, line[3:4]},
	} {
		got, err := b.ListMessages(b.ctx(), team, c.ID, b.get(c).Head, x.from, x.limit, x.size)
		b.ok(err)
		if len(got) != 0 || len(x.want) != 0 {
			equal(t, "messages", got, x.want)
		}
	}
	// Whatever a store takes for the size of a message, ten of 10 kB do not fit into 50 kB, and three do.
	d := b.create(team)
	big := newTurn(team, d.ID, conversation.ID{}, "")
	for range 9 {
		big.Input = append(big.Input, text(conversation.RoleUser, strings.Repeat("x", 10_000)))
	}
	b.ok(b.begin(big))
	b.ok(b.end(big, conversation.Completed, strings.Repeat("y", 10_000)))
	got, err := b.ListMessages(b.ctx(), team, d.ID, b.get(d).Head, 1, 100, 50_000)
	b.ok(err)
	if len(got) < 4 || len(got) > 6 {
		t.Fatalf("%d messages of 10 kB make 50 kB", len(got))
	}
}

func content(b *bench) {
	t := b.t
	c := b.create(team)
	turn := newTurn(team, c.ID, conversation.ID{}, "")
	parts := []conversation.Part{
		conversation.TextPart("nul \x00 in \x00 the middle"),
		conversation.TextPart("four bytes: 😀𝄞\U0010FFFF"),
		conversation.TextPart("<script>&amp;\"'\\\u2028\u2029\r\n\t\x01\x7f\uFFFD\uFEFF"),
		{Kind: conversation.PartImage, Image: &conversation.Image{URI: "https://x/?a=1&b=2", MIMEType: "image/png", Detail: "low"}},
		{Kind: conversation.PartImage, Image: &conversation.Image{Data: []byte{0, 1, 0xff, 0xfe, 0}}},
		{Kind: conversation.PartToolCall, ToolCall: &conversation.ToolCall{ID: "c1", Name: "f", Arguments: `{"z":1, "a":"\u0000"}`}},
		{Kind: conversation.PartToolResult, Text: "", ToolResult: &conversation.ToolResult{ToolCallID: "c1", IsError: true}},
		{Kind: conversation.PartRefusal, Text: "no"},
		{Kind: conversation.PartReasoning, Text: "because", ProviderState: bytes.Repeat([]byte{0, 0x80, 0xff}, 1000)},
	}
	turn.Input = nil
	for role := conversation.RoleSystem; role <= conversation.RoleTool; role++ {
		turn.Input = append(turn.Input, conversation.Message{ID: newID(), Role: role, Parts: parts})
	}
	b.ok(b.begin(turn))
	b.stored(turn)
	b.ok(b.end(turn, conversation.Completed, "\x00"))
	b.stored(turn)
	for i, m := range b.line(c)[:len(turn.Input)] {
		equal(t, "message", m.Message, turn.Input[i])
	}
}

func largeContent(b *bench) {
	t := b.t
	c := b.create(team)
	large := strings.Repeat("0123456789\x00😀", 3<<20/15)
	turn := newTurn(team, c.ID, conversation.ID{}, large)
	b.ok(b.begin(turn))
	b.ok(b.end(turn, conversation.Completed, large))
	got, err := b.GetTurn(b.ctx(), team, turn.ID, true)
	b.ok(err)
	line := b.line(c)
	for where, text := range map[string]string{
		"input": got.Input[0].Text(), "output": got.OutputText(), "history": line[0].Text(), "answer in history": line[1].Text(),
	} {
		if text != large {
			t.Errorf("%s is not what was stored: %d bytes, want %d", where, len(text), len(large))
		}
	}
}
