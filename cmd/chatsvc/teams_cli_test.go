package main

import (
	"encoding/json"
	"strings"
	"testing"
)

const aTime = `20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ`

// What a person does with teams and clients, and what it looks like.
func TestTeamCommands(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	want := func(expression string, args ...string) {
		t.Helper()
		if out := p.must(t, args...); !matches(out, "^"+strings.ReplaceAll(expression, "TIME", aTime)+"$") {
			t.Errorf("%v:\n%s\nwant:\n%s", args, out, expression)
		}
	}
	code, out, notes := p.cli(t, "teams", "list")
	if code != 0 || out != "" || notes != "chatsvc: there is nothing to list\n" {
		t.Errorf("no teams: code %d, out %q, notes %q", code, out, notes)
	}
	want("TEAM +STATE +CREATED +UPDATED +DISPLAY NAME\ncheckout  enabled  TIME  TIME  The checkout\n\n"+
		"CLIENT +STATE +CREATED +UPDATED +DISPLAY NAME\ncheckout/web   enabled  TIME  TIME  -\ncheckout/cron  enabled  TIME  TIME  -\n",
		"teams", "create", "checkout", "--display-name", "The checkout", "--client=web", "--client=cron")
	want("TEAM .*\nsearch +enabled .* -\n", "teams", "create", "teams/search")
	want("CLIENT .*\nsearch/indexer +enabled .* Nightly\n", "clients", "create", "search/indexer", "--display-name=Nightly")
	want("TEAM .*\ncheckout +enabled .*\nsearch +enabled .*\n", "teams", "list")
	want("CLIENT .*\ncheckout/cron +enabled .*\ncheckout/web +enabled .*\n", "clients", "list", "checkout")
	want("TEAM .*\nsearch +enabled .* Find things\n", "teams", "update", "search", "--display-name=Find things")
	want("TEAM .*\nsearch +disabled .* Find things\n", "teams", "disable", "search")
	want("TEAM .*\nsearch +enabled .* Find things\n", "teams", "enable", "search")
	want("CLIENT .*\nsearch/indexer +disabled .*\n", "clients", "disable", "teams/search/clients/indexer")
	want("CLIENT .*\nsearch/indexer +enabled .*\n", "clients", "enable", "search/indexer")
	want("CLIENT .*\nsearch/indexer +enabled .* Daily\n", "clients", "update", "search/indexer", "--display-name=Daily")
	want("CLIENT .*\nsearch/indexer +enabled .* Daily\n", "clients", "get", "search/indexer")
	p.must(t, "keys", "create", "search/indexer", "--quiet")
	want("CLIENT .*\nsearch/indexer .*\n\nKEY .*\nsearch/indexer/[a-z2-7]{16} +active +caller .*\n", "clients", "get", "search/indexer")
	want("TEAM .*\nsearch .*\n\nCLIENT .*\nsearch/indexer .*\n\nKEY .*\nsearch/indexer/[a-z2-7]{16} +active +caller .*\n", "teams", "get", "search")
	want("TEAM .*\nempty .*\n", "teams", "create", "empty")
	want("TEAM .*\nempty .*\n", "teams", "get", "empty")

	p.refused(t, "(ALREADY_EXISTS)", "teams", "create", "search")
	const noTeam = "there is no team nobody that you may see (NOT_FOUND); make it: chatsvc teams create nobody\n"
	const noClient = "there is no client search/nobody that you may see (NOT_FOUND); make it: chatsvc clients create search/nobody\n"
	noKey := "there is no key search/indexer/" + strings.Repeat("a", 16) + " that you may see (NOT_FOUND); those there are: chatsvc keys list search/indexer --all\n"
	p.refused(t, noTeam, "teams", "get", "nobody")
	p.refused(t, noTeam, "teams", "disable", "nobody")
	p.refused(t, noTeam, "clients", "create", "nobody/web")
	p.refused(t, noTeam, "clients", "list", "nobody")
	p.refused(t, noTeam, "keys", "list", "nobody")
	p.refused(t, noClient, "clients", "disable", "search/nobody")
	p.refused(t, noClient, "clients", "get", "search/nobody")
	p.refused(t, noClient, "keys", "create", "search/nobody")
	p.refused(t, noClient, "keys", "list", "search/nobody")
	p.refused(t, noKey, "keys", "get", "search/indexer/"+strings.Repeat("a", 16))
	p.refused(t, noKey, "keys", "rotate", "search/indexer/"+strings.Repeat("a", 16))
	p.refused(t, noKey, "keys", "revoke", "search/indexer/"+strings.Repeat("a", 16))
	p.misused(t, `--client "A"`, "teams", "create", "x", "--client=A")
	p.misused(t, "--client a is given twice", "teams", "create", "x", "--client=a", "--client=a")
	p.refused(t, "there is no team x ", "teams", "get", "x") // nothing of it was made
	code, out, notes = p.cli(t, "audit", "list", "--team=nobody")
	if code != 0 || out != "" || notes != "chatsvc: there is nothing to list\nchatsvc: there is no team nobody that you may see\n" {
		t.Errorf("the audit of a team that is not there: code %d, out %q, notes %q", code, out, notes)
	}

	var names []string
	for line := range strings.Lines(p.must(t, "teams", "get", "checkout", "--json")) {
		var resource struct{ Name, DisplayName, Etag, CreateTime string }
		if err := json.Unmarshal([]byte(line), &resource); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if resource.Etag == "" || resource.CreateTime == "" || strings.Contains(line, ": ") {
			t.Errorf("a line of JSON: %s", line)
		}
		names = append(names, resource.Name)
	}
	if got := strings.Join(names, " "); got != "teams/checkout teams/checkout/clients/cron teams/checkout/clients/web" {
		t.Errorf("names in JSON: %s", got)
	}
}

// A list has all pages of what it lists.
func TestListsHaveAllPages(t *testing.T) {
	t.Parallel()
	p := serveDev(t)
	text := "teams:\n- team: many\n  clients:\n"
	for range pageSize + 1 {
		text += "  - client: c" + strings.Repeat("x", strings.Count(text, "\n")%60) + string(rune('a'+strings.Count(text, "\n")/60)) + "\n"
	}
	if code, _, notes := p.cliIn(t, text, "apply", "-f", "-"); code != 0 {
		t.Fatal(notes)
	}
	if n := strings.Count(p.must(t, "clients", "list", "many"), "\n"); n != pageSize+2 {
		t.Errorf("%d lines, want %d and the titles", n, pageSize+1)
	}
	if n := strings.Count(p.must(t, "audit", "list", "--limit=0", "--json"), "\n"); n != pageSize+2 {
		t.Errorf("%d entries of the audit, want %d clients and the team", n, pageSize+1)
	}
	if n := strings.Count(p.must(t, "audit", "list", "--limit=201", "--json"), "\n"); n != 201 {
		t.Errorf("%d entries of the audit, want 201", n)
	}
}
