package sqlstore

import (
	"regexp"
	"strings"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// What a turn costs follows the number of rows that are written for it. In a conversation that is, at the begin, the turn, its
// row among those that run and a message, and, at the end, the turn again, the answer, the head and the row that goes.
func TestRowsPerTurn(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	c := newConversation(t, db)
	var h head
	for _, x := range []struct {
		name    string
		prepare func(a *conversation.Admission, e *conversation.End)
		in      conversation.ID
		want    int
	}{
		{"in a conversation", func(*conversation.Admission, *conversation.End) {}, c.ID, 7},
		{"one-shot", func(*conversation.Admission, *conversation.End) {}, conversation.ID{}, 6},
		{"with a log", func(_ *conversation.Admission, e *conversation.End) {
			e.Events = []conversation.Event{{Sequence: 2, Kind: conversation.EventTextDelta, Text: "a"}}
		}, c.ID, 8},
		{"with a request id", func(a *conversation.Admission, e *conversation.End) {
			a.Turn.RequestID, e.Turn.RequestID = "id", "id"
			a.Turn.OnDisconnect, e.Turn.OnDisconnect = conversation.DisconnectContinue, conversation.DisconnectContinue
		}, c.ID, 8},
		{"to be cancelled by request id", func(a *conversation.Admission, e *conversation.End) {
			a.Turn.RequestID, e.Turn.RequestID = "other id", "other id"
		}, c.ID, 10},
	} {
		a := admission(x.in, h, "question")
		if x.in.IsZero() {
			a = oneShot("question")
		}
		e := ending(a, "answer")
		x.prepare(a, e)
		before := writtenRows(t, db)
		if err := db.BeginTurn(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := db.EndTurn(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if got := writtenRows(t, db) - before; got != x.want {
			t.Errorf("%s: %d rows are written, want %d", x.name, got, x.want)
		}
		if !x.in.IsZero() {
			h = after(a)
		}
	}
}

// writtenRows is how many rows the connection that writes has inserted, updated and deleted.
func writtenRows(t *testing.T, db *DB) int {
	t.Helper()
	n := 0
	db.committer.exclusively(func() {
		conn := db.committer.writer.writer.(*sqliteWriter).conn
		if err := conn.QueryRowContext(t.Context(), `SELECT total_changes()`).Scan(&n); err != nil {
			t.Error(err)
		}
	})
	return n
}

// No read goes over a table: what a read costs does not grow with what is stored.
func TestReadPlans(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	placeholder := regexp.MustCompile(`\$\d`)
	for _, text := range readTexts() {
		args := make([]any, 0, 5)
		for _, p := range placeholder.FindAllString(text, -1) {
			if n := int(p[1] - '0'); n > len(args) {
				args = append(args, make([]any, n-len(args))...)
			}
		}
		for _, step := range planOf(t, db, text, args) {
			if strings.HasPrefix(step, "SCAN ") && step != "SCAN l" { // the branches of a line, which the statement has found
				t.Errorf("%s\n%s", text, step)
			}
		}
	}
}

func planOf(t *testing.T, db *DB, text string, args []any) (steps []string) {
	t.Helper()
	rows, err := db.readers.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, args...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return steps
}
