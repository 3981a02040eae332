package main

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// household is a team, and what it has.
type household struct {
	team    string
	data    *client
	control *governor
	// What it has, by name.
	conversation, head, oneShot, running, client, key string
}

// furnish makes a team with a conversation, turns and keys; its caller has the roles that are given.
func furnish(t *testing.T, p *program, team string, roles ...chatsvcv1.AccessRole) *household {
	t.Helper()
	platform := p.governs(t, platformKey)
	platform.newTeam(t, team)
	platform.newClient(t, team, "of-"+team)
	secret := platform.keyWith(t, team+"/web", roles...)
	h := &household{team: team, data: p.dial(t, secret), control: p.governs(t, secret)}
	for range 2 {
		h.key = platform.newKey(t, team+"/of-"+team, nil).GetName()
	}
	h.client = "teams/" + team + "/clients/of-" + team
	for range 2 {
		h.conversation = h.data.newConversation(t)
		h.data.say(t, h.conversation, "a secret of "+team)
	}
	conv, err := h.data.conv.GetConversation(t.Context(), &chatsvcv1.GetConversationRequest{Name: h.conversation})
	if err != nil {
		t.Fatal(err)
	}
	h.head = conv.GetHeadTurn()
	oneShot, err := h.data.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Text: "another secret of " + team})
	if err != nil {
		t.Fatal(err)
	}
	h.oneShot = oneShot.GetName()
	stream, err := h.data.chat.StreamTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Text: "[[sim fault=stall after=1]]"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	h.running = first.GetAccepted().GetTurn()
	return h
}

// requests are what the household can ask about its own, for the methods that ask for more than a name.
func (h *household) requests() map[string]proto.Message {
	return map[string]proto.Message{
		"chatsvc.v1.ChatService/CreateTurn":                 &chatsvcv1.CreateTurnRequest{Conversation: h.conversation, Text: "hi"},
		"chatsvc.v1.ChatService/StreamTurn":                 &chatsvcv1.CreateTurnRequest{Conversation: h.conversation, Text: "hi"},
		"chatsvc.v1.ChatService/EstimateTurn":               &chatsvcv1.EstimateTurnRequest{Turn: &chatsvcv1.CreateTurnRequest{Conversation: h.conversation, Text: "hi"}},
		"chatsvc.v1.ConversationService/UpdateConversation": &chatsvcv1.UpdateConversationRequest{Conversation: &chatsvcv1.Conversation{Name: h.conversation, DisplayName: "mine"}},
		"chatsvc.v1.ConversationService/ListMessages":       &chatsvcv1.ListMessagesRequest{Parent: h.conversation},
		"chatsvc.v1.ConversationService/ForkConversation":   &chatsvcv1.ForkConversationRequest{Name: h.conversation},
		"chatsvc.v1.TeamService/UpdateTeam":                 &chatsvcv1.UpdateTeamRequest{Team: &chatsvcv1.Team{DisplayName: "mine"}},
		"chatsvc.v1.TeamService/CreateClient":               &chatsvcv1.CreateClientRequest{Parent: "teams/" + h.team, ClientId: "new"},
		"chatsvc.v1.TeamService/ListClients":                &chatsvcv1.ListClientsRequest{Parent: "teams/" + h.team},
		"chatsvc.v1.TeamService/UpdateClient":               &chatsvcv1.UpdateClientRequest{Client: &chatsvcv1.Client{DisplayName: "mine", Disabled: true}},
		"chatsvc.v1.KeyService/CreateKey":                   &chatsvcv1.CreateKeyRequest{Parent: h.client},
		"chatsvc.v1.KeyService/ListKeys":                    &chatsvcv1.ListKeysRequest{Parent: "teams/" + h.team},
		"chatsvc.v1.KeyService/RotateKey":                   &chatsvcv1.RotateKeyRequest{Name: h.key},
	}
}

// request returns one of the household's requests as a message whose fields can be set by the method's descriptor.
func (h *household) request(t *testing.T, m rpc) *dynamicpb.Message {
	t.Helper()
	request := dynamicpb.NewMessage(m.method.Input())
	if own := h.requests()[m.name()]; own != nil {
		b, err := proto.Marshal(own)
		if err == nil {
			err = proto.Unmarshal(b, request)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return request
}

func (h *household) conn(m rpc) *grpc.ClientConn {
	if m.admin {
		return h.control.conn
	}
	return h.data.conn
}

// all returns the household as it sees itself.
func (h *household) all(t *testing.T) map[string]proto.Message {
	t.Helper()
	seen := make(map[string]proto.Message)
	see := func(what string, m proto.Message, err error) {
		if err != nil {
			t.Errorf("%s sees %s: %v", h.team, what, err)
		}
		seen[what] = m
	}
	ctx := t.Context()
	conv, err := h.data.conv.GetConversation(ctx, &chatsvcv1.GetConversationRequest{Name: h.conversation})
	see("its conversation", conv, err)
	messages, err := h.data.conv.ListMessages(ctx, &chatsvcv1.ListMessagesRequest{Parent: h.conversation})
	see("its messages", messages, err)
	for _, name := range []string{h.head, h.oneShot} {
		turn, err := h.data.chat.GetTurn(ctx, &chatsvcv1.GetTurnRequest{Name: name, View: chatsvcv1.TurnView_TURN_VIEW_FULL})
		see(name, turn, err)
	}
	turn, err := h.data.chat.GetTurn(ctx, &chatsvcv1.GetTurnRequest{Name: h.running})
	see(h.running, &chatsvcv1.Turn{State: turn.GetState()}, err) // its log grows meanwhile
	conversations, err := h.data.conv.ListConversations(ctx, &chatsvcv1.ListConversationsRequest{})
	see("its conversations", conversations, err)
	team, err := h.control.teams.GetTeam(ctx, &chatsvcv1.GetTeamRequest{Name: "teams/" + h.team})
	see("itself", team, err)
	clients, err := h.control.teams.ListClients(ctx, &chatsvcv1.ListClientsRequest{Parent: "teams/" + h.team})
	see("its clients", clients, err)
	keys, err := h.control.keys.ListKeys(ctx, &chatsvcv1.ListKeysRequest{Parent: "teams/" + h.team})
	see("its keys", keys, err)
	return seen
}

// pairs are names of the household's, each with one that nobody has. The last ones lead over the names of another team.
func (h *household) pairs(by *household) [][2]string {
	some := func(collection string) string { return collection + "/" + uuid.Must(uuid.NewV7()).String() }
	nobody := "nobody-" + uuid.NewString()[:8]
	noKey := strings.Map(func(r rune) rune { return 'a' + r%26 }, uuid.NewString()[:16])
	key := h.key[strings.LastIndex(h.key, "/")+1:]
	return [][2]string{
		{h.conversation, some("conversations")},
		{h.head, some("turns")},
		{h.oneShot, some("turns")},
		{h.running, some("turns")},
		{"teams/" + h.team, "teams/" + nobody},
		{"teams/" + h.team + "/clients/web", "teams/" + nobody + "/clients/web"},
		{h.client, "teams/" + nobody + "/clients/" + nobody},
		{h.key, "teams/" + nobody + "/clients/" + nobody + "/keys/" + noKey},
		{h.key, h.client + "/keys/" + noKey},
		{"teams/" + by.team + "/clients/of-" + h.team, "teams/" + by.team + "/clients/" + nobody},
		{"teams/" + by.team + "/clients/of-" + h.team + "/keys/" + key, "teams/" + by.team + "/clients/" + nobody + "/keys/" + noKey},
		{by.client + "/keys/" + key, by.client + "/keys/" + noKey},
	}
}
