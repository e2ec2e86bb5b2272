-- The coordinator's stamps, signed and chained, and stripes of which only the shards are known.
CREATE TABLE facts (
    number INTEGER PRIMARY KEY,
    bytes  BLOB    NOT NULL,
    copies INTEGER NOT NULL,
    stored INTEGER NOT NULL CHECK (stored IN (0, 1))
) STRICT;
CREATE INDEX facts_to_store ON facts (number) WHERE stored = 0;
CREATE INDEX stripes_without_frames ON stripes (key) WHERE frames = x'';
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
-- When shards were last read whole and stripes last opened; drills.
ALTER TABLE shards ADD COLUMN read_ms INTEGER;
ALTER TABLE stripes ADD COLUMN opened_ms INTEGER;
CREATE TABLE drills (
    time_ms    INTEGER PRIMARY KEY,
    files      INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    bad_shards INTEGER NOT NULL,
    lost_files INTEGER NOT NULL,
    result     TEXT    NOT NULL
        CHECK (result IN ('well', 'repairable', 'out-of-reach', 'lost'))
) STRICT;
-- Backups of the coordinator's folder.
CREATE TABLE backups (
    record   INTEGER PRIMARY KEY REFERENCES stripes (key),
    sequence INTEGER NOT NULL,
    made_ms  INTEGER NOT NULL,
    bytes    INTEGER NOT NULL
) STRICT;
CREATE TABLE backup_stripes (
    stripe INTEGER PRIMARY KEY REFERENCES stripes (key),
    record INTEGER NOT NULL REFERENCES backups (record)
) STRICT;
