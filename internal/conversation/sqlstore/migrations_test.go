package sqlstore

import (
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/pgtest"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// A file of the first version of the schema, with an answered turn, one that failed after it, one that runs on the line,
// a one-shot and one that outlives its caller, is read and gone on with as if it had always had the second.
func TestMigrateFirstVersion(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "old.db")
	ids := make([]conversation.ID, 14)
	for i := range ids {
		ids[i] = newID()
	}
	c, answered, failed, running, shot, owner, goesOn := ids[0], ids[1], ids[2], ids[3], ids[4], ids[5], ids[11]
	atVersion(t, path, 1, func(do func(text string, args ...any)) {
		do(`INSERT INTO conversations VALUES ($1, 'team', 3, 1000, 2000, CAST('{"display_name":"d"}' AS BLOB))`, c[:])
		do(`INSERT INTO branches VALUES ($1, $1, NULL, 0, $2, 2, 30, 2, 3000)`, c[:], answered[:])
		do(`INSERT INTO branches VALUES ($1, $2, $2, 2, $1, 3, 40, 1, 3000)`, failed[:], c[:])
		for _, m := range []struct {
			branch, id, turn conversation.ID
			position, before int
			text             string
		}{
			{c, ids[6], answered, 0, 0, "question"},
			{c, ids[7], answered, 1, 10, "answer"},
			{failed, ids[8], failed, 2, 30, "lost"},
			{c, ids[9], running, 2, 30, "next"},
			{shot, ids[10], shot, 0, 0, "shot"},
			{goesOn, ids[12], goesOn, 0, 0, "goes on"},
		} {
			tokens := 10
			if m.text == "answer" {
				tokens = 20
			}
			do(`INSERT INTO messages VALUES ($1, $2, $3, $4, 3, $5, $6, $7)`,
				m.branch[:], m.position, m.id[:], m.turn[:], tokens, m.before, []byte("t"+m.text))
		}
		const turns = `INSERT INTO turns VALUES
('team', $1, 'client', $2, $3, $4, $5, 1, $6, $7, $9, NULL, 1000, $8, NULL, NULL, CAST('{"model":"m"}' AS BLOB))`
		do(turns, answered[:], c[:], nil, c[:], 0, 1, conversation.Completed, 2000, conversation.DisconnectCancel)
		do(turns, failed[:], c[:], answered[:], failed[:], 2, 0, conversation.Failed, 3000, conversation.DisconnectCancel)
		do(turns, running[:], c[:], answered[:], c[:], 2, 0, conversation.Running, 0, conversation.DisconnectCancel)
		do(turns, shot[:], nil, nil, shot[:], 0, 0, conversation.Running, 0, conversation.DisconnectCancel)
		do(turns, goesOn[:], nil, nil, goesOn[:], 0, 0, conversation.Running, 0, conversation.DisconnectContinue)
		const runs = `INSERT INTO running VALUES ($1, $2, 'team', $3, 1, $4, $5, $6)`
		do(runs, running[:], c[:], owner[:], 2, 3, 40)
		do(runs, shot[:], nil, owner[:], 0, 1, 10)
		do(runs, goesOn[:], nil, owner[:], 0, 1, 10)
	})
	atVersion(t, path, 2, nil)
	atVersion(t, path, 1, nil) // and back, which loses nothing that there was

	db := openAt(t, path, Options{})
	got, err := db.GetConversation(t.Context(), "team", c)
	if err != nil {
		t.Fatal(err)
	}
	head := conversation.Place{Branch: c, Position: 2, Tokens: 30}
	if got.HeadTurn != answered || got.Head != head || got.ActiveTurn != running || !got.ExpireTime.IsZero() ||
		got.Version != (conversation.Version{Spec: 3, Head: 2}) {
		t.Fatalf("the conversation is %+v", got)
	}
	for id, end := range map[conversation.ID]conversation.Place{
		answered: head, failed: {Branch: failed, Position: 3, Tokens: 40}, running: {}, shot: {}, goesOn: {},
	} {
		turn, err := db.GetTurn(t.Context(), "team", id, true)
		if err != nil {
			t.Fatal(err)
		}
		if turn.End != end || len(turn.Input) != 1 {
			t.Errorf("turn %x ends at %+v with %d messages of input", id, turn.End, len(turn.Input))
		}
	}
	said := textsBefore(t, db, c, conversation.Place{Branch: failed, Position: 3})
	if !slices.Equal(said, []string{"question", "answer", "lost"}) {
		t.Errorf("the failed turn said %q", said)
	}

	duties, err := db.Duties(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(duties.Taken) != 3 {
		t.Fatalf("%d turns are taken over, want 3", len(duties.Taken))
	}
	for _, taken := range duties.Taken {
		if taken.Turn.ID == running && (taken.Base != head || taken.Fork) {
			t.Errorf("the turn on the line stands at %+v, fork: %v", taken.Base, taken.Fork)
		}
		// What the first version did not record cannot be known: a turn without a deadline is not to be gone on with.
		if !taken.Deadline.IsZero() || taken.Cancel || (taken.Turn.OnDisconnect == conversation.DisconnectContinue) != (taken.Turn.ID == goesOn) {
			t.Errorf("a turn that was taken over is %+v", taken)
		}
		if err := db.EndTurn(t.Context(), takenOver(ending(&conversation.Admission{Turn: taken.Turn}, "done"))); err != nil {
			t.Fatal(err)
		}
	}
	got, err = db.GetConversation(t.Context(), "team", c)
	if err != nil {
		t.Fatal(err)
	}
	said = textsBefore(t, db, c, got.Head)
	if got.HeadTurn != running || !slices.Equal(said, []string{"question", "answer", "next", "done"}) {
		t.Errorf("the head is %x, after %q", got.HeadTurn, said)
	}
}

// atVersion brings the file at path to a version of the schema, and has fill write into it.
func atVersion(t *testing.T, path string, version int64, fill func(do func(text string, args ...any))) {
	t.Helper()
	db, err := sql.Open("sqlite", sqliteDSN(path, writerParams()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	schemaAt(t, sqliteSchema, db, version, fill)
}

func schemaAt(t *testing.T, s schema, db *sql.DB, version int64, fill func(do func(text string, args ...any))) {
	t.Helper()
	p, err := s.provider(db, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.UpTo(t.Context(), version)
	if have, _, _ := p.GetVersions(t.Context()); err == nil && have > version {
		_, err = p.DownTo(t.Context(), version)
	}
	if err != nil {
		t.Fatal(err)
	}
	if fill == nil {
		return
	}
	fill(func(text string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), text, args...); err != nil {
			t.Fatal(fmt.Errorf("%s: %w", text, err))
		}
	})
}

func textsBefore(t *testing.T, db *DB, c conversation.ID, before conversation.Place) []string {
	t.Helper()
	var said []string
	for m, err := range db.History(t.Context(), "team", c, before) {
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, m.Text())
	}
	slices.Reverse(said)
	return said
}

// The control plane comes to a database that has turns, goes without taking anything of them along, and keeps no program away
// that knows nothing of it.
func TestMigrateTenancy(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "old.db")
		testMigrateTenancy(t, 2, func(version int64, fill func(do func(text string, args ...any))) {
			t.Helper()
			atVersion(t, path, version, fill)
		}, func() *DB { return openAt(t, path, Options{}) })
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := pgtest.Database(t)
		testMigrateTenancy(t, 1, func(version int64, fill func(do func(text string, args ...any))) {
			t.Helper()
			db, err := sql.Open("pgx", url)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			schemaAt(t, postgresSchema, db, version, fill)
		}, func() *DB { return openURL(t, url, Options{}) })
	})
}

// testMigrateTenancy goes to a version of the schema and the one after it, and again.
func testMigrateTenancy(t *testing.T, before int64, at func(int64, func(do func(text string, args ...any))), open func() *DB) {
	t.Helper()
	at(before, func(do func(text string, args ...any)) {
		t.Helper()
		do(`INSERT INTO claims VALUES ('team', $1, $2, $3, $4)`, []byte("id"), make([]byte, 16), make([]byte, 32), time.Now().UnixNano())
	})
	for range 2 {
		at(before+1, nil)
		db := open()
		if n := len(audit(t, db)); n != 0 {
			t.Errorf("%d entries", n)
		}
		e := auditEntry("put")
		if err := db.Put(t.Context(), &tenant.Change{Team: &tenant.Team{ID: "a"}}, &e); err != nil {
			t.Fatal(err)
		}
		if _, err := db.GetClaim(t.Context(), "team", "id"); err != nil {
			t.Error(err)
		}
		var least int64
		if err := db.readers.QueryRowContext(t.Context(), `SELECT min_program FROM schema`).Scan(&least); err != nil || least != before {
			t.Errorf("programs from %d on may use it, %v", least, err)
		}
		closeStore(t, db)
		at(before, nil)
	}
}
