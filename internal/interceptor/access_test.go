package interceptor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

var everyRole = tenant.RolesOf(tenant.RoleCaller, tenant.RoleViewer, tenant.RoleTeamAdmin, tenant.RolePlatformAdmin, tenant.RoleAuditor)

// options is the options of a method with the option access.
func options(a *chatsvcv1.Access) *descriptorpb.MethodOptions {
	o := &descriptorpb.MethodOptions{}
	proto.SetExtension(o, chatsvcv1.E_Access, a)
	return o
}

// lateService returns a file of our package with a service of one method.
func lateService(t *testing.T, o *descriptorpb.MethodOptions) protoreflect.FileDescriptor {
	t.Helper()
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name:        new("chatsvc/v1/late.proto"),
		Package:     new("chatsvc.v1"),
		Syntax:      new("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: new("LateMessage")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: new("LateService"),
			Method: []*descriptorpb.MethodDescriptorProto{{
				Name:       new("Call"),
				InputType:  new(".chatsvc.v1.LateMessage"),
				OutputType: new(".chatsvc.v1.LateMessage"),
				Options:    o,
			}},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestReadAccess(t *testing.T) {
	const caller, auditor = chatsvcv1.AccessRole_ACCESS_ROLE_CALLER, chatsvcv1.AccessRole_ACCESS_ROLE_AUDITOR
	tests := []struct {
		name    string
		options *descriptorpb.MethodOptions
		want    access
		fault   string
	}{
		{name: "no options", fault: "is missing"},
		{name: "other options", options: &descriptorpb.MethodOptions{Deprecated: new(true)}, fault: "is missing"},
		{name: "empty", options: options(&chatsvcv1.Access{}), fault: "either roles or any_role"},
		{
			name:    "contradictory",
			options: options(&chatsvcv1.Access{AnyRole: true, Roles: []chatsvcv1.AccessRole{caller}}),
			fault:   "either roles or any_role",
		},
		{
			name:    "the role that nobody has",
			options: options(&chatsvcv1.Access{Roles: []chatsvcv1.AccessRole{caller, 0}}),
			fault:   "names ACCESS_ROLE_UNSPECIFIED",
		},
		{name: "a role of the future", options: options(&chatsvcv1.Access{Roles: []chatsvcv1.AccessRole{6}}), fault: "names 6"},
		{name: "a negative role", options: options(&chatsvcv1.Access{Roles: []chatsvcv1.AccessRole{-1}}), fault: "names -1"},
		{
			name:    "roles",
			options: options(&chatsvcv1.Access{Roles: []chatsvcv1.AccessRole{caller, auditor}}),
			want:    access{roles: tenant.RolesOf(tenant.RoleCaller, tenant.RoleAuditor)},
		},
		{name: "any role", options: options(&chatsvcv1.Access{AnyRole: true}), want: access{anyRole: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := &protoregistry.Files{}
			if err := files.RegisterFile(lateService(t, tt.options)); err != nil {
				t.Fatal(err)
			}
			table, err := readAccess(files)
			if tt.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fault) || !strings.Contains(err.Error(), "chatsvc.v1.LateService/Call") {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := table["chatsvc.v1.LateService/Call"]; !ok || got != tt.want || len(table) != 1 {
				t.Errorf("table %v, want %v", table, tt.want)
			}
		})
	}
}

// TestNoStartWithoutAccess compiles, so to speak, a method without the option in. It takes a process of its own, because
// what is compiled in stays.
func TestNoStartWithoutAccess(t *testing.T) {
	const inner = "INTERCEPTOR_TEST_LATE_SERVICE"
	if os.Getenv(inner) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNoStartWithoutAccess$", "-test.v")
		cmd.Env = append(os.Environ(), inner+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestNoStartWithoutAccess") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := protoregistry.GlobalFiles.RegisterFile(lateService(t, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := ServerOptions(Options{}); err == nil || !strings.Contains(err.Error(), "chatsvc.v1.LateService/Call") {
		t.Errorf("ServerOptions returns %v", err)
	}
	if err := CheckServices(nil); err == nil || !strings.Contains(err.Error(), "chatsvc.v1.LateService/Call") {
		t.Errorf("CheckServices returns %v", err)
	}
	if got := Methods(everyRole); got != nil {
		t.Errorf("methods %v", got)
	}
}

// TestRolesAreTheProtos: the two enums have the same numbers and the same names.
func TestRolesAreTheProtos(t *testing.T) {
	for number, name := range chatsvcv1.AccessRole_name {
		if number == 0 {
			continue
		}
		want := strings.ToLower(strings.TrimPrefix(name, "ACCESS_ROLE_"))
		if got := tenant.Role(number).String(); got != want {
			t.Errorf("%d is %s there and %s here", number, want, got)
		}
	}
	if got, want := len(everyRole.List()), len(chatsvcv1.AccessRole_name)-1; got != want {
		t.Errorf("%d roles here, %d there", got, want)
	}
}

// TestPolicy looks at the table as those who answer for it do, not method by method.
func TestPolicy(t *testing.T) {
	table, err := readAccess(protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	if len(table) < 30 {
		t.Errorf("only %d methods", len(table))
	}
	for name, a := range table {
		descriptor, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(name, "/", ".")))
		if err != nil {
			t.Fatal(err)
		}
		method, _ := descriptor.Options().(*descriptorpb.MethodOptions)
		// A stream cannot be declared free of side effects, but this one is.
		reads := method.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS || name == "chatsvc.v1.ChatService/WatchTurn"
		service := serviceOf(name)
		said := service == "chatsvc.v1.ChatService" || service == "chatsvc.v1.ConversationService"

		for rule, broken := range map[string]bool{
			"who manages teams does not read what is said in them": said &&
				a.allows(tenant.RolesOf(tenant.RoleTeamAdmin, tenant.RolePlatformAdmin, tenant.RoleAuditor)),
			"who calls or views does not manage":  !said && !a.anyRole && a.allows(tenant.RolesOf(tenant.RoleCaller, tenant.RoleViewer)),
			"who views or audits changes nothing": !reads && a.allows(tenant.RolesOf(tenant.RoleViewer, tenant.RoleAuditor)),
			"only about themselves may all ask":   a.anyRole != (service == "chatsvc.v1.CallerService"),
		} {
			if broken {
				t.Errorf("%s (any role: %t; %s): %s", name, a.anyRole, a.roles, rule)
			}
		}
	}
}

func TestMethods(t *testing.T) {
	caller := Methods(tenant.RolesOf(tenant.RoleCaller))
	if !slices.IsSorted(caller) {
		t.Errorf("not in order: %v", caller)
	}
	for method, roles := range map[string]tenant.Roles{
		"chatsvc.v1.ChatService/CreateTurn":      tenant.RolesOf(tenant.RoleCaller),
		"chatsvc.v1.ChatService/GetTurn":         tenant.RolesOf(tenant.RoleCaller, tenant.RoleViewer),
		"chatsvc.v1.CallerService/GetCaller":     everyRole,
		"chatsvc.v1.TeamService/CreateTeam":      tenant.RolesOf(tenant.RolePlatformAdmin),
		"chatsvc.v1.AuditService/GetAuditHead":   tenant.RolesOf(tenant.RolePlatformAdmin, tenant.RoleAuditor),
		"chatsvc.v1.ChatService/MadeUp":          0,
		"grpc.health.v1.Health/Check":            0,
		"chatsvc.v1.ConversationService/GetTurn": 0,
	} {
		for _, role := range everyRole.List() {
			if got := slices.Contains(Methods(tenant.RolesOf(role)), method); got != roles.Has(role) {
				t.Errorf("%s may call %s: %t", role, method, got)
			}
		}
	}
	for _, method := range Methods(0) {
		if serviceOf(method) != "chatsvc.v1.CallerService" {
			t.Errorf("without a role one may call %s", method)
		}
	}
}

// TestExactMatch asks for what is nearly a method, with all roles there are.
func TestExactMatch(t *testing.T) {
	table, err := ownMethods()
	if err != nil {
		t.Fatal(err)
	}
	if err := table.check(chatsvcv1.ChatService_GetTurn_FullMethodName, everyRole); err != nil {
		t.Error(err)
	}
	for _, method := range []string{
		"", "/", "//", "/chatsvc.v1.ChatService", "/chatsvc.v1.ChatService/", "/chatsvc.v1.ChatService/GetTurn/",
		"//chatsvc.v1.ChatService/GetTurn", "/chatsvc.v1.ChatService//GetTurn", "/chatsvc.v1.ChatService/getTurn",
		"/chatsvc.v1.chatservice/GetTurn", "/chatsvc.v1.ChatService/GetTurn?", "/chatsvc.v1.ChatService/GetTurn\x00",
		"/chatsvc.v1.ChatService.GetTurn", "/ChatService/GetTurn", "/chatsvc.v2.ChatService/GetTurn", "/chatsvc.v1.ChatService/*",
		"/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/other.v1.Other/Call",
	} {
		err := table.check(method, everyRole)
		if !errors.Is(err, &conversation.Error{Reason: conversation.RoleMissing}) {
			t.Errorf("%q: %v", method, err)
		}
	}
}

func TestRefusalNamesTheRoles(t *testing.T) {
	table := accessTable{
		"a/One": {roles: tenant.RolesOf(tenant.RolePlatformAdmin)},
		"a/Two": {roles: tenant.RolesOf(tenant.RoleViewer, tenant.RoleCaller)},
	}
	for method, want := range map[string]string{
		"/a/One":   "this method needs a credential with the role platform_admin",
		"/a/Two":   "this method needs a credential with one of the roles caller, viewer",
		"/a/Three": "no role allows to call this method",
	} {
		var refusal *conversation.Error
		if err := table.check(method, tenant.RolesOf(tenant.RoleAuditor)); !errors.As(err, &refusal) || refusal.Message != want {
			t.Errorf("%s: %v, want %s", method, err, want)
		}
	}
}

// TestUndeclaredService serves what no proto of ours declares: the server says so before it starts, and, started
// nevertheless, refuses every call of it.
func TestUndeclaredService(t *testing.T) {
	declared := grpc.NewServer()
	chatsvcv1.RegisterChatServiceServer(declared, &chat{})
	chatsvcv1.RegisterAuditServiceServer(declared, chatsvcv1.UnimplementedAuditServiceServer{})
	healthpb.RegisterHealthServer(declared, health.NewServer())
	reflection.Register(declared)
	if err := CheckServices(declared.GetServiceInfo()); err != nil {
		t.Error(err)
	}

	err := CheckServices(map[string]grpc.ServiceInfo{
		"chatsvc.v1.ChatService":          {Methods: []grpc.MethodInfo{{Name: "CreateTurn"}, {Name: "Backdoor"}}},
		"debug.v1.Debug":                  {Methods: []grpc.MethodInfo{{Name: "Dump"}}},
		"grpc.health.v1.Health":           {Methods: []grpc.MethodInfo{{Name: "Check"}}},
		"grpc.reflection.v1.Serverology":  {Methods: []grpc.MethodInfo{{Name: "Reflect"}}},
		"grpc.health.v1.Health.Operation": {Methods: []grpc.MethodInfo{{Name: "Cut"}}},
	})
	if err == nil {
		t.Fatal("a server of strange services may start")
	}
	for _, name := range []string{
		"chatsvc.v1.ChatService/Backdoor", "debug.v1.Debug/Dump", "grpc.reflection.v1.Serverology/Reflect", "grpc.health.v1.Health.Operation/Cut",
	} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in: %v", name, err)
		}
	}
	if got := strings.Count(err.Error(), "is served"); got != 4 {
		t.Errorf("%d methods are named in: %v", got, err)
	}

	chain, err := newChain(&Options{Authenticator: &keyring{}})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(chain, func(l link) bool { return l.name == "auth" })
	_, err = chain[i].unary(incoming(t.Context(), "authorization", "Bearer sk-admin"), nil,
		&grpc.UnaryServerInfo{FullMethod: "/debug.v1.Debug/Dump"},
		func(context.Context, any) (any, error) { t.Error("it is called"); return nil, nil })
	if !errors.Is(err, &conversation.Error{Reason: conversation.RoleMissing}) {
		t.Errorf("a call of it answers %v", err)
	}
}
