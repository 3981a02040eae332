package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// The limits of every session, so that whoever stops in the middle of a transaction holds others up for two seconds at most. A
// session with long round trips may idle for as long as they take, see postgresDialect.connect. One that stops in the middle of
// a message is not idle to PostgreSQL: who waits for its locks ends it, see endStuck, and so waits less than it may idle.
const (
	idleInTransaction = time.Second
	lockTimeout       = 750 * time.Millisecond
	statementTimeout  = 8 * time.Second
)

// endStuck ends the sessions of the store, in whatever process, that have written something, and then have waited for longer
// than a session may idle for the rest of a message, or for somebody to read an answer. Their process stands still or their
// connection is lost; if neither is so, the group is run again.
const endStuck = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE '` + sessionPrefix + `%' AND backend_xid IS NOT NULL
AND state = 'active' AND wait_event_type = 'Client' AND query_start < clock_timestamp() - $1 * interval '1 second'`

// readTimeout is how long a read may take in all, which holds up nobody: all keys there are can be many.
const readTimeout = 20 * time.Second

// maxConnect is the longest that is waited for a connection, and outcomeLimit for the outcome of a transaction.
const (
	maxConnect   = 10 * time.Second
	outcomeLimit = 10 * time.Second
)

// OpenPostgres opens the database at url, whose schema must be up to date: MigratePostgres makes it so. Other processes may
// have it open at the same time, and share the turns with this one. A host list in url is for failover.
func OpenPostgres(ctx context.Context, url string, o Options) (*DB, error) {
	o = o.withDefaults()
	server, err := newPostgresServer(url, o.patience)
	if err != nil {
		return nil, err
	}
	db, err := openPostgres(ctx, server, o)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", describe(server.config), decisive(err))
	}
	return db, nil
}

func openPostgres(ctx context.Context, server *postgresServer, o Options) (_ *DB, err error) {
	own := newOwnership()
	// A name of its own for each process, by which the sessions of a dead one can be found.
	server.config.RuntimeParams["application_name"] = sessionName(own.current().id)
	config := server.config.Copy()
	config.RuntimeParams["default_transaction_read_only"] = "on"
	config.RuntimeParams["statement_timeout"] = milliseconds(readTimeout)
	readers := stdlib.OpenDB(*config, stdlib.OptionShouldPing(func(context.Context, stdlib.ShouldPingParams) bool {
		return false // see DB.read
	}))
	readers.SetMaxOpenConns(2 * readConns)
	readers.SetMaxIdleConns(2 * readConns) // to make a session costs more than hundreds of reads
	defer func() {
		if err != nil {
			_ = readers.Close() // what went wrong first says more
		}
	}()
	if err := checkSchema(ctx, postgresSchema, readers); err != nil {
		return nil, err
	}
	d := &postgresDialect{server: server, ownership: own}
	if err := d.register(ctx, own.current()); err != nil {
		return nil, err
	}
	o.Logger.InfoContext(ctx, "this replica uses the database", slog.String("replica", sessionName(own.current().id)))
	db := newDB(d, readers, own, o)
	_ = makePartitions(ctx, readers) // if it fails, the keeper tries again at once, and says so
	r := newReplica(db, d, o.lease)
	db.committer.wake = func(ids []conversation.ID) {
		db.hub.wake(ids)
		r.notifier.send(ids)
	}
	db.readLimit = func() time.Duration { return server.limit() }
	db.giveUp = r.giveUp
	db.release = func() error { return readers.Close() }
	server.lost = db.forgetConnections
	db.start()
	working, end := context.WithCancel(context.Background())
	db.background.Go(func() {
		<-db.stop
		end()
	})
	for _, work := range []func(context.Context){r.run, r.notifier.run, r.listen} {
		db.background.Go(func() { work(working) })
	}
	return db, nil
}

const sessionPrefix = "chatsvc "

func sessionName(id conversation.ID) string { return fmt.Sprintf(sessionPrefix+"%x", id[:]) }

// A postgresServer is how to connect to the database. It is safe for concurrent use.
type postgresServer struct {
	config   *pgx.ConnConfig
	patience time.Duration
	// roundTrip is about how long one takes at the moment, and 0 where it is short.
	roundTrip atomic.Int64
	// latest is what the last one took that was measured, however short.
	latest atomic.Int64
	// lost is told when a connection has broken, because others may have, too.
	lost func()

	mu      sync.Mutex
	connect time.Duration // the patience with the next connection
}

func parsePostgres(url string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	// Of a host list, only the primary will do, also to read: a standby can be behind, and would hide that a key was revoked.
	config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	return config, nil
}

// describe names the database without its user and password.
func describe(c *pgx.ConnConfig) string {
	return fmt.Sprintf("%s on %s:%d", c.Database, c.Host, c.Port)
}

func newPostgresServer(url string, patience time.Duration) (*postgresServer, error) {
	config, err := parsePostgres(url)
	if err != nil {
		return nil, err
	}
	maps.Copy(config.RuntimeParams, map[string]string{
		"idle_in_transaction_session_timeout": milliseconds(idleInTransaction),
		"lock_timeout":                        milliseconds(lockTimeout),
		"statement_timeout":                   milliseconds(statementTimeout),
		// The server finds out within some ten seconds, and not hours, that the other end of a connection is gone.
		"tcp_keepalives_idle":     "5",
		"tcp_keepalives_interval": "2",
		"tcp_keepalives_count":    "3",
		"tcp_user_timeout":        "10000",
		// Every statement that runs all the time is by key. A plan that was made when a table was small is kept until its statistics
		// are renewed, which can take minutes in which it grows a lot.
		"enable_seqscan": "off",
		"jit":            "off", // where there is no index, the plan then seems to be worth compiling
	})
	config.ConnectTimeout = maxConnect
	return &postgresServer{config: config, patience: patience, connect: patience, lost: func() {}}, nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// limit is how long an answer may take.
func (s *postgresServer) limit() time.Duration {
	return s.patience + 3*time.Duration(s.roundTrip.Load())
}

// idleLimit is how long a session may idle in a transaction, whose next statements may be on their way.
func (s *postgresServer) idleLimit() time.Duration {
	return idleInTransaction + time.Duration(s.roundTrip.Load())
}

// dial makes a connection.
func (s *postgresServer) dial(ctx context.Context) (*pgx.Conn, error) {
	s.mu.Lock()
	limit := s.connect * 5 / 3 // it is some round trips, of which none has been measured yet
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := s.dialWithin(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		return conn, nil
	}
	tooShort := ctx.Err() != nil && s.connect == s.patience // perhaps
	if s.connect = s.patience; tooShort {
		s.connect *= 2
	}
	return nil, err
}

// farAway is what a round trip takes at least that is worth counting.
const farAway = 200 * time.Millisecond

func (s *postgresServer) dialWithin(ctx context.Context) (*pgx.Conn, error) {
	start := time.Now()
	conn, err := pgx.ConnectConfig(ctx, s.config)
	if err != nil {
		return nil, decisive(err)
	}
	s.observe(time.Since(start)) // at least one
	return conn, nil
}

// observe is told how long a round trip took.
func (s *postgresServer) observe(took time.Duration) {
	s.latest.Store(int64(took))
	if took < farAway {
		took = 0
	}
	s.roundTrip.Store(int64(took))
}

// hangUp closes a connection without waiting for long.
func hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // there is nothing more to do about it
}

var setLockTimeout = &statement{`SELECT set_config('lock_timeout', $1, true)`}

// waitBriefly leaves time for the round trips of a session that goes on, its write and its COMMIT: whoever gives up loses its
// place in the queue for the lock.
func (d *postgresDialect) waitBriefly(w *setWriter) {
	w.do(setLockTimeout, []any{milliseconds(headTimeout + 3*time.Duration(d.server.latest.Load()))}, nil)
}

// postgresDialect is PostgreSQL's half of the store.
type postgresDialect struct {
	server    *postgresServer
	ownership *ownership

	// group is the number of the last transaction that the committer began, as its outcome is marked with.
	group int64

	registering sync.Mutex
}

func (*postgresDialect) placeholder(b []byte, n int, typ string) []byte {
	b = strconv.AppendInt(append(b, '$'), int64(n), 10)
	if typ != "" {
		b = append(append(b, "::"...), typ...)
	}
	return b
}

func (*postgresDialect) forUpdate() string { return " FOR UPDATE" }

func (*postgresDialect) shared() bool { return true }

func (*postgresDialect) begin() *statement { return beginReadCommitted }

var beginReadCommitted = &statement{"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"}

func (d *postgresDialect) connect(ctx context.Context) (writer, error) {
	conn, err := d.server.dial(ctx)
	if err != nil {
		return nil, err
	}
	w := &postgresWriter{server: d.server, conn: conn}
	if limit := d.server.idleLimit(); limit > idleInTransaction {
		w.do(idleLonger, []any{milliseconds(limit)}, nil)
	}
	return w, nil
}

var (
	idleLonger    = &statement{`SELECT set_config('idle_in_transaction_session_timeout', $1, false)`}
	epochForGroup = &statement{`SELECT epoch FROM replicas WHERE id = $1 FOR KEY SHARE`}
	markOutcome   = &statement{`UPDATE outcomes SET groups = $2 WHERE replica = $1`}
)

// fence locks the owner's row against takers, who raise its epoch, until the end of the transaction. The mark is made now,
// so that whoever asks for the outcome later waits for the end of a transaction whose connection was lost.
func (d *postgresDialect) fence(w *setWriter, o owner) (fenced func() bool) {
	if o.epoch == noEpoch {
		d.group = 0 // and nothing is marked
		return func() bool { return false }
	}
	epoch := int64(noEpoch)
	w.do(epochForGroup, []any{o.id[:]}, func(row row) error { return row.Scan(&epoch) })
	d.group++
	w.do(markOutcome, []any{o.id[:], d.group}, nil)
	return func() bool { return epoch != o.epoch }
}

var errOutcomeUnknown = errors.New("it left no mark")

// outcome asks on connections of its own, again and again, because the database may just be starting.
func (d *postgresDialect) outcome(ctx context.Context) (committed bool, err error) {
	if d.group == 0 {
		return false, errOutcomeUnknown
	}
	ctx, cancel := context.WithTimeout(ctx, outcomeLimit)
	defer cancel()
	for {
		committed, err := d.lookForOutcome(ctx)
		if err == nil || errors.Is(err, errOutcomeUnknown) {
			return committed, err
		}
		select {
		case <-ctx.Done():
			return false, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (d *postgresDialect) lookForOutcome(ctx context.Context) (committed bool, err error) {
	conn, err := d.server.dial(ctx)
	if err != nil {
		return false, err
	}
	defer hangUp(conn)
	// The transaction may wait for what can come no more.
	_, endErr := conn.Exec(ctx, endStuck, pgx.QueryExecModeExec, d.server.idleLimit().Seconds())
	var last int64
	id := d.ownership.current().id
	err = conn.QueryRow(ctx, `SELECT groups FROM outcomes WHERE replica = $1 FOR UPDATE`, pgx.QueryExecModeExec, pgUUID(id)).Scan(&last)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, errOutcomeUnknown
	case err != nil:
		return false, errors.Join(err, endErr)
	}
	return last == d.group, nil
}

// register makes o an owner in the database, in the epoch after o's.
func (d *postgresDialect) register(ctx context.Context, o owner) error {
	conn, err := d.server.dial(ctx)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	var b pgx.Batch
	b.Queue(registerReplica, pgUUID(o.id), o.epoch)
	b.Queue(registerOutcome, pgUUID(o.id))
	ctx, cancel := context.WithTimeout(ctx, d.server.limit())
	defer cancel()
	results := conn.SendBatch(ctx, &b)
	var epoch int64
	err = errors.Join(results.QueryRow().Scan(&epoch), results.Close())
	if err != nil {
		return fmt.Errorf("register as an owner: %w", err)
	}
	if epoch != o.epoch {
		d.ownership.renew(epoch)
	}
	return nil
}

const (
	registerReplica = `INSERT INTO replicas (id, epoch, heartbeat) VALUES ($1, $2, clock_timestamp())
ON CONFLICT (id) DO UPDATE SET epoch = greatest(replicas.epoch, $2) + 1, heartbeat = clock_timestamp() RETURNING epoch`
	registerOutcome = `INSERT INTO outcomes (replica, groups) VALUES ($1, 0) ON CONFLICT (replica) DO NOTHING`
)

func (d *postgresDialect) reown(ctx context.Context, o owner) error {
	d.registering.Lock()
	defer d.registering.Unlock()
	if now := d.ownership.current(); now != o {
		return nil // the committer and the heartbeat both find out
	}
	o.epoch++ // where the row is gone, too
	return d.register(ctx, o)
}

func (*postgresDialect) committed(writer) {}

func (*postgresDialect) shrink(context.Context, writer) (more bool, err error) { return false, nil } // autovacuum does
