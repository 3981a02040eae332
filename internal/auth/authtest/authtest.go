// Package authtest is the suite that every authenticator passes.
package authtest

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// Subject is an authenticator, and credentials of one kind to try it with.
type Subject struct {
	Authenticator auth.Authenticator
	// Registry and Directory are what the authenticator knows teams and clients from, with those of Principal; nil if it
	// knows them from nowhere.
	Registry  *tenant.Registry
	Directory *tenant.Directory

	// Valid is let in, and is Principal.
	Valid     auth.Credential
	Principal auth.Principal
	// Strangers are credentials that are nobody's: malformed, unknown, or nearly right.
	Strangers map[string]auth.Credential
	// Refused are complete credentials that are not let in all the same.
	Refused map[string]Refusal
}

// Refusal is what becomes of a credential.
type Refusal struct {
	Credential auth.Credential
	Reason     conversation.Reason
	// Principal is returned with those reasons that only its owner learns.
	Principal auth.Principal
}

// Run tries what start returns, once for each case.
func Run(t *testing.T, start func(t *testing.T) *Subject) {
	t.Helper()
	for name, test := range map[string]func(trial){
		"valid":      trial.valid,
		"missing":    trial.missing,
		"strangers":  trial.strangers,
		"refusals":   trial.refusals,
		"disabled":   trial.disabled,
		"concurrent": trial.concurrent,
		"cancelled":  trial.cancelled,
	} {
		t.Run(name, func(t *testing.T) { test(trial{start(t), t}) })
	}
}

// trial is one case.
type trial struct {
	*Subject
	t *testing.T
}

func (s trial) valid() {
	for range 3 { // the first may leave something behind that the next ones find
		s.admitted(s.Valid)
	}
	id := s.Principal.CredentialID
	if id == "" || len(id) > 600 || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		s.t.Errorf("credential id %q is not short visible ASCII", id)
	}
	s.refused("its id", Refusal{Credential: auth.Credential{Bearer: id}, Reason: conversation.CredentialInvalid})
}

func (s trial) missing() {
	s.refused("nothing", Refusal{Credential: auth.Credential{Source: s.Valid.Source}, Reason: conversation.CredentialMissing})
}

func (s trial) strangers() {
	if len(s.Strangers) < 2 {
		s.t.Fatal("there are no strangers to compare")
	}
	texts := make(map[string]string)
	for _, when := range []string{"before a valid one", "after a valid one"} {
		for name, c := range s.Strangers {
			texts[s.refused(name, Refusal{Credential: c, Reason: conversation.CredentialInvalid})] = name + " " + when
		}
		s.admitted(s.Valid)
	}
	if len(texts) != 1 {
		s.t.Errorf("strangers can be told from one another: %v", texts)
	}
}

func (s trial) refusals() {
	for name, r := range s.Refused {
		s.t.Run(name, func(t *testing.T) {
			for range 2 {
				trial{s.Subject, t}.refused(name, r)
			}
		})
	}
	s.admitted(s.Valid)
}

func (s trial) disabled() {
	if s.Registry == nil {
		return // nobody can be disabled where nobody is known
	}
	by := tenant.Entry{Action: "test", Actor: tenant.Actor{Team: "test"}}
	p := s.Principal
	for what, disable := range map[string]func(disabled bool) error{
		"team": func(disabled bool) error {
			_, err := s.Registry.UpdateTeam(s.t.Context(), by, p.Team, 0, func(team *tenant.Profile) { team.Disabled = disabled })
			return err
		},
		"client": func(disabled bool) error {
			_, err := s.Registry.UpdateClient(
				s.t.Context(), by, tenant.RolesOf(tenant.RolePlatformAdmin), p.Team, p.Client, 0,
				func(c *tenant.Profile) { c.Disabled = disabled })
			return err
		},
	} {
		s.admitted(s.Valid)
		for _, disabled := range []bool{true, false} {
			if err := disable(disabled); err != nil {
				s.t.Fatalf("%s: %v", what, err)
			}
			if _, err := s.Directory.Refresh(s.t.Context()); err != nil {
				s.t.Fatal(err)
			}
			if disabled {
				s.refused("the valid one", Refusal{Credential: s.Valid, Reason: conversation.CredentialRevoked, Principal: p})
			} else {
				s.admitted(s.Valid)
			}
		}
	}
}

func (s trial) concurrent() {
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 20 {
				s.admitted(s.Valid)
				for name, c := range s.Strangers {
					s.refused(name, Refusal{Credential: c, Reason: conversation.CredentialInvalid})
				}
				for name, r := range s.Refused {
					s.refused(name, r)
				}
			}
		})
	}
	callers.Wait()
}

// cancelled is about calls that nobody waits for any more: they may be let in, or not be looked at, but no stranger
// is let in.
func (s trial) cancelled() {
	ctx, cancel := context.WithCancel(s.t.Context())
	cancel()
	p, err := s.Authenticator.Authenticate(ctx, s.Valid)
	if err == nil && !reflect.DeepEqual(p, s.Principal) || err != nil && s.reasonOf(err) != conversation.StoreUnavailable {
		s.t.Errorf("the valid one: %+v, %v", p, err)
	}
	for name, c := range s.Strangers {
		if p, err := s.Authenticator.Authenticate(ctx, c); err == nil || !reflect.DeepEqual(p, auth.Principal{}) {
			s.t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	s.admitted(s.Valid) // the next call does not suffer
}

// admitted checks that a credential is let in as Principal.
func (s trial) admitted(c auth.Credential) {
	s.t.Helper()
	p, err := s.Authenticator.Authenticate(s.t.Context(), c)
	if err != nil || !reflect.DeepEqual(p, s.Principal) {
		s.t.Errorf("got %+v, %v, want %+v", p, err, s.Principal)
	}
}

// refused checks what becomes of a credential, and returns the text of the error.
func (s trial) refused(what string, r Refusal) string {
	s.t.Helper()
	p, err := s.Authenticator.Authenticate(s.t.Context(), r.Credential)
	if err == nil {
		s.t.Errorf("%s is let in as %+v", what, p)
		return ""
	}
	if got := s.reasonOf(err); got != r.Reason {
		s.t.Errorf("%s: error %v, want %s", what, err, r.Reason)
	}
	if !reflect.DeepEqual(p, r.Principal) {
		s.t.Errorf("%s: principal %+v beside the error, want %+v", what, p, r.Principal)
	}
	if part := Repeats(err, r.Credential); part != "" {
		s.t.Errorf("%s: the error repeats %q of the credential: %v", what, part, err)
	}
	return err.Error()
}

func (s trial) reasonOf(err error) conversation.Reason {
	s.t.Helper()
	e, ok := errors.AsType[*conversation.Error](err)
	if !ok {
		s.t.Errorf("%T is not a *conversation.Error: %v", err, err)
		return ""
	}
	return e.Reason
}

// Repeats returns a part of a credential that an error's text holds, and "" if there is none. A part is 8 bytes of the
// bearer token, the whole of a shorter one, or a name in the certificate.
func Repeats(err error, c auth.Credential) string {
	var parts []string
	if n := min(len(c.Bearer), 8); n > 3 {
		for i := range len(c.Bearer) - n + 1 {
			parts = append(parts, c.Bearer[i:i+n])
		}
	}
	if c.Certificate != nil {
		parts = append(parts, c.Certificate.Subject.CommonName)
		parts = append(parts, c.Certificate.DNSNames...)
		for _, uri := range c.Certificate.URIs {
			parts = append(parts, uri.String())
		}
	}
	text := err.Error()
	for _, part := range parts {
		if part != "" && strings.Contains(text, part) {
			return part
		}
	}
	return ""
}
