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
