package sqlstore

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// A wire is a proxy to PostgreSQL that reads what clients send, so that a test can do something exactly when a statement
// comes by.
type wire struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup
	answered atomic.Int64 // bytes that the server has sent
	// recovering: the server is to say that it is a standby.
	recovering atomic.Bool

	mu    sync.Mutex
	links map[net.Conn]bool
	// on is asked about each statement that is to be run, by its text; it may wait.
	on func(sql string) wireAction
}

type wireAction int

const (
	forward   wireAction = iota
	cut                  // the connection, before the statement is sent on
	cutAnswer            // the connection, when the server has answered all that came with the statement, before the client hears of it
)

// tap returns a wire before the database at url, and the URL through it.
func tap(tb testing.TB, target string) (*wire, string) {
	tb.Helper()
	u, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	w := &wire{listener: l, target: u.Host, links: make(map[net.Conn]bool), on: func(string) wireAction { return forward }}
	w.running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			w.running.Go(func() { w.serve(client) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		w.mu.Lock()
		for c := range w.links {
			_ = c.Close()
		}
		w.mu.Unlock()
		w.running.Wait()
	})
	u.Host = l.Addr().String()
	return w, u.String()
}

// when has f called for each statement whose text begins with prefix, until it answers other than forward.
func (w *wire) when(prefix string, f func() wireAction) {
	var over atomic.Bool
	w.watch(func(sql string) wireAction {
		if over.Load() || !strings.HasPrefix(sql, prefix) {
			return forward
		}
		action := f()
		over.Store(action != forward)
		return action
	})
}

// watch has f called for each statement that is to be run.
func (w *wire) watch(f func(sql string) wireAction) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = f
}

func (w *wire) ask(sql string) wireAction {
	w.mu.Lock()
	on := w.on
	w.mu.Unlock()
	return on(sql)
}

func (w *wire) add(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links[c] = true
}

func (w *wire) remove(c net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.links, c)
	_ = c.Close()
}

func (w *wire) serve(client net.Conn) {
	w.add(client)
	defer w.remove(client)
	server, err := net.Dial("tcp", w.target)
	if err != nil {
		return
	}
	w.add(server)
	defer w.remove(server)
	answers := &answers{to: client, sent: &w.answered}
	w.running.Go(func() {
		_, _ = io.Copy(answers, server)
		_ = client.Close()
	})
	w.pass(client, server, answers)
}

// pass sends on what the client says, for as long as both are there.
func (w *wire) pass(client, server net.Conn, answers *answers) {
	backend := pgproto3.NewBackend(client, client)
	backend.SetMaxBodyLen(1 << 30)
	startup, err := backend.ReceiveStartupMessage()
	if err != nil {
		return
	}
	raw, err := startup.Encode(nil)
	if err != nil {
		return
	}
	if _, err := server.Write(raw); err != nil {
		return
	}
	prepared := make(map[string]string)
	for {
		msg, err := backend.Receive()
		if err != nil {
			return
		}
		action := forward
		switch m := msg.(type) {
		case *pgproto3.Parse:
			prepared[m.Name] = m.Query
		case *pgproto3.Query:
			if w.recovering.Load() && strings.Contains(m.String, "pg_is_in_recovery()") {
				m.String = "SELECT true"
			}
		case *pgproto3.Bind:
			action = w.ask(prepared[m.PreparedStatement])
		}
		switch action {
		case cut:
			return
		case cutAnswer:
			answers.holdUntilReady()
		case forward:
		}
		if raw, err = msg.Encode(raw[:0]); err != nil {
			return
		}
		if _, err := server.Write(raw); err != nil {
			return
		}
	}
}

// answers passes on what the server says, until it is told not to.
type answers struct {
	to   net.Conn
	sent *atomic.Int64

	mu   sync.Mutex
	held bool
	tail []byte
}

// holdUntilReady has no more passed on, and the connection cut once the server is ready for the next statements.
func (a *answers) holdUntilReady() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = true
}

func (a *answers) Write(p []byte) (int, error) {
	a.sent.Add(int64(len(p)))
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.held {
		return a.to.Write(p)
	}
	a.tail = append(a.tail, p...)
	if bytes.HasSuffix(a.tail, []byte{'Z', 0, 0, 0, 5, 'I'}) { // ReadyForQuery, outside of a transaction
		return 0, io.EOF
	}
	return len(p), nil
}
