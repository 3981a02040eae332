package netfault

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// A link is one connection through the proxy.
type link struct {
	proxy  *Proxy
	caller *net.TCPConn
	// ctx ends with the link.
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	target *net.TCPConn // nil until dialled
	halved bool         // the target's side is gone, and the caller is not told
}

func newLink(p *Proxy, caller *net.TCPConn) *link {
	ctx, cancel := context.WithCancel(p.ctx)
	return &link{proxy: p, caller: caller, ctx: ctx, cancel: cancel}
}

// run forwards until both sides have ended, or the link is cut.
func (l *link) run() {
	defer l.proxy.forget(l)
	defer l.cancel()
	if !l.proxy.pass(l.ctx) || !l.dial() {
		l.cut()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { l.forward(l.target, l.caller) })
	both.Go(func() { l.forward(l.caller, l.target) })
	both.Wait()
	// Not cut: a reset would overtake what the kernel still has to send.
	_ = l.caller.Close()
	_ = l.target.Close()
}

// dial connects to the target. Where nobody listens, the caller gets a reset.
func (l *link) dial() bool {
	conn, err := (&net.Dialer{}).DialContext(l.ctx, "tcp", l.proxy.target)
	if err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = conn.(*net.TCPConn)
	if l.halved || l.ctx.Err() != nil { // meanwhile
		reset(l.target)
	}
	return true
}

// A chunk is bytes on their way.
type chunk struct {
	bytes   []byte
	arrives time.Time
}

// forward copies from one side to the other until that ends, and then tells it so.
func (l *link) forward(to, from *net.TCPConn) {
	onTheWay := make(chan chunk, 64) // bounds memory; a full one makes the sender wait, as a network does
	l.proxy.running.Go(func() {
		defer close(onTheWay)
		for buffer := make([]byte, 32<<10); ; {
			n, err := from.Read(buffer)
			if n > 0 {
				select {
				case onTheWay <- chunk{append([]byte(nil), buffer[:n]...), l.proxy.arrival()}:
				case <-l.ctx.Done():
					return
				}
			}
			if err != nil {
				if !errors.Is(err, io.EOF) && !l.isHalved() {
					l.cut() // the other side is reset, so this one is too
				}
				return
			}
		}
	})
	for c := range onTheWay {
		if !l.wait(time.Until(c.arrives)) || !l.proxy.pass(l.ctx) {
			return
		}
		if l.isHalved() {
			continue // into the void
		}
		if _, err := to.Write(c.bytes); err != nil && !l.isHalved() {
			l.cut()
			return
		}
	}
	if !l.isHalved() {
		_ = to.CloseWrite()
	}
}

// wait waits for d, and reports false if the link ended first.
func (l *link) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// cut resets both sides. Of a side that was closed before, nothing comes of it.
func (l *link) cut() {
	l.cancel()
	reset(l.caller)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.target != nil {
		reset(l.target)
	}
}

// halve resets the target's side.
func (l *link) halve() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.halved = true
	if l.target != nil {
		reset(l.target)
	}
}

func (l *link) isHalved() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.halved
}

// reset closes a connection so that the other end sees an error and not an end.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // fails of a closed one
	_ = conn.Close()
}
