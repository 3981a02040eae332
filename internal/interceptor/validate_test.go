package interceptor

import (
	"errors"
	"strings"
	"testing"
	"time"

	rules "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// TestEveryPatternHasWords goes through the rules of all fields of the proto.
func TestEveryPatternHasWords(t *testing.T) {
	known := 0
	look := func(of protoreflect.FullName, field *rules.FieldRules) {
		for _, r := range []*rules.FieldRules{field, field.GetRepeated().GetItems(), field.GetMap().GetKeys(), field.GetMap().GetValues()} {
			pattern := r.GetString().GetPattern()
			if pattern == "" {
				continue
			}
			known++
			if patternInWords(pattern) == "" {
				t.Errorf("%s: %s has no words", of, pattern)
			}
		}
	}
	protoregistry.GlobalFiles.RangeFilesByPackage("chatsvc.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Messages().Len() {
			fields := file.Messages().Get(i).Fields()
			for j := range fields.Len() {
				if field, ok := proto.GetExtension(fields.Get(j).Options(), rules.E_Field).(*rules.FieldRules); ok {
					look(fields.Get(j).FullName(), field)
				}
			}
		}
		return true
	})
	if known < 20 {
		t.Errorf("there are only %d patterns", known)
	}
}

func TestDescribe(t *testing.T) {
	validator, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	const id = "must be 1 to 63 lower-case letters, digits and . _ -, of which the first is a letter or digit"
	for _, tt := range []struct {
		request     proto.Message
		field, want string
	}{
		{&chatsvcv1.CreateTeamRequest{TeamId: "A b"}, "team_id", id},
		{&chatsvcv1.CreateClientRequest{ClientId: "A b"}, "client_id", id},
		{
			&chatsvcv1.CreateKeyRequest{Key: &chatsvcv1.Key{AllowedModels: []string{"a b"}}}, "key.allowed_models[0]",
			"must be the name of a model: letters, digits and . _ : / @ = , + -, at most 128",
		},
		{&chatsvcv1.CreateKeyRequest{Key: &chatsvcv1.Key{Roles: []chatsvcv1.AccessRole{0}}}, "key.roles[0]", "must not be unspecified"},
		{
			&chatsvcv1.CreateKeyRequest{Key: &chatsvcv1.Key{Roles: []chatsvcv1.AccessRole{9}}}, "key.roles[0]",
			"must be one of the values that the API has for it",
		},
		{&chatsvcv1.CreateKeyRequest{Key: &chatsvcv1.Key{Roles: []chatsvcv1.AccessRole{1, 1}}}, "key.roles", "must not have the same twice"},
		{&chatsvcv1.RotateKeyRequest{Overlap: durationpb.New(-1)}, "overlap", "must be from 0 to 30 days"},
		{&chatsvcv1.RotateKeyRequest{Overlap: durationpb.New(30*24*time.Hour + 1)}, "overlap", "must be from 0 to 30 days"},
		{&chatsvcv1.RotateKeyRequest{Overlap: &durationpb.Duration{Seconds: 1 << 60}}, "overlap", "must be from 0 to 30 days"},
		{&chatsvcv1.ListAuditEntriesRequest{OrderBy: "time"}, "order_by", "must be one of: sequence, sequence desc"},
		{&chatsvcv1.ListKeysRequest{PageSize: -1}, "page_size", "must be greater than or equal to 0"},
	} {
		var invalid *protovalidate.ValidationError
		if err := validator.Validate(tt.request); !errors.As(err, &invalid) || len(invalid.Violations) != 1 {
			t.Errorf("%v: %v, want one violation", tt.request, err)
			continue
		}
		v := invalid.Violations[0]
		if field, got := protovalidate.FieldPathString(v.Proto.GetField()), describe(v); field != tt.field || got != tt.want {
			t.Errorf("%v: %s %s, want %s %s", tt.request, field, got, tt.field, tt.want)
		}
	}
	if err := validator.Validate(&chatsvcv1.RotateKeyRequest{Overlap: durationpb.New(30 * 24 * time.Hour)}); err != nil {
		t.Errorf("30 days: %v", err)
	}
}

// TestRefusalNamesTheField: programs look for it in ErrorInfo, and BadRequest is there once, with all violations.
func TestRefusalNamesTheField(t *testing.T) {
	f := start(t, nil)
	for _, tw := range twins() {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer sk-red")
		err := tw.call(ctx, f.conn, &chatsvcv1.CreateTurnRequest{Model: "a b", RequestId: "a b"})
		if field := errorInfo(err).GetMetadata()["field"]; field == "" || !strings.HasPrefix(status.Convert(err).Message(), field+": ") {
			t.Errorf("%s: the field is %q of %v", tw.method, field, err)
		}
		var bad []*errdetails.BadRequest
		for _, detail := range status.Convert(err).Details() {
			if b, ok := detail.(*errdetails.BadRequest); ok {
				bad = append(bad, b)
			}
		}
		if len(bad) != 1 || len(bad[0].GetFieldViolations()) != 2 {
			t.Errorf("%s: BadRequest is %v", tw.method, bad)
		}
	}
}
