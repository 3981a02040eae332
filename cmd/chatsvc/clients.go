package main

import (
	"context"
	"iter"
	"path"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// clientsCommand groups the commands about clients.
type clientsCommand struct {
	Create  clientsCreateCommand  `cmd:"" help:"Make a client of a team."`
	List    clientsListCommand    `cmd:"" help:"List the clients of a team."`
	Disable clientsDisableCommand `cmd:"" help:"Refuse all credentials of a client, within two seconds."`
	Enable  clientsEnableCommand  `cmd:"" help:"Accept the credentials of a client again."`
}

func clientColumns() []column[*chatsvcv1.Client] {
	return []column[*chatsvcv1.Client]{
		{"CLIENT", func(c *chatsvcv1.Client) string { return short(c.GetName()) }},
		{"STATE", func(c *chatsvcv1.Client) string { return enabled(!c.GetDisabled()) }},
		{"CREATED", func(c *chatsvcv1.Client) string { return utc(c.GetCreateTime()) }},
		{"UPDATED", func(c *chatsvcv1.Client) string { return utc(c.GetUpdateTime()) }},
		{"DISPLAY NAME", (*chatsvcv1.Client).GetDisplayName},
	}
}

// listClients returns all clients of a team.
func (api controlPlane) listClients(ctx context.Context, team string) iter.Seq2[*chatsvcv1.Client, error] {
	return listed(func(token string) ([]*chatsvcv1.Client, string, error) {
		page, err := api.teams.ListClients(ctx, &chatsvcv1.ListClientsRequest{Parent: team, PageSize: pageSize, PageToken: token})
		return page.GetClients(), page.GetNextPageToken(), err
	})
}

// clientsCreateCommand makes a client.
type clientsCreateCommand struct {
	Client      clientName `arg:"" name:"team/client" help:"The client, as TEAM/CLIENT."`
	DisplayName string     `placeholder:"TEXT" help:"What people call it."`
	output
	control
}

// Run makes the client and prints it.
func (c *clientsCreateCommand) Run(ctx context.Context, std stdio) error {
	name := string(c.Client)
	return c.call(func(api controlPlane) error {
		return show(std, c.output, clientColumns(), one(api.teams.CreateClient(ctx, &chatsvcv1.CreateClientRequest{
			Parent: path.Dir(path.Dir(name)), ClientId: path.Base(name), Client: &chatsvcv1.Client{DisplayName: c.DisplayName},
		})))
	})
}

// clientsListCommand lists the clients of a team.
type clientsListCommand struct {
	Team teamName `arg:"" help:"The id of the team."`
	output
	control
}

// Run lists the clients.
func (c *clientsListCommand) Run(ctx context.Context, std stdio) error {
	return c.call(func(api controlPlane) error {
		return show(std, c.output, clientColumns(), api.listClients(ctx, string(c.Team)))
	})
}

// clientsDisableCommand disables a client.
type clientsDisableCommand struct {
	Client clientName `arg:"" name:"team/client" help:"The client, as TEAM/CLIENT."`
	output
	control
}

// Run disables the client and prints it.
func (c *clientsDisableCommand) Run(ctx context.Context, std stdio) error {
	return c.setDisabled(ctx, std, c.output, c.Client, true)
}

// clientsEnableCommand enables a client.
type clientsEnableCommand struct {
	Client clientName `arg:"" name:"team/client" help:"The client, as TEAM/CLIENT."`
	output
	control
}

// Run enables the client and prints it.
func (c *clientsEnableCommand) Run(ctx context.Context, std stdio) error {
	return c.setDisabled(ctx, std, c.output, c.Client, false)
}

// setDisabled disables or enables a client and prints it.
func (c *control) setDisabled(ctx context.Context, std stdio, o output, name clientName, disabled bool) error {
	return c.call(func(api controlPlane) error {
		return show(std, o, clientColumns(), one(api.teams.UpdateClient(ctx, &chatsvcv1.UpdateClientRequest{
			Client: &chatsvcv1.Client{Name: string(name), Disabled: disabled}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"disabled"}},
		})))
	})
}
