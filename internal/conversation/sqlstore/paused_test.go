package sqlstore

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A replica that stands still in the middle of a transaction holds others up for two seconds at most: who wants the same row,
// and who comes in the same group. If it stands still in the middle of a message, PostgreSQL does not count it as idle; then
// whoever waits for its locks, or takes its turns over, ends its session.
func TestPausedOwner(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]string{"between messages": sentWithCommit, "in a message": inMessage} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other, _, in, resume := pausedOwner(t, Options{}, at)
			begin := func(what string, a *conversation.Admission) {
				timed(t, what, 2*time.Second, func() {
					if err := other.BeginTurn(t.Context(), a); err != nil {
						t.Error(err)
					}
				})
			}
			begun := make(chan struct{})
			go func() {
				defer close(begun)
				begin("a turn in the same conversation", admission(in, head{}, "goes on"))
			}()
			for waits := true; waits; {
				begin("a turn elsewhere", oneShot("goes on"))
				select {
				case <-begun:
					waits = false
				default:
				}
			}
			resume()
		})
	}
	t.Run("takeover", func(t *testing.T) {
		t.Parallel()
		other, left, _, resume := pausedOwner(t, hurried(), inMessage)
		timed(t, "the takeover", 6*time.Second, func() { takes(t, other, 1) })
		if err := other.EndTurn(t.Context(), takenOver(ending(left, "done"))); err != nil {
			t.Error(err)
		}
		resume()
	})
}

// inMessage begins a statement in the middle of the message that sentWithCommit begins.
const inMessage = "INSERT INTO running"

// pausedOwner returns a replica beside one that has begun a turn, and that stands still with all its connections where it
// begins another in the conversation in, just before a statement, until resume is called.
func pausedOwner(t *testing.T, o Options, at string) (other *DB, left *conversation.Admission, in conversation.ID, resume func()) {
	t.Helper()
	url := migrated(t)
	other = openURL(t, url, o)
	w, tapped := tap(t, url)
	paused := openURL(t, tapped, o)
	in = newConversation(t, other).ID
	left = oneShot("left")
	if err := paused.BeginTurn(t.Context(), left); err != nil {
		t.Fatal(err)
	}
	reached, resumed := make(chan struct{}), make(chan struct{})
	var stopped atomic.Bool
	w.watch(func(sql string) wireAction {
		if strings.HasPrefix(sql, at) && stopped.CompareAndSwap(false, true) {
			close(reached)
		}
		if stopped.Load() {
			<-resumed
		}
		return forward
	})
	var wg sync.WaitGroup
	wg.Go(func() { _ = paused.BeginTurn(t.Context(), admission(in, head{}, "paused")) }) // whatever comes of it
	<-reached
	resume = sync.OnceFunc(func() {
		close(resumed)
		wg.Wait()
	})
	t.Cleanup(resume)
	return other, left, in, resume
}

// A connection that is lost in the middle of a message leaves a session that waits for the rest, with all its locks and without
// idling. It stops neither the process that it was of nor the others.
func TestConnectionDiesInMessage(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]string{"with the commit": inMessage, "before": "SELECT id FROM branches"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := migrated(t)
			w, url := tap(t, target)
			db, other := openURL(t, url, Options{patience: time.Second}), openURL(t, target, Options{})
			c := newConversation(t, db)
			end := make(chan struct{})
			defer close(end)
			var died atomic.Bool
			w.watch(func(sql string) wireAction {
				if strings.HasPrefix(sql, at) && died.CompareAndSwap(false, true) {
					<-end
				}
				return forward
			})
			a := admission(c.ID, head{}, "hi")
			timed(t, "the turn", 5*time.Second, func() {
				if err := db.BeginTurn(t.Context(), a); err != nil {
					t.Error(err)
				}
			})
			if !died.Load() {
				t.Error("nothing died")
			}
			timed(t, "other turns", time.Second, func() {
				if err := db.EndTurn(t.Context(), ending(a, "ho")); err != nil {
					t.Error(err)
				}
				if err := other.BeginTurn(t.Context(), admission(c.ID, after(a), "next")); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
