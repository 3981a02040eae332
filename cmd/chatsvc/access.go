package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/config"
	"github.com/chatsvc/chatsvc/internal/conversation/sqlstore"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// access is who may call, and the record of who may not.
type access struct {
	registry *tenant.Registry
	auditor  *tenant.Auditor
	gate     *auth.Gate
}

// startAccess reads who may call, and has it follow the database until the end.
func (s *server) startAccess(ctx context.Context, store *sqlstore.DB) (*access, error) {
	directory := tenant.NewDirectory(store, s.logger)
	view, err := directory.Refresh(ctx)
	if err != nil {
		return nil, fmt.Errorf("read who may call: %w", err)
	}
	a := &access{registry: tenant.NewRegistry(store, directory), auditor: tenant.NewAuditor(store, s.logger)}
	// The auditor writes what it still has when it is told to end.
	running := s.background(ctx, directory.Run, directory.RemindOfEnds, a.auditor.Run)
	if a.gate, err = auth.New(running, gateOptions(s.cfg.Auth, directory, s.logger)); err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	if who := s.cfg.Auth; len(who.APIKeys)+len(who.Certificates)+len(who.JWT) == 0 && !anyKey(view, time.Now()) {
		s.logger.WarnContext(ctx, "nobody may call: no key is in the database and none in the configuration; "+
			"make the first admin's with `chatsvc bootstrap`")
	}
	return a, nil
}

// anyKey reports whether there is a key that has not ended.
func anyKey(view *tenant.View, now time.Time) bool {
	for _, team := range view.Teams() {
		for _, key := range view.Keys(team.ID, "") {
			if !key.Ended(now) {
				return true
			}
		}
	}
	return false
}

func gateOptions(who config.Auth, directory *tenant.Directory, logger *slog.Logger) auth.Options {
	o := auth.Options{Directory: directory, Logger: logger}
	for _, k := range who.APIKeys {
		o.APIKeys = append(o.APIKeys, auth.APIKey(k))
	}
	for _, c := range who.Certificates {
		o.Certificates = append(o.Certificates, auth.CertificateRule(c))
	}
	for _, j := range who.JWT {
		o.Issuers = append(o.Issuers, auth.Issuer(j))
	}
	return o
}
