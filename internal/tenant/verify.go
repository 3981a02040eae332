package tenant

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxFindings is how many findings a Verifier tells; after so many, one more says little.
const maxFindings = 20

// Finding is something that is wrong with the audit.
type Finding struct {
	// Sequence is the number of the entry where it shows.
	Sequence int64
	// Problem says what is wrong, and where, for people.
	Problem string
}

// String returns the problem.
func (f Finding) String() string { return f.Problem }

// Verifier computes the chain of the audit again, from its first entry on. It keeps the hash of each, 32 bytes, for the
// heads that it is compared with in the end. The zero value is ready. It is not safe for concurrent use.
type Verifier struct {
	last   int64  // the number of the entry before the next
	before Digest // its hash, as it stands there
	// unknown says that before cannot be relied on, and so does not tell anything about the next.
	unknown bool
	runs    []run
	found   int
}

// A run is the hashes of entries without a gap between them.
type run struct {
	first  int64
	hashes []Digest
}

// Add takes the next entry, in the order of the numbers: its Sequence, Record and Hash, and unless Time is zero the
// other columns that its record repeats: Time, Team, Source and Reason. It returns what it finds wrong.
//
// An entry that does not follow from the one before has been changed, or that one has and its hash made anew: nothing
// in the chain tells which. A chain that was made anew from some entry to its end is found by Finish alone, with a head
// from before.
func (v *Verifier) Add(e *Entry) []Finding {
	last := v.last
	switch {
	case e.Sequence <= 0:
		return v.report(e.Sequence, "an entry has the number %d", e.Sequence)
	case e.Sequence == last:
		return v.report(e.Sequence, "entry %d is there twice", e.Sequence)
	case e.Sequence < last:
		return v.report(e.Sequence, "entry %d stands after entry %d", e.Sequence, last)
	}
	var findings []Finding
	if e.Sequence-1 > last {
		findings = v.report(last+1, "%s missing", entries(last+1, e.Sequence-1))
		v.unknown = true
	}
	follows := v.unknown || ChainHash(v.before, e.Record) == e.Hash
	v.unknown = false
	v.keep(e)

	record, err := ParseEntry(e.Record)
	switch {
	case err == nil && record.Sequence != e.Sequence:
		// Its hash may be that of the other number, and then says nothing about the next.
		v.unknown = true
		findings = append(findings, v.report(e.Sequence, "entry %d has the record of entry %d", e.Sequence, record.Sequence)...)
	case !follows && last == 0:
		findings = append(findings, v.report(e.Sequence, "entry 1 was changed: its hash is not that of its record")...)
	case !follows:
		findings = append(findings, v.report(e.Sequence,
			"entry %d does not follow from entry %d: it was changed, or entry %d was and its hash made anew", e.Sequence, last, last)...)
	case err != nil:
		findings = append(findings, v.report(e.Sequence, "entry %d has a record that cannot be read", e.Sequence)...)
	}
	if err == nil && record.Sequence == e.Sequence {
		if columns := differing(record, e); len(columns) > 0 {
			findings = append(findings, v.report(e.Sequence,
				"entry %d has another %s than its record", e.Sequence, strings.Join(columns, ", "))...)
		}
	}
	return findings
}

// keep makes e the last entry.
func (v *Verifier) keep(e *Entry) {
	if len(v.runs) == 0 || e.Sequence-1 > v.last {
		v.runs = append(v.runs, run{first: e.Sequence})
	}
	r := &v.runs[len(v.runs)-1]
	r.hashes = append(r.hashes, e.Hash)
	v.last, v.before = e.Sequence, e.Hash
}

// hash returns the hash of an entry, as it stands there; false if it is missing.
func (v *Verifier) hash(sequence int64) (Digest, bool) {
	for _, r := range v.runs {
		if i := sequence - r.first; 0 <= i && i < int64(len(r.hashes)) {
			return r.hashes[i], true
		}
	}
	return Digest{}, false
}

// Head returns the head of what was added: the number of the last entry, and its hash as it stands there.
func (v *Verifier) Head() Head { return Head{Count: v.last, Hash: v.before} }

// Finish returns what is wrong with the whole, once all entries have been added: that it does not reach up to a head,
// or that the head is of another history. A head must have been read before the last entry was; one that is nil is left
// out.
func (v *Verifier) Finish(heads ...*Head) []Finding {
	var findings []Finding
	for _, head := range heads {
		if head == nil {
			continue
		}
		hash, ok := v.hash(head.Count)
		switch {
		case head.Count > v.last:
			findings = append(findings, v.report(v.last+1,
				"%s missing: the head says that there are %d", entries(v.last+1, head.Count), head.Count)...)
		case head.Count <= 0 && *head != Head{}:
			findings = append(findings, v.report(head.Count, "there can be no head %s", head)...)
		case ok && hash != head.Hash:
			findings = append(findings, v.report(head.Count,
				"entry %d is not the one that the head is of: it, or one before it, was changed and the chain made anew", head.Count)...)
		}
	}
	if more := v.found - maxFindings; more > 0 {
		findings = append(findings, Finding{Sequence: v.last, Problem: fmt.Sprintf("and %d more", more)})
	}
	return findings
}

// report returns a finding, unless there were too many.
func (v *Verifier) report(sequence int64, format string, args ...any) []Finding {
	v.found++
	if v.found > maxFindings {
		return nil
	}
	return []Finding{{Sequence: sequence, Problem: fmt.Sprintf(format, args...)}}
}

// entries is "entry 3 is", or "entries 3 to 5 are".
func entries(first, last int64) string {
	if first == last {
		return fmt.Sprintf("entry %d is", first)
	}
	return fmt.Sprintf("entries %d to %d are", first, last)
}

// differing names the columns of e that its record has otherwise.
func differing(record, e *Entry) (columns []string) {
	if e.Time.IsZero() {
		return nil
	}
	for _, c := range []struct {
		name    string
		differs bool
	}{
		{"time", !record.Time.Equal(e.Time)},
		{"team", record.Team != e.Team},
		{"source", record.Source != e.Source},
		{"reason", record.Reason != e.Reason},
	} {
		if c.differs {
			columns = append(columns, c.name)
		}
	}
	return columns
}

// ParseHead returns the head that Head.String wrote.
func ParseHead(text string) (Head, error) {
	count, hash, _ := strings.Cut(text, ":")
	n, err := strconv.ParseInt(count, 10, 64)
	b, hexErr := hex.DecodeString(hash)
	if err != nil || n < 0 || hexErr != nil || len(b) != len(Digest{}) {
		return Head{}, errors.New("a head of the audit is COUNT:HASH, with a hash of 64 hex digits")
	}
	return Head{Count: n, Hash: Digest(b)}, nil
}
