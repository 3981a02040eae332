package main

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// Every RPC that takes a name answers another team's exactly as one that nobody has.
func TestTeamsDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	red, blue := p.dial(t, redKey), p.dial(t, blueKey)
	conv := red.newConversation(t)
	red.say(t, conv, "a secret")
	inConversation, err := red.conv.GetConversation(t.Context(), &chatsvcv1.GetConversationRequest{Name: conv})
	if err != nil {
		t.Fatal(err)
	}
	oneShot, err := red.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Text: "another secret"})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := red.chat.StreamTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Text: "[[sim fault=stall after=1]]"})
	if err != nil {
		t.Fatal(err)
	}
	running, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}

	type call func(ctx context.Context, c *client, name string) error
	ofConversations := map[string]call{
		"GetConversation": func(ctx context.Context, c *client, name string) error {
			_, err := c.conv.GetConversation(ctx, &chatsvcv1.GetConversationRequest{Name: name})
			return err
		},
		"UpdateConversation": func(ctx context.Context, c *client, name string) error {
			_, err := c.conv.UpdateConversation(ctx, &chatsvcv1.UpdateConversationRequest{
				Conversation: &chatsvcv1.Conversation{Name: name, DisplayName: "mine"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
			})
			return err
		},
		"DeleteConversation": func(ctx context.Context, c *client, name string) error {
			_, err := c.conv.DeleteConversation(ctx, &chatsvcv1.DeleteConversationRequest{Name: name})
			return err
		},
		"ListMessages": func(ctx context.Context, c *client, name string) error {
			_, err := c.conv.ListMessages(ctx, &chatsvcv1.ListMessagesRequest{Parent: name})
			return err
		},
		"ListTurns": func(ctx context.Context, c *client, name string) error {
			_, err := c.chat.ListTurns(ctx, &chatsvcv1.ListTurnsRequest{Conversation: name})
			return err
		},
		"CreateTurn": func(ctx context.Context, c *client, name string) error {
			_, err := c.chat.CreateTurn(ctx, &chatsvcv1.CreateTurnRequest{Conversation: name, Text: "hi"})
			return err
		},
		"StreamTurn": func(ctx context.Context, c *client, name string) error {
			stream, err := c.chat.StreamTurn(ctx, &chatsvcv1.CreateTurnRequest{Conversation: name, Text: "hi"})
			if err == nil {
				_, err = collect(stream)
			}
			return err
		},
	}
	ofTurns := map[string]call{
		"GetTurn": func(ctx context.Context, c *client, name string) error {
			_, err := c.chat.GetTurn(ctx, &chatsvcv1.GetTurnRequest{Name: name, View: chatsvcv1.TurnView_TURN_VIEW_FULL})
			return err
		},
		"WatchTurn": func(ctx context.Context, c *client, name string) error {
			stream, err := c.chat.WatchTurn(ctx, &chatsvcv1.WatchTurnRequest{Name: name})
			if err == nil {
				_, err = collect(stream)
			}
			return err
		},
		"CancelTurn": func(ctx context.Context, c *client, name string) error {
			_, err := c.chat.CancelTurn(ctx, &chatsvcv1.CancelTurnRequest{Name: name})
			return err
		},
		"DeleteTurn": func(ctx context.Context, c *client, name string) error {
			_, err := c.chat.DeleteTurn(ctx, &chatsvcv1.DeleteTurnRequest{Name: name})
			return err
		},
	}
	check := func(kind string, calls map[string]call, names ...string) {
		for method, do := range calls {
			random := do(t.Context(), blue, kind+"/"+uuid.Must(uuid.NewV7()).String())
			wantReason(t, random, codes.NotFound, "NOT_FOUND")
			for _, name := range names {
				if others := do(t.Context(), blue, name); !proto.Equal(status.Convert(others).Proto(), status.Convert(random).Proto()) {
					t.Errorf("%s: another team's name answers %v, a random one %v", method, others, random)
				}
			}
		}
	}
	check("conversations", ofConversations, conv)
	check("turns", ofTurns, inConversation.GetHeadTurn(), oneShot.GetName(), running.GetAccepted().GetTurn())

	// Lists hold nothing of the others, and page tokens of another team are refused.
	for range 3 {
		red.newConversation(t)
	}
	convs, err := blue.conv.ListConversations(t.Context(), &chatsvcv1.ListConversationsRequest{})
	if err != nil || len(convs.GetConversations()) != 0 {
		t.Errorf("blue lists %v, %v; want nothing", convs, err)
	}
	turns, err := blue.chat.ListTurns(t.Context(), &chatsvcv1.ListTurnsRequest{})
	if err != nil || len(turns.GetTurns()) != 0 {
		t.Errorf("blue lists %v, %v; want nothing", turns, err)
	}
	page, err := red.conv.ListConversations(t.Context(), &chatsvcv1.ListConversationsRequest{PageSize: 2})
	if err != nil || page.GetNextPageToken() == "" {
		t.Fatalf("page %v, %v", page, err)
	}
	_, err = blue.conv.ListConversations(t.Context(), &chatsvcv1.ListConversationsRequest{PageToken: page.GetNextPageToken()})
	wantReason(t, err, codes.InvalidArgument, "INVALID_REQUEST")

	// Nothing happened to what is red's.
	if _, err := red.chat.GetTurn(t.Context(), &chatsvcv1.GetTurnRequest{Name: oneShot.GetName()}); err != nil {
		t.Errorf("red's turn: %v", err)
	}
	still, err := red.conv.GetConversation(t.Context(), &chatsvcv1.GetConversationRequest{Name: conv})
	if err != nil || !proto.Equal(still, inConversation) {
		t.Errorf("red's conversation was %v, and is %v, %v", inConversation, still, err)
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	for key, want := range map[string]string{
		"":                        "CREDENTIAL_MISSING",
		"nobodys-key":             "CREDENTIAL_INVALID",
		redKey + "x":              "CREDENTIAL_INVALID",
		strings.Repeat("k", 8000): "CREDENTIAL_INVALID",
	} {
		c := p.dial(t, key)
		// What is wrong with the request is nobody's business without a credential.
		_, err := c.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Conversation: "nonsense"})
		wantReason(t, err, codes.Unauthenticated, want)
		stream, err := c.chat.StreamTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Conversation: "nonsense"})
		if err == nil {
			_, err = collect(stream)
		}
		wantReason(t, err, codes.Unauthenticated, want)
		if key != "" && (strings.Contains(err.Error(), key) || strings.Contains(p.logs.String(), key)) {
			t.Errorf("the key %.20s is repeated", key)
		}
	}
	if calls := p.simulator.Stats().Calls; calls != 0 {
		t.Errorf("%d upstream calls", calls)
	}
}
