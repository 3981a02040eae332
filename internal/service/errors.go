package service

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// Domain is the domain of every ErrorInfo.
const Domain = "chatsvc"

// codeOf is the table of reasons and codes; ok is false for a reason that is not in it.
func codeOf(reason conversation.Reason) (code codes.Code, ok bool) {
	switch reason {
	case conversation.InvalidRequest, conversation.UpstreamRejected:
		return codes.InvalidArgument, true
	case conversation.CredentialMissing, conversation.CredentialInvalid,
		conversation.CredentialExpired, conversation.CredentialRevoked:
		return codes.Unauthenticated, true
	case conversation.RoleMissing, conversation.IPNotAllowed, conversation.ModelNotAllowed:
		return codes.PermissionDenied, true
	case conversation.NotFound:
		return codes.NotFound, true
	case conversation.RequestIDReused, conversation.AlreadyExists:
		return codes.AlreadyExists, true
	case conversation.ConversationBusy, conversation.EtagMismatch, conversation.StaleBaseTurn:
		return codes.Aborted, true
	case conversation.ToolCallsUnanswered, conversation.ContextTooLong, conversation.InvalidState,
		conversation.ContentExpired, "PRICE_UNKNOWN", "COST_CAP_TOO_LOW":
		return codes.FailedPrecondition, true
	case "RATE_LIMITED", "BUDGET_EXHAUSTED", "BUDGET_HELD":
		return codes.ResourceExhausted, true
	case conversation.UpstreamRateLimited, conversation.UpstreamAccountExhausted, conversation.UpstreamCredentialRejected,
		conversation.UpstreamUnavailable, conversation.UpstreamStreamCut, conversation.UpstreamStalled,
		conversation.TurnInterrupted, conversation.Draining, conversation.StoreUnavailable:
		return codes.Unavailable, true
	case conversation.TurnDeadline:
		return codes.DeadlineExceeded, true
	case conversation.TurnCancelled:
		return codes.Canceled, true
	case conversation.EventsExpired:
		return codes.OutOfRange, true
	case conversation.NotImplemented:
		return codes.Unimplemented, true
	case conversation.Internal:
		return codes.Internal, true
	default:
		return codes.Internal, false
	}
}

// ToStatus returns an error as callers see it, for handlers and interceptors alike.
func ToStatus(err error) error { return statusOf(err).Err() }

// statusOf returns code, sentence and details of the conversation.Error in an error's chain. A status stays what it is. A
// context's own error has no reason, because it is the caller's doing. Any other error is INTERNAL, and its text stays
// inside; whoever makes the status logs it.
func statusOf(err error) *status.Status {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*conversation.Error](err)
	switch {
	case ok:
	case isStatus(err):
		return status.Convert(err)
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, "the caller cancelled the call")
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, "the call's deadline passed")
	default:
		e = internalError(err)
	}
	code, ok := codeOf(e.Reason)
	if !ok {
		e, code = internalError(err), codes.Internal
	}
	s := &statuspb.Status{Code: int32(code), Message: strings.ToValidUTF8(e.Message, "?")}
	for _, d := range details(e) {
		// Deterministic, so that Turn.error is the same bytes as the status of the call.
		packed := &anypb.Any{}
		if err := anypb.MarshalFrom(packed, d, proto.MarshalOptions{Deterministic: true}); err == nil { // All text is UTF-8.
			s.Details = append(s.Details, packed)
		}
	}
	return status.FromProto(s)
}

// isStatus reports whether err is a status already, as gRPC itself returns them from Send.
func isStatus(err error) bool {
	_, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err)
	return ok
}

func internalError(cause error) *conversation.Error {
	return &conversation.Error{
		Reason:  conversation.Internal,
		Message: "chatsvc failed; its log says why, under the trace id of this call",
		Cause:   cause,
	}
}

// details returns the ErrorInfo of an error, and what its reason adds.
func details(e *conversation.Error) []proto.Message {
	info := &errdetails.ErrorInfo{Reason: string(e.Reason), Domain: Domain, Metadata: map[string]string{}}
	add := func(key, value string) {
		if value != "" {
			info.Metadata[key] = strings.ToValidUTF8(value, "?")
		}
	}
	add("upstream_request_id", e.UpstreamRequestID)
	add("field", e.Field)
	all := []proto.Message{info}

	switch turn := formatName(turns, e.Turn); e.Reason {
	case conversation.ConversationBusy:
		// Not `turn`: that is the turn which the call is about, and this is the one in its way.
		add("active_turn", turn)
		if turn != "" {
			all = append(all, &errdetails.ResourceInfo{ResourceType: "chatsvc.v1.Turn", ResourceName: turn, Description: "the turn that runs, or waits"})
		}
	case conversation.ToolCallsUnanswered:
		add("turn", turn)
		add("tool_call_ids", joinNames(e.Names))
	default:
		add("turn", turn)
		add("names", joinNames(e.Names))
	}
	if e.Reason == conversation.InvalidRequest && e.Field != "" {
		all = append(all, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{
			Field: strings.ToValidUTF8(e.Field, "?"), Description: strings.ToValidUTF8(e.Message, "?"),
		}}})
	}
	if e.RetryAfter > 0 {
		all = append(all, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	return all
}

// joinNames joins names with commas, up to 1 KiB: details travel in a header, for which some clients have 8 KiB in all.
func joinNames(names []string) string {
	var b strings.Builder
	for i, name := range names {
		if b.Len()+len(name) > 1<<10 {
			fmt.Fprintf(&b, ",… (%d more)", len(names)-i)
			break
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(name)
	}
	return b.String()
}

// invalid returns the refusal of a field.
func invalid(field, format string, args ...any) *conversation.Error {
	return &conversation.Error{
		Reason:  conversation.InvalidRequest,
		Message: field + " " + fmt.Sprintf(format, args...),
		Field:   field,
	}
}

// notImplemented returns the refusal of a field, possibly followed by a colon and the value, or of a method, whose behaviour
// comes with a later release.
func notImplemented(what string) *conversation.Error {
	e := &conversation.Error{Reason: conversation.NotImplemented, Message: what + " is not implemented in this release"}
	if field, _, _ := strings.Cut(what, ":"); field != "" && field[0] >= 'a' { // methods begin with a capital
		e.Field = field
	}
	return e
}

// aboutTurn names the turn in an error about it, where it is not named yet. It leaves alone a context's own error, and
// NOT_FOUND, which must be the same for every name.
func aboutTurn(err error, id conversation.ID) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*conversation.Error](err)
	switch {
	case !ok && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		return err
	case !ok:
		e = internalError(err)
	case e.Reason == conversation.NotFound || !e.Turn.IsZero():
		return err
	}
	named := *e
	named.Turn = id
	return &named
}

// aboutTurnIn says of NOT_FOUND and INVALID_STATE that they are about the turn that a request names in a field: the store
// does not know the request. The words for a turn that is not found are the same for every name.
func aboutTurnIn(field string, id conversation.ID, err error) error {
	switch {
	case errors.Is(err, conversation.ErrNotFound):
		return &conversation.Error{Reason: conversation.NotFound, Message: "no such turn in the conversation", Field: field, Cause: err}
	case errors.Is(err, conversation.ErrInvalidState):
		return &conversation.Error{Reason: conversation.InvalidState, Message: "the turn has not ended", Field: field, Turn: id, Cause: err}
	default:
		return err
	}
}

// errorOf returns why an ended turn has no answer, or nil if it has one. Turn.error and the status of CreateTurn and
// StreamTurn are both made of it.
func errorOf(t *conversation.Turn) error {
	switch t.State {
	case conversation.Failed:
		if t.Result.Error == nil {
			return aboutTurn(errors.New("a failed turn without its error"), t.ID)
		}
		e := *t.Result.Error
		e.Cause = nil // logged when the turn ended
		return aboutTurn(&e, t.ID)
	case conversation.Cancelled:
		return &conversation.Error{Reason: conversation.TurnCancelled, Message: "the turn was cancelled", Turn: t.ID}
	default:
		return nil
	}
}
