// Package netfault is a TCP proxy that misbehaves when a test tells it to: it cuts connections, falls silent, answers
// late. It stands between two real programs on loopback, so that what is tested is what they do, not what a double does.
package netfault

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// A Proxy forwards connections to its target. Its methods may be called from any goroutine.
type Proxy struct {
	target   string
	listener net.Listener
	// running is every goroutine of the proxy; ctx ends them.
	running sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc

	mu    sync.Mutex
	links map[*link]struct{}
	cuts  int
	delay time.Duration
	// clear is closed while bytes may pass, and open while Blackhole holds them.
	clear       chan struct{}
	stopCutting func()
}

// Listen starts a proxy to target, a host:port, on a free port of loopback. It ends at the test's cleanup, and cuts what
// is connected then.
func Listen(tb testing.TB, target string) *Proxy {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen for the proxy: %v", err)
	}
	p := &Proxy{
		target: target, listener: listener, links: make(map[*link]struct{}), clear: make(chan struct{}), stopCutting: func() {},
	}
	close(p.clear)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	tb.Cleanup(func() {
		p.cancel()
		_ = listener.Close()
		p.CutAll()
		p.running.Wait()
	})
	return p
}

// Addr returns where to connect, as host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// CutAll resets all connections, both sides: what was under way is lost. New ones are taken as before.
func (p *Proxy) CutAll() { p.cutUnless(context.Background()) }

// CutEvery calls CutAll again and again, each interval after the one before, until it is called with another interval; 0
// ends it.
func (p *Proxy) CutEvery(interval time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopCutting()
	p.stopCutting = func() {}
	if interval <= 0 || p.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	p.stopCutting = cancel
	p.running.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				p.cutUnless(ctx)
			}
		}
	})
}

// HalfOpen resets the target's side of all connections and leaves the callers' open, where nothing comes any more: so
// looks a peer that lost its power. New connections are taken as before; CutAll ends the silent ones.
func (p *Proxy) HalfOpen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.halve()
	}
}

// Blackhole holds the bytes of all connections, in both directions; new connections are accepted and hear nothing.
// Nothing is lost: Restore lets all of it go on.
func (p *Proxy) Blackhole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.clear:
		p.clear = make(chan struct{})
	default:
	}
}

// Restore ends a Blackhole.
func (p *Proxy) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.clear:
	default:
		close(p.clear)
	}
}

// Delay makes what is read from now on arrive d later, in each direction: latency, not less throughput. 0 ends it.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Cuts returns how many connections CutAll and CutEvery have reset, so that a test can tell that it tested something.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// Connections returns how many connections are open.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		l := newLink(p, conn.(*net.TCPConn))
		p.mu.Lock()
		p.links[l] = struct{}{}
		p.mu.Unlock()
		if p.ctx.Err() != nil { // the cleanup may have missed it
			p.CutAll()
		}
		p.running.Go(l.run)
	}
}

// cutUnless cuts all links, unless ctx has ended.
func (p *Proxy) cutUnless(ctx context.Context) {
	p.mu.Lock()
	if ctx.Err() != nil { // asked under the lock under which CutEvery ends it
		p.mu.Unlock()
		return
	}
	all := slices.Collect(maps.Keys(p.links))
	clear(p.links)
	p.cuts += len(all)
	p.mu.Unlock()
	for _, l := range all {
		l.cut()
	}
}

// forget is for a link that has ended by itself.
func (p *Proxy) forget(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// arrival returns when what is read now is to arrive.
func (p *Proxy) arrival() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Add(p.delay)
}

// pass waits until bytes may pass, and reports false if ctx ended first.
func (p *Proxy) pass(ctx context.Context) bool {
	for {
		p.mu.Lock()
		open := p.clear
		p.mu.Unlock()
		select {
		case <-open:
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		}
	}
}
