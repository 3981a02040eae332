-- +goose Up

-- The same tables and columns as on SQLite. Times are nanoseconds since 1970, 0 where there is none yet. What callers write
-- is bytea, also where it is text, because text refuses U+0000. Rows that are rewritten have room beside them, so that no index
-- has to follow them.

CREATE TABLE conversations (
    id           uuid   NOT NULL PRIMARY KEY,
    team         text   NOT NULL,
    spec_version bigint NOT NULL,
    create_time  bigint NOT NULL,
    update_time  bigint NOT NULL, -- of the spec
    expire_time  bigint NOT NULL DEFAULT 0, -- when it is deleted by itself; 0 for never
    spec         bytea  NOT NULL
);

CREATE UNIQUE INDEX conversations_by_team ON conversations (team, id);
CREATE INDEX conversations_by_expiry ON conversations (expire_time, id) WHERE expire_time > 0;

-- A branch is a sequence of messages that grows out of its parent at fork_position. A conversation's main line is the
-- branch with the conversation's id. The row is rewritten at the end of each turn of the line, so it is small. tip is,
-- for a main line, the branch on which its next messages go: the line itself until another head is selected, then a branch
-- that grows out of that.
CREATE TABLE branches (
    id            uuid   NOT NULL PRIMARY KEY,
    conversation  uuid   NOT NULL,
    parent        uuid,
    fork_position bigint NOT NULL,
    head_turn     uuid,
    head_position bigint NOT NULL,
    head_tokens   bigint NOT NULL,
    version       bigint NOT NULL,
    update_time   bigint NOT NULL,
    tip           uuid
) WITH (fillfactor = 60);

CREATE INDEX branches_by_parent ON branches (parent, fork_position) WHERE parent IS NOT NULL;
CREATE INDEX branches_by_conversation ON branches (conversation);

-- The input of a running turn stands behind the head of its line. If the turn ends without an answer, its messages move
-- to a branch of its own with the turn's id; the messages of a one-shot turn, and the input of one that waits, are there from the
-- start.
CREATE TABLE messages (
    branch        uuid     NOT NULL,
    position      bigint   NOT NULL,
    id            uuid     NOT NULL,
    turn          uuid     NOT NULL,
    role          smallint NOT NULL,
    tokens        bigint   NOT NULL,
    tokens_before bigint   NOT NULL,
    content       bytea    NOT NULL,
    PRIMARY KEY (branch, position)
);

-- The messages of a turn are those of its branch from position on: first the inputs, then the outputs. end_tokens is the sum
-- of the tokens up to their end, once the turn ended.
CREATE TABLE turns (
    team          text     NOT NULL,
    id            uuid     NOT NULL,
    client        text     NOT NULL,
    conversation  uuid,
    parent        uuid,
    branch        uuid     NOT NULL,
    position      bigint   NOT NULL,
    inputs        bigint   NOT NULL,
    outputs       bigint   NOT NULL,
    state         smallint NOT NULL,
    on_disconnect smallint NOT NULL,
    trace_id      uuid,
    create_time   bigint   NOT NULL,
    end_time      bigint   NOT NULL DEFAULT 0,
    end_tokens    bigint   NOT NULL DEFAULT 0,
    request_id    bytea,
    labels        bytea,
    result        bytea    NOT NULL,
    PRIMARY KEY (team, id)
) WITH (fillfactor = 60);

CREATE INDEX turns_by_conversation ON turns (conversation, id) WHERE conversation IS NOT NULL;
CREATE INDEX one_shots ON turns (id) WHERE conversation IS NULL;
CREATE INDEX turns_by_request ON turns (team, request_id, id) WHERE request_id IS NOT NULL;

-- The turns that run or wait, apart from the large table, which so has no index on a column that changes. line is set for
-- the one that runs on the main line of its conversation, and queue and ticket for those that wait there, by rising ticket. The
-- input stands on branch from start on; the output is to go to position, and tokens is the sum of what stands before it.
-- counted is 1 where callers says who reads the turn; overrides and deadline are for whoever takes it over.
CREATE TABLE running (
    turn         uuid     NOT NULL PRIMARY KEY,
    team         text     NOT NULL,
    conversation uuid,
    line         uuid,
    queue        uuid,
    ticket       bigint   NOT NULL,
    owner        uuid     NOT NULL,
    epoch        bigint   NOT NULL,
    branch       uuid     NOT NULL,
    start        bigint   NOT NULL,
    position     bigint   NOT NULL,
    tokens       bigint   NOT NULL,
    counted      smallint NOT NULL,
    cancel       smallint NOT NULL,
    takeovers    bigint   NOT NULL,
    deadline     bigint   NOT NULL,
    overrides    bytea
) WITH (
    fillfactor = 60,
    -- All of its rows come and go: it is vacuumed by their number and not by its size.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000
);

CREATE UNIQUE INDEX running_by_line ON running (line) WHERE line IS NOT NULL;
CREATE INDEX running_by_conversation ON running (conversation) WHERE conversation IS NOT NULL;
CREATE INDEX running_by_ticket ON running (queue, ticket) WHERE queue IS NOT NULL;

-- The processes in which callers read a running turn as its creators, for turns with a request id that are to be cancelled
-- when the last one leaves. Those of dead processes do not count.
CREATE TABLE callers (
    turn    uuid NOT NULL,
    replica uuid NOT NULL,
    PRIMARY KEY (turn, replica)
);

-- Whose a request id is.
CREATE TABLE claims (
    team        text   NOT NULL,
    request_id  bytea  NOT NULL,
    turn        uuid   NOT NULL,
    fingerprint bytea  NOT NULL,
    create_time bigint NOT NULL,
    PRIMARY KEY (team, request_id)
);

CREATE INDEX claims_by_time ON claims (create_time);

-- The log of a turn, some events a row: those with the sequence numbers from first to last. A turn's id is the time at which
-- it was made, so a partition is the turns of some hours. The default one takes what no other does, and is nearly always empty.
CREATE TABLE events (
    turn  uuid   NOT NULL,
    first bigint NOT NULL,
    last  bigint NOT NULL,
    data  bytea  NOT NULL,
    PRIMARY KEY (turn, first)
) PARTITION BY RANGE (turn);

CREATE TABLE events_default PARTITION OF events DEFAULT;

-- The conversations that are deleted, but whose turns and messages have not all been removed yet. Readers of turns look
-- here, and nearly always find it empty.
CREATE TABLE deletions (
    conversation uuid   NOT NULL PRIMARY KEY,
    create_time  bigint NOT NULL
);

-- How far each kind of pruning has come.
CREATE TABLE retention (
    name   text NOT NULL PRIMARY KEY,
    cursor uuid NOT NULL
);

-- The processes that are owners of turns: they write heartbeat by this database's clock, and each time one is given up for
-- dead its epoch rises.
CREATE TABLE replicas (
    id        uuid        NOT NULL PRIMARY KEY,
    epoch     bigint      NOT NULL,
    heartbeat timestamptz NOT NULL
) WITH (fillfactor = 60);

-- How many transactions of a process were committed; each of them writes its number, so that one whose answer was lost can be
-- told from one that never happened.
CREATE TABLE outcomes (
    replica uuid   NOT NULL PRIMARY KEY,
    groups  bigint NOT NULL
) WITH (fillfactor = 60);

-- One row that is rewritten to find out whether the database can be written.
CREATE TABLE probe (
    id   bigint NOT NULL PRIMARY KEY CHECK (id = 1),
    time bigint NOT NULL
);

-- The lowest version of the schema that a program must know to use this one.
CREATE TABLE schema (
    id          bigint NOT NULL PRIMARY KEY CHECK (id = 1),
    min_program bigint NOT NULL
);
INSERT INTO schema (id, min_program) VALUES (1, 1);

-- +goose Down

DROP TABLE schema;
DROP TABLE probe;
DROP TABLE outcomes;
DROP TABLE replicas;
DROP TABLE retention;
DROP TABLE deletions;
DROP TABLE events;
DROP TABLE claims;
DROP TABLE callers;
DROP TABLE running;
DROP TABLE turns;
DROP TABLE messages;
DROP TABLE branches;
DROP TABLE conversations;
