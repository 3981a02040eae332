package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/certtest"
)

// runChat runs `chatsvc chat` with in as its stdin.
func runChat(t *testing.T, in string, args ...string) (code int, out, notes string) {
	t.Helper()
	var o, n bytes.Buffer
	code = run(t.Context(), append([]string{"chat"}, args...), stdio{strings.NewReader(in), &o, &n})
	return code, o.String(), n.String()
}

func TestChatOnce(t *testing.T) {
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const other = "01890000-0000-7000-8000-000000000009"
	for _, tt := range []struct {
		name, in, env, key string
		args               []string
		want               *chatsvcv1.CreateTurnRequest // without on_disconnect
		created            *chatsvcv1.Conversation
	}{
		{
			name: "arguments", in: "not read", args: []string{"Bonjour", "toi"}, key: "dev",
			want: &chatsvcv1.CreateTurnRequest{Text: "Bonjour toi", Conversation: testConversation}, created: &chatsvcv1.Conversation{},
		},
		{
			name: "stdin", in: "one\ntwo\n", env: "from-env", key: "from-env",
			want: &chatsvcv1.CreateTurnRequest{Text: "one\ntwo", Conversation: testConversation}, created: &chatsvcv1.Conversation{},
		},
		{
			name: "model and instructions stay with the conversation", args: []string{"--model=sim", "--instructions=Rhyme.", "Bonjour"}, key: "dev",
			want:    &chatsvcv1.CreateTurnRequest{Text: "Bonjour", Conversation: testConversation, Model: "sim"},
			created: &chatsvcv1.Conversation{Model: "sim", Instructions: "Rhyme."},
		},
		{
			name: "one shot", args: []string{"--one-shot", "--instructions=", "--key-file", keyFile, "Bonjour"}, env: "from-env", key: "from-file",
			want: &chatsvcv1.CreateTurnRequest{Text: "Bonjour", Instructions: new("")},
		},
		{
			name: "continued", args: []string{"--conversation", other, "--instructions=Rhyme.", "Bonjour"}, key: "dev",
			want: &chatsvcv1.CreateTurnRequest{Text: "Bonjour", Conversation: "conversations/" + other, Instructions: new("Rhyme.")},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("CHATSVC_KEY", tt.env)
			service := answering()
			code, out, notes := runChat(t, tt.in, append([]string{"--address", service.start(t)}, tt.args...)...)
			if want := "You said: " + tt.want.Text + "\n"; code != 0 || out != want || notes != "" {
				t.Fatalf("code %d, out %q, want %q; notes %q", code, out, want, notes)
			}
			tt.want.OnDisconnect = chatsvcv1.OnDisconnect_ON_DISCONNECT_CANCEL
			if got := service.asked()[0]; got.String() != tt.want.String() {
				t.Errorf("asked %v, want %v", got, tt.want)
			}
			if want := "Bearer " + tt.key; service.keys[0] != want {
				t.Errorf("authorization %q, want %q", service.keys[0], want)
			}
			switch {
			case tt.created == nil && len(service.created) > 0:
				t.Errorf("created %v", service.created)
			case tt.created != nil && (len(service.created) != 1 || service.created[0].String() != tt.created.String()):
				t.Errorf("created %v, want %v", service.created, tt.created)
			}
		})
	}
}

func TestChatUsage(t *testing.T) {
	for _, tt := range []struct {
		name, in, env string
		args          []string
		code          int
		want          string
	}{
		{name: "key in a flag", args: []string{"--key=x", "Bonjour"}, code: 2, want: "unknown flag --key"},
		{name: "two histories", args: []string{"--one-shot", "--conversation=x", "Bonjour"}, code: 2, want: "can't be used together"},
		{name: "no port", args: []string{"--address=chat.internal", "Bonjour"}, code: 2, want: "not a host and a port"},
		{name: "no key away from here", args: []string{"--address=chat.internal:443", "Bonjour"}, code: 1, want: "set CHATSVC_KEY"},
		{name: "a key of two lines", env: "one\ntwo", args: []string{"Bonjour"}, code: 1, want: "CHATSVC_KEY does not hold a key"},
		{name: "no key file", args: []string{"--key-file=/nowhere", "Bonjour"}, code: 1, want: "no such file"},
		{name: "no certificates", args: []string{"--tls-ca=/dev/null", "Bonjour"}, code: 1, want: "no certificate"},
		{name: "nothing to say", in: " \n", code: 1, want: "the message is empty"},
		{name: "too much to say", in: strings.Repeat("x", maxMessage+1), code: 1, want: "at most 4 MiB"},
		{name: "not text", in: "\xff", code: 1, want: "UTF-8"},
		// Port 1 of loopback: nothing listens there.
		{name: "no service", args: []string{"--address=127.0.0.1:1", "Bonjour"}, code: 1, want: "nothing listens there: is `chatsvc serve` running? see --address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("CHATSVC_KEY", tt.env)
			code, out, notes := runChat(t, tt.in, tt.args...)
			if code != tt.code || out != "" || !strings.Contains(notes, tt.want) || strings.Count(notes, "\n") != 1 {
				t.Errorf("code %d, want %d; out %q; notes %q, want one line with %q", code, tt.code, out, notes, tt.want)
			}
		})
	}
}

func TestIsLocal(t *testing.T) {
	for address, want := range map[string]bool{
		"localhost:1": true, "127.8.9.1:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true, "unix:///run/chat": true,
		"localhost.example:1": false, "10.0.0.1:1": false, ":1": false, "[::]:1": false, "127.0.0.1.example:1": false,
	} {
		if got, err := isLocal(address); err != nil || got != want {
			t.Errorf("isLocal(%q) = %t, %v, want %t", address, got, err, want)
		}
	}
}

func TestChatTLS(t *testing.T) {
	t.Setenv("CHATSVC_KEY", "secret")
	certificate, pemFile := selfSigned(t)
	service := answering()
	address := service.start(t, grpc.Creds(credentials.NewServerTLSFromCert(certificate)))

	code, out, notes := runChat(t, "", "--address", address, "--tls-ca", pemFile, "Bonjour")
	if code != 0 || out != "You said: Bonjour\n" {
		t.Errorf("code %d, out %q, notes %q", code, out, notes)
	}
	_, other := selfSigned(t)
	code, _, notes = runChat(t, "", "--address", address, "--tls-ca", other, "Bonjour")
	if code != 1 || !strings.Contains(notes, "unknown authority") || !strings.Contains(notes, "see --tls-ca") {
		t.Errorf("code %d, notes %q", code, notes)
	}
	code, _, notes = runChat(t, "", "--address", answering().start(t), "--tls-ca", pemFile, "Bonjour")
	if code != 1 || !strings.Contains(notes, "cannot reach chatsvc") || !strings.Contains(notes, "does it speak TLS? see --tls-ca, --tls-cert, --insecure-plaintext") {
		t.Errorf("code %d, notes %q: spoke to a service without TLS", code, notes)
	}
	code, _, notes = runChat(t, "", "--address", address, "Bonjour")
	if code != 1 || !strings.Contains(notes, "cannot reach chatsvc") || !strings.Contains(notes, "does it speak TLS? see --tls-ca, --tls-cert, --insecure-plaintext") {
		t.Errorf("code %d, notes %q: spoke without TLS to a service with it", code, notes)
	}
}

// selfSigned returns a certificate for loopback, and a file in which it stands.
func selfSigned(t *testing.T) (*tls.Certificate, string) {
	t.Helper()
	own := certtest.New(t, "own", "127.0.0.1")
	file := filepath.Join(t.TempDir(), "ca.pem")
	write(t, file, own.Certificate)
	return &own.TLS, file
}

func TestChatErrors(t *testing.T) {
	t.Setenv("CHATSVC_KEY", "")
	for _, tt := range []struct {
		name    string
		service *scriptedService
		want    string
	}{
		{
			"retry", refusing(codes.Unavailable, "the provider is busy", errorInfo("UPSTREAM_RATE_LIMITED", "turn", testTurn),
				&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)}),
			"the provider is busy (UPSTREAM_RATE_LIMITED, " + testTurn + "); try again in 1.5s",
		},
		{
			"fields", refusing(codes.InvalidArgument, "the request is invalid", errorInfo("INVALID_REQUEST"),
				&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "config.top_p", Description: "must be at most 1"}}}),
			"the request is invalid; config.top_p: must be at most 1 (INVALID_REQUEST, " + testTurn + ")",
		},
		{
			"busy", refusing(codes.Aborted, "another turn runs", errorInfo("CONVERSATION_BUSY", "active_turn", "turns/other")),
			"another turn runs: turns/other (CONVERSATION_BUSY, " + testTurn + "); wait for its end",
		},
		{"credential", refusing(codes.Unauthenticated, "no such key", errorInfo("CREDENTIAL_INVALID")), "; no key was given, so `dev` was tried: set CHATSVC_KEY or --key-file"},
		{"revoked", refusing(codes.Unauthenticated, "the key is revoked", errorInfo("CREDENTIAL_REVOKED")), "the key is revoked (CREDENTIAL_REVOKED, " + testTurn + ")\n"},
		{"escapes", refusing(codes.Internal, "a\x1b[2J\nb\u009bc"), "a␛[2J b\ufffdc"},
		{"connection lost", refusing(codes.Unavailable, "error reading from server: EOF"), "broke: error reading from server: EOF (" + testTurn + ")"},
		{
			"no end", &scriptedService{script: func(_ *chatsvcv1.CreateTurnRequest, stream grpc.ServerStreamingServer[chatsvcv1.TurnEvent]) error {
				return sendEvents(stream, nil, acceptedEvent())
			}},
			"without an answer",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := tt.service.start(t)
			code, out, notes := runChat(t, "", "--address", address, "Bonjour")
			if code != 1 || out != "" || !strings.Contains(notes, tt.want) || strings.Count(notes, "\n") != 1 {
				t.Errorf("code %d, out %q, notes %q, want one line with %q", code, out, notes, tt.want)
			}
		})
	}
}

func TestChatJSON(t *testing.T) {
	t.Setenv("CHATSVC_KEY", "")
	type line struct {
		Turn struct {
			Name, State, OutputText string
			Usage                   struct{ OutputTokens string }
		}
		Error   *callError
		Latency *struct{ TimeToFirstTokenMs, TotalMs float64 }
	}
	parse := func(t *testing.T, out string) (l line) {
		t.Helper()
		if strings.Count(out, "\n") != 1 || !strings.HasSuffix(out, "\n") {
			t.Fatalf("not one line: %q", out)
		}
		if err := json.Unmarshal([]byte(out), &l); err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		return l
	}

	code, out, notes := runChat(t, "a\n<b>\x1b", "--json", "--address", answering().start(t))
	l := parse(t, out)
	if code != 0 || notes != "" || l.Error != nil || l.Turn.Name != testTurn || l.Turn.State != "TURN_STATE_COMPLETED" ||
		l.Turn.OutputText != "You said: a\n<b>\x1b" || l.Turn.Usage.OutputTokens != "3" || !strings.Contains(out, "<b>") {
		t.Errorf("code %d, out %q, notes %q", code, out, notes)
	}
	if l.Latency == nil || l.Latency.TimeToFirstTokenMs <= 0 || l.Latency.TotalMs < l.Latency.TimeToFirstTokenMs {
		t.Errorf("latency in %q", out)
	}

	service := refusing(codes.Unavailable, "busy", errorInfo("UPSTREAM_RATE_LIMITED"), &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
	code, out, notes = runChat(t, "", "--json", "--address", service.start(t), "Bonjour")
	l = parse(t, out)
	if code != 1 || l.Turn.State != "TURN_STATE_FAILED" || l.Error == nil || l.Error.Code != "UNAVAILABLE" ||
		l.Error.Reason != "UPSTREAM_RATE_LIMITED" || l.Error.RetryAfterMs != 1000 || !strings.Contains(notes, "busy") {
		t.Errorf("code %d, out %q, notes %q", code, out, notes)
	}

	code, out, _ = runChat(t, "", "--json", "--address", "127.0.0.1:1", "Bonjour")
	if l = parse(t, out); code != 1 || l.Error == nil || l.Error.Code != "UNAVAILABLE" || l.Latency != nil {
		t.Errorf("code %d, out %q", code, out)
	}
}

// TestChatSIGINT sends a signal to the test's own process, so it must not run beside other tests.
func TestChatSIGINT(t *testing.T) {
	t.Setenv("CHATSVC_KEY", "")
	service := hanging()
	out, notes := newScreen(), newScreen()
	code := make(chan int, 1)
	address := service.start(t)
	go func() {
		code <- run(t.Context(), []string{"chat", "--address", address, "hang"}, stdio{strings.NewReader(""), out, notes})
	}()
	out.await(t, "One ")
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-code:
		if got != 1 || out.String() != "One \n" || notes.String() != "chatsvc: cancelled "+testTurn+"\n" {
			t.Errorf("code %d, out %q, notes %q", got, out, notes)
		}
	case <-time.After(patience):
		t.Fatal("the program does not end")
	}
	if name := <-service.cancelled; name != testTurn {
		t.Errorf("cancelled %q, want %q", name, testTurn)
	}
}

func TestChatStopsWhileItWaitsForStdin(t *testing.T) {
	in, feed := io.Pipe()
	defer func() { _ = feed.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := (&chatCommand{}).message(ctx, in)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want %v", err, context.Canceled)
	}
}

// TestChatEnvironment: the variables that the service must not take for its own are those that chat reads.
func TestChatEnvironment(t *testing.T) {
	service := answering()
	for name, value := range map[string]string{"CHATSVC_ADDRESS": service.start(t), "CHATSVC_KEY": "secret"} {
		if !slices.Contains(chatEnvironment(), name) {
			t.Errorf("chatEnvironment lacks %s", name)
		}
		t.Setenv(name, value)
	}
	if code, out, notes := runChat(t, "", "Bonjour"); code != 0 || out == "" || service.keys[0] != "Bearer secret" {
		t.Errorf("code %d, out %q, notes %q, authorization %q", code, out, notes, service.keys)
	}
}
