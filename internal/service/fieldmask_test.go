package service

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
)

func TestUpdateMask(t *testing.T) {
	const stored = `{"displayName":"old","instructions":"old","config":{"temperature":1,"topP":0.5},"labels":{"a":"1"}}`
	tests := []struct {
		name, mask, update, want string
	}{
		{"named and set", "display_name", `{"displayName":"new"}`, `{"displayName":"new","instructions":"old","config":{"temperature":1,"topP":0.5},"labels":{"a":"1"}}`},
		{"named and unset", "display_name,labels,config", `{}`, `{"instructions":"old"}`},
		{"set and not named", "display_name", `{"displayName":"new","instructions":"new"}`, `{"displayName":"new","instructions":"old","config":{"temperature":1,"topP":0.5},"labels":{"a":"1"}}`},
		{"no mask: what is set", "", `{"labels":{"b":"2"},"config":{"seed":"1"}}`, `{"displayName":"old","instructions":"old","config":{"seed":"1"},"labels":{"b":"2"}}`},
		{"all", "*", `{"model":"m"}`, `{"model":"m"}`},
		{"a field of config", "config.temperature", `{"config":{"temperature":0,"topP":1}}`, `{"displayName":"old","instructions":"old","config":{"temperature":0,"topP":0.5},"labels":{"a":"1"}}`},
		{"a field of config, unset", "config.temperature,config.seed", `{}`, `{"displayName":"old","instructions":"old","config":{"topP":0.5},"labels":{"a":"1"}}`},
		{"config and its field", "config,config.seed", `{"config":{"seed":"1"}}`, `{"displayName":"old","instructions":"old","config":{"seed":"1"},"labels":{"a":"1"}}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			update := fromJSON(t, test.update, &chatsvcv1.Conversation{})
			var paths []string
			if test.mask != "" {
				paths = strings.Split(test.mask, ",")
			}
			paths, err := maskPaths(paths, update)
			if err != nil {
				t.Fatal(err)
			}
			before := proto.CloneOf(update)
			got := fromJSON(t, stored, &chatsvcv1.Conversation{})
			applyMask(got, update, paths)
			if want := fromJSON(t, test.want, &chatsvcv1.Conversation{}); !proto.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
			if !proto.Equal(update, before) {
				t.Error("the request was changed, and a second try would see it")
			}
		})
	}
}

func TestUpdateMaskRefuses(t *testing.T) {
	for _, path := range []string{
		"", "nothing", "displayName", "name", "active_turn", "etag", "create_time", "update_time", "create_time.seconds",
		"labels.a", "tools.name", "display_name.", "config.", "config.nothing", "config.response_format.text", "*.config",
	} {
		_, err := maskPaths([]string{"model", path}, &chatsvcv1.Conversation{})
		wantInvalid(t, err, "update_mask")
	}
	_, err := maskPaths([]string{"*", "model"}, &chatsvcv1.Conversation{})
	wantInvalid(t, err, "update_mask")
	for _, path := range []string{"head_turn", "expire_time", "expire_time.seconds"} {
		_, err := maskPaths([]string{path}, &chatsvcv1.Conversation{})
		if !errors.Is(err, &conversation.Error{Reason: conversation.NotImplemented}) {
			t.Errorf("%s: %v, want NOT_IMPLEMENTED", path, err)
		}
	}
}

// Every field of a conversation is either settable or refused, each for a reason: none is unknown.
func TestEveryFieldHasAPlaceInTheMask(t *testing.T) {
	fields := (&chatsvcv1.Conversation{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		path := string(fields.Get(i).Name())
		if err := checkPath(path); err != nil && strings.Contains(err.Error(), "do not have") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
