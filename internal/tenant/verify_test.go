package tenant_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// newChain returns the first n entries of an audit.
func newChain(t *testing.T, n int) []*tenant.Entry {
	t.Helper()
	var head tenant.Head
	chain := make([]*tenant.Entry, n)
	for i := range chain {
		e := &tenant.Entry{
			Time: time.Unix(1_700_000_000+int64(i), 123_456_000), Action: "chatsvc.v1.TeamService/CreateTeam", Outcome: tenant.Changed,
			Team: fmt.Sprintf("team-%d", i+1), Source: "192.0.2.1", Resource: fmt.Sprintf("teams/team-%d", i+1),
		}
		var err error
		if head, err = e.Follow(head); err != nil {
			t.Fatal(err)
		}
		chain[i] = e
	}
	return chain
}

func headOf(e *tenant.Entry) *tenant.Head { return &tenant.Head{Count: e.Sequence, Hash: e.Hash} }

// edit changes a record, and nothing else.
func edit(e *tenant.Entry) {
	e.Record = []byte(strings.Replace(string(e.Record), "CreateTeam", "DeleteTeam", 1))
}

// renew computes the hashes from an entry to the end anew, as somebody would who can write the whole table.
func renew(chain []*tenant.Entry, from int) {
	for i := from; i < len(chain); i++ {
		chain[i].Hash = tenant.ChainHash(chain[i-1].Hash, chain[i].Record)
	}
}

// swap exchanges what two entries hold, but for their numbers.
func swap(a, b *tenant.Entry) {
	*a, *b = *b, *a
	a.Sequence, b.Sequence = b.Sequence, a.Sequence
}

func TestVerifier(t *testing.T) {
	t.Parallel()
	const n = 10
	for _, c := range []struct {
		name   string
		tamper func(chain []*tenant.Entry) []*tenant.Entry
		// head says which of the heads before the tampering is known; 0 is none.
		head int
		want []string
	}{
		{name: "untouched", tamper: func(c []*tenant.Entry) []*tenant.Entry { return c }},
		{name: "untouched, with a head", head: n, tamper: func(c []*tenant.Entry) []*tenant.Entry { return c }},
		{name: "more since the head", head: 4, tamper: func(c []*tenant.Entry) []*tenant.Entry { return c }},
		{
			name:   "an entry edited",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { edit(c[4]); return c },
			want:   []string{"entry 5 does not follow from entry 4: it was changed, or entry 4 was and its hash made anew"},
		},
		{
			name:   "the first entry edited",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { edit(c[0]); return c },
			want:   []string{"entry 1 was changed: its hash is not that of its record"},
		},
		{
			name: "an entry edited and its own hash made anew",
			tamper: func(c []*tenant.Entry) []*tenant.Entry {
				edit(c[4])
				c[4].Hash = tenant.ChainHash(c[3].Hash, c[4].Record)
				return c
			},
			want: []string{"entry 6 does not follow from entry 5: it was changed, or entry 5 was and its hash made anew"},
		},
		{
			name: "the last entry edited and its own hash made anew", head: n,
			tamper: func(c []*tenant.Entry) []*tenant.Entry { edit(c[9]); renew(c, 9); return c },
			want: []string{
				"entry 10 is not the one that the head is of: it, or one before it, was changed and the chain made anew",
			},
		},
		{
			name: "an entry edited and all hashes after it made anew, without a head",
			// The limit of what a chain can show.
			tamper: func(c []*tenant.Entry) []*tenant.Entry { edit(c[4]); renew(c, 4); return c },
		},
		{
			name: "an entry edited and all hashes after it made anew", head: 7,
			tamper: func(c []*tenant.Entry) []*tenant.Entry { edit(c[4]); renew(c, 4); return c },
			want:   []string{"entry 7 is not the one that the head is of: it, or one before it, was changed and the chain made anew"},
		},
		{
			name: "an entry edited after the head and all hashes made anew", head: 3,
			tamper: func(c []*tenant.Entry) []*tenant.Entry { edit(c[4]); renew(c, 4); return c },
		},
		{
			name:   "a hash edited",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { c[4].Hash[0] ^= 1; return c },
			want: []string{
				"entry 5 does not follow from entry 4: it was changed, or entry 4 was and its hash made anew",
				"entry 6 does not follow from entry 5: it was changed, or entry 5 was and its hash made anew",
			},
		},
		{
			name:   "an entry deleted",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { return slices.Delete(c, 4, 5) },
			want:   []string{"entry 5 is missing"},
		},
		{
			name:   "entries deleted at the beginning",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { return c[3:] },
			want:   []string{"entries 1 to 3 are missing"},
		},
		{
			name: "entries deleted in two places, and one edited",
			tamper: func(c []*tenant.Entry) []*tenant.Entry {
				edit(c[7])
				return slices.Delete(slices.Delete(c, 4, 6), 1, 2)
			},
			want: []string{
				"entry 2 is missing", "entries 5 to 6 are missing",
				"entry 8 does not follow from entry 7: it was changed, or entry 7 was and its hash made anew",
			},
		},
		{
			name: "an entry deleted, and those after it numbered anew",
			tamper: func(c []*tenant.Entry) []*tenant.Entry {
				c = slices.Delete(c, 8, 9)
				c[8].Sequence = 9
				return c
			},
			want: []string{"entry 9 has the record of entry 10"},
		},
		{
			name:   "the tail cut, without a head",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { return c[:7] },
		},
		{
			name: "the tail cut", head: n,
			tamper: func(c []*tenant.Entry) []*tenant.Entry { return c[:7] },
			want:   []string{"entries 8 to 10 are missing: the head says that there are 10"},
		},
		{
			name: "all deleted", head: n,
			tamper: func([]*tenant.Entry) []*tenant.Entry { return nil },
			want:   []string{"entries 1 to 10 are missing: the head says that there are 10"},
		},
		{
			name: "the entry of the head deleted", head: 5,
			tamper: func(c []*tenant.Entry) []*tenant.Entry { return slices.Delete(c, 4, 5) },
			want:   []string{"entry 5 is missing"},
		},
		{
			name:   "two entries exchanged",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { swap(c[2], c[6]); return c },
			want:   []string{"entry 3 has the record of entry 7", "entry 7 has the record of entry 3"},
		},
		{
			name:   "two neighbours exchanged",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { swap(c[2], c[3]); return c },
			want:   []string{"entry 3 has the record of entry 4", "entry 4 has the record of entry 3"},
		},
		{
			name:   "in another order",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { c[4], c[5] = c[5], c[4]; return c },
			want:   []string{"entry 5 is missing", "entry 5 stands after entry 6"},
		},
		{
			name:   "an entry twice",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { return slices.Insert(c, 5, c[4]) },
			want:   []string{"entry 5 is there twice"},
		},
		{
			name:   "an entry from long ago again",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { return slices.Insert(c, 5, c[1]) },
			want:   []string{"entry 2 stands after entry 5"},
		},
		{
			name:   "a number that cannot be",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { c[0].Sequence = 0; return c },
			want:   []string{"an entry has the number 0", "entry 1 is missing"},
		},
		{
			name:   "a number that is far too high",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { c[9].Sequence = 1 << 62; return c },
			want:   []string{"entries 10 to 4611686018427387903 are missing", "entry 4611686018427387904 has the record of entry 10"},
		},
		{
			name:   "columns that the record has otherwise",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { c[4].Team, c[4].Source = "another", ""; return c },
			want:   []string{"entry 5 has another team, source than its record"},
		},
		{
			name: "a time and a reason that the record has otherwise",
			tamper: func(c []*tenant.Entry) []*tenant.Entry {
				c[4].Time, c[4].Reason = c[4].Time.Add(time.Microsecond), "X"
				return c
			},
			want: []string{"entry 5 has another time, reason than its record"},
		},
		{
			name: "columns that are not known",
			tamper: func(c []*tenant.Entry) []*tenant.Entry {
				for i, e := range c {
					c[i] = &tenant.Entry{Sequence: e.Sequence, Record: e.Record, Hash: e.Hash}
				}
				return c
			},
		},
		{
			name:   "a record that was overwritten",
			tamper: func(c []*tenant.Entry) []*tenant.Entry { c[4].Record = []byte("\xff{"); return c },
			want:   []string{"entry 5 does not follow from entry 4: it was changed, or entry 4 was and its hash made anew"},
		},
		{
			name: "a record that was overwritten and the hashes made anew",
			tamper: func(c []*tenant.Entry) []*tenant.Entry {
				c[4].Record = []byte("\xff{")
				renew(c, 4)
				return c
			},
			want: []string{"entry 5 has a record that cannot be read"},
		},
		{
			name: "no record at all",
			tamper: func(c []*tenant.Entry) []*tenant.Entry {
				c[4].Record = nil
				return c
			},
			want: []string{"entry 5 does not follow from entry 4: it was changed, or entry 4 was and its hash made anew"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			chain := newChain(t, n)
			var head *tenant.Head
			if c.head > 0 {
				head = headOf(chain[c.head-1])
			}
			var v tenant.Verifier
			var findings []tenant.Finding
			for _, e := range c.tamper(chain) {
				findings = append(findings, v.Add(e)...)
			}
			findings = append(findings, v.Finish(head)...)
			got := make([]string, len(findings))
			for i, f := range findings {
				got[i] = f.String()
				if f.Sequence == 0 && !strings.Contains(got[i], "the number 0") {
					t.Errorf("%q does not say where", f)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("found\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
			}
		})
	}
}

func TestVerifierEachByte(t *testing.T) {
	t.Parallel()
	chain := newChain(t, 3)
	head := headOf(chain[2])
	for i := range chain[1].Record {
		chain[1].Record[i] ^= 0x20
		var v tenant.Verifier
		found := 0
		for _, e := range chain {
			found += len(v.Add(e))
		}
		if found+len(v.Finish(head)) == 0 {
			t.Errorf("byte %d of a record was changed, and nothing was found", i)
		}
		chain[1].Record[i] ^= 0x20
	}
}

func TestVerifierManyFindings(t *testing.T) {
	t.Parallel()
	var v tenant.Verifier
	var findings []tenant.Finding
	for _, e := range newChain(t, 100) {
		edit(e)
		findings = append(findings, v.Add(e)...)
	}
	last := v.Finish()
	if len(findings) != 20 || len(last) != 1 || last[0].Problem != "and 80 more" {
		t.Errorf("%d findings, and then %v", len(findings), last)
	}
}

func TestVerifierHeads(t *testing.T) {
	t.Parallel()
	chain := newChain(t, 5)
	var v tenant.Verifier
	if got := v.Finish(nil, &tenant.Head{}); v.Head() != (tenant.Head{}) || len(got) > 0 {
		t.Errorf("of an empty audit: head %s, %v", v.Head(), got)
	}
	for _, e := range chain {
		v.Add(e)
	}
	if v.Head() != *headOf(chain[4]) {
		t.Errorf("head %s, want %s", v.Head(), headOf(chain[4]))
	}
	if got := v.Finish(headOf(chain[0]), headOf(chain[4]), &tenant.Head{}); len(got) > 0 {
		t.Errorf("good heads: %v", got)
	}
	for _, impossible := range []tenant.Head{{Count: -1}, {Hash: chain[0].Hash}} {
		if got := v.Finish(&impossible); len(got) != 1 {
			t.Errorf("Finish(%s) = %v", impossible, got)
		}
	}
}

func TestParseHead(t *testing.T) {
	t.Parallel()
	head := *headOf(newChain(t, 3)[2])
	for _, want := range []tenant.Head{head, {}} {
		if got, err := tenant.ParseHead(want.String()); err != nil || got != want {
			t.Errorf("ParseHead(%s) = %s, %v", want, got, err)
		}
	}
	text := head.String()
	for _, bad := range []string{"", "3", "3:", ":" + text[2:], "-" + text, "x" + text, text + "00", text[:len(text)-2], text + ":", "3:xyz"} {
		if got, err := tenant.ParseHead(bad); err == nil {
			t.Errorf("ParseHead(%q) = %s", bad, got)
		}
	}
}
