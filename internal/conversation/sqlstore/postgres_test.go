package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/pgtest"
)

// session connects to a database as somebody else.
func session(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func execAll(tb testing.TB, conn *pgx.Conn, statements ...string) {
	tb.Helper()
	for _, s := range statements {
		if _, err := conn.Exec(tb.Context(), s); err != nil {
			tb.Fatalf("%s: %v", s, err)
		}
	}
}

func count(tb testing.TB, conn *pgx.Conn, query string, args ...any) (n int) {
	tb.Helper()
	if err := conn.QueryRow(tb.Context(), query, args...).Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}

func TestPostgresSchema(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	if _, err := OpenPostgres(t.Context(), url, Options{}); !errors.Is(err, errOldSchema) || !strings.Contains(err.Error(), "chatsvc migrate up") {
		t.Fatalf("an empty database: %v", err)
	}
	have, want, err := PostgresSchema(t.Context(), url)
	if err != nil || have != 0 || want < 1 {
		t.Fatalf("schema %d of %d, %v", have, want, err)
	}
	var wg sync.WaitGroup
	for range 3 { // they wait for each other
		wg.Go(func() {
			if _, to, err := MigratePostgres(t.Context(), url, Options{}); err != nil || to != want {
				t.Errorf("migrated to %d, %v", to, err)
			}
		})
	}
	wg.Wait()
	if have, _, err = PostgresSchema(t.Context(), url); err != nil || have != want {
		t.Fatalf("schema %d of %d, %v", have, want, err)
	}
	conn := session(t, url)
	execAll(t, conn, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)`)
	db := openURL(t, url, Options{}) // a newer one that this program may use
	newConversation(t, db)
	execAll(t, conn, `UPDATE schema SET min_program = 99`)
	if _, err := OpenPostgres(t.Context(), url, Options{}); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Fatalf("a schema that this program may not use: %v", err)
	}
}

func TestPostgresURL(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"postgres://user:secret@127.0.0.1:1/db?connect_timeout=x", "postgres://user:secret@127.0.0.1:1/db", "postgres://user:sec%ret@h/db",
	} {
		_, err := OpenPostgres(t.Context(), url, Options{})
		if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "sec%ret") {
			t.Errorf("%v", err)
		}
	}
}

// A session of the store never holds others up for long, and the reading ones cannot write.
func TestSessions(t *testing.T) {
	t.Parallel()
	db := openNewPostgres(t)
	for name, want := range map[string]string{
		"idle_in_transaction_session_timeout": "1s", "lock_timeout": "750ms", "statement_timeout": "20s", "default_transaction_read_only": "on",
		"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3", "tcp_user_timeout": "10000",
	} {
		var got string
		if err := db.readers.QueryRowContext(t.Context(), "SHOW "+name).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, want %s (%v)", name, got, want, err)
		}
	}
	if _, err := db.readers.ExecContext(t.Context(), "DELETE FROM turns"); err == nil {
		t.Error("a reading connection can write")
	}
}

// A group that another session's transaction makes fail is run again, and its callers see nothing of it.
func TestDeadlock(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	db := openURL(t, url, Options{})
	first, second := newConversation(t, db), newConversation(t, db) // in the order of the locks
	foreign := session(t, url)
	execAll(t, foreign, `BEGIN`)
	lock := func(c *conversation.Conversation) error {
		_, err := foreign.Exec(t.Context(), `SELECT 1 FROM branches WHERE id = $1 FOR UPDATE`, pgUUID(c.ID))
		return err
	}
	if err := lock(second); err != nil {
		t.Fatal(err)
	}
	resume := stall(db)
	errs := make(chan error, 2)
	for _, c := range []*conversation.Conversation{first, second} {
		go func() { errs <- db.BeginTurn(t.Context(), admission(c.ID, head{}, "hi")) }()
	}
	eventually(t, "both are queued", func() bool { return len(db.committer.queue) == 2 })
	resume()
	watch := session(t, url)
	eventually(t, "the group waits", func() bool {
		return count(t, watch, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`) == 1
	})
	var again int64
	if err := lock(first); err != nil {
		t.Logf("the foreign session lost: %v", err)
		execAll(t, foreign, `ROLLBACK`)
	} else {
		execAll(t, foreign, `COMMIT`)
		again = 1
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Errorf("a turn of the group: %v", err)
		}
	}
	if got := db.committer.again.Load(); got < again {
		t.Errorf("groups were run again %d times, want at least %d", got, again)
	}
}

// sentWithCommit begins the statement of a turn's begin that goes in one message with the COMMIT. Other connections commit, too.
const sentWithCommit = "INSERT INTO turns"

// A connection that is lost at the COMMIT leaves nobody in doubt, whether it happened or not.
func TestCutAtCommit(t *testing.T) {
	t.Parallel()
	for name, action := range map[string]wireAction{"before": cut, "answer": cutAnswer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, url := tap(t, migrated(t))
			db := openURL(t, url, Options{})
			c := newConversation(t, db)
			again := db.committer.again.Load()
			var h head
			for i := range 10 {
				var cuts atomic.Int64
				w.when(sentWithCommit, func() wireAction {
					cuts.Add(1)
					return action
				})
				a := admission(c.ID, h, fmt.Sprint("turn ", i))
				a.Turn.RequestID = fmt.Sprint(i)
				if err := db.BeginTurn(t.Context(), a); err != nil { // not ConversationBusy because of itself
					t.Fatal(err)
				}
				if cuts.Load() == 0 {
					t.Fatal("nothing was cut")
				}
				if err := db.EndTurn(t.Context(), ending(a, "ok")); err != nil {
					t.Fatal(err)
				}
				h = after(a)
			}
			if runs := db.committer.again.Load() - again; (runs > 0) != (action == cut) {
				t.Errorf("%d groups were run again", runs)
			}
			turns, err := db.ListTurns(t.Context(), "team", conversation.TurnFilter{Conversation: c.ID}, conversation.ID{}, 100)
			if err != nil || len(turns) != 10 {
				t.Errorf("%d turns, %v", len(turns), err)
			}
		})
	}
}

// When the outcome cannot be found out either, callers are told that it is not known.
func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	target := migrated(t)
	w, url := tap(t, target)
	db := openURL(t, url, Options{})
	a := oneShot("hi")
	w.when(sentWithCommit, func() wireAction { return cut })
	execAll(t, session(t, target), `DELETE FROM outcomes`)
	err := db.BeginTurn(t.Context(), a)
	if !errors.Is(err, conversation.ErrStoreUnavailable) || !errors.Is(err, errOutcomeUnknown) {
		t.Fatalf("got %v", err)
	}
}

// Sessions end at random under load. Every turn that was acknowledged is there, and none that was refused.
func TestSessionsEndUnderLoad(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	db := openURL(t, url, Options{})
	conn := session(t, url)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var begun, ended, unavailable atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		c := newConversation(t, db)
		wg.Go(func() {
			var h head
			for ctx.Err() == nil {
				a := admission(c.ID, h, "hi")
				switch err := db.BeginTurn(t.Context(), a); {
				case errors.Is(err, conversation.ErrStoreUnavailable):
					unavailable.Add(1)
					return // whether it was begun is not known
				case err != nil:
					t.Error(err)
					return
				}
				begun.Add(1)
				switch err := db.EndTurn(t.Context(), ending(a, "ho")); {
				case errors.Is(err, conversation.ErrStoreUnavailable):
					unavailable.Add(1)
					return
				case err != nil:
					t.Error(err)
					return
				}
				ended.Add(1)
				h = after(a)
			}
		})
	}
	kills := 0
	for ctx.Err() == nil {
		kills += count(t, conn, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.7`)
		pause := time.After(time.Duration(20+rand.IntN(60)) * time.Millisecond)
		<-pause
	}
	wg.Wait()
	turns := count(t, conn, `SELECT count(*) FROM turns`)
	running := count(t, conn, `SELECT count(*) FROM running`)
	t.Logf("%d sessions ended, %d groups run again, %d turns begun, %d ended, %d callers not told", kills, db.committer.again.Load(),
		begun.Load(), ended.Load(), unavailable.Load())
	if kills < 10 || db.committer.again.Load() == 0 {
		t.Error("too few to tell anything")
	}
	if unavailable.Load() > 0 {
		t.Error("a server that takes connections is not unavailable")
	}
	if int64(turns) != begun.Load() || int64(turns-running) != ended.Load() {
		t.Errorf("%d turns are there, of which %d run", turns, running)
	}
}

// timed fails the test if f takes longer.
func timed(tb testing.TB, what string, most time.Duration, f func()) {
	tb.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > most {
		tb.Errorf("%s took %v, want at most %v", what, took, most)
	}
}

// recovers waits until the store can be read and written, and fails the test if that takes more than five seconds.
func recovers(tb testing.TB, db *DB) {
	tb.Helper()
	timed(tb, "the recovery", 5*time.Second, func() {
		var wg sync.WaitGroup
		for what, works := range map[string]func(context.Context) bool{
			"write": func(ctx context.Context) bool { return db.Ping(ctx) == nil },
			"read": func(ctx context.Context) bool {
				_, err := db.GetConversation(ctx, "team", newID())
				return errors.Is(err, conversation.ErrNotFound)
			},
		} {
			wg.Go(func() {
				for deadline := time.Now().Add(20 * time.Second); !works(tb.Context()); {
					if time.Now().After(deadline) {
						tb.Errorf("no %s within 20 s", what)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestServerStops(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	url := server.Database(t)
	if _, _, err := MigratePostgres(t.Context(), url, Options{}); err != nil {
		t.Fatal(err)
	}
	db := openURL(t, url, Options{})
	a := oneShot("hi")
	if err := db.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	for _, stop := range []func() error{server.Stop, server.Kill} {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 600 { // more than a group
			wg.Go(func() {
				timed(t, "a refusal", 2*time.Second, func() {
					if err := db.BeginTurn(t.Context(), oneShot("no")); !errors.Is(err, conversation.ErrStoreUnavailable) {
						t.Errorf("begin without a server: %v", err)
					}
				})
			})
		}
		wg.Wait()
		if _, err := db.GetTurn(t.Context(), "team", a.Turn.ID, false); !errors.Is(err, conversation.ErrStoreUnavailable) {
			t.Errorf("read without a server: %v", err)
		}
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		recovers(t, db)
	}
	if err := db.EndTurn(t.Context(), ending(a, "still ours")); err != nil {
		t.Error(err)
	}
	if n := count(t, session(t, url), `SELECT count(*) FROM turns`); n != 1 {
		t.Errorf("%d turns, want the one that was acknowledged", n)
	}
}

func TestBlackhole(t *testing.T) {
	t.Parallel()
	db, proxy := proxied(t, migrated(t), Options{patience: 500 * time.Millisecond})
	a := oneShot("hi")
	if err := db.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	proxy.Blackhole()
	timed(t, "the refusals", 10*time.Second, func() {
		for range 2 {
			if err := db.BeginTurn(t.Context(), oneShot("no")); !errors.Is(err, conversation.ErrStoreUnavailable) {
				t.Errorf("begin: %v", err)
			}
		}
		if _, err := db.GetTurn(t.Context(), "team", a.Turn.ID, false); !errors.Is(err, conversation.ErrStoreUnavailable) {
			t.Errorf("read: %v", err)
		}
	})
	proxy.Restore()
	recovers(t, db)
	if err := db.EndTurn(t.Context(), ending(a, "still ours")); err != nil {
		t.Error(err)
	}
}

// A server that has lost its power leaves connections on which nothing comes any more.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	db, proxy := proxied(t, migrated(t), Options{})
	a := oneShot("hi")
	if err := db.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	proxy.HalfOpen()
	recovers(t, db)
	if err := db.EndTurn(t.Context(), ending(a, "still ours")); err != nil {
		t.Error(err)
	}
}

// A database that is far away is slow, and not down, also if a round trip takes longer than a transaction may idle.
func TestLatency(t *testing.T) {
	t.Parallel()
	db, proxy := proxied(t, migrated(t), Options{})
	c := newConversation(t, db)
	h := turn(t, db, c.ID, head{}, "near")
	proxy.Delay(600 * time.Millisecond) // each way
	a := admission(c.ID, h, "far")
	if err := db.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if got, err := db.GetConversation(t.Context(), "team", c.ID); err != nil || got.ActiveTurn != a.Turn.ID {
		t.Errorf("%+v, %v", got, err)
	}
	proxy.Delay(0)
	if err := db.EndTurn(t.Context(), ending(a, "near again")); err != nil {
		t.Error(err)
	}
}
