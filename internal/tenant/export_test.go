package tenant

import "time"

// SetClock has r read the time from now.
func (r *Registry) SetClock(now func() time.Time) { r.now = now }
