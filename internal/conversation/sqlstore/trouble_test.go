package sqlstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	neturl "net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A logbook keeps what is logged.
type logbook struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(b)
}

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logbook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.lines.String(), text)
}

// asRole returns the URL of a database for a new role that may read and write all tables, and owns none.
func asRole(t *testing.T, url string) (roleURL, role string) {
	t.Helper()
	id := newID()
	role = fmt.Sprintf("role_%x", id[:])
	admin := session(t, url)
	execAll(t, admin, `CREATE ROLE `+role+` LOGIN`, `GRANT ALL ON ALL TABLES IN SCHEMA public TO `+role)
	t.Cleanup(func() {
		for _, text := range []string{`DROP OWNED BY ` + role, `DROP ROLE ` + role} {
			if _, err := admin.Exec(context.Background(), text); err != nil {
				t.Error(err)
			}
		}
	})
	u, err := neturl.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = neturl.User(role)
	return u.String(), role
}

// A database that does not answer does not keep a process from ending, whether a group hangs or none.
func TestCloseWithoutAnswer(t *testing.T) {
	t.Parallel()
	for name, hangs := range map[string]bool{"a group hangs": true, "nothing hangs": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, proxy := proxied(t, migrated(t), Options{patience: time.Minute})
			if err := db.BeginTurn(t.Context(), oneShot("hi")); err != nil {
				t.Fatal(err)
			}
			proxy.Blackhole()
			var wg sync.WaitGroup
			defer wg.Wait()
			if hangs {
				wg.Go(func() {
					if err := db.BeginTurn(t.Context(), oneShot("hangs")); !errors.Is(err, conversation.ErrStoreUnavailable) {
						t.Errorf("begin: %v", err)
					}
				})
				eventually(t, "the group has begun", func() bool {
					free := db.committer.writing.TryLock()
					if free {
						db.committer.writing.Unlock()
					}
					return !free
				})
			}
			timed(t, "the close", closePatience+time.Second, func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Who can write the row of a ping cannot always write turns.
func TestPingAfterContentWasRefused(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	roleURL, role := asRole(t, url)
	var log logbook
	db := openURL(t, roleURL, Options{Logger: log.logger()})
	if err := db.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	admin := session(t, url)
	execAll(t, admin, `REVOKE INSERT ON turns FROM `+role)
	for range 2 {
		if err := db.BeginTurn(t.Context(), oneShot("no")); !errors.Is(err, conversation.ErrStoreUnavailable) {
			t.Fatalf("begin: %v", err)
		}
		if err := db.Ping(t.Context()); !errors.Is(err, conversation.ErrStoreUnavailable) {
			t.Errorf("ping: %v", err)
		}
	}
	execAll(t, admin, `GRANT INSERT ON turns TO `+role)
	if err := db.BeginTurn(t.Context(), oneShot("yes")); err != nil {
		t.Fatal(err)
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("ping after content was written: %v", err)
	}
	for text, want := range map[string]int{`level=ERROR msg="the database takes no content"`: 1, "takes content again": 1} {
		if n := log.count(text); n != want {
			t.Errorf("%q was logged %d times, want %d", text, n, want)
		}
	}
}

// If nobody tries to write content, a ping is believed again.
func TestRefusedContentIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCommitter(&sqliteDialect{}, newOwnership(), nil, Options{}.withDefaults())
		c.observe([]*item{{size: 1}}, errNoRoom)
		if c.takesContent() != nil {
			t.Error("an error that is not the database's counts")
		}
		c.full.Store(&noContent{time.Now().Add(fullFor), errNoRoom})
		if c.takesContent() == nil {
			t.Error("the refusal does not count")
		}
		c.observe([]*item{{}}, nil) // a ping
		time.Sleep(fullFor - time.Nanosecond)
		if c.takesContent() == nil {
			t.Error("the refusal is forgotten too soon")
		}
		time.Sleep(time.Nanosecond)
		if err := c.takesContent(); err != nil {
			t.Error(err)
		}
	})
}

var errNoRoom = errors.New("no room")

// Partitions that can be dropped are, by a role that can make none.
func TestDropsWithoutMaking(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	roleURL, role := asRole(t, url)
	owner := openURL(t, url, Options{Retention: Retention{Events: 30 * 24 * time.Hour}}) // it is not to drop the old one itself
	old := time.Now().Add(-3 * 24 * time.Hour)
	mustAdd(t, owner, old, old)
	have := mustPartitions(t, owner)
	if err := owner.Close(); err != nil {
		t.Fatal(err)
	}
	last := have[len(have)-1].Format(partitionName)
	execAll(t, session(t, url), `ALTER TABLE `+have[0].Format(partitionName)+` OWNER TO `+role, `DROP TABLE `+last)

	var log logbook
	db := openURL(t, roleURL, Options{Logger: log.logger()})
	eventually(t, "the old partition is dropped", func() bool {
		left := mustPartitions(t, db)
		return !left[0].Equal(have[0]) && log.count("must own the table events") > 0
	})
	k := &keeper{db: db, retention: db.retention}
	for range 3 {
		if _, err := k.sweep(t.Context()); err == nil {
			t.Fatal("a partition was made")
		}
	}
	if n := log.count("must own the table events"); n > 2 { // each keeper once
		t.Errorf("it was logged %d times", n)
	}
	if n := log.count(fmt.Sprintf("replica=%q", sessionName(db.ownership.current().id))); n != 1 {
		t.Errorf("the replica was named %d times", n)
	}
}

func TestSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s seldom
		check := func(want bool) {
			t.Helper()
			if got := s.due("what"); got != want {
				t.Errorf("due: %v", got)
			}
		}
		check(true)
		time.Sleep(time.Hour - time.Nanosecond)
		check(false)
		time.Sleep(time.Nanosecond)
		check(true)
		check(false)
		s.over("what")
		check(true)
	})
}

// What keeps a database from being opened is said in one line, and not by the number of an error alone.
func TestOpenErrors(t *testing.T) {
	t.Parallel()
	t.Run("a folder", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "folder")
		for range 2 { // the lock is given up
			db := openAt(t, filepath.Join(path, "in", "chatsvc.db"), Options{})
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			_, err := OpenSQLite(t.Context(), path, Options{})
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "is a directory") {
				t.Error(err)
			}
		}
	})
	url := migrated(t)
	for name, c := range map[string]struct {
		change func(*neturl.URL)
		want   string
	}{
		"unknown role": {func(u *neturl.URL) { u.User = neturl.User("nobody") }, `role "nobody" does not exist`},
		"no server":    {func(u *neturl.URL) { u.Host = "127.0.0.1:1" }, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := neturl.Parse(url)
			if err != nil {
				t.Fatal(err)
			}
			u.RawQuery = "sslmode=prefer" // both with TLS and without
			c.change(u)
			_, err = OpenPostgres(t.Context(), u.String(), Options{})
			_, kept := errors.AsType[*pgconn.ConnectError](err)
			text := fmt.Sprint(err)
			if !kept || strings.ContainsRune(text, '\n') || strings.Contains(text, "TLS") || strings.Count(text, c.want) != 1 {
				t.Error(err)
			}
		})
	}
}
