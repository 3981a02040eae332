package main

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/certtest"
)

// trust is how a client with an optional certificate reaches a server of ca.
func trust(t *testing.T, ca *certtest.Authority, clients ...certtest.Pair) *tls.Config {
	t.Helper()
	c := &tls.Config{RootCAs: ca.Pool()}
	for _, p := range clients {
		// Whatever authorities the server names: a client of another one tries, too.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &p.TLS, nil }
	}
	return c
}

func overTLS(c *tls.Config) grpc.DialOption {
	return grpc.WithTransportCredentials(credentials.NewTLS(c))
}

// handshake returns what a server presents to somebody who connects.
func handshake(t *testing.T, address string, c *tls.Config) (*tls.ConnectionState, error) {
	t.Helper()
	conn, err := (&tls.Dialer{Config: c}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	state := conn.(*tls.Conn).ConnectionState()
	return &state, nil
}

func get(t *testing.T, c *tls.Config, url string) (status int, body string, err error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: c}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(url)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

const redRule = "  certificates:\n    - {san: 'spiffe://example.org/red/web', team: red, client: web, roles: [caller, team_admin]}\n"

// withRules adds rules to the section auth of a configuration.
func withRules(t *testing.T, file, rules string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, strings.Replace(string(text), "auth:\n", "auth:\n"+rules, 1))
}

// serveTLS runs a service with TLS of files, and a rule for the team red.
func serveTLS(t *testing.T, yaml string) *program {
	t.Helper()
	_, baseURL := simulate(t)
	file := writeConfig(t, t.TempDir(), baseURL, yaml)
	withRules(t, file, redRule)
	return launch(t, "serve", "--config", file)
}

// Both listeners speak TLS and nothing else, and a certificate is a credential on both.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := certtest.New(t, "ours"), certtest.New(t, "a stranger's")
	files := newTLSFiles(t)
	files.put(t, lasting(t, ca), ca)
	p := serveTLS(t, files.yaml())
	anyone, red := trust(t, ca), trust(t, ca, ca.Issue(t, "spiffe://example.org/red/web"))

	for _, path := range []string{"/livez", "/readyz"} {
		if status, body, err := get(t, anyone, "https://"+p.admin+path); status != http.StatusOK || body != "ok\n" || err != nil {
			t.Errorf("%s: %d %q %v", path, status, body, err)
		}
	}
	for _, address := range []string{p.data, p.admin} {
		// No call, however made, gets through in the clear.
		_, err := healthpb.NewHealthClient(dial(t, address, redKey).conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s in the clear: %v", address, err)
		}
		old := anyone.Clone()
		old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		if _, err := handshake(t, address, old); err == nil {
			t.Errorf("%s speaks TLS 1.1", address)
		}
		if _, err := healthpb.NewHealthClient(dial(t, address, "", overTLS(anyone)).conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Errorf("health of %s: %v", address, err)
		}
		_, err = healthpb.NewHealthClient(dial(t, address, "", overTLS(trust(t, ca, stranger.Issue(t, "spiffe://example.org/red/web")))).conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s takes a stranger's certificate: %v", address, err)
		}
	}
	if status, _, err := get(t, nil, "http://"+p.admin+"/livez"); status != http.StatusBadRequest || err != nil {
		t.Errorf("plain HTTP on the admin listener: %d, %v; want a word", status, err)
	}

	// Who it is: the key's, the certificate's, the key's although there is a certificate, and nobody.
	whoami := func(key string, config *tls.Config) (string, error) {
		me, err := dial(t, p.data, key, overTLS(config)).caller.GetCaller(t.Context(), &chatsvcv1.GetCallerRequest{})
		return me.GetTeam() + " " + me.GetCredential(), err
	}
	for _, tt := range []struct {
		key    string
		config *tls.Config
		want   string
	}{
		{blueKey, anyone, "teams/blue sha256:"},
		{"", red, "teams/red cert:spiffe://example.org/red/web"},
		{blueKey, red, "teams/blue sha256:"},
	} {
		if got, err := whoami(tt.key, tt.config); err != nil || !strings.HasPrefix(got, tt.want) {
			t.Errorf("key %q: %s, %v; want %s", tt.key, got, err, tt.want)
		}
	}
	_, err := whoami("", anyone)
	wantReason(t, err, codes.Unauthenticated, "CREDENTIAL_MISSING")
	_, err = whoami("no key", red)
	wantReason(t, err, codes.Unauthenticated, "CREDENTIAL_INVALID")
	_, err = whoami("", trust(t, ca, ca.Issue(t, "spiffe://example.org/red/batch")))
	wantReason(t, err, codes.Unauthenticated, "CREDENTIAL_INVALID")

	// And on the admin listener, behind net/http.
	admin := dial(t, p.admin, "", overTLS(red)).conn
	if _, err := chatsvcv1.NewAuditServiceClient(admin).ListAuditEntries(t.Context(), &chatsvcv1.ListAuditEntriesRequest{}); err != nil {
		t.Errorf("the team's audit: %v", err)
	}
	_, err = chatsvcv1.NewKeyServiceClient(admin).ListKeys(t.Context(), &chatsvcv1.ListKeysRequest{Parent: "teams/blue/clients/web"})
	wantReason(t, err, codes.NotFound, "NOT_FOUND")
	_, err = chatsvcv1.NewTeamServiceClient(admin).CreateTeam(t.Context(), &chatsvcv1.CreateTeamRequest{TeamId: "green", Team: &chatsvcv1.Team{}})
	wantReason(t, err, codes.PermissionDenied, "ROLE_MISSING")
}

// With require_client_cert nobody gets in without one, but for probes.
func TestClientCertificateRequired(t *testing.T) {
	t.Parallel()
	ca := certtest.New(t, "ours")
	files := newTLSFiles(t)
	files.put(t, lasting(t, ca), ca)
	_, baseURL := simulate(t)
	file := writeConfig(t, t.TempDir(), baseURL, strings.Replace(files.yaml(), "}", ", require_client_cert: true}", 1))
	withRules(t, file, strings.Replace(redRule, "team_admin", "auditor", 1))
	p := launch(t, "serve", "--config", file)
	anyone, red := trust(t, ca), trust(t, ca, ca.Issue(t, "spiffe://example.org/red/web"))
	check := func(address string, config *tls.Config) error {
		_, err := healthpb.NewHealthClient(dial(t, address, redKey, overTLS(config)).conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		return err
	}
	for address, code := range map[string]codes.Code{p.data: codes.Unavailable, p.admin: codes.OK} {
		if err := check(address, anyone); status.Code(err) != code {
			t.Errorf("health of %s without a certificate: %v, want %v", address, err, code)
		}
		if err := check(address, red); err != nil {
			t.Errorf("health of %s with one: %v", address, err)
		}
	}
	// A good key does not make up for it, and whoever tries leaves a trace.
	_, err := chatsvcv1.NewTeamServiceClient(dial(t, p.admin, redKey, overTLS(anyone)).conn).ListTeams(t.Context(), &chatsvcv1.ListTeamsRequest{})
	wantReason(t, err, codes.Unauthenticated, "CREDENTIAL_MISSING")
	if !strings.Contains(status.Convert(err).Message(), "client certificate") {
		t.Errorf("it says %v", err)
	}
	eventually(t, 10*time.Second, "the line of the call", func() bool {
		return slices.ContainsFunc(strings.Split(p.logs.String(), "\n"), func(line string) bool {
			return strings.Contains(line, "TeamService/ListTeams") && strings.Contains(line, "CREDENTIAL_MISSING")
		})
	})
	audit := chatsvcv1.NewAuditServiceClient(dial(t, p.admin, "", overTLS(red)).conn)
	page, err := audit.ListAuditEntries(t.Context(), &chatsvcv1.ListAuditEntriesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if entries := page.GetAuditEntries(); len(entries) != 1 || entries[0].GetReason() != "CREDENTIAL_MISSING" ||
		entries[0].GetAction() != "chatsvc.v1.TeamService/ListTeams" || entries[0].GetSource() != "127.0.0.1" {
		t.Errorf("the audit has %v", entries)
	}
	if status, body, err := get(t, anyone, "https://"+p.admin+"/readyz"); status != http.StatusOK || err != nil {
		t.Errorf("/readyz: %d %q %v", status, body, err)
	}
}

// A new certificate and other authorities are in use soon, for new connections; those that stand do not notice.
func TestTLSReload(t *testing.T) {
	t.Parallel()
	const id = "spiffe://example.org/red/web"
	before, after := certtest.New(t, "before"), certtest.New(t, "after")
	files := newTLSFiles(t)
	files.put(t, lasting(t, before), before)
	p := serveTLS(t, files.yaml())

	call := func(c *client) error {
		_, err := c.caller.GetCaller(t.Context(), &chatsvcv1.GetCallerRequest{})
		return err
	}
	standing := dial(t, p.data, "", overTLS(trust(t, before, before.Issue(t, id))))
	stream, err := standing.chat.StreamTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Text: "[[sim ttft=3s answer=\"Four.\"]]"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	busy := make(chan error, 1)
	go func() { // calls, on connections of their own and on one that stands, all the while
		both := trust(t, before)
		both.RootCAs.AddCert(after.TLS.Leaf)
		for ctx.Err() == nil {
			c := dial(t, p.data, redKey, overTLS(both))
			if err := call(c); err != nil {
				busy <- err
				return
			}
			_ = c.conn.Close()
			if err := call(standing); err != nil {
				busy <- err
				return
			}
		}
		busy <- nil
	}()

	next := lasting(t, after)
	files.put(t, next, after)
	for _, address := range []string{p.data, p.admin} {
		eventually(t, 10*time.Second, "the new certificate on "+address, func() bool {
			state, err := handshake(t, address, trust(t, after))
			return err == nil && state.PeerCertificates[0].Equal(next.TLS.Leaf)
		})
	}
	if err := call(dial(t, p.data, "", overTLS(trust(t, after, after.Issue(t, id))))); err != nil {
		t.Errorf("a client of the new authority: %v", err)
	}
	if err := call(dial(t, p.data, "", overTLS(trust(t, after, before.Issue(t, id))))); status.Code(err) != codes.Unavailable {
		t.Errorf("a client of the old authority: %v", err)
	}
	stop()
	if err := <-busy; err != nil {
		t.Errorf("a call failed meanwhile: %v", err)
	}
	if _, err := collect(stream); err != nil {
		t.Errorf("a stream broke: %v", err)
	}
	if !strings.Contains(p.logs.String(), "certificate reloaded") || strings.Contains(p.logs.String(), "PRIVATE") {
		t.Errorf("the log:\n%s", p.logs)
	}
}
