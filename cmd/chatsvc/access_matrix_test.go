package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

const (
	roleCaller    = chatsvcv1.AccessRole_ACCESS_ROLE_CALLER
	roleViewer    = chatsvcv1.AccessRole_ACCESS_ROLE_VIEWER
	roleTeamAdmin = chatsvcv1.AccessRole_ACCESS_ROLE_TEAM_ADMIN
	rolePlatform  = chatsvcv1.AccessRole_ACCESS_ROLE_PLATFORM_ADMIN
	roleAuditor   = chatsvcv1.AccessRole_ACCESS_ROLE_AUDITOR
)

// platformKey is the key of the platform's administrators, who may do everything on the control plane.
const platformKey = "key-of-the-platform"

// governed is yaml for a configuration with the platform's key. It begins where the list of keys ends.
func governed(yaml string) string {
	return fmt.Sprintf("    - {sha256: %s, team: platform, client: admin, roles: [platform_admin, team_admin, auditor]}\n%s",
		sha256Hex(platformKey), yaml)
}

// governor is a caller of the control plane.
type governor struct {
	conn  *grpc.ClientConn
	teams chatsvcv1.TeamServiceClient
	keys  chatsvcv1.KeyServiceClient
	audit chatsvcv1.AuditServiceClient
}

func govern(conn *grpc.ClientConn) *governor {
	return &governor{conn, chatsvcv1.NewTeamServiceClient(conn), chatsvcv1.NewKeyServiceClient(conn), chatsvcv1.NewAuditServiceClient(conn)}
}

// governs returns a caller of the control plane with a key.
func (p *program) governs(t *testing.T, key string) *governor {
	t.Helper()
	return govern(dial(t, p.admin, key).conn)
}

// newTeam makes a team with the client web.
func (g *governor) newTeam(t *testing.T, id string) {
	t.Helper()
	if _, err := g.teams.CreateTeam(t.Context(), &chatsvcv1.CreateTeamRequest{TeamId: id}); err != nil {
		t.Fatalf("make the team %s: %v", id, err)
	}
	g.newClient(t, id, "web")
}

func (g *governor) newClient(t *testing.T, team, id string) {
	t.Helper()
	_, err := g.teams.CreateClient(t.Context(), &chatsvcv1.CreateClientRequest{Parent: "teams/" + team, ClientId: id})
	if err != nil {
		t.Fatalf("make the client %s of %s: %v", id, team, err)
	}
}

// newKey makes a key for a client, `team/client`.
func (g *governor) newKey(t *testing.T, client string, key *chatsvcv1.Key) *chatsvcv1.Key {
	t.Helper()
	team, id, _ := strings.Cut(client, "/")
	made, err := g.keys.CreateKey(t.Context(), &chatsvcv1.CreateKeyRequest{Parent: "teams/" + team + "/clients/" + id, Key: key})
	if err != nil {
		t.Fatalf("make a key for %s: %v", client, err)
	}
	return made
}

// keyWith makes a key with some roles, and returns what to present.
func (g *governor) keyWith(t *testing.T, client string, roles ...chatsvcv1.AccessRole) string {
	t.Helper()
	return g.newKey(t, client, &chatsvcv1.Key{Roles: roles}).GetSecret()
}

// rpc is a method of chatsvc's own, and who may call it.
type rpc struct {
	method protoreflect.MethodDescriptor
	access *chatsvcv1.Access
	admin  bool // it is served on the admin listener
}

// name returns the method as the audit has it.
func (m rpc) name() string {
	return string(m.method.Parent().FullName()) + "/" + string(m.method.Name())
}

func (m rpc) admits(role chatsvcv1.AccessRole) bool {
	return m.access.GetAnyRole() || slices.Contains(m.access.GetRoles(), role)
}

// call makes the call with a message, which is empty if it is nil, and returns the first answer.
func (m rpc) call(ctx context.Context, conn *grpc.ClientConn, request proto.Message) (proto.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if request == nil {
		request = dynamicpb.NewMessage(m.method.Input())
	}
	answer := dynamicpb.NewMessage(m.method.Output())
	if !m.method.IsStreamingClient() && !m.method.IsStreamingServer() {
		return answer, conn.Invoke(ctx, "/"+m.name(), request, answer)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: m.method.IsStreamingClient()}, "/"+m.name())
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) { // EOF: RecvMsg says why
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	if err := stream.RecvMsg(answer); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return answer, nil
}

// rpcs returns every method of the package, as the protos have it: also those of later releases.
func rpcs(t *testing.T, p *program) (all []rpc) {
	t.Helper()
	data, admin := services(t, p.data, platformKey), services(t, p.admin, platformKey)
	protoregistry.GlobalFiles.RangeFilesByPackage("chatsvc.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			name := string(service.FullName())
			if slices.Contains(data, name) == slices.Contains(admin, name) {
				t.Errorf("%s is served on both listeners, or on none", name)
			}
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				access, _ := proto.GetExtension(method.Options(), chatsvcv1.E_Access).(*chatsvcv1.Access)
				if len(access.GetRoles()) == 0 && !access.GetAnyRole() {
					t.Errorf("nobody may call %s", method.FullName())
				}
				all = append(all, rpc{method, access, slices.Contains(admin, name)})
			}
		}
		return true
	})
	if len(all) < 34 {
		t.Fatalf("only %d methods were found", len(all))
	}
	return all
}

// services returns what a server says that it serves.
func services(t *testing.T, target, key string) (names []string) {
	t.Helper()
	answer, err := reflected(t, dial(t, target, key).conn)
	if err != nil {
		t.Fatalf("which services are at %s: %v", target, err)
	}
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return names
}

func reflected(t *testing.T, conn *grpc.ClientConn) (*reflectionpb.ServerReflectionResponse, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	// If the answer came first, Recv has it.
	err = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return stream.Recv()
}

// presented is what a call is made with, and what it gets.
type presented struct {
	name          string
	authorization []string
	code          codes.Code
	reason        string
}

func bearer(token string) []string { return []string{"Bearer " + token} }

// Every method, on both listeners, refuses whoever it does not admit, with the one right reason, and nobody else: so say the
// protos, and so it is answered.
func TestAccess(t *testing.T) {
	t.Parallel()
	p := serve(t, governed("log:\n  level: error\n"))
	platform := p.governs(t, platformKey)
	for _, team := range []string{"red", "closed"} {
		platform.newTeam(t, team)
	}
	platform.newClient(t, "red", "closed")
	bad := badCredentials(t, platform)
	data, admin := dial(t, p.data, ""), dial(t, p.admin, "")
	to := func(m rpc) *grpc.ClientConn {
		if m.admin {
			return admin.conn
		}
		return data.conn
	}
	with := func(authorization []string) context.Context {
		return metadata.NewOutgoingContext(t.Context(), metadata.MD{"authorization": authorization})
	}

	keys := make(map[string]string) // by roles
	keyWith := func(roles ...chatsvcv1.AccessRole) []string {
		id := fmt.Sprint(roles)
		if keys[id] == "" {
			keys[id] = platform.keyWith(t, "red/web", roles...)
		}
		return bearer(keys[id])
	}
	roles := []chatsvcv1.AccessRole{roleCaller, roleViewer, roleTeamAdmin, rolePlatform, roleAuditor}
	calls := 0
	var unknown *status.Status
	check := func(m rpc, c presented) {
		calls++
		_, err := m.call(with(c.authorization), to(m), nil)
		if err == nil {
			t.Errorf("%s with %s is let in", m.name(), c.name)
			return
		}
		if strings.HasPrefix(c.name, "unknown key") { // one that nearly fits is answered as one that fits nothing
			if unknown == nil {
				unknown = status.Convert(err)
			}
			if !proto.Equal(status.Convert(err).Proto(), unknown.Proto()) {
				t.Errorf("%s with %s answers %v, and with another one %v", m.name(), c.name, err, unknown)
			}
		}
		if code, got := reason(t, err); code != c.code || got != c.reason {
			t.Errorf("%s with %s: %v, want %v / %s", m.name(), c.name, err, c.code, c.reason)
		}
	}
	methods := rpcs(t, p)
	for _, m := range methods {
		for _, c := range bad {
			check(m, c)
		}
		var forbidden []chatsvcv1.AccessRole
		for _, role := range roles {
			if !m.admits(role) {
				forbidden = append(forbidden, role)
				check(m, presented{role.String(), keyWith(role), codes.PermissionDenied, "ROLE_MISSING"})
				continue
			}
			calls++
			switch _, err := m.call(with(keyWith(role)), to(m), nil); status.Code(err) {
			case codes.Unauthenticated, codes.PermissionDenied, codes.Unavailable, codes.Internal, codes.Unknown, codes.DeadlineExceeded:
				t.Errorf("%s with %v: %v", m.name(), role, err)
			default: // the message is empty: what becomes of it does not matter here
			}
		}
		if len(forbidden) > 1 {
			check(m, presented{fmt.Sprint(forbidden), keyWith(forbidden...), codes.PermissionDenied, "ROLE_MISSING"})
		}
	}
	t.Logf("%d calls of %d methods", calls, len(methods))

	// Who asks what they may do is told just that.
	for _, role := range roles {
		var want []string
		for _, m := range methods {
			if m.admits(role) {
				want = append(want, m.name())
			}
		}
		slices.Sort(want)
		caller, err := data.caller.GetCaller(with(keyWith(role)), &chatsvcv1.GetCallerRequest{})
		if err != nil || !slices.Equal(caller.GetMethods(), want) || !slices.Equal(caller.GetRoles(), []chatsvcv1.AccessRole{role}) {
			t.Errorf("%v may call %v with %v, %v\nwant %v", role, caller.GetMethods(), caller.GetRoles(), err, want)
		}
	}

	if calls := p.simulator.Stats().Calls; calls != 0 {
		t.Errorf("%d upstream calls", calls)
	}
}

// badCredentials makes the credentials that nobody lets in, and waits until they are what they should be.
func badCredentials(t *testing.T, platform *governor) []presented {
	t.Helper()
	everything := &chatsvcv1.Key{Roles: []chatsvcv1.AccessRole{roleCaller, roleViewer, roleTeamAdmin, rolePlatform, roleAuditor}}
	with := func(change func(*chatsvcv1.Key)) *chatsvcv1.Key {
		k := proto.CloneOf(everything)
		change(k)
		return k
	}
	good := platform.newKey(t, "red/web", everything)
	another := platform.newKey(t, "red/web", everything)
	revoked := platform.newKey(t, "red/web", everything)
	expired := platform.newKey(t, "red/web", with(func(k *chatsvcv1.Key) { k.ExpireTime = timestamppb.New(time.Now().Add(time.Second)) }))
	elsewhere := platform.newKey(t, "red/web", with(func(k *chatsvcv1.Key) { k.AllowedCidrs = []string{"10.0.0.0/8", "2001:db8::/32"} }))
	ofClient := platform.newKey(t, "red/closed", everything)
	ofTeam := platform.newKey(t, "closed/web", everything)

	if _, err := platform.keys.RevokeKey(t.Context(), &chatsvcv1.RevokeKeyRequest{Name: revoked.GetName()}); err != nil {
		t.Fatal(err)
	}
	_, err := platform.teams.UpdateClient(t.Context(), &chatsvcv1.UpdateClientRequest{
		Client: &chatsvcv1.Client{Name: "teams/red/clients/closed", Disabled: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = platform.teams.UpdateTeam(t.Context(), &chatsvcv1.UpdateTeamRequest{Team: &chatsvcv1.Team{Name: "teams/closed", Disabled: true}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the key has expired", func() bool {
		k, err := platform.keys.GetKey(t.Context(), &chatsvcv1.GetKeyRequest{Name: expired.GetName()})
		return err == nil && k.GetState() == chatsvcv1.KeyState_KEY_STATE_EXPIRED
	})

	// The other's secret behind the one's id.
	id, _, _ := strings.Cut(strings.TrimPrefix(good.GetSecret(), "csk_"), "_")
	_, secret, _ := strings.Cut(strings.TrimPrefix(another.GetSecret(), "csk_"), "_")
	const denied, unauthenticated = codes.PermissionDenied, codes.Unauthenticated
	return []presented{
		{"no credential", nil, unauthenticated, "CREDENTIAL_MISSING"},
		{"an empty header", []string{""}, unauthenticated, "CREDENTIAL_MISSING"},
		{"another scheme", []string{"Basic " + good.GetSecret()}, unauthenticated, "CREDENTIAL_INVALID"},
		{"no scheme", []string{good.GetSecret()}, unauthenticated, "CREDENTIAL_INVALID"},
		{"two spaces", []string{"Bearer  " + good.GetSecret()}, unauthenticated, "CREDENTIAL_INVALID"},
		{"two headers", slices.Concat(bearer(good.GetSecret()), bearer(good.GetSecret())), unauthenticated, "CREDENTIAL_INVALID"},
		{"unknown key", bearer("nobodys-key"), unauthenticated, "CREDENTIAL_INVALID"},
		{"unknown key of the right form", bearer("csk_" + strings.Repeat("a", 16) + "_" + secret), unauthenticated, "CREDENTIAL_INVALID"},
		{"unknown key: another's secret", bearer("csk_" + id + "_" + secret), unauthenticated, "CREDENTIAL_INVALID"},
		{"unknown key: cut short", bearer(good.GetSecret()[:len(good.GetSecret())-1]), unauthenticated, "CREDENTIAL_INVALID"},
		{"unknown key: in upper case", bearer(strings.ToUpper(good.GetSecret())), unauthenticated, "CREDENTIAL_INVALID"},
		{"unknown key: the digest", bearer(sha256Hex(good.GetSecret())), unauthenticated, "CREDENTIAL_INVALID"},
		{"expired key", bearer(expired.GetSecret()), unauthenticated, "CREDENTIAL_EXPIRED"},
		{"revoked key", bearer(revoked.GetSecret()), unauthenticated, "CREDENTIAL_REVOKED"},
		{"disabled client", bearer(ofClient.GetSecret()), unauthenticated, "CREDENTIAL_REVOKED"},
		{"disabled team", bearer(ofTeam.GetSecret()), unauthenticated, "CREDENTIAL_REVOKED"},
		{"address not allowed", bearer(elsewhere.GetSecret()), denied, "IP_NOT_ALLOWED"},
	}
}

// Health is everybody's. What there is to call is only for those with a credential, unless the configuration says otherwise.
func TestAccessToHealthAndReflection(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]codes.Code{"authenticated": codes.Unauthenticated, "open": codes.OK, "off": codes.Unimplemented} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			p := serve(t, governed("reflection: \""+setting+"\"\nlog:\n  level: error\n"))
			for _, target := range []string{p.data, p.admin} {
				stranger := dial(t, target, "")
				if _, err := healthpb.NewHealthClient(stranger.conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
					t.Errorf("health at %s: %v", target, err)
				}
				_, err := reflected(t, stranger.conn)
				if status.Code(err) != want {
					t.Errorf("reflection at %s: %v, want %v", target, err, want)
				}
				if want == codes.Unauthenticated {
					wantReason(t, err, codes.Unauthenticated, "CREDENTIAL_MISSING")
				}
				wantWithKey := codes.OK
				if setting == "off" {
					wantWithKey = codes.Unimplemented
				}
				if _, err = reflected(t, dial(t, target, redKey).conn); status.Code(err) != wantWithKey {
					t.Errorf("reflection at %s with a key: %v, want %v", target, err, wantWithKey)
				}
			}
		})
	}
}
