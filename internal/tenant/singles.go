package tenant

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	// singlesPerSecond and singlesAtOnce are how many denials of one credential get an entry each, strangersAtOnce of all
	// that do not work, which have the same rate.
	singlesPerSecond = 1
	singlesAtOnce    = 20
	strangersAtOnce  = 100
	// maxSingles is how many credentials are told apart at a time; all others share what strangers have.
	maxSingles = 1000
)

// singles decides which denials get an entry each, so that nobody makes the audit grow without bound: neither who has no
// credential that works, nor who has one. It is safe for concurrent use.
type singles struct {
	strangers *rate.Limiter

	mu           sync.Mutex
	byCredential map[string]*rate.Limiter
}

func newSingles() *singles {
	return &singles{
		strangers:    rate.NewLimiter(singlesPerSecond, strangersAtOnce),
		byCredential: make(map[string]*rate.Limiter),
	}
}

func (s *singles) allow(e Entry, now time.Time) bool { return s.of(e, now).AllowN(now, 1) }

func (s *singles) of(e Entry, now time.Time) *rate.Limiter {
	if e.Actor.Credential == "" || !letIn(e.Reason) {
		return s.strangers
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.byCredential[e.Actor.Credential]
	if l == nil {
		if len(s.byCredential) == maxSingles {
			s.forget(now)
		}
		if len(s.byCredential) == maxSingles {
			return s.strangers
		}
		l = rate.NewLimiter(singlesPerSecond, singlesAtOnce)
		s.byCredential[e.Actor.Credential] = l
	}
	return l
}

// forget drops those that are as new.
func (s *singles) forget(now time.Time) {
	for credential, l := range s.byCredential {
		if l.TokensAt(now) >= singlesAtOnce {
			delete(s.byCredential, credential)
		}
	}
}

// letIn reports whether a denial for a reason is of a caller whose credential works. Of the others there can be as many as
// somebody likes: keys that have ended, and those that are used from where they may not be.
func letIn(reason string) bool {
	switch conversation.Reason(reason) {
	case conversation.CredentialMissing, conversation.CredentialInvalid, conversation.CredentialExpired,
		conversation.CredentialRevoked, conversation.IPNotAllowed:
		return false
	default:
		return true
	}
}
