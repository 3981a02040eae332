package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/conversation"
)

// reasons returns the reasons of the proto.
func reasons() []string {
	var all []string
	for number, name := range chatsvcv1.ErrorReason_name {
		if number != 0 {
			all = append(all, strings.TrimPrefix(name, "ERROR_REASON_"))
		}
	}
	slices.Sort(all)
	return all
}

// codeName spells a code as the documentation does.
func codeName(c codes.Code) string {
	if c == codes.Canceled {
		return "CANCELLED"
	}
	return strings.ToUpper(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(c.String(), "${1}_${2}"))
}

func TestEveryReasonHasACodeAndADocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	section := regexp.MustCompile("(?m)^### ([A-Z_]+)\nCode: `([A-Z_]+)`\\..*\nCause: .+\\.\nRemedy: .+\\.$")
	documented := map[string]string{}
	for _, m := range section.FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[2]
	}
	for _, reason := range reasons() {
		code, ok := codeOf(conversation.Reason(reason))
		if !ok {
			t.Errorf("%s has no code", reason)
		}
		if got := documented[reason]; got != codeName(code) {
			t.Errorf("docs/errors.md gives %s the code %q, the table %s", reason, got, codeName(code))
		}
		delete(documented, reason)
	}
	for reason := range documented {
		t.Errorf("docs/errors.md describes %s, which the proto does not have", reason)
	}
	if _, ok := codeOf("NO_SUCH_REASON"); ok {
		t.Error("a reason that nobody has has a code")
	}
}

// The comment of each reason in the proto begins with its code.
func TestReasonsInTheProtoSayTheirCode(t *testing.T) {
	text, err := os.ReadFile("../../proto/chatsvc/v1/errors.proto")
	if err != nil {
		t.Fatal(err)
	}
	comments := regexp.MustCompile(`// ([A-Z_]+): .*\n(?:  //.*\n)*  ERROR_REASON_([A-Z_]+) =`).FindAllStringSubmatch(string(text), -1)
	if len(comments) != len(reasons()) {
		t.Errorf("%d comments with a code, %d reasons", len(comments), len(reasons()))
	}
	for _, m := range comments {
		if code, _ := codeOf(conversation.Reason(m[2])); codeName(code) != m[1] {
			t.Errorf("the proto gives %s the code %s, the table %s", m[2], m[1], codeName(code))
		}
	}
}

// detail returns the detail of type T of a status, or nil.
func detail[T proto.Message](s *status.Status) (found T) {
	for _, d := range s.Details() {
		if d, ok := d.(T); ok {
			return d
		}
	}
	return found
}

func TestStatus(t *testing.T) {
	turn := formatName(turns, testID(1))
	tests := []struct {
		name     string
		err      error
		code     codes.Code
		reason   string // empty: no ErrorInfo
		metadata map[string]string
	}{
		{"a sentinel", conversation.ErrNotFound, codes.NotFound, "NOT_FOUND", nil},
		{"wrapped", fmt.Errorf("read: %w", conversation.ErrNotFound), codes.NotFound, "NOT_FOUND", nil},
		{
			"with everything", &conversation.Error{
				Reason: conversation.UpstreamUnavailable, Message: "m", Turn: testID(1), UpstreamRequestID: "req_1",
			},
			codes.Unavailable, "UPSTREAM_UNAVAILABLE",
			map[string]string{"turn": turn, "upstream_request_id": "req_1"},
		},
		{
			"a context's error as a cause is not the call's own", &conversation.Error{Reason: conversation.StoreUnavailable, Cause: context.Canceled},
			codes.Unavailable, "STORE_UNAVAILABLE", nil,
		},
		{
			"busy", &conversation.Error{Reason: conversation.ConversationBusy, Turn: testID(1)},
			codes.Aborted, "CONVERSATION_BUSY",
			map[string]string{"active_turn": turn},
		},
		{
			"tool calls", &conversation.Error{Reason: conversation.ToolCallsUnanswered, Names: []string{"call_1", "call_2"}},
			codes.FailedPrecondition, "TOOL_CALLS_UNANSWERED",
			map[string]string{"tool_call_ids": "call_1,call_2"},
		},
		{"not implemented", notImplemented("base_turn"), codes.Unimplemented, "NOT_IMPLEMENTED", map[string]string{"field": "base_turn"}},
		{"an error of somebody", io.ErrUnexpectedEOF, codes.Internal, "INTERNAL", nil},
		{"a reason of nobody", &conversation.Error{Reason: "NO_SUCH_REASON", Message: "secret"}, codes.Internal, "INTERNAL", nil},
		{"text that is no UTF-8", &conversation.Error{Reason: conversation.Internal, Message: "a\xff", UpstreamRequestID: "b\xff"}, codes.Internal, "INTERNAL", map[string]string{"upstream_request_id": "b?"}},
		{"about a turn", aboutTurn(io.ErrUnexpectedEOF, testID(1)), codes.Internal, "INTERNAL", map[string]string{"turn": turn}},
		{"about a turn that is named", aboutTurn(&conversation.Error{Reason: conversation.Internal, Turn: testID(1)}, testID(2)), codes.Internal, "INTERNAL", map[string]string{"turn": turn}},
		{"about a turn that is not found", aboutTurn(conversation.ErrNotFound, testID(1)), codes.NotFound, "NOT_FOUND", nil},
		{"cancelled by the caller", aboutTurn(context.Canceled, testID(1)), codes.Canceled, "", nil},
		{"late", fmt.Errorf("read: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "", nil},
		{"a status", status.Error(codes.Unavailable, "transport is closing"), codes.Unavailable, "", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := status.Convert(ToStatus(test.err))
			if s.Code() != test.code {
				t.Errorf("code %v, want %v", s.Code(), test.code)
			}
			info := detail[*errdetails.ErrorInfo](s)
			if info.GetReason() != test.reason || info != nil && info.GetDomain() != Domain {
				t.Errorf("ErrorInfo %v, want reason %q", info, test.reason)
			}
			if len(info.GetMetadata()) != len(test.metadata) {
				t.Errorf("metadata %v, want %v", info.GetMetadata(), test.metadata)
			}
			for key, want := range test.metadata {
				if got := info.GetMetadata()[key]; got != want {
					t.Errorf("metadata %s = %q, want %q", key, got, want)
				}
			}
		})
	}
	if ToStatus(nil) != nil {
		t.Error("no error has a status")
	}
}

func TestStatusHidesInternals(t *testing.T) {
	for _, err := range []error{
		errors.New("secret"),
		&conversation.Error{Reason: conversation.Internal, Message: "safe", Cause: errors.New("secret")},
		&conversation.Error{Reason: "NO_SUCH_REASON", Message: "secret"},
		aboutTurn(errors.New("secret"), testID(1)),
	} {
		if text := statusOf(err).Proto().String(); strings.Contains(text, "secret") {
			t.Errorf("the caller sees %s", text)
		}
	}
}

func TestStatusDetails(t *testing.T) {
	s := statusOf(invalid("input[2].parts[0].text", "must not be empty"))
	violations := detail[*errdetails.BadRequest](s).GetFieldViolations()
	if len(violations) != 1 || violations[0].GetField() != "input[2].parts[0].text" {
		t.Errorf("BadRequest %v", violations)
	}
	if !strings.Contains(s.Message(), "input[2].parts[0].text") {
		t.Errorf("the message does not name the field: %s", s.Message())
	}

	s = statusOf(&conversation.Error{Reason: conversation.UpstreamRateLimited, RetryAfter: 1500 * time.Millisecond})
	if got := detail[*errdetails.RetryInfo](s).GetRetryDelay().AsDuration(); got != 1500*time.Millisecond {
		t.Errorf("RetryInfo %v", got)
	}
	s = statusOf(&conversation.Error{Reason: conversation.UpstreamRateLimited})
	if info := detail[*errdetails.RetryInfo](s); info != nil {
		t.Errorf("RetryInfo %v, and nobody knows when", info)
	}

	s = statusOf(&conversation.Error{Reason: conversation.ConversationBusy, Turn: testID(1)})
	if got := detail[*errdetails.ResourceInfo](s); got.GetResourceName() != formatName(turns, testID(1)) {
		t.Errorf("ResourceInfo %v", got)
	}
}

// All details travel in one header.
func TestNamesAreBounded(t *testing.T) {
	many := slices.Repeat([]string{strings.Repeat("x", 256)}, 10_000)
	got := joinNames(many)
	if len(got) > 1100 || !strings.HasSuffix(got, ",… (9997 more)") {
		t.Errorf("%d bytes: …%s", len(got), got[len(got)-20:])
	}
}

// What docs/errors.md says of the errors that come before our code.
func TestErrorsOfGRPC(t *testing.T) {
	c := serve(t, nil, nil)
	raw := func(text string) *emptypb.Empty { // a CreateTurnRequest with a text that the generated code refuses to send
		m := &emptypb.Empty{}
		field := protowire.AppendTag(nil, (&chatsvcv1.CreateTurnRequest{}).ProtoReflect().Descriptor().Fields().ByName("text").Number(), protowire.BytesType)
		m.ProtoReflect().SetUnknown(protowire.AppendString(field, text))
		return m
	}
	for _, test := range []struct {
		method string
		in     *emptypb.Empty
		want   codes.Code
	}{
		{chatsvcv1.ChatService_CreateTurn_FullMethodName, raw("a\xff"), codes.Internal},
		{chatsvcv1.ChatService_CreateTurn_FullMethodName, raw(strings.Repeat("a", 16<<20)), codes.ResourceExhausted},
		{"/chatsvc.v1.ChatService/Nothing", raw("a"), codes.Unimplemented},
		{"/chatsvc.v1.Nothing/CreateTurn", raw("a"), codes.Unimplemented},
	} {
		wantStatus(t, c.conn.Invoke(as(t, "red"), test.method, test.in, &emptypb.Empty{}), test.want, "")
	}
}
