package main

import (
	"context"

	"google.golang.org/grpc"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// whoamiCommand asks the service who calls.
type whoamiCommand struct {
	output
	connection `set:"address=localhost:50051" set:"variable=CHATSVC_ADDRESS" set:"callee=chatsvc"` //nolint:staticcheck // kong takes one tag for each variable
}

// Run prints who calls. The methods that it may call are in --json only.
func (c *whoamiCommand) Run(ctx context.Context, std stdio) error {
	conn, err := c.dial(grpc.WithUnaryInterceptor(c.explaining()))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it only fails when closed already
	return show(std, c.output, []column[*chatsvcv1.Caller]{
		{"CLIENT", func(c *chatsvcv1.Caller) string { return short(c.GetClient()) }},
		{"ROLES", func(c *chatsvcv1.Caller) string { return roleNames(c.GetRoles()) }},
		{"ENDS", func(c *chatsvcv1.Caller) string { return utc(c.GetExpireTime()) }},
		{"MODELS", func(c *chatsvcv1.Caller) string { return orAll(c.GetAllowedModels()) }},
		{"CREDENTIAL", (*chatsvcv1.Caller).GetCredential},
	}, one(chatsvcv1.NewCallerServiceClient(conn).GetCaller(ctx, &chatsvcv1.GetCallerRequest{})))
}
