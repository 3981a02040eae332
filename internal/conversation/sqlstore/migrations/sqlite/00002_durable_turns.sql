-- +goose Up

-- When the conversation is deleted by itself; 0 for never.
ALTER TABLE conversations ADD COLUMN expire_time INTEGER NOT NULL DEFAULT 0;
CREATE INDEX conversations_by_expiry ON conversations (expire_time, id) WHERE expire_time > 0;

-- tip is, for a main line, the branch on which its next messages go: the line itself until another head is selected, then
-- a branch that grows out of that.
ALTER TABLE branches ADD COLUMN tip BLOB;
UPDATE branches SET tip = id WHERE id = conversation;
-- Those of conversations whose deletion has begun were removed first; now they go last.
INSERT INTO branches (id, conversation, fork_position, head_position, head_tokens, version, update_time, tip)
SELECT d.conversation, d.conversation, 0, 0, 0, 1, d.create_time, d.conversation FROM deletions d
WHERE NOT EXISTS (SELECT 1 FROM branches b WHERE b.id = d.conversation);
CREATE INDEX branches_by_parent ON branches (parent, fork_position) WHERE parent IS NOT NULL;
CREATE INDEX branches_by_conversation ON branches (conversation);

-- The sum of the tokens up to the end of the turn's messages, once it ended.
ALTER TABLE turns ADD COLUMN end_tokens INTEGER NOT NULL DEFAULT 0;
UPDATE turns SET end_tokens = coalesce((
    SELECT m.tokens_before + m.tokens FROM messages m
    WHERE m.branch = turns.branch AND m.position = turns.position + turns.inputs + turns.outputs - 1
), 0) WHERE state > 2;
CREATE INDEX one_shots ON turns (id) WHERE conversation IS NULL;
CREATE INDEX turns_by_request ON turns (team, request_id, id) WHERE request_id IS NOT NULL;

-- The turns that run or wait. line is set for the one that runs on the main line of its conversation, and queue and ticket
-- for those that wait there, by rising ticket. The input stands on branch from start on; the output is to go to
-- position, and tokens is the sum of what stands before it. counted is 1 where callers says who reads the turn;
-- overrides and deadline are for whoever takes it over.
CREATE TABLE running_2 (
    turn         BLOB    NOT NULL PRIMARY KEY,
    team         TEXT    NOT NULL,
    conversation BLOB,
    line         BLOB,
    queue        BLOB,
    ticket       INTEGER NOT NULL,
    owner        BLOB    NOT NULL,
    epoch        INTEGER NOT NULL,
    branch       BLOB    NOT NULL,
    start        INTEGER NOT NULL,
    position     INTEGER NOT NULL,
    tokens       INTEGER NOT NULL,
    counted      INTEGER NOT NULL,
    cancel       INTEGER NOT NULL,
    takeovers    INTEGER NOT NULL,
    deadline     INTEGER NOT NULL,
    overrides    BLOB
) STRICT, WITHOUT ROWID;
INSERT INTO running_2
SELECT r.turn, r.team, r.line, r.line, NULL, 0, r.owner, r.epoch, coalesce(r.line, r.turn), r.start, r.position, r.tokens,
       0, 0, 0, 0, NULL
FROM running r;
DROP TABLE running;
ALTER TABLE running_2 RENAME TO running;
CREATE UNIQUE INDEX running_by_line ON running (line) WHERE line IS NOT NULL;
CREATE INDEX running_by_conversation ON running (conversation) WHERE conversation IS NOT NULL;
CREATE INDEX running_by_ticket ON running (queue, ticket) WHERE queue IS NOT NULL;

-- The processes in which callers read a running turn as its creators, for turns with a request id that are to be cancelled
-- when the last one leaves.
CREATE TABLE callers (
    turn    BLOB NOT NULL,
    replica BLOB NOT NULL,
    PRIMARY KEY (turn, replica)
) STRICT, WITHOUT ROWID;

-- Whose a request id is.
CREATE TABLE claims (
    team        TEXT    NOT NULL,
    request_id  BLOB    NOT NULL,
    turn        BLOB    NOT NULL,
    fingerprint BLOB    NOT NULL,
    create_time INTEGER NOT NULL,
    PRIMARY KEY (team, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_by_time ON claims (create_time);

-- The log of a turn, some events a row: those with the sequence numbers from first to last.
CREATE TABLE events (
    turn  BLOB    NOT NULL,
    first INTEGER NOT NULL,
    last  INTEGER NOT NULL,
    data  BLOB    NOT NULL,
    PRIMARY KEY (turn, first)
) STRICT;

-- How far each kind of pruning has come.
CREATE TABLE retention (
    name   TEXT NOT NULL PRIMARY KEY,
    cursor BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The lowest version of the schema that a program must know to use this one.
CREATE TABLE schema (
    id          INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    min_program INTEGER NOT NULL
) STRICT;
INSERT INTO schema (id, min_program) VALUES (1, 2);

-- +goose Down

DROP TABLE schema;
DROP TABLE retention;
DROP TABLE events;
DROP TABLE claims;
DROP TABLE callers;
DROP INDEX running_by_ticket;
DROP INDEX running_by_conversation;
DROP INDEX running_by_line;
ALTER TABLE running RENAME TO running_2;
CREATE TABLE running (
    turn     BLOB    NOT NULL PRIMARY KEY,
    line     BLOB,
    team     TEXT    NOT NULL,
    owner    BLOB    NOT NULL,
    epoch    INTEGER NOT NULL,
    start    INTEGER NOT NULL,
    position INTEGER NOT NULL,
    tokens   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO running SELECT turn, line, team, owner, epoch, start, position, tokens FROM running_2;
DROP TABLE running_2;
CREATE UNIQUE INDEX running_by_line ON running (line) WHERE line IS NOT NULL;
DROP INDEX turns_by_request;
DROP INDEX one_shots;
ALTER TABLE turns DROP COLUMN end_tokens;
DROP INDEX branches_by_conversation;
DROP INDEX branches_by_parent;
ALTER TABLE branches DROP COLUMN tip;
DROP INDEX conversations_by_expiry;
ALTER TABLE conversations DROP COLUMN expire_time;
