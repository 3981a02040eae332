package service

import (
	"context"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// callerService says of every method that it is not implemented, with the reason that the generated
// UnimplementedCallerServiceServer leaves out.
type callerService struct {
	chatsvcv1.UnsafeCallerServiceServer
}

var _ chatsvcv1.CallerServiceServer = callerService{}

func (callerService) GetCaller(context.Context, *chatsvcv1.GetCallerRequest) (*chatsvcv1.Caller, error) {
	return nil, notImplemented("GetCaller")
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
