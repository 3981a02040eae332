package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/interceptor"
	"github.com/chatsvc/chatsvc/internal/turn"
)

// TurnHeader is the response header that names the turn.
const TurnHeader = "chatsvc-turn"

// chatService is ChatService. Every way to see a turn run is a loop over a reader of its log.
type chatService struct {
	chatsvcv1.UnsafeChatServiceServer

	engine engine
	store  Store
}

var _ chatsvcv1.ChatServiceServer = (*chatService)(nil)

func (s *chatService) CreateTurn(ctx context.Context, in *chatsvcv1.CreateTurnRequest) (*chatsvcv1.Turn, error) {
	follow := func(ctx context.Context, _ string, r reader) (*conversation.Turn, error) { return r.End(ctx) }
	if in.GetWait() == chatsvcv1.Wait_WAIT_NO_WAIT {
		follow = func(ctx context.Context, team string, r reader) (*conversation.Turn, error) {
			t, err := s.store.GetTurn(ctx, team, r.Turn(), false)
			if err == nil && t.State.Ended() { // a repeat; of one that runs there is nothing but what the caller has sent
				t, err = s.store.GetTurn(ctx, team, r.Turn(), true)
			}
			return t, err
		}
	}
	t, err := s.run(ctx, in, false, follow)
	if err != nil {
		return nil, err
	}
	return turnToProto(t, chatsvcv1.TurnView_TURN_VIEW_OUTPUT), nil
}

func (s *chatService) StreamTurn(in *chatsvcv1.CreateTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
	_, err := s.run(stream.Context(), in, true, func(ctx context.Context, _ string, r reader) (*conversation.Turn, error) {
		return read(ctx, r, stream)
	})
	return err
}

// run starts a turn, or finds the one that has the request's id, follows it, and returns it as it was then, unless it has
// ended without an answer.
func (s *chatService) run(ctx context.Context, in *chatsvcv1.CreateTurnRequest, streamed bool,
	follow func(ctx context.Context, team string, r reader) (*conversation.Turn, error),
) (*conversation.Turn, error) {
	arrived := time.Now()
	p, err := principal(ctx)
	if err != nil {
		return nil, err
	}
	request, err := turnRequest(in, streamed)
	if err != nil {
		return nil, err
	}
	deadline, wait, cancel := turnDeadline(ctx, arrived, request.OnDisconnect)
	defer cancel()
	request.Team, request.Client, request.AllowedModels = p.Team, p.Client, p.AllowedModels
	request.Arrived, request.Deadline = arrived, deadline

	r, err := s.engine.Start(wait, request)
	if err != nil {
		if outOfTime(err) {
			return nil, conversation.Errorf(conversation.TurnDeadline, "the call's deadline passed before the turn had begun")
		}
		return nil, err
	}
	defer r.Close() // the disconnect, unless the turn has ended

	if err := nameTurn(ctx, r.Turn()); err != nil {
		return nil, err
	}
	t, err := follow(wait, p.Team, r)
	switch {
	case err != nil && outOfTime(err):
		return nil, lateTurn(r.Turn(), request)
	case isStatus(err): // The stream is broken.
		return nil, err
	case err != nil:
		return nil, aboutTurn(err, r.Turn())
	}
	if err := errorOf(t); err != nil {
		return nil, err
	}
	return t, nil
}

func (s *chatService) WatchTurn(in *chatsvcv1.WatchTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
	ctx := stream.Context()
	p, id, err := named(ctx, turns, "name", in.GetName())
	if err != nil {
		return err
	}
	r, err := s.engine.Watch(ctx, p.Team, id, in.GetAfterSequence())
	if err != nil {
		return aboutTurn(late(err, id), id)
	}
	defer r.Close()

	if err := nameTurn(ctx, id); err != nil {
		return err
	}
	if _, err := read(ctx, r, stream); !errors.Is(err, io.EOF) { // the end, if the caller had seen it before
		return late(err, id)
	}
	return nil
}

// nameTurn names the turn in the call's log line and, at once, in the response header: a caller that loses the connection
// from here on can still find its turn.
func nameTurn(ctx context.Context, id conversation.ID) error {
	name := formatName(turns, id)
	interceptor.FieldsFrom(ctx).SetTurn(name)
	return grpc.SendHeader(ctx, metadata.Pairs(TurnHeader, name))
}

// read reads the log of a turn into the stream until its terminal event and returns the turn as it ended; io.EOF if the
// reader is past the end already.
func read(ctx context.Context, r reader, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) (*conversation.Turn, error) {
	id := r.Turn()
	for {
		events, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil, err
		}
		if err != nil {
			return nil, aboutTurn(fmt.Errorf("read the turn's log: %w", err), id)
		}
		for i := range events {
			if err := stream.Send(eventToProto(&events[i])); err != nil {
				return nil, err
			}
			if events[i].Kind == conversation.EventTerminal {
				return events[i].Turn, nil
			}
		}
	}
}

// outOfTime reports whether err is the end of the time that a handler has, and not the failure of something that ran out
// of its own.
func outOfTime(err error) bool {
	_, ok := errors.AsType[*conversation.Error](err)
	return !ok && errors.Is(err, context.DeadlineExceeded)
}

// late names the turn in the error of a call that ran out of time while it watched it, or waited for it to be cancelled.
func late(err error, id conversation.ID) error {
	if err == nil || isStatus(err) || !outOfTime(err) {
		return err
	}
	return &conversation.Error{
		Reason: conversation.TurnDeadline, Turn: id, Message: "the call's deadline passed before the turn had ended",
	}
}

// lateTurn says that a turn did not end in time, and what becomes of it. Of a turn that a request_id found, an earlier call
// has decided that: the turn has its deadline.
func lateTurn(id conversation.ID, r *turn.Request) error {
	e := conversation.Errorf(conversation.TurnDeadline, "the turn did not end before the call's deadline, and is being cancelled")
	switch {
	case r.OnDisconnect == conversation.DisconnectContinue:
		e.Message = "the turn did not end before the call's deadline; it goes on, for WatchTurn and GetTurn to read"
	case r.RequestID != "":
		e.Message = "the turn did not end before the call's deadline; it ends with the deadline of the call that began it, or when no call waits for it"
	}
	e.Turn = id
	return e
}

func (s *chatService) GetTurn(ctx context.Context, in *chatsvcv1.GetTurnRequest) (*chatsvcv1.Turn, error) {
	p, id, err := named(ctx, turns, "name", in.GetName())
	if err != nil {
		return nil, err
	}
	view := in.GetView()
	if view == chatsvcv1.TurnView_TURN_VIEW_UNSPECIFIED {
		view = chatsvcv1.TurnView_TURN_VIEW_OUTPUT
	}
	t, err := s.store.GetTurn(ctx, p.Team, id, view != chatsvcv1.TurnView_TURN_VIEW_BASIC)
	if err != nil {
		return nil, err
	}
	return turnToProto(t, view), nil
}

func (s *chatService) ListTurns(ctx context.Context, in *chatsvcv1.ListTurnsRequest) (*chatsvcv1.ListTurnsResponse, error) {
	p, err := principal(ctx)
	if err != nil {
		return nil, err
	}
	filter := conversation.TurnFilter{RequestID: in.GetRequestId()}
	if name := in.GetConversation(); name != "" {
		if filter.Conversation, err = parseName(conversations, "conversation", name); err != nil {
			return nil, err
		}
	}
	q := newQuery("ListTurns", p.Team, in.GetConversation(), in.GetRequestId())
	before, err := q.beforeID(in.GetPageToken())
	if err != nil {
		return nil, err
	}
	page, last, err := fillPage(before, pageSize(in.GetPageSize()), maxRead,
		func(before conversation.ID, limit int) ([]*conversation.Turn, error) {
			return s.store.ListTurns(ctx, p.Team, filter, before, limit)
		},
		func(t *conversation.Turn) conversation.ID { return t.ID },
		func(t *conversation.Turn) *chatsvcv1.Turn {
			return turnToProto(t, chatsvcv1.TurnView_TURN_VIEW_BASIC)
		})
	if err != nil {
		return nil, err
	}
	return &chatsvcv1.ListTurnsResponse{Turns: page, NextPageToken: q.idToken(last)}, nil
}

func (s *chatService) CancelTurn(ctx context.Context, in *chatsvcv1.CancelTurnRequest) (*chatsvcv1.Turn, error) {
	p, id, err := named(ctx, turns, "name", in.GetName())
	if err != nil {
		return nil, err
	}
	t, err := s.engine.Cancel(ctx, p.Team, id)
	if err != nil {
		return nil, aboutTurn(late(err, id), id)
	}
	return turnToProto(t, chatsvcv1.TurnView_TURN_VIEW_OUTPUT), nil
}

// DeleteTurn cancels the turn only when it is sure that it may be deleted: a refused call must not have cancelled it.
func (s *chatService) DeleteTurn(ctx context.Context, in *chatsvcv1.DeleteTurnRequest) (*emptypb.Empty, error) {
	p, id, err := named(ctx, turns, "name", in.GetName())
	if err != nil {
		return nil, err
	}
	t, err := s.store.GetTurn(ctx, p.Team, id, false)
	if err != nil {
		return nil, err
	}
	if !t.Conversation.IsZero() {
		e := conversation.Errorf(conversation.InvalidState, "the turn belongs to a conversation, and is deleted with it")
		e.Turn = id
		return nil, e
	}
	if !t.State.Ended() {
		if _, err := s.engine.Cancel(ctx, p.Team, id); err != nil {
			return nil, aboutTurn(late(err, id), id)
		}
	}
	if err := s.store.DeleteTurn(ctx, p.Team, id); err != nil {
		return nil, aboutTurn(err, id)
	}
	return &emptypb.Empty{}, nil
}

func (s *chatService) EstimateTurn(context.Context, *chatsvcv1.EstimateTurnRequest) (*chatsvcv1.EstimateTurnResponse, error) {
	return nil, notImplemented("EstimateTurn")
}
