package tenant

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	// singlesPerSecond and singlesAtOnce are how many denials of one client get an entry each, strangersAtOnce of all
	// credentials that do not work, which have the same rate.
	singlesPerSecond = 1
	singlesAtOnce    = 20
	strangersAtOnce  = 100
	// maxSingles is how many clients are told apart at a time; all others share what strangers have.
	maxSingles = 1000
)

// singles decides which denials get an entry each, so that nobody makes the audit grow without bound: neither who has no
// credential that works, nor who has one. It goes by client, for a client can have many credentials. It is safe for concurrent
// use.
type singles struct {
	strangers *rate.Limiter

	mu       sync.Mutex
	byClient map[[2]string]*rate.Limiter // by team and client
}

func newSingles() *singles {
	return &singles{
		strangers: rate.NewLimiter(singlesPerSecond, strangersAtOnce),
		byClient:  make(map[[2]string]*rate.Limiter),
	}
}

func (s *singles) allow(e Entry, now time.Time) bool { return s.of(e, now).AllowN(now, 1) }

func (s *singles) of(e Entry, now time.Time) *rate.Limiter {
	if e.Actor == (Actor{}) || !letIn(e.Reason) {
		return s.strangers
	}
	client := [2]string{e.Actor.Team, e.Actor.Client}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.byClient[client]
	if l == nil {
		if len(s.byClient) == maxSingles {
			s.forget(now)
		}
		if len(s.byClient) == maxSingles {
			return s.strangers
		}
		l = rate.NewLimiter(singlesPerSecond, singlesAtOnce)
		s.byClient[client] = l
	}
	return l
}

// forget drops those that are as new.
func (s *singles) forget(now time.Time) {
	for client, l := range s.byClient {
		if l.TokensAt(now) >= singlesAtOnce {
			delete(s.byClient, client)
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
