package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// fakeAudit is an AuditService that says what a test wants, as a server could that somebody has tampered with.
type fakeAudit struct {
	chatsvcv1.UnimplementedAuditServiceServer

	entries []*chatsvcv1.AuditEntry
	heads   []tenant.Head // that it gives one after the other, the last one for ever
}

func (f *fakeAudit) GetAuditHead(context.Context, *chatsvcv1.GetAuditHeadRequest) (*chatsvcv1.AuditHead, error) {
	head := f.heads[0]
	if len(f.heads) > 1 {
		f.heads = f.heads[1:]
	}
	return &chatsvcv1.AuditHead{Count: head.Count, Hash: hex.EncodeToString(head.Hash[:])}, nil
}

// ListAuditEntries gives two entries a page, the oldest first.
func (f *fakeAudit) ListAuditEntries(_ context.Context, r *chatsvcv1.ListAuditEntriesRequest) (*chatsvcv1.ListAuditEntriesResponse, error) {
	at, _ := strconv.Atoi(r.GetPageToken())
	end := min(at+2, len(f.entries))
	page := &chatsvcv1.ListAuditEntriesResponse{AuditEntries: f.entries[at:end]}
	if end < len(f.entries) {
		page.NextPageToken = strconv.Itoa(end)
	}
	return page, nil
}

func (f *fakeAudit) start(t *testing.T) *program {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	chatsvcv1.RegisterAuditServiceServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return &program{admin: listener.Addr().String()}
}

// auditChain returns n entries, and the heads that they had, from the one of none on.
func auditChain(t *testing.T, n int) (entries []*chatsvcv1.AuditEntry, heads []tenant.Head) {
	t.Helper()
	heads = append(heads, tenant.Head{})
	for i := range n {
		e := &tenant.Entry{
			Time: time.Date(2026, 5, 1, 12, 0, i, 0, time.UTC), Action: "chatsvc.v1.TeamService/UpdateTeam", Outcome: tenant.Changed, Team: "red",
			Actor: tenant.Actor{Team: "platform", Client: "admin", Credential: "key:x"}, Source: "127.0.0.1", Resource: "teams/red",
			Changes: []tenant.FieldChange{{Field: "disabled", Old: "false", New: "true"}}, TraceID: "abc",
		}
		if i%2 == 1 {
			e.Outcome, e.Reason, e.Count, e.Resource, e.Changes, e.Actor = tenant.Denied, "CREDENTIAL_MISSING", 3, "", nil, tenant.Actor{}
		}
		head, err := e.Follow(heads[i])
		if err != nil {
			t.Fatal(err)
		}
		shown := &chatsvcv1.AuditEntry{
			Sequence: e.Sequence, CreateTime: timestamppb.New(e.Time), Action: e.Action, Outcome: chatsvcv1.AuditOutcome_AUDIT_OUTCOME_CHANGED,
			Reason: e.Reason, Team: "teams/red", Credential: e.Actor.Credential, Source: e.Source, Resource: e.Resource, TraceId: e.TraceID,
			Count: e.Count, Record: e.Record, Hash: hex.EncodeToString(e.Hash[:]),
		}
		if e.Outcome == tenant.Denied {
			shown.Outcome = chatsvcv1.AuditOutcome_AUDIT_OUTCOME_DENIED
		} else {
			shown.Actor = "teams/platform/clients/admin"
			shown.Changes = []*chatsvcv1.AuditChange{{Field: "disabled", OldValue: "false", NewValue: "true"}}
		}
		entries, heads = append(entries, shown), append(heads, head)
	}
	return entries, heads
}

func TestAuditVerify(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		n      int
		tamper func(f *fakeAudit, heads []tenant.Head)
		known  int // the count of the head that is known, if it is not 0
		want   string
	}{
		{"as it is", 5, nil, 3, "5 entries, head HEAD5\n"},
		{"nothing", 0, nil, 0, "0 entries, head HEAD0\n"},
		{"more while it runs", 5, func(f *fakeAudit, heads []tenant.Head) { f.heads = []tenant.Head{heads[4], heads[5]} }, 0, "5 entries, head HEAD5\n"},
		{"even more, which is not read", 5, func(f *fakeAudit, heads []tenant.Head) {
			f.entries, f.heads = f.entries[:4], []tenant.Head{heads[2], heads[5]}
		}, 0, "4 entries, head HEAD4\n"},
		{"a cut tail", 5, func(f *fakeAudit, _ []tenant.Head) { f.entries = f.entries[:3] }, 0, "entries 4 to 5 are missing: the head says that there are 5\n"},
		{"a cut tail and head", 5, func(f *fakeAudit, heads []tenant.Head) {
			f.entries, f.heads = f.entries[:3], heads[3:4]
		}, 5, "entries 4 to 5 are missing: the head says that there are 5\n"},
		{"entries behind the head", 5, func(f *fakeAudit, heads []tenant.Head) { f.heads = heads[3:4] }, 0, "there are 5 entries, and the head says 3\n"},
		{"another head", 5, func(f *fakeAudit, heads []tenant.Head) {
			f.heads = []tenant.Head{heads[4], {Count: 5, Hash: heads[1].Hash}}
		}, 0, "entry 5 is not the one that the head .*\n"},
		{"a lost entry", 5, func(f *fakeAudit, _ []tenant.Head) { f.entries = slices.Delete(f.entries, 1, 2) }, 0, "entry 2 is missing\n"},
		{
			"a huge gap", 5, func(f *fakeAudit, _ []tenant.Head) { f.entries[4].Sequence = 1 << 62 }, 0,
			"entries 5 to 4611686018427387903 are missing\nentry 4611686018427387904 has the record of entry 5\n" +
				"there are 4611686018427387904 entries, and the head says 5\n",
		},
		{"an edited record", 5, func(f *fakeAudit, _ []tenant.Head) {
			f.entries[2].Record = []byte(strings.Replace(string(f.entries[2].Record), `"true"`, `"nope"`, 1))
		}, 0, "entry 3 does not follow from entry 2: .*\nentry 3 does not show the changes of its record\n"},
		{"no record", 5, func(f *fakeAudit, _ []tenant.Head) {
			f.entries[2] = &chatsvcv1.AuditEntry{Sequence: 3, Record: []byte("\x00"), Hash: f.entries[2].Hash}
		}, 0, "entry 3 does not follow from entry 2: .*\n"},
		{
			"no hash", 5, func(f *fakeAudit, _ []tenant.Head) { f.entries[4].Hash = "zz\x1b[2J" }, 0,
			"entry 5 has a hash that is none\nentry 5 does not follow from entry 4: .*\nentry 5 is not the one that the head .*\n",
		},
		{"shown otherwise", 5, func(f *fakeAudit, _ []tenant.Head) {
			f.entries[0].Actor, f.entries[0].Resource = "teams/blue/clients/web", "teams/blue"
			f.entries[1].Outcome, f.entries[1].Count = chatsvcv1.AuditOutcome_AUDIT_OUTCOME_CHANGED, 1
			f.entries[2].Source, f.entries[2].Team = "10.0.0.1", ""
		}, 0, "entry 1 does not show the actor, resource of its record\nentry 2 does not show the outcome, count of its record\n" +
			"entry 3 has another team, source than its record\n"},
		{"all shown otherwise", 25, func(f *fakeAudit, _ []tenant.Head) {
			for _, e := range f.entries {
				e.Resource = "teams/blue"
			}
		}, 0, "(entry .* does not show the resource of its record\n){20}and 5 more do not show their record\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			entries, heads := auditChain(t, tt.n)
			f := &fakeAudit{entries: entries, heads: heads[tt.n:]}
			if tt.tamper != nil {
				tt.tamper(f, heads)
			}
			p := f.start(t)
			args := []string{"audit", "verify"}
			if tt.known > 0 {
				args = append(args, "--head", heads[tt.known].String())
			}
			code, out, notes := p.cli(t, args...)
			want := tt.want
			for n, head := range heads {
				want = strings.ReplaceAll(want, fmt.Sprintf("HEAD%d", n), head.String())
			}
			wantCode, wantNotes := 0, ""
			if !strings.Contains(tt.want, "HEAD") {
				wantCode, wantNotes = 3, "chatsvc: the audit is not as it was written\n"
			}
			if code != wantCode || !matches(out, "^"+want+"$") || notes != wantNotes {
				t.Errorf("code %d, notes %q, out:\n%s\nwant:\n%s", code, notes, out, want)
			}
		})
	}
}

func TestAuditCommands(t *testing.T) {
	t.Parallel()
	entries, heads := auditChain(t, 3)
	entries[2].Changes[0].NewValue = "\x1b[2J\n\tx"
	p := (&fakeAudit{entries: entries, heads: heads[3:]}).start(t)
	want := `#  TIME                  OUTCOME  ACTION                  ACTOR           CREDENTIAL  SOURCE     RESOURCE  DETAILS
1  2026-05-01T12:00:00Z  changed  TeamService/UpdateTeam  platform/admin  key:x       127.0.0.1  red       disabled: false → true
2  2026-05-01T12:00:01Z  denied   TeamService/UpdateTeam  -               -           127.0.0.1  -         CREDENTIAL_MISSING (3 times)
3  2026-05-01T12:00:02Z  changed  TeamService/UpdateTeam  platform/admin  key:x       127.0.0.1  red       disabled: false → ␛[2J x
`
	if out := p.must(t, "audit", "list"); out != want {
		t.Errorf("got:\n%s\nwant:\n%s", out, want)
	}
	if out := p.must(t, "audit", "list", "--limit=1", "--json"); strings.Count(out, "\n") != 1 || !strings.Contains(out, `"sequence":"1"`) {
		t.Errorf("one entry: %s", out)
	}
	if out := p.must(t, "audit", "head"); out != heads[3].String()+"\n" {
		t.Errorf("head: %s", out)
	}
	if out := p.must(t, "audit", "head", "--json"); out != fmt.Sprintf(`{"count":"3","hash":"%x"}`+"\n", heads[3].Hash) {
		t.Errorf("head: %s", out)
	}
	p.misused(t, "--limit -1", "audit", "list", "--limit=-1")
	p.refused(t, "unknown service chatsvc.v1.TeamService; callers and the control plane have a port each, and "+p.admin+" is the other one", "teams", "list")
	for _, args := range [][]string{{"audit", "verify", "--head=5"}, {"audit", "list", "--since=yesterday"}, {"audit", "list", "--team=A"}} {
		if code, out, notes := p.cli(t, args...); code != 2 || out != "" || strings.Count(notes, "\n") != 1 {
			t.Errorf("%v: code %d, out %q, notes %q", args, code, out, notes)
		}
	}
}
