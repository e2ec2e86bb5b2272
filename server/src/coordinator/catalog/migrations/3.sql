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
