package chatclient

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
)

// domain is that of chatsvc's reasons.
const domain = "chatsvc"

// ErrTextVoid ends [Stream.TextDeltas] when pieces that it gave are not in the turn's answer.
var ErrTextVoid = errors.New("chatclient: text that was given is void, and the turn has another answer")

// ErrNotCancelled is part of the error of a call whose context was cancelled, when its turn could not be: no server has
// confirmed it in time, or it was refused. The turn may go on and be paid for; the error's text names it.
var ErrNotCancelled = errors.New("chatclient: the turn may go on, as it is not known to be cancelled")

var (
	// errRead ends a stream that is read again.
	errRead = errors.New("chatclient: the stream was read already")
	// errLeft is how a call ends whose reader left the loop. Nobody sees it.
	errLeft = errors.New("chatclient: the reader left")
	// errNoEnd is a stream that ended well but without the terminal event. It is what a broken connection can look like
	// behind a proxy, so it counts as one.
	errNoEnd = status.Error(codes.Internal, "chatclient: the stream ended before the turn")
	// errSilent is a stream on which not even heartbeats came.
	errSilent = status.Error(codes.Unavailable, "chatclient: the server was silent for too long, and counts as lost")
)

// Reason returns chatsvc's reason for an error; UNSPECIFIED if it has none, or one that this release does not know.
func Reason(err error) chatsvcv1.ErrorReason {
	return chatsvcv1.ErrorReason(chatsvcv1.ErrorReason_value["ERROR_REASON_"+errorInfo(err).GetReason()])
}

// errorInfo returns what chatsvc says about an error, or nil for an error that is not chatsvc's own: then it is gRPC's, or
// that of something in between, which knows nothing of turns.
func errorInfo(err error) *errdetails.ErrorInfo {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			return info
		}
	}
	return nil
}

// retryDelay returns how long the server wants a repeat to wait; 0 if it does not say.
func retryDelay(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// repeatable reports whether a reason says that chatsvc, and not the request or the provider, kept a call from its answer,
// and that a turn which FAILED for it has freed its request_id without having been refused.
func repeatable(reason chatsvcv1.ErrorReason) bool {
	switch reason {
	case chatsvcv1.ErrorReason_ERROR_REASON_DRAINING,
		chatsvcv1.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE,
		chatsvcv1.ErrorReason_ERROR_REASON_TURN_INTERRUPTED:
		return true
	default:
		return false
	}
}

// turnError returns the error that an ended turn stands for; nil if it has an answer.
func turnError(turn *chatsvcv1.Turn) error {
	switch turn.GetState() {
	case chatsvcv1.TurnState_TURN_STATE_FAILED:
		if err := status.ErrorProto(turn.GetError()); err != nil {
			return err
		}
		return status.Errorf(codes.Unknown, "chatclient: %s failed and does not say why", turn.GetName())
	case chatsvcv1.TurnState_TURN_STATE_CANCELLED:
		return reasonError(codes.Canceled, "TURN_CANCELLED", "the turn was cancelled", turn)
	default:
		return nil
	}
}

// reasonError returns an error as the server would have given it.
func reasonError(code codes.Code, reason, message string, turn *chatsvcv1.Turn) error {
	s := status.New(code, message)
	info := &errdetails.ErrorInfo{Reason: reason, Domain: domain, Metadata: map[string]string{"turn": turn.GetName()}}
	if detailed, err := s.WithDetails(info); err == nil { // Text that came in a message is UTF-8.
		s = detailed
	}
	return s.Err()
}

// endedError is the error of a call whose context ended, or is about to: that, what had kept the call from its answer, and
// that its turn may go on.
type endedError struct {
	context      error // context.Canceled or context.DeadlineExceeded
	last         error // or nil
	notCancelled error // or nil
}

func (e *endedError) Error() string {
	text := e.context.Error()
	if e.last != nil {
		if last := status.Convert(e.last).Message(); last != text { // gRPC may have said just that.
			text += ": " + last
		}
	}
	if e.notCancelled != nil {
		text += "; " + e.notCancelled.Error()
	}
	return text
}

func (e *endedError) Unwrap() []error {
	return slices.DeleteFunc([]error{e.context, e.last, e.notCancelled}, func(err error) bool { return err == nil })
}

// GRPCStatus has the code of the context's end and the details of the last error.
func (e *endedError) GRPCStatus() *status.Status {
	s := status.FromContextError(e.context).Proto()
	s.Message = e.Error()
	if e.last != nil {
		s.Details = status.Convert(e.last).Proto().GetDetails()
	}
	return status.FromProto(s)
}

// maxShaved is the most that the service takes off a caller's deadline, to say in time that time is up.
const maxShaved = time.Second

// contextEnd returns the context's end that an error of a call is about, or nil.
func contextEnd(ctx context.Context, err error) error {
	code := status.Code(err)
	deadline, limited := ctx.Deadline()
	switch {
	case code == codes.DeadlineExceeded && errorInfo(err) == nil && limited:
		// A call has no deadline but its caller's, whose own timer may be a moment late.
		return context.DeadlineExceeded
	case ctx.Err() == nil:
		// A turn may also have run out of a time of its own, which is none of the context's while that has more to give.
		if limited && Reason(err) == chatsvcv1.ErrorReason_ERROR_REASON_TURN_DEADLINE && time.Until(deadline) <= maxShaved {
			return context.DeadlineExceeded
		}
		return nil
	case code == codes.Canceled, code == codes.DeadlineExceeded, errorInfo(err) == nil, repeatable(Reason(err)):
		return ctx.Err()
	default: // The request was refused, which is more to know than that time was up too.
		return nil
	}
}
