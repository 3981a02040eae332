package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/conversation/sqlstore"
	"github.com/chatsvc/chatsvc/internal/telemetry"
)

// migrateCommand groups the commands about the database's schema.
type migrateCommand struct {
	Up     migrateUpCommand     `cmd:"" help:"Bring the schema up to date."`
	Status migrateStatusCommand `cmd:"" help:"Say which schema the database has and which one this program needs; exit code 1 if it is to be migrated."`
}

// database reads the configuration as far as it is about the database: a job that migrates has no keys.
func (s *settings) database() (*config.Config, error) { return config.LoadDatabase(s.source()) }

// migrateUpCommand migrates.
type migrateUpCommand struct {
	settings
}

// Run brings the schema up to date and prints what it was and is.
func (c *migrateUpCommand) Run(ctx context.Context, std stdio) error {
	cfg, err := c.database()
	if err != nil {
		return err
	}
	options := sqlstore.Options{Logger: telemetry.NewLogger(std.err, cfg.Log.Level, cfg.Log.Format == config.LogText)}
	var from, to int64
	if path, isSQLite := cfg.SQLitePath(); isSQLite {
		from, to, err = sqlstore.MigrateSQLite(ctx, path, options)
	} else {
		from, to, err = sqlstore.MigratePostgres(ctx, cfg.DatabaseURL.Reveal(), options)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(std.out, "%s: schema %d, was %d\n", cfg.RedactedDatabase(), to, from)
	return err
}

// migrateStatusCommand looks.
type migrateStatusCommand struct {
	settings
}

// Run prints the version of the schema, have and want.
func (c *migrateStatusCommand) Run(ctx context.Context, std stdio) error {
	cfg, err := c.database()
	if err != nil {
		return err
	}
	var have, want int64
	if path, isSQLite := cfg.SQLitePath(); isSQLite {
		have, want, err = sqlstore.SQLiteSchema(ctx, path)
	} else {
		have, want, err = sqlstore.PostgresSchema(ctx, cfg.DatabaseURL.Reveal())
	}
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(std.out, "%s\n  have  %d\n  want  %d\n", cfg.RedactedDatabase(), have, want); err != nil {
		return err
	}
	if have < want {
		return errors.New("the schema is older than this program: run `chatsvc migrate up`")
	}
	return nil
}
