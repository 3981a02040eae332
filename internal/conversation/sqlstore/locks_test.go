package sqlstore

import (
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A turn that begins from the queue is locked with the others of its group, in the order of their ids: whoever holds it finds
// the next one free.
func TestLockOrderOfStart(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	db := openURL(t, url, Options{})
	c := newConversation(t, db)
	waits, other := queued(c.ID), oneShot("other")
	for _, a := range []*conversation.Admission{waits, other} {
		if err := db.BeginTurn(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	conn, watcher := session(t, url), session(t, url)
	const lock = `SELECT 1 FROM running WHERE turn = $1 FOR UPDATE`
	execAll(t, conn, `SET idle_in_transaction_session_timeout = 0`, `BEGIN`)
	if _, err := conn.Exec(t.Context(), lock, pgUUID(waits.Turn.ID)); err != nil {
		t.Fatal(err)
	}
	done := make(chan []error)
	go func() {
		cancel := &changeRun{turnKey{"team", other.Turn.ID}, func(r *run) { r.cancel = true }}
		done <- together(t, db, mustBegin(t, started(waits, head{})), cancel)
	}()
	eventually(t, "the group waits", func() bool {
		return count(t, watcher, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
	})
	if _, err := conn.Exec(t.Context(), lock+` NOWAIT`, pgUUID(other.Turn.ID)); err != nil {
		t.Errorf("a deadlock: %v", err)
	}
	execAll(t, conn, `ROLLBACK`)
	decided(t, <-done, nil, nil)
}
