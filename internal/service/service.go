// Package service holds the gRPC handlers: requests become domain values, domain values become answers, and domain
// errors become statuses. It decides nothing else.
package service

import (
	"context"

	"google.golang.org/grpc"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
	"github.com/chatsvc/chatsvc/internal/turn"
)

// Store is what the handlers need of conversation.Store.
type Store interface {
	CreateConversation(ctx context.Context, c *conversation.Conversation) error
	ForkConversation(ctx context.Context, c *conversation.Conversation, from, turn conversation.ID) error
	GetConversation(ctx context.Context, team string, id conversation.ID) (*conversation.Conversation, error)
	ListConversations(ctx context.Context, team string, before conversation.ID, limit int) ([]*conversation.Conversation, error)
	UpdateConversation(ctx context.Context, c *conversation.Conversation) (*conversation.Conversation, error)
	DeleteConversation(ctx context.Context, team string, id conversation.ID, version conversation.Version) error
	ListMessages(ctx context.Context, team string, id conversation.ID, before conversation.Place, from int64, limit, maxBytes int) ([]*conversation.StoredMessage, error)
	GetTurn(ctx context.Context, team string, id conversation.ID, content bool) (*conversation.Turn, error)
	ListTurns(ctx context.Context, team string, filter conversation.TurnFilter, before conversation.ID, limit int) ([]*conversation.Turn, error)
	DeleteTurn(ctx context.Context, team string, id conversation.ID) error
}

var _ Store = conversation.Store(nil)

// engine is what the handlers need of *turn.Engine.
type engine interface {
	Start(ctx context.Context, r *turn.Request) (reader, error)
	Watch(ctx context.Context, team string, id conversation.ID, after int64) (reader, error)
	Cancel(ctx context.Context, team string, id conversation.ID) (*conversation.Turn, error)
}

// reader is what the handlers need of *turn.Reader.
type reader interface {
	Turn() conversation.ID
	Next(ctx context.Context) ([]conversation.Event, error)
	End(ctx context.Context) (*conversation.Turn, error)
	Close()
}

var _ reader = (*turn.Reader)(nil)

// turnEngine is a turn.Engine whose readers are seen as interfaces.
type turnEngine struct{ *turn.Engine }

// Start is Engine.Start.
func (e turnEngine) Start(ctx context.Context, r *turn.Request) (reader, error) {
	rd, err := e.Engine.Start(ctx, r)
	if err != nil {
		return nil, err // and not an interface that holds a nil *turn.Reader
	}
	return rd, nil
}

// Watch is Engine.Watch.
func (e turnEngine) Watch(ctx context.Context, team string, id conversation.ID, after int64) (reader, error) {
	rd, err := e.Engine.Watch(ctx, team, id, after)
	if err != nil {
		return nil, err
	}
	return rd, nil
}

// Register registers ChatService, ConversationService and CallerService. The server's interceptors must have put an
// auth.Principal into the context, checked the request against the rules in the proto, and pass the handlers' errors through
// ToStatus: handlers return domain errors, whose causes only the log may see.
func Register(r grpc.ServiceRegistrar, e *turn.Engine, store Store) {
	register(r, turnEngine{e}, store)
}

func register(r grpc.ServiceRegistrar, e engine, store Store) {
	chatsvcv1.RegisterChatServiceServer(r, &chatService{engine: e, store: store})
	chatsvcv1.RegisterConversationServiceServer(r, &conversationService{engine: e, store: store})
	chatsvcv1.RegisterCallerServiceServer(r, callerService{})
}

// AuditReader is what the handlers need of tenant.Store.
type AuditReader interface {
	Entries(ctx context.Context, f tenant.EntryFilter, limit int) ([]*tenant.Entry, error)
	Head(ctx context.Context) (tenant.Head, error)
}

var _ AuditReader = tenant.Store(nil)

// RegisterControl registers TeamService, KeyService and AuditService: they ask of the interceptors what Register asks, and
// that the caller has one of the roles that the proto asks for. Which teams it sees with them, they decide themselves.
func RegisterControl(r grpc.ServiceRegistrar, registry *tenant.Registry, audit AuditReader) {
	chatsvcv1.RegisterTeamServiceServer(r, &teamService{registry: registry})
	chatsvcv1.RegisterKeyServiceServer(r, &keyService{registry: registry})
	chatsvcv1.RegisterAuditServiceServer(r, &auditService{audit: audit})
}

// principal returns who calls. A call without one has passed no authentication, and is refused like one without a
// credential.
func principal(ctx context.Context) (auth.Principal, error) {
	p, ok := auth.FromContext(ctx)
	if !ok || p.Team == "" {
		return p, conversation.Errorf(conversation.CredentialMissing, "the call carries no credential")
	}
	return p, nil
}

// named returns who calls, and what the call names in a field.
func named(ctx context.Context, collection, field, name string) (auth.Principal, conversation.ID, error) {
	p, err := principal(ctx)
	if err != nil {
		return p, conversation.ID{}, err
	}
	id, err := parseName(collection, field, name)
	return p, id, err
}
