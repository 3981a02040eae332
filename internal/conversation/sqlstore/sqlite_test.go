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
			errs = append(errs, db.committer.writer.writer.(*sqliteWriter).conn.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&v))
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
	newer := func(least int) {
		t.Helper()
		for _, statement := range []string{
			"INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)", fmt.Sprint("UPDATE schema SET min_program = ", least),
		} {
			if _, err := raw.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
	}
	newer(2) // it can be used by programs that know version 2
	again, err := OpenSQLite(t.Context(), pathOf(db), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	newer(99)
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
	texts := append(readTexts(), adoptRuns.text)
	for _, s := range []*set{
		claimsByKey, runsByTurn, linesByID, turnsByKey, deleteClaims, endRuns, moveMessages, startTurns, recordTurns, endTurns, startRuns,
		cancelRuns, callersByTurn, deleteCallers, dismissCallers, deleteEvents, updateSpecs, moveHeads, deleteConversations, deleteTurns, deleteMessages, deleteLogs,
		auditHead, teamRevisions, clientRevisions, keyRevisions, keysByRequest, lastDenials, moveAuditHead,
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
			scan := strings.HasPrefix(step, "SCAN") && !strings.Contains(step, "VALUES CLAUSE") && step != "SCAN v" && // the keys
				text != adoptRuns.text && text != dutiesOf
			sorts := strings.Contains(step, "TEMP B-TREE") && !strings.HasPrefix(text, claimsByKey.head) // of these keys only
			// The pieces of a line, and the messages asked for in their order.
			if strings.HasPrefix(text, "WITH RECURSIVE line") {
				scan, sorts = scan && step != "SCAN l", false
			}
			if scan || sorts || strings.Contains(step, "AUTOMATIC") {
				t.Errorf("%s\nplan: %s", text, strings.Join(plan, "\n      "))
				break
			}
		}
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
		turn(t, db, conversation.ID{}, head{}, large) // twice
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

// A full database fails all items of a group, keeps nothing of them, and is used again when there is room.
func TestDatabaseFull(t *testing.T) {
	t.Parallel()
	db := settled(t, openNew(t))
	c := newConversation(t, db)
	fill := testOp{decision: func(*group) error {
		// Holds as long as the connection, which is given up with the group that fails.
		_, err := db.committer.writer.writer.(*sqliteWriter).conn.ExecContext(t.Context(), "PRAGMA max_page_count = 1")
		return err
	}}
	if err := together(t, db, fill)[0]; err != nil {
		t.Fatal(err)
	}
	var ops []op
	var turns []*conversation.Admission
	for i := range 40 {
		a := oneShot(strings.Repeat("large ", 2000))
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
