-- +goose Up

-- Who may call. revision is the sequence number of the audit entry that wrote the row; readers ask for what is above the
-- one that they know.
CREATE TABLE teams (
    id       TEXT    NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    spec     BLOB    NOT NULL
) STRICT;
CREATE INDEX teams_by_revision ON teams (revision);

CREATE TABLE clients (
    team     TEXT    NOT NULL,
    id       TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    spec     BLOB    NOT NULL,
    PRIMARY KEY (team, id)
) STRICT;
CREATE INDEX clients_by_revision ON clients (revision);

-- digest is of the token, which is kept nowhere; request is what the request_id that made the key is kept as.
CREATE TABLE api_keys (
    id       TEXT    NOT NULL PRIMARY KEY,
    team     TEXT    NOT NULL,
    client   TEXT    NOT NULL,
    revision INTEGER NOT NULL,
    digest   BLOB    NOT NULL,
    request  BLOB,
    spec     BLOB    NOT NULL
) STRICT;
CREATE INDEX api_keys_by_revision ON api_keys (revision);
CREATE UNIQUE INDEX api_keys_by_request ON api_keys (request) WHERE request IS NOT NULL;

-- hash is of the hash before it and the record, which repeats the other columns. source and reason are set for denials of
-- which one a minute is enough.
CREATE TABLE audit (
    sequence INTEGER NOT NULL PRIMARY KEY CHECK (sequence > 0),
    time     INTEGER NOT NULL,
    team     TEXT,
    source   TEXT,
    reason   TEXT,
    hash     BLOB    NOT NULL,
    record   BLOB    NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (time, sequence);
CREATE INDEX audit_by_team ON audit (team, sequence) WHERE team IS NOT NULL;
CREATE INDEX audit_by_denial ON audit (source, reason, time) WHERE source IS NOT NULL;

-- The last entry. Whoever writes one of the tables above locks this row first.
CREATE TABLE audit_head (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    sequence INTEGER NOT NULL,
    hash     BLOB    NOT NULL
) STRICT;
INSERT INTO audit_head (id, sequence, hash) VALUES (1, 0, zeroblob(32));

-- +goose Down

DROP TABLE audit_head;
DROP TABLE audit;
DROP TABLE api_keys;
DROP TABLE clients;
DROP TABLE teams;
