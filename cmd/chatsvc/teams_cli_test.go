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
	p.must(t, "keys", "create", "search/indexer", "--quiet")
	want("TEAM .*\nsearch .*\n\nCLIENT .*\nsearch/indexer .*\n\nKEY .*\nsearch/indexer/[a-z2-7]{16} +active +caller .*\n", "teams", "get", "search")
	want("TEAM .*\nempty .*\n", "teams", "create", "empty")
	want("TEAM .*\nempty .*\n", "teams", "get", "empty")

	p.refused(t, "(ALREADY_EXISTS)", "teams", "create", "search")
	p.refused(t, "(NOT_FOUND)", "teams", "get", "nobody")
	p.refused(t, "(NOT_FOUND)", "clients", "create", "nobody/web")
	p.refused(t, "(NOT_FOUND)", "clients", "disable", "search/nobody")
	p.refused(t, `--client "A"`, "teams", "create", "x", "--client=A")
	code, out, notes = p.cli(t, "teams", "create", "half", "--client=a", "--client=a")
	if code != 1 || !matches(out, `half/a `) || !strings.Contains(notes, "make the client a: ") || !strings.Contains(notes, "ALREADY_EXISTS") {
		t.Errorf("the same client twice: code %d, notes %q\n%s", code, notes, out)
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
