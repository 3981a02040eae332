package main

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	_ "modernc.org/sqlite" // the driver of that name for database/sql

	"github.com/chatsvc/chatsvc/internal/pgtest"
)

// A database is what a server under measurement keeps its turns in.
type database interface {
	// url is what chatsvc is told to use.
	url() string
	// commits counts the transactions that have written, since some time in the past.
	commits(ctx context.Context) (int64, error)
	// cpu returns the CPU time that the database has used besides that of its clients' processes.
	cpu() (time.Duration, error)
	// measureCommit measures the least commit there is.
	measureCommit(ctx context.Context) (commitTime, error)
	close() error
}

// commitTime is how long one caller alone waits for the commit of one row of 1 KiB, begun to durable.
type commitTime struct {
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
}

// measureCommits has insert commit 200 rows one by one, or as many as it can in 3 s.
func measureCommits(insert func(id int, content []byte) error) (commitTime, error) {
	var took []time.Duration
	content := make([]byte, 1<<10)
	for begin := time.Now(); len(took) < 200 && time.Since(begin) < 3*time.Second; {
		start := time.Now()
		if err := insert(len(took), content); err != nil {
			return commitTime{}, fmt.Errorf("measuring commits: %w", err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return commitTime{P50: percentile(took, 50), P99: percentile(took, 99)}, nil
}

// sqliteFile is a SQLite database in the server's own process.
type sqliteFile struct{ path string }

func (f sqliteFile) url() string { return "sqlite:" + f.path }

// commits reads the counter of writing transactions that SQLite has in the header of the index of its write-ahead log,
// the file beside the database that all processes map (iChange, sqlite.org/walformat.html): no lock, no connection.
func (f sqliteFile) commits(context.Context) (int64, error) {
	index, err := os.Open(f.path + "-shm")
	if err != nil {
		return 0, fmt.Errorf("counting commits: %w", err)
	}
	defer func() { _ = index.Close() }() // it was only read
	var counter [4]byte
	if _, err := index.ReadAt(counter[:], 8); err != nil {
		return 0, fmt.Errorf("counting commits: %w", err)
	}
	return int64(binary.NativeEndian.Uint32(counter[:])), nil
}

// cpu is nothing: SQLite runs in its client.
func (f sqliteFile) cpu() (time.Duration, error) { return 0, nil }

// measureCommit uses a file beside the database, as durable as that.
func (f sqliteFile) measureCommit(ctx context.Context) (commitTime, error) {
	db, err := sql.Open("sqlite", "file:"+f.path+".commits?_pragma=journal_mode(wal)&_pragma=synchronous(full)")
	if err != nil {
		return commitTime{}, fmt.Errorf("measuring commits: %w", err)
	}
	defer func() { _ = db.Close() }() // nobody reads it again
	db.SetMaxOpenConns(1)
	for _, statement := range []string{"DROP TABLE IF EXISTS commits", "CREATE TABLE commits (id INTEGER PRIMARY KEY, content BLOB)"} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return commitTime{}, fmt.Errorf("measuring commits: %w", err)
		}
	}
	insert, err := db.PrepareContext(ctx, "INSERT INTO commits VALUES (?, ?)")
	if err != nil {
		return commitTime{}, fmt.Errorf("measuring commits: %w", err)
	}
	defer func() { _ = insert.Close() }() // as above
	return measureCommits(func(id int, content []byte) error {
		_, err := insert.ExecContext(ctx, id, content)
		return err
	})
}

func (f sqliteFile) close() error { return nil }

// postgres is a private PostgreSQL that makes commits durable.
type postgres struct {
	server *pgtest.Server
	conn   *pgx.Conn
}

// startPostgres starts one; pgtest.ErrMissing where there is none to start.
func startPostgres(ctx context.Context, o pgtest.Options) (*postgres, error) {
	o.Fsync = true
	server, err := pgtest.Launch(o)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to PostgreSQL: %w", err), server.Close())
	}
	return &postgres{server: server, conn: conn}, nil
}

func (p *postgres) url() string { return p.server.URL("postgres") }

// commits reads the next transaction id. Only transactions that write get one, and at once: pg_stat_database.xact_commit
// counts those that only read too, and up to a second late. What was rolled back after a write, and the little that
// PostgreSQL writes for itself, is in it.
func (p *postgres) commits(ctx context.Context) (n int64, err error) {
	const next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
	if err := p.conn.QueryRow(ctx, next).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting commits: %w", err)
	}
	return n, nil
}

// cpu returns the CPU time of all of PostgreSQL's processes, those that have ended too.
func (p *postgres) cpu() (total time.Duration, err error) {
	pids, err := p.server.PIDs()
	if err != nil {
		return 0, fmt.Errorf("finding PostgreSQL's processes: %w", err)
	}
	return familyCPUTime(pids)
}

func (p *postgres) measureCommit(ctx context.Context) (commitTime, error) {
	const table = "DROP TABLE IF EXISTS commits; CREATE TABLE commits (id bigint PRIMARY KEY, content bytea)"
	if _, err := p.conn.Exec(ctx, table); err != nil {
		return commitTime{}, fmt.Errorf("measuring commits: %w", err)
	}
	return measureCommits(func(id int, content []byte) error {
		_, err := p.conn.Exec(ctx, "INSERT INTO commits VALUES ($1, $2)", id, content)
		return err
	})
}

func (p *postgres) close() error {
	_ = p.conn.PgConn().Conn().Close() // the server ends whatever is left
	return p.server.Close()
}

// isPostgres reports whether a database URL is one of PostgreSQL.
func isPostgres(url string) bool { return strings.HasPrefix(url, "postgres") }
