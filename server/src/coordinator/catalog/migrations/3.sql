-- The coordinator's stamps, signed and chained, and stripes of which only the shards are known.
CREATE TABLE facts (
    number INTEGER PRIMARY KEY,
    bytes  BLOB    NOT NULL,
    copies INTEGER NOT NULL,
    stored INTEGER NOT NULL CHECK (stored IN (0, 1))
) STRICT;
CREATE INDEX facts_to_store ON facts (number) WHERE stored = 0;
CREATE INDEX stripes_without_frames ON stripes (key) WHERE frames = x'';
