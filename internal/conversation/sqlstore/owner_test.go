package sqlstore

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// run has statements run in the place of what other processes do.
func (db *DB) run(t *testing.T, text string, args ...any) {
	t.Helper()
	err := db.committer.do(t.Context(), "test", testOp{decision: func(g *group) error {
		g.then = append(g.then, func(ctx context.Context, w *setWriter) error { return w.exec(ctx, &statement{text}, args...) })
		return nil
	}}, 0)
	if err != nil {
		t.Fatal(err)
	}
}

// Turns that were taken over come with their input, so only so many come at once; one that is larger than that comes alone.
func TestDutiesAreBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "chatsvc.db")
	db := openAt(t, path, Options{})
	small, huge := strings.Repeat("x", takenBytes/4), strings.Repeat("x", takenBytes+1)
	want := make(map[conversation.ID]bool)
	for _, text := range []string{small, huge, small, small, small, small, small} {
		a := oneShot(text)
		if err := db.BeginTurn(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		want[a.Turn.ID] = true
	}
	closeStore(t, db)
	db = openAt(t, path, Options{})
	for len(want) > 0 {
		size := 0
		taken := duties(t, db).Taken
		for _, taken := range taken {
			size += len(taken.Turn.Input[0].Text())
			if !want[taken.Turn.ID] {
				t.Fatalf("turn %x was taken twice", taken.Turn.ID)
			}
			delete(want, taken.Turn.ID)
		}
		if len(taken) == 0 || len(taken) > 1 && size > takenBytes {
			t.Errorf("%d turns with %d bytes come at once", len(taken), size)
		}
	}
}

// A turn that cannot be read is told of with what can be, and keeps nothing else from being told.
func TestUnreadableTurn(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, db *DB) {
		cancelled, settings, result, good := oneShot("cancelled"), oneShot("settings"), oneShot("result"), oneShot("good")
		for _, a := range []*conversation.Admission{cancelled, settings, result, good} {
			if err := db.BeginTurn(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.RequestCancel(t.Context(), "team", cancelled.Turn.ID); err != nil {
			t.Fatal(err)
		}
		db.run(t, `UPDATE running SET takeovers = 1 WHERE turn <> $1`, cancelled.Turn.ID[:])
		db.run(t, `UPDATE running SET overrides = $2 WHERE turn = $1`, settings.Turn.ID[:], []byte("{"))
		db.run(t, `UPDATE turns SET result = $2 WHERE id = $1`, result.Turn.ID[:], []byte("{"))
		d, err := db.duties(t.Context())
		if err != nil || len(d.Taken) != 3 || !slices.Equal(d.Cancel, []conversation.ID{cancelled.Turn.ID}) {
			t.Fatalf("the duties are %+v, %v", d, err)
		}
		for _, taken := range d.Taken {
			if taken.Unreadable == (taken.Turn.ID == good.Turn.ID) || taken.Turn.Team != "team" {
				t.Errorf("taken: %+v, %+v", taken, taken.Turn)
			}
			e := takenOver(ending(&conversation.Admission{Turn: taken.Turn}, ""))
			e.Turn.State = conversation.Failed
			if err := db.EndTurn(t.Context(), e); err != nil {
				t.Error(err)
			}
		}
	})
}

// A turn that another has taken over since it was found to be this one's is left to the other.
func TestTakenFromTheTaker(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, db *DB) {
		a := oneShot("question")
		if err := db.BeginTurn(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		o := db.ownership.current()
		for _, x := range []struct {
			owner owner
			want  int
		}{{o, 1}, {owner{o.id, o.epoch + 1}, 0}, {owner{newID(), o.epoch}, 0}} {
			taken, err := db.taken(t.Context(), x.owner, []conversation.ID{a.Turn.ID})
			if err != nil || len(taken) != x.want {
				t.Errorf("%+v has taken %d turns, %v", x.owner, len(taken), err)
			}
		}
	})
}
