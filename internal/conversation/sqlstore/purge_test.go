package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// foreverKept is the retention of stores whose tests remove what is old themselves.
var foreverKept = Retention{OneShots: 1000 * time.Hour, Events: 1000 * time.Hour}

// onBoth runs a test on either engine. Each call of open opens the database of the test anew, to be closed before the next.
func onBoth(t *testing.T, test func(t *testing.T, open func() *DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "keep.db")
		test(t, func() *DB { return openAt(t, path, Options{Retention: foreverKept}) })
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := migrated(t)
		test(t, func() *DB { return openURL(t, url, Options{Retention: foreverKept}) })
	})
}

func closeStore(t *testing.T, db *DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// number returns what a statement without arguments counts.
func number(t *testing.T, db *DB, text string) (n int) {
	t.Helper()
	if err := db.readers.QueryRowContext(t.Context(), text).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// contentTables are those in which nothing is left when all conversations and turns are deleted.
var contentTables = []string{"conversations", "branches", "messages", "turns", "running", "events", "deletions"}

// left counts all that is left.
func left(t *testing.T, db *DB) (n int) {
	t.Helper()
	for _, table := range contentTables {
		n += number(t, db, "SELECT count(*) FROM "+table)
	}
	return n
}

// deleteQuietly deletes a conversation so that the keeper does not know before it looks by itself.
func deleteQuietly(t *testing.T, db *DB, id conversation.ID) {
	t.Helper()
	if err := db.committer.do(t.Context(), "delete", &deleteConversation{id: id, team: "team", time: 1}, 0); err != nil {
		t.Fatal(err)
	}
}

// keeperOf returns a keeper for the test to drive, with the retention that is the default.
func keeperOf(t *testing.T, db *DB) *keeper {
	t.Helper()
	k := &keeper{db: db, retention: Retention{}.withDefaults()}
	t.Cleanup(k.close)
	return k
}

// removeSome lets one transaction remove what is allowed.
func removeSome(t *testing.T, k *keeper, rows, bytes int) (more bool) {
	t.Helper()
	eventually(t, "no other keeper is at it", func() bool {
		err := k.batch(t.Context(), "remove", func(ctx context.Context, w *setWriter) (err error) {
			more, err = (&removal{setWriter: w, rows: rows, bytes: bytes}).run(ctx)
			return err
		})
		if err != nil && !errors.Is(err, errKeptElsewhere) {
			t.Fatal(err)
		}
		return err == nil
	})
	return more
}

// A store removes what was deleted by itself, also what an earlier process left, and gives the pages back.
func TestPurge(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, open func() *DB) {
		db := open()
		kept, gone := newConversation(t, db), newConversation(t, db)
		w := &world{t: t, db: db, rng: rand.New(rand.NewPCG(1, 1))}
		c := &livingConversation{Conversation: *kept}
		w.turn(c, false)
		fill(t, db, gone.ID, 3000, 2000)
		before := 0
		if !db.dialect.shared() {
			before = number(t, db, "PRAGMA page_count")
		}
		if err := db.DeleteConversation(t.Context(), "team", gone.ID, conversation.Version{}); err != nil {
			t.Fatal(err)
		}
		closeStore(t, db) // most likely in the middle of it

		db = open() // goes on
		w.db = db
		eventually(t, "all rows are removed", func() bool { return number(t, db, "SELECT count(*) FROM deletions") == 0 })
		if n := number(t, db, "SELECT (SELECT count(*) FROM messages) - 2 + (SELECT count(*) FROM branches)"); n < 1 || n > 2 {
			t.Errorf("%d rows too many or too few are left", n)
		}
		w.read(c)
		if db.dialect.shared() {
			return
		}
		eventually(t, "the file has given its pages back", func() bool { return number(t, db, "PRAGMA freelist_count") <= freePages })
		if after := number(t, db, "PRAGMA page_count"); after >= before {
			t.Errorf("%d pages before, %d after", before, after)
		}
	})
}

// fill writes messages of some size to the main line of a conversation, as if there had been turns.
func fill(t *testing.T, db *DB, id conversation.ID, messages, size int) {
	t.Helper()
	content, turn := []byte("t"+strings.Repeat("x", size)), newID()
	for at := 0; at < messages; {
		o := testOp{decision: func(g *group) error {
			for n := min(at+5000, messages); at < n; at++ {
				message := newID()
				g.add(insertMessages, id[:], int64(at), message[:], turn[:], int64(conversation.RoleUser), int64(1), int64(at), content)
			}
			return nil
		}}
		if err := db.committer.do(t.Context(), "fill", o, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// A transaction removes a bounded number of rows and bytes; but the content of a turn goes as a whole.
func TestPurgeIsBounded(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	settled(t, db)
	k := keeperOf(t, db)
	c := newConversation(t, db)
	fill(t, db, c.ID, 20, 1000)
	deleteQuietly(t, db, c.ID)
	for _, step := range []struct{ rows, bytes, want int }{
		{4, 1 << 20, 16}, {500, 1500, 14}, {6, 1 << 20, 8}, {8, 1 << 20, 0},
	} {
		if !removeSome(t, k, step.rows, step.bytes) {
			t.Fatal("there should be more")
		}
		if got := number(t, db, "SELECT count(*) FROM messages"); got != step.want {
			t.Errorf("%+v: %d messages are left", step, got)
		}
	}
	if n := number(t, db, "SELECT count(*) FROM branches"); n != 1 {
		t.Errorf("%d branches are left while their messages may be", n)
	}
	for removeSome(t, k, 2, 1<<20) {
	}
	if n := left(t, db); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// Turns go on while a hundred thousand rows are removed.
func TestTurnsGoOnDuringPurge(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, open func() *DB) {
		const rows = 100_000
		db := open()
		gone, c := newConversation(t, db), newConversation(t, db)
		fill(t, db, gone.ID, rows, 50)
		if err := db.DeleteConversation(t.Context(), "team", gone.ID, conversation.Version{}); err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, db: db, rng: rand.New(rand.NewPCG(1, 1))}
		living := &livingConversation{Conversation: *c}
		var longest time.Duration
		turns, during := 0, true
		for ; during; turns++ {
			start := time.Now()
			w.turn(living, false)
			longest = max(longest, time.Since(start))
			during = number(t, db, "SELECT count(*) FROM deletions") > 0
		}
		t.Logf("%d turns during the removal, the longest in %v", turns, longest)
		if turns < 20 {
			t.Errorf("only %d turns were possible during the removal of %d rows", turns, rows)
		}
		// A turn here is three writes and three reads. The bound is for a machine that is busy with much else.
		if longest > 2*time.Second {
			t.Errorf("a turn took %v", longest)
		}
		w.read(living)
	})
}

// No statement of the keeper walks a table that grows.
func TestKeeperPlans(t *testing.T) {
	t.Parallel()
	db := openNew(t)
	texts := []string{
		nextDeletion.text, turnsOfConversation.text, leavesOfConversation.text, messagesBehindForks.text, messagesOfBranch.text,
		removeMessages.text, removeOldClaims.text, expiredConversations, runsOfConversation, oldOneShots, anyOldClaim, oldEvents,
	}
	for _, s := range []*set{countEvents, countMessages, removeEvents, removeContents, removeTurns, removeBranchSet} {
		texts = append(texts, s.text(db.dialect, 2))
	}
	for _, text := range texts {
		arguments := strings.Count(text, "?")
		for strings.Contains(text, fmt.Sprint("$", arguments+1)) {
			arguments++
		}
		args := make([]any, arguments)
		plan, err := scanAll(t.Context(), planner{db.readers, args}, "EXPLAIN QUERY PLAN "+text, func(rows *sql.Rows) (line string, err error) {
			var skip int
			return line, rows.Scan(&skip, &skip, &skip, &line)
		})
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, line := range plan {
			if table, ok := strings.CutPrefix(line, "SCAN "); ok && table != "deletions" && table != "w" && !strings.HasPrefix(table, "2-ROW") &&
				!strings.HasPrefix(table, "CONSTANT") {
				t.Errorf("%s\n%s", text, strings.Join(plan, "\n"))
			}
		}
	}
}

// A planner adds arguments to what it is asked.
type planner struct {
	*sql.DB
	args []any
}

func (p planner) QueryContext(ctx context.Context, text string, _ ...any) (*sql.Rows, error) {
	return p.DB.QueryContext(ctx, text, p.args...)
}

// A turn's log is deleted with it, and so are the messages and the log of one that only waited.
func TestDeletedTurnsTakeAllWithThem(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, open func() *DB) {
		db := open()
		k := keeperOf(t, db)
		id := newID()
		if err := shoot(t, db, id); err != nil {
			t.Fatal(err)
		}
		if n := left(t, db); n != 4 {
			t.Fatalf("a one-shot turn has %d rows, want itself, two messages and its log", n)
		}
		if err := db.DeleteTurn(t.Context(), "team", id); err != nil {
			t.Fatal(err)
		}
		if n := left(t, db); n != 0 {
			t.Errorf("%d rows are left of a one-shot turn", n)
		}
		w := &world{t: t, db: db, k: k, rng: rand.New(rand.NewPCG(1, 1))}
		w.wait(w.one())
		w.forget(0)
		for removeSome(t, k, 2, 1<<20) {
		}
		if n := left(t, db); n != 0 {
			t.Errorf("%d rows are left of a turn that waited", n)
		}
	})
}

// A file that cannot give pages back, because it was made elsewhere, must not be asked for ever.
func TestShrinkWithoutAutoVacuum(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "plain.db")
	closeStore(t, openAt(t, path, Options{}))
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
	db := openAt(t, path, Options{})
	c := newConversation(t, db)
	fill(t, db, c.ID, 400, 10_000)
	deleteQuietly(t, db, c.ID)
	k := keeperOf(t, db)
	for batches := 0; removeSome(t, k, purgeRows, purgeBytes); batches++ {
		if batches > 10 {
			t.Fatal("it wants to go on, and nothing can be given back")
		}
	}
	if n := number(t, db, "PRAGMA freelist_count"); n <= freePages {
		t.Errorf("%d pages are free: the file has given some back", n)
	}
}

// A deletion that had begun in the first version of the schema, which removed the main line's branch at once, goes on.
func TestPurgeOfFirstVersion(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "old.db")
	c, failed := newID(), newID()
	atVersion(t, path, 1, func(do func(text string, args ...any)) {
		do(`INSERT INTO deletions VALUES ($1, 1)`, c[:])
		do(`INSERT INTO branches VALUES ($1, $2, $2, 1, $1, 2, 5, 1, 1)`, failed[:], c[:])
		for position, branch := range []conversation.ID{c, failed} {
			id := newID()
			do(`INSERT INTO messages VALUES ($1, $2, $3, $3, 3, 5, 5, $4)`, branch[:], position, id[:], []byte("text"))
		}
	})
	db := openAt(t, path, Options{})
	eventually(t, "nothing is left", func() bool { return left(t, db) == 0 })
}
