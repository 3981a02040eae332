package service

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/interceptor"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

func TestGetCaller(t *testing.T) {
	expires := time.Now().Add(time.Hour)
	roles := tenant.RolesOf(tenant.RoleViewer, tenant.RoleAuditor)
	p := auth.Principal{
		Team: "red", Client: "web", CredentialID: "key:abc", Roles: roles, AllowedModels: []string{"m", "n"}, ExpireTime: expires,
	}
	got, err := callerService{}.GetCaller(auth.NewContext(t.Context(), p), &chatsvcv1.GetCallerRequest{})
	want := &chatsvcv1.Caller{
		Team: "teams/red", Client: "teams/red/clients/web", Credential: "key:abc", AllowedModels: []string{"m", "n"},
		Roles:      []chatsvcv1.AccessRole{chatsvcv1.AccessRole_ACCESS_ROLE_VIEWER, chatsvcv1.AccessRole_ACCESS_ROLE_AUDITOR},
		ExpireTime: timestamppb.New(expires), Methods: interceptor.Methods(roles),
	}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	for method, may := range map[string]bool{
		"chatsvc.v1.CallerService/GetCaller":       true,
		"chatsvc.v1.ChatService/GetTurn":           true,
		"chatsvc.v1.AuditService/ListAuditEntries": true,
		"chatsvc.v1.ChatService/CreateTurn":        false,
		"chatsvc.v1.KeyService/CreateKey":          false,
	} {
		if slices.Contains(got.GetMethods(), method) != may {
			t.Errorf("%s is allowed: %t", method, !may)
		}
	}

	p = auth.Principal{Team: "red", Client: "web"} // whose credential has no end, and no role
	got, err = callerService{}.GetCaller(auth.NewContext(t.Context(), p), &chatsvcv1.GetCallerRequest{})
	if err != nil || got.GetExpireTime() != nil || len(got.GetRoles())+len(got.GetAllowedModels()) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}
