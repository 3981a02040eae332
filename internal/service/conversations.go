package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	// maxTries bounds how often a write without an etag is repeated when others keep writing in between.
	maxTries = 8
	// maxCancels bounds how many turns are cancelled to delete a conversation: those that wait, those on branches, and those
	// that others start meanwhile.
	maxCancels = 8 * conversation.MaxQueued
	// maxExpiry bounds how far away expire_time is. Time is stored in nanoseconds, which end in the year 2262.
	maxExpiry = 100 * 365 * 24 * time.Hour
)

// conversationService is ConversationService.
type conversationService struct {
	chatsvcv1.UnsafeConversationServiceServer

	engine engine
	store  Store
}

var _ chatsvcv1.ConversationServiceServer = (*conversationService)(nil)

func (s *conversationService) CreateConversation(ctx context.Context, in *chatsvcv1.CreateConversationRequest) (*chatsvcv1.Conversation, error) {
	p, err := principal(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkSize("", in, maxConversationBytes); err != nil {
		return nil, err
	}
	spec, err := specFromProto(in.GetConversation())
	switch {
	case err != nil:
		return nil, err
	case in.GetConversation().GetHeadTurn() != "":
		return nil, invalid("conversation.head_turn", "cannot be set in a new conversation, which has no turns")
	}
	now := time.Now()
	expire, err := expiryFromProto(in.GetConversation(), now)
	if err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	c := &conversation.Conversation{ID: id, Team: p.Team, Spec: spec, CreateTime: now, ExpireTime: expire}
	if err := s.store.CreateConversation(ctx, c); err != nil {
		return nil, err
	}
	return conversationToProto(c), nil
}

func newID() (conversation.ID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return conversation.ID{}, fmt.Errorf("make a conversation's id: %w", err)
	}
	return conversation.ID(id), nil
}

// expiryFromProto returns when a conversation is to expire; zero for never.
func expiryFromProto(in *chatsvcv1.Conversation, now time.Time) (time.Time, error) {
	if in.GetExpireTime() == nil {
		return time.Time{}, nil
	}
	expire := in.GetExpireTime().AsTime()
	switch {
	case in.GetExpireTime().CheckValid() != nil:
		return time.Time{}, invalid("conversation.expire_time", "must be a time")
	case !expire.After(now):
		return time.Time{}, invalid("conversation.expire_time", "must be in the future")
	case expire.After(now.Add(maxExpiry)):
		return time.Time{}, invalid("conversation.expire_time", "must be within 100 years; leave it unset for never")
	default:
		return expire, nil
	}
}

func (s *conversationService) GetConversation(ctx context.Context, in *chatsvcv1.GetConversationRequest) (*chatsvcv1.Conversation, error) {
	p, id, err := named(ctx, conversations, "name", in.GetName())
	if err != nil {
		return nil, err
	}
	c, err := s.store.GetConversation(ctx, p.Team, id)
	if err != nil {
		return nil, err
	}
	return conversationToProto(c), nil
}

func (s *conversationService) ListConversations(ctx context.Context, in *chatsvcv1.ListConversationsRequest) (*chatsvcv1.ListConversationsResponse, error) {
	p, err := principal(ctx)
	if err != nil {
		return nil, err
	}
	q := newQuery("ListConversations", p.Team)
	before, err := q.beforeID(in.GetPageToken())
	if err != nil {
		return nil, err
	}
	page, last, err := fillPage(before, pageSize(in.GetPageSize()), maxRead,
		func(before conversation.ID, limit int) ([]*conversation.Conversation, error) {
			return s.store.ListConversations(ctx, p.Team, before, limit)
		},
		func(c *conversation.Conversation) conversation.ID { return c.ID },
		conversationToProto)
	if err != nil {
		return nil, err
	}
	return &chatsvcv1.ListConversationsResponse{Conversations: page, NextPageToken: q.idToken(last)}, nil
}

func (s *conversationService) UpdateConversation(ctx context.Context, in *chatsvcv1.UpdateConversationRequest) (*chatsvcv1.Conversation, error) {
	c, err := s.update(ctx, in)
	if err != nil {
		return nil, err
	}
	return conversationToProto(c), nil
}

func (s *conversationService) update(ctx context.Context, in *chatsvcv1.UpdateConversationRequest) (*conversation.Conversation, error) {
	p, id, err := named(ctx, conversations, "conversation.name", in.GetConversation().GetName())
	if err != nil {
		return nil, err
	}
	paths, err := maskPaths(in.GetUpdateMask().GetPaths(), in.GetConversation())
	if err != nil {
		return nil, err
	}
	if err := checkSize("", in, maxConversationBytes); err != nil {
		return nil, err
	}
	version, conditional := parseEtag(in.GetConversation().GetEtag())
	now := time.Now()
	for range maxTries {
		c, err := s.store.GetConversation(ctx, p.Team, id)
		if err != nil {
			return nil, err
		}
		if conditional && version != c.Version {
			return nil, conversation.ErrEtagMismatch
		}
		if err := change(c, in.GetConversation(), paths, now); err != nil {
			return nil, err
		}
		head := c.HeadTurn
		c, err = s.store.UpdateConversation(ctx, c)
		switch {
		case !conditional && errors.Is(err, conversation.ErrEtagMismatch):
			continue
		case slices.Contains(paths, "head_turn"):
			return c, aboutTurnIn("conversation.head_turn", head, err)
		}
		return c, err
	}
	return nil, conversation.ErrEtagMismatch
}

// change applies the paths of an update to c. The spec is checked as a whole: its parts can come from different calls.
func change(c *conversation.Conversation, in *chatsvcv1.Conversation, paths []string, now time.Time) error {
	changed := specToProto(&c.Spec)
	applyMask(changed, in, paths)
	var err error
	if slices.Contains(paths, "head_turn") {
		if c.HeadTurn, err = parseName(turns, "conversation.head_turn", changed.GetHeadTurn()); err != nil {
			return aboutTurnIn("conversation.head_turn", conversation.ID{}, err)
		}
	}
	if slices.Contains(paths, "expire_time") {
		if c.ExpireTime, err = expiryFromProto(changed, now); err != nil {
			return err
		}
	}
	changed.HeadTurn, changed.ExpireTime = "", nil
	if err := checkSize("conversation.", changed, maxConversationBytes); err != nil {
		return err
	}
	c.Spec, err = specFromProto(changed)
	return err
}

// DeleteConversation checks the etag before it cancels what runs and waits: a refused call must not have cancelled
// anything.
func (s *conversationService) DeleteConversation(ctx context.Context, in *chatsvcv1.DeleteConversationRequest) (*emptypb.Empty, error) {
	p, id, err := named(ctx, conversations, "name", in.GetName())
	if err != nil {
		return nil, err
	}
	version, conditional := parseEtag(in.GetEtag())
	c, err := s.store.GetConversation(ctx, p.Team, id)
	if err != nil {
		return nil, err
	}
	if conditional && version != c.Version {
		return nil, conversation.ErrEtagMismatch
	}
	for range maxCancels {
		if err = s.store.DeleteConversation(ctx, p.Team, id, version); err == nil {
			return &emptypb.Empty{}, nil
		}
		busy, ok := errors.AsType[*conversation.Error](err)
		if !ok || busy.Reason != conversation.ConversationBusy || busy.Turn.IsZero() {
			return nil, err
		}
		if _, err := s.engine.Cancel(ctx, p.Team, busy.Turn); err != nil && !errors.Is(err, conversation.ErrNotFound) {
			return nil, aboutTurn(err, busy.Turn)
		}
	}
	return nil, err
}

func (s *conversationService) ListMessages(ctx context.Context, in *chatsvcv1.ListMessagesRequest) (*chatsvcv1.ListMessagesResponse, error) {
	p, id, err := named(ctx, conversations, "parent", in.GetParent())
	if err != nil {
		return nil, err
	}
	q := newQuery("ListMessages", p.Team, in.GetParent(), in.GetTurn())
	from, err := q.fromOffset(in.GetPageToken())
	if err != nil {
		return nil, err
	}
	var turn conversation.ID
	if in.GetTurn() != "" {
		if turn, err = parseName(turns, "turn", in.GetTurn()); err != nil {
			return nil, aboutTurnIn("turn", turn, err)
		}
	}
	end, err := s.endOf(ctx, p.Team, id, turn)
	if err != nil {
		return nil, err
	}
	stored, err := s.store.ListMessages(ctx, p.Team, id, end, from, pageSize(in.GetPageSize()), maxPageBytes)
	if err != nil {
		return nil, err
	}
	out := &chatsvcv1.ListMessagesResponse{}
	next, total := from, 0
	for _, m := range stored {
		message := messageToProto(&m.Message)
		if total += proto.Size(message); total > maxPageBytes && len(out.Messages) > 0 {
			break
		}
		out.Messages = append(out.Messages, message)
		next = m.Position + 1
	}
	if len(out.Messages) > 0 && next < end.Position {
		out.NextPageToken = q.offsetToken(next)
	}
	return out, nil
}

// endOf returns where the line of a conversation ends that goes up to a turn, or the main line where turn is zero. The head
// turn of a fork may be another conversation's, whose end only the fork's head tells.
func (s *conversationService) endOf(ctx context.Context, team string, id, turn conversation.ID) (conversation.Place, error) {
	c, err := s.store.GetConversation(ctx, team, id)
	if err != nil {
		return conversation.Place{}, err
	}
	if turn.IsZero() || turn == c.HeadTurn {
		return c.Head, nil
	}
	t, err := s.store.GetTurn(ctx, team, turn, false)
	switch {
	case err != nil:
	case t.Conversation != id:
		err = conversation.ErrNotFound
	case !t.State.Ended():
		err = conversation.ErrInvalidState
	default:
		return t.End, nil
	}
	return conversation.Place{}, aboutTurnIn("turn", turn, err)
}

func (s *conversationService) ForkConversation(ctx context.Context, in *chatsvcv1.ForkConversationRequest) (*chatsvcv1.Conversation, error) {
	p, from, err := named(ctx, conversations, "name", in.GetName())
	if err != nil {
		return nil, err
	}
	var turn conversation.ID
	if in.GetTurn() != "" {
		if turn, err = parseName(turns, "turn", in.GetTurn()); err != nil {
			return nil, aboutTurnIn("turn", turn, err)
		}
	}
	source, err := s.store.GetConversation(ctx, p.Team, from)
	if err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	c := &conversation.Conversation{ID: id, Team: p.Team, Spec: source.Spec, CreateTime: time.Now()}
	if err := s.store.ForkConversation(ctx, c, from, turn); err != nil {
		if turn.IsZero() {
			return nil, err // The conversation was deleted meanwhile.
		}
		return nil, aboutTurnIn("turn", turn, err)
	}
	return conversationToProto(c), nil
}

// formatEtag returns the etag of a conversation's version.
func formatEtag(v conversation.Version) string { return fmt.Sprintf("%x-%x", v.Spec, v.Head) }

// parseEtag returns the version of an etag; zero and false for none. What no version is formatted as gives a version
// that no conversation has.
func parseEtag(etag string) (conversation.Version, bool) {
	var v conversation.Version
	if etag == "" {
		return v, false
	}
	if _, err := fmt.Sscanf(etag, "%x-%x", &v.Spec, &v.Head); err != nil || formatEtag(v) != etag || v.Spec < 1 || v.Head < 1 {
		return conversation.Version{Spec: -1, Head: -1}, true
	}
	return v, true
}
