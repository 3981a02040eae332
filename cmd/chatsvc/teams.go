package main

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// teamsCommand groups the commands about teams.
type teamsCommand struct {
	Create  teamsCreateCommand  `cmd:"" help:"Make a team, and clients of it."`
	List    teamsListCommand    `cmd:"" help:"List the teams."`
	Get     teamsGetCommand     `cmd:"" help:"Show a team with its clients and their keys."`
	Update  teamsUpdateCommand  `cmd:"" help:"Change how a team is called."`
	Disable teamsDisableCommand `cmd:"" help:"Refuse all credentials of a team, within two seconds."`
	Enable  teamsEnableCommand  `cmd:"" help:"Accept the credentials of a team again."`
}

func teamColumns() []column[*chatsvcv1.Team] {
	return []column[*chatsvcv1.Team]{
		{"TEAM", func(t *chatsvcv1.Team) string { return short(t.GetName()) }},
		{"STATE", func(t *chatsvcv1.Team) string { return enabled(!t.GetDisabled()) }},
		{"CREATED", func(t *chatsvcv1.Team) string { return utc(t.GetCreateTime()) }},
		{"UPDATED", func(t *chatsvcv1.Team) string { return utc(t.GetUpdateTime()) }},
		{"DISPLAY NAME", (*chatsvcv1.Team).GetDisplayName},
	}
}

func enabled(is bool) string {
	if is {
		return "enabled"
	}
	return "disabled"
}

// listTeams returns all teams that the caller may see.
func (api controlPlane) listTeams(ctx context.Context) iter.Seq2[*chatsvcv1.Team, error] {
	return listed(func(token string) ([]*chatsvcv1.Team, string, error) {
		page, err := api.teams.ListTeams(ctx, &chatsvcv1.ListTeamsRequest{PageSize: pageSize, PageToken: token})
		return page.GetTeams(), page.GetNextPageToken(), err
	})
}

// teamsCreateCommand makes a team.
type teamsCreateCommand struct {
	Team        teamName `arg:"" help:"The id of the team."`
	DisplayName string   `placeholder:"TEXT" help:"What people call it."`
	Client      []string `sep:"none" placeholder:"CLIENT" help:"Make this client of it, too. Can be given several times."`
	output
	control
}

// Validate refuses clients that cannot be made, before the team is.
func (c *teamsCreateCommand) Validate() error {
	for i, id := range c.Client {
		switch {
		case !tenant.ValidID(id):
			return fmt.Errorf("--client %q: the id of a client is %s", id, tenant.IDRule)
		case slices.Contains(c.Client[:i], id):
			return fmt.Errorf("--client %s is given twice", id)
		}
	}
	return c.connection.Validate()
}

// Run makes the team and its clients, and prints them. Where a client cannot be made, the team and those before it stay.
func (c *teamsCreateCommand) Run(ctx context.Context, std stdio) error {
	return c.call(func(api controlPlane) error {
		team := one(api.teams.CreateTeam(ctx, &chatsvcv1.CreateTeamRequest{
			TeamId: short(string(c.Team)), Team: &chatsvcv1.Team{DisplayName: c.DisplayName},
		}))
		if err := show(std, c.output, teamColumns(), team); err != nil || len(c.Client) == 0 {
			return err
		}
		return showNext(std, c.output, clientColumns(), func(yield func(*chatsvcv1.Client, error) bool) {
			for _, id := range c.Client {
				client, err := api.teams.CreateClient(ctx, &chatsvcv1.CreateClientRequest{Parent: string(c.Team), ClientId: id, Client: &chatsvcv1.Client{}})
				if err != nil {
					err = fmt.Errorf("make the client %s: %w", id, err)
				}
				if !yield(client, err) || err != nil {
					return
				}
			}
		})
	})
}

// teamsListCommand lists the teams.
type teamsListCommand struct {
	output
	control
}

// Run lists the teams.
func (c *teamsListCommand) Run(ctx context.Context, std stdio) error {
	return c.call(func(api controlPlane) error { return show(std, c.output, teamColumns(), api.listTeams(ctx)) })
}

// teamsGetCommand shows a team.
type teamsGetCommand struct {
	Team teamName `arg:"" help:"The id of the team."`
	output
	control
}

// Run prints the team, its clients and its keys.
func (c *teamsGetCommand) Run(ctx context.Context, std stdio) error {
	return c.call(func(api controlPlane) error {
		name := string(c.Team)
		if err := show(std, c.output, teamColumns(), one(api.teams.GetTeam(ctx, &chatsvcv1.GetTeamRequest{Name: name}))); err != nil {
			return err
		}
		if err := showNext(std, c.output, clientColumns(), api.listClients(ctx, name)); err != nil {
			return err
		}
		disabled, err := api.disabledOwners(ctx, name)
		if err != nil {
			return err
		}
		return showNext(std, c.output, keyColumns(disabled), api.listKeys(ctx, name))
	})
}

// teamsUpdateCommand changes a team.
type teamsUpdateCommand struct {
	Team        teamName `arg:"" help:"The id of the team."`
	DisplayName *string  `required:"" placeholder:"TEXT" help:"What people call it; empty is nothing."`
	output
	control
}

// Run changes the team and prints it.
func (c *teamsUpdateCommand) Run(ctx context.Context, std stdio) error {
	return c.updateTeam(ctx, std, c.output, &chatsvcv1.Team{Name: string(c.Team), DisplayName: *c.DisplayName}, "display_name")
}

// namedTeam is what a command is given that disables or enables a team.
type namedTeam struct {
	Team teamName `arg:"" help:"The id of the team."`
	output
	control
}

// setDisabled disables or enables the team and prints it.
func (c *namedTeam) setDisabled(ctx context.Context, std stdio, disabled bool) error {
	return c.updateTeam(ctx, std, c.output, &chatsvcv1.Team{Name: string(c.Team), Disabled: disabled}, "disabled")
}

// teamsDisableCommand disables a team.
type teamsDisableCommand struct{ namedTeam }

// Run disables the team and prints it.
func (c *teamsDisableCommand) Run(ctx context.Context, std stdio) error {
	return c.setDisabled(ctx, std, true)
}

// teamsEnableCommand enables a team.
type teamsEnableCommand struct{ namedTeam }

// Run enables the team and prints it.
func (c *teamsEnableCommand) Run(ctx context.Context, std stdio) error {
	return c.setDisabled(ctx, std, false)
}

// updateTeam changes one field of a team, whatever the others are meanwhile, and prints the team.
func (c *control) updateTeam(ctx context.Context, std stdio, o output, team *chatsvcv1.Team, field string) error {
	return c.call(func(api controlPlane) error {
		return show(std, o, teamColumns(), one(api.teams.UpdateTeam(ctx, &chatsvcv1.UpdateTeamRequest{
			Team: team, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{field}},
		})))
	})
}
