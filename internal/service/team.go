package service

import (
	"context"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/interceptor"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// teamService is TeamService.
type teamService struct {
	chatsvcv1.UnsafeTeamServiceServer

	registry *tenant.Registry
}

var _ chatsvcv1.TeamServiceServer = (*teamService)(nil)

func (s *teamService) CreateTeam(ctx context.Context, in *chatsvcv1.CreateTeamRequest) (*chatsvcv1.Team, error) {
	if _, err := changing.within(ctx, in.GetTeamId()); err != nil {
		return nil, err
	}
	t, err := s.registry.CreateTeam(ctx, interceptor.AuditEntry(ctx), tenant.Team{
		ID: in.GetTeamId(), Profile: profileFromProto(in.GetTeam()),
	})
	if err != nil {
		return nil, aboutNew(tenant.TeamName(in.GetTeamId()), err)
	}
	return teamToProto(t), nil
}

func (s *teamService) GetTeam(ctx context.Context, in *chatsvcv1.GetTeamRequest) (*chatsvcv1.Team, error) {
	team, err := parseTeam("name", in.GetName())
	if err != nil {
		return nil, err
	}
	_, view, err := visible(ctx, s.registry, team)
	if err != nil {
		return nil, err
	}
	return teamToProto(view.Team(team)), nil
}

func (s *teamService) ListTeams(ctx context.Context, in *chatsvcv1.ListTeamsRequest) (*chatsvcv1.ListTeamsResponse, error) {
	p, err := principal(ctx)
	if err != nil {
		return nil, err
	}
	view, err := s.registry.View(ctx)
	if err != nil {
		return nil, err
	}
	var rows []*tenant.Team
	if reading.sees(p) {
		rows = view.Teams()
	} else if own := view.Team(p.Team); own != nil {
		rows = []*tenant.Team{own}
	}
	page, next, err := pageOf(newQuery("ListTeams", p.Team), in.GetPageToken(), in.GetPageSize(), rows,
		func(t *tenant.Team) string { return t.ID }, teamToProto)
	if err != nil {
		return nil, err
	}
	return &chatsvcv1.ListTeamsResponse{Teams: page, NextPageToken: next}, nil
}

func (s *teamService) UpdateTeam(ctx context.Context, in *chatsvcv1.UpdateTeamRequest) (*chatsvcv1.Team, error) {
	team, err := parseTeam("team.name", in.GetTeam().GetName())
	if err != nil {
		return nil, err
	}
	if _, err := changing.within(ctx, team); err != nil {
		return nil, err
	}
	paths, err := flatPaths(in.GetUpdateMask().GetPaths(), in.GetTeam(), "display_name", "disabled")
	if err != nil {
		return nil, err
	}
	t, err := s.registry.UpdateTeam(ctx, interceptor.AuditEntry(ctx), team, parseRevision(in.GetTeam().GetEtag()),
		setNamed(paths, profileFromProto(in.GetTeam())))
	if err != nil {
		return nil, err
	}
	return teamToProto(t), nil
}

// profileFromProto converts what callers set in a team or client.
func profileFromProto(in interface {
	GetDisplayName() string
	GetDisabled() bool
},
) tenant.Profile {
	return tenant.Profile{DisplayName: in.GetDisplayName(), Disabled: in.GetDisabled()}
}

// setNamed returns a change to what the request says of what the paths name.
func setNamed(paths []string, wanted tenant.Profile) func(*tenant.Profile) {
	return func(p *tenant.Profile) {
		for _, path := range paths {
			switch path {
			case "display_name":
				p.DisplayName = wanted.DisplayName
			case "disabled":
				p.Disabled = wanted.Disabled
			}
		}
	}
}

func (s *teamService) CreateClient(ctx context.Context, in *chatsvcv1.CreateClientRequest) (*chatsvcv1.Client, error) {
	team, err := parseTeam("parent", in.GetParent())
	if err != nil {
		return nil, err
	}
	if _, err := changing.within(ctx, team); err != nil {
		return nil, err
	}
	c, err := s.registry.CreateClient(ctx, interceptor.AuditEntry(ctx), tenant.Client{
		Team: team, ID: in.GetClientId(), Profile: profileFromProto(in.GetClient()),
	})
	if err != nil {
		return nil, aboutNew(tenant.ClientName(team, in.GetClientId()), err)
	}
	return clientToProto(c), nil
}

func (s *teamService) GetClient(ctx context.Context, in *chatsvcv1.GetClientRequest) (*chatsvcv1.Client, error) {
	team, client, err := parseClient("name", in.GetName())
	if err != nil {
		return nil, err
	}
	_, view, err := visible(ctx, s.registry, team)
	if err != nil {
		return nil, err
	}
	c := view.Client(team, client)
	if c == nil {
		return nil, notFound(nil)
	}
	return clientToProto(c), nil
}

func (s *teamService) ListClients(ctx context.Context, in *chatsvcv1.ListClientsRequest) (*chatsvcv1.ListClientsResponse, error) {
	team, err := parseTeam("parent", in.GetParent())
	if err != nil {
		return nil, err
	}
	p, view, err := visible(ctx, s.registry, team)
	if err != nil {
		return nil, err
	}
	page, next, err := pageOf(newQuery("ListClients", p.Team, team), in.GetPageToken(), in.GetPageSize(), view.Clients(team),
		func(c *tenant.Client) string { return c.ID }, clientToProto)
	if err != nil {
		return nil, err
	}
	return &chatsvcv1.ListClientsResponse{Clients: page, NextPageToken: next}, nil
}

func (s *teamService) UpdateClient(ctx context.Context, in *chatsvcv1.UpdateClientRequest) (*chatsvcv1.Client, error) {
	team, client, err := parseClient("client.name", in.GetClient().GetName())
	if err != nil {
		return nil, err
	}
	p, err := changing.within(ctx, team)
	if err != nil {
		return nil, err
	}
	paths, err := flatPaths(in.GetUpdateMask().GetPaths(), in.GetClient(), "display_name", "disabled")
	if err != nil {
		return nil, err
	}
	c, err := s.registry.UpdateClient(ctx, interceptor.AuditEntry(ctx), p.Roles, team, client,
		parseRevision(in.GetClient().GetEtag()), setNamed(paths, profileFromProto(in.GetClient())))
	if err != nil {
		return nil, err
	}
	return clientToProto(c), nil
}

func teamToProto(t *tenant.Team) *chatsvcv1.Team {
	return &chatsvcv1.Team{
		Name: t.Name(), DisplayName: t.DisplayName, Disabled: t.Disabled, Etag: formatRevision(t.Revision),
		CreateTime: timeToProto(t.CreateTime), UpdateTime: timeToProto(t.UpdateTime),
	}
}

func clientToProto(c *tenant.Client) *chatsvcv1.Client {
	return &chatsvcv1.Client{
		Name: c.Name(), DisplayName: c.DisplayName, Disabled: c.Disabled, Etag: formatRevision(c.Revision),
		CreateTime: timeToProto(c.CreateTime), UpdateTime: timeToProto(c.UpdateTime),
	}
}
