-- Weights of servers, the event log.
ALTER TABLE servers ADD COLUMN weight INTEGER NOT NULL DEFAULT 100
    CHECK (weight BETWEEN 1 AND 10000);
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    at_ms  INTEGER NOT NULL,
    kind   TEXT    NOT NULL,
    server TEXT,
    stripe BLOB    CHECK (length(stripe) = 32),
    text   TEXT    NOT NULL,
    times  INTEGER NOT NULL
) STRICT;
