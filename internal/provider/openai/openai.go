// Package openai is the provider that speaks OpenAI's chat completions wire, through go-openai.
//
// go-openai builds the request's envelope, sends it and reads the stream's lines. What it would change or lose on the
// way is put right on its one seam, the HTTP client: roundTripper writes the key and the parameters, and frames makes
// of the body what go-openai reads well. So nothing of go-openai is patched, and nothing of it is seen outside this
// package.
package openai

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	goopenai "github.com/sashabaranov/go-openai"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

// DefaultBaseURL is OpenAI's own.
const DefaultBaseURL = "https://api.openai.com/v1"

// Options says how to reach the provider. A zero field takes its default.
type Options struct {
	// BaseURL is what /chat/completions is appended to. Default: DefaultBaseURL.
	BaseURL string
	// Key returns the key, and is asked once per call, so that the key can be rotated. It goes to the host of BaseURL and
	// nowhere else. Without a key none is sent.
	Key func() string
	// ConnectTimeout bounds each of the TCP and the TLS handshake. Default: 5 s.
	ConnectTimeout time.Duration
	// FirstEventTimeout is how long the first content may take, counted from the start of Generate. Default: 60 s. A model
	// that reasons gets ten times that: it sends nothing while it thinks.
	FirstEventTimeout time.Duration
	// IdleTimeout is how long Next waits for more content after that. Comments and empty deltas are no content.
	// Default: 30 s.
	IdleTimeout time.Duration
	// MaxLineBytes bounds a line, and a server-sent event, of a stream. Default: 1 MiB.
	MaxLineBytes int
	// MaxStreamBytes bounds a stream. Default: 1 GiB, which an answer of 3 MiB in deltas of one token stays below.
	MaxStreamBytes int
	// Logger hears of what no error tells. Default: nothing is logged.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	def(&o.BaseURL, DefaultBaseURL)
	def(&o.ConnectTimeout, 5*time.Second)
	def(&o.FirstEventTimeout, 60*time.Second)
	def(&o.IdleTimeout, 30*time.Second)
	def(&o.MaxLineBytes, 1<<20)
	def(&o.MaxStreamBytes, 1<<30)
	if o.Key == nil {
		o.Key = func() string { return "" }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func def[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// Client is the provider. It is safe for concurrent use.
type Client struct {
	options   Options
	api       *goopenai.Client
	transport *http.Transport
}

var _ provider.Provider = (*Client)(nil)

// New returns a Client. It connects to nothing yet; an error is one of the options.
func New(o Options) (*Client, error) {
	o = o.withDefaults()
	base, err := url.Parse(o.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("base URL: %w", err)
	}
	switch {
	case base.Scheme != "https" && base.Scheme != "http":
		return nil, fmt.Errorf("base URL %q: must begin with https:// or http://", base.Redacted())
	case base.Host == "":
		return nil, fmt.Errorf("base URL %q: has no host", base.Redacted())
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("base URL %q: must have no user, query or fragment", base.Redacted())
	case min(o.ConnectTimeout, o.FirstEventTimeout, o.IdleTimeout) < 0 || min(o.MaxLineBytes, o.MaxStreamBytes) < 0:
		return nil, errors.New("timeouts and sizes must be positive")
	}

	transport := newTransport(o.ConnectTimeout)
	return &Client{options: o, api: newAPI(&roundTripper{options: o, base: base, next: transport}), transport: transport}, nil
}

// newAPI returns go-openai's client on top of rt.
func newAPI(rt *roundTripper) *goopenai.Client {
	config := goopenai.DefaultConfig("") // the key is the round tripper's
	config.BaseURL = strings.TrimRight(rt.options.BaseURL, "/")
	config.HTTPClient = &http.Client{
		Transport: rt,
		// A redirect is an answer like any other that is no stream: following it could take the key elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return goopenai.NewClientWithConfig(config)
}

// newTransport returns a transport that keeps a connection for every call that ever ran at the same time, and that takes
// nothing from the environment: a stray HTTPS_PROXY must not see the traffic.
func newTransport(connect time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: connect, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    connect,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		MaxIdleConns:           0, // no limit
		MaxIdleConnsPerHost:    4096,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         readSize,
		DisableCompression:     true, // a compressed stream comes in blocks
	}
}

// Close closes the idle connections. Streams that are open stay so.
func (c *Client) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

// What ends a call's context besides its caller.
var (
	errStalled = errors.New("no content within the time limit")
	errClosed  = fmt.Errorf("the stream was closed: %w", context.Canceled)
)

// reasoningPatience is how many times FirstEventTimeout a model that reasons may take.
const reasoningPatience = 10

// Generate implements provider.Provider.
func (c *Client) Generate(ctx context.Context, r *provider.Request) (provider.Stream, error) {
	payload, err := encode(r)
	if err != nil {
		return nil, &conversation.Error{
			Reason:  conversation.UpstreamRejected,
			Message: "the request cannot be put into OpenAI's terms: " + err.Error(),
		}
	}

	options := c.options
	if r.Reasoning {
		options.FirstEventTimeout *= reasoningPatience
	}
	call := &call{payload: payload}
	callCtx, cancel := context.WithCancelCause(context.WithValue(ctx, callKey{}, call))
	timer := time.AfterFunc(options.FirstEventTimeout, func() { cancel(errStalled) })
	wire, err := c.api.CreateChatCompletionStream(callCtx, goopenai.ChatCompletionRequest{
		Model:         r.Model,
		StreamOptions: &goopenai.StreamOptions{IncludeUsage: true},
	})
	if err == nil && call.frames != nil {
		return newStream(ctx, callCtx, cancel, timer, options, call, wire), nil
	}

	timer.Stop()
	defer cancel(errClosed)
	switch {
	case call.refusal != nil:
		return nil, call.refusal
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(context.Cause(callCtx), errStalled):
		return nil, stalled(call, options.FirstEventTimeout)
	case errors.Is(err, goopenai.ErrChatCompletionInvalidModel): // what go-openai believes to have no chat completions
		return nil, &conversation.Error{
			Reason:  conversation.UpstreamRejected,
			Message: "the model cannot be used for chat; choose another model",
			Cause:   err,
		}
	case !call.sent:
		return nil, &conversation.Error{Reason: conversation.Internal, Message: "the call to OpenAI could not be made", Cause: call.masked(err)}
	default:
		return nil, &conversation.Error{
			Reason:  conversation.UpstreamUnavailable,
			Message: "OpenAI cannot be reached; try again",
			Cause:   call.masked(err),
		}
	}
}
