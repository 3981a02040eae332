package sqlstore

import (
	"slices"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// Callers in a process that is given up for dead do not count, whether it was the last to read the turn or not.
func TestCallersOfTheDead(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	owner := openURL(t, url, hurried())
	dead, proxy := proxied(t, url, hurried())
	before, after, read := withID(oneShot("left before"), "1"), withID(oneShot("left after"), "2"), withID(oneShot("read"), "3")
	for _, a := range []*conversation.Admission{before, after, read} {
		if err := owner.BeginTurn(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := dead.AttachTurn(t.Context(), "team", a.Turn.ID); err != nil {
			t.Fatal(err)
		}
	}
	leave := func(a *conversation.Admission) {
		if err := owner.DetachTurn(t.Context(), "team", a.Turn.ID); err != nil {
			t.Fatal(err)
		}
	}
	leave(before)
	proxy.Blackhole()
	defer proxy.Restore()
	eventually(t, "the other process is given up", func() bool {
		return number(t, owner, `SELECT count(*) FROM replicas WHERE heartbeat = '-infinity'`) == 1
	})
	leave(after)
	want := []conversation.ID{before.Turn.ID, after.Turn.ID}
	for len(want) > 0 {
		for _, id := range duties(t, owner).Cancel {
			if id == read.Turn.ID {
				t.Fatal("a turn is to be cancelled that has a caller")
			}
			want = slices.DeleteFunc(want, func(w conversation.ID) bool { return w == id })
		}
	}
	for _, a := range []*conversation.Admission{before, after, read} {
		if err := owner.EndTurn(t.Context(), ending(a, "")); err != nil {
			t.Fatal(err)
		}
	}
	if n := number(t, owner, `SELECT count(*) FROM callers`); n != 0 {
		t.Errorf("%d callers are left of turns that have ended", n)
	}
}
