-- +goose Up

-- Who may call. revision is the sequence number of the audit entry that wrote the row; readers ask for what is above the
-- one that they know.
CREATE TABLE teams (
    id       text   NOT NULL PRIMARY KEY,
    revision bigint NOT NULL,
    spec     bytea  NOT NULL
);
CREATE INDEX teams_by_revision ON teams (revision);

CREATE TABLE clients (
    team     text   NOT NULL,
    id       text   NOT NULL,
    revision bigint NOT NULL,
    spec     bytea  NOT NULL,
    PRIMARY KEY (team, id)
);
CREATE INDEX clients_by_revision ON clients (revision);

-- digest is of the token, which is kept nowhere; request is what the request_id that made the key is kept as.
CREATE TABLE api_keys (
    id       text   NOT NULL PRIMARY KEY,
    team     text   NOT NULL,
    client   text   NOT NULL,
    revision bigint NOT NULL,
    digest   bytea  NOT NULL,
    request  bytea,
    spec     bytea  NOT NULL
);
CREATE INDEX api_keys_by_revision ON api_keys (revision);
CREATE UNIQUE INDEX api_keys_by_request ON api_keys (request) WHERE request IS NOT NULL;

-- hash is of the hash before it and the record, which repeats the other columns. source and reason are set for denials of
-- which one a minute is enough.
CREATE TABLE audit (
    sequence bigint NOT NULL PRIMARY KEY CHECK (sequence > 0),
    time     bigint NOT NULL,
    team     text,
    source   text,
    reason   text,
    hash     bytea  NOT NULL,
    record   bytea  NOT NULL
);
CREATE INDEX audit_by_time ON audit (time, sequence);
CREATE INDEX audit_by_team ON audit (team, sequence) WHERE team IS NOT NULL;
CREATE INDEX audit_by_denial ON audit (source, reason, time) WHERE source IS NOT NULL;

-- The last entry. Whoever writes one of the tables above locks this row first, so entries have no gaps, and what is written
-- becomes visible in the order of the revisions.
CREATE TABLE audit_head (
    id       bigint NOT NULL PRIMARY KEY CHECK (id = 1),
    sequence bigint NOT NULL,
    hash     bytea  NOT NULL
) WITH (fillfactor = 60);
INSERT INTO audit_head (id, sequence, hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'));

-- +goose Down

DROP TABLE audit_head;
DROP TABLE audit;
DROP TABLE api_keys;
DROP TABLE clients;
DROP TABLE teams;
