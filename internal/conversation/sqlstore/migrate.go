package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations
var migrations embed.FS

// A schema is the migrations of an engine. Its version is the number of the last one.
type schema struct {
	dialect goose.Dialect
	dir     string
	// exists is the query whether there is one; goose would make its table to find out.
	exists  string
	options func() ([]goose.ProviderOption, error)
}

var (
	sqliteSchema = schema{
		goose.DialectSQLite3, "migrations/sqlite", `SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'goose_db_version')`,
		func() ([]goose.ProviderOption, error) { return nil, nil },
	}

	// Two that migrate at the same time wait for each other.
	postgresSchema = schema{
		goose.DialectPostgres, "migrations/postgres", `SELECT to_regclass('goose_db_version') IS NOT NULL`,
		func() ([]goose.ProviderOption, error) {
			locker, err := lock.NewPostgresSessionLocker()
			return []goose.ProviderOption{goose.WithSessionLocker(locker)}, err
		},
	}
)

func (s schema) provider(db *sql.DB, log *slog.Logger) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, s.dir)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	options, err := s.options()
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	p, err := goose.NewProvider(s.dialect, db, files, append(options, goose.WithSlog(log), goose.WithDisableGlobalRegistry(true))...)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return p, nil
}

// schemaVersions returns the version that the database has, 0 if none, and the one that this program knows. A newer schema
// that this program cannot use is an error.
func schemaVersions(ctx context.Context, s schema, db *sql.DB) (have, want int64, err error) {
	p, err := s.provider(db, slog.New(slog.DiscardHandler))
	if err != nil {
		return 0, 0, err
	}
	sources := p.ListSources()
	want = sources[len(sources)-1].Version
	var exists bool
	if err := db.QueryRowContext(ctx, s.exists).Scan(&exists); err != nil || !exists {
		return 0, want, err
	}
	if have, want, err = p.GetVersions(ctx); err != nil {
		return 0, 0, fmt.Errorf("read schema version: %w", err)
	}
	if have <= want {
		return have, want, nil
	}
	var least int64
	if err := db.QueryRowContext(ctx, `SELECT min_program FROM schema`).Scan(&least); err != nil {
		return 0, 0, fmt.Errorf("read which programs may use schema version %d: %w", have, err)
	}
	if least > want {
		return have, want, fmt.Errorf("its schema is version %d, but this program knows only up to %d: run a newer one", have, want)
	}
	return have, want, nil
}

// migrate brings the schema up to date; one that is newer than this program it leaves.
func migrate(ctx context.Context, s schema, db *sql.DB, log *slog.Logger) (from, to int64, err error) {
	p, err := s.provider(db, log)
	if err != nil {
		return 0, 0, err
	}
	have, want, err := schemaVersions(ctx, s, db)
	if err != nil || have >= want {
		return have, have, err
	}
	if _, err := p.Up(ctx); err != nil {
		return have, have, fmt.Errorf("migrate: %w", err)
	}
	return have, want, nil
}

// errOldSchema: the schema has to be migrated first.
var errOldSchema = errors.New("run `chatsvc migrate up` first")

// checkSchema refuses a schema that this program cannot use: an older one, or a newer one that says so.
func checkSchema(ctx context.Context, s schema, db *sql.DB) error {
	have, want, err := schemaVersions(ctx, s, db)
	if err != nil {
		return err
	}
	if have < want {
		return fmt.Errorf("its schema is version %d, and this program needs %d: %w", have, want, errOldSchema)
	}
	return nil
}

// MigrateSQLite brings the schema of the database file at path up to date, and returns its version before and after.
// OpenSQLite does the same.
func MigrateSQLite(ctx context.Context, path string, o Options) (from, to int64, err error) {
	o = o.withDefaults()
	err = withSQLite(path, func(db *sql.DB) (err error) {
		from, to, err = migrate(ctx, sqliteSchema, db, o.Logger)
		return err
	})
	return from, to, err
}

// SQLiteSchema returns the version of the schema of the database file at path, 0 if there is none, and the one that this
// program knows. It makes no file.
func SQLiteSchema(ctx context.Context, path string) (have, want int64, err error) {
	look := func(db *sql.DB) (err error) {
		have, want, err = schemaVersions(ctx, sqliteSchema, db)
		return err
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		err = withSQLite(path, look)
		return have, want, err
	}
	empty, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return 0, 0, err
	}
	err = errors.Join(look(empty), empty.Close())
	return have, want, err
}

// withSQLite calls f with the database file at path, which no other process has meanwhile.
func withSQLite(path string, f func(*sql.DB) error) (err error) {
	file, err := openSQLiteFile(path)
	if err != nil {
		return fmt.Errorf("open database %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, file.close()) }()
	db, err := file.pool(writerParams(), 1)
	if err == nil {
		err = f(db)
	}
	if err != nil {
		return fmt.Errorf("database %s: %w", path, err)
	}
	return nil
}

// MigratePostgres brings the schema of the database at url up to date, and returns its version before and after.
func MigratePostgres(ctx context.Context, url string, o Options) (from, to int64, err error) {
	o = o.withDefaults()
	config, err := parsePostgres(url)
	if err != nil {
		return 0, 0, err
	}
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	if from, to, err = migrate(ctx, postgresSchema, db, o.Logger); err != nil {
		return from, to, fmt.Errorf("database %s: %w", describe(config), decisive(err))
	}
	if err := makePartitions(ctx, db); err != nil {
		o.Logger.WarnContext(ctx, "partitions are left to be made by a server", slog.Any("error", err))
	}
	return from, to, nil
}

// PostgresSchema returns the version of the schema of the database at url, 0 if it has none, and the one that this program
// knows.
func PostgresSchema(ctx context.Context, url string) (have, want int64, err error) {
	config, err := parsePostgres(url)
	if err != nil {
		return 0, 0, err
	}
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	if have, want, err = schemaVersions(ctx, postgresSchema, db); err != nil {
		return 0, 0, fmt.Errorf("database %s: %w", describe(config), decisive(err))
	}
	return have, want, nil
}
