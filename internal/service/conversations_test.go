package service

import (
	"context"
	"fmt"
	"maps"
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
		HeadTurn: testID(1), Head: conversation.Place{Branch: testID(2), Position: 5, Tokens: 50}, ActiveTurn: testID(3), Version: conversation.Version{Spec: 26, Head: 3},
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
	end := timestamppb.New(time.Now().Add(time.Hour))
	got, err = c.CreateConversation(as(t, "red"), &chatsvcv1.CreateConversationRequest{Conversation: &chatsvcv1.Conversation{ExpireTime: end}})
	if err != nil || !stored.ExpireTime.Equal(end.AsTime()) || !proto.Equal(got.GetExpireTime(), end) {
		t.Errorf("stored until %v: %v, %v", stored.ExpireTime, got, err)
	}
	for field, in := range map[string]*chatsvcv1.Conversation{
		"conversation.head_turn":   {HeadTurn: someTurn},
		"conversation.expire_time": {ExpireTime: timestamppb.New(time.Now().Add(-time.Second))},
	} {
		_, err = c.CreateConversation(as(t, "red"), &chatsvcv1.CreateConversationRequest{Conversation: in})
		if info := wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest); info.GetMetadata()["field"] != field {
			t.Errorf("%s: metadata %v", field, info.GetMetadata())
		}
	}
	_, err = c.CreateConversation(as(t, "red"), &chatsvcv1.CreateConversationRequest{Conversation: &chatsvcv1.Conversation{
		Instructions: "a", Model: strings.Repeat("x", maxConversationBytes-100), DisplayName: strings.Repeat("x", 200),
	}})
	info := wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest)
	if info.GetMetadata()["field"] != "conversation.model" {
		t.Errorf("metadata %v", info.GetMetadata())
	}
}

func TestExpiry(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		expire *timestamppb.Timestamp
		want   time.Time
		ok     bool
	}{
		{nil, time.Time{}, true},
		{timestamppb.New(now.Add(1)), now.Add(1), true},
		{timestamppb.New(now), time.Time{}, false},
		{timestamppb.New(now.Add(-time.Hour)), time.Time{}, false},
		{&timestamppb.Timestamp{}, time.Time{}, false},
		{timestamppb.New(now.Add(maxExpiry)), now.Add(maxExpiry), true},
		{timestamppb.New(now.Add(maxExpiry + 1)), time.Time{}, false},
		{timestamppb.New(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)), time.Time{}, false}, // beyond what nanoseconds can say
		{&timestamppb.Timestamp{Seconds: 1 << 62}, time.Time{}, false},
		{&timestamppb.Timestamp{Seconds: now.Unix() + 10, Nanos: -1}, time.Time{}, false},
	} {
		got, err := expiryFromProto(&chatsvcv1.Conversation{ExpireTime: test.expire}, now)
		if test.ok && err != nil || !got.Equal(test.want) {
			t.Errorf("%v: %v, %v", test.expire, got, err)
		}
		if !test.ok {
			wantInvalid(t, err, "conversation.expire_time")
		}
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
		{"with the head as it was read", `{"displayName":"new","headTurn":"` + someTurn + `"}`, nil, 0, 1, codes.OK, ""},
		{"with a head that is not in the mask", `{"displayName":"new","headTurn":"turns/0193abcd-ef01-7000-8000-000000000009"}`, []string{"display_name"}, 0, 1, codes.OK, ""},
		{"with an end in the past", `{"displayName":"new","expireTime":"2026-05-01T12:00:00Z"}`, nil, 0, 0, codes.InvalidArgument, conversation.InvalidRequest},
		{"with an end in the past that is not in the mask", `{"displayName":"new","expireTime":"2026-05-01T12:00:00Z"}`, []string{"display_name"}, 0, 1, codes.OK, ""},
		{"with a head that is no name", `{"displayName":"new","headTurn":"turns/1"}`, nil, 0, 0, codes.InvalidArgument, conversation.InvalidRequest},
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
	err := change(c, &chatsvcv1.Conversation{
		Tools: []*chatsvcv1.Tool{{Name: "g"}},
	}, []string{"tools"}, time.Now())
	wantInvalid(t, err, "conversation.tool_choice.tool")

	c = testConversation()
	c.Spec.Instructions = strings.Repeat("x", 3<<20)
	err = change(c, &chatsvcv1.Conversation{
		Tools: []*chatsvcv1.Tool{{Name: "g", Description: c.Spec.Instructions[:2<<20]}},
	}, []string{"tools"}, time.Now())
	wantInvalid(t, err, "conversation.instructions")
}

// What the store is asked to record, by the path that says so.
func TestUpdateHeadAndEnd(t *testing.T) {
	end := time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC) // as it is
	later := time.Now().Add(time.Hour).UTC()
	update := &chatsvcv1.Conversation{Name: someConversation, HeadTurn: formatName(turns, testID(9)), ExpireTime: timestamppb.New(later)}
	for _, test := range []struct {
		name     string
		update   *chatsvcv1.Conversation
		mask     []string
		wantHead conversation.ID
		wantEnd  time.Time
	}{
		{"no mask", update, nil, testID(9), later},
		{"all", update, []string{"*"}, testID(9), later},
		{"the head", update, []string{"head_turn"}, testID(9), end},
		{"the end", update, []string{"expire_time"}, testID(1), later},
		{"neither", update, []string{"display_name"}, testID(1), end},
		{"no mask, neither set", &chatsvcv1.Conversation{Name: someConversation}, nil, testID(1), end},
		{"all, neither set", &chatsvcv1.Conversation{Name: someConversation}, []string{"*"}, testID(1), time.Time{}},
		{"the end, not set", &chatsvcv1.Conversation{Name: someConversation}, []string{"expire_time"}, testID(1), time.Time{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := serve(t, nil, &storeStub{
				getConversation: func(string, conversation.ID) (*conversation.Conversation, error) {
					read := testConversation()
					read.ExpireTime = end
					return read, nil
				},
				updateConversation: func(c *conversation.Conversation) (*conversation.Conversation, error) { return c, nil },
			})
			got, err := c.UpdateConversation(as(t, "red"), &chatsvcv1.UpdateConversationRequest{
				Conversation: test.update, UpdateMask: &fieldmaskpb.FieldMask{Paths: test.mask},
			})
			if err != nil || got.GetHeadTurn() != formatName(turns, test.wantHead) || !proto.Equal(got.GetExpireTime(), timeToProto(test.wantEnd)) {
				t.Errorf("conversation %v, %v", got, err)
			}
		})
	}
}

// The store says what is wrong, and the handler of which field.
func TestUpdateHeadRefused(t *testing.T) {
	other := formatName(turns, testID(9))
	for _, test := range []struct {
		head     string
		err      error
		code     codes.Code
		reason   conversation.Reason
		metadata map[string]string
	}{
		{other, conversation.ErrNotFound, codes.NotFound, conversation.NotFound, map[string]string{"field": "conversation.head_turn"}},
		{other, conversation.ErrInvalidState, codes.FailedPrecondition, conversation.InvalidState, map[string]string{"field": "conversation.head_turn", "turn": other}},
		{
			other, &conversation.Error{Reason: conversation.ConversationBusy, Turn: testID(3)}, codes.Aborted, conversation.ConversationBusy,
			map[string]string{"active_turn": formatName(turns, testID(3))},
		},
		{"", conversation.ErrNotFound, codes.NotFound, conversation.NotFound, nil}, // the conversation itself
		{"turns/00000000-0000-0000-0000-000000000000", nil, codes.NotFound, conversation.NotFound, map[string]string{"field": "conversation.head_turn"}},
	} {
		c := serve(t, nil, &storeStub{
			getConversation:    func(string, conversation.ID) (*conversation.Conversation, error) { return testConversation(), nil },
			updateConversation: func(c *conversation.Conversation) (*conversation.Conversation, error) { return c, test.err },
		})
		_, err := c.UpdateConversation(as(t, "red"), &chatsvcv1.UpdateConversationRequest{
			Conversation: &chatsvcv1.Conversation{Name: someConversation, HeadTurn: test.head},
		})
		if info := wantStatus(t, err, test.code, test.reason); !maps.Equal(info.GetMetadata(), test.metadata) {
			t.Errorf("%q, %v: metadata %v", test.head, test.err, info.GetMetadata())
		}
	}
}

func TestDeleteConversation(t *testing.T) {
	busy := func(n byte) string { return "cancel " + string('0'+rune(n)) }
	round := []string{"delete {0 0}", busy(3)}
	tests := []struct {
		name   string
		etag   string
		busy   int // how many turns run or wait
		want   []string
		code   codes.Code
		reason conversation.Reason
	}{
		{"without an etag", "", 0, []string{"delete {0 0}"}, codes.OK, ""},
		{"with the etag", "1a-3", 0, []string{"delete {26 3}"}, codes.OK, ""},
		{"with an older etag", "1a-2", 0, nil, codes.Aborted, conversation.EtagMismatch},
		{"with an etag that is none", "0-0", 0, nil, codes.Aborted, conversation.EtagMismatch},
		{"a turn runs", "1a-3", 1, []string{"delete {26 3}", busy(3), "delete {26 3}"}, codes.OK, ""},
		{
			"one runs, and the longest queue waits", "", 1 + conversation.MaxQueued,
			append(slices.Repeat(round, 1+conversation.MaxQueued), "delete {0 0}"), codes.OK, "",
		},
		{"others never stop", "", 100_000, slices.Repeat(round, maxCancels), codes.Aborted, conversation.ConversationBusy},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var calls []string
			c := serve(t,
				&engineStub{cancel: func(_ context.Context, team string, id conversation.ID) (*conversation.Turn, error) {
					if team != "red" {
						t.Errorf("cancel in %s", team)
					}
					test.busy--
					calls = append(calls, busy(id[15]))
					return endedTurn(conversation.Cancelled), nil
				}},
				&storeStub{
					getConversation: func(string, conversation.ID) (*conversation.Conversation, error) { return testConversation(), nil },
					deleteConversation: func(_ string, _ conversation.ID, version conversation.Version) error {
						calls = append(calls, fmt.Sprint("delete ", version))
						if test.busy > 0 {
							return &conversation.Error{Reason: conversation.ConversationBusy, Message: "m", Turn: testID(3)}
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

// A turn that is gone when it is to be cancelled is in nobody's way; one that cannot be cancelled is.
func TestDeleteConversationWhoseTurnIsNotCancelled(t *testing.T) {
	for _, test := range []struct {
		err    error
		code   codes.Code
		reason conversation.Reason
	}{
		{conversation.ErrNotFound, codes.OK, ""},
		{conversation.ErrStoreUnavailable, codes.Unavailable, conversation.StoreUnavailable},
	} {
		deletes := 0
		c := serve(t,
			&engineStub{cancel: func(context.Context, string, conversation.ID) (*conversation.Turn, error) { return nil, test.err }},
			&storeStub{
				getConversation: func(string, conversation.ID) (*conversation.Conversation, error) { return testConversation(), nil },
				deleteConversation: func(string, conversation.ID, conversation.Version) error {
					if deletes++; deletes == 1 {
						return &conversation.Error{Reason: conversation.ConversationBusy, Turn: testID(3)}
					}
					return nil
				},
			})
		_, err := c.DeleteConversation(as(t, "red"), &chatsvcv1.DeleteConversationRequest{Name: someConversation})
		wantStatus(t, err, test.code, test.reason)
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
			found.Head.Position = int64(len(sizes))
			return found, nil
		},
		// As the contract says: the last message may pass maxBytes.
		listMessages: func(_ string, _ conversation.ID, _ conversation.Place, from int64, limit, maxBytes int) ([]*conversation.StoredMessage, error) {
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
	_, err = c.ListMessages(as(t, "red"), &chatsvcv1.ListMessagesRequest{Parent: someConversation, PageToken: "x"})
	wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest)
}

// The line that is listed is the one that ends at the turn.
func TestListMessagesOfATurn(t *testing.T) {
	main := conversation.Place{Branch: testID(2), Position: 5, Tokens: 50} // testConversation's
	branch := conversation.Place{Branch: testID(7), Position: 3, Tokens: 30}
	turnIn := func(conv conversation.ID, state conversation.State) *conversation.Turn {
		return &conversation.Turn{ID: testID(7), Conversation: conv, State: state, End: branch}
	}
	for _, test := range []struct {
		name   string
		turn   string
		found  *conversation.Turn
		want   conversation.Place
		code   codes.Code
		reason conversation.Reason
	}{
		{"none", "", nil, main, codes.OK, ""},
		{"the head, whoever's it is", someTurn, nil, main, codes.OK, ""},
		{"a branch's", formatName(turns, testID(7)), turnIn(testID(2), conversation.Completed), branch, codes.OK, ""},
		{"a failed one", formatName(turns, testID(7)), turnIn(testID(2), conversation.Failed), branch, codes.OK, ""},
		{"one that runs", formatName(turns, testID(7)), turnIn(testID(2), conversation.Running), main, codes.FailedPrecondition, conversation.InvalidState},
		{"one that waits", formatName(turns, testID(7)), turnIn(testID(2), conversation.Queued), main, codes.FailedPrecondition, conversation.InvalidState},
		{"another conversation's", formatName(turns, testID(7)), turnIn(testID(8), conversation.Completed), main, codes.NotFound, conversation.NotFound},
		{"a one-shot", formatName(turns, testID(7)), turnIn(conversation.ID{}, conversation.Completed), main, codes.NotFound, conversation.NotFound},
		{"an unknown one", formatName(turns, testID(7)), nil, main, codes.NotFound, conversation.NotFound},
		{"zeros", "turns/00000000-0000-0000-0000-000000000000", nil, main, codes.NotFound, conversation.NotFound},
		{"no name", "turns/7", nil, main, codes.InvalidArgument, conversation.InvalidRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := serve(t, nil, &storeStub{
				getConversation: func(string, conversation.ID) (*conversation.Conversation, error) { return testConversation(), nil },
				getTurn: func(team string, id conversation.ID, _ bool) (*conversation.Turn, error) {
					if team != "red" || id != testID(7) || test.found == nil {
						return nil, conversation.ErrNotFound
					}
					return test.found, nil
				},
				listMessages: func(_ string, id conversation.ID, before conversation.Place, from int64, _, _ int) ([]*conversation.StoredMessage, error) {
					if id != testID(2) || before != test.want {
						t.Errorf("messages of %v before %v", id, before)
					}
					return []*conversation.StoredMessage{{Position: from}}, nil
				},
			})
			in := &chatsvcv1.ListMessagesRequest{Parent: someConversation, Turn: test.turn}
			for n := int64(1); ; n++ {
				page, err := c.ListMessages(as(t, "red"), in)
				info := wantStatus(t, err, test.code, test.reason)
				if test.code != codes.OK {
					if info.GetMetadata()["field"] != "turn" {
						t.Errorf("metadata %v", info.GetMetadata())
					}
					return
				}
				if in.PageToken = page.GetNextPageToken(); in.GetPageToken() == "" {
					if n != test.want.Position {
						t.Errorf("%d messages, want %d", n, test.want.Position)
					}
					return
				}
				_, err = c.ListMessages(as(t, "red"), &chatsvcv1.ListMessagesRequest{
					Parent: someConversation, Turn: formatName(turns, testID(9)), PageToken: in.GetPageToken(),
				})
				wantStatus(t, err, codes.InvalidArgument, conversation.InvalidRequest)
			}
		})
	}
}

func TestForkConversation(t *testing.T) {
	var stored *conversation.Conversation
	var upTo conversation.ID
	c := serve(t, nil, &storeStub{
		getConversation: func(team string, id conversation.ID) (*conversation.Conversation, error) {
			if team != "red" || id != testID(2) {
				return nil, conversation.ErrNotFound
			}
			source := testConversation()
			source.ExpireTime = time.Now().Add(time.Hour)
			return source, nil
		},
		forkConversation: func(c *conversation.Conversation, from, turn conversation.ID) error {
			switch {
			case from != testID(2):
				t.Errorf("fork of %v", from)
			case turn == testID(7):
				return conversation.ErrNotFound
			case turn == testID(8):
				return conversation.ErrInvalidState
			}
			stored, upTo = c, turn
			c.HeadTurn, c.Version, c.UpdateTime = testID(1), conversation.Version{Spec: 1, Head: 1}, c.CreateTime
			return nil
		},
	})
	for name, want := range map[string]conversation.ID{"": {}, formatName(turns, testID(5)): testID(5)} {
		got, err := c.ForkConversation(as(t, "red"), &chatsvcv1.ForkConversationRequest{Name: someConversation, Turn: name})
		if err != nil {
			t.Fatal(err)
		}
		if upTo != want || stored.Team != "red" || stored.ID == testID(2) || stored.ID[6]>>4 != 7 || !stored.ExpireTime.IsZero() {
			t.Errorf("up to %v: %+v", upTo, stored)
		}
		if !proto.Equal(got, conversationToProto(stored)) || got.GetDisplayName() != "old" || got.GetInstructions() != "old" || got.GetHeadTurn() != someTurn {
			t.Errorf("conversation %v", got)
		}
	}

	for _, test := range []struct {
		team, name, turn string
		code             codes.Code
		reason           conversation.Reason
		metadata         map[string]string
	}{
		{"blue", someConversation, "", codes.NotFound, conversation.NotFound, nil},
		{"red", formatName(conversations, testID(9)), someTurn, codes.NotFound, conversation.NotFound, nil},
		{"red", "conversations/1", "", codes.InvalidArgument, conversation.InvalidRequest, map[string]string{"field": "name"}},
		{"red", someConversation, "turns/1", codes.InvalidArgument, conversation.InvalidRequest, map[string]string{"field": "turn"}},
		{"red", someConversation, formatName(turns, testID(7)), codes.NotFound, conversation.NotFound, map[string]string{"field": "turn"}},
		{"red", someConversation, "turns/00000000-0000-0000-0000-000000000000", codes.NotFound, conversation.NotFound, map[string]string{"field": "turn"}},
		{
			"red", someConversation, formatName(turns, testID(8)), codes.FailedPrecondition, conversation.InvalidState,
			map[string]string{"field": "turn", "turn": formatName(turns, testID(8))},
		},
	} {
		_, err := c.ForkConversation(as(t, test.team), &chatsvcv1.ForkConversationRequest{Name: test.name, Turn: test.turn})
		if info := wantStatus(t, err, test.code, test.reason); !maps.Equal(info.GetMetadata(), test.metadata) {
			t.Errorf("%s %s: metadata %v", test.name, test.turn, info.GetMetadata())
		}
	}
}

func TestMethodsOfLaterReleases(t *testing.T) {
	c := serve(t, nil, nil)
	ctx := as(t, "red")
	for name, call := range map[string]func() error{
		"EstimateTurn": func() error { _, err := c.EstimateTurn(ctx, &chatsvcv1.EstimateTurnRequest{}); return err },
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
		"ForkConversation": func() error {
			_, err := c.ForkConversation(ctx, &chatsvcv1.ForkConversationRequest{Name: someConversation})
			return err
		},
		"ListMessages": func() error {
			_, err := c.ListMessages(ctx, &chatsvcv1.ListMessagesRequest{Parent: someConversation})
			return err
		},
		"GetCaller": func() error { _, err := c.GetCaller(ctx, &chatsvcv1.GetCallerRequest{}); return err },
	} {
		t.Run(name, func(t *testing.T) { wantStatus(t, call(), codes.Unauthenticated, conversation.CredentialMissing) })
	}
}
