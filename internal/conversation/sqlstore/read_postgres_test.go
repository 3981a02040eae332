package sqlstore

import (
	"database/sql"
	"errors"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A read may take long in all, as long as something comes.
func TestPatienceIsForEachRow(t *testing.T) {
	t.Parallel()
	o := Options{patience: 600 * time.Millisecond}
	db := openURL(t, migrated(t), o)
	// A row that is large is sent at once.
	const slowly = `SELECT repeat('x', 100000), pg_sleep($1) FROM generate_series(1, $2)`
	read := func(each time.Duration, rows int) (n int, err error) {
		err = db.read(t.Context(), "test", slowly, []any{each.Seconds(), rows}, func(*sql.Rows) error {
			n++
			return nil
		})
		return n, err
	}
	if n, err := read(o.patience/3, 6); err != nil || n != 6 {
		t.Errorf("%d rows that come slowly, %v", n, err)
	}
	timed(t, "a read that gets stuck", 10*o.patience, func() {
		if n, err := read(time.Hour, 1); !errors.Is(err, conversation.ErrStoreUnavailable) || n != 0 {
			t.Errorf("%d rows, %v", n, err)
		}
	})
}

// Of a host list, a standby is not used, also not to read: it can be behind.
func TestStandbyIsPassedOver(t *testing.T) {
	t.Parallel()
	target := migrated(t)
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	primary := u.Host
	standby, through := tap(t, target)
	standby.recovering.Store(true)
	if _, err := OpenPostgres(t.Context(), through, Options{}); err == nil {
		t.Error("a standby alone will do")
	}
	if u, err = url.Parse(through); err != nil {
		t.Fatal(err)
	}
	u.Host += "," + primary
	var asked atomic.Int64
	standby.watch(func(string) wireAction {
		asked.Add(1)
		return forward
	})
	db := openURL(t, u.String(), Options{})
	turn(t, db, newConversation(t, db).ID, head{}, "hi")
	if _, err := db.Head(t.Context()); err != nil {
		t.Error(err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the standby was asked %d times", n)
	}
}
