package sqlstore

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

func TestOpenMakesPrivateFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a b", "50%?#&=")
	path := filepath.Join(dir, "chat svc?x=y#z%20.db")
	db := openAt(t, path, Options{})
	newConversation(t, db)
	for name, want := range map[string]os.FileMode{dir: 0o700, path: 0o600, path + "-wal": 0o600, path + ".lock": 0o600} {
		info, err := os.Stat(name)
		if err != nil {
			t.Error(err)
		} else if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Close left the write-ahead log: %v", err)
	}
}

func TestPragmas(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	values := make(map[string]string)
	err := together(t, db, testOp{decision: func(*group) error {
		var errs []error
		for _, name := range []string{"auto_vacuum", "journal_mode", "synchronous", "wal_autocheckpoint"} {
			var v string
			errs = append(errs, db.committer.writer.conn.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&v))
			values[name] = v
		}
		return errors.Join(errs...)
	}})[0]
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"auto_vacuum": "2", "journal_mode": "wal", "synchronous": "2", "wal_autocheckpoint": "0"} {
		if values[name] != want {
			t.Errorf("%s is %s, want %s", name, values[name], want)
		}
	}
	if _, err := db.readers.ExecContext(t.Context(), "DELETE FROM turns"); err == nil {
		t.Error("a reading connection can write")
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	_, err := OpenSQLite(t.Context(), pathOf(db), Options{})
	if err == nil {
		t.Fatal("the file was opened twice")
	}
	for _, want := range []string{pathOf(db), "another process"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error %q does not say %q", err, want)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	openAt(t, pathOf(db), Options{})
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", pathOf(db))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)"); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = OpenSQLite(t.Context(), pathOf(db), Options{})
	if err == nil {
		t.Fatal("a newer schema was opened")
	}
	for _, want := range []string{pathOf(db), "version 99", "newer"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error %q does not say %q", err, want)
		}
	}
}

func TestOpenRefusesWhatIsNoDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, dir} {
		for range 2 { // the first must not keep the lock
			if _, err := OpenSQLite(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), path) ||
				strings.Contains(err.Error(), "another process") {
				t.Errorf("opening %s: %v", path, err)
			}
		}
	}
}

// No statement that runs all the time looks at more rows than it needs.
func TestPlans(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	raw, err := sql.Open("sqlite", pathOf(db))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	texts := append(readTexts(), orphansText)
	for _, s := range []*set{
		runsByTurn, linesByID, turnsByKey, endRuns, moveMessages, endTurns, updateSpecs, moveHeads, deleteConversations, deleteBranches,
		deleteTurns, deleteMessages,
	} {
		texts = append(texts, s.text(&sqliteDialect{}, 4))
	}
	for _, text := range texts {
		args := make([]any, strings.Count(text, "?")+strings.Count(text, "$"))
		plan, err := explain(t, raw, text, args)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		for _, step := range plan {
			scan := strings.HasPrefix(step, "SCAN") && !strings.Contains(step, "VALUES CLAUSE") &&
				!(text == orphansText && step == "SCAN r")
			sorts := strings.Contains(step, "TEMP B-TREE") && text != orphansText
			if scan || sorts || strings.Contains(step, "AUTOMATIC") {
				t.Errorf("%s\nplan: %s", text, strings.Join(plan, "\n      "))
				break
			}
		}
		t.Logf("%.60s…\n      %s", text, strings.Join(plan, "\n      "))
	}
}

func explain(t *testing.T, db *sql.DB, text string, args []any) (plan []string, err error) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			return nil, err
		}
		plan = append(plan, detail)
	}
	return plan, rows.Err()
}

// The log is emptied while the store is open, and its file does not grow with what is written.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	large := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	for range 40 {
		turn(t, db, conversation.ID{}, conversation.ID{}, large) // twice
	}
	eventually(t, "most has reached the database file", func() bool {
		info, err := os.Stat(pathOf(db))
		return err == nil && info.Size() > 40<<20
	})
	// 80 MiB were written; a log that never began anew would hold all of them.
	if info, err := os.Stat(pathOf(db) + "-wal"); err != nil || info.Size() > 72<<20 {
		t.Errorf("the write-ahead log: %v, %v", info.Size(), err)
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	db := settled(t)
	kept, gone := newConversation(t, db), newConversation(t, db)
	keptTurn := turn(t, db, kept.ID, conversation.ID{}, "kept")
	var head conversation.ID
	for i := range 700 {
		a := admission(gone.ID, head, strings.Repeat("x", 2000))
		if err := db.BeginTurn(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		e := ending(a, strings.Repeat("y", 2000))
		if i%10 == 0 {
			e.Turn.State = conversation.Failed
		} else {
			head = a.Turn.ID
		}
		if err := db.EndTurn(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	count := func(db *DB, query string) (n int) {
		t.Helper()
		if err := db.readers.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count(db, "PRAGMA page_count")
	if err := db.DeleteConversation(t.Context(), "team", gone.ID, conversation.Version{}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil { // most likely in the middle of it
		t.Fatal(err)
	}

	db = openAt(t, pathOf(db), Options{}) // goes on
	eventually(t, "all rows are removed", func() bool {
		return count(db, "SELECT (SELECT count(*) FROM deletions) + (SELECT count(*) FROM turns) - 1") == 0
	})
	if n := count(db, "SELECT (SELECT count(*) FROM messages) - 2 + (SELECT count(*) FROM branches) - 1"); n != 0 {
		t.Errorf("%d rows too many or too few are left", n)
	}
	if got, err := db.GetTurn(t.Context(), "team", keptTurn, true); err != nil || got.OutputText() != "kept" {
		t.Errorf("the other conversation's turn: %v, %v", got, err)
	}
	eventually(t, "the file has given its pages back", func() bool { return count(db, "PRAGMA freelist_count") <= freePages })
	if after := count(db, "PRAGMA page_count"); after >= before {
		t.Errorf("%d pages before, %d after", before, after)
	}
}

// A transaction removes a bounded number of rows and bytes.
func TestPurgeIsBounded(t *testing.T) {
	t.Parallel()
	db := settled(t)
	c := newConversation(t, db)
	var head conversation.ID
	for range 5 {
		head = turn(t, db, c.ID, head, strings.Repeat("x", 1000))
	}
	count := func() (n int) {
		t.Helper()
		if err := db.readers.QueryRowContext(t.Context(), "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM turns)").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	// Deleted by hand, so that the purger does not know.
	if errs := together(t, db, &deleteConversation{id: c.ID, team: "team", time: 1}); errs[0] != nil {
		t.Fatal(errs[0])
	}
	for _, step := range []struct{ rows, bytes, want int }{
		{4, 1 << 20, 11}, {500, 1500, 9}, {6, 1 << 20, 3}, {2, 1 << 20, 1}, {500, 1 << 20, 0},
	} {
		b := &purgeBatch{rows: step.rows, bytes: step.bytes}
		if errs := together(t, db, b); errs[0] != nil || !b.more {
			t.Fatalf("more %v, %v", b.more, errs[0])
		}
		if got := count(); got != step.want {
			t.Errorf("%+v: %d rows are left", step, got)
		}
	}
	b := &purgeBatch{rows: 1, bytes: 1}
	if errs := together(t, db, b); errs[0] != nil || b.more {
		t.Errorf("more %v, %v", b.more, errs[0])
	}
}

// A full database fails all items of a group, keeps nothing of them, and is used again when there is room.
func TestDatabaseFull(t *testing.T) {
	t.Parallel()
	db := settled(t)
	c := newConversation(t, db)
	fill := testOp{decision: func(*group) error {
		// Holds as long as the connection, which is given up with the group that fails.
		_, err := db.committer.writer.conn.ExecContext(t.Context(), "PRAGMA max_page_count = 1")
		return err
	}}
	if err := together(t, db, fill)[0]; err != nil {
		t.Fatal(err)
	}
	var ops []op
	var turns []*conversation.Admission
	for i := range 40 {
		a := admission(conversation.ID{}, conversation.ID{}, strings.Repeat("large ", 2000))
		if i == 0 {
			a.Turn.Conversation = c.ID
		}
		turns, ops = append(turns, a), append(ops, mustBegin(t, a))
	}
	for i, err := range together(t, db, ops...) {
		if !errors.Is(err, conversation.ErrStoreUnavailable) {
			t.Fatalf("item %d of a group without room: %v", i, err)
		}
	}
	for _, a := range turns {
		if _, err := db.GetTurn(t.Context(), "team", a.Turn.ID, true); !errors.Is(err, conversation.ErrNotFound) {
			t.Fatalf("something of the group is there: %v", err)
		}
	}
	for i, err := range together(t, db, ops...) { // a new connection, without the limit
		if err != nil {
			t.Errorf("item %d when there is room again: %v", i, err)
		}
	}
	check(t, db)
}

// check has SQLite look through the file.
func check(t *testing.T, db *DB) {
	t.Helper()
	rows, err := db.readers.QueryContext(t.Context(), "PRAGMA integrity_check")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var found []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		found = append(found, s)
	}
	if err := rows.Err(); err != nil || !slices.Equal(found, []string{"ok"}) {
		t.Fatal(fmt.Sprint("integrity check: ", found, err))
	}
}

func TestLockIsOfTheFile(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(pathOf(db), link); err != nil {
		t.Skipf("skipped: %v", err)
	}
	if second, err := OpenSQLite(t.Context(), link, Options{}); err == nil {
		_ = second.Close()
		t.Error("a second store has the file under another name")
	}
}

// A file that cannot give pages back, because it was made elsewhere, must not be asked for ever.
func TestShrinkWithoutAutoVacuum(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	path := pathOf(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	plain, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"PRAGMA journal_mode=DELETE", "PRAGMA auto_vacuum=0", "VACUUM"} {
		if _, err := plain.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := plain.Close(); err != nil {
		t.Fatal(err)
	}
	db, err = OpenSQLite(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	id := turn(t, db, conversation.ID{}, conversation.ID{}, strings.Repeat("x", 3<<20))
	if err := db.DeleteTurn(t.Context(), "team", id); err != nil {
		t.Fatal(err)
	}
	// The purger has looked: what it would do now, it has done.
	for range 3 {
		b := &purgeBatch{rows: purgeRows, bytes: purgeBytes}
		if errs := together(t, db, b); errs[0] != nil {
			t.Fatal(errs[0])
		}
		if b.more {
			t.Fatal("it wants to go on, and nothing can be given back")
		}
	}
}
