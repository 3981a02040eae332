package main

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/chatsvc/chatsvc/internal/pgtest"
)

// commitsOf returns how many commits of db are counted while f runs.
func commitsOf(t *testing.T, db database, f func()) int64 {
	t.Helper()
	before, err := db.commits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f()
	after, err := db.commits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return after - before
}

func TestCommitsOfSQLiteAreCounted(t *testing.T) {
	file := sqliteFile{path: filepath.Join(t.TempDir(), "some.db")}
	if _, err := file.commits(t.Context()); err == nil {
		t.Error("commits of a database that is not there")
	}
	db, err := sql.Open("sqlite", "file:"+file.path+"?_pragma=journal_mode(wal)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1)
	exec := func(statement string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	exec("CREATE TABLE numbers (n)")
	if got := commitsOf(t, file, func() {
		for n := range 7 {
			exec(fmt.Sprintf("BEGIN; INSERT INTO numbers VALUES (%d); INSERT INTO numbers VALUES (%[1]d); COMMIT", n))
			exec("SELECT * FROM numbers")
		}
		exec("PRAGMA wal_checkpoint(TRUNCATE)")
		exec("INSERT INTO numbers VALUES (0)")
		exec("BEGIN; INSERT INTO numbers VALUES (0); ROLLBACK")
	}); got != 8 {
		t.Errorf("8 transactions that wrote are counted as %d", got)
	}
	commitsAreMeasured(t, file)
}

func TestCommitsAndCPUOfPostgresAreCounted(t *testing.T) {
	if !supported {
		t.Skip("skipped: measuring needs Linux")
	}
	db, err := startPostgres(t.Context(), pgtest.Options{Settings: map[string]string{"autovacuum": "off"}})
	if errors.Is(err, pgtest.ErrMissing) && os.Getenv("CI") != "true" {
		t.Skipf("skipped: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.close(); err != nil {
			t.Error(err)
		}
	})
	exec := func(statement string) {
		t.Helper()
		if _, err := db.conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	exec("CREATE TABLE numbers (n int)")
	if got := commitsOf(t, db, func() {
		for n := range 7 {
			exec(fmt.Sprintf("BEGIN; INSERT INTO numbers VALUES (%d); INSERT INTO numbers VALUES (%[1]d); COMMIT", n))
			exec("SELECT * FROM numbers")
		}
	}); got != 7 {
		t.Errorf("7 transactions that wrote are counted as %d", got)
	}

	before, err := db.cpu()
	if err != nil {
		t.Fatal(err)
	}
	for spent := before; spent < before+3*clockTick; {
		exec("SELECT count(*) FROM generate_series(1, 300000)")
		if spent, err = db.cpu(); err != nil {
			t.Fatal(err)
		}
		if err := t.Context().Err(); err != nil {
			t.Fatal("the server's work is not seen")
		}
	}
	commitsAreMeasured(t, db)
	if fsync := queryText(t, db, "SHOW fsync"); fsync != "on" {
		t.Errorf("fsync is %s: what is measured is not durable", fsync)
	}
}

// commitsAreMeasured checks that the least commit can be measured, and again.
func commitsAreMeasured(t *testing.T, db database) {
	t.Helper()
	for range 2 {
		took, err := db.measureCommit(t.Context())
		if err != nil || took.P50 <= 0 || took.P99 < took.P50 {
			t.Errorf("a commit is measured as %+v (%v)", took, err)
		}
	}
}

func queryText(t *testing.T, db *postgres, query string) (text string) {
	t.Helper()
	if err := db.conn.QueryRow(t.Context(), query).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}
