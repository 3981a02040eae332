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
	Get     clientsGetCommand     `cmd:"" help:"Show a client with its keys."`
	Update  clientsUpdateCommand  `cmd:"" help:"Change how a client is called."`
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

// clientsGetCommand shows a client.
type clientsGetCommand struct {
	Client clientName `arg:"" name:"team/client" help:"The client, as TEAM/CLIENT."`
	output
	control
}

// Run prints the client and its keys.
func (c *clientsGetCommand) Run(ctx context.Context, std stdio) error {
	return c.call(func(api controlPlane) error {
		name := string(c.Client)
		if err := show(std, c.output, clientColumns(), one(api.teams.GetClient(ctx, &chatsvcv1.GetClientRequest{Name: name}))); err != nil {
			return err
		}
		disabled, err := api.disabledOwners(ctx, name)
		if err != nil {
			return err
		}
		return showNext(std, c.output, keyColumns(disabled), api.listKeys(ctx, name))
	})
}

// clientsUpdateCommand changes a client.
type clientsUpdateCommand struct {
	Client      clientName `arg:"" name:"team/client" help:"The client, as TEAM/CLIENT."`
	DisplayName *string    `required:"" placeholder:"TEXT" help:"What people call it; empty is nothing."`
	output
	control
}

// Run changes the client and prints it.
func (c *clientsUpdateCommand) Run(ctx context.Context, std stdio) error {
	return c.updateClient(ctx, std, c.output, &chatsvcv1.Client{Name: string(c.Client), DisplayName: *c.DisplayName}, "display_name")
}

// namedClient is what a command is given that disables or enables a client.
type namedClient struct {
	Client clientName `arg:"" name:"team/client" help:"The client, as TEAM/CLIENT."`
	output
	control
}

// setDisabled disables or enables the client and prints it.
func (c *namedClient) setDisabled(ctx context.Context, std stdio, disabled bool) error {
	return c.updateClient(ctx, std, c.output, &chatsvcv1.Client{Name: string(c.Client), Disabled: disabled}, "disabled")
}

// clientsDisableCommand disables a client.
type clientsDisableCommand struct{ namedClient }

// Run disables the client and prints it.
func (c *clientsDisableCommand) Run(ctx context.Context, std stdio) error {
	return c.setDisabled(ctx, std, true)
}

// clientsEnableCommand enables a client.
type clientsEnableCommand struct{ namedClient }

// Run enables the client and prints it.
func (c *clientsEnableCommand) Run(ctx context.Context, std stdio) error {
	return c.setDisabled(ctx, std, false)
}

// updateClient changes one field of a client, whatever the others are meanwhile, and prints the client.
func (c *control) updateClient(ctx context.Context, std stdio, o output, client *chatsvcv1.Client, field string) error {
	return c.call(func(api controlPlane) error {
		return show(std, o, clientColumns(), one(api.teams.UpdateClient(ctx, &chatsvcv1.UpdateClientRequest{
			Client: client, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{field}},
		})))
	})
}
