-- +goose Up

-- Times are nanoseconds since 1970, 0 where there is none yet; ids 16 bytes. What callers write is a BLOB, also where it
-- is text: PostgreSQL's text refuses U+0000. Wide columns stand last, so that reading the others does not walk their
-- overflow pages.

CREATE TABLE conversations (
    id           BLOB    NOT NULL PRIMARY KEY,
    team         TEXT    NOT NULL,
    spec_version INTEGER NOT NULL,
    create_time  INTEGER NOT NULL,
    update_time  INTEGER NOT NULL, -- of the spec
    spec         BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX conversations_by_team ON conversations (team, id);

-- A branch is a sequence of messages that grows out of its parent at fork_position. A conversation's main line is the
-- branch with the conversation's id. The row is rewritten at the end of each turn of the line, so it is small.
CREATE TABLE branches (
    id            BLOB    NOT NULL PRIMARY KEY,
    conversation  BLOB    NOT NULL,
    parent        BLOB,
    fork_position INTEGER NOT NULL,
    head_turn     BLOB,
    head_position INTEGER NOT NULL,
    head_tokens   INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    update_time   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The input of a running turn stands behind the head of its line. If the turn ends without an answer, its messages move
-- to a branch of its own with the turn's id; the messages of a one-shot turn are there from the start.
CREATE TABLE messages (
    branch        BLOB    NOT NULL,
    position      INTEGER NOT NULL,
    id            BLOB    NOT NULL,
    turn          BLOB    NOT NULL,
    role          INTEGER NOT NULL,
    tokens        INTEGER NOT NULL,
    tokens_before INTEGER NOT NULL,
    content       BLOB    NOT NULL,
    PRIMARY KEY (branch, position)
) STRICT;

-- The messages of a turn are those of its branch from position on: first the inputs, then the outputs.
CREATE TABLE turns (
    team          TEXT    NOT NULL,
    id            BLOB    NOT NULL,
    client        TEXT    NOT NULL,
    conversation  BLOB,
    parent        BLOB,
    branch        BLOB    NOT NULL,
    position      INTEGER NOT NULL,
    inputs        INTEGER NOT NULL,
    outputs       INTEGER NOT NULL,
    state         INTEGER NOT NULL,
    on_disconnect INTEGER NOT NULL,
    trace_id      BLOB,
    create_time   INTEGER NOT NULL,
    end_time      INTEGER NOT NULL DEFAULT 0,
    request_id    BLOB,
    labels        BLOB,
    result        BLOB    NOT NULL,
    PRIMARY KEY (team, id)
) STRICT;

CREATE INDEX turns_by_conversation ON turns (conversation, id) WHERE conversation IS NOT NULL;

-- The turns that run, apart from the large table, which so has no index on a column that changes. line is the
-- conversation whose main line the turn is on, NULL for a one-shot. The output is to go to position, and tokens is the
-- sum of what stands before it.
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

CREATE UNIQUE INDEX running_by_line ON running (line) WHERE line IS NOT NULL;

-- The conversations that are deleted, but whose turns and messages have not all been removed yet. Readers of turns look
-- here, and nearly always find it empty.
CREATE TABLE deletions (
    conversation BLOB    NOT NULL PRIMARY KEY,
    create_time  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row that is rewritten to find out whether the database can be written.
CREATE TABLE probe (
    id   INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    time INTEGER NOT NULL
) STRICT;

-- +goose Down

DROP TABLE probe;
DROP TABLE deletions;
DROP TABLE running;
DROP TABLE turns;
DROP TABLE messages;
DROP TABLE branches;
DROP TABLE conversations;
