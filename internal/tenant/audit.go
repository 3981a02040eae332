package tenant

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Outcome is what became of a call.
type Outcome string

// The outcomes.
const (
	Changed Outcome = "changed"
	Denied  Outcome = "denied"
)

// OtherTeam is the reason of a denial that the caller got as NOT_FOUND.
const OtherTeam = "OTHER_TEAM"

// ErrOtherTeam is in the chain of such a NOT_FOUND, for the audit alone: the name is of another team, whether or not there is
// such a resource.
var ErrOtherTeam = errors.New("another team's")

// Entry is an entry of the audit. Its JSON is its record; see AuditService for the fields. What came from a stranger is
// not in it, but for the address.
type Entry struct {
	Sequence int64         `json:"sequence"`
	Time     time.Time     `json:"time"`
	Action   string        `json:"action"`
	Outcome  Outcome       `json:"outcome"`
	Reason   string        `json:"reason,omitempty"`
	Team     string        `json:"team,omitempty"` // the id
	Actor    Actor         `json:"actor,omitzero"`
	Source   string        `json:"source,omitempty"`
	Resource string        `json:"resource,omitempty"`
	Changes  []FieldChange `json:"changes,omitempty"`
	TraceID  string        `json:"trace_id,omitempty"`
	Count    int64         `json:"count,omitempty"`
	Record   []byte        `json:"-"`
	Hash     Digest        `json:"-"`
}

// Actor is who called.
type Actor struct {
	Team       string `json:"team,omitempty"`
	Client     string `json:"client,omitempty"`
	Credential string `json:"credential,omitempty"`
}

// FieldChange is one field that was changed.
type FieldChange struct {
	Field string `json:"field"`
	Old   string `json:"old,omitempty"`
	New   string `json:"new,omitempty"`
}

// Head is how many entries there are, and the hash of the last one.
type Head struct {
	Count int64
	Hash  Digest
}

// String returns COUNT:HASH, as the log has it and `chatsvc audit verify --head` takes it.
func (h Head) String() string { return fmt.Sprintf("%d:%s", h.Count, hex.EncodeToString(h.Hash[:])) }

// Follow makes e the entry after a head: it sets Sequence, Record and Hash. It returns the new head.
func (e *Entry) Follow(h Head) (Head, error) {
	e.Sequence = h.Count + 1
	e.Time = e.Time.UTC().Truncate(time.Microsecond)
	record, err := json.Marshal(e)
	if err != nil {
		return h, fmt.Errorf("encode an entry of the audit: %w", err)
	}
	e.Record = record
	e.Hash = ChainHash(h.Hash, record)
	return Head{Count: e.Sequence, Hash: e.Hash}, nil
}

// ChainHash is the hash of an entry: that of the hash before it and its own record.
func ChainHash(before Digest, record []byte) Digest {
	h := sha256.New()
	h.Write(before[:])
	h.Write(record)
	return Digest(h.Sum(nil))
}

// ParseEntry returns the entry that a record holds, without its hash.
func ParseEntry(record []byte) (*Entry, error) {
	e := &Entry{Record: record}
	if err := json.Unmarshal(record, e); err != nil {
		return nil, fmt.Errorf("decode an entry of the audit: %w", err)
	}
	return e, nil
}

// EntryFilter says which entries, and in which order.
type EntryFilter struct {
	// Team, if set, is the id that Entry.Team must be.
	Team string
	// Start and End bound Entry.Time: from Start on, before End. Zero is no bound.
	Start, End time.Time
	// Ascending: the oldest first; otherwise the newest.
	Ascending bool
	// After is the sequence number behind which, in that order, to begin; 0 is at the first.
	After int64
}
