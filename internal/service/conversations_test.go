package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
)

func testConversation() *conversation.Conversation {
	return &conversation.Conversation{
		ID: testID(2), Team: "red", Spec: conversation.Spec{DisplayName: "old", Instructions: "old"},
		HeadTurn: testID(1), HeadPosition: 5, ActiveTurn: testID(3), Version: conversation.Version{Spec: 26, Head: 3},
		CreateTime: time.Unix(1, 0), UpdateTime: time.Unix(2, 0),
	}
}

func TestCreateConversation(t *testing.T) {
	var stored *conversation.Conversation
	c := serve(t, nil, &storeStub{createConversation: func(c *conversation.Conversation) error {
		stored = c
		c.Version, c.UpdateTime = conversation.Version{Spec: 1, Head: 1}, c.CreateTime
		return nil
	}})
	in := fromJSON(t, fullSpec, &chatsvcv1.Conversation{})
	in.Name, in.Etag, in.ActiveTurn, in.CreateTime = someConversation, "x", someTurn, timestamppb.New(time.Unix(1, 0))
	got, err := c.CreateConversation(as(t, "red"), &chatsvcv1.CreateConversationRequest{Conversation: in})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetName() == someConversation || got.GetName() != formatName(conversations, stored.ID) || stored.ID[6]>>4 != 7 {
		t.Errorf("name %s, id %x", got.GetName(), stored.ID)
	}
	if got.GetEtag() != "1-1" || got.GetActiveTurn() != "" || time.Since(got.GetCreateTime().AsTime()) > time.Minute || stored.Team != "red" {
		t.Errorf("conversation %v of %s", got, stored.Team)
	}
	got.Name, got.Etag, got.CreateTime, got.UpdateTime = "", "", nil, nil
	if want := fromJSON(t, fullSpec, &chatsvcv1.Conversation{}); !proto.Equal(got, want) {
		t.Errorf("conversation %v, want %v", got, want)
	}

	if _, err := c.CreateConversation(as(t, "red"), &chatsvcv1.CreateConversationRequest{}); err != nil {
		t.Errorf("an empty one: %v", err)
	}
	for _, in := range []*chatsvcv1.Conversation{{HeadTurn: someTurn}, {ExpireTime: timestamppb.Now()}} {
		_, err = c.CreateConversation(as(t, "red"), &chatsvcv1.CreateConversationRequest{Conversation: in})
		wantStatus(t, err, codes.Unimplemented, conversation.NotImplemented)
	}
	_, err = c.CreateConversation(as(t, "red"), &chatsvcv1.CreateConversationRequest{Conversation: &chatsvcv1.Conversation{
		Instructions: "a", Model: strings.Repeat("x", maxConversationBytes-100), DisplayName: strings.Repeat("x", 200),
	}})
	info := wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest)
	if info.GetMetadata()["field"] != "conversation.model" {
		t.Errorf("metadata %v", info.GetMetadata())
	}
}

func TestGetAndListConversations(t *testing.T) {
	c := serve(t, nil, &storeStub{
		getConversation: func(team string, id conversation.ID) (*conversation.Conversation, error) {
			if team != "red" || id != testID(2) {
				return nil, conversation.ErrNotFound
			}
			return testConversation(), nil
		},
		listConversations: func(team string, before conversation.ID, limit int) ([]*conversation.Conversation, error) {
			var found []*conversation.Conversation
			for n := byte(3); n > 0 && len(found) < limit; n-- {
				if one := testConversation(); team == "red" && (before.IsZero() || n < before[15]) {
					one.ID = testID(n)
					found = append(found, one)
				}
			}
			return found, nil
		},
	})
	got, err := c.GetConversation(as(t, "red"), &chatsvcv1.GetConversationRequest{Name: someConversation})
	want := fromJSON(t, `{
		"name": "`+someConversation+`", "displayName": "old", "instructions": "old", "headTurn": "`+someTurn+`",
		"activeTurn": "turns/0193abcd-ef01-7000-8000-000000000003", "etag": "1a-3",
		"createTime": "1970-01-01T00:00:01Z", "updateTime": "1970-01-01T00:00:02Z"
	}`, &chatsvcv1.Conversation{})
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("conversation %v, %v", got, err)
	}
	_, err = c.GetConversation(as(t, "blue"), &chatsvcv1.GetConversationRequest{Name: someConversation})
	wantStatus(t, err, codes.NotFound, conversation.NotFound)

	page, err := c.ListConversations(as(t, "red"), &chatsvcv1.ListConversationsRequest{PageSize: 2})
	if err != nil || len(page.GetConversations()) != 2 || page.GetNextPageToken() == "" {
		t.Fatalf("page %v, %v", page, err)
	}
	_, err = c.ListConversations(as(t, "blue"), &chatsvcv1.ListConversationsRequest{PageToken: page.GetNextPageToken()})
	wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest)
	page, err = c.ListConversations(as(t, "red"), &chatsvcv1.ListConversationsRequest{PageToken: page.GetNextPageToken()})
	if err != nil || len(page.GetConversations()) != 1 || page.GetNextPageToken() != "" {
		t.Errorf("page %v, %v", page, err)
	}
}

func TestUpdateConversation(t *testing.T) {
	tests := []struct {
		name      string
		update    string
		mask      []string
		conflicts int // how often others write in between
		tries     int
		code      codes.Code
		reason    conversation.Reason
	}{
		{"without an etag", `{"displayName":"new"}`, nil, 0, 1, codes.OK, ""},
		{"without an etag, others write", `{"displayName":"new"}`, nil, 3, 4, codes.OK, ""},
		{"without an etag, others never stop", `{"displayName":"new"}`, nil, 1000, maxTries, codes.Aborted, conversation.EtagMismatch},
		{"with the etag", `{"displayName":"new","etag":"1a-3"}`, nil, 0, 1, codes.OK, ""},
		{"with the etag, others write", `{"displayName":"new","etag":"1a-3"}`, nil, 1, 1, codes.Aborted, conversation.EtagMismatch},
		{"with an older etag", `{"displayName":"new","etag":"19-3"}`, nil, 0, 0, codes.Aborted, conversation.EtagMismatch},
		{"with an etag that is none", `{"displayName":"new","etag":"0-0"}`, nil, 0, 0, codes.Aborted, conversation.EtagMismatch},
		{"with a head", `{"displayName":"new","headTurn":"turns/0193abcd-ef01-7000-8000-000000000009"}`, nil, 0, 0, codes.Unimplemented, conversation.NotImplemented},
		{"with the head as it was read", `{"displayName":"new","headTurn":"` + someTurn + `"}`, nil, 0, 1, codes.OK, ""},
		{"with a head that is not in the mask", `{"displayName":"new","headTurn":"turns/0193abcd-ef01-7000-8000-000000000009"}`, []string{"display_name"}, 0, 1, codes.OK, ""},
		{"with an end", `{"displayName":"new","expireTime":"2026-05-01T12:00:00Z"}`, nil, 0, 0, codes.Unimplemented, conversation.NotImplemented},
		{"with a schema", `{"config":{"responseFormat":{"jsonSchema":{"name":"a"}}}}`, nil, 0, 0, codes.Unimplemented, conversation.NotImplemented},
		{"of what is not there", `{"name":"conversations/0193abcd-ef01-7000-8000-000000000009","displayName":"new","etag":"x"}`, nil, 0, 0, codes.NotFound, conversation.NotFound},
		{"of nothing", `{"name":""}`, nil, 0, 0, codes.InvalidArgument, conversation.InvalidRequest},
		{"of what cannot be set", `{"displayName":"new"}`, []string{"etag"}, 0, 0, codes.InvalidArgument, conversation.InvalidRequest},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			stored, tries := testConversation(), 0
			c := serve(t, nil, &storeStub{
				getConversation: func(_ string, id conversation.ID) (*conversation.Conversation, error) {
					if id != stored.ID {
						return nil, conversation.ErrNotFound
					}
					read := *stored
					return &read, nil
				},
				updateConversation: func(c *conversation.Conversation) (*conversation.Conversation, error) {
					if tries++; tries <= test.conflicts {
						stored.Spec.Instructions = fmt.Sprint("theirs ", tries)
						stored.Version.Spec++
					}
					if c.Version != stored.Version {
						return nil, conversation.ErrEtagMismatch
					}
					c.Version.Spec++
					return c, nil
				},
			})
			in := &chatsvcv1.UpdateConversationRequest{Conversation: &chatsvcv1.Conversation{Name: someConversation}}
			if test.name == "of nothing" {
				in.Conversation.Name = ""
			}
			proto.Merge(in.GetConversation(), fromJSON(t, test.update, &chatsvcv1.Conversation{}))
			if test.mask != nil {
				in.UpdateMask = &fieldmaskpb.FieldMask{Paths: test.mask}
			}
			got, err := c.UpdateConversation(as(t, "red"), in)
			wantStatus(t, err, test.code, test.reason)
			if tries != test.tries {
				t.Errorf("%d tries, want %d", tries, test.tries)
			}
			if err != nil {
				return
			}
			if got.GetDisplayName() != "new" || got.GetInstructions() != stored.Spec.Instructions || got.GetHeadTurn() != someTurn {
				t.Errorf("conversation %v", got)
			}
		})
	}
}

// Each part may be good by itself.
func TestUpdateIsCheckedAsAWhole(t *testing.T) {
	c := testConversation()
	c.Spec.ToolChoice = conversation.ToolChoice{Mode: conversation.ToolChoiceTool, Tool: "f"}
	err := change(c, &chatsvcv1.UpdateConversationRequest{
		Conversation: &chatsvcv1.Conversation{Tools: []*chatsvcv1.Tool{{Name: "g"}}},
	}, []string{"tools"})
	wantInvalid(t, err, "conversation.tool_choice.tool")

	c = testConversation()
	c.Spec.Instructions = strings.Repeat("x", 3<<20)
	err = change(c, &chatsvcv1.UpdateConversationRequest{
		Conversation: &chatsvcv1.Conversation{Tools: []*chatsvcv1.Tool{{Name: "g", Description: c.Spec.Instructions[:2<<20]}}},
	}, []string{"tools"})
	wantInvalid(t, err, "conversation.instructions")
}

func TestDeleteConversation(t *testing.T) {
	tests := []struct {
		name   string
		etag   string
		busy   int // how often another turn was faster
		want   []string
		code   codes.Code
		reason conversation.Reason
	}{
		{"without an etag", "", 0, []string{"cancel", "delete {0 0}"}, codes.OK, ""},
		{"with the etag", "1a-3", 0, []string{"cancel", "delete {26 3}"}, codes.OK, ""},
		{"with an older etag", "1a-2", 0, nil, codes.Aborted, conversation.EtagMismatch},
		{"with an etag that is none", "0-0", 0, nil, codes.Aborted, conversation.EtagMismatch},
		{"another turn was faster", "", 1, []string{"cancel", "delete {0 0}", "cancel", "delete {0 0}"}, codes.OK, ""},
		{"others are always faster", "", 1000, slices.Repeat([]string{"cancel", "delete {0 0}"}, maxTries), codes.Aborted, conversation.ConversationBusy},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var calls []string
			c := serve(t,
				&engineStub{cancelActive: func(_ context.Context, team string, id conversation.ID) error {
					calls = append(calls, "cancel")
					return nil
				}},
				&storeStub{
					getConversation: func(string, conversation.ID) (*conversation.Conversation, error) { return testConversation(), nil },
					deleteConversation: func(team string, id conversation.ID, version conversation.Version) error {
						calls = append(calls, fmt.Sprint("delete ", version))
						if len(calls) <= 2*test.busy {
							return conversation.ErrConversationBusy
						}
						return nil
					},
				})
			_, err := c.DeleteConversation(as(t, "red"), &chatsvcv1.DeleteConversationRequest{Name: someConversation, Etag: test.etag})
			wantStatus(t, err, test.code, test.reason)
			if !slices.Equal(calls, test.want) {
				t.Errorf("calls %v, want %v", calls, test.want)
			}
		})
	}
}

func TestListMessages(t *testing.T) {
	sizes := []int{10, 10, 10, 1 << 20, 1 << 20, 3 << 20, 10}
	c := serve(t, nil, &storeStub{
		getConversation: func(team string, id conversation.ID) (*conversation.Conversation, error) {
			if team != "red" {
				return nil, conversation.ErrNotFound
			}
			found := testConversation()
			found.HeadPosition = int64(len(sizes))
			return found, nil
		},
		// As the contract says: the last message may pass maxBytes.
		listMessages: func(_ string, _ conversation.ID, from int64, limit, maxBytes int) ([]*conversation.StoredMessage, error) {
			var found []*conversation.StoredMessage
			for n := from; n < int64(len(sizes)) && len(found) < limit && maxBytes > 0; n++ {
				maxBytes -= sizes[n]
				found = append(found, &conversation.StoredMessage{Position: n, Message: conversation.Message{
					ID: testID(byte(n)), Role: conversation.RoleUser, Parts: []conversation.Part{conversation.TextPart(strings.Repeat("x", sizes[n]))},
				}})
			}
			return found, nil
		},
	})
	in := &chatsvcv1.ListMessagesRequest{Parent: someConversation, PageSize: 2}
	var pages []int
	var names []string
	for {
		page, err := c.ListMessages(as(t, "red"), in)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, len(page.GetMessages()))
		for _, m := range page.GetMessages() {
			names = append(names, m.GetName()[len(m.GetName())-1:])
		}
		if in.PageToken = page.GetNextPageToken(); in.GetPageToken() == "" {
			break
		}
	}
	// The 1 MiB messages do not fit into 2 MiB together, by their overhead; the 3 MiB one is a page of its own.
	if !slices.Equal(pages, []int{2, 2, 1, 1, 1}) || !slices.Equal(names, []string{"0", "1", "2", "3", "4", "5", "6"}) {
		t.Errorf("pages of %v: %v", pages, names)
	}

	_, err := c.ListMessages(as(t, "blue"), &chatsvcv1.ListMessagesRequest{Parent: someConversation})
	wantStatus(t, err, codes.NotFound, conversation.NotFound)
	_, err = c.ListMessages(as(t, "red"), &chatsvcv1.ListMessagesRequest{Parent: someConversation, Turn: someTurn})
	wantStatus(t, err, codes.Unimplemented, conversation.NotImplemented)
	_, err = c.ListMessages(as(t, "red"), &chatsvcv1.ListMessagesRequest{Parent: someConversation, PageToken: "x"})
	wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest)
}

func TestMethodsOfLaterReleases(t *testing.T) {
	c := serve(t, nil, nil)
	ctx := as(t, "red")
	for name, call := range map[string]func() error{
		"EstimateTurn":     func() error { _, err := c.EstimateTurn(ctx, &chatsvcv1.EstimateTurnRequest{}); return err },
		"ForkConversation": func() error { _, err := c.ForkConversation(ctx, &chatsvcv1.ForkConversationRequest{}); return err },
		"GetCaller":        func() error { _, err := c.GetCaller(ctx, &chatsvcv1.GetCallerRequest{}); return err },
		"ListEffectiveLimits": func() error {
			_, err := c.ListEffectiveLimits(ctx, &chatsvcv1.ListEffectiveLimitsRequest{})
			return err
		},
		"QueryUsage": func() error { _, err := c.QueryUsage(ctx, &chatsvcv1.QueryUsageRequest{}); return err },
		"ListModels": func() error { _, err := c.ListModels(ctx, &chatsvcv1.ListModelsRequest{}); return err },
	} {
		err := call()
		if info := wantStatus(t, err, codes.Unimplemented, conversation.NotImplemented); info.GetMetadata()["field"] != "" {
			t.Errorf("%s is no field: metadata %v", name, info.GetMetadata())
		}
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}

// Every handler that touches anything needs to know who calls.
func TestNoPrincipal(t *testing.T) {
	c := serve(t, &engineStub{}, &storeStub{})
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"CreateTurn": func() error { _, err := c.CreateTurn(ctx, &chatsvcv1.CreateTurnRequest{Text: "a"}); return err },
		"StreamTurn": func() error {
			stream, err := c.StreamTurn(ctx, &chatsvcv1.CreateTurnRequest{Text: "a"})
			if err == nil {
				_, err = receive(stream)
			}
			return err
		},
		"WatchTurn": func() error {
			stream, err := c.WatchTurn(ctx, &chatsvcv1.WatchTurnRequest{Name: someTurn})
			if err == nil {
				_, err = receive(stream)
			}
			return err
		},
		"GetTurn":    func() error { _, err := c.GetTurn(ctx, &chatsvcv1.GetTurnRequest{Name: someTurn}); return err },
		"ListTurns":  func() error { _, err := c.ListTurns(ctx, &chatsvcv1.ListTurnsRequest{}); return err },
		"CancelTurn": func() error { _, err := c.CancelTurn(ctx, &chatsvcv1.CancelTurnRequest{Name: someTurn}); return err },
		"DeleteTurn": func() error { _, err := c.DeleteTurn(ctx, &chatsvcv1.DeleteTurnRequest{Name: someTurn}); return err },
		"CreateConversation": func() error {
			_, err := c.CreateConversation(ctx, &chatsvcv1.CreateConversationRequest{})
			return err
		},
		"GetConversation": func() error {
			_, err := c.GetConversation(ctx, &chatsvcv1.GetConversationRequest{Name: someConversation})
			return err
		},
		"ListConversations": func() error {
			_, err := c.ListConversations(ctx, &chatsvcv1.ListConversationsRequest{})
			return err
		},
		"UpdateConversation": func() error {
			_, err := c.UpdateConversation(ctx, &chatsvcv1.UpdateConversationRequest{Conversation: &chatsvcv1.Conversation{Name: someConversation}})
			return err
		},
		"DeleteConversation": func() error {
			_, err := c.DeleteConversation(ctx, &chatsvcv1.DeleteConversationRequest{Name: someConversation})
			return err
		},
		"ListMessages": func() error {
			_, err := c.ListMessages(ctx, &chatsvcv1.ListMessagesRequest{Parent: someConversation})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { wantStatus(t, call(), codes.Unauthenticated, conversation.CredentialMissing) })
	}
}
