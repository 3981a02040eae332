package service

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// settable returns the fields of a conversation that callers set, as a mask names them.
func settable() []string {
	return []string{"display_name", "instructions", "model", "config", "tools", "tool_choice", "labels", "head_turn", "expire_time"}
}

// maskPaths checks the paths of an update mask and spells out what no mask and `*` mean: the fields that are set in the
// conversation, and all of them. Of a conversation that came without its head, `*` leaves the head alone, because no
// conversation that has turns can be without one.
func maskPaths(paths []string, in *chatsvcv1.Conversation) ([]string, error) {
	fields := in.ProtoReflect().Descriptor().Fields()
	unset := func(path string) bool { return !in.ProtoReflect().Has(fields.ByName(protoreflect.Name(path))) }
	switch {
	case len(paths) == 0:
		return slices.DeleteFunc(settable(), unset), nil
	case slices.Equal(paths, []string{"*"}):
		return slices.DeleteFunc(settable(), func(path string) bool { return path == "head_turn" && unset(path) }), nil
	}
	for _, path := range paths {
		if err := checkPath(path); err != nil {
			return nil, err
		}
		if path == "head_turn" && unset(path) {
			return nil, invalid("conversation.head_turn", "must be a turn: the head cannot be cleared")
		}
	}
	return paths, nil
}

// checkPath refuses a path that cannot be set. Below the first level only the fields of config can be named one by one.
func checkPath(path string) error {
	switch top, rest, nested := strings.Cut(path, "."); {
	case path == "*":
		return invalid("update_mask", "must have no other path next to *")
	case slices.Contains([]string{"name", "active_turn", "etag", "create_time", "update_time"}, top):
		return invalid("update_mask", "names %s, which cannot be set", top)
	case !slices.Contains(settable(), top):
		return invalid("update_mask", "names a field that conversations do not have: one of %s is needed", strings.Join(settable(), ", "))
	case !nested:
		return nil
	case top != "config":
		return invalid("update_mask", "names a part of %s, which is replaced as a whole", top)
	default:
		fields := (&chatsvcv1.GenerationConfig{}).ProtoReflect().Descriptor().Fields()
		if fields.ByName(protoreflect.Name(rest)) == nil {
			return invalid("update_mask", "names a field that config does not have, or a part of one")
		}
		return nil
	}
}

// applyMask sets in dst what the checked paths name to what it is in src, unset included.
func applyMask(dst, src *chatsvcv1.Conversation, paths []string) {
	for _, path := range paths {
		top, rest, nested := strings.Cut(path, ".")
		if !nested {
			copyField(dst.ProtoReflect(), src.ProtoReflect(), top)
			continue
		}
		if dst.Config == nil {
			dst.Config = &chatsvcv1.GenerationConfig{}
		}
		copyField(dst.Config.ProtoReflect(), src.GetConfig().ProtoReflect(), rest)
	}
}

func copyField(dst, src protoreflect.Message, name string) {
	fd := dst.Descriptor().Fields().ByName(protoreflect.Name(name))
	if src.Has(fd) {
		dst.Set(fd, src.Get(fd))
	} else {
		dst.Clear(fd)
	}
}

// flatPaths is maskPaths for a message whose settable fields have no parts.
func flatPaths(paths []string, in proto.Message, settable ...string) ([]string, error) {
	fields := in.ProtoReflect().Descriptor().Fields()
	switch {
	case len(paths) == 0:
		return slices.DeleteFunc(settable, func(path string) bool {
			return !in.ProtoReflect().Has(fields.ByName(protoreflect.Name(path)))
		}), nil
	case slices.Equal(paths, []string{"*"}):
		return settable, nil
	}
	for _, path := range paths {
		switch {
		case slices.Contains(settable, path):
		case path == "*":
			return nil, invalid("update_mask", "must have no other path next to *")
		case fields.ByName(protoreflect.Name(path)) != nil:
			return nil, invalid("update_mask", "names %s, which cannot be set", path)
		default:
			return nil, invalid("update_mask", "names a field that cannot be set: one of %s is needed", strings.Join(settable, ", "))
		}
	}
	return paths, nil
}
