package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/chatsvc/chatsvc/internal/conversation"
)

// A replica is this process among those that share a PostgreSQL. It says that it lives, by a heartbeat, and takes over the
// turns of those that no longer do. That goes in two steps, each of which can be left to others: first the dead one's epoch
// is raised, so that nothing that it writes late takes effect; then whoever comes first makes turns without a living owner
// its own, some at a time. All time is the database's, but for the one rule that cannot be its: a database that was away, or
// a process, made everyone look dead, so whoever notices waits for one lease before giving others up: they may be back later than it.
type replica struct {
	db       *DB
	dialect  *postgresDialect
	log      *slog.Logger
	lease    time.Duration
	notifier *notifier

	conn *pgx.Conn // nil while there is none
	// takeFrom is when others may be given up; lastHeard is when the database was last heard of.
	takeFrom, lastHeard, lastBeat time.Time
	// held are the dead whose row was locked in the last round, most likely by a session that they left.
	held   map[conversation.ID]bool
	rounds int
	away   bool // the database could not be reached in the last round
}

func newReplica(db *DB, d *postgresDialect, lease time.Duration) *replica {
	now := time.Now()
	return &replica{
		db: db, dialect: d, log: db.log, lease: lease, notifier: newNotifier(d.server, db.log),
		takeFrom: now.Add(lease), lastHeard: now, lastBeat: now,
	}
}

// run says that this process lives and takes turns over, until ctx ends.
func (r *replica) run(ctx context.Context) {
	wake, stop := r.db.hub.subscribe(dutiesID) // somebody may just have given up its turns
	defer stop()
	tick := time.NewTicker(r.lease / 6)
	defer tick.Stop()
	defer r.drop()
	for {
		r.round(ctx)
		again := time.After(lookPause)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			continue
		case <-wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		}
	}
}

// round is one look at the others.
func (r *replica) round(ctx context.Context) {
	o := r.dialect.ownership.current()
	if o.epoch == noEpoch {
		return
	}
	hadConn := r.conn != nil
	err := r.look(ctx, o)
	if err != nil && hadConn && ctx.Err() == nil {
		// That a connection has broken says little. A new one tells whether the database is away.
		r.drop()
		r.dialect.server.lost()
		err = r.look(ctx, o)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.takeFrom = time.Now().Add(r.lease)
		if !r.away {
			r.log.WarnContext(ctx, "the database does not hear that this replica lives", slog.Any("error", err))
		}
		r.away = true
		r.drop()
		r.dialect.server.lost()
		return
	}
	if r.away {
		r.log.InfoContext(ctx, "the database is back")
		r.away = false
	}
}

// heard is told when the database was asked, when it answered, and about how long that takes at the moment. If it was away
// meanwhile, or this process was, nobody is given up for a lease. The time on the way does not count, however long it is.
func (r *replica) heard(asked, answered time.Time, usual time.Duration) {
	if asked.Sub(r.lastHeard) > r.lease/2 || answered.Sub(asked)-usual > r.lease/3 {
		r.takeFrom = answered.Add(r.lease)
	}
	r.lastHeard = answered
}

// ask has the database asked by f, and heard of.
func (r *replica) ask(f func() error) error {
	usual, asked := time.Duration(r.dialect.server.roundTrip.Load()), time.Now()
	err := f()
	if err == nil {
		r.heard(asked, time.Now(), usual)
	}
	return err
}

func (r *replica) drop() {
	if r.conn != nil {
		hangUp(r.conn)
		r.conn = nil
	}
}

const (
	beat = `UPDATE replicas SET heartbeat = clock_timestamp() WHERE id = $1 AND epoch = $2`

	others = `SELECT id, heartbeat < clock_timestamp() - $2 * interval '1 second' FROM replicas
WHERE id <> $1 AND heartbeat > '-infinity'`

	anyOrphans = `SELECT EXISTS (SELECT 1 FROM running r WHERE NOT EXISTS (SELECT 1 FROM replicas p WHERE p.id = r.owner AND p.epoch = r.epoch))
	OR EXISTS (SELECT 1 FROM running r WHERE ` + leftByCallers + `)`

	// A group of the dead one that is under way holds its row. It is left for the next round then.
	raiseEpochs = `WITH dead AS MATERIALIZED (
	SELECT id FROM replicas WHERE id <> $1 AND heartbeat > '-infinity' AND heartbeat < clock_timestamp() - $2 * interval '1 second'
	FOR UPDATE SKIP LOCKED
)
UPDATE replicas SET epoch = replicas.epoch + 1, heartbeat = '-infinity' FROM dead WHERE replicas.id = dead.id RETURNING replicas.id`

	// Who was given up meanwhile takes nothing. The dead are found first, because a row that another has just taken is looked
	// at again with what was found for it: that it is an orphan would still be true, that it is a dead one's is not.
	takeOrphans = `WITH me AS MATERIALIZED (SELECT id FROM replicas WHERE id = $1 AND epoch = $2 FOR KEY SHARE),
dead AS MATERIALIZED (
	SELECT DISTINCT r.owner, r.epoch FROM running r
	WHERE EXISTS (SELECT 1 FROM me) AND NOT EXISTS (SELECT 1 FROM replicas p WHERE p.id = r.owner AND p.epoch = r.epoch)
),
orphans AS MATERIALIZED (
	SELECT r.turn FROM running r JOIN dead d ON d.owner = r.owner AND d.epoch = r.epoch LIMIT $3 FOR UPDATE OF r SKIP LOCKED
)
UPDATE running SET owner = $1, epoch = $2, takeovers = running.takeovers + 1 FROM orphans WHERE running.turn = orphans.turn`

	// Epochs of a process that comes back later go on from the one that it knows.
	forgetReplicas = `DELETE FROM replicas p
WHERE p.heartbeat = '-infinity' AND p.id <> $1 AND NOT EXISTS (SELECT 1 FROM running r WHERE r.owner = p.id)`
	forgetOutcomes = `DELETE FROM outcomes o WHERE NOT EXISTS (SELECT 1 FROM replicas p WHERE p.id = o.replica)`

	endSessions = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid()`
)

const (
	takeAtOnce   = 1000
	forgetRounds = 300
)

func (r *replica) look(ctx context.Context, o owner) error {
	if r.conn == nil {
		conn, err := r.dialect.server.dial(ctx)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		r.conn = conn
	}
	soon, cancel := context.WithTimeout(ctx, r.dialect.server.limit())
	defer cancel()
	start := time.Now()
	var dead []conversation.ID
	var orphans bool
	err := r.ask(func() (err error) {
		dead, orphans, err = r.survey(soon, o)
		return err
	})
	r.dialect.server.observe(time.Since(start))
	if _, fenced := errors.AsType[*fencedError](err); fenced {
		r.log.WarnContext(ctx, "this replica had been given up for dead; its turns may be others' now")
		r.takeFrom = time.Now().Add(r.lease)
		if err := r.dialect.reown(ctx, o); err != nil {
			return err
		}
		r.db.hub.wake([]conversation.ID{dutiesID})
		return nil
	}
	if err != nil {
		return err
	}
	retired := r.db.retired.Load()
	if retired {
		dead = nil
	}
	if len(dead) > 0 && !time.Now().Before(r.takeFrom) {
		if err := r.ask(func() error { return r.giveUpOn(soon, o, dead) }); err != nil {
			return err
		}
		orphans = true
	}
	if orphans {
		if !retired {
			if err := r.take(ctx, o); err != nil {
				return err
			}
		}
		if err := r.forgetCallers(soon); err != nil {
			return err
		}
	}
	if r.rounds++; r.rounds%forgetRounds == 0 {
		var b pgx.Batch
		b.Queue(forgetReplicas, pgUUID(o.id))
		b.Queue(forgetOutcomes)
		if err := r.conn.SendBatch(soon, &b).Close(); err != nil {
			return fmt.Errorf("forget old replicas: %w", err)
		}
	}
	return nil
}

// survey sends the heartbeat, if it is time, and finds out about the others: all in one round trip.
func (r *replica) survey(ctx context.Context, o owner) (dead []conversation.ID, orphans bool, err error) {
	var b pgx.Batch
	now := time.Now()
	beats := now.Sub(r.lastBeat) >= r.lease/3-r.lease/12 // not a round later because of a tick that came early
	if beats {
		b.Queue(beat, pgUUID(o.id), o.epoch)
	}
	b.Queue(others, pgUUID(o.id), r.lease.Seconds())
	b.Queue(anyOrphans)
	results := r.conn.SendBatch(ctx, &b)
	defer func() { err = errors.Join(err, results.Close()) }()
	if beats {
		tag, err := results.Exec()
		switch {
		case err != nil:
			return nil, false, fmt.Errorf("heartbeat: %w", err)
		case tag.RowsAffected() == 0:
			return nil, false, &fencedError{o}
		}
		r.lastBeat = now
	}
	rows, err := results.Query()
	alive := 0
	if err == nil {
		err = eachRow(rows, func(row row) error {
			var id conversation.ID
			var late bool
			if err := row.Scan((*idColumn)(&id), &late); err != nil {
				return err
			}
			if late {
				dead = append(dead, id)
			} else {
				alive++
			}
			return nil
		})
	}
	if err == nil {
		err = results.QueryRow().Scan(&orphans)
	}
	if err != nil {
		return nil, false, fmt.Errorf("look for the others: %w", err)
	}
	r.notifier.alone.Store(alive+len(dead) == 0)
	return dead, orphans, nil
}

// giveUpOn raises the epochs of the dead.
func (r *replica) giveUpOn(ctx context.Context, o owner, dead []conversation.ID) error {
	rows, err := r.conn.Query(ctx, raiseEpochs, pgUUID(o.id), r.lease.Seconds())
	gone := make(map[conversation.ID]bool)
	if err == nil {
		err = eachRow(rows, func(row row) error {
			var id conversation.ID
			err := row.Scan((*idColumn)(&id))
			gone[id] = true
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("give up on the dead: %w", err)
	}
	held := make(map[conversation.ID]bool)
	for _, id := range dead {
		switch {
		case gone[id]:
			r.log.WarnContext(ctx, "another replica has not said for a lease that it lives, and is given up",
				slog.String("replica", sessionName(id)))
		case r.held[id]:
			// A session that waits for the rest of a message idles, but not by PostgreSQL's count.
			if _, err := r.conn.Exec(ctx, endSessions, sessionName(id)); err != nil {
				return fmt.Errorf("end the sessions of the dead: %w", err)
			}
		default:
			held[id] = true
		}
	}
	r.held = held
	return nil
}

// take makes turns without a living owner this one's. Duties finds them.
func (r *replica) take(ctx context.Context, o owner) error {
	for {
		ctx, cancel := context.WithTimeout(ctx, r.dialect.server.limit())
		var tag pgconn.CommandTag
		err := r.ask(func() (err error) {
			tag, err = r.conn.Exec(ctx, takeOrphans, pgUUID(o.id), o.epoch, takeAtOnce)
			return err
		})
		cancel()
		if err != nil {
			return fmt.Errorf("take turns over: %w", err)
		}
		n := tag.RowsAffected()
		if n > 0 {
			r.log.InfoContext(ctx, "turns were taken over", slog.Int64("turns", n))
			r.db.hub.wake([]conversation.ID{dutiesID})
		}
		if n < takeAtOnce {
			return nil
		}
	}
}

// giveUp ends the epoch of o, which this process has been, and tells the others.
func (r *replica) giveUp(ctx context.Context, o owner) error {
	ctx, cancel := context.WithTimeout(ctx, maxConnect)
	defer cancel()
	conn, err := r.dialect.server.dial(ctx)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	// It waits for the group of this process that is under way, longer than others do for a lock.
	if _, err := conn.Exec(ctx, `SET lock_timeout = '2s'`, pgx.QueryExecModeExec); err != nil {
		return fmt.Errorf("end the epoch: %w", err)
	}
	if _, err := conn.Exec(ctx, endEpoch, pgx.QueryExecModeExec, pgUUID(o.id), o.epoch); err != nil {
		return fmt.Errorf("end the epoch: %w", err)
	}
	if _, err := conn.Exec(ctx, notify, pgx.QueryExecModeExec, encodeIDs([]conversation.ID{dutiesID})); err != nil {
		return fmt.Errorf("tell the others: %w", err)
	}
	return nil
}

const endEpoch = `WITH me AS MATERIALIZED (SELECT id FROM replicas WHERE id = $1 AND epoch = $2 FOR UPDATE)
UPDATE replicas SET epoch = replicas.epoch + 1, heartbeat = '-infinity' FROM me WHERE replicas.id = me.id`

// pgUUID is id as an argument.
func pgUUID(id conversation.ID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }
