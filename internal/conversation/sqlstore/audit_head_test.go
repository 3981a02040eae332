package sqlstore

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// holdHead has somebody else lock the head of the audit, until free is called.
func holdHead(t *testing.T, url string) (free func()) {
	t.Helper()
	holder := session(t, url)
	execAll(t, holder, `BEGIN`, `SELECT 1 FROM audit_head FOR UPDATE`)
	return func() { execAll(t, holder, `ROLLBACK`) }
}

func denied(source string) *auditOp {
	e := auditEntry("denied")
	e.Source, e.Reason = source, "R"
	return &auditOp{entry: e, once: true}
}

// While somebody holds the head of the audit, turns go on and the process is ready; what is to be written there is when the
// head is free again, however many wait.
func TestTurnsWhileHeadIsHeld(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	db := openURL(t, url, Options{maxGroup: 16})
	free := holdHead(t, url)

	recorded := make(chan error, 40) // more than a group, and the last with nothing else to do
	for range cap(recorded) {
		go func() {
			e := auditEntry("waits")
			recorded <- db.Record(context.Background(), &e, false)
		}()
	}
	end := time.After(5 * time.Second)
	var wg sync.WaitGroup
	over := make(chan struct{})
	var mu sync.Mutex
	var took []time.Duration
	for i := range 8 {
		wg.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				start := time.Now()
				var err error
				if i == 0 {
					err = db.Ping(t.Context())
				} else {
					err = db.BeginTurn(t.Context(), oneShot("goes on"))
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				took = append(took, time.Since(start))
				mu.Unlock()
			}
		})
	}
	select {
	case err := <-recorded:
		t.Errorf("it was not waited for the head: %v", err)
	case <-end:
	}
	close(over)
	wg.Wait()
	free()
	timed(t, "the entries", time.Second, func() {
		for range cap(recorded) {
			if err := <-recorded; err != nil {
				t.Error(err)
			}
		}
	})
	slices.Sort(took)
	if p99 := took[len(took)*99/100]; p99 > 400*time.Millisecond {
		t.Errorf("of %d turns, one in a hundred took %v", len(took), p99)
	}
	t.Logf("%d turns, half of them in %v, the last in %v", len(took), took[len(took)/2], took[len(took)-1])
	if n := len(audit(t, db)); n != cap(recorded) {
		t.Errorf("%d entries", n)
	}
}

// What waits for the head does not do so for ever, and then nothing of it has happened. Those that came with it are not
// concerned, and those that come later neither.
func TestHeadIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	var log logbook
	db := openURL(t, url, Options{Logger: log.logger()})
	db.committer.exclusively(func() { db.committer.tryFor = time.Second })
	free := holdHead(t, url)
	first, team := denied("10.1.1.1"), &tenant.Team{ID: "a"}
	var errs []error
	timed(t, "the group", 3*time.Second, func() {
		errs = together(t, db, mustBegin(t, oneShot("x")), first, putting(t, &tenant.Change{Team: team}), mustBegin(t, oneShot("y")))
	})
	want(t, errs, nil, conversation.ErrNotWritten, conversation.ErrNotWritten, nil)
	if !errors.Is(errs[1], conversation.ErrStoreUnavailable) {
		t.Error(errs[1])
	}
	if n := log.count("another session has it locked"); n != 1 {
		t.Errorf("it was logged %d times", n)
	}
	free()
	want(t, together(t, db, first, putting(t, &tenant.Change{Team: team})), nil, nil)
	if n := len(audit(t, db)); n != 2 {
		t.Errorf("%d entries", n)
	}
}

// A process that ends does not wait for the head, and answers who does.
func TestCloseWhileHeadIsHeld(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	db := openURL(t, url, Options{})
	holdHead(t, url)
	again := db.committer.again.Load()
	recorded := make(chan error, 1)
	go func() {
		e := auditEntry("waits")
		recorded <- db.Record(context.Background(), &e, false)
	}()
	eventually(t, "it was tried", func() bool { return db.committer.again.Load() > again })
	timed(t, "the close", time.Second, func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := <-recorded; !errors.Is(err, conversation.ErrNotWritten) {
		t.Error(err)
	}
}
