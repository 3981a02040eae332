package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

// wanted is a team or a client as a file wants it. A field that is nil is left as it is.
type wanted struct {
	id          string
	displayName *string
	disabled    *bool
}

// wantedTeam is a team with its clients.
type wantedTeam struct {
	wanted
	clients []wanted
}

// parseTeams reads a file of teams. Its error joins one line per thing that is wrong.
func parseTeams(name string, content []byte) ([]wantedTeam, error) {
	var document, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s is empty: it must have teams", name)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, fmt.Errorf("%s:%d: a second document: there must be one", name, second.Line)
	case !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f := &teamsFile{name: name}
	teams := f.teams(document.Content[0])
	return teams, errors.Join(f.errs...)
}

// teamsFile reads the nodes of a file, and notes what is wrong with them and where.
type teamsFile struct {
	name string
	errs []error
}

func (f *teamsFile) wrong(at *yaml.Node, format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf("%s:%d: %s", f.name, at.Line, fmt.Sprintf(format, args...)))
}

func (f *teamsFile) teams(node *yaml.Node) []wantedTeam {
	fields, ok := f.fields(node, "teams")
	if !ok {
		return nil
	}
	if fields["teams"] == nil {
		f.wrong(node, "teams is missing")
	}
	var teams []wantedTeam
	ids := make(map[string]int)
	for _, item := range f.list(fields["teams"], "teams") {
		fields, ok := f.fields(item, "team", "display_name", "disabled", "clients")
		if !ok {
			continue
		}
		team := wantedTeam{wanted: f.wanted(item, fields, "team", ids)}
		clientIDs := make(map[string]int)
		for _, item := range f.list(fields["clients"], "clients") {
			if fields, ok := f.fields(item, "client", "display_name", "disabled"); ok {
				team.clients = append(team.clients, f.wanted(item, fields, "client", clientIDs))
			}
		}
		teams = append(teams, team)
	}
	return teams
}

// wanted reads the fields that teams and clients have. ids has the line of each id so far.
func (f *teamsFile) wanted(at *yaml.Node, fields map[string]*yaml.Node, idField string, ids map[string]int) (w wanted) {
	id := f.text(fields[idField], idField)
	switch {
	case fields[idField] == nil:
		f.wrong(at, "%s is missing", idField)
	case id != nil && !tenant.ValidID(*id):
		f.wrong(fields[idField], "%s %q: an id is %s", idField, *id, tenant.IDRule)
	case id != nil && ids[*id] != 0:
		f.wrong(fields[idField], "%s %s is in line %d, too", idField, *id, ids[*id])
	case id != nil:
		w.id, ids[*id] = *id, fields[idField].Line
	}
	if w.displayName = f.text(fields["display_name"], "display_name"); w.displayName != nil && len(*w.displayName) > 128 {
		f.wrong(fields["display_name"], "display_name is longer than 128 bytes")
	}
	if node := fields["disabled"]; node != nil {
		var disabled bool
		if node.ShortTag() != "!!bool" || node.Decode(&disabled) != nil {
			f.wrong(node, "disabled must be true or false")
		}
		w.disabled = &disabled
	}
	return w
}

// fields returns the values of a mapping by their keys.
func (f *teamsFile) fields(node *yaml.Node, known ...string) (map[string]*yaml.Node, bool) {
	if node.Kind != yaml.MappingNode {
		f.wrong(node, "must be a mapping with %s", strings.Join(known, ", "))
		return nil, false
	}
	fields := make(map[string]*yaml.Node)
	for pair := range slices.Chunk(node.Content, 2) {
		key := pair[0]
		switch {
		case !slices.Contains(known, key.Value):
			f.wrong(key, "unknown key %q: there is %s", key.Value, strings.Join(known, ", "))
		case fields[key.Value] != nil:
			f.wrong(key, "%s is in line %d, too", key.Value, fields[key.Value].Line)
		default:
			fields[key.Value] = pair[1]
		}
	}
	return fields, true
}

// list returns the items of a list. No node and no value are none.
func (f *teamsFile) list(node *yaml.Node, field string) []*yaml.Node {
	if node == nil || node.ShortTag() == "!!null" {
		return nil
	}
	if node.Kind != yaml.SequenceNode {
		f.wrong(node, "%s must be a list", field)
		return nil
	}
	return node.Content
}

// text returns a text, or nil where there is none.
func (f *teamsFile) text(node *yaml.Node, field string) *string {
	if node == nil {
		return nil
	}
	if node.Kind != yaml.ScalarNode || node.ShortTag() != "!!str" {
		f.wrong(node, "%s must be text: put it in quotes", field)
		return nil
	}
	return &node.Value
}
