package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/chatsvc/chatsvc/chatclient"
	chatsvcv1 "github.com/chatsvc/chatsvc/gen/chatsvc/v1"
	"github.com/chatsvc/chatsvc/internal/netfault"
)

// With every connection cut every 50 ms, callers of chatclient get every answer, byte for byte as it is stored, and each
// was generated once.
func TestEveryConnectionCut(t *testing.T) {
	t.Parallel()
	const (
		callers, turns = 6, 3
		tokens         = 6000 // some 30 KB, over a second
		interval       = 50 * time.Millisecond
	)
	up := newUpstream(t)
	database := postgres(t)
	var proxies []*netfault.Proxy
	var behind *client
	replicated := manual.NewBuilderWithScheme("replicas")
	state := resolver.State{}
	for i := range 2 {
		p := serveOn(t, database, up.at(i), "log:\n  level: error\n")
		behind = p.dial(t, redKey)
		proxy := netfault.Listen(t, p.data)
		proxies = append(proxies, proxy)
		state.Addresses = append(state.Addresses, resolver.Address{Addr: proxy.Addr()})
	}
	replicated.InitialState(state)
	conn, err := chatclient.Dial("replicas:///", grpc.WithResolvers(replicated), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	helper := chatclient.New(conn, chatclient.Options{})
	for _, p := range proxies {
		p.CutEvery(interval)
	}

	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+redKey), time.Minute)
	defer cancel()
	began := time.Now()
	var mu sync.Mutex
	texts := make(map[string]string) // by turn
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for n := range turns {
				id := fmt.Sprintf("cut.%d.%d", caller, n)
				request := &chatsvcv1.CreateTurnRequest{RequestId: id, Text: fmt.Sprintf("#%s# [[sim tokens=%d rate=%d]]", id, tokens, tokens)}
				name, text, err := byClient(ctx, helper, request, caller%3)
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				mu.Lock()
				texts[name] = text
				mu.Unlock()
			}
		})
	}
	all.Wait()
	took := time.Since(began)

	bytes := 0
	for name, text := range texts {
		bytes += len(text)
		turn := behind.turn(t, name)
		if stored := textOf(turn); stored != text {
			t.Errorf("%s: %d bytes came, %d are stored", name, len(text), len(stored))
		}
		if n := turn.GetUsage().GetOutputTokens(); n != tokens {
			t.Errorf("%s: %d tokens, want %d", name, n, tokens)
		}
	}
	if n := up.count(); len(texts) != callers*turns || n != len(texts) {
		t.Errorf("%d turns, %d calls upstream; want %d", len(texts), n, callers*turns)
	}
	cuts := proxies[0].Cuts() + proxies[1].Cuts()
	if cuts < 20 {
		t.Errorf("only %d connections were cut", cuts)
	}
	t.Logf("%d turns with %d bytes in %v, over %d cuts", len(texts), bytes, took.Round(time.Millisecond), cuts)
}

// byClient has a request answered in one of three ways, and returns the turn's name and the text as that way gives it.
func byClient(ctx context.Context, helper *chatclient.Client, request *chatsvcv1.CreateTurnRequest, way int) (name, text string, err error) {
	if way == 0 {
		turn, err := helper.Create(ctx, request)
		return turn.GetName(), textOf(turn), err
	}
	stream := helper.Stream(ctx, request)
	if way == 1 {
		text, err = stream.Text()
		return stream.Name(), text, err
	}
	var deltas strings.Builder
	for e, err := range stream.Events() {
		if err != nil {
			return stream.Name(), deltas.String(), err
		}
		if e.GetOutputReset() != nil {
			deltas.Reset()
		}
		deltas.WriteString(e.GetTextDelta().GetText())
	}
	return stream.Name(), deltas.String(), nil
}
