package openai

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	goopenai "github.com/sashabaranov/go-openai"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

const (
	// tailTimeout bounds the wait for usage and [DONE] once the answer is complete: they come with it or not at all.
	tailTimeout = 5 * time.Second
	// drainTimeout is how long Close waits for the end of a body that is due, to save the connection.
	drainTimeout = 20 * time.Millisecond
)

// stream is a call's answer. One timer and one context end it: the timer cancels the context, as Close does, and that
// unblocks whoever reads.
type stream struct {
	callerErr func() error // of the caller's context
	cause     func() error // of the end of the call's context, which timer and Close end too
	cancel    context.CancelCauseFunc
	timer     *time.Timer
	options   Options
	call      *call
	wire      *goopenai.ChatCompletionStream

	answer  answer
	started bool  // there was content: it is the idle time that counts
	end     error // what Next returns from now on

	complete atomic.Bool // the body is at its end or next to it, and Next reads no more
	close    sync.Once
}

var _ provider.Stream = (*stream)(nil)

// newStream takes over the context, the timer, which runs until the first content, and the body.
func newStream(caller, ctx context.Context, cancel context.CancelCauseFunc, timer *time.Timer, o Options, c *call,
	wire *goopenai.ChatCompletionStream,
) *stream {
	return &stream{
		callerErr: caller.Err,
		cause:     func() error { return context.Cause(ctx) },
		cancel:    cancel, timer: timer, options: o, call: c, wire: wire,
	}
}

// Next implements provider.Stream.
func (s *stream) Next() ([]conversation.Event, error) {
	if s.end != nil {
		return nil, s.end
	}
	if s.started {
		s.timer.Reset(s.wait())
	}
	s.answer.begin()
	for {
		finished := s.answer.finished()
		if err := s.receive(); err != nil {
			s.finish(err)
		}
		events := s.answer.take()
		if len(events) > 0 || s.end != nil || s.answer.finished() != finished {
			s.started = true
			s.timer.Stop()
		}
		switch {
		case len(events) > 0:
			return events, nil
		case s.end != nil:
			return nil, s.end
		case s.answer.finished() != finished:
			s.timer.Reset(s.wait())
		}
	}
}

// wait is how long to wait for what comes next, once there was content.
func (s *stream) wait() time.Duration {
	if s.answer.finished() {
		return min(tailTimeout, s.options.IdleTimeout)
	}
	return s.options.IdleTimeout
}

// receive waits for the next events of the wire and adds them to the answer.
func (s *stream) receive() error {
	line, err := s.wire.RecvRaw()
	if err != nil {
		return err
	}
	for frame := range bytes.SplitSeq(line, []byte{separator}) {
		if len(frame) == 0 {
			continue
		}
		if err := s.answer.add(frame, s.call); err != nil {
			return err
		}
	}
	return nil
}

// finish decides what the end of the wire means, and gives the connection up unless it can be used again.
func (s *stream) finish(err error) {
	if errors.Is(err, io.EOF) {
		s.complete.Store(true)
	} else {
		defer s.cancel(errClosed)
	}
	s.end = s.verdict(err)
}

func (s *stream) verdict(err error) error {
	finished := s.answer.finished()
	cause := s.cause()
	var known *conversation.Error
	switch {
	case errors.Is(err, io.EOF) && finished:
		return io.EOF
	case errors.Is(cause, errClosed):
		return errClosed
	case finished:
		// The answer is whole; what broke, or came too late, is only what would have come after it.
		s.options.Logger.Warn("the stream broke after its finish reason",
			"error", s.call.masked(err), "upstream_request_id", s.call.requestID(), "usage_known", s.answer.usage != nil)
		return io.EOF
	case s.callerErr() != nil:
		return s.callerErr()
	case errors.As(err, &known):
		return known
	case errors.Is(cause, errStalled):
		limit := s.options.IdleTimeout
		if !s.started {
			limit = s.options.FirstEventTimeout
		}
		return stalled(s.call, limit)
	case errors.Is(err, errLineTooLarge), errors.Is(err, errStreamTooLarge):
		return nonsense(s.call, err)
	default:
		return &conversation.Error{
			Reason:            conversation.UpstreamStreamCut,
			Message:           "OpenAI's stream stopped before the answer was complete; try again",
			UpstreamRequestID: s.call.requestID(),
			Cause:             s.call.masked(err),
		}
	}
}

// Outcome implements provider.Stream.
func (s *stream) Outcome() provider.Outcome {
	return provider.Outcome{
		Model:     s.answer.model,
		RequestID: s.call.requestID(),
		Finish:    s.answer.finish,
		Usage:     s.answer.usage,
	}
}

// Close implements provider.Stream.
func (s *stream) Close() error {
	s.close.Do(func() {
		if s.complete.Load() {
			late := time.AfterFunc(drainTimeout, func() { s.cancel(errClosed) })
			s.call.frames.drain()
			late.Stop()
		}
		s.cancel(errClosed)
		s.timer.Stop()
		_ = s.wire.Close() // a body that was given up may say so
		if s.complete.Load() {
			s.call.frames.release()
		}
	})
	return nil
}
