// Package storetest is the suite that every conversation.Store passes. It covers each sentence of the contract; what a
// bug in one engine teaches becomes a case here.
package storetest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// Run tests the stores that open makes. Each call of open makes an empty one, to be closed by t.Cleanup; the suite may
// close it before.
func Run(t *testing.T, open func(t *testing.T) conversation.Store) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*bench)
	}{
		{"CreateConversation", createConversation},
		{"CreateConversationTwice", createConversationTwice},
		{"ListConversations", listConversations},
		{"UpdateConversation", updateConversation},
		{"UpdateConversationRace", updateConversationRace},
		{"DeleteConversation", deleteConversation},
		{"DeleteConversationVersions", deleteConversationVersions},
		{"BeginTurn", beginTurn},
		{"BeginTurnRefused", beginTurnRefused},
		{"EndTurnAnswered", endTurnAnswered},
		{"EndTurnUnanswered", endTurnUnanswered},
		{"EndTurnTwice", endTurnTwice},
		{"OneShot", oneShot},
		{"DeleteTurn", deleteTurn},
		{"ListTurns", listTurns},
		{"History", history},
		{"HistoryWhileRunning", historyWhileRunning},
		{"ListMessages", listMessages},
		{"Content", content},
		{"LargeContent", largeContent},
		{"Teams", teams},
		{"UnknownNames", unknownNames},
		{"ConcurrentBegin", concurrentBegin},
		{"Chains", chains},
		{"CancelledContext", cancelledContext},
		{"Close", closed},
		{"AppendEvents", appendEvents},
		{"ManyEvents", manyEvents},
		{"EndEvents", endEvents},
		{"RecordAttempt", recordAttempt},
		{"Subscribe", subscribe},
		{"Claims", claims},
		{"ClaimsEnd", claimsEnd},
		{"ClaimsRefused", claimsRefused},
		{"ClaimsAtOnce", claimsAtOnce},
		{"ClaimsBegunLate", claimsBegunLate},
		{"ClaimsReleased", claimsReleased},
		{"Queue", queue},
		{"QueueFull", queueFull},
		{"CancelRequests", cancelRequests},
		{"ForkTurns", forkTurns},
		{"SelectHead", selectHead},
		{"Chained", chained},
		{"ForkConversation", forkConversation},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(newBench(t, open(t)))
		})
	}
}

// A Factory makes stores that outlive their process.
type Factory struct {
	// Open makes an empty store.
	Open func(t *testing.T) conversation.Store
	// Reopen closes s and returns a store on the same data, as the next process would.
	Reopen func(t *testing.T, s conversation.Store) conversation.Store
}

// RunReopen tests what a store keeps for the next process.
func RunReopen(t *testing.T, f Factory) {
	t.Helper()
	for _, c := range append([]reopenCase{
		{"Durable", durable},
		{"TakenOver", takenOver},
		{"CallersEnd", callersEnd},
		{"DeletedStaysDeleted", deletedStaysDeleted},
	}, retentionCases()...) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, f.Open(t))
			c.test(b, func() { b.Store = f.Reopen(t, b.Store) })
		})
	}
}

// A bench is a store with what the cases do to it all the time.
type bench struct {
	conversation.Store
	t *testing.T

	mu sync.Mutex
	// takeovers are those of the turns that Duties has told of: the bench says them wherever it must, as an engine does.
	takeovers map[conversation.ID]int
}

// Duties is that of the store.
func (b *bench) Duties(ctx context.Context) (*conversation.Duties, error) {
	d, err := b.Store.Duties(ctx)
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, t := range d.Taken {
			b.takeovers[t.Turn.ID] = t.Takeovers
		}
	}
	return d, err
}

func (b *bench) takenOver(id conversation.ID) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.takeovers[id]
}

// EndTurn is that of the store.
func (b *bench) EndTurn(ctx context.Context, e *conversation.End) error {
	e.Takeovers = b.takenOver(e.Turn.ID)
	return b.Store.EndTurn(ctx, e)
}

// AppendEvents is that of the store.
func (b *bench) AppendEvents(ctx context.Context, batches []conversation.EventBatch) ([]conversation.ID, error) {
	for i := range batches {
		batches[i].Takeovers = b.takenOver(batches[i].Turn)
	}
	return b.Store.AppendEvents(ctx, batches)
}

// BeginTurn is that of the store.
func (b *bench) BeginTurn(ctx context.Context, a *conversation.Admission) error {
	a.Takeovers = b.takenOver(a.Turn.ID)
	return b.Store.BeginTurn(ctx, a)
}

const (
	team  = "team-a"
	other = "team-b"
)

func newBench(t *testing.T, s conversation.Store) *bench {
	t.Helper()
	return &bench{Store: s, t: t, takeovers: make(map[conversation.ID]int)}
}

func (b *bench) ctx() context.Context { return b.t.Context() }

// newID returns ids that rise in the order of the calls.
func newID() conversation.ID { return conversation.ID(uuid.Must(uuid.NewV7())) }

// at is a time with the resolution that stores keep.
func at(seconds int) time.Time { return time.Unix(1_800_000_000+int64(seconds), 123_456_789).UTC() }

func text(role conversation.Role, s string) conversation.Message {
	return conversation.Message{ID: newID(), Role: role, Parts: []conversation.Part{conversation.TextPart(s)}}
}

func (b *bench) create(owner string) *conversation.Conversation {
	b.t.Helper()
	c := &conversation.Conversation{ID: newID(), Team: owner, CreateTime: at(0), Spec: conversation.Spec{DisplayName: "d"}}
	b.ok(b.CreateConversation(b.ctx(), c))
	return c
}

func (b *bench) get(c *conversation.Conversation) *conversation.Conversation {
	b.t.Helper()
	got, err := b.GetConversation(b.ctx(), c.Team, c.ID)
	b.ok(err)
	return got
}

// newTurn returns a running turn with one message; in and parent may be zero.
func newTurn(owner string, in, parent conversation.ID, say string) *conversation.Turn {
	return &conversation.Turn{
		ID: newID(), Team: owner, Client: "client", Conversation: in, Parent: parent, State: conversation.Running,
		OnDisconnect: conversation.DisconnectCancel, CreateTime: at(1),
		Input: []conversation.Message{text(conversation.RoleUser, say)},
		Result: conversation.Result{
			Model: "asked", Attempts: []conversation.Attempt{{State: conversation.AttemptIntent, Model: "asked", CreateTime: at(2)}},
		},
	}
}

// count gives the i-th of n messages 10+i tokens.
func count(ms []conversation.Message) []int64 {
	tokens := make([]int64, len(ms))
	for i := range tokens {
		tokens[i] = 10 + int64(i)
	}
	return tokens
}

func (b *bench) begin(t *conversation.Turn) error {
	b.t.Helper()
	return b.BeginTurn(b.ctx(), b.admission(t))
}

// admission is that of t at the head of its conversation, if that is t's parent.
func (b *bench) admission(t *conversation.Turn) *conversation.Admission {
	a := &conversation.Admission{Turn: t, InputTokens: count(t.Input), Deadline: at(60)}
	if t.Conversation.IsZero() {
		return a
	}
	if c, err := b.GetConversation(b.ctx(), t.Team, t.Conversation); err == nil && c.HeadTurn == t.Parent {
		a.Base = c.Head
	}
	return a
}

// end ends t in state, with one message of output.
func (b *bench) end(t *conversation.Turn, state conversation.State, say string) error {
	b.t.Helper()
	ended := *t
	ended.State, ended.EndTime = state, at(10)
	ended.Output = []conversation.Message{text(conversation.RoleAssistant, say)}
	ended.Result = conversation.Result{
		Model: "answered", FinishReason: conversation.FinishStop, LastSequence: 7,
		Usage: &conversation.Usage{InputTokens: 3, OutputTokens: 4},
	}
	if state == conversation.Failed {
		ended.Result.FinishReason = conversation.FinishNone
		ended.Result.Error = conversation.Errorf(conversation.UpstreamStreamCut, "cut")
	}
	err := b.EndTurn(b.ctx(), &conversation.End{Turn: &ended, OutputTokens: count(ended.Output)})
	if err == nil {
		*t = ended
	}
	return err
}

// turn begins and ends a turn in c, whose last answered turn is parent.
func (b *bench) turn(c *conversation.Conversation, parent conversation.ID, state conversation.State, say string) *conversation.Turn {
	b.t.Helper()
	t := newTurn(c.Team, c.ID, parent, say)
	b.ok(b.begin(t))
	b.ok(b.end(t, state, "re: "+say))
	return t
}

// talk adds n answered turns of two messages to an empty conversation and returns them.
func (b *bench) talk(c *conversation.Conversation, n int) []*conversation.Turn {
	b.t.Helper()
	var turns []*conversation.Turn
	var head conversation.ID
	for i := range n {
		turns = append(turns, b.turn(c, head, conversation.Completed, "say "+string(rune('a'+i%26))))
		head = turns[i].ID
	}
	return turns
}

// line returns the main line of c from the first message on, and checks that positions and tokens are without gaps.
func (b *bench) line(c *conversation.Conversation) []*conversation.StoredMessage {
	b.t.Helper()
	head := b.get(c)
	var ms []*conversation.StoredMessage
	for m, err := range b.History(b.ctx(), c.Team, c.ID, head.Head) {
		b.ok(err)
		ms = append(ms, m)
	}
	slices.Reverse(ms)
	var tokens int64
	for i, m := range ms {
		if m.Position != int64(i) || m.TokensBefore != tokens {
			b.t.Fatalf("message %d stands at %d with %d tokens before it, want %d", i, m.Position, m.TokensBefore, tokens)
		}
		tokens += m.Tokens
	}
	if int64(len(ms)) != head.Head.Position || tokens != head.Head.Tokens {
		b.t.Fatalf("the line has %d messages and %d tokens, its head says %d and %d", len(ms), tokens, head.Head.Position, head.Head.Tokens)
	}
	if len(ms) > 0 && ms[len(ms)-1].Turn != head.HeadTurn {
		b.t.Fatalf("the last message is of turn %x, the head is %x", ms[len(ms)-1].Turn, head.HeadTurn)
	}
	return ms
}

// duties returns what there is to do, and fails if there is nothing for half a minute.
func (b *bench) duties() *conversation.Duties {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx(), 30*time.Second)
	defer cancel()
	d, err := b.Duties(ctx)
	b.ok(err)
	return d
}

// awake fails unless wake has a value within half a minute.
func (b *bench) awake(wake <-chan struct{}) {
	b.t.Helper()
	select {
	case <-wake:
	case <-time.After(30 * time.Second):
		b.t.Fatal("nobody was woken")
	}
}

func (b *bench) ok(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// is checks that err is target, by errors.Is.
func (b *bench) is(err, target error) {
	b.t.Helper()
	if !errors.Is(err, target) {
		b.t.Fatalf("got error %v, want %v", err, target)
	}
}

// busy checks that err is a refusal because turn runs.
func (b *bench) busy(err error, turn conversation.ID) {
	b.t.Helper()
	var e *conversation.Error
	if !errors.As(err, &e) || e.Reason != conversation.ConversationBusy {
		b.t.Fatalf("got error %v, want %v", err, conversation.ErrConversationBusy)
	}
	if e.Turn != turn {
		b.t.Fatalf("the error names turn %x, want %x", e.Turn, turn)
	}
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}
