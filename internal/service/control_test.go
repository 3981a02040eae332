package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/conversation/sqlstore"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// control is a connection to a control plane with a database of its own.
type control struct {
	chatsvcv1.TeamServiceClient
	chatsvcv1.KeyServiceClient
	chatsvcv1.AuditServiceClient

	db *sqlstore.DB
	// otherTeams is how many calls were refused because of another team's name.
	otherTeams *atomic.Int64
}

func serveControl(t *testing.T) control {
	t.Helper()
	db, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "test.db"), sqlstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // some tests close it before
	registry := tenant.NewRegistry(db, tenant.NewDirectory(db, slog.New(slog.DiscardHandler)))
	otherTeams := new(atomic.Int64)
	conn := serveOn(t, func(r grpc.ServiceRegistrar) { RegisterControl(r, registry, db) }, func(err error) {
		if errors.Is(err, tenant.ErrOtherTeam) {
			otherTeams.Add(1)
		}
	})
	return control{
		chatsvcv1.NewTeamServiceClient(conn), chatsvcv1.NewKeyServiceClient(conn), chatsvcv1.NewAuditServiceClient(conn), db, otherTeams,
	}
}

// must returns what a call has answered.
func must[T any](t *testing.T) func(answer T, err error) T {
	t.Helper()
	return func(answer T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
}

// addTeam makes a team with a client `web`, and a key of it, and returns the key.
func (c control) addTeam(t *testing.T, team string) *chatsvcv1.Key {
	t.Helper()
	admin := as(t, "platform", tenant.RolePlatformAdmin)
	must[*chatsvcv1.Team](t)(c.CreateTeam(admin, &chatsvcv1.CreateTeamRequest{TeamId: team}))
	must[*chatsvcv1.Client](t)(c.CreateClient(admin, &chatsvcv1.CreateClientRequest{Parent: tenant.TeamName(team), ClientId: "web"}))
	return must[*chatsvcv1.Key](t)(c.CreateKey(admin, &chatsvcv1.CreateKeyRequest{Parent: tenant.ClientName(team, "web")}))
}

// names is what a call of the control plane can name.
type names struct{ team, client, key string }

// namingCalls are all calls of the control plane that name something.
func (c control) namingCalls(ctx context.Context) map[string]func(n names) error {
	return map[string]func(n names) error{
		"GetTeam": func(n names) error { _, err := c.GetTeam(ctx, &chatsvcv1.GetTeamRequest{Name: n.team}); return err },
		"UpdateTeam": func(n names) error {
			_, err := c.UpdateTeam(ctx, &chatsvcv1.UpdateTeamRequest{Team: &chatsvcv1.Team{Name: n.team, DisplayName: "a"}})
			return err
		},
		"UpdateTeam with an etag": func(n names) error {
			_, err := c.UpdateTeam(ctx, &chatsvcv1.UpdateTeamRequest{Team: &chatsvcv1.Team{Name: n.team, DisplayName: "a", Etag: "wrong"}})
			return err
		},
		"CreateClient": func(n names) error {
			_, err := c.CreateClient(ctx, &chatsvcv1.CreateClientRequest{Parent: n.team, ClientId: "web"})
			return err
		},
		"GetClient": func(n names) error {
			_, err := c.GetClient(ctx, &chatsvcv1.GetClientRequest{Name: n.client})
			return err
		},
		"ListClients": func(n names) error {
			_, err := c.ListClients(ctx, &chatsvcv1.ListClientsRequest{Parent: n.team})
			return err
		},
		"ListClients with a page token": func(n names) error {
			_, err := c.ListClients(ctx, &chatsvcv1.ListClientsRequest{Parent: n.team, PageToken: "wrong"})
			return err
		},
		"UpdateClient": func(n names) error {
			_, err := c.UpdateClient(ctx, &chatsvcv1.UpdateClientRequest{Client: &chatsvcv1.Client{Name: n.client, Disabled: true}})
			return err
		},
		"CreateKey": func(n names) error {
			_, err := c.CreateKey(ctx, &chatsvcv1.CreateKeyRequest{Parent: n.client})
			return err
		},
		"CreateKey of an admin": func(n names) error {
			_, err := c.CreateKey(ctx, &chatsvcv1.CreateKeyRequest{Parent: n.client, Key: &chatsvcv1.Key{
				Roles: []chatsvcv1.AccessRole{chatsvcv1.AccessRole_ACCESS_ROLE_PLATFORM_ADMIN}, AllowedCidrs: []string{"wrong"},
			}})
			return err
		},
		"GetKey": func(n names) error { _, err := c.GetKey(ctx, &chatsvcv1.GetKeyRequest{Name: n.key}); return err },
		"ListKeys of a client": func(n names) error {
			_, err := c.ListKeys(ctx, &chatsvcv1.ListKeysRequest{Parent: n.client})
			return err
		},
		"ListKeys of a team": func(n names) error {
			_, err := c.ListKeys(ctx, &chatsvcv1.ListKeysRequest{Parent: n.team})
			return err
		},
		"RotateKey": func(n names) error {
			_, err := c.RotateKey(ctx, &chatsvcv1.RotateKeyRequest{Name: n.key})
			return err
		},
		"RotateKey with a request id": func(n names) error {
			_, err := c.RotateKey(ctx, &chatsvcv1.RotateKeyRequest{Name: n.key, RequestId: "wrong"})
			return err
		},
		"RevokeKey": func(n names) error {
			_, err := c.RevokeKey(ctx, &chatsvcv1.RevokeKeyRequest{Name: n.key})
			return err
		},
		"ListAuditEntries": func(n names) error {
			_, err := c.ListAuditEntries(ctx, &chatsvcv1.ListAuditEntriesRequest{Team: n.team})
			return err
		},
	}
}

// For who manages a team, the names of another one are as unknown as random ones, whatever is wrong with the rest of the request,
// and nothing happens. The audit is told of both.
func TestOtherTeamsNamesAreUnknown(t *testing.T) {
	c := serveControl(t)
	c.addTeam(t, "red")
	key := c.addTeam(t, "blue")
	before := must[tenant.Head](t)(c.db.Head(t.Context()))
	const random = "aaaaaaaaaaaaaaaa"
	another := []names{
		{"teams/blue", "teams/blue/clients/web", key.GetName()},
		{"teams/green", "teams/green/clients/web", "teams/green/clients/web/keys/" + random},
		{"teams/blue", "teams/blue/clients/nobody", "teams/blue/clients/web/keys/" + random},
	}
	for who, roles := range map[string][]tenant.Role{
		"a team admin":                     {tenant.RoleTeamAdmin},
		"a team admin who calls and sees":  {tenant.RoleCaller, tenant.RoleViewer, tenant.RoleTeamAdmin},
		"one whom the interceptors missed": nil,
	} {
		for name, call := range c.namingCalls(as(t, "red", roles...)) {
			var first []byte
			for _, n := range another {
				told := c.otherTeams.Load()
				err := call(n)
				wantStatus(t, err, codes.NotFound, conversation.NotFound)
				if c.otherTeams.Load() != told+1 {
					t.Errorf("%s by %s: the audit is not told of %v", name, who, n)
				}
				got, marshalErr := proto.MarshalOptions{Deterministic: true}.Marshal(status.Convert(err).Proto())
				if marshalErr != nil {
					t.Fatal(marshalErr)
				}
				if first == nil {
					first = got
				}
				if !bytes.Equal(got, first) {
					t.Errorf("%s by %s: %q differs from %q for %v", name, who, got, first, n)
				}
			}
		}
	}
	if after := must[tenant.Head](t)(c.db.Head(t.Context())); after != before {
		t.Errorf("%d changes were written", after.Count-before.Count)
	}
}

// A name of the own team that is not known is refused in the same words, and is no reason to tell the audit.
func TestUnknownNamesOfTheOwnTeam(t *testing.T) {
	c := serveControl(t)
	red, blue := c.addTeam(t, "red"), c.addTeam(t, "blue")
	admin := as(t, "red", tenant.RoleTeamAdmin)
	want := status.Convert(c.namingCalls(admin)["GetTeam"](names{team: "teams/blue"})).Proto()
	c.otherTeams.Store(0)
	_, id, _ := strings.Cut(blue.GetName(), "/keys/")
	unknown := names{"", "teams/red/clients/nobody", "teams/red/clients/web/keys/" + id}
	for _, name := range []string{"GetClient", "UpdateClient", "CreateKey", "GetKey", "ListKeys of a client", "RotateKey", "RevokeKey"} {
		err := c.namingCalls(admin)[name](unknown)
		if got := status.Convert(err).Proto(); !proto.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	_, id, _ = strings.Cut(red.GetName(), "/keys/") // a key of the team, but not of the client
	must[*chatsvcv1.Client](t)(c.CreateClient(admin, &chatsvcv1.CreateClientRequest{Parent: "teams/red", ClientId: "other"}))
	for _, name := range []string{"GetKey", "RotateKey", "RevokeKey"} {
		err := c.namingCalls(admin)[name](names{key: "teams/red/clients/other/keys/" + id})
		if got := status.Convert(err).Proto(); !proto.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if n := c.otherTeams.Load(); n != 0 {
		t.Errorf("the audit is told of %d", n)
	}
}

// Which teams a caller sees depends on its roles, and for an auditor on whether it would change something.
func TestWhoSeesWhichTeams(t *testing.T) {
	c := serveControl(t)
	c.addTeam(t, "red")
	key := c.addTeam(t, "blue")
	blue := names{"teams/blue", "teams/blue/clients/web", key.GetName()}
	reads := []string{"GetTeam", "GetClient", "ListClients", "GetKey", "ListKeys of a client", "ListKeys of a team", "ListAuditEntries"}
	changes := []string{"UpdateTeam", "UpdateClient"}
	for _, test := range []struct {
		roles              []tenant.Role
		mayRead, mayChange bool
		teams              string
	}{
		{[]tenant.Role{tenant.RoleTeamAdmin}, false, false, "teams/red"},
		{[]tenant.Role{tenant.RoleAuditor}, true, false, "teams/blue teams/red"},
		{[]tenant.Role{tenant.RoleTeamAdmin, tenant.RoleAuditor}, true, false, "teams/blue teams/red"},
		{[]tenant.Role{tenant.RolePlatformAdmin}, true, true, "teams/blue teams/red"},
		{[]tenant.Role{tenant.RoleTeamAdmin, tenant.RolePlatformAdmin}, true, true, "teams/blue teams/red"},
	} {
		ctx := as(t, "red", test.roles...)
		for _, name := range reads {
			if err := c.namingCalls(ctx)[name](blue); (err == nil) != test.mayRead {
				t.Errorf("%s by %v: %v", name, test.roles, err)
			}
		}
		for _, name := range changes {
			if err := c.namingCalls(ctx)[name](blue); (err == nil) != test.mayChange {
				t.Errorf("%s by %v: %v", name, test.roles, err)
			}
		}
		var listed []string
		for _, team := range must[*chatsvcv1.ListTeamsResponse](t)(c.ListTeams(ctx, &chatsvcv1.ListTeamsRequest{})).GetTeams() {
			listed = append(listed, team.GetName())
		}
		if got := strings.Join(listed, " "); got != test.teams {
			t.Errorf("%v sees %s, want %s", test.roles, got, test.teams)
		}
	}
	// A team that is only in the configuration has nothing here.
	list := must[*chatsvcv1.ListTeamsResponse](t)(c.ListTeams(as(t, "configured", tenant.RoleTeamAdmin), &chatsvcv1.ListTeamsRequest{}))
	if len(list.GetTeams()) != 0 {
		t.Errorf("teams %v", list.GetTeams())
	}
}

func TestMalformedNames(t *testing.T) {
	c := serveControl(t)
	for _, who := range []context.Context{as(t, "red", tenant.RoleTeamAdmin), as(t, "red", tenant.RolePlatformAdmin)} {
		for name, call := range c.namingCalls(who) {
			err := call(names{"teams/A", "teams/red/clients/", "teams/red/clients/web/keys/x"})
			field := wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest).GetMetadata()["field"]
			want := map[string]string{
				"UpdateTeam": "team.name", "UpdateClient": "client.name", "CreateClient": "parent", "ListClients": "parent",
				"CreateKey": "parent", "ListKeys": "parent", "ListAuditEntries": "team",
			}[strings.Fields(name)[0]]
			if want == "" {
				want = "name"
			}
			if field != want {
				t.Errorf("%s names the field %q, want %q", name, field, want)
			}
		}
	}
}

func TestControlPlaneNeedsAPrincipal(t *testing.T) {
	c := serveControl(t)
	n := names{"teams/red", "teams/red/clients/web", "teams/red/clients/web/keys/aaaaaaaaaaaaaaaa"}
	for _, call := range c.namingCalls(t.Context()) {
		wantStatus(t, call(n), codes.Unauthenticated, conversation.CredentialMissing)
	}
	_, err := c.CreateTeam(t.Context(), &chatsvcv1.CreateTeamRequest{TeamId: "red"})
	wantStatus(t, err, codes.Unauthenticated, conversation.CredentialMissing)
	_, err = c.ListTeams(t.Context(), &chatsvcv1.ListTeamsRequest{})
	wantStatus(t, err, codes.Unauthenticated, conversation.CredentialMissing)
	_, err = c.GetAuditHead(t.Context(), &chatsvcv1.GetAuditHeadRequest{})
	wantStatus(t, err, codes.Unauthenticated, conversation.CredentialMissing)
}

func TestControlPlaneWithoutItsDatabase(t *testing.T) {
	c := serveControl(t)
	key := c.addTeam(t, "red")
	if err := c.db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, call := range c.namingCalls(as(t, "platform", tenant.RolePlatformAdmin)) {
		if strings.Contains(name, "with a") || strings.Contains(name, "of an admin") { // which are refused for what they say
			continue
		}
		wantStatus(t, call(names{"teams/red", "teams/red/clients/web", key.GetName()}), codes.Unavailable, conversation.StoreUnavailable)
	}
}

func TestRolesHaveTheSameNumbers(t *testing.T) {
	for role := tenant.RoleCaller; role <= tenant.RoleAuditor; role++ {
		if got, want := chatsvcv1.AccessRole(role).String(), "ACCESS_ROLE_"+strings.ToUpper(role.String()); got != want {
			t.Errorf("the role %s is %s in the proto", role, got)
		}
	}
	if got, want := len(chatsvcv1.AccessRole_name), int(tenant.RoleAuditor)+1; got != want {
		t.Errorf("the proto has %d roles, want %d", got, want)
	}
}

func TestRevisionEtags(t *testing.T) {
	for _, revision := range []int64{1, 35, 36, 1 << 62} {
		if got := parseRevision(formatRevision(revision)); got != revision {
			t.Errorf("%d is read as %d", revision, got)
		}
	}
	if got := parseRevision(""); got != 0 {
		t.Errorf("no etag is read as %d", got)
	}
	for _, etag := range []string{"0", "-1", "01", "+1", " 1", "A", "é", "1-1", strings.Repeat("z", 100), fmt.Sprint("1", "\x00")} {
		if got := parseRevision(etag); got != -1 {
			t.Errorf("%q is read as %d", etag, got)
		}
	}
}
