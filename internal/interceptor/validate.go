package interceptor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/tenant"
)

// validate refuses messages that break the rules of the proto. It is our own rather than the middleware's, because callers
// are promised ErrorInfo and BadRequest, and get Violations from that one.
type validate struct {
	validator protovalidate.Validator
	toStatus  func(error) error
}

func (v validate) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := v.check(req); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// stream checks each message as the handler receives it. For a call with one request, generated code receives it before
// the handler is called; so there, too, a handler never sees a bad one.
func (v validate) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, validatedStream{ServerStream: stream, v: v})
}

type validatedStream struct {
	grpc.ServerStream
	v validate
}

// RecvMsg receives and checks a message.
func (s validatedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.v.check(m)
}

// A refusal travels in headers, of which some clients take no more than 8 KiB, and is base64 there. These are bounds in
// bytes of its parts: a field path or a description can repeat the key of a map that the caller sent.
const (
	maxViolations = 3 << 10
	maxPart       = 200
)

// check returns nil for a valid message, and for one that is not INVALID_REQUEST with each violation in BadRequest, as far as
// maxViolations goes. Rules that cannot be evaluated are our own fault: INTERNAL.
func (v validate) check(m any) error {
	message, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("validating a request: %T is not a protobuf message", m)
	}
	err := v.validator.Validate(message)
	if err == nil {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) || len(invalid.Violations) == 0 {
		return fmt.Errorf("validating %s: %w", message.ProtoReflect().Descriptor().FullName(), err)
	}

	bad := &errdetails.BadRequest{}
	var sentence strings.Builder
	for i, violation := range invalid.Violations {
		field := &errdetails.BadRequest_FieldViolation{
			Field:       clip(protovalidate.FieldPathString(violation.Proto.GetField()), maxPart),
			Description: clip(describe(violation), maxPart),
			Reason:      violation.Proto.GetRuleId(),
		}
		if i == 0 {
			fmt.Fprintf(&sentence, "%s: %s", field.GetField(), field.GetDescription())
		}
		if proto.Size(bad)+proto.Size(field) > maxViolations {
			break
		}
		bad.FieldViolations = append(bad.FieldViolations, field)
	}
	if more := len(invalid.Violations) - 1; more > 0 {
		fmt.Fprintf(&sentence, "; and %d more", more)
	}
	return v.refuse(sentence.String(), bad)
}

// describe says what is wrong, in words where the rule's own are none: a pattern explains itself to few, and U+0000 to
// nobody.
func describe(violation *protovalidate.Violation) string {
	switch violation.Proto.GetRuleId() {
	case "string.not_contains":
		return "must not contain U+0000"
	case "string.pattern":
		if words := patternInWords(violation.RuleValue.String()); words != "" {
			return words
		}
	case "string.in":
		allowed := violation.RuleValue.List()
		var words []string
		for i := range allowed.Len() {
			if word := allowed.Get(i).String(); word != "" { // which is the default
				words = append(words, word)
			}
		}
		return "must be one of: " + strings.Join(words, ", ")
	case "enum.defined_only":
		return "must be one of the values that the API has for it"
	case "enum.not_in": // of zero
		return "must not be unspecified"
	case "repeated.unique":
		return "must not have the same twice"
	}
	return violation.Proto.GetMessage()
}

// patternInWords says what a pattern of the proto is for; empty for one that it does not know.
func patternInWords(pattern string) string {
	const uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
	switch pattern {
	case "^conversations/" + uuid:
		return "must be conversations/ and a UUID in lower case"
	case "^turns/" + uuid:
		return "must be turns/ and a UUID in lower case"
	case "^[!-~]{1,128}$":
		return "must be 1 to 128 visible ASCII characters"
	case "^[A-Za-z0-9][A-Za-z0-9._:/@=,+-]{0,127}$":
		return "must be the name of a model: letters, digits and . _ : / @ = , + -, at most 128"
	case "^[a-z0-9][a-z0-9._-]{0,62}$":
		return "must be " + tenant.IDRule
	case "^[a-z0-9][a-z0-9._/-]{0,62}$":
		return "must be 1 to 63 lower-case letters, digits and . _ / -, of which the first is a letter or digit"
	case "^[a-zA-Z0-9_-]{1,64}$":
		return "must be 1 to 64 letters, digits, _ and -"
	default:
		return ""
	}
}

// refuse makes the status through the same mapping as every other error, about the first field that is wrong; then the
// violations take the place of that one, as the domain has no word for several.
func (v validate) refuse(text string, bad *errdetails.BadRequest) error {
	e := &conversation.Error{Reason: conversation.InvalidRequest, Message: text, Field: bad.GetFieldViolations()[0].GetField()}
	refused := status.Convert(v.toStatus(e)).Proto()
	refused.Details = slices.DeleteFunc(refused.GetDetails(), func(d *anypb.Any) bool { return d.MessageIs(bad) })
	detailed, err := status.FromProto(refused).WithDetails(bad)
	if err != nil {
		return fmt.Errorf("adding the violations to a refusal: %w", err)
	}
	return detailed.Err()
}

// clip returns s, cut to limit bytes and freed of half characters.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return strings.ToValidUTF8(s, "")
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
