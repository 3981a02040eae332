package sqlstore

import (
	"strings"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A reader that takes a log piece by piece does not have the server send all that is left of it each time.
func TestEventsSent(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	w, tapped := tap(t, url)
	db := openURL(t, tapped, Options{})
	a := oneShot("question")
	if err := db.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	const rows = 48
	batch := conversation.EventBatch{Team: "team", Turn: a.Turn.ID}
	for i := range rows {
		batch.Events = append(batch.Events, conversation.Event{
			Sequence: int64(i) + 2, Time: time.Now(), Kind: conversation.EventTextDelta, Text: strings.Repeat("x", eventRowBytes),
		})
	}
	if _, err := db.AppendEvents(t.Context(), []conversation.EventBatch{batch}); err != nil {
		t.Fatal(err)
	}
	before := w.answered.Load()
	const piece = 2 * eventRowBytes
	events, err := db.Events(t.Context(), "team", a.Turn.ID, 1, piece)
	if err != nil || len(events) != 2 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	if sent := w.answered.Load() - before; sent > 3*piece {
		t.Errorf("%d bytes were sent for %d", sent, piece)
	}
}

// Rows of a few events each are many for one answer.
func TestEventsOfSmallRows(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, db *DB) {
		a := oneShot("question")
		if err := db.BeginTurn(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		const rows = maxEventRows + 10
		var batches []conversation.EventBatch
		for i := range rows {
			batches = append(batches, conversation.EventBatch{Team: "team", Turn: a.Turn.ID, Events: []conversation.Event{
				{Sequence: int64(i) + 2, Time: time.Now(), Kind: conversation.EventTextDelta, Text: "x"},
			}})
		}
		if _, err := db.AppendEvents(t.Context(), batches); err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct{ size, least int }{{1, 1}, {1000, 1000 / (eventSize + 1)}, {eventRowBytes, maxEventRows}} {
			events, err := db.Events(t.Context(), "team", a.Turn.ID, 1, x.size)
			if err != nil || len(events) < x.least || len(events) == rows && x.size < eventRowBytes {
				t.Errorf("%d events of %d bytes, %v", len(events), x.size, err)
			}
			for i, e := range events {
				if e.Sequence != int64(i)+2 {
					t.Fatalf("event %d has the number %d", i, e.Sequence)
				}
			}
		}
	})
}
