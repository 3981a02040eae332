package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/provider/openaisim"
)

// asProgram makes the test binary be the program: a test that kills the service needs it in a process of its own. With the
// value leashed the program ends when its standard input does, which is when the test binary ends, however that comes.
const (
	asProgram = "RUN_AS_PROGRAM"
	leashed   = "leashed"
)

func TestMain(m *testing.M) {
	switch os.Getenv(asProgram) {
	case "":
	case leashed:
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(3)
		}()
		fallthrough
	default:
		main()
	}
	os.Exit(m.Run())
}

// The keys of two teams, and their entries in the configuration.
const (
	redKey  = "key-of-team-red"
	blueKey = "key-of-team-blue"
)

// program is a running service, reached over real connections.
type program struct {
	data, admin string
	simulator   *openaisim.Server // nil in --dev, where it is inside
	logs        *lockedBuffer
	stop        func() int // ends it as SIGTERM does, and returns its exit code

	// Only of one in a process of its own.
	args    []string
	process *exec.Cmd
}

// serve runs the service inside of the test, with a simulator of the test's and two teams. yaml is added to its
// configuration.
func serve(t *testing.T, yaml string) *program {
	t.Helper()
	sim, baseURL := simulate(t)
	p := launch(t, "serve", "--config", writeConfig(t, t.TempDir(), baseURL, yaml))
	p.simulator = sim
	return p
}

// simulate starts a simulator and returns it with its base URL.
func simulate(t *testing.T) (*openaisim.Server, string) {
	t.Helper()
	sim := openaisim.New(openaisim.Options{JournalBytes: 16 << 20})
	upstream := httptest.NewServer(sim)
	t.Cleanup(upstream.Close)
	return sim, upstream.URL + "/v1"
}

// writeConfig writes a configuration with two teams and a SQLite file in dir, and returns its path.
func writeConfig(t *testing.T, dir, baseURL, yaml string) string {
	t.Helper()
	return configure(t, "sqlite:"+filepath.Join(dir, "chatsvc.db"), baseURL, yaml)
}

// configure writes a configuration with two teams and returns its path. yaml is added to it.
func configure(t *testing.T, databaseURL, baseURL, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "chatsvc.yaml")
	text := fmt.Sprintf(`
listen: 127.0.0.1:0
admin_listen: 127.0.0.1:0
database_url: %s
default_model: sim
auth:
  api_keys:
    - {sha256: %s, team: red, client: web}
    - {sha256: %s, team: blue, client: web}
%s`, databaseURL, sha256Hex(redKey), sha256Hex(blueKey), yaml)
	if !strings.Contains(yaml, "upstream:") {
		text += "\nupstream:\n"
	}
	text = strings.Replace(text, "upstream:\n", "upstream:\n  base_url: "+baseURL+"\n  api_key: sk-canary-upstream-key\n", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// launch runs a service inside of the test.
func launch(t *testing.T, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	p := &program{logs: &lockedBuffer{}}
	exit := make(chan int, 1)
	go func() {
		code := run(ctx, args, stdio{strings.NewReader(""), in, p.logs})
		_ = in.Close()
		exit <- code
	}()
	p.stop = sync.OnceValue(func() int {
		cancel()
		select {
		case code := <-exit:
			return code
		case <-time.After(time.Minute):
			t.Error("the service does not stop")
			return -1
		}
	})
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("the end of the service's log:\n%s", p.logs.tail(4<<10))
		}
	})
	if err := p.readAnnouncement(out); err != nil {
		t.Fatal(err)
	}
	return p
}

var announced = regexp.MustCompile(`^ +(data plane|admin) +(?:https?://)?([0-9.:]+)`)

func (p *program) readAnnouncement(out io.Reader) error {
	p.data, p.admin = "", ""
	lines := bufio.NewScanner(out)
	for (p.data == "" || p.admin == "") && lines.Scan() {
		switch m := announced.FindStringSubmatch(lines.Text()); {
		case m == nil:
		case m[1] == "admin":
			p.admin = m[2]
		default:
			p.data = m[2]
		}
	}
	if p.data == "" || p.admin == "" {
		return fmt.Errorf("the service did not come up:\n%s", p.logs.tail(4<<10))
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return nil
}

// client is a caller with a key.
type client struct {
	conn   *grpc.ClientConn
	chat   chatsvcv1.ChatServiceClient
	conv   chatsvcv1.ConversationServiceClient
	caller chatsvcv1.CallerServiceClient
}

// dial returns a caller with the key; an empty key is none.
func (p *program) dial(t *testing.T, key string) *client {
	t.Helper()
	return dial(t, p.data, key)
}

// dial returns a caller of what is at a gRPC target.
func dial(t *testing.T, target, key string, options ...grpc.DialOption) *client {
	t.Helper()
	conn, err := grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(withKey(ctx, key), method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(withKey(ctx, key), desc, cc, method, opts...)
		}),
	}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &client{conn, chatsvcv1.NewChatServiceClient(conn), chatsvcv1.NewConversationServiceClient(conn), chatsvcv1.NewCallerServiceClient(conn)}
}

func withKey(ctx context.Context, key string) context.Context {
	if key == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
}

// newConversation creates a conversation with the defaults.
func (c *client) newConversation(t *testing.T) string {
	t.Helper()
	conv, err := c.conv.CreateConversation(t.Context(), &chatsvcv1.CreateConversationRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return conv.GetName()
}

// say makes a turn and returns its text.
func (c *client) say(t *testing.T, conversation, text string) string {
	t.Helper()
	turn, err := c.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Conversation: conversation, Text: text})
	if err != nil {
		t.Fatalf("saying %q: %v", text, err)
	}
	return turn.GetOutputText()
}

// collect reads a stream to its end.
func collect(stream grpc.ServerStreamingClient[chatsvcv1.TurnEvent]) (events []*chatsvcv1.TurnEvent, err error) {
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return events, err
		}
		events = append(events, e)
	}
}

// reason returns the code and ErrorInfo.reason of an error, and fails the test unless it has exactly one ErrorInfo of ours.
func reason(t *testing.T, err error) (codes.Code, string) {
	t.Helper()
	var found []*errdetails.ErrorInfo
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			found = append(found, info)
		}
	}
	if len(found) != 1 || found[0].GetDomain() != "chatsvc" {
		t.Errorf("%v: ErrorInfo %v, want one of domain chatsvc", err, found)
		return status.Code(err), ""
	}
	return status.Code(err), found[0].GetReason()
}

// wantReason fails the test unless err has the code and the reason.
func wantReason(t *testing.T, err error, code codes.Code, want string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %v / %s", code, want)
		return
	}
	if gotCode, got := reason(t, err); gotCode != code || got != want {
		t.Errorf("got %v / %s (%v), want %v / %s", gotCode, got, err, code, want)
	}
}

// eventually waits until check says yes, at most for the time given.
func eventually(t *testing.T, within time.Duration, what string, check func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !check() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond) // a poll of another party, with a deadline
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// grpcHeader takes the response header of a unary call.
type grpcHeader struct{ md metadata.MD }

func (h *grpcHeader) option() grpc.CallOption { return grpc.Header(&h.md) }

func (h *grpcHeader) turn(t *testing.T) string {
	t.Helper()
	names := h.md.Get("chatsvc-turn")
	if len(names) != 1 {
		t.Fatalf("header chatsvc-turn: %v, want one", names)
	}
	return names[0]
}

// tail returns the last n bytes.
func (b *lockedBuffer) tail(n int) string {
	s := b.String()
	return s[max(0, len(s)-n):]
}

func containsAny(s string, substrings ...string) bool {
	return slices.ContainsFunc(substrings, func(sub string) bool { return strings.Contains(s, sub) })
}

// textOf returns the text of a turn's output, which output_text does not have when it is long.
func textOf(turn *chatsvcv1.Turn) string {
	var text strings.Builder
	for _, m := range turn.GetOutput() {
		for _, p := range m.GetParts() {
			text.WriteString(p.GetText())
		}
	}
	return text.String()
}
