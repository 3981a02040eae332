package tenant

import (
	"cmp"
	"context"
	"slices"
	"time"
)

const (
	// endsSoon is when the log begins to say that a key ends: every day, and on the last one every hour.
	endsSoon = 7 * 24 * time.Hour
	lastDay  = 24 * time.Hour
	// maxEndingNames is how many keys one line names.
	maxEndingNames = 5
)

// RemindOfEnds says in the log which keys end soon, until ctx ends: in one line, however many they are. It goes by what was
// last read, so that it costs the database nothing; of several replicas, each says it.
func (d *Directory) RemindOfEnds(ctx context.Context) {
	hour := time.NewTicker(time.Hour)
	defer hour.Stop()
	for hours := 0; ; hours++ {
		period := lastDay
		if hours%24 == 0 {
			period = endsSoon
		}
		if v := d.Last(); v != nil {
			d.remind(ctx, v.ending(time.Now(), period))
		}
		select {
		case <-ctx.Done():
			return
		case <-hour.C:
		}
	}
}

func (d *Directory) remind(ctx context.Context, keys []*Key) {
	if len(keys) == 0 {
		return
	}
	var names []string
	for _, k := range keys[:min(len(keys), maxEndingNames)] {
		names = append(names, k.Name())
	}
	d.log.WarnContext(ctx, "keys end soon: rotate those that are in use",
		"count", len(keys), "first_end", keys[0].ExpireTime, "keys", names)
}

// ending returns the keys that end within a period, the next one first. Not those that have a successor, or that nobody can
// use: somebody wants them to end.
func (v *View) ending(now time.Time, period time.Duration) []*Key {
	var keys []*Key
	for _, k := range v.keys {
		if !k.Ended(now) && k.ExpireTime.Sub(now) <= period && k.ReplacedBy == "" && v.enabled(k.Team, k.Client) == nil {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b *Key) int {
		return cmp.Or(a.ExpireTime.Compare(b.ExpireTime), cmp.Compare(a.Name(), b.Name()))
	})
	return keys
}
