package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// settings are the flags that override the configuration. A flag that is not given is not a setting.
type settings struct {
	Config       string  `help:"Read the configuration from this YAML file." placeholder:"FILE" type:"path"`
	Dev          *bool   `help:"Try it on this machine: no key, no set-up, loopback only."`
	Listen       *string `help:"Where callers connect." placeholder:"HOST:PORT"`
	AdminListen  *string `help:"Where the service is managed, and /livez and /readyz answer." placeholder:"HOST:PORT"`
	DatabaseURL  *string `name:"database-url" help:"Where conversations are kept." placeholder:"URL"`
	DefaultModel *string `help:"The model of a request that names none." placeholder:"MODEL"`
	Upstream     *string `help:"Who answers: openai or simulator." placeholder:"MODE"`
	LogLevel     *string `help:"debug, info, warn or error." placeholder:"LEVEL"`
	LogFormat    *string `help:"json or text." placeholder:"FORMAT"`
}

// load reads the configuration: file, environment, flags.
func (s *settings) load() (*config.Config, error) { return config.Load(s.source()) }

// source returns where the configuration is read from.
func (s *settings) source() config.Source {
	flags := make(map[string]string)
	for name, value := range map[string]*string{
		"listen": s.Listen, "admin_listen": s.AdminListen, "database_url": s.DatabaseURL, "default_model": s.DefaultModel,
		"upstream.mode": s.Upstream, "log.level": s.LogLevel, "log.format": s.LogFormat,
	} {
		if value != nil {
			flags[name] = *value
		}
	}
	if s.Dev != nil {
		flags["dev"] = fmt.Sprint(*s.Dev)
	}
	// What `chatsvc chat` reads is no setting of the service, and no mistake in its environment either.
	return config.Source{File: s.Config, Environ: os.Environ(), OtherEnv: chatEnvironment(), Flags: flags}
}

// configCommand groups the commands about the configuration.
type configCommand struct {
	Check configCheckCommand `cmd:"" help:"Say whether the settings make sense, and what they are."`
}

// configCheckCommand checks the configuration.
type configCheckCommand struct {
	settings
}

// Run prints the configuration as the service would use it, without secrets. It reads the files that are named in it, and asks
// nobody over the network.
func (c *configCheckCommand) Run(ctx context.Context, std stdio) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	nowhere := slog.New(slog.DiscardHandler)
	if _, err := cfg.Upstream.KeySource(nowhere); err != nil {
		return err
	}
	if cfg.TLS.CertFile != "" {
		if _, err := newCertificates(cfg.TLS, nowhere); err != nil {
			return err
		}
	}
	offline, stop := context.WithCancel(ctx)
	stop()
	if _, err := auth.New(offline, gateOptions(cfg.Auth, tenant.NewDirectory(nil, nowhere), nowhere)); err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	for _, a := range cfg.LogValue().Group() {
		if _, err := fmt.Fprintf(std.out, "%-32s %s\n", a.Key, a.Value); err != nil {
			return err
		}
	}
	return nil
}
