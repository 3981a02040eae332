package turn

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/chatsvc/chatsvc/internal/conversation"
	"github.com/chatsvc/chatsvc/internal/provider"
)

// allowing is a request by a credential that may ask some models only.
func allowing(r *Request, models ...string) *Request {
	r.AllowedModels = models
	return r
}

// setModel changes the model of a conversation.
func setModel(t *testing.T, e *Engine, conv conversation.ID, model string) {
	t.Helper()
	c, err := e.o.Store.GetConversation(t.Context(), "red", conv)
	if err != nil {
		t.Fatal(err)
	}
	c.Spec.Model = model
	if _, err := e.o.Store.UpdateConversation(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// counting is a provider that counts its calls.
type counting struct {
	provider.Provider
	calls atomic.Int64
}

func (c *counting) Generate(ctx context.Context, r *provider.Request) (provider.Stream, error) {
	c.calls.Add(1)
	return c.Provider.Generate(ctx, r)
}

// Wherever the model comes from, one that the credential may not ask is refused before anything is recorded.
func TestModelNotAllowed(t *testing.T) {
	t.Parallel()
	p := &counting{Provider: says("an answer")}
	e, f := newEngine(t, p, nil) // whose default model is sim
	plain, special := newConversation(t, e), newConversation(t, e)
	setModel(t, e, special, "special")
	long := strings.Repeat("x", 10_000)
	for _, test := range []struct {
		name    string
		conv    conversation.ID
		model   string
		allowed []string
		refused string // the model that is named; empty: allowed
	}{
		{"all are", conversation.ID{}, "special", nil, ""},
		{"the request's", conversation.ID{}, "special", []string{"sim", "special"}, ""},
		{"the default", conversation.ID{}, "", []string{"sim"}, ""},
		{"the conversation's", special, "", []string{"special"}, ""},
		{"the request's over the conversation's", special, "sim", []string{"sim"}, ""},
		{"not the request's", conversation.ID{}, "special", []string{"sim"}, "special"},
		{"not the default", conversation.ID{}, "", []string{"special"}, "sim"},
		{"not the default of a conversation", plain, "", []string{"special"}, "sim"},
		{"not the conversation's", special, "", []string{"sim"}, "special"},
		{"the conversation's, but not the request's", special, "sim", []string{"special"}, "sim"},
		{"only the beginning of it", conversation.ID{}, "special", []string{"spec", "special-2", "SPECIAL"}, "special"},
		{"a long one", conversation.ID{}, long, []string{"sim"}, long[:128]},
	} {
		r := allowing(say(test.conv, "hi"), test.allowed...)
		r.Model = test.model
		calls, begins := p.calls.Load(), f.begins.Load()
		if test.refused == "" {
			if turn := runTurn(t, e, r); turn.State != conversation.Completed {
				t.Errorf("%s: %+v", test.name, turn)
			}
			continue
		}
		_, err := e.Start(t.Context(), r)
		if known, ok := errors.AsType[*conversation.Error](err); !ok || known.Reason != conversation.ModelNotAllowed ||
			!strings.HasSuffix(known.Message, " "+test.refused) {
			t.Errorf("%s: %v", test.name, err)
		}
		if p.calls.Load() != calls || f.begins.Load() != begins {
			t.Errorf("%s: something was recorded, or sent", test.name)
		}
	}
}

// A turn that waits asks the model that its conversation has when it begins.
func TestModelIsNotAllowedAnyMore(t *testing.T) {
	t.Parallel()
	g := &gate{pass: make(chan struct{})}
	e, _ := newEngine(t, g, nil)
	conv := newConversation(t, e)
	first := mustStart(t, e, say(conv, "first"))
	if _, err := e.Start(t.Context(), on(allowing(say(conv, "no"), "special"), Queue)); !isReason(err, conversation.ModelNotAllowed) {
		t.Errorf("%v: it waits for a model that it may not ask", err)
	}
	waits := mustStart(t, e, on(allowing(say(conv, "waits"), "sim"), Queue))
	setModel(t, e, conv, "special")
	close(g.pass)
	mustEnd(t, first)
	turn := mustEnd(t, waits)
	if turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.ModelNotAllowed || len(turn.Result.Attempts) != 0 {
		t.Errorf("%+v, %v", turn, turn.Result.Error)
	}
	if strings.Contains(strings.Join(g.sent, "; "), "waits") {
		t.Errorf("sent %q", g.sent)
	}
	if turn := runTurn(t, e, allowing(say(conv, "after"), "special")); turn.State != conversation.Completed {
		t.Errorf("the next: %+v", turn)
	}
}

// Whoever takes a turn over knows what it may ask; and one that has begun goes on with the model with which it began.
func TestModelsOfATurnThatIsTakenOver(t *testing.T) {
	t.Parallel()
	var ps processes
	p := newFed()
	old := ps.start(t, p)
	conv := newConversation(t, old.Engine)
	running := mustStart(t, old.Engine, allowing(repeatable(conv, "running", "first"), "sim"))
	waiting := mustStart(t, old.Engine, on(allowing(repeatable(conv, "waiting", "second"), "sim"), Queue))
	p.texts <- "so "
	eventually(t, "it is durable", func() bool { return durable(t, old.Engine, running.Turn()) == 3 })
	setModel(t, old.Engine, conv, "special")
	old.die(t)

	var mu sync.Mutex
	var asked []string
	e := ps.start(t, generate(func(ctx context.Context, r *provider.Request) (provider.Stream, error) {
		mu.Lock()
		asked = append(asked, r.Model)
		mu.Unlock()
		return says("an answer")(ctx, r)
	}))
	turn := mustEnd(t, fromStore(e.Engine, running.Turn(), 0))
	if turn.State != conversation.Completed {
		t.Errorf("the one that ran: %+v, %v", turn, turn.Result.Error)
	}
	turn = mustEnd(t, fromStore(e.Engine, waiting.Turn(), 0))
	if turn.State != conversation.Failed || turn.Result.Error.Reason != conversation.ModelNotAllowed {
		t.Errorf("the one that waited: %+v, %v", turn, turn.Result.Error)
	}
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(asked) != "[sim]" {
		t.Errorf("asked %v", asked)
	}
}

// A repeat begins nothing, so whatever the models of its credential, it gets the turn, which the credential may read anyway:
// wherever that runs, also when it has ended, and whatever the conversation's model is by now.
func TestRepeatWithOtherModels(t *testing.T) {
	t.Parallel()
	g := &gate{pass: make(chan struct{})} // whose answers call the model otherwise
	e, _ := newEngine(t, g, nil)
	conv := newConversation(t, e)
	first := mustStart(t, e, allowing(repeatable(conv, "id", "hi"), "sim"))
	other, _ := elsewhere(t, e)
	check := func(when string, models ...string) {
		t.Helper()
		for where, e := range map[string]*Engine{"here": e, "elsewhere": other} {
			reader, err := e.Start(t.Context(), allowing(repeatable(conv, "id", "hi"), models...))
			if err == nil {
				reader.Close()
			}
			if err != nil || reader.Turn() != first.Turn() {
				t.Errorf("%s, %s, %v: %v, want the turn", when, where, models, err)
			}
		}
	}
	all := func(when string) {
		t.Helper()
		check(when, "special")
		check(when, "special", "sim")
		check(when)
	}
	all("while it runs")
	setModel(t, e, conv, "special")
	all("while it runs, and the conversation has another model")
	close(g.pass)
	mustEnd(t, first)
	all("when it has ended, and the conversation has another model")
	if len(g.sent) != 1 {
		t.Errorf("%d calls to the provider", len(g.sent))
	}
}

// noticed is a context that tells when somebody begins to wait for its end.
type noticed struct {
	context.Context
	waits func()
}

func (n noticed) Done() <-chan struct{} {
	n.waits()
	return n.Context.Done()
}

// What one credential is refused, another one that asks the same at the same time need not be.
func TestRefusedModelIsNotShared(t *testing.T) {
	t.Parallel()
	e, f := newEngine(t, says("an answer"), nil)
	conv := newConversation(t, e)
	inside, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.moved = func() {
		once.Do(func() {
			close(inside)
			<-goOn
		})
	}
	var calls sync.WaitGroup
	calls.Go(func() {
		if _, err := e.Start(t.Context(), allowing(repeatable(conv, "id", "hi"), "special")); !isReason(err, conversation.ModelNotAllowed) {
			t.Error(err)
		}
	})
	<-inside
	var waiting sync.WaitGroup // for what becomes of the first
	for range 10 {
		for _, models := range [][]string{{"special"}, {"sim"}} {
			waiting.Add(1)
			calls.Go(func() {
				ctx := noticed{t.Context(), sync.OnceFunc(waiting.Done)}
				reader, err := e.Start(ctx, allowing(repeatable(conv, "id", "hi"), models...))
				if err == nil {
					defer reader.Close()
				}
				if models[0] == "special" != isReason(err, conversation.ModelNotAllowed) {
					t.Errorf("%v: %v", models, err)
				}
			})
		}
	}
	waiting.Wait()
	close(goOn)
	calls.Wait()
}
