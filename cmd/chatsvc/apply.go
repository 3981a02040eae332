package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// maxTeamsFile is more than anybody writes.
const maxTeamsFile = 16 << 20

// applyCommand makes teams and clients what a file says.
type applyCommand struct {
	File   string `short:"f" required:"" placeholder:"FILE" help:"The file: teams, each with team, display_name, disabled and clients; - is stdin. A field that is not in it is left as it is."`
	DryRun bool   `help:"Show the difference and change nothing."`
	Prune  bool   `help:"Disable the clients that are not in the file, of the teams that are."`
	control
}

// Run shows the difference, and then makes the changes one after the other. When it stops half-way the rest is made by another
// run. What somebody else changes after it has looked is not overwritten: it stops there.
func (c *applyCommand) Run(ctx context.Context, std stdio) error {
	want, err := c.read(ctx, std.in)
	if err != nil {
		return err
	}
	return c.call(func(api controlPlane) error {
		have, err := api.current(ctx, want)
		if err != nil {
			return err
		}
		plan := planChanges(want, have, c.Prune)
		if err := plan.show(std.out); err != nil {
			return err
		}
		if len(plan.changes) == 0 {
			fmt.Fprintln(std.err, "chatsvc: there is nothing to change")
			return nil
		}
		if c.DryRun {
			fmt.Fprintln(std.err, "chatsvc: this is a dry run: nothing is changed")
			return nil
		}
		return plan.apply(ctx, api, std.err)
	})
}

// read reads the file.
func (c *applyCommand) read(ctx context.Context, in io.Reader) ([]wantedTeam, error) {
	name := c.File
	if name == "-" {
		name = "stdin"
	} else {
		file, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read the teams: %w", err)
		}
		defer file.Close() //nolint:errcheck // it was only read
		in = file
	}
	content, err := readAll(ctx, io.LimitReader(in, maxTeamsFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the teams from %s: %w", name, err)
	case len(content) > maxTeamsFile:
		return nil, fmt.Errorf("%s is larger than 16 MiB", name)
	}
	return parseTeams(name, content)
}

// existing is what there is: all teams, and the clients of those that were asked for, by their names.
type existing struct {
	teams   []*chatsvcv1.Team
	clients map[string][]*chatsvcv1.Client // by the name of the team
}

// current reads what there is.
func (api controlPlane) current(ctx context.Context, want []wantedTeam) (existing, error) {
	have := existing{clients: make(map[string][]*chatsvcv1.Client)}
	for team, err := range api.listTeams(ctx) {
		if err != nil {
			return have, err
		}
		have.teams = append(have.teams, team)
		if !slices.ContainsFunc(want, func(w wantedTeam) bool { return w.id == short(team.GetName()) }) {
			continue
		}
		for client, err := range api.listClients(ctx, team.GetName()) {
			if err != nil {
				return have, err
			}
			have.clients[team.GetName()] = append(have.clients[team.GetName()], client)
		}
	}
	return have, nil
}

// changePlan is how what there is becomes what is wanted.
type changePlan struct {
	changes   []change
	unchanged int
	others    []string // what is not in the file and stays as it is
}

// change is one call.
type change struct {
	sign    string // + new, ~ changed, - disabled because it is not in the file
	name    string
	details []string
	do      func(context.Context, controlPlane) error
}

// show prints the plan, a line for each change.
func (p *changePlan) show(w io.Writer) error {
	var b strings.Builder
	for _, c := range p.changes {
		b.WriteString(strings.TrimRight(c.sign+" "+c.name+"  "+strings.Join(c.details, ", "), " ") + "\n")
	}
	fmt.Fprintf(&b, "= %d unchanged\n", p.unchanged)
	for _, name := range p.others {
		fmt.Fprintf(&b, "  %s is not in the file and stays as it is\n", name)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// apply makes the changes, and says in notes how many. A client that the caller may not disable because it is itself stays as it
// is.
func (p *changePlan) apply(ctx context.Context, api controlPlane, notes io.Writer) error {
	made := 0
	for _, change := range p.changes {
		err := change.do(ctx, api)
		failure, _ := errors.AsType[*callError](err)
		switch {
		case err == nil:
			made++
		case failure == nil:
			return fmt.Errorf("%s: %w", change.name, err)
		case change.sign == "-" && failure.Reason == "INVALID_STATE":
			_, _ = fmt.Fprintf(notes, "chatsvc: %s stays as it is: %v\n", change.name, err)
		default:
			atLeast, again := "", ""
			if failure.undecided() {
				atLeast = "at least "
			}
			if failure.Code == "UNAVAILABLE" || failure.Reason == "ETAG_MISMATCH" {
				again = "; run it again for the rest"
			}
			return fmt.Errorf("%s: %w; %s%d of %s made%s", change.name, err, atLeast, made, counted(len(p.changes), "change is", "changes are"), again)
		}
	}
	_, _ = fmt.Fprintf(notes, "chatsvc: %s made\n", counted(made, "change is", "changes are"))
	return nil
}

// planChanges compares. A change carries the etag of what was compared. What prune disables comes last: a caller that disables
// what it needs itself has done the rest by then.
func planChanges(want []wantedTeam, have existing, prune bool) (p changePlan) {
	teams := make(map[string]*chatsvcv1.Team)
	var pruned changePlan
	for _, t := range have.teams {
		teams[t.GetName()] = t
	}
	for _, w := range want {
		name := tenant.TeamName(w.id)
		p.team(w.wanted, teams[name])
		delete(teams, name)
		clients := make(map[string]*chatsvcv1.Client)
		for _, c := range have.clients[name] {
			clients[c.GetName()] = c
		}
		for _, wc := range w.clients {
			full := tenant.ClientName(w.id, wc.id)
			p.client(name, wc, clients[full])
			delete(clients, full)
		}
		for _, c := range have.clients[name] {
			switch {
			case clients[c.GetName()] == nil: // it is in the file
			case !prune:
				p.others = append(p.others, short(c.GetName()))
			case c.GetDisabled():
				p.unchanged++
			default:
				pruned.add("-", short(c.GetName()), []string{"disabled: false → true"},
					updateClient(&chatsvcv1.Client{Name: c.GetName(), Disabled: true, Etag: c.GetEtag()}, []string{"disabled"}))
			}
		}
	}
	for _, t := range have.teams {
		if teams[t.GetName()] != nil {
			p.others = append(p.others, short(t.GetName()))
		}
	}
	p.changes = append(p.changes, pruned.changes...)
	return p
}

func (p *changePlan) add(sign, name string, details []string, do func(context.Context, controlPlane) error) {
	p.changes = append(p.changes, change{sign, name, details, do})
}

// team adds what makes a team what is wanted; have is nil where there is none.
func (p *changePlan) team(w wanted, have *chatsvcv1.Team) {
	team := &chatsvcv1.Team{Name: have.GetName(), DisplayName: have.GetDisplayName(), Disabled: have.GetDisabled(), Etag: have.GetEtag()}
	paths, details := w.change(&team.DisplayName, &team.Disabled, have == nil)
	switch {
	case have == nil:
		p.add("+", w.id, details, func(ctx context.Context, api controlPlane) error {
			_, err := api.teams.CreateTeam(ctx, &chatsvcv1.CreateTeamRequest{TeamId: w.id, Team: team})
			return meanwhile(err)
		})
	case len(paths) == 0:
		p.unchanged++
	default:
		p.add("~", w.id, details, func(ctx context.Context, api controlPlane) error {
			_, err := api.teams.UpdateTeam(ctx, &chatsvcv1.UpdateTeamRequest{Team: team, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
			return meanwhile(err)
		})
	}
}

// client is team for a client of the team named parent.
func (p *changePlan) client(parent string, w wanted, have *chatsvcv1.Client) {
	client := &chatsvcv1.Client{Name: have.GetName(), DisplayName: have.GetDisplayName(), Disabled: have.GetDisabled(), Etag: have.GetEtag()}
	paths, details := w.change(&client.DisplayName, &client.Disabled, have == nil)
	name := short(parent) + "/" + w.id
	switch {
	case have == nil:
		p.add("+", name, details, func(ctx context.Context, api controlPlane) error {
			_, err := api.teams.CreateClient(ctx, &chatsvcv1.CreateClientRequest{Parent: parent, ClientId: w.id, Client: client})
			return meanwhile(err)
		})
	case len(paths) == 0:
		p.unchanged++
	default:
		p.add("~", name, details, updateClient(client, paths))
	}
}

func updateClient(client *chatsvcv1.Client, paths []string) func(context.Context, controlPlane) error {
	return func(ctx context.Context, api controlPlane) error {
		_, err := api.teams.UpdateClient(ctx, &chatsvcv1.UpdateClientRequest{Client: client, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		return meanwhile(err)
	}
}

// change sets the fields to what is wanted, and returns which are others then, for the request and for people.
func (w *wanted) change(displayName *string, disabled *bool, isNew bool) (paths, details []string) {
	note := func(path string, was, is any, format string) {
		paths = append(paths, path)
		detail := fmt.Sprintf("%s: "+format, path, is)
		if !isNew {
			detail = fmt.Sprintf("%s: "+format+" → "+format, path, was, is)
		}
		details = append(details, detail)
	}
	if w.displayName != nil && *w.displayName != *displayName {
		note("display_name", *displayName, *w.displayName, "%q")
		*displayName = *w.displayName
	}
	if w.disabled != nil && *w.disabled != *disabled {
		note("disabled", *disabled, *w.disabled, "%t")
		*disabled = *w.disabled
	}
	return paths, details
}

// meanwhile says of an error that it comes of what somebody else has done since the difference was computed.
func meanwhile(err error) error {
	failure, ok := errors.AsType[*callError](err)
	if !ok {
		return err
	}
	switch failure.Reason {
	case "ETAG_MISMATCH", "ALREADY_EXISTS":
		return fmt.Errorf("somebody else has changed it just now: %w", err)
	default:
		return err
	}
}
