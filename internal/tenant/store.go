package tenant

import (
	"context"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// Store keeps teams, clients, keys and the audit. All methods are safe for concurrent use. Where the database cannot be used,
// the error is conversation.ErrStoreUnavailable; a write of which certainly nothing happened is also
// conversation.ErrNotWritten.
type Store interface {
	// Put writes what c holds, and e as the next entry of the audit, in one transaction: all of it or nothing. Of each row it
	// looks at Revision: 0 says that the row is new, any other that it is still the one that was read. It sets Revision of each
	// row, and Sequence, Record and Hash of e.
	//
	// ErrExists: a row that should be new is there, or another key has its Request. ErrChanged: a row is another one by now, or is
	// not there. Nothing is written then, no entry either. A context that ends before the transaction began: its error, and nothing
	// is written; later, Put waits for the outcome.
	Put(ctx context.Context, c *Change, e *Entry) error
	// Record is Put of nothing but the entry. With once, nothing is written if the audit has an entry of the same Source and
	// Reason that was also written with once, less than a minute before or after e.Time, as clocks differ: then e.Sequence stays 0.
	Record(ctx context.Context, e *Entry, once bool) error
	// Changes returns all rows with a Revision above after.Count, in no order, and the head that they are up to. What a Put wrote
	// that returned before Changes was called is among them. Where after is not, or is no more, a head that the audit has had, it
	// is all there is: so it is with the zero Head, and after the database was put back to an earlier one, however much was
	// written since.
	Changes(ctx context.Context, after Head) (*Changes, error)
	// Changed returns a channel that gets a value soon after a Put, in whatever process; it can miss one, and get one for nothing.
	Changed() (wake <-chan struct{}, stop func())

	// Entries returns at most limit entries of the audit: those that f asks for.
	Entries(ctx context.Context, f EntryFilter, limit int) ([]*Entry, error)
	// Head returns the head of the audit, of all that was written before it was called.
	Head(ctx context.Context) (Head, error)
}

// Change is rows to be written together.
type Change struct {
	Team   *Team
	Client *Client
	Keys   []*Key
}

// Changes is what a Directory has to learn.
type Changes struct {
	// Head is what they are up to; its Count is the highest Revision there may be.
	Head Head
	// All says that there is nothing else: what was known before is not to be relied on.
	All     bool
	Teams   []*Team
	Clients []*Client
	Keys    []*Key
}

// Errors of Store, for errors.Is.
var (
	ErrExists  = &conversation.Error{Reason: conversation.AlreadyExists, Message: "there is a resource with that name"}
	ErrChanged = &conversation.Error{Reason: conversation.EtagMismatch, Message: "the resource has changed since it was read"}
)
