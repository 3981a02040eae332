package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/telemetry"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// bootstrapCommand makes the first admin's key, in the database itself: who can write that is let in, and there is no
// password to begin with.
type bootstrapCommand struct {
	settings
	Again bool `help:"Make one more admin's key although there is one that works, as where the last one is lost."`
	JSON  bool `name:"json" xor:"form" help:"Print the key as JSON."`
	Quiet bool `xor:"form" help:"Print the key and nothing else."`
}

// Run makes the key and prints it. It is in no log.
func (c *bootstrapCommand) Run(ctx context.Context, std stdio) (err error) {
	cfg, err := c.database()
	if err != nil {
		return err
	}
	logger := telemetry.NewLogger(std.err, max(cfg.Log.Level, slog.LevelWarn), cfg.Log.Format == config.LogText)
	store, err := openStore(ctx, cfg, logger)
	if err != nil {
		if _, isSQLite := cfg.SQLitePath(); isSQLite {
			return fmt.Errorf("%w\na server that uses the file has to be stopped first; or a key is made with an admin's: chatsvc keys create", err)
		}
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	key, token, err := tenant.NewRegistry(store, tenant.NewDirectory(store, logger)).Bootstrap(ctx, c.Again)
	switch {
	case errors.Is(err, conversation.ErrInvalidState):
		return fmt.Errorf("%w; --again makes one more key", err)
	case err != nil:
		return fmt.Errorf("make an admin's key: %w", err)
	}
	switch {
	case c.Quiet:
		_, err = fmt.Fprintln(std.out, token)
	case c.JSON:
		err = json.NewEncoder(std.out).Encode(map[string]any{
			"name": fmt.Sprintf("teams/%s/clients/%s/keys/%s", key.Team, key.Client, key.ID),
			"key":  token, "roles": key.Roles, "expire_time": key.ExpireTime,
		})
	default:
		_, err = fmt.Fprintf(std.out, `%s

This is the key of teams/%s/clients/%s, until %s. It is shown this once: keep it where
secrets are kept. Start the service, and with CHATSVC_KEY set to it:

  chatsvc teams create TEAM --client CLIENT
  chatsvc keys create TEAM/CLIENT
`, token, key.Team, key.Client, key.ExpireTime.UTC().Format(time.DateTime+" MST"))
	}
	return err
}
