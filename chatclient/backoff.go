package chatclient

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff returns how long to wait before a repeat, of which tries went before: anything between 0 and a limit that
// doubles ("full jitter": callers that lost one server together do not come back together), but at least atLeast.
func (o Options) backoff(tries int, atLeast time.Duration) time.Duration {
	limit := o.MinBackoff
	for range tries {
		if limit >= o.MaxBackoff {
			break
		}
		limit *= 2
	}
	limit = min(limit, o.MaxBackoff)
	return max(atLeast, rand.N(limit+1)) //nolint:gosec // Spreads load; nothing to guess.
}

// pause waits, and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
