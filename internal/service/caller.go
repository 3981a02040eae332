package service

import (
	"context"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/interceptor"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// callerService says of all methods but GetCaller that they are not implemented, with the reason that the generated
// UnimplementedCallerServiceServer leaves out.
type callerService struct {
	chatsvcv1.UnsafeCallerServiceServer
}

var _ chatsvcv1.CallerServiceServer = callerService{}

func (callerService) GetCaller(ctx context.Context, _ *chatsvcv1.GetCallerRequest) (*chatsvcv1.Caller, error) {
	p, err := principal(ctx)
	if err != nil {
		return nil, err
	}
	return &chatsvcv1.Caller{
		Team: tenant.TeamName(p.Team), Client: tenant.ClientName(p.Team, p.Client), Roles: rolesToProto(p.Roles), ExpireTime: timeToProto(p.ExpireTime),
		AllowedModels: p.AllowedModels, Credential: p.CredentialID, Methods: interceptor.Methods(p.Roles),
	}, nil
}

func (callerService) ListEffectiveLimits(context.Context, *chatsvcv1.ListEffectiveLimitsRequest) (*chatsvcv1.ListEffectiveLimitsResponse, error) {
	return nil, notImplemented("ListEffectiveLimits")
}

func (callerService) QueryUsage(context.Context, *chatsvcv1.QueryUsageRequest) (*chatsvcv1.QueryUsageResponse, error) {
	return nil, notImplemented("QueryUsage")
}

func (callerService) ListModels(context.Context, *chatsvcv1.ListModelsRequest) (*chatsvcv1.ListModelsResponse, error) {
	return nil, notImplemented("ListModels")
}
