package tenant_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// followed returns a directory that Run keeps until the test ends.
func followed(t *testing.T, store tenant.Store, logger *slog.Logger) *tenant.Directory {
	t.Helper()
	d := tenant.NewDirectory(store, logger)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { d.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return d
}

func team(id string, revision int64) *tenant.Team {
	return &tenant.Team{ID: id, Revision: revision}
}

func TestDirectoryEmpty(t *testing.T) {
	t.Parallel()
	d := tenant.NewDirectory(openStore(t), slog.New(slog.DiscardHandler))
	if d.Last() != nil {
		t.Error("something is known before anything was read")
	}
	v, err := d.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d.Last() != v {
		t.Error("what was read is not what was last known")
	}
	if v.Team("a") != nil || v.Client("a", "b") != nil || v.Key("k") != nil || v.KeyOfRequest(tenant.Digest{}) != nil ||
		len(v.Teams())+len(v.Clients("a"))+len(v.Keys("a", "")) > 0 {
		t.Error("an empty store has something")
	}
}

// A Refresh sees what was written before it was called, also while others read.
func TestDirectoryRefreshSeesWhatWasWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var revision atomic.Int64
		var reads atomic.Int64
		d := tenant.NewDirectory(&script{changes: func(context.Context, tenant.Head) (*tenant.Changes, error) {
			reads.Add(1)
			at := revision.Load() // a snapshot when the read begins
			time.Sleep(time.Second)
			return &tenant.Changes{Head: upTo(at), Teams: []*tenant.Team{team("a", at)}}, nil
		}}, slog.New(slog.DiscardHandler))
		var wg sync.WaitGroup
		refresh := func(want int64) {
			wg.Go(func() {
				v, err := d.Refresh(t.Context())
				if err != nil {
					t.Error(err)
				} else if got := v.Team("a").Revision; got < want {
					t.Errorf("revision %d, want %d", got, want)
				}
			})
		}
		revision.Store(1)
		refresh(1)
		synctest.Wait() // it has begun
		revision.Store(2)
		for range 100 {
			refresh(2) // must not share the one that has begun, but may share one
		}
		wg.Wait()
		if n := reads.Load(); n != 2 {
			t.Errorf("%d reads, want 2", n)
		}
	})
}

func TestDirectoryRefreshWaitsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := tenant.NewDirectory(&script{changes: func(ctx context.Context, _ tenant.Head) (*tenant.Changes, error) {
			<-ctx.Done() // each read has a limit of its own
			return nil, ctx.Err()
		}}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := d.Refresh(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		time.Sleep(time.Minute) // until the read has ended, too
	})
}

func TestDirectoryFollows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var revision atomic.Int64
		store := &script{wake: make(chan struct{}, 1), changes: func(_ context.Context, after tenant.Head) (*tenant.Changes, error) {
			at := revision.Load()
			c := &tenant.Changes{Head: upTo(at)}
			if at > after.Count {
				c.Teams = []*tenant.Team{team("a", at)}
			}
			return c, nil
		}}
		d := followed(t, store, slog.New(slog.DiscardHandler))
		synctest.Wait()

		revision.Store(1)
		store.wake <- struct{}{}
		synctest.Wait() // no time passes
		if got := d.Last().Team("a"); got == nil || got.Revision != 1 {
			t.Fatalf("after a wake: %v", got)
		}
		revision.Store(2)
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if got := d.Last().Team("a").Revision; got != 2 {
			t.Errorf("half a second later: revision %d", got)
		}
	})
}

// A view is immutable: what one has given out stays as it was.
func TestDirectoryViewsAreImmutable(t *testing.T) {
	t.Parallel()
	request := tenant.Digest{1}
	var next *tenant.Changes
	var asked tenant.Head
	d := tenant.NewDirectory(&script{changes: func(_ context.Context, after tenant.Head) (*tenant.Changes, error) {
		asked = after
		return next, nil
	}}, slog.New(slog.DiscardHandler))
	refresh := func(c tenant.Changes) *tenant.View {
		t.Helper()
		next = &c
		v, err := d.Refresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	first := refresh(tenant.Changes{
		Head:    upTo(3),
		Teams:   []*tenant.Team{team("b", 1), team("a", 1)},
		Clients: []*tenant.Client{{Team: "a", ID: "x", Revision: 2}, {Team: "b", ID: "x", Revision: 2}},
		Keys:    []*tenant.Key{{ID: "1", Team: "a", Client: "x", Request: request, Revision: 3}},
	})
	second := refresh(tenant.Changes{
		Head:    upTo(9),
		Teams:   []*tenant.Team{team("a", 7), team("c", 7)},
		Clients: []*tenant.Client{{Team: "a", ID: "x", Revision: 8}, {Team: "a", ID: "w", Revision: 8}},
		Keys: []*tenant.Key{
			{ID: "1", Team: "a", Client: "x", Request: request, Revision: 9},
			{ID: "2", Team: "a", Client: "w", CreateTime: time.Unix(5, 0), Revision: 9},
			{ID: "3", Team: "a", Client: "w", CreateTime: time.Unix(5, 0), Revision: 9},
		},
	})
	if asked != upTo(3) {
		t.Errorf("asked for what is after %v, want %v", asked, upTo(3))
	}
	third := refresh(tenant.Changes{Head: upTo(9)})
	describe := func(v *tenant.View) (s string) {
		for _, tm := range v.Teams() {
			s += fmt.Sprintf("%s@%d", tm.ID, tm.Revision)
			for _, c := range v.Clients(tm.ID) {
				s += fmt.Sprintf(" %s@%d", c.ID, c.Revision)
			}
			for _, k := range v.Keys(tm.ID, "") {
				s += fmt.Sprintf(" #%s@%d", k.ID, k.Revision)
			}
			s += "; "
		}
		return s
	}
	if got, want := describe(first), "a@1 x@2 #1@3; b@1 x@2; "; got != want {
		t.Errorf("the first view: %s, want %s", got, want)
	}
	const want = "a@7 w@8 x@8 #2@9 #3@9 #1@9; b@1 x@2; c@7; "
	if got := describe(second); got != want {
		t.Errorf("the second view: %s, want %s", got, want)
	}
	if got := describe(third); got != want {
		t.Errorf("the third view: %s, want %s", got, want)
	}
	if first.KeyOfRequest(request).Revision != 3 || second.KeyOfRequest(request).Revision != 9 {
		t.Error("the key of a request is not that of the view")
	}
	if first.KeyOfRequest(tenant.Digest{}) != nil || second.KeyOfRequest(tenant.Digest{}) != nil {
		t.Error("a key without a request is that of the zero request")
	}
	if got := second.Keys("a", "x"); len(got) != 1 || got[0].ID != "1" {
		t.Errorf("the keys of one client: %v", got)
	}
	if second.Client("b", "w") != nil || second.Key("1").Revision != 9 {
		t.Error("a row is looked up by more or less than its name")
	}
}

// upTo is a head of the audit.
func upTo(count int64) tenant.Head { return tenant.Head{Count: count, Hash: tenant.Digest{1}} }

func TestDirectoryOfARestoredDatabase(t *testing.T) {
	t.Parallel()
	var book logBook
	var asked []tenant.Head
	next := &tenant.Changes{Head: upTo(9), All: true, Teams: []*tenant.Team{team("a", 3), team("new", 9)}}
	d := tenant.NewDirectory(&script{changes: func(_ context.Context, after tenant.Head) (*tenant.Changes, error) {
		asked = append(asked, after)
		return next, nil
	}}, book.logger())
	refresh := func(c *tenant.Changes) *tenant.View {
		t.Helper()
		next = c
		v, err := d.Refresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	const line = "the audit is not the one that was read before"
	refresh(next)
	if v := refresh(&tenant.Changes{Head: upTo(9)}); v.Team("new") == nil || book.count(line) != 0 {
		t.Errorf("before it: %v, logged %d times", v.Teams(), book.count(line))
	}
	overtaken := tenant.Head{Count: 12, Hash: tenant.Digest{2}}
	v := refresh(&tenant.Changes{Head: overtaken, All: true, Teams: []*tenant.Team{team("a", 3)}})
	if v.Team("a") == nil || v.Team("new") != nil || book.count(line) != 1 {
		t.Errorf("after it: %v, logged %d times", v.Teams(), book.count(line))
	}
	if v := refresh(&tenant.Changes{Head: overtaken}); v.Team("a") == nil || book.count(line) != 1 {
		t.Errorf("and then: %v, logged %d times", v.Teams(), book.count(line))
	}
	if want := []tenant.Head{{}, upTo(9), upTo(9), overtaken}; !slices.Equal(asked, want) {
		t.Errorf("asked for what is after %v, want %v", asked, want)
	}
}

// A read that takes too long may be one of everything, for which there is more time.
func TestDirectoryOfALargeRestoredDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := tenant.NewDirectory(&script{changes: func(ctx context.Context, after tenant.Head) (*tenant.Changes, error) {
			c := &tenant.Changes{Head: upTo(1), All: true}
			if after != (tenant.Head{}) {
				c.Teams = []*tenant.Team{team("a", 1)}
				select {
				case <-time.After(10 * time.Second):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return c, nil
		}}, slog.New(slog.DiscardHandler))
		for i, want := range []error{nil, context.DeadlineExceeded, nil, context.DeadlineExceeded} {
			if _, err := d.Refresh(t.Context()); !errors.Is(err, want) {
				t.Errorf("read %d: %v, want %v", i, err, want)
			}
		}
		if d.Last().Team("a") == nil {
			t.Error("it was never read")
		}
	})
}

func TestDirectoryFresh(t *testing.T) {
	t.Parallel()
	// fresh is a directory whose view is from just now, and a switch for what its store does.
	type state struct {
		reads    atomic.Int64
		answer   atomic.Pointer[func(ctx context.Context) error]
		d        *tenant.Directory
		revision atomic.Int64
	}
	setUp := func(t *testing.T) *state {
		t.Helper()
		s := &state{}
		s.d = tenant.NewDirectory(&script{changes: func(ctx context.Context, _ tenant.Head) (*tenant.Changes, error) {
			s.reads.Add(1)
			at := s.revision.Load()
			if answer := s.answer.Load(); answer != nil {
				if err := (*answer)(ctx); err != nil {
					return nil, err
				}
			}
			return &tenant.Changes{Head: upTo(at), Teams: []*tenant.Team{team("a", at)}}, nil
		}}, slog.New(slog.DiscardHandler))
		if _, err := s.d.Fresh(t.Context()); err != nil { // the first reads
			t.Fatal(err)
		}
		return s
	}
	answer := func(s *state, f func(ctx context.Context) error) { s.answer.Store(&f) }
	down := func(context.Context) error { return errDown }

	for name, test := range map[string]func(t *testing.T, s *state){
		"not read again while it is fresh": func(t *testing.T, s *state) {
			answer(s, down)
			time.Sleep(1500 * time.Millisecond)
			for range 1000 {
				if _, err := s.d.Fresh(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if n := s.reads.Load(); n != 1 {
				t.Errorf("%d reads", n)
			}
		},
		"read again when it is old, once for all": func(t *testing.T, s *state) {
			answer(s, func(context.Context) error { time.Sleep(100 * time.Millisecond); return nil })
			s.revision.Store(5)
			time.Sleep(time.Hour)
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					if v, err := s.d.Fresh(t.Context()); err != nil || v.Team("a").Revision != 5 {
						t.Error(v, err)
					}
				})
			}
			wg.Wait()
			if n := s.reads.Load(); n != 2 && n != 3 {
				t.Errorf("%d reads", n)
			}
		},
		"age counts from when the read began": func(t *testing.T, s *state) {
			time.Sleep(time.Hour)
			answer(s, func(context.Context) error { time.Sleep(900 * time.Millisecond); return nil })
			if _, err := s.d.Fresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			answer(s, down)
			time.Sleep(600 * time.Millisecond) // 1.5 s after the read began
			if _, err := s.d.Fresh(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
			if _, err := s.d.Fresh(t.Context()); !errors.Is(err, conversation.ErrStoreUnavailable) {
				t.Errorf("older: %v", err)
			}
		},
		"closed when the store fails": func(t *testing.T, s *state) {
			time.Sleep(time.Hour)
			answer(s, down)
			begin := time.Now()
			v, err := s.d.Fresh(t.Context())
			if v != nil || !errors.Is(err, conversation.ErrStoreUnavailable) || !errors.Is(err, errDown) {
				t.Errorf("%v, %v", v, err)
			}
			if took := time.Since(begin); took > 200*time.Millisecond {
				t.Errorf("it took %s", took)
			}
			if s.d.Last() == nil {
				t.Error("what was last known is forgotten")
			}
		},
		"one failure is forgiven": func(t *testing.T, s *state) {
			time.Sleep(time.Hour)
			answer(s, func(context.Context) error { s.answer.Store(nil); return errDown })
			if _, err := s.d.Fresh(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"calls do not make a store work that is down": func(t *testing.T, s *state) {
			time.Sleep(time.Hour)
			answer(s, down)
			begin, before := time.Now(), s.reads.Load()
			for time.Since(begin) < 10*time.Second {
				if _, err := s.d.Fresh(t.Context()); err == nil {
					t.Fatal("it answered")
				}
			}
			if n := s.reads.Load() - before; n > 110 {
				t.Errorf("%d reads in 10 s", n)
			}
		},
		"closed after a second when the store hangs": func(t *testing.T, s *state) {
			time.Sleep(time.Hour)
			answer(s, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			begin := time.Now()
			_, err := s.d.Fresh(t.Context())
			if took := time.Since(begin); !errors.Is(err, conversation.ErrStoreUnavailable) || took != time.Second {
				t.Errorf("after %s: %v", took, err)
			}
		},
		"no longer than the call": func(t *testing.T, s *state) {
			time.Sleep(time.Hour)
			answer(s, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			begin := time.Now()
			_, err := s.d.Fresh(ctx)
			if took := time.Since(begin); !errors.Is(err, conversation.ErrStoreUnavailable) || took != 300*time.Millisecond {
				t.Errorf("after %s: %v", took, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				test(t, setUp(t))
				time.Sleep(time.Minute) // until the last read has ended, too
			})
		})
	}
}

func TestDirectoryLogsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		var book logBook
		followed(t, &script{wake: make(chan struct{}), changes: func(context.Context, tenant.Head) (*tenant.Changes, error) {
			if down.Load() {
				return nil, errDown
			}
			return &tenant.Changes{}, nil
		}}, book.logger())
		const failed, back = "cannot be read", "can be read again"
		for outage := range 3 {
			time.Sleep(time.Minute)
			if f, b := book.count(failed), book.count(back); f != outage || b != outage {
				t.Fatalf("after %d outages it logged %d failures and %d returns", outage, f, b)
			}
			down.Store(true)
			time.Sleep(time.Minute)
			if f, b := book.count(failed), book.count(back); f != outage+1 || b != outage {
				t.Fatalf("in outage %d it logged %d failures and %d returns", outage+1, f, b)
			}
			down.Store(false)
		}
	})
}

// A revocation by another process is in force within two seconds, and nobody reads half of what was written.
func TestDirectoryUnderWrites(t *testing.T) {
	t.Parallel()
	store := openStore(t)
	d := followed(t, store, slog.New(slog.DiscardHandler))
	registry := tenant.NewRegistry(store, tenant.NewDirectory(store, slog.New(slog.DiscardHandler)))
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			seen := 0
			for {
				v, err := d.Fresh(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				n := len(v.Teams())
				if n < seen {
					t.Errorf("%d teams after %d", n, seen)
				}
				seen = n
				for _, tm := range v.Teams() {
					if tm.Revision == 0 || v.Team(tm.ID) != tm {
						t.Errorf("team %s is half there", tm.ID)
					}
				}
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	for i := range 50 {
		if _, err := registry.CreateTeam(t.Context(), tenant.Entry{}, tenant.Team{ID: fmt.Sprintf("t%d", i)}); err != nil {
			t.Fatal(err)
		}
		// The view of a Refresh has it at once, the one that follows soon.
		if v, err := d.Refresh(t.Context()); err != nil || v.Team(fmt.Sprintf("t%d", i)) == nil {
			t.Fatalf("the team that was made is not there: %v", err)
		}
	}
	close(done)
	wg.Wait()
}

// What another process has just made is looked for, but not as often as strangers ask for what nobody has.
func TestDirectoryNewer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int64
		down := false
		d := tenant.NewDirectory(&script{changes: func(context.Context, tenant.Head) (*tenant.Changes, error) {
			if down {
				return nil, errDown
			}
			at := reads.Add(1)
			return &tenant.Changes{Head: upTo(at), Teams: []*tenant.Team{team("a", at)}}, nil
		}}, slog.New(slog.DiscardHandler))
		known, err := d.Refresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if newer := d.Newer(t.Context(), known); newer.Team("a").Revision != 2 {
			t.Errorf("revision %d, want what the store has", newer.Team("a").Revision)
		}
		for range 1000 {
			known = d.Newer(t.Context(), known)
		}
		if n := reads.Load(); n > 11 {
			t.Errorf("%d reads at once", n)
		}
		time.Sleep(10 * time.Second)
		down = true
		if newer := d.Newer(t.Context(), known); newer != known {
			t.Error("what cannot be read is not what was known")
		}
	})
}
