package service

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

func TestUpdateMask(t *testing.T) {
	const stored = `{"displayName":"old","instructions":"old","config":{"temperature":1,"topP":0.5},"labels":{"a":"1"},"headTurn":"old","expireTime":"2126-01-01T00:00:00Z"}`
	tests := []struct {
		name, mask, update, want string
	}{
		{"named and set", "display_name", `{"displayName":"new"}`, `{"displayName":"new","instructions":"old","config":{"temperature":1,"topP":0.5},"labels":{"a":"1"},"headTurn":"old","expireTime":"2126-01-01T00:00:00Z"}`},
		{"named and unset", "display_name,labels,config", `{}`, `{"instructions":"old","headTurn":"old","expireTime":"2126-01-01T00:00:00Z"}`},
		{"set and not named", "display_name", `{"displayName":"new","instructions":"new"}`, `{"displayName":"new","instructions":"old","config":{"temperature":1,"topP":0.5},"labels":{"a":"1"},"headTurn":"old","expireTime":"2126-01-01T00:00:00Z"}`},
		{"no mask: what is set", "", `{"labels":{"b":"2"},"config":{"seed":"1"}}`, `{"displayName":"old","instructions":"old","config":{"seed":"1"},"labels":{"b":"2"},"headTurn":"old","expireTime":"2126-01-01T00:00:00Z"}`},
		{"all", "*", `{"model":"m"}`, `{"model":"m","headTurn":"old"}`},
		{"all, and a head", "*", `{"headTurn":"new"}`, `{"headTurn":"new"}`},
		{"a head", "head_turn", `{"model":"m","headTurn":"new"}`, `{"displayName":"old","instructions":"old","config":{"temperature":1,"topP":0.5},"labels":{"a":"1"},"headTurn":"new","expireTime":"2126-01-01T00:00:00Z"}`},
		{"an end, unset", "expire_time", `{"headTurn":"new"}`, `{"displayName":"old","instructions":"old","config":{"temperature":1,"topP":0.5},"labels":{"a":"1"},"headTurn":"old"}`},
		{"no mask: a head and an end", "", `{"headTurn":"new","expireTime":"2127-01-01T00:00:00Z"}`, `{"displayName":"old","instructions":"old","config":{"temperature":1,"topP":0.5},"labels":{"a":"1"},"headTurn":"new","expireTime":"2127-01-01T00:00:00Z"}`},
		{"a field of config", "config.temperature", `{"config":{"temperature":0,"topP":1}}`, `{"displayName":"old","instructions":"old","config":{"temperature":0,"topP":0.5},"labels":{"a":"1"},"headTurn":"old","expireTime":"2126-01-01T00:00:00Z"}`},
		{"a field of config, unset", "config.temperature,config.seed", `{}`, `{"displayName":"old","instructions":"old","config":{"topP":0.5},"labels":{"a":"1"},"headTurn":"old","expireTime":"2126-01-01T00:00:00Z"}`},
		{"config and its field", "config,config.seed", `{"config":{"seed":"1"}}`, `{"displayName":"old","instructions":"old","config":{"seed":"1"},"labels":{"a":"1"},"headTurn":"old","expireTime":"2126-01-01T00:00:00Z"}`},
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
		"labels.a", "tools.name", "expire_time.seconds", "head_turn.name", "display_name.", "config.", "config.nothing", "config.response_format.text", "*.config",
	} {
		_, err := maskPaths([]string{"model", path}, &chatsvcv1.Conversation{})
		wantInvalid(t, err, "update_mask")
	}
	_, err := maskPaths([]string{"*", "model"}, &chatsvcv1.Conversation{})
	wantInvalid(t, err, "update_mask")
	_, err = maskPaths([]string{"model", "head_turn"}, &chatsvcv1.Conversation{Model: "m"})
	wantInvalid(t, err, "conversation.head_turn")
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

func TestFlatUpdateMask(t *testing.T) {
	for _, test := range []struct{ mask, update, want string }{
		{"", `{}`, ""},
		{"", `{"disabled":true}`, "disabled"},
		{"", `{"name":"teams/red","etag":"1","disabled":true,"displayName":"a"}`, "display_name,disabled"},
		{"*", `{}`, "display_name,disabled"},
		{"disabled", `{"displayName":"a"}`, "disabled"},
		{"disabled,display_name", `{}`, "disabled,display_name"},
	} {
		var paths []string
		if test.mask != "" {
			paths = strings.Split(test.mask, ",")
		}
		got, err := flatPaths(paths, fromJSON(t, test.update, &chatsvcv1.Team{}), "display_name", "disabled")
		if err != nil || strings.Join(got, ",") != test.want {
			t.Errorf("%q of %s: %q, %v, want %q", test.mask, test.update, got, err, test.want)
		}
	}
	for _, path := range []string{"", "*", "nothing", "displayName", "display_name.", "name", "etag", "create_time", "create_time.seconds", "update_time", "disabled.x"} {
		_, err := flatPaths([]string{"disabled", path}, &chatsvcv1.Team{}, "display_name", "disabled")
		wantInvalid(t, err, "update_mask")
	}
}
