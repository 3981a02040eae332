package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chatsvc/chatsvc/internal/tenant"
)

func TestTeamsFile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		want       string // the lines of the error
	}{
		{"all", "teams:\n- {team: a, display_name: A, disabled: false, clients: [{client: b, display_name: \"\", disabled: true}]}\n- team: c\n  clients:\n", ""},
		{"none", "teams: []", ""},
		{"the same client of two teams", "teams: [{team: a, clients: [{client: x}]}, {team: b, clients: [{client: x}]}]", ""},
		{"empty", "", "f is empty: it must have teams"},
		{"only a comment", "# teams\n", "f is empty: it must have teams"},
		{"no YAML", "teams: [", "f: yaml: line 1: did not find expected node content"},
		{"no mapping", "- team: a", "f:1: must be a mapping with teams"},
		{"nothing", "{}", "f:1: teams is missing"},
		{"two documents", "teams: []\n---\nteams: []\n", "f:2: a second document: there must be one"},
		{"garbage behind", "teams: []\n---\n[", "f: yaml: line 3: did not find expected node content"},
		{"unknown keys", "teams:\n- team: a\n  displayname: A\n  clients:\n  - client: b\n    roles: []\nlimits: []", "f:7: unknown key \"limits\": there is teams\n" +
			"f:3: unknown key \"displayname\": there is team, display_name, disabled, clients\n" +
			"f:6: unknown key \"roles\": there is client, display_name, disabled"},
		{"a key twice", "teams:\n- team: a\n  team: b", "f:3: team is in line 2, too"},
		{"a team twice", "teams:\n- team: a\n- team: a", "f:3: team a is in line 2, too"},
		{"a client twice", "teams:\n- team: a\n  clients:\n  - client: b\n  - client: b", "f:5: client b is in line 4, too"},
		{"ids", "teams:\n- team: Checkout\n- team: 7\n- display_name: x\n  clients: [{client: ../x}]", "f:2: team \"Checkout\": an id is " + tenant.IDRule + "\n" +
			"f:3: team must be text: put it in quotes\nf:4: team is missing\nf:5: client \"../x\": an id is " + tenant.IDRule},
		{
			"values", "teams:\n- team: a\n  display_name: " + strings.Repeat("x", 129) + "\n  disabled: yes\n- team: b\n  display_name:\n  disabled: 1\n  clients: {client: x}\n- team: c\n  clients: [x]",
			"f:3: display_name is longer than 128 bytes\nf:4: disabled must be true or false\nf:6: display_name must be text: put it in quotes\n" +
				"f:7: disabled must be true or false\nf:8: clients must be a list\nf:10: must be a mapping with client, display_name, disabled",
		},
		{"aliases", "teams:\n- &a {team: a}\n- *a", "f:3: must be a mapping with team, display_name, disabled, clients"},
		{"merge", "teams:\n- {team: a, <<: {disabled: true}}", "f:2: unknown key \"<<\": there is team, display_name, disabled, clients"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			teams, err := parseTeams("f", []byte(tt.text))
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
			if tt.name == "all" {
				a, b := teams[0], teams[0].clients[0]
				if a.id != "a" || *a.displayName != "A" || *a.disabled || b.id != "b" || *b.displayName != "" || !*b.disabled ||
					teams[1].id != "c" || teams[1].displayName != nil || teams[1].disabled != nil {
					t.Errorf("read %+v", teams)
				}
			}
		})
	}
}

func FuzzTeamsFile(f *testing.F) {
	f.Add("teams:\n- {team: a, display_name: A, disabled: false, clients: [{client: b}]}\n")
	f.Add("teams: &a [*a]")
	f.Add("? {a: b}\n: c\n---\n")
	f.Fuzz(func(t *testing.T, text string) {
		teams, err := parseTeams("f", []byte(text))
		if err != nil {
			return
		}
		for _, team := range teams {
			if !tenant.ValidID(team.id) {
				t.Errorf("team %q", team.id)
			}
			for _, c := range team.clients {
				if !tenant.ValidID(c.id) {
					t.Errorf("client %q", c.id)
				}
			}
		}
	})
}

// A file is applied: what is not there is made, what is otherwise is changed, and nothing else; a second time there is
// nothing to do.
func TestApply(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	file := filepath.Join(t.TempDir(), "teams.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(want, wantNotes string, flags ...string) {
		t.Helper()
		code, out, notes := p.cli(t, append([]string{"apply", "-f", file}, flags...)...)
		if code != 0 || out != want || notes != "chatsvc: "+wantNotes+"\n" {
			t.Errorf("%v: code %d, out:\n%s\nwant:\n%s\nnotes %q, want %q", flags, code, out, want, notes, wantNotes)
		}
	}
	p.must(t, "teams", "create", "billing", "--display-name", "Bills")
	p.must(t, "teams", "create", "search", "--client", "indexer", "--client", "old", "--client", "gone")
	p.must(t, "clients", "disable", "search/gone")

	write(`
teams:
- team: checkout
  display_name: Checkout
  clients:
  - client: web
    display_name: The "shop"
  - {client: cron, disabled: true}
- team: search
  display_name: Search
  clients:
  - {client: indexer, disabled: false}
`)
	added := "+ checkout  display_name: \"Checkout\"\n+ checkout/web  display_name: \"The \\\"shop\\\"\"\n+ checkout/cron  disabled: true\n" +
		"~ search  display_name: \"\" → \"Search\"\n= 1 unchanged\n"
	others := "  search/gone is not in the file and stays as it is\n  search/old is not in the file and stays as it is\n" +
		"  billing is not in the file and stays as it is\n"
	head := p.must(t, "audit", "head")
	apply(added+others, "this is a dry run: nothing is changed", "--dry-run")
	if now := p.must(t, "audit", "head"); now != head {
		t.Errorf("a dry run has changed something: %s, was %s", now, head)
	}
	apply(added+others, "4 changes are made")
	head = p.must(t, "audit", "head")
	apply("= 5 unchanged\n"+others, "there is nothing to change")
	if now := p.must(t, "audit", "head"); now != head {
		t.Errorf("what was applied before has changed something: %s, was %s", now, head)
	}
	if got := p.must(t, "clients", "list", "checkout"); !matches(got, `(?s)^CLIENT .*\ncheckout/cron +disabled .*\ncheckout/web +enabled .* The "shop"\n$`) {
		t.Errorf("clients:\n%s", got)
	}

	billing := "  billing is not in the file and stays as it is\n"
	apply("- search/old  disabled: false → true\n= 6 unchanged\n"+billing, "1 change is made", "--prune")
	apply("= 7 unchanged\n"+billing, "there is nothing to change", "--prune")

	// What a person has disabled in a hurry stays so, unless the file says otherwise.
	p.must(t, "teams", "disable", "checkout")
	write("teams: [{team: checkout, clients: [{client: cron, disabled: false}]}]")
	apply("~ checkout/cron  disabled: true → false\n= 1 unchanged\n  checkout/web is not in the file and stays as it is\n"+billing+
		"  search is not in the file and stays as it is\n", "1 change is made")

	code, out, notes := p.cliIn(t, "teams: [{team: A}]", "apply", "-f", "-")
	if code != 1 || out != "" || notes != "chatsvc: stdin:1: team \"A\": an id is "+tenant.IDRule+"\n" {
		t.Errorf("code %d, out %q, notes %q", code, out, notes)
	}
}

// What somebody else has done since the difference was computed is not overwritten.
func TestApplyMeetsAnotherChange(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	p.must(t, "teams", "create", "search", "--client=web")
	want, err := parseTeams("f", []byte("teams: [{team: search, display_name: Mine, clients: [{client: web, disabled: true}]}, {team: new, clients: [{client: web}]}]"))
	if err != nil {
		t.Fatal(err)
	}
	command := control{connection{Address: p.admin}}
	if err := command.call(func(api controlPlane) error {
		have, err := api.current(t.Context(), want)
		if err != nil {
			return err
		}
		p.must(t, "teams", "update", "search", "--display-name=Theirs")
		p.must(t, "clients", "disable", "search/web")
		p.must(t, "teams", "create", "new", "--client=web")
		plan := planChanges(want, have, false)
		for i, reason := range []string{"ETAG_MISMATCH", "ETAG_MISMATCH", "ALREADY_EXISTS", "ALREADY_EXISTS"} {
			err := plan.changes[i].do(t.Context(), api)
			if err == nil || !strings.HasPrefix(err.Error(), "somebody else has changed it just now: ") || !strings.Contains(err.Error(), reason) {
				t.Errorf("%s: err = %v, want %s", plan.changes[i].name, err, reason)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := p.must(t, "teams", "list"); !matches(got, `search .* Theirs\n`) {
		t.Errorf("teams:\n%s", got)
	}
}

// What cannot be done stops it, and what was done before stays.
func TestApplyStops(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	p.must(t, "teams", "create", "search", "--client=web")
	admin := filepath.Join(t.TempDir(), "admin")
	if err := os.WriteFile(admin, []byte(p.must(t, "keys", "create", "search/web", "--role=team_admin")), 0o600); err != nil {
		t.Fatal(err)
	}
	const file = "teams: [{team: search, clients: [{client: cron}, {client: web}]}, {team: new, clients: [{client: web}]}]"
	for _, tt := range []struct{ key, out, notes string }{
		{admin, "+ search/cron\n+ new\n+ new/web\n= 2 unchanged\n", `^chatsvc: new: .*\(ROLE_MISSING\).*; 1 of 3 changes are made\n$`},
		{admin, "+ new\n+ new/web\n= 3 unchanged\n", `^chatsvc: new: .*\(ROLE_MISSING\).*; 0 of 2 changes are made\n$`},
		{"", "+ new\n+ new/web\n= 3 unchanged\n", `^chatsvc: 2 changes are made\n$`},
	} {
		code, out, notes := p.cliIn(t, file, "apply", "-f", "-", "--key-file", tt.key)
		if (code == 0) != (tt.key == "") || out != tt.out || !matches(notes, tt.notes) {
			t.Errorf("code %d, notes %q, want %s\n%s", code, notes, tt.notes, out)
		}
	}
}

// What prune disables comes last, and what the caller is itself is not among it.
func TestApplyDoesNotPruneItself(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	p.must(t, "teams", "create", "ops", "--client=admin", "--client=old")
	p.must(t, "teams", "create", "search", "--client=gone")
	admin := filepath.Join(t.TempDir(), "admin")
	if err := os.WriteFile(admin, []byte(p.must(t, "keys", "create", "ops/admin", "--role=platform_admin")), 0o600); err != nil {
		t.Fatal(err)
	}
	const file = "teams: [{team: ops}, {team: search, clients: [{client: web}]}]"
	code, out, notes := p.cliIn(t, file, "apply", "-f", "-", "--prune", "--key-file", admin)
	disabled := "  disabled: false → true\n"
	if want := "+ search/web\n- ops/admin" + disabled + "- ops/old" + disabled + "- search/gone" + disabled + "= 2 unchanged\n"; code != 0 || out != want {
		t.Errorf("code %d, out:\n%s\nwant:\n%s", code, out, want)
	}
	if !matches(notes, `^chatsvc: ops/admin stays as it is: .*\(INVALID_STATE\)\nchatsvc: 3 changes are made\n$`) {
		t.Errorf("notes %q", notes)
	}
	if got := p.must(t, "clients", "list", "ops", "--key-file", admin); !matches(got, `ops/admin +enabled .*\nops/old +disabled `) {
		t.Errorf("clients:\n%s", got)
	}
}

// A run that stops says how much it has done, and to run it again only where that helps.
func TestApplySaysHowFarItCame(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&callError{Code: "UNAVAILABLE", Reason: "STORE_UNAVAILABLE", Message: "no"}, "b: no (STORE_UNAVAILABLE); at least 1 of 3 changes are made; run it again for the rest"},
		{&callError{Code: "UNAVAILABLE", Message: "no"}, "b: no; at least 1 of 3 changes are made; run it again for the rest"},
		{&callError{Code: "INTERNAL", Message: "no"}, "b: no; at least 1 of 3 changes are made"},
		{&callError{Code: "ABORTED", Reason: "ETAG_MISMATCH", Message: "no"}, "b: no (ETAG_MISMATCH); 1 of 3 changes are made; run it again for the rest"},
		{&callError{Code: "PERMISSION_DENIED", Reason: "ROLE_MISSING", Message: "no"}, "b: no (ROLE_MISSING); 1 of 3 changes are made"},
		{&callError{Code: "FAILED_PRECONDITION", Reason: "INVALID_STATE", Message: "no"}, "b: no (INVALID_STATE); 1 of 3 changes are made"},
		{errors.New("no"), "b: no"},
	} {
		var plan changePlan
		does := func(err error) func(context.Context, controlPlane) error {
			return func(context.Context, controlPlane) error { return err }
		}
		plan.add("+", "a", nil, does(nil))
		plan.add("~", "b", nil, does(tt.err))
		plan.add("~", "c", nil, func(context.Context, controlPlane) error {
			t.Errorf("%s: it goes on", tt.want)
			return nil
		})
		var notes bytes.Buffer
		if err := plan.apply(t.Context(), controlPlane{}, &notes); err == nil || err.Error() != tt.want || notes.Len() > 0 {
			t.Errorf("err = %v, want %s; notes %q", err, tt.want, notes.String())
		}
	}
}
