-- Repair, modes of servers, comparison with what servers hold.
ALTER TABLE meta ADD COLUMN whole_since_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE servers ADD COLUMN lost INTEGER NOT NULL DEFAULT 0 CHECK (lost IN (0, 1));
ALTER TABLE servers ADD COLUMN mode TEXT NOT NULL DEFAULT 'normal'
    CHECK (mode IN ('normal', 'draining', 'read-only'));
ALTER TABLE stripes ADD COLUMN surplus INTEGER NOT NULL DEFAULT 0;
UPDATE stripes SET surplus =
    (SELECT count(*) - count(DISTINCT idx) FROM shards WHERE stripe = key);
CREATE INDEX stripes_with_surplus ON stripes (key) WHERE surplus > 0;
CREATE TABLE repairs (
    stripe   INTEGER PRIMARY KEY REFERENCES stripes (key),
    state    TEXT    NOT NULL CHECK (state IN ('waiting', 'failed', 'unknown', 'repaired')),
    found_ms INTEGER NOT NULL,
    tried_ms INTEGER,
    attempts INTEGER NOT NULL,
    due_ms   INTEGER NOT NULL,
    why      TEXT
) STRICT;
CREATE INDEX repairs_by_state ON repairs (state, due_ms);
CREATE TABLE settings (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE tombstones (
    server     INTEGER NOT NULL REFERENCES servers (id),
    stripe     BLOB    NOT NULL CHECK (length(stripe) = 32),
    idx        INTEGER NOT NULL,
    ordered_ms INTEGER NOT NULL,
    PRIMARY KEY (server, stripe, idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstones_by_stripe ON tombstones (stripe);
