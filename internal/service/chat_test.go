package service

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/auth"
	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/turn"
)

// wantStatus checks code and reason of an error of a call, and returns its ErrorInfo.
func wantStatus(t *testing.T, err error, code codes.Code, reason conversation.Reason) *errdetails.ErrorInfo {
	t.Helper()
	s := status.Convert(err)
	info := detail[*errdetails.ErrorInfo](s)
	if s.Code() != code || info.GetReason() != string(reason) {
		t.Errorf("the call ends with %v (%s), want %v, %s", s, info.GetReason(), code, reason)
	}
	return info
}

// logOf returns the events of a turn that ended in a state.
func logOf(state conversation.State) []conversation.Event {
	return []conversation.Event{
		{Kind: conversation.EventAccepted, Turn: &conversation.Turn{ID: testID(1), Conversation: testID(2)}},
		{Kind: conversation.EventAttemptStarted, Attempt: 1, Model: "m"},
		{Kind: conversation.EventTextDelta, Text: "a"},
		{Kind: conversation.EventTextDelta, Text: "b"},
		{Kind: conversation.EventTerminal, Turn: endedTurn(state)},
	}
}

// ends are the ways in which a turn can end, and what CreateTurn and StreamTurn make of them.
var ends = []struct {
	state  conversation.State
	code   codes.Code
	reason conversation.Reason
}{
	{conversation.Completed, codes.OK, ""},
	{conversation.Incomplete, codes.OK, ""},
	{conversation.Failed, codes.Unavailable, conversation.UpstreamStreamCut},
	{conversation.Cancelled, codes.Canceled, conversation.TurnCancelled},
}

func TestCreateTurn(t *testing.T) {
	for _, end := range ends {
		t.Run(chatsvcv1.TurnState(end.state).String(), func(t *testing.T) {
			log := newTape(logOf(end.state)...)
			var asked *turn.Request
			c := serve(t, &engineStub{start: func(_ context.Context, r *turn.Request) (reader, error) {
				asked = r
				return log, nil
			}}, nil)
			var header metadata.MD
			ctx := metadata.AppendToOutgoingContext(as(t, "red"), "model", "m", "model", "n")
			got, err := c.CreateTurn(ctx, &chatsvcv1.CreateTurnRequest{Text: "q"}, grpc.Header(&header))
			if names := header.Get(TurnHeader); len(names) != 1 || names[0] != someTurn {
				t.Errorf("header %v", header)
			}
			if asked.Team != "red" || asked.Client != "checkout" || asked.Arrived.IsZero() || !asked.Deadline.IsZero() ||
				!slices.Equal(asked.AllowedModels, []string{"m", "n"}) {
				t.Errorf("the engine is asked for %+v", asked)
			}
			if end.code != codes.OK {
				info := wantStatus(t, err, end.code, end.reason)
				if info.GetMetadata()["turn"] != someTurn {
					t.Errorf("metadata %v", info.GetMetadata())
				}
			} else if err != nil || !proto.Equal(got, turnToProto(endedTurn(end.state), chatsvcv1.TurnView_TURN_VIEW_OUTPUT)) {
				t.Errorf("turn %v, %v", got, err)
			}
			<-log.closed
		})
	}
}

// NO_WAIT answers with the turn as it stands, and lets go of it.
func TestCreateTurnNoWait(t *testing.T) {
	for _, test := range []struct {
		state  conversation.State
		code   codes.Code
		reason conversation.Reason
	}{
		{conversation.Queued, codes.OK, ""},
		{conversation.Running, codes.OK, ""},
		{conversation.Completed, codes.OK, ""}, // a repeat
		{conversation.Failed, codes.Unavailable, conversation.UpstreamStreamCut},
		{conversation.Cancelled, codes.Canceled, conversation.TurnCancelled},
	} {
		t.Run(test.state.String(), func(t *testing.T) {
			found := endedTurn(test.state)
			if !test.state.Ended() {
				found.EndTime, found.Output, found.Result = time.Time{}, nil, conversation.Result{Model: "m"}
			}
			log := newTape(logOf(conversation.Completed)[:1]...) // whose end nobody may wait for
			var asked *turn.Request
			c := serve(t,
				&engineStub{start: func(_ context.Context, r *turn.Request) (reader, error) {
					asked = r
					return log, nil
				}},
				&storeStub{getTurn: func(team string, id conversation.ID, content bool) (*conversation.Turn, error) {
					if team != "red" || id != testID(1) || content && !test.state.Ended() {
						t.Errorf("read %s %v %t", team, id, content)
					}
					read := *found
					if !content {
						read.Input, read.Output = nil, nil
					}
					return &read, nil
				}})
			var header metadata.MD
			got, err := c.CreateTurn(as(t, "red"), &chatsvcv1.CreateTurnRequest{Text: "q", Wait: chatsvcv1.Wait_WAIT_NO_WAIT}, grpc.Header(&header))
			if names := header.Get(TurnHeader); !slices.Equal(names, []string{someTurn}) {
				t.Errorf("header %v", header)
			}
			if asked.OnDisconnect != conversation.DisconnectContinue {
				t.Error("the turn ends with the call")
			}
			if test.code != codes.OK {
				wantStatus(t, err, test.code, test.reason)
			} else if err != nil || !proto.Equal(got, turnToProto(found, chatsvcv1.TurnView_TURN_VIEW_OUTPUT)) {
				t.Errorf("turn %v, %v", got, err)
			}
			<-log.closed
		})
	}
}

// What fails after the turn has begun names it.
func TestNoWaitNamesTheTurn(t *testing.T) {
	c := serve(t,
		&engineStub{start: func(context.Context, *turn.Request) (reader, error) { return newTape(), nil }},
		&storeStub{getTurn: func(string, conversation.ID, bool) (*conversation.Turn, error) {
			return nil, conversation.ErrStoreUnavailable
		}})
	_, err := c.CreateTurn(as(t, "red"), &chatsvcv1.CreateTurnRequest{Text: "q", Wait: chatsvcv1.Wait_WAIT_NO_WAIT})
	info := wantStatus(t, err, codes.Unavailable, conversation.StoreUnavailable)
	if info.GetMetadata()["turn"] != someTurn {
		t.Errorf("metadata %v", info.GetMetadata())
	}
}

// The engine gets the id and what makes two requests the same; a call that may not be repeated pays for neither.
func TestRequestIDReachesTheEngine(t *testing.T) {
	var asked []*turn.Request
	c := serve(t, &engineStub{start: func(_ context.Context, r *turn.Request) (reader, error) {
		asked = append(asked, r)
		return newTape(logOf(conversation.Completed)...), nil
	}}, nil)
	in := &chatsvcv1.CreateTurnRequest{Text: "q", RequestId: "r"}
	if _, err := c.CreateTurn(as(t, "red"), in); err != nil {
		t.Fatal(err)
	}
	stream, err := c.StreamTurn(as(t, "red"), in)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := receive(stream); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateTurn(as(t, "red"), &chatsvcv1.CreateTurnRequest{Text: "q"}); err != nil {
		t.Fatal(err)
	}
	for _, r := range asked[:2] {
		if r.RequestID != "r" || r.Fingerprint != fingerprint(in) || r.OnDisconnect != conversation.DisconnectContinue {
			t.Errorf("the engine is asked for %+v", r)
		}
	}
	if r := asked[2]; r.RequestID != "" || r.Fingerprint != [32]byte{} || r.OnDisconnect != conversation.DisconnectCancel {
		t.Errorf("the engine is asked for %+v", r)
	}
}

func TestStreamTurn(t *testing.T) {
	for _, end := range ends {
		t.Run(chatsvcv1.TurnState(end.state).String(), func(t *testing.T) {
			log := newTape(logOf(end.state)...)
			c := serve(t, &engineStub{start: func(context.Context, *turn.Request) (reader, error) { return log, nil }}, nil)
			stream, err := c.StreamTurn(as(t, "red"), &chatsvcv1.CreateTurnRequest{Text: "q", Conversation: someConversation})
			if err != nil {
				t.Fatal(err)
			}
			events, err := receive(stream)
			if header, _ := stream.Header(); !slices.Equal(header.Get(TurnHeader), []string{someTurn}) {
				t.Errorf("header %v", header)
			}
			if len(events) != 5 || events[0].GetAccepted().GetConversation() != someConversation || events[3].GetTextDelta().GetText() != "b" {
				t.Fatalf("events %v", events)
			}
			last := events[4].GetTerminal().GetTurn()
			if last.GetState() != chatsvcv1.TurnState(end.state) || last.GetInput() != nil || last.GetAttempts() != nil {
				t.Errorf("terminal %v", last)
			}
			if end.code == codes.OK {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantStatus(t, err, end.code, end.reason)
			if s := status.Convert(err); last.GetError() != nil && !proto.Equal(last.GetError(), s.Proto()) {
				t.Errorf("the turn's error is %v, the call's %v", last.GetError(), s.Proto())
			}
		})
	}
}

// receive returns all events of a stream, and its error; nil for a good end.
func receive(stream grpc.ServerStreamingClient[chatsvcv1.TurnEvent]) (events []*chatsvcv1.TurnEvent, err error) {
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return events, err
		}
		events = append(events, e)
	}
}

func TestWatchTurn(t *testing.T) {
	for _, end := range ends {
		t.Run(chatsvcv1.TurnState(end.state).String(), func(t *testing.T) {
			c := serve(t,
				&engineStub{watch: func(_ context.Context, team string, id conversation.ID, after int64) (reader, error) {
					if team != "red" || id != testID(1) || after != 0 {
						t.Errorf("watch %s %v %d", team, id, after)
					}
					return newTape(logOf(end.state)...), nil
				}},
				&storeStub{getTurn: func(string, conversation.ID, bool) (*conversation.Turn, error) { return endedTurn(end.state), nil }})
			stream, err := c.WatchTurn(as(t, "red"), &chatsvcv1.WatchTurnRequest{Name: someTurn})
			if err != nil {
				t.Fatal(err)
			}
			events, err := receive(stream)
			if err != nil || len(events) != 5 || events[0].GetAccepted().GetConversation() != someConversation {
				t.Errorf("events %v, %v", events, err)
			}
		})
	}
}

func TestWatchTurnPastTheEnd(t *testing.T) {
	c := serve(t, &engineStub{watch: func(context.Context, string, conversation.ID, int64) (reader, error) { return spent{newTape()}, nil }}, nil)
	stream, err := c.WatchTurn(as(t, "red"), &chatsvcv1.WatchTurnRequest{Name: someTurn, AfterSequence: 5})
	if err != nil {
		t.Fatal(err)
	}
	if events, err := receive(stream); err != nil || len(events) != 0 {
		t.Errorf("events %v, %v", events, err)
	}
}

func TestWatchTurnRefused(t *testing.T) {
	for reason, code := range map[conversation.Reason]codes.Code{
		conversation.NotFound: codes.NotFound, conversation.EventsExpired: codes.OutOfRange,
	} {
		c := serve(t, &engineStub{watch: func(context.Context, string, conversation.ID, int64) (reader, error) {
			return nil, conversation.Errorf(reason, "m")
		}}, nil)
		stream, err := c.WatchTurn(as(t, "red"), &chatsvcv1.WatchTurnRequest{Name: someTurn})
		if err != nil {
			t.Fatal(err)
		}
		_, err = receive(stream)
		info := wantStatus(t, err, code, reason)
		if named := info.GetMetadata()["turn"] != ""; named != (reason != conversation.NotFound) {
			t.Errorf("%s: metadata %v", reason, info.GetMetadata())
		}
	}
}

// A call ends shortly before its deadline, by the turn's name, and lets go of the turn.
func TestDeadline(t *testing.T) {
	for _, test := range []struct {
		on    chatsvcv1.OnDisconnect
		id    string
		after time.Duration
		says  string
	}{
		{chatsvcv1.OnDisconnect_ON_DISCONNECT_CONTINUE, "", 9800 * time.Millisecond, "it goes on"},
		{chatsvcv1.OnDisconnect_ON_DISCONNECT_UNSPECIFIED, "r", 9800 * time.Millisecond, "it goes on"},
		{chatsvcv1.OnDisconnect_ON_DISCONNECT_CANCEL, "", 9900 * time.Millisecond, "is being cancelled"},
		{chatsvcv1.OnDisconnect_ON_DISCONNECT_CANCEL, "r", 9900 * time.Millisecond, "the deadline of the call that began it"},
	} {
		synctest.Test(t, func(t *testing.T) {
			log := newTape(logOf(conversation.Completed)[:3]...)
			s := &chatService{engine: &engineStub{start: func(_ context.Context, r *turn.Request) (reader, error) {
				if left := time.Until(r.Deadline); left != 9800*time.Millisecond {
					t.Errorf("the turn has %v", left)
				}
				return log, nil
			}}}
			ctx := auth.NewContext(t.Context(), auth.Principal{Team: "red"})
			ctx = grpc.NewContextWithServerTransportStream(ctx, unaryStream{})
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			begin := time.Now()
			_, err := s.CreateTurn(ctx, &chatsvcv1.CreateTurnRequest{Text: "q", OnDisconnect: test.on, RequestId: test.id})
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v %q: %v, which does not say that it %s", test.on, test.id, err, test.says)
			}
			if took := time.Since(begin); took != test.after {
				t.Errorf("%v: answered after %v, want %v", test.on, took, test.after)
			}
			info := wantStatus(t, ToStatus(err), codes.DeadlineExceeded, conversation.TurnDeadline)
			if info.GetMetadata()["turn"] != someTurn {
				t.Errorf("metadata %v", info.GetMetadata())
			}
			<-log.closed
		})
	}
}

// A call that runs out of time while it watches a turn, or waits for it to be cancelled, says so and names it.
func TestDeadlineOfThoseThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &chatService{engine: &engineStub{
			watch: func(context.Context, string, conversation.ID, int64) (reader, error) {
				return newTape(logOf(conversation.Completed)[:3]...), nil
			},
			cancel: func(ctx context.Context, _ string, _ conversation.ID) (*conversation.Turn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
		}}
		ctx := auth.NewContext(t.Context(), auth.Principal{Team: "red"})
		ctx, cancel := context.WithTimeout(grpc.NewContextWithServerTransportStream(ctx, unaryStream{}), time.Second)
		defer cancel()
		_, cancelErr := s.CancelTurn(ctx, &chatsvcv1.CancelTurnRequest{Name: someTurn})
		watchErr := s.WatchTurn(&chatsvcv1.WatchTurnRequest{Name: someTurn}, sink{ctx: ctx})
		for _, err := range []error{cancelErr, watchErr} {
			info := wantStatus(t, ToStatus(err), codes.DeadlineExceeded, conversation.TurnDeadline)
			if info.GetMetadata()["turn"] != someTurn {
				t.Errorf("metadata %v", info.GetMetadata())
			}
		}
	})
}

// sink is a stream that takes everything.
type sink struct {
	grpc.ServerStreamingServer[chatsvcv1.TurnEvent]
	ctx context.Context //nolint:containedctx // As a stream has it.
}

func (s sink) Context() context.Context      { return s.ctx }
func (sink) Send(*chatsvcv1.TurnEvent) error { return nil }

func TestDeadlineBeforeTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &chatService{engine: &engineStub{start: func(ctx context.Context, _ *turn.Request) (reader, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}}
		ctx, cancel := context.WithTimeout(auth.NewContext(t.Context(), auth.Principal{Team: "red"}), time.Second)
		defer cancel()
		_, err := s.CreateTurn(ctx, &chatsvcv1.CreateTurnRequest{Text: "q"})
		info := wantStatus(t, ToStatus(err), codes.DeadlineExceeded, conversation.TurnDeadline)
		if len(info.GetMetadata()) != 0 {
			t.Errorf("metadata %v of a turn that there is not", info.GetMetadata())
		}
	})
}

// unaryStream takes the header of a handler that is called without a server.
type unaryStream struct{ grpc.ServerTransportStream }

func (unaryStream) SendHeader(metadata.MD) error { return nil }

func TestCallerGoesAway(t *testing.T) {
	log := newTape(logOf(conversation.Completed)[:3]...)
	c := serve(t, &engineStub{start: func(context.Context, *turn.Request) (reader, error) { return log, nil }}, nil)
	ctx, cancel := context.WithCancel(as(t, "red"))
	stream, err := c.StreamTurn(ctx, &chatsvcv1.CreateTurnRequest{Text: "q"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-log.closed
}

func TestStartRefused(t *testing.T) {
	c := serve(t, &engineStub{start: func(context.Context, *turn.Request) (reader, error) {
		return nil, &conversation.Error{Reason: conversation.ConversationBusy, Message: "m", Turn: testID(9)}
	}}, nil)
	_, err := c.CreateTurn(as(t, "red"), &chatsvcv1.CreateTurnRequest{Text: "q", Conversation: someConversation})
	wantStatus(t, err, codes.Aborted, conversation.ConversationBusy)
	if got := detail[*errdetails.ResourceInfo](status.Convert(err)).GetResourceName(); got != formatName(turns, testID(9)) {
		t.Errorf("ResourceInfo names %q", got)
	}
	stream, err := c.StreamTurn(as(t, "red"), &chatsvcv1.CreateTurnRequest{Text: "q"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = receive(stream)
	wantStatus(t, err, codes.Aborted, conversation.ConversationBusy)
}

func TestGetTurn(t *testing.T) {
	for view, want := range map[chatsvcv1.TurnView]chatsvcv1.TurnView{
		chatsvcv1.TurnView_TURN_VIEW_UNSPECIFIED: chatsvcv1.TurnView_TURN_VIEW_OUTPUT,
		chatsvcv1.TurnView_TURN_VIEW_BASIC:       chatsvcv1.TurnView_TURN_VIEW_BASIC,
		chatsvcv1.TurnView_TURN_VIEW_FULL:        chatsvcv1.TurnView_TURN_VIEW_FULL,
	} {
		c := serve(t, nil, &storeStub{getTurn: func(team string, id conversation.ID, content bool) (*conversation.Turn, error) {
			if team != "red" || id != testID(1) || content != (want != chatsvcv1.TurnView_TURN_VIEW_BASIC) {
				t.Errorf("read %s %v %t", team, id, content)
			}
			return endedTurn(conversation.Completed), nil
		}})
		got, err := c.GetTurn(as(t, "red"), &chatsvcv1.GetTurnRequest{Name: someTurn, View: view})
		if err != nil || !proto.Equal(got, turnToProto(endedTurn(conversation.Completed), want)) {
			t.Errorf("%v: %v, %v", view, got, err)
		}
	}
}

func TestListTurns(t *testing.T) {
	store := &storeStub{
		listTurns: func(team string, filter conversation.TurnFilter, before conversation.ID, limit int) ([]*conversation.Turn, error) {
			if filter.RequestID == "a" && filter.Conversation.IsZero() {
				return []*conversation.Turn{endedTurn(conversation.Completed)}, nil
			}
			conv := filter.Conversation
			if conv != testID(2) {
				return nil, conversation.ErrNotFound
			}
			var found []*conversation.Turn
			for n := byte(5); n > 0 && len(found) < limit; n-- {
				if ended := endedTurn(conversation.Completed); team == "red" && conv == ended.Conversation && (before.IsZero() || n < before[15]) {
					ended.ID = testID(n)
					found = append(found, ended)
				}
			}
			return found, nil
		},
	}
	c := serve(t, nil, store)
	in := &chatsvcv1.ListTurnsRequest{Conversation: someConversation, PageSize: 2}
	var names []string
	for {
		page, err := c.ListTurns(as(t, "red"), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range page.GetTurns() {
			names = append(names, found.GetName()[len(found.GetName())-1:])
			if found.GetOutput() != nil || found.GetInput() != nil || found.GetOutputText() != "" {
				t.Errorf("a list with content: %v", found)
			}
		}
		if in.PageToken = page.GetNextPageToken(); in.GetPageToken() == "" {
			break
		}
		_, err = c.ListTurns(as(t, "blue"), in)
		wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest)
		_, err = c.ListTurns(as(t, "red"), &chatsvcv1.ListTurnsRequest{PageToken: in.GetPageToken()})
		wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest)
	}
	if !slices.Equal(names, []string{"5", "4", "3", "2", "1"}) {
		t.Errorf("turns %v", names)
	}

	_, err := c.ListTurns(as(t, "red"), &chatsvcv1.ListTurnsRequest{Conversation: formatName(conversations, testID(7))})
	wantStatus(t, err, codes.NotFound, conversation.NotFound)
	page, err := c.ListTurns(as(t, "red"), &chatsvcv1.ListTurnsRequest{RequestId: "a"})
	if err != nil || len(page.GetTurns()) != 1 || page.GetTurns()[0].GetName() != someTurn {
		t.Errorf("by request_id: %v, %v", page, err)
	}
	page, err = c.ListTurns(as(t, "red"), &chatsvcv1.ListTurnsRequest{Conversation: someConversation, PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.ListTurns(as(t, "red"), &chatsvcv1.ListTurnsRequest{
		Conversation: someConversation, RequestId: "a", PageToken: page.GetNextPageToken(),
	})
	wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest)
}

func TestCancelTurn(t *testing.T) {
	c := serve(t, &engineStub{cancel: func(_ context.Context, team string, id conversation.ID) (*conversation.Turn, error) {
		if team != "red" || id != testID(1) {
			return nil, conversation.ErrNotFound
		}
		return endedTurn(conversation.Cancelled), nil
	}}, nil)
	got, err := c.CancelTurn(as(t, "red"), &chatsvcv1.CancelTurnRequest{Name: someTurn})
	if err != nil || got.GetState() != chatsvcv1.TurnState_TURN_STATE_CANCELLED || got.GetOutputText() != "ab" || got.GetInput() != nil {
		t.Errorf("turn %v, %v", got, err)
	}
	_, err = c.CancelTurn(as(t, "blue"), &chatsvcv1.CancelTurnRequest{Name: someTurn})
	wantStatus(t, err, codes.NotFound, conversation.NotFound)
}

func TestDeleteTurn(t *testing.T) {
	for _, test := range []struct {
		name          string
		state         conversation.State
		inItsOwn      bool
		want          []string
		wantCode      codes.Code
		wantReason    conversation.Reason
		wantTurnNamed bool
	}{
		{"a running one-shot", conversation.Running, true, []string{"cancel", "delete"}, codes.OK, "", false},
		{"an ended one-shot", conversation.Completed, true, []string{"delete"}, codes.OK, "", false},
		{"a running turn of a conversation", conversation.Running, false, nil, codes.FailedPrecondition, conversation.InvalidState, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var calls []string
			c := serve(t,
				&engineStub{cancel: func(context.Context, string, conversation.ID) (*conversation.Turn, error) {
					calls = append(calls, "cancel")
					return endedTurn(conversation.Cancelled), nil
				}},
				&storeStub{
					getTurn: func(string, conversation.ID, bool) (*conversation.Turn, error) {
						found := endedTurn(test.state)
						if test.inItsOwn {
							found.Conversation = conversation.ID{}
						}
						return found, nil
					},
					deleteTurn: func(string, conversation.ID) error {
						calls = append(calls, "delete")
						return nil
					},
				})
			_, err := c.DeleteTurn(as(t, "red"), &chatsvcv1.DeleteTurnRequest{Name: someTurn})
			info := wantStatus(t, err, test.wantCode, test.wantReason)
			if (info.GetMetadata()["turn"] == someTurn) != test.wantTurnNamed {
				t.Errorf("metadata %v", info.GetMetadata())
			}
			if !slices.Equal(calls, test.want) {
				t.Errorf("calls %v, want %v", calls, test.want)
			}
		})
	}
}
