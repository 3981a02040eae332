package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

const (
	outcomeChanged = chatsvcv1.AuditOutcome_AUDIT_OUTCOME_CHANGED
	outcomeDenied  = chatsvcv1.AuditOutcome_AUDIT_OUTCOME_DENIED
)

// auditOf returns the whole audit, the oldest entry first.
func auditOf(t *testing.T, g *governor) (all []*chatsvcv1.AuditEntry) {
	t.Helper()
	for token := ""; ; {
		page, err := g.audit.ListAuditEntries(t.Context(), &chatsvcv1.ListAuditEntriesRequest{OrderBy: "sequence", PageSize: 1000, PageToken: token})
		if err != nil {
			t.Fatalf("read the audit: %v", err)
		}
		all = append(all, page.GetAuditEntries()...)
		if token = page.GetNextPageToken(); token == "" {
			return all
		}
	}
}

func headOf(t *testing.T, g *governor) tenant.Head {
	t.Helper()
	head, err := g.audit.GetAuditHead(t.Context(), &chatsvcv1.GetAuditHeadRequest{})
	if err != nil {
		t.Fatalf("read the audit's head: %v", err)
	}
	return tenant.Head{Count: head.GetCount(), Hash: digestOf(t, head.GetHash())}
}

func digestOf(t *testing.T, text string) tenant.Digest {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(tenant.Digest{}) {
		t.Errorf("%q is no hash", text)
		return tenant.Digest{}
	}
	return tenant.Digest(b)
}

// wantChain fails the test unless the entries are a chain without a gap that ends with the head, each of which says what its
// record says. It computes all of it from the records.
func wantChain(t *testing.T, entries []*chatsvcv1.AuditEntry, head tenant.Head) {
	t.Helper()
	var last tenant.Head
	for i, e := range entries {
		inRecord, err := tenant.ParseEntry(e.GetRecord())
		if err != nil {
			t.Errorf("entry %d: %v", i+1, err)
			continue
		}
		last = tenant.Head{Count: last.Count + 1, Hash: tenant.ChainHash(last.Hash, e.GetRecord())}
		if e.GetSequence() != last.Count || inRecord.Sequence != last.Count || e.GetHash() != hex.EncodeToString(last.Hash[:]) {
			t.Errorf("entry %d is numbered %d, its record %d, and its hash is %s, not %x", last.Count, e.GetSequence(), inRecord.Sequence, e.GetHash(), last.Hash)
		}
		if inRecord.Action != e.GetAction() || inRecord.Resource != e.GetResource() || inRecord.Reason != e.GetReason() || inRecord.Source != e.GetSource() {
			t.Errorf("entry %d is %v, and its record %s", last.Count, e, e.GetRecord())
		}
	}
	if last != head {
		t.Errorf("the chain ends with %v, and the head is %v", last, head)
	}
}

// containsReasons reports whether each of some reasons is that of a denial.
func containsReasons(entries []*chatsvcv1.AuditEntry, reasons ...string) bool {
	return !slices.ContainsFunc(reasons, func(reason string) bool { return len(denials(entries, reason)) == 0 })
}

// denials returns the entries of denials for a reason.
func denials(entries []*chatsvcv1.AuditEntry, reason string) []*chatsvcv1.AuditEntry {
	return slices.DeleteFunc(slices.Clone(entries), func(e *chatsvcv1.AuditEntry) bool {
		return e.GetOutcome() != outcomeDenied || e.GetReason() != reason
	})
}

// A stranger who calls the data plane as often as they like gets one entry into the audit for each reason, whichever replicas
// they call; somebody at another address gets one of their own.
func TestDenialsOnTheDataPlane(t *testing.T) {
	t.Parallel()
	_, baseURL := simulate(t)
	database := postgres(t)
	replicas := []*program{
		serveOn(t, database, baseURL, governed("log:\n  level: error\n")),
		serveOn(t, database, baseURL, governed("log:\n  level: error\n")),
	}
	platform := replicas[0].governs(t, platformKey)
	platform.newTeam(t, "red")
	revoked := platform.newKey(t, "red/web", nil)
	if _, err := platform.keys.RevokeKey(t.Context(), &chatsvcv1.RevokeKeyRequest{Name: revoked.GetName()}); err != nil {
		t.Fatal(err)
	}
	auditor := platform.keyWith(t, "red/web", roleAuditor)
	keys := map[string]string{
		"CREDENTIAL_MISSING": "",
		"CREDENTIAL_INVALID": "nobodys-key",
		"CREDENTIAL_REVOKED": revoked.GetSecret(),
		"ROLE_MISSING":       auditor,
		"IP_NOT_ALLOWED":     platform.newKey(t, "red/web", &chatsvcv1.Key{AllowedCidrs: []string{"10.0.0.0/8"}}).GetSecret(),
		"MODEL_NOT_ALLOWED":  platform.newKey(t, "red/web", &chatsvcv1.Key{AllowedModels: []string{"another"}}).GetSecret(),
	}
	reasons := slices.Sorted(maps.Keys(keys))
	// Whoever looks at teams and keys looks at them as they are now, and so the other replica knows the keys.
	if _, err := replicas[1].governs(t, platformKey).teams.GetTeam(t.Context(), &chatsvcv1.GetTeamRequest{Name: "teams/red"}); err != nil {
		t.Fatal(err)
	}

	elsewhere := grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext(ctx, "tcp", address)
	})
	burst := func(calls int, options ...grpc.DialOption) {
		var all sync.WaitGroup
		for _, p := range replicas {
			for want, key := range keys {
				chat := dial(t, p.data, key, options...).chat
				all.Go(func() {
					for range calls / len(replicas) / len(keys) {
						_, err := chat.CreateTurn(context.Background(), &chatsvcv1.CreateTurnRequest{Text: "hi"})
						if _, got := reason(t, err); got != want {
							t.Errorf("%v, want %s", err, want)
						}
					}
				})
			}
		}
		all.Wait()
	}
	began := time.Now()
	const calls = 504
	burst(calls)
	took := time.Since(began)
	burst(2*len(keys), elsewhere)
	eventually(t, 10*time.Second, "the denials are recorded", func() bool {
		entries := auditOf(t, platform)
		return !slices.ContainsFunc(reasons, func(reason string) bool { return len(denials(entries, reason)) < 2 })
	})
	burst(calls) // and it stays at that
	rows := 0
	settled := time.Now().Add(time.Second)
	eventually(t, 5*time.Second, "a second passes", func() bool {
		entries := auditOf(t, platform)
		rows = 0
		for _, reason := range reasons {
			sources := make(map[string]int)
			for _, e := range denials(entries, reason) {
				sources[e.GetSource()]++
				rows++
				if e.GetCount() < 1 || e.GetAction() != "chatsvc.v1.ChatService/CreateTurn" {
					t.Errorf("an entry for the wrong call: %v", e)
				}
				if known := reason != "CREDENTIAL_MISSING" && reason != "CREDENTIAL_INVALID"; known != (e.GetActor() == "teams/red/clients/web") {
					t.Errorf("%s is of %q with %q", reason, e.GetActor(), e.GetCredential())
				}
			}
			if !maps.Equal(sources, map[string]int{"127.0.0.1": 1, "127.0.0.2": 1}) {
				t.Fatalf("%s has entries of %v", reason, sources)
			}
		}
		return time.Now().After(settled)
	})
	wantChain(t, auditOf(t, platform), headOf(t, platform))
	t.Logf("%d refused calls in %v; %d entries in %v", 2*calls+2*len(keys), took.Round(time.Millisecond), rows, time.Since(began).Round(time.Millisecond))
}

// On the control plane each denial is an entry, which is there before the answer; what is not denied is none.
func TestDenialsOnTheControlPlane(t *testing.T) {
	t.Parallel()
	p := serve(t, governed("log:\n  level: error\n"))
	platform := p.governs(t, platformKey)
	platform.newTeam(t, "red")
	platform.newTeam(t, "blue")
	revoked := platform.newKey(t, "red/web", nil)
	if _, err := platform.keys.RevokeKey(t.Context(), &chatsvcv1.RevokeKeyRequest{Name: revoked.GetName()}); err != nil {
		t.Fatal(err)
	}
	admin := platform.newKey(t, "red/web", &chatsvcv1.Key{Roles: []chatsvcv1.AccessRole{roleTeamAdmin}})
	far := platform.newKey(t, "red/web", &chatsvcv1.Key{Roles: []chatsvcv1.AccessRole{roleTeamAdmin}, AllowedCidrs: []string{"10.0.0.0/8"}})
	getTeam := func(name string) func(context.Context, *governor) error {
		return func(ctx context.Context, g *governor) error {
			_, err := g.teams.GetTeam(ctx, &chatsvcv1.GetTeamRequest{Name: name})
			return err
		}
	}
	red := getTeam("teams/red")
	newKey := func(roles ...chatsvcv1.AccessRole) func(context.Context, *governor) error {
		return func(ctx context.Context, g *governor) error {
			_, err := g.keys.CreateKey(ctx, &chatsvcv1.CreateKeyRequest{Parent: "teams/red/clients/web", Key: &chatsvcv1.Key{Roles: roles}})
			return err
		}
	}
	tests := []struct {
		name, key string
		call      func(context.Context, *governor) error
		code      codes.Code
		reason    string // as in the audit; empty for no entry
		actor     bool
	}{
		{"no credential", "", red, codes.Unauthenticated, "CREDENTIAL_MISSING", false},
		{"an unknown key", "nobodys-key", red, codes.Unauthenticated, "CREDENTIAL_INVALID", false},
		{"a revoked key", revoked.GetSecret(), red, codes.Unauthenticated, "CREDENTIAL_REVOKED", true},
		{"from elsewhere", far.GetSecret(), red, codes.PermissionDenied, "IP_NOT_ALLOWED", true},
		{"without the role", redKey, red, codes.PermissionDenied, "ROLE_MISSING", true},
		{"another team", admin.GetSecret(), getTeam("teams/blue"), codes.NotFound, "OTHER_TEAM", true},
		{"a role that is not theirs to grant", admin.GetSecret(), newKey(rolePlatform), codes.PermissionDenied, "ROLE_MISSING", true},
		{"its own team", admin.GetSecret(), red, codes.OK, "", true},
		{"an unknown name", platformKey, getTeam("teams/nobody"), codes.NotFound, "", true},
		{"nonsense", platformKey, getTeam("nonsense"), codes.InvalidArgument, "", true},
	}
	for round := range 3 {
		for _, tt := range tests {
			before := headOf(t, platform)
			err := tt.call(t.Context(), p.governs(t, tt.key))
			if status.Code(err) != tt.code {
				t.Errorf("%s: %v, want %v", tt.name, err, tt.code)
			}
			entries := auditOf(t, platform)[before.Count:]
			if tt.reason == "" {
				if len(entries) != 0 {
					t.Errorf("%s: entries %v, want none", tt.name, entries)
				}
				continue
			}
			if len(entries) != 1 {
				t.Errorf("%s, round %d: %d entries %v, want one", tt.name, round, len(entries), entries)
				continue
			}
			e := entries[0]
			if e.GetOutcome() != outcomeDenied || e.GetReason() != tt.reason || e.GetSource() != "127.0.0.1" || !strings.HasPrefix(e.GetAction(), "chatsvc.v1.") ||
				tt.actor != (e.GetActor() == "teams/red/clients/web") || tt.actor != (e.GetCredential() != "") {
				t.Errorf("%s: entry %v", tt.name, e)
			}
		}
	}
	wantChain(t, auditOf(t, platform), headOf(t, platform))
	// A team admin sees what was changed and denied in its own team, and cannot ask for all there is.
	seen := auditOf(t, p.governs(t, admin.GetSecret()))
	if len(seen) == 0 {
		t.Error("the team's admin sees nothing")
	}
	for _, e := range seen {
		if e.GetTeam() != "teams/red" {
			t.Errorf("the admin of teams/red sees %v", e)
		}
	}
}

// Every change is an entry that says who changed what, and no secret is in any of them.
func TestChangesAreAudited(t *testing.T) {
	t.Parallel()
	p := serve(t, governed("log:\n  level: debug\n"))
	platform := p.governs(t, platformKey)
	ctx := t.Context()
	platform.newTeam(t, "red")
	request := uuid.NewString()
	key, err := platform.keys.CreateKey(ctx, &chatsvcv1.CreateKeyRequest{
		Parent: "teams/red/clients/web", RequestId: request,
		Key: &chatsvcv1.Key{DisplayName: "nightly", ExpireTime: timestamppb.New(time.Now().Add(time.Hour))},
	})
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := platform.keys.RotateKey(ctx, &chatsvcv1.RotateKeyRequest{Name: key.GetName()})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it changes nothing
		if _, err := platform.keys.RevokeKey(ctx, &chatsvcv1.RevokeKeyRequest{Name: rotated.GetName()}); err != nil {
			t.Fatal(err)
		}
		if _, err := platform.teams.UpdateTeam(ctx, &chatsvcv1.UpdateTeamRequest{Team: &chatsvcv1.Team{Name: "teams/red", DisplayName: "Red"}}); err != nil {
			t.Fatal(err)
		}
		_, err = platform.teams.UpdateClient(ctx, &chatsvcv1.UpdateClientRequest{Client: &chatsvcv1.Client{Name: "teams/red/clients/web", Disabled: true}})
		if err != nil {
			t.Fatal(err)
		}
	}
	secrets := []string{request, sha256Hex(key.GetSecret()), platformKey}
	for _, k := range []*chatsvcv1.Key{key, rotated} {
		_, secret, _ := strings.Cut(strings.TrimPrefix(k.GetSecret(), "csk_"), "_")
		secrets = append(secrets, secret)
	}
	entries := auditOf(t, platform)
	var got []string
	for _, e := range entries {
		got = append(got, strings.TrimPrefix(e.GetAction(), "chatsvc.v1.")+" "+e.GetResource())
		if e.GetOutcome() != outcomeChanged || e.GetTeam() != "teams/red" || e.GetActor() != "teams/platform/clients/admin" ||
			!strings.HasPrefix(e.GetCredential(), "sha256:") || e.GetSource() != "127.0.0.1" || e.GetCreateTime().AsTime().Before(time.Now().Add(-time.Minute)) {
			t.Errorf("entry %v", e)
		}
		if text := fmt.Sprint(e) + string(e.GetRecord()); containsAny(text, secrets...) {
			t.Errorf("a secret is in the audit: %s", text)
		}
	}
	if containsAny(p.logs.String(), secrets...) {
		t.Error("a secret is in the log")
	}
	want := []string{
		"TeamService/CreateTeam teams/red", "TeamService/CreateClient teams/red/clients/web",
		"KeyService/CreateKey " + key.GetName(), "KeyService/RotateKey " + key.GetName(), "KeyService/RevokeKey " + rotated.GetName(),
		"TeamService/UpdateTeam teams/red", "TeamService/UpdateClient teams/red/clients/web",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the audit says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if changes := fmt.Sprint(entries[5].GetChanges()); !strings.Contains(changes, "display_name") || !strings.Contains(changes, "Red") {
		t.Errorf("what was changed: %s", changes)
	}
	wantChain(t, entries, headOf(t, platform))
}
