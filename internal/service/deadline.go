package service

import (
	"context"
	"time"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// shave returns what is taken off a caller's deadline, so that the answer that time is up arrives before it is: 2 %, at
// least 20 ms and at most 1 s. Where that is more than half of a very short deadline, half.
func shave(remaining time.Duration) time.Duration {
	return max(0, min(max(remaining/50, 20*time.Millisecond), time.Second, remaining/2))
}

// turnDeadline returns the deadline of a turn, zero if its caller has none, and a context that ends when the handler
// must stop waiting for it. A turn that its deadline ends leaves the handler half of the shaved time to read the terminal
// event; one that goes on leaves nothing to wait for.
func turnDeadline(ctx context.Context, now time.Time, on conversation.OnDisconnect) (time.Time, context.Context, context.CancelFunc) {
	callers, ok := ctx.Deadline()
	if !ok {
		ctx, cancel := context.WithCancel(ctx)
		return time.Time{}, ctx, cancel
	}
	shaved := shave(callers.Sub(now))
	deadline := callers.Add(-shaved)
	wait := deadline
	if on == conversation.DisconnectCancel {
		wait = callers.Add(-shaved / 2)
	}
	ctx, cancel := context.WithDeadline(ctx, wait)
	return deadline, ctx, cancel
}
