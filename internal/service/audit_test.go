package service

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// sequences lists the audit to its end, and returns the numbers of the entries.
func (c control) sequences(t *testing.T, ctx context.Context, in *chatsvcv1.ListAuditEntriesRequest) string {
	t.Helper()
	var all []string
	in = proto.CloneOf(in)
	for {
		page := must[*chatsvcv1.ListAuditEntriesResponse](t)(c.ListAuditEntries(ctx, in))
		for _, e := range page.GetAuditEntries() {
			all = append(all, fmt.Sprint(e.GetSequence()))
		}
		if page.GetNextPageToken() == "" {
			return strings.Join(all, " ")
		}
		in.PageToken = page.GetNextPageToken()
	}
}

func TestListAuditEntries(t *testing.T) {
	c := serveControl(t)
	c.addTeam(t, "red")  // 1 to 3
	c.addTeam(t, "blue") // 4 to 6
	auditor := as(t, "platform", tenant.RoleAuditor)
	admin := as(t, "red", tenant.RoleTeamAdmin)
	for _, test := range []struct {
		name string
		ctx  context.Context
		in   *chatsvcv1.ListAuditEntriesRequest
		want string
	}{
		{"newest first", auditor, &chatsvcv1.ListAuditEntriesRequest{}, "6 5 4 3 2 1"},
		{"the same, said", auditor, &chatsvcv1.ListAuditEntriesRequest{OrderBy: "sequence desc"}, "6 5 4 3 2 1"},
		{"oldest first", auditor, &chatsvcv1.ListAuditEntriesRequest{OrderBy: "sequence"}, "1 2 3 4 5 6"},
		{"in pages", auditor, &chatsvcv1.ListAuditEntriesRequest{PageSize: 4}, "6 5 4 3 2 1"},
		{"in pages that fit", auditor, &chatsvcv1.ListAuditEntriesRequest{PageSize: 3, OrderBy: "sequence"}, "1 2 3 4 5 6"},
		{"of a team", auditor, &chatsvcv1.ListAuditEntriesRequest{Team: "teams/blue"}, "6 5 4"},
		{"of a team, in pages", auditor, &chatsvcv1.ListAuditEntriesRequest{Team: "teams/red", PageSize: 2, OrderBy: "sequence"}, "1 2 3"},
		{"of a team that is nowhere", auditor, &chatsvcv1.ListAuditEntriesRequest{Team: "teams/nobody"}, ""},
		{"of one's own team", admin, &chatsvcv1.ListAuditEntriesRequest{}, "3 2 1"},
		{"of one's own team, said", admin, &chatsvcv1.ListAuditEntriesRequest{Team: "teams/red"}, "3 2 1"},
		{"before all", auditor, &chatsvcv1.ListAuditEntriesRequest{EndTime: timestamppb.New(time.Unix(1, 0))}, ""},
		{"after all", auditor, &chatsvcv1.ListAuditEntriesRequest{StartTime: timestamppb.New(time.Now().Add(time.Hour))}, ""},
		{
			"of all times", auditor, &chatsvcv1.ListAuditEntriesRequest{
				StartTime: timestamppb.New(time.Unix(0, 0)),
				EndTime:   timestamppb.New(time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)),
			}, "6 5 4 3 2 1",
		},
	} {
		if got := c.sequences(t, test.ctx, test.in); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	all := must[*chatsvcv1.ListAuditEntriesResponse](t)(c.ListAuditEntries(auditor, &chatsvcv1.ListAuditEntriesRequest{OrderBy: "sequence"})).GetAuditEntries()
	got := c.sequences(t, auditor, &chatsvcv1.ListAuditEntriesRequest{
		StartTime: all[1].GetCreateTime(), EndTime: all[4].GetCreateTime(), OrderBy: "sequence",
	})
	if got != "2 3 4" {
		t.Errorf("from the second until before the fifth: %s", got)
	}

	for _, wrong := range []struct {
		field string
		in    *chatsvcv1.ListAuditEntriesRequest
	}{
		{"start_time", &chatsvcv1.ListAuditEntriesRequest{StartTime: &timestamppb.Timestamp{Nanos: -1}}},
		{"start_time", &chatsvcv1.ListAuditEntriesRequest{StartTime: timestamppb.New(time.Time{})}}, // it is not "unset"
		{"end_time", &chatsvcv1.ListAuditEntriesRequest{EndTime: &timestamppb.Timestamp{Seconds: 1 << 60}}},
		{"end_time", &chatsvcv1.ListAuditEntriesRequest{EndTime: timestamppb.New(time.Time{})}},
		{"order_by", &chatsvcv1.ListAuditEntriesRequest{OrderBy: "time"}},
		{"team", &chatsvcv1.ListAuditEntriesRequest{Team: "red"}},
		{"page_token", &chatsvcv1.ListAuditEntriesRequest{PageToken: "x"}},
	} {
		_, err := c.ListAuditEntries(auditor, wrong.in)
		if info := wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest); info.GetMetadata()["field"] != wrong.field {
			t.Errorf("%v: metadata %v", wrong.in, info.GetMetadata())
		}
	}
	token := must[*chatsvcv1.ListAuditEntriesResponse](t)(c.ListAuditEntries(auditor, &chatsvcv1.ListAuditEntriesRequest{PageSize: 1})).GetNextPageToken()
	for name, call := range map[string]func() error{
		"another order": func() error {
			_, err := c.ListAuditEntries(auditor, &chatsvcv1.ListAuditEntriesRequest{PageToken: token, OrderBy: "sequence"})
			return err
		},
		"a team": func() error {
			_, err := c.ListAuditEntries(auditor, &chatsvcv1.ListAuditEntriesRequest{PageToken: token, Team: "teams/red"})
			return err
		},
		"a time": func() error {
			_, err := c.ListAuditEntries(auditor, &chatsvcv1.ListAuditEntriesRequest{PageToken: token, StartTime: timestamppb.Now()})
			return err
		},
		"a team admin": func() error {
			_, err := c.ListAuditEntries(as(t, "platform", tenant.RoleTeamAdmin), &chatsvcv1.ListAuditEntriesRequest{PageToken: token})
			return err
		},
	} {
		if info := wantStatus(t, call(), codes.InvalidArgument, conversation.InvalidRequest); info.GetMetadata()["field"] != "page_token" {
			t.Errorf("the token with %s: metadata %v", name, info.GetMetadata())
		}
	}
	// But as it was meant, however it is said.
	if got := c.sequences(t, auditor, &chatsvcv1.ListAuditEntriesRequest{PageToken: token, OrderBy: "sequence desc"}); got != "5 4 3 2 1" {
		t.Errorf("the next page is %s", got)
	}
}

// An entry says who did what, and its record and hash are those of the chain.
func TestAuditEntry(t *testing.T) {
	c := serveControl(t)
	c.addTeam(t, "red")
	admin := as(t, "red", tenant.RoleTeamAdmin)
	key := must[*chatsvcv1.Key](t)(c.CreateKey(admin, &chatsvcv1.CreateKeyRequest{Parent: "teams/red/clients/web"}))
	must[*chatsvcv1.Key](t)(c.RevokeKey(admin, &chatsvcv1.RevokeKeyRequest{Name: key.GetName()}))
	auditor := as(t, "platform", tenant.RoleAuditor)
	entries := must[*chatsvcv1.ListAuditEntriesResponse](t)(c.ListAuditEntries(auditor, &chatsvcv1.ListAuditEntriesRequest{OrderBy: "sequence"})).GetAuditEntries()
	var before tenant.Digest
	for i, e := range entries {
		before = tenant.ChainHash(before, e.GetRecord())
		if e.GetSequence() != int64(i)+1 || e.GetHash() != hex.EncodeToString(before[:]) {
			t.Errorf("entry %d: %v", i+1, e)
		}
	}
	last := entries[len(entries)-1]
	if last.GetAction() != "chatsvc.v1.KeyService/RevokeKey" || last.GetOutcome() != chatsvcv1.AuditOutcome_AUDIT_OUTCOME_CHANGED ||
		last.GetTeam() != "teams/red" || last.GetActor() != "teams/red/clients/checkout" || last.GetCredential() != "key:test" ||
		last.GetSource() != "127.0.0.1" || last.GetResource() != key.GetName() || last.GetReason() != "" || last.GetCreateTime() == nil {
		t.Errorf("entry %v", last)
	}
	if !slices.ContainsFunc(last.GetChanges(), func(c *chatsvcv1.AuditChange) bool {
		return c.GetField() == "state" && c.GetOldValue() == "active" && c.GetNewValue() == "revoked"
	}) {
		t.Errorf("changes %v", last.GetChanges())
	}
	for _, secret := range []string{key.GetSecret(), strings.Split(key.GetSecret(), "_")[2]} {
		if strings.Contains(fmt.Sprint(entries), secret) {
			t.Error("the audit has a secret")
		}
	}
	// A platform admin's change is in the audit of the team that it is of.
	if first := entries[0]; first.GetTeam() != "teams/red" || first.GetActor() != "teams/platform/clients/checkout" {
		t.Errorf("entry %v", first)
	}
	head := must[*chatsvcv1.AuditHead](t)(c.GetAuditHead(auditor, &chatsvcv1.GetAuditHeadRequest{}))
	if head.GetCount() != last.GetSequence() || head.GetHash() != last.GetHash() {
		t.Errorf("head %v, last entry %v", head, last)
	}
}

func TestHeadOfNothing(t *testing.T) {
	c := serveControl(t)
	head := must[*chatsvcv1.AuditHead](t)(c.GetAuditHead(as(t, "platform", tenant.RoleAuditor), &chatsvcv1.GetAuditHeadRequest{}))
	if head.GetCount() != 0 || head.GetHash() != strings.Repeat("0", 64) {
		t.Errorf("head %v", head)
	}
}

func TestEntryToProto(t *testing.T) {
	denied := &tenant.Entry{
		Sequence: 7, Time: time.Unix(1, 0), Action: "a/b", Outcome: tenant.Denied, Reason: tenant.OtherTeam, Count: 3, TraceID: "t",
		Record: []byte("r"), Hash: tenant.Digest{31: 1},
	}
	want := &chatsvcv1.AuditEntry{
		Sequence: 7, CreateTime: timestamppb.New(time.Unix(1, 0)), Action: "a/b", Outcome: chatsvcv1.AuditOutcome_AUDIT_OUTCOME_DENIED,
		Reason: "OTHER_TEAM", Count: 3, TraceId: "t", Record: []byte("r"), Hash: strings.Repeat("0", 63) + "1",
	}
	if got := EntryToProto(denied); !proto.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	unreadable := &tenant.Entry{Sequence: 8, Record: []byte("\xff{"), Hash: tenant.Digest{1}}
	want = &chatsvcv1.AuditEntry{Sequence: 8, Record: []byte("\xff{"), Hash: "01" + strings.Repeat("0", 62)}
	if got := EntryToProto(unreadable); !proto.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// longAudit is an audit of many entries, of which each is large, and counts how many are read at once.
type longAudit struct{ entries, most int }

func (a *longAudit) Entries(_ context.Context, f tenant.EntryFilter, limit int) (page []*tenant.Entry, err error) {
	a.most = max(a.most, limit)
	for n := f.After + 1; n <= int64(a.entries) && len(page) < limit; n++ {
		page = append(page, &tenant.Entry{Sequence: n, Record: make([]byte, maxPageBytes/10)})
	}
	return page, nil
}

func (*longAudit) Head(context.Context) (tenant.Head, error) { return tenant.Head{}, nil }

// A page of large entries ends before it is more than a client takes, and none is left out.
func TestLongAudit(t *testing.T) {
	a := &longAudit{entries: 25}
	s := &auditService{audit: a}
	ctx := auth.NewContext(t.Context(), auth.Principal{Team: "platform", Roles: tenant.RolesOf(tenant.RoleAuditor)})
	in := &chatsvcv1.ListAuditEntriesRequest{OrderBy: "sequence", PageSize: 1000}
	next := int64(1)
	for pages := 1; ; pages++ {
		page, err := s.ListAuditEntries(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		if size := proto.Size(page); size > maxPageBytes+1<<10 {
			t.Errorf("a page of %d bytes", size)
		}
		for _, e := range page.GetAuditEntries() {
			if e.GetSequence() != next {
				t.Fatalf("entry %d, want %d", e.GetSequence(), next)
			}
			next++
		}
		if in.PageToken = page.GetNextPageToken(); in.PageToken == "" {
			if pages < 3 || next != 26 {
				t.Errorf("%d pages up to %d", pages, next-1)
			}
			break
		}
	}
	if a.most > maxEntriesRead {
		t.Errorf("%d read at once", a.most)
	}
}
