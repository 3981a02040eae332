package sqlstore

import (
	"context"
	"errors"
	neturl "net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/netfault"
)

// hurried are the settings of a replica that is taken for dead soon.
func hurried() Options { return Options{lease: 1200 * time.Millisecond} }

// proxied opens a database through a proxy that can cut it off.
func proxied(t *testing.T, url string, o Options) (*DB, *netfault.Proxy) {
	t.Helper()
	u, err := neturl.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := netfault.Listen(t, u.Host)
	u.Host = proxy.Addr()
	return openURL(t, u.String(), o), proxy
}

// duties waits for what a store has to do, for at most twenty seconds.
func duties(t *testing.T, db *DB) *conversation.Duties {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	d, err := db.Duties(ctx)
	if err != nil {
		t.Fatalf("no duties: %v", err)
	}
	return d
}

// takes waits until a store has taken over n turns, and returns them by id.
func takes(t *testing.T, db *DB, n int) map[conversation.ID]*conversation.Taken {
	t.Helper()
	taken := make(map[conversation.ID]*conversation.Taken)
	for len(taken) < n {
		for _, d := range duties(t, db).Taken {
			if taken[d.Turn.ID] != nil {
				t.Fatalf("turn %x was taken twice", d.Turn.ID)
			}
			taken[d.Turn.ID] = d
		}
	}
	return taken
}

// lateEvents is what AppendEvents is given for one turn.
func lateEvents(turn conversation.ID) []conversation.EventBatch {
	return []conversation.EventBatch{{Team: "team", Turn: turn, Events: []conversation.Event{{
		Sequence: 2, Time: time.Now(), Kind: conversation.EventTextDelta, Text: "late",
	}}}}
}

// A replica that is cut off is given up for dead. What it writes when it is back has no effect on the turns that were taken
// from it, and it goes on with new ones.
func TestFencing(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	cutOff, proxy := proxied(t, url, hurried())
	other := openURL(t, url, hurried())
	c := newConversation(t, cutOff)
	onLine, shot := admission(c.ID, head{}, "question"), oneShot("shot")
	onLine.Turn.RequestID, onLine.Deadline = "once", time.Now().Add(time.Hour).Truncate(0)
	onLine.Overrides.Model = "other"
	for _, a := range []*conversation.Admission{onLine, shot} {
		if err := cutOff.BeginTurn(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	proxy.Blackhole()
	taken := takes(t, other, 2)
	got := taken[onLine.Turn.ID]
	if got == nil || got.Takeovers != 1 || got.Turn.Input[0].Text() != "question" || got.Overrides.Model != "other" ||
		!got.Deadline.Equal(onLine.Deadline) || got.Turn.State != conversation.Running {
		t.Errorf("taken: %+v", got)
	}
	// A late end of the taker's own that does not know of the takeover is as void as another's.
	if err := other.EndTurn(t.Context(), ending(onLine, "of an earlier life")); !errors.Is(err, conversation.ErrTurnEnded) {
		t.Errorf("an end from before the takeover: %v", err)
	}
	if err := other.EndTurn(t.Context(), takenOver(ending(onLine, "the taker's answer"))); err != nil {
		t.Fatal(err)
	}
	proxy.Restore()
	var lost []conversation.ID
	var err error
	for {
		if lost, err = cutOff.AppendEvents(t.Context(), lateEvents(shot.Turn.ID)); !errors.Is(err, conversation.ErrStoreUnavailable) {
			break
		}
	}
	if err != nil || len(lost) != 1 || lost[0] != shot.Turn.ID {
		t.Errorf("late events: lost %x, %v", lost, err)
	}
	if err := cutOff.EndTurn(t.Context(), ending(onLine, "late")); !errors.Is(err, conversation.ErrTurnEnded) {
		t.Errorf("a late end of a turn that has ended: %v", err)
	}
	if err := cutOff.EndTurn(t.Context(), ending(shot, "late")); !errors.Is(err, conversation.ErrTurnEnded) {
		t.Errorf("a late end of a turn that is another's: %v", err)
	}
	if err := cutOff.RecordAttempt(t.Context(), shot.Turn, 0); !errors.Is(err, conversation.ErrTurnEnded) {
		t.Errorf("a late attempt of a turn that is another's: %v", err)
	}
	if !duties(t, cutOff).Lost {
		t.Error("it was not told that it had been given up")
	}
	if got, err := other.GetTurn(t.Context(), "team", onLine.Turn.ID, true); err != nil || got.OutputText() != "the taker's answer" {
		t.Errorf("the turn: %+v, %v", got, err)
	}
	turn(t, cutOff, c.ID, after(onLine), "next")
	if err := other.EndTurn(t.Context(), takenOver(ending(shot, "done"))); err != nil {
		t.Error(err)
	}
}

// A group that is decided while its owner is given up is decided again by the owner that comes after, to which turns that
// were taken meanwhile do not belong.
func TestFencedGroup(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	db := openURL(t, url, Options{lease: time.Hour}) // it finds out when it writes
	running := oneShot("running")
	if err := db.BeginTurn(t.Context(), running); err != nil {
		t.Fatal(err)
	}
	conn := session(t, url)
	execAll(t, conn, `INSERT INTO replicas VALUES (gen_random_uuid(), 1, 'infinity')`)
	for _, giveUp := range []string{
		`UPDATE replicas SET epoch = epoch + 1, heartbeat = '-infinity' WHERE heartbeat < 'infinity'`,
		`DELETE FROM replicas WHERE heartbeat < 'infinity'`, // some time later
	} {
		before := db.ownership.current()
		execAll(t, conn, `BEGIN`, giveUp, `UPDATE running SET owner = (SELECT id FROM replicas WHERE heartbeat = 'infinity'), epoch = 1`, `COMMIT`)
		fresh := oneShot("fresh")
		errs := together(t, db, mustBegin(t, fresh), mustEnd(t, ending(running, "late")))
		want(t, errs, nil, conversation.ErrTurnEnded)
		if now := db.ownership.current(); now.id != before.id || now.epoch <= before.epoch {
			t.Errorf("the owner was %+v, and is %+v", before, now)
		}
		if !duties(t, db).Lost {
			t.Error("it was not told that it had been given up")
		}
		if err := db.EndTurn(t.Context(), ending(fresh, "done")); err != nil {
			t.Error(err)
		}
	}
}

// Who finds out that it was given up tries once more, however long it stood still before. Who is given up again and again
// cannot use the store.
func TestFencedAgain(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	db := openURL(t, url, Options{lease: time.Hour})
	db.committer.tryFor = 0 // as after a long pause
	conn := session(t, url)
	for _, c := range []struct {
		times int
		want  error
	}{{1, nil}, {maxTries, conversation.ErrStoreUnavailable}} {
		tries := 0
		err := db.committer.do(t.Context(), "test", testOp{
			keys: func(*keys) {
				if tries++; tries > c.times {
					return
				}
				if _, err := conn.Exec(t.Context(), `UPDATE replicas SET epoch = epoch + 1`); err != nil {
					t.Error(err)
				}
			},
			decision: func(*group) error { return nil },
		}, 0)
		if !errors.Is(err, c.want) {
			t.Errorf("given up %d times: %v, want %v", c.times, err, c.want)
		}
	}
}

// With the settings of production a dead replica's turns are taken over within ten seconds, each by one of the others.
func TestTakeover(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	dead, proxy := proxied(t, url, Options{})
	const turns = 2500
	for range turns / 500 {
		ops := make([]op, 500)
		for i := range ops {
			ops[i] = mustBegin(t, oneShot("left"))
		}
		for _, err := range together(t, dead, ops...) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	others := []*DB{openURL(t, url, Options{}), openURL(t, url, Options{})}
	// They wait for a lease themselves after their start; that is not what is measured.
	started := time.Now()
	eventually(t, "they have waited", func() bool { return time.Since(started) > 6*time.Second })
	proxy.Blackhole()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var mu sync.Mutex
	taken := make(map[conversation.ID]int)
	var wg sync.WaitGroup
	for _, db := range others {
		wg.Go(func() {
			for {
				d, err := db.Duties(ctx)
				if err != nil {
					return
				}
				mu.Lock()
				for _, got := range d.Taken {
					taken[got.Turn.ID]++
				}
				if len(taken) == turns {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	if len(taken) != turns || took > 10*time.Second {
		t.Errorf("%d of %d turns were taken over after %v", len(taken), turns, took)
	}
	for id, n := range taken {
		if n != 1 {
			t.Errorf("turn %x was taken over %d times", id, n)
		}
	}
	if n := count(t, session(t, url), `SELECT count(*) FROM running WHERE takeovers <> 1`); n != 0 {
		t.Errorf("%d turns were not taken over once", n)
	}
	t.Logf("%d turns were taken over in %v", turns, took)
	proxy.Restore()
}

// Who is about to stop takes nothing over: what it took would have to be handed over again.
func TestRetire(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	first, leaving := openURL(t, url, hurried()), openURL(t, url, hurried())
	a := oneShot("a")
	if err := first.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	leaving.Retire()
	if err := first.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	looksInVain(t, url, leaving)
	takes(t, openURL(t, url, hurried()), 1)
}

// A process that is opened to run no turns takes none over, and so has none to give up.
func TestOpenRetired(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	first := openURL(t, url, hurried())
	if err := first.BeginTurn(t.Context(), oneShot("a")); err != nil {
		t.Fatal(err)
	}
	if err := first.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	o := hurried()
	o.Retired = true
	looksInVain(t, url, openURL(t, url, o))
	if taken := takes(t, openURL(t, url, hurried()), 1); len(taken) != 1 {
		t.Errorf("%d turns were left", len(taken))
	}
}

// looksInVain waits until a store has looked for turns to take some times, and fails the test if it has taken any.
func looksInVain(t *testing.T, url string, db *DB) {
	t.Helper()
	conn, id := session(t, url), db.ownership.current().id
	beats := func() int {
		return count(t, conn, `SELECT (1000 * extract(epoch FROM heartbeat))::bigint % 1000000000 FROM replicas WHERE id = $1`, id[:])
	}
	for range 3 {
		before := beats()
		eventually(t, "it has looked again", func() bool { return beats() != before })
	}
	if n := count(t, conn, `SELECT count(*) FROM running WHERE owner = $1`, id[:]); n != 0 {
		t.Errorf("it has taken %d turns", n)
	}
}

// Who ends in an orderly way leaves turns that others take at once, also one that starts later.
func TestRelease(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	first, second := openURL(t, url, Options{}), openURL(t, url, Options{})
	a, b := oneShot("a"), oneShot("b")
	if err := first.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	timed(t, "the takeover", 2*time.Second, func() {
		if err := first.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		takes(t, second, 1)
	})
	if err := first.BeginTurn(t.Context(), b); !errors.Is(err, conversation.ErrStoreUnavailable) {
		t.Errorf("a begin after the release: %v", err)
	}
	if err := first.EndTurn(t.Context(), ending(a, "late")); !errors.Is(err, conversation.ErrTurnEnded) {
		t.Errorf("an end after the release: %v", err)
	}
	if err := first.RequestCancel(t.Context(), "team", a.Turn.ID); err != nil {
		t.Errorf("what concerns no turn of its own still works: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	third := openURL(t, url, Options{})
	timed(t, "the second takeover", 2*time.Second, func() {
		if got := takes(t, third, 1)[a.Turn.ID]; got == nil || got.Takeovers != 2 || !got.Cancel {
			t.Errorf("taken: %+v", got)
		}
	})
}

// Whoever watches a turn is woken within 200 ms, in whatever process it is written, and its owner of a wish to cancel it.
func TestWakeAcrossReplicas(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	writer, reader := openURL(t, url, hurried()), openURL(t, url, hurried())
	a := oneShot("watched")
	if err := writer.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	wake, stop := reader.Subscribe(a.Turn.ID)
	defer stop()
	sequence := int64(1)
	// write returns how long it took until the reader was woken.
	write := func() (time.Duration, bool) {
		t.Helper()
		sequence++
		events := lateEvents(a.Turn.ID)
		events[0].Events[0].Sequence = sequence
		if lost, err := writer.AppendEvents(t.Context(), events); err != nil || len(lost) > 0 {
			t.Fatalf("%x, %v", lost, err)
		}
		start := time.Now()
		select {
		case <-wake:
			return time.Since(start), true
		case <-time.After(time.Second):
			return 0, false
		}
	}
	eventually(t, "they know of each other", func() bool {
		_, woken := write()
		return woken
	})
	var late int
	for range 10 {
		settle(wake)
		if took, woken := write(); !woken || took > 200*time.Millisecond {
			t.Logf("woken %v after %v", woken, took)
			late++
		}
	}
	if late > 1 { // the machine may have had other things to do
		t.Errorf("%d of 10 times the reader was not woken in time", late)
	}
	if err := reader.RequestCancel(t.Context(), "team", a.Turn.ID); err != nil {
		t.Fatal(err)
	}
	timed(t, "the wish to cancel", time.Second, func() {
		if d := duties(t, writer); len(d.Cancel) != 1 || d.Cancel[0] != a.Turn.ID {
			t.Errorf("duties %+v", d)
		}
	})
}

// Many turns that are cancelled at once do not cause a look each.
func TestManyCancels(t *testing.T) {
	t.Parallel()
	w, url := tap(t, migrated(t))
	db := openURL(t, url, Options{})
	turns := make([]*conversation.Admission, 100)
	ops := make([]op, len(turns))
	for i := range turns {
		turns[i] = oneShot("cancelled")
		ops[i] = mustBegin(t, turns[i])
	}
	for _, err := range together(t, db, ops...) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var looks atomic.Int64
	w.watch(func(sql string) wireAction {
		if sql == anyOrphans || sql == dutiesOf {
			looks.Add(1)
		}
		return forward
	})
	start := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() {
		for told := 0; told < len(turns) && !t.Failed(); {
			d, err := db.Duties(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			told += len(d.Cancel)
		}
	})
	for _, a := range turns {
		if err := db.RequestCancel(t.Context(), "team", a.Turn.ID); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	took := time.Since(start)
	// The two kinds of look, each also by the clock.
	if n, most := looks.Load(), 2*(3+int64(took/lookPause)+int64(took/time.Second)); n > most {
		t.Errorf("%d looks for %d turns in %v, want at most %d", n, len(turns), took, most)
	}
}

// settle takes what still comes.
func settle(wake <-chan struct{}) {
	for {
		select {
		case <-wake:
		case <-time.After(2 * notifyInterval):
			return
		}
	}
}
