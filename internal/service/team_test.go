package service

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

func TestTeamsAndClients(t *testing.T) {
	c := serveControl(t)
	platform := as(t, "platform", tenant.RolePlatformAdmin)
	team := must[*chatsvcv1.Team](t)(c.CreateTeam(platform, &chatsvcv1.CreateTeamRequest{
		TeamId: "red", Team: &chatsvcv1.Team{Name: "teams/ignored", DisplayName: "The reds", Disabled: true, Etag: "ignored"},
	}))
	if team.GetName() != "teams/red" || team.GetDisplayName() != "The reds" || !team.GetDisabled() || team.GetEtag() == "" ||
		team.GetCreateTime() == nil || !proto.Equal(team.GetUpdateTime(), team.GetCreateTime()) {
		t.Errorf("created %v", team)
	}
	admin := as(t, "red", tenant.RoleTeamAdmin)
	client := must[*chatsvcv1.Client](t)(c.CreateClient(admin, &chatsvcv1.CreateClientRequest{
		Parent: "teams/red", ClientId: "web", Client: &chatsvcv1.Client{DisplayName: "The web"},
	}))
	if client.GetName() != "teams/red/clients/web" || client.GetDisplayName() != "The web" || client.GetDisabled() || client.GetEtag() == "" {
		t.Errorf("created %v", client)
	}
	if got := must[*chatsvcv1.Team](t)(c.GetTeam(admin, &chatsvcv1.GetTeamRequest{Name: "teams/red"})); !proto.Equal(got, team) {
		t.Errorf("got %v, want %v", got, team)
	}
	if got := must[*chatsvcv1.Client](t)(c.GetClient(admin, &chatsvcv1.GetClientRequest{Name: client.GetName()})); !proto.Equal(got, client) {
		t.Errorf("got %v, want %v", got, client)
	}

	_, err := c.CreateTeam(platform, &chatsvcv1.CreateTeamRequest{TeamId: "red"})
	wantStatus(t, err, codes.AlreadyExists, conversation.AlreadyExists)
	if !strings.Contains(err.Error(), "teams/red exists") {
		t.Errorf("%v does not say what", err)
	}
	_, err = c.CreateClient(admin, &chatsvcv1.CreateClientRequest{Parent: "teams/red", ClientId: "web"})
	wantStatus(t, err, codes.AlreadyExists, conversation.AlreadyExists)
	if !strings.Contains(err.Error(), "teams/red/clients/web exists") {
		t.Errorf("%v does not say what", err)
	}
	_, err = c.CreateClient(platform, &chatsvcv1.CreateClientRequest{Parent: "teams/nobody", ClientId: "web"})
	wantStatus(t, err, codes.NotFound, conversation.NotFound)
	_, err = c.CreateTeam(platform, &chatsvcv1.CreateTeamRequest{TeamId: "Red"})
	if info := wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest); info.GetMetadata()["field"] != "team_id" {
		t.Errorf("metadata %v", info.GetMetadata())
	}
	_, err = c.CreateClient(admin, &chatsvcv1.CreateClientRequest{Parent: "teams/red", ClientId: "a/b"})
	if info := wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest); info.GetMetadata()["field"] != "client_id" {
		t.Errorf("metadata %v", info.GetMetadata())
	}
}

// Whether the client of a platform admin is disabled is not for an admin of its team to say.
func TestClientOfAPlatformAdmin(t *testing.T) {
	c := serveControl(t)
	c.addTeam(t, "red")
	platform := as(t, "platform", tenant.RolePlatformAdmin)
	set := func(ctx context.Context, disabled bool) error {
		_, err := c.UpdateClient(ctx, &chatsvcv1.UpdateClientRequest{
			Client: &chatsvcv1.Client{Name: "teams/red/clients/web", Disabled: disabled}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"disabled"}},
		})
		return err
	}
	admin := as(t, "red", tenant.RoleTeamAdmin)
	if err := set(admin, true); err != nil {
		t.Fatal(err)
	}
	if err := set(admin, false); err != nil {
		t.Fatal(err)
	}
	must[*chatsvcv1.Key](t)(c.CreateKey(platform, &chatsvcv1.CreateKeyRequest{
		Parent: "teams/red/clients/web", Key: &chatsvcv1.Key{Roles: []chatsvcv1.AccessRole{chatsvcv1.AccessRole_ACCESS_ROLE_PLATFORM_ADMIN}},
	}))
	for _, disabled := range []bool{true, false} {
		wantStatus(t, set(admin, disabled), codes.PermissionDenied, conversation.RoleMissing)
		if err := set(platform, disabled); err != nil {
			t.Fatal(err)
		}
	}
}

// An update changes what its mask names, and with an etag only what its sender has seen.
func TestUpdateTeamAndClient(t *testing.T) {
	c := serveControl(t)
	c.addTeam(t, "red")
	ctx := as(t, "platform", tenant.RolePlatformAdmin)
	// Both kinds have the same fields, but for their names.
	kinds := map[string]struct {
		get    func() (displayName string, disabled bool, etag string)
		update func(displayName string, disabled bool, etag string, paths ...string) error
	}{
		"team": {
			func() (string, bool, string) {
				got := must[*chatsvcv1.Team](t)(c.GetTeam(ctx, &chatsvcv1.GetTeamRequest{Name: "teams/red"}))
				return got.GetDisplayName(), got.GetDisabled(), got.GetEtag()
			},
			func(displayName string, disabled bool, etag string, paths ...string) error {
				in := &chatsvcv1.Team{Name: "teams/red", DisplayName: displayName, Disabled: disabled, Etag: etag}
				got, err := c.UpdateTeam(ctx, &chatsvcv1.UpdateTeamRequest{Team: in, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
				if err != nil {
					return err
				}
				if stored := must[*chatsvcv1.Team](t)(c.GetTeam(ctx, &chatsvcv1.GetTeamRequest{Name: "teams/red"})); !proto.Equal(got, stored) {
					t.Errorf("answered %v, stored %v", got, stored)
				}
				return nil
			},
		},
		"client": {
			func() (string, bool, string) {
				got := must[*chatsvcv1.Client](t)(c.GetClient(ctx, &chatsvcv1.GetClientRequest{Name: "teams/red/clients/web"}))
				return got.GetDisplayName(), got.GetDisabled(), got.GetEtag()
			},
			func(displayName string, disabled bool, etag string, paths ...string) error {
				in := &chatsvcv1.Client{Name: "teams/red/clients/web", DisplayName: displayName, Disabled: disabled, Etag: etag}
				got, err := c.UpdateClient(ctx, &chatsvcv1.UpdateClientRequest{Client: in, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
				if err != nil {
					return err
				}
				if stored := must[*chatsvcv1.Client](t)(c.GetClient(ctx, &chatsvcv1.GetClientRequest{Name: in.GetName()})); !proto.Equal(got, stored) {
					t.Errorf("answered %v, stored %v", got, stored)
				}
				return nil
			},
		},
	}
	for kind, k := range kinds {
		t.Run(kind, func(t *testing.T) {
			_, _, first := k.get()
			for _, step := range []struct {
				displayName string
				disabled    bool
				paths       []string
				want        string
			}{
				{"a", true, []string{"display_name"}, "a false"},
				{"b", true, []string{"disabled"}, "a true"},
				{"c", false, nil, "c true"}, // what is set
				{"", false, []string{"disabled"}, "c false"},
				{"d", true, []string{"*"}, "d true"},
				{"", false, []string{"*"}, " false"},
				{"e", true, []string{"disabled", "display_name"}, "e true"},
			} {
				_, _, before := k.get()
				if err := k.update(step.displayName, step.disabled, "", step.paths...); err != nil {
					t.Fatal(err)
				}
				displayName, disabled, etag := k.get()
				if got := fmt.Sprint(displayName, " ", disabled); got != step.want || etag == before {
					t.Errorf("%v: %s, want %s; etag %s, before %s", step.paths, got, step.want, etag, before)
				}
			}
			_, _, etag := k.get()
			if err := k.update("e", true, etag); err != nil { // as it is
				t.Error(err)
			}
			if _, _, same := k.get(); same != etag {
				t.Errorf("etag %s, %s before a change that changes nothing", same, etag)
			}
			for _, stale := range []string{first, "0", "nonsense"} {
				wantStatus(t, k.update("f", false, stale), codes.Aborted, conversation.EtagMismatch)
			}
			if err := k.update("f", false, etag, "*"); err != nil {
				t.Error(err)
			}
			wantStatus(t, k.update("g", false, etag), codes.Aborted, conversation.EtagMismatch)
			for _, path := range []string{"name", "etag", "create_time", "nothing", "displayName"} {
				info := wantStatus(t, k.update("g", true, "", "disabled", path), codes.InvalidArgument, conversation.InvalidRequest)
				if info.GetMetadata()["field"] != "update_mask" {
					t.Errorf("metadata %v", info.GetMetadata())
				}
			}
			wantStatus(t, k.update(strings.Repeat("x", 129), false, ""), codes.InvalidArgument, conversation.InvalidRequest)
			if displayName, disabled, _ := k.get(); displayName != "f" || disabled {
				t.Errorf("refused calls have changed it: %q, %t", displayName, disabled)
			}
		})
	}
}

// Pages show all there is, in order, and a token is good for the query that it came from, of the team that asked.
func TestPagesOfTeamsAndClients(t *testing.T) {
	c := serveControl(t)
	ctx := as(t, "platform", tenant.RolePlatformAdmin)
	for _, id := range []string{"a", "c", "b"} {
		c.addTeam(t, id)
		must[*chatsvcv1.Client](t)(c.CreateClient(ctx, &chatsvcv1.CreateClientRequest{Parent: "teams/a", ClientId: "client-" + id}))
	}
	must[*chatsvcv1.Client](t)(c.CreateClient(ctx, &chatsvcv1.CreateClientRequest{Parent: "teams/b", ClientId: "client-c"}))
	var teams, clients []string
	var token, clientToken string
	for {
		page := must[*chatsvcv1.ListTeamsResponse](t)(c.ListTeams(ctx, &chatsvcv1.ListTeamsRequest{PageSize: 2, PageToken: token}))
		for _, team := range page.GetTeams() {
			teams = append(teams, team.GetName())
		}
		if page.GetNextPageToken() == "" {
			break
		}
		token = page.GetNextPageToken()
	}
	if got := strings.Join(teams, " "); got != "teams/a teams/b teams/c" {
		t.Errorf("teams %s", got)
	}
	for {
		page := must[*chatsvcv1.ListClientsResponse](t)(c.ListClients(ctx, &chatsvcv1.ListClientsRequest{
			Parent: "teams/a", PageSize: 3, PageToken: clientToken,
		}))
		for _, client := range page.GetClients() {
			clients = append(clients, strings.TrimPrefix(client.GetName(), "teams/a/clients/"))
		}
		if page.GetNextPageToken() == "" {
			break
		}
		clientToken = page.GetNextPageToken()
	}
	if got := strings.Join(clients, " "); got != "client-a client-b client-c web" {
		t.Errorf("clients %s", got)
	}

	other := as(t, "a", tenant.RolePlatformAdmin)
	for name, call := range map[string]func() error{
		"another team's": func() error {
			_, err := c.ListTeams(other, &chatsvcv1.ListTeamsRequest{PageToken: token})
			return err
		},
		"another method's": func() error {
			_, err := c.ListTeams(ctx, &chatsvcv1.ListTeamsRequest{PageToken: clientToken})
			return err
		},
		"another parent's": func() error {
			_, err := c.ListClients(ctx, &chatsvcv1.ListClientsRequest{Parent: "teams/b", PageToken: clientToken})
			return err
		},
		"nobody's": func() error {
			_, err := c.ListClients(ctx, &chatsvcv1.ListClientsRequest{Parent: "teams/a", PageToken: "nobody's"})
			return err
		},
	} {
		if info := wantStatus(t, call(), codes.InvalidArgument, conversation.InvalidRequest); info.GetMetadata()["field"] != "page_token" {
			t.Errorf("%s token: metadata %v", name, info.GetMetadata())
		}
	}
}
