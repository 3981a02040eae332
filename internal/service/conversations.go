package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
)

// maxTries bounds how often a write without an etag is repeated when others keep writing in between.
const maxTries = 8

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
		return nil, notImplemented("conversation.head_turn")
	case in.GetConversation().GetExpireTime() != nil:
		return nil, notImplemented("conversation.expire_time")
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make a conversation's id: %w", err)
	}
	c := &conversation.Conversation{ID: conversation.ID(id), Team: p.Team, Spec: spec, CreateTime: time.Now()}
	if err := s.store.CreateConversation(ctx, c); err != nil {
		return nil, err
	}
	return conversationToProto(c), nil
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
	page, last, err := fillPage(before, pageSize(in.GetPageSize()),
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
	for range maxTries {
		c, err := s.store.GetConversation(ctx, p.Team, id)
		if err != nil {
			return nil, err
		}
		if conditional && version != c.Version {
			return nil, conversation.ErrEtagMismatch
		}
		if err := change(c, in, paths); err != nil {
			return nil, err
		}
		c, err = s.store.UpdateConversation(ctx, c)
		if !conditional && errors.Is(err, conversation.ErrEtagMismatch) {
			continue
		}
		return c, err
	}
	return nil, conversation.ErrEtagMismatch
}

// change applies the paths of an update to c. The result is checked as a whole: its parts can come from different calls.
func change(c *conversation.Conversation, in *chatsvcv1.UpdateConversationRequest, paths []string) error {
	changed := specToProto(&c.Spec)
	applyMask(changed, in.GetConversation(), paths)
	if err := checkSize("conversation.", changed, maxConversationBytes); err != nil {
		return err
	}
	spec, err := specFromProto(changed)
	if err != nil {
		return err
	}
	if masked := in.GetUpdateMask().GetPaths(); len(masked) == 0 || masked[0] == "*" {
		switch head := in.GetConversation().GetHeadTurn(); {
		case head != "" && head != formatName(turns, c.HeadTurn): // The head as it was read is no wish.
			return notImplemented("conversation.head_turn")
		case in.GetConversation().GetExpireTime() != nil:
			return notImplemented("conversation.expire_time")
		}
	}
	c.Spec = spec
	return nil
}

// DeleteConversation checks the etag before it cancels the running turn: a refused call must not have cancelled anything.
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
	for range maxTries { // Others may start turns in between.
		if err = s.engine.CancelActive(ctx, p.Team, id); err != nil {
			return nil, err
		}
		if err = s.store.DeleteConversation(ctx, p.Team, id, version); err == nil {
			return &emptypb.Empty{}, nil
		} else if !errors.Is(err, conversation.ErrConversationBusy) {
			return nil, err
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
	if in.GetTurn() != "" {
		return nil, notImplemented("turn")
	}
	c, err := s.store.GetConversation(ctx, p.Team, id)
	if err != nil {
		return nil, err
	}
	stored, err := s.store.ListMessages(ctx, p.Team, id, from, pageSize(in.GetPageSize()), maxPageBytes)
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
	if len(out.Messages) > 0 && next < c.HeadPosition {
		out.NextPageToken = q.offsetToken(next)
	}
	return out, nil
}

func (s *conversationService) ForkConversation(context.Context, *chatsvcv1.ForkConversationRequest) (*chatsvcv1.Conversation, error) {
	return nil, notImplemented("ForkConversation")
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
