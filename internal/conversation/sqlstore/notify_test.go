package sqlstore

import (
	"slices"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

func woken(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestHub(t *testing.T) {
	t.Parallel()
	h := newHub()
	a, b := newID(), newID()
	first, stopFirst := h.subscribe(a)
	second, stopSecond := h.subscribe(a)
	other, stopOther := h.subscribe(b)
	h.wake([]conversation.ID{a, newID()})
	h.wake([]conversation.ID{a}) // merged with the first
	if !woken(first) || !woken(second) || woken(first) || woken(other) {
		t.Error("the subscribers of one id are woken, once")
	}
	h.wakeAll()
	if !woken(first) || !woken(second) || !woken(other) {
		t.Error("not all were woken")
	}
	stopFirst()
	h.wake([]conversation.ID{a})
	if woken(first) || !woken(second) {
		t.Error("who stopped is not woken, who did not is")
	}
	stopSecond()
	stopOther()
	if n := len(h.subscribers); n != 0 {
		t.Errorf("%d ids are left", n)
	}
}

func TestNotifierMerges(t *testing.T) {
	t.Parallel()
	n := newNotifier(nil, nil)
	a, b := newID(), newID()
	n.send([]conversation.ID{a, b})
	n.send([]conversation.ID{a})
	if ids := n.take(); len(ids) != 2 || !slices.Contains(ids, a) || !slices.Contains(ids, b) {
		t.Errorf("%x", ids)
	}
	for range maxPending/1000 + 1 { // the database is away
		many := make([]conversation.ID, 1000)
		for i := range many {
			many[i] = newID()
		}
		n.send(many)
	}
	if got := len(n.take()); got != maxPending {
		t.Errorf("%d ids are kept, want at most %d", got, maxPending)
	}
	n.alone.Store(true)
	n.send([]conversation.ID{a})
	if ids := n.take(); len(ids) != 0 {
		t.Error("there is nobody to tell")
	}
}

func TestNotificationFits(t *testing.T) {
	t.Parallel()
	if n := len(encodeIDs(make([]conversation.ID, notifyIDs))); n >= 8000 {
		t.Errorf("%d bytes are more than PostgreSQL takes", n)
	}
}

// Anybody who may connect to the database can notify.
func FuzzDecodeIDs(f *testing.F) {
	f.Add("")
	f.Add("not base64!")
	f.Add(encodeIDs([]conversation.ID{newID(), newID()}))
	f.Add(encodeIDs([]conversation.ID{newID()})[:5])
	f.Fuzz(func(t *testing.T, payload string) {
		ids := decodeIDs(payload)
		if again := decodeIDs(encodeIDs(ids)); !slices.Equal(again, ids) {
			t.Errorf("%x became %x", ids, again)
		}
	})
}

// A process that was alone tells one that joins what it writes, long before it looks for others the next time.
func TestNewcomerIsTold(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	slow := Options{lease: time.Hour} // it looks every ten minutes
	first := openURL(t, url, slow)
	a := oneShot("watched")
	if err := first.BeginTurn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	wake, stop := openURL(t, url, slow).Subscribe(a.Turn.ID)
	defer stop()
	eventually(t, "it is told of an event", func() bool {
		settle(wake)
		if _, err := first.AppendEvents(t.Context(), lateEvents(a.Turn.ID)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-wake:
			return true
		case <-time.After(time.Second):
			return false
		}
	})
}
