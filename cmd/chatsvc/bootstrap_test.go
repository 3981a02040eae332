package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/pgtest"
)

var (
	onlyToken = regexp.MustCompile(`^csk_[a-z2-7]{16}_[a-z2-7]{52}$`)
	keyNoted  = regexp.MustCompile(`(?s)^platform/admin/[a-z2-7]{16} \(team_admin,platform_admin,auditor\) works until ` + aTime + `\. This is the only time that it is shown\.\n.*chatsvc teams create`)
)

// withoutCallers writes a configuration that lets nobody in, and returns its path.
func withoutCallers(t *testing.T, databaseURL, baseURL string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "chatsvc.yaml")
	text := "listen: 127.0.0.1:0\nadmin_listen: 127.0.0.1:0\ndatabase_url: " + databaseURL + "\nupstream: {base_url: '" + baseURL + "', api_key: sk-canary-upstream-key}\ndefault_model: sim\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The first admin is made in the database, once, and makes everybody else.
func TestBootstrap(t *testing.T) {
	t.Parallel()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		_, baseURL := simulate(t)
		file := withoutCallers(t, "sqlite:"+filepath.Join(t.TempDir(), "data", "chatsvc.db"), baseURL) // which is not there yet
		key := testBootstrap(t, file)
		p := launch(t, "serve", "--config", file)
		code, out, errs := command(t, "bootstrap", "--again", "--config", file)
		if code != 1 || out != "" || !strings.Contains(errs, "has to be stopped first") || strings.Count(errs, "chatsvc: ") != 1 {
			t.Errorf("under a server: exit code %d, %s%s", code, out, errs)
		}
		administer(t, p, key)
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		_, baseURL := simulate(t)
		file := withoutCallers(t, postgres(t), baseURL)
		p := launch(t, "serve", "--config", file) // which may run
		if !strings.Contains(p.logs.String(), "nobody may call") || !strings.Contains(p.logs.String(), "chatsvc bootstrap") {
			t.Errorf("a service that nobody may call does not say so:\n%s", p.logs)
		}
		key := testBootstrap(t, file)
		administer(t, p, key)
		if strings.Contains(launch(t, "serve", "--config", file).logs.String(), "nobody may call") {
			t.Error("a service with an admin says that nobody may call")
		}
	})
	t.Run("PostgreSQL without a schema", func(t *testing.T) {
		t.Parallel()
		code, out, errs := command(t, "bootstrap", "--config", withoutCallers(t, pgtest.Database(t), "http://127.0.0.1:1/v1"))
		if code != 1 || out != "" || !strings.Contains(errs, "run `chatsvc migrate up`") {
			t.Errorf("exit code %d, %s%s", code, out, errs)
		}
	})
}

// testBootstrap makes the first admin's key, and others after it, and returns the last one.
func testBootstrap(t *testing.T, file string) string {
	t.Helper()
	code, out, errs := command(t, "bootstrap", "--config", file)
	keys := []string{strings.TrimSuffix(out, "\n")}
	if code != 0 || !onlyToken.MatchString(keys[0]) || !keyNoted.MatchString(errs) || strings.Contains(errs, keys[0]) {
		t.Fatalf("exit code %d, %s%s", code, out, errs)
	}
	code, out, errs = command(t, "bootstrap", "--config", file)
	if code != 1 || out != "" || !strings.HasPrefix(errs, "chatsvc: there is an admin already: ") || !strings.HasSuffix(errs, " (INVALID_STATE); --again makes a key all the same\n") {
		t.Errorf("the second time: exit code %d, %s%s", code, out, errs)
	}
	code, out, errs = command(t, "bootstrap", "--again", "--json", "--config", file)
	var made struct {
		Name, Secret, State string // as of keys create --json
		Roles               []string
		ExpireTime          time.Time
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil || code != 0 || !onlyToken.MatchString(made.Secret) || strings.Contains(errs, made.Secret) {
		t.Fatalf("--json: exit code %d, %v, %s%s", code, err, out, errs)
	}
	if id := strings.Split(made.Secret, "_")[1]; made.Name != "teams/platform/clients/admin/keys/"+id || made.State != "KEY_STATE_ACTIVE" ||
		!slices.Equal(made.Roles, []string{"ACCESS_ROLE_TEAM_ADMIN", "ACCESS_ROLE_PLATFORM_ADMIN", "ACCESS_ROLE_AUDITOR"}) || time.Until(made.ExpireTime) < 24*time.Hour {
		t.Errorf("--json: %+v", made)
	}
	keys = append(keys, made.Secret)
	if code, out, errs = command(t, "bootstrap", "--again", "--quiet", "--config", file); code != 0 || !onlyToken.MatchString(strings.TrimSuffix(out, "\n")) || errs != "" {
		t.Errorf("--quiet: exit code %d, %s%s", code, out, errs)
	}
	keys = append(keys, strings.TrimSpace(out))
	if keys[0] == keys[1] || keys[1] == keys[2] {
		t.Errorf("the same key twice")
	}
	return keys[2]
}

// administer has an admin make a team whose client calls, with a key that only the database knows.
func administer(t *testing.T, p *program, key string) {
	t.Helper()
	admin := dial(t, p.admin, key).conn
	teams, keys := chatsvcv1.NewTeamServiceClient(admin), chatsvcv1.NewKeyServiceClient(admin)
	eventually(t, 5*time.Second, "the key is known to a server that was running", func() bool {
		_, err := teams.ListTeams(t.Context(), &chatsvcv1.ListTeamsRequest{})
		return err == nil
	})
	if _, err := teams.CreateTeam(t.Context(), &chatsvcv1.CreateTeamRequest{TeamId: "checkout", Team: &chatsvcv1.Team{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := teams.CreateClient(t.Context(), &chatsvcv1.CreateClientRequest{Parent: "teams/checkout", ClientId: "web", Client: &chatsvcv1.Client{}}); err != nil {
		t.Fatal(err)
	}
	made, err := keys.CreateKey(t.Context(), &chatsvcv1.CreateKeyRequest{Parent: "teams/checkout/clients/web", Key: &chatsvcv1.Key{}})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.dial(t, made.GetSecret()).say(t, "", `[[sim answer="Four."]]`); got != "Four." {
		t.Errorf("answered %q", got)
	}
	_, err = p.dial(t, key).chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Text: "hi"})
	wantReason(t, err, codes.PermissionDenied, "ROLE_MISSING")
	if containsAny(p.logs.String(), key, made.GetSecret()) {
		t.Error("a key is in the log")
	}
}
