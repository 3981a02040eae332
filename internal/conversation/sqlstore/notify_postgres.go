package sqlstore

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

const (
	channel = "chatsvc"
	notify  = `SELECT pg_notify('` + channel + `', $1)`
	// notifyInterval is the least between two transactions that notify: each takes a lock of the whole database at its
	// commit. It is also why they are apart from those that write.
	notifyInterval = 50 * time.Millisecond
	// notifyIDs is what a notification has room for: 8,000 bytes, in base64.
	notifyIDs = 365
	// maxPending bounds what is kept while the database is away. Subscribers look for themselves now and then.
	maxPending = 100_000
)

// A notifier tells the other processes what this one has written. It is safe for concurrent use.
type notifier struct {
	server *postgresServer
	log    *slog.Logger
	// alone is true while there is nobody to tell.
	alone atomic.Bool
	// pid is the backend that notifies, whose notifications the listener leaves out: 0 while there is none.
	pid  atomic.Uint32
	wake chan struct{} // holds at most one

	mu      sync.Mutex
	pending map[conversation.ID]struct{}
}

func newNotifier(s *postgresServer, log *slog.Logger) *notifier {
	return &notifier{server: s, log: log, wake: make(chan struct{}, 1), pending: make(map[conversation.ID]struct{})}
}

// send never waits.
func (n *notifier) send(ids []conversation.ID) {
	if len(ids) == 0 || n.alone.Load() {
		return
	}
	n.mu.Lock()
	for _, id := range ids {
		if len(n.pending) < maxPending {
			n.pending[id] = struct{}{}
		}
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// take returns what is to be sent.
func (n *notifier) take() []conversation.ID {
	n.mu.Lock()
	defer n.mu.Unlock()
	ids := slices.Collect(maps.Keys(n.pending))
	clear(n.pending)
	return ids
}

// run sends what is pending, at most once per interval, until ctx ends. What cannot be sent is lost.
func (n *notifier) run(ctx context.Context) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			hangUp(conn)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		}
		var err error
		if conn, err = n.notify(ctx, conn, n.take()); err != nil {
			n.log.DebugContext(ctx, "other processes were not told what was written", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(notifyInterval):
		}
	}
}

// notify returns the connection to use the next time: nil after an error.
func (n *notifier) notify(ctx context.Context, conn *pgx.Conn, ids []conversation.ID) (*pgx.Conn, error) {
	if conn == nil {
		var err error
		if conn, err = n.server.dial(ctx); err != nil {
			return nil, err
		}
		n.pid.Store(conn.PgConn().PID())
	}
	ctx, cancel := context.WithTimeout(ctx, n.server.limit())
	defer cancel()
	var b pgx.Batch
	for some := range slices.Chunk(ids, notifyIDs) {
		b.Queue(notify, encodeIDs(some))
	}
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		n.pid.Store(0)
		hangUp(conn)
		return nil, fmt.Errorf("notify: %w", err)
	}
	return conn, nil
}

func encodeIDs(ids []conversation.ID) string {
	raw := make([]byte, 0, len(conversation.ID{})*len(ids))
	for i := range ids {
		raw = append(raw, ids[i][:]...)
	}
	return base64.RawStdEncoding.EncodeToString(raw)
}

// decodeIDs leaves out what is no id: anybody who may connect can notify.
func decodeIDs(payload string) []conversation.ID {
	raw, err := base64.RawStdEncoding.DecodeString(payload)
	if err != nil {
		return nil
	}
	var ids []conversation.ID
	for b := range slices.Chunk(raw, len(conversation.ID{})) {
		if len(b) == len(conversation.ID{}) {
			ids = append(ids, conversation.ID(b))
		}
	}
	return ids
}

// listenPause is how long the listener waits after an error, and listenPatience how long it listens before it makes sure
// that the connection is not dead.
const (
	listenPause    = 500 * time.Millisecond
	listenPatience = 5 * time.Second
)

// listen wakes subscribers of what other processes write, until ctx ends.
func (r *replica) listen(ctx context.Context) {
	for {
		err := r.listenOnce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(listenPause):
			r.log.DebugContext(ctx, "notifications may have been missed", slog.Any("error", err))
		}
	}
}

// listenOnce listens on one connection for as long as that holds.
func (r *replica) listenOnce(ctx context.Context) error {
	conn, err := r.dialect.server.dial(ctx)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	soon, cancel := context.WithTimeout(ctx, r.dialect.server.limit())
	defer cancel()
	if _, err := conn.Exec(soon, `LISTEN `+channel); err != nil {
		return err
	}
	r.db.hub.wakeAll() // nobody listened before
	// The others may think that they are alone, and tell nobody what they write: they look again now.
	if _, err := conn.Exec(ctx, notify, pgx.QueryExecModeExec, encodeIDs([]conversation.ID{dutiesID})); err != nil {
		return err
	}
	self := conn.PgConn().PID()
	for {
		waiting, cancel := context.WithTimeout(ctx, listenPatience)
		n, err := conn.WaitForNotification(waiting)
		late := waiting.Err() != nil
		cancel()
		switch {
		case err == nil:
			if n.Channel == channel && n.PID != self && n.PID != r.notifier.pid.Load() {
				r.db.hub.wake(decodeIDs(n.Payload))
			}
		case ctx.Err() != nil || !late || conn.IsClosed():
			return err
		default:
			ping, cancel := context.WithTimeout(ctx, r.dialect.server.limit())
			err := conn.Ping(ping)
			cancel()
			if err != nil {
				return err
			}
		}
	}
}
