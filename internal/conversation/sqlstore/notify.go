package sqlstore

import (
	"sync"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A hub wakes those who wait for something to be written about an id. It is safe for concurrent use.
type hub struct {
	mu          sync.Mutex
	subscribers map[conversation.ID]map[chan struct{}]struct{}
}

func newHub() *hub {
	return &hub{subscribers: make(map[conversation.ID]map[chan struct{}]struct{})}
}

// subscribe returns a channel that holds at most one value, so nobody who wakes ever waits.
func (h *hub) subscribe(id conversation.ID) (wake <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subscribers[id] == nil {
		h.subscribers[id] = make(map[chan struct{}]struct{})
	}
	h.subscribers[id][c] = struct{}{}
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subscribers[id], c)
		if len(h.subscribers[id]) == 0 {
			delete(h.subscribers, id)
		}
	}
}

func (h *hub) wake(ids []conversation.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		wakeEach(h.subscribers[id])
	}
}

// wakeAll is for when it is not known what has been written.
func (h *hub) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, channels := range h.subscribers {
		wakeEach(channels)
	}
}

func wakeEach(channels map[chan struct{}]struct{}) {
	for c := range channels {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
