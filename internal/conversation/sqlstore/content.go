package sqlstore

import (
	"errors"
	"slices"
	"time"
)

// A noContent is that the database has refused content: it counts until then.
type noContent struct {
	until time.Time
	cause error
}

// fullFor is how long the store counts as one that cannot be written after it could not write content. If nothing is sent to
// it meanwhile, there is no other way to find out than to try.
const fullFor = 5 * time.Second

// observe is told what became of a group. A disk that is full, or a table that may not be written, lets a ping through.
func (c *committer) observe(group []*item, err error) {
	if !slices.ContainsFunc(group, func(it *item) bool { return it.size > 0 && it.err == nil }) {
		return
	}
	_, none := errors.AsType[*connectError](err) // which a ping meets, too
	switch before := c.full.Load(); {
	case err == nil:
		if before != nil {
			c.full.Store(nil)
			c.log.Info("the database takes content again")
		}
	case !none && c.dialect.fault(err) == unusable:
		c.full.Store(&noContent{time.Now().Add(fullFor), err})
		if before == nil {
			c.log.Error("the database takes no content", "error", err)
		}
	}
}

// takesContent returns why content would most likely not be written now.
func (c *committer) takesContent() error {
	if f := c.full.Load(); f != nil && time.Now().Before(f.until) {
		return f.cause
	}
	return nil
}
