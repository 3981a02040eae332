package service

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

func TestShave(t *testing.T) {
	for remaining, want := range map[time.Duration]time.Duration{
		-time.Second:           0,
		0:                      0,
		10 * time.Millisecond:  5 * time.Millisecond,
		40 * time.Millisecond:  20 * time.Millisecond,
		100 * time.Millisecond: 20 * time.Millisecond,
		time.Second:            20 * time.Millisecond,
		10 * time.Second:       200 * time.Millisecond,
		50 * time.Second:       time.Second,
		time.Hour:              time.Second,
	} {
		if got := shave(remaining); got != want {
			t.Errorf("shave(%v) = %v, want %v", remaining, got, want)
		}
	}
}

func TestTurnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		ctx, cancel := context.WithDeadline(t.Context(), now.Add(10*time.Second))
		defer cancel()
		for on, wait := range map[conversation.OnDisconnect]time.Duration{
			conversation.DisconnectContinue: 9800 * time.Millisecond,
			conversation.DisconnectCancel:   9900 * time.Millisecond,
		} {
			deadline, bounded, cancel := turnDeadline(ctx, now, on)
			defer cancel()
			if got := deadline.Sub(now); got != 9800*time.Millisecond {
				t.Errorf("on disconnect %d the turn has %v", on, got)
			}
			if end, _ := bounded.Deadline(); end.Sub(now) != wait {
				t.Errorf("on disconnect %d the handler waits %v, want %v", on, end.Sub(now), wait)
			}
		}
	})
	deadline, ctx, cancel := turnDeadline(t.Context(), time.Now(), conversation.DisconnectCancel)
	defer cancel()
	if _, ok := ctx.Deadline(); ok || !deadline.IsZero() {
		t.Error("a call without a deadline got one")
	}
}
