package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/telemetry"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// bootstrapCommand makes the first admin's key, in the database itself: who can write that is let in, and there is no
// password to begin with.
type bootstrapCommand struct {
	settings
	Again bool `help:"Make one more admin's key although there is one that works, as where the last one is lost; and enable the team and client that it is of."`
	keyOutput
}

// Run makes the key and prints it, as keys create does. It is in no log.
func (c *bootstrapCommand) Run(ctx context.Context, std stdio) (err error) {
	cfg, err := c.database()
	if err != nil {
		return err
	}
	logger := telemetry.NewLogger(std.err, max(cfg.Log.Level, slog.LevelWarn), cfg.Log.Format == config.LogText)
	store, err := openStore(ctx, cfg, logger, true)
	if err != nil {
		if _, isSQLite := cfg.SQLitePath(); isSQLite {
			return fmt.Errorf("%w\na server that uses the file has to be stopped first; or a key is made with an admin's: chatsvc keys create", err)
		}
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	key, token, err := tenant.NewRegistry(store, tenant.NewDirectory(store, logger)).Bootstrap(ctx, c.Again)
	if refused, ok := errors.AsType[*conversation.Error](err); ok && refused.Reason == conversation.InvalidState && !c.Again {
		return fmt.Errorf("%s (%s); --again makes a key all the same", refused.Message, refused.Reason)
	}
	if err != nil {
		return fmt.Errorf("make an admin's key: %w", err)
	}
	made := &chatsvcv1.Key{
		Name: key.Name(), DisplayName: key.DisplayName, State: chatsvcv1.KeyState_KEY_STATE_ACTIVE, Secret: token,
		ExpireTime: timestamppb.New(key.ExpireTime), CreateTime: timestamppb.New(key.CreateTime),
	}
	for _, role := range key.Roles.List() {
		made.Roles = append(made.Roles, chatsvcv1.AccessRole(role))
	}
	if err := c.print(std, made, ""); err != nil || c.Quiet {
		return err
	}
	fmt.Fprint(std.err, `Keep it where secrets are kept. Start the service, and with CHATSVC_KEY set to it:

  chatsvc teams create TEAM --client CLIENT
  chatsvc keys create TEAM/CLIENT
`)
	return nil
}
