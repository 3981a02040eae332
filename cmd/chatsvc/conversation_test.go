package main

import (
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/provider/openaisim"
)

func TestAConversationRemembers(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	c := p.dial(t, redKey)
	conv := c.newConversation(t)
	c.say(t, conv, "My name is Ada.")

	stream, err := c.chat.StreamTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Conversation: conv, Text: "What is my name?"})
	if err != nil {
		t.Fatal(err)
	}
	events, err := collect(stream)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for i, e := range events {
		if e.GetSequence() != int64(i)+1 {
			t.Errorf("event %d has sequence %d", i, e.GetSequence())
		}
		text.WriteString(e.GetTextDelta().GetText())
	}
	last := events[len(events)-1].GetTerminal().GetTurn()
	if !strings.Contains(text.String(), "Ada") || last.GetOutputText() != text.String() {
		t.Errorf("streamed %q, terminal %q; want both to name Ada", text.String(), last.GetOutputText())
	}
	if events[0].GetAccepted().GetTurn() != last.GetName() || events[0].GetAccepted().GetConversation() != conv {
		t.Errorf("first event %v, want accepted with turn and conversation", events[0])
	}
	header, err := stream.Header()
	if err != nil || len(header.Get("chatsvc-turn")) != 1 || header.Get("chatsvc-turn")[0] != last.GetName() {
		t.Errorf("header %v, %v; want the turn's name", header, err)
	}

	messages, err := c.conv.ListMessages(t.Context(), &chatsvcv1.ListMessagesRequest{Parent: conv})
	if err != nil {
		t.Fatal(err)
	}
	if got := len(messages.GetMessages()); got != 4 {
		t.Errorf("%d messages, want 4", got)
	}
	got, err := c.conv.GetConversation(t.Context(), &chatsvcv1.GetConversationRequest{Name: conv})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetHeadTurn() != last.GetName() || got.GetActiveTurn() != "" {
		t.Errorf("conversation %v, want the last turn as its head and nothing active", got)
	}
}

// A conversation must be there after the server was killed, and go on; a turn that ran is over and does not block it.
func TestAConversationSurvivesKill(t *testing.T) {
	t.Parallel()
	sim := httptest.NewServer(openaisim.New(openaisim.Options{}))
	defer sim.Close()
	config := writeConfig(t, t.TempDir(), sim.URL+"/v1", "")

	p := spawn(t, "serve", "--config", config)
	c := p.dial(t, redKey)
	conv := c.newConversation(t)
	c.say(t, conv, "My name is Ada.")
	stream, err := c.chat.StreamTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Conversation: conv, Text: "[[sim fault=stall after=2]]"})
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	p.kill()

	p = spawn(t, "serve", "--config", config)
	c = p.dial(t, redKey)
	// It is taken over at once, and its end is something to wait for.
	watch, err := c.chat.WatchTurn(t.Context(), &chatsvcv1.WatchTurnRequest{Name: accepted.GetAccepted().GetTurn()})
	if err != nil {
		t.Fatal(err)
	}
	events, err := collect(watch)
	if err != nil || len(events) < 3 || events[len(events)-2].GetOutputReset() == nil || events[len(events)-1].GetTerminal() == nil {
		t.Fatalf("%v, %v: want the log to end with a reset and the terminal event", events, err)
	}
	lost, err := c.chat.GetTurn(t.Context(), &chatsvcv1.GetTurnRequest{Name: accepted.GetAccepted().GetTurn(), View: chatsvcv1.TurnView_TURN_VIEW_FULL})
	if err != nil {
		t.Fatal(err)
	}
	if lost.GetState() != chatsvcv1.TurnState_TURN_STATE_FAILED || codes.Code(lost.GetError().GetCode()) != codes.Unavailable ||
		lost.GetAttempts()[0].GetState() != chatsvcv1.Attempt_STATE_UNKNOWN {
		t.Errorf("the interrupted turn is %v", lost)
	}
	if got := c.say(t, conv, "What is my name?"); !strings.Contains(got, "Ada") {
		t.Errorf("after the restart it says %q, want Ada remembered", got)
	}
}

func TestOneTurnAtATime(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	c := p.dial(t, redKey)
	conv := c.newConversation(t)
	const callers = 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	var answered int
	for i := range callers {
		wg.Go(func() {
			_, err := c.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Conversation: conv, Text: fmt.Sprintf("%d [[sim ttft=300ms]]", i)})
			if err == nil {
				mu.Lock()
				answered++
				mu.Unlock()
				return
			}
			wantReason(t, err, codes.Aborted, "CONVERSATION_BUSY")
		})
	}
	wg.Wait()
	if answered == 0 || int64(answered) != p.simulator.Stats().Calls {
		t.Errorf("%d turns answered with %d upstream calls", answered, p.simulator.Stats().Calls)
	}
}

func TestParametersArriveUnchanged(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	c := p.dial(t, redKey)
	zero, seed := 0.0, int64(0)
	_, err := c.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{
		Text: "hi", Config: &chatsvcv1.GenerationConfig{Temperature: &zero, Seed: &seed},
	})
	if err != nil {
		t.Fatal(err)
	}
	body := string(p.simulator.Calls()[0].Body)
	for _, want := range []string{`"temperature":0`, `"seed":0`, `"include_usage":true`, `"stream":true`} {
		if !strings.Contains(body, want) {
			t.Errorf("the request has no %s: %s", want, body)
		}
	}
	for _, unwanted := range []string{"top_p", "presence_penalty", "max_tokens", "max_completion_tokens"} {
		if strings.Contains(body, unwanted) {
			t.Errorf("the request has %s, which nobody set: %s", unwanted, body)
		}
	}
}

// The history that is sent fits into the model's context, in whole turns, and the instructions are never dropped.
func TestTheWindowFits(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	c := p.dial(t, redKey)
	conv, err := c.conv.CreateConversation(t.Context(), &chatsvcv1.CreateConversationRequest{Conversation: &chatsvcv1.Conversation{
		Model: "sim-small", Instructions: "THE RULES",
	}})
	if err != nil {
		t.Fatal(err)
	}
	firsts := make(map[string]bool)
	const turns = 40
	for i := range turns {
		c.say(t, conv.GetName(), fmt.Sprintf("%d %s [[sim tokens=20]]", i, strings.Repeat("word ", 30)))
	}
	for _, call := range p.simulator.Calls() {
		body := string(call.Body)
		if !strings.Contains(body, "THE RULES") {
			t.Fatalf("the instructions are gone: %s", body)
		}
		_, history, _ := strings.Cut(body, `"role":"user"`)
		firsts[history[:40]] = true
	}
	if calls := p.simulator.Stats().Calls; calls != turns {
		t.Errorf("%d calls for %d turns", calls, turns)
	}
	// 40 turns of about 70 tokens through a context of 1000: the cut moves about every second turn at an eighth of the
	// context; without steps it would move with each.
	if moves := len(firsts); moves < 5 || moves > 30 {
		t.Errorf("the first message changed %d times in %d turns", moves, turns)
	}
	_, err = c.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Conversation: conv.GetName(), Text: strings.Repeat("word ", 2000)})
	wantReason(t, err, codes.FailedPrecondition, "CONTEXT_TOO_LONG")
	if calls := p.simulator.Stats().Calls; calls != turns {
		t.Error("the too long turn was sent")
	}
}

func TestToolCallsMustBeAnsweredFirst(t *testing.T) {
	t.Parallel()
	p := serve(t, "")
	c := p.dial(t, redKey)
	conv := c.newConversation(t)
	ask := &chatsvcv1.CreateTurnRequest{
		Conversation: conv, Text: "weather? [[sim tool=weather args='{\"city\":\"Bern\"}']]",
		Tools: []*chatsvcv1.Tool{{Name: "weather", ParametersJson: `{"type":"object","properties":{"city":{"type":"string"}}}`}},
	}
	turn, err := c.chat.CreateTurn(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	if turn.GetFinishReason() != chatsvcv1.FinishReason_FINISH_REASON_TOOL_CALLS {
		t.Fatalf("turn %v", turn)
	}
	call := turn.GetOutput()[0].GetParts()[0].GetToolCall()
	if call.GetName() != "weather" || call.GetArgumentsJson() != `{"city":"Bern"}` {
		t.Errorf("call %v", call)
	}
	_, err = c.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Conversation: conv, Text: "never mind"})
	wantReason(t, err, codes.FailedPrecondition, "TOOL_CALLS_UNANSWERED")
	_, err = c.chat.CreateTurn(t.Context(), &chatsvcv1.CreateTurnRequest{Conversation: conv, Tools: ask.GetTools(), Input: []*chatsvcv1.Message{{
		Role: chatsvcv1.Role_ROLE_TOOL,
		Parts: []*chatsvcv1.Part{{Part: &chatsvcv1.Part_ToolResult{
			ToolResult: &chatsvcv1.ToolResult{ToolCallId: call.GetId(), Text: "sunny"},
		}}},
	}}})
	if err != nil {
		t.Errorf("with the answer: %v", err)
	}
}

// With a base URL and a key in the environment it talks to whatever speaks the wire, also in --dev; without the URL, the key
// is not spent.
func TestUpstreamFromTheEnvironment(t *testing.T) {
	sim := openaisim.New(openaisim.Options{Keys: []string{"sk-from-the-environment"}})
	upstream := httptest.NewServer(sim)
	defer upstream.Close()
	t.Setenv("OPENAI_API_KEY", "sk-from-the-environment")
	for _, url := range []string{"", upstream.URL + "/v1"} {
		t.Setenv("CHATSVC_OPENAI_BASE_URL", url)
		p := launch(t, "serve", "--dev", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--default-model=sim",
			"--database-url=sqlite:"+filepath.Join(t.TempDir(), "chatsvc.db"))
		if got := p.dial(t, "dev").say(t, "", "Bonjour"); !strings.Contains(got, "Bonjour") {
			t.Errorf("%q: %q", url, got)
		}
		p.stop()
		want := int64(0)
		if url != "" {
			want = 1
		}
		if calls := sim.Stats().Calls; calls != want {
			t.Errorf("%q: %d calls with the key, want %d", url, calls, want)
		}
	}
}
