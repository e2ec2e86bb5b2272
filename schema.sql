-- The coordinator's catalog (SQLite). This file is the truth: a new catalog is made of it,
-- and the program's code is written against it. The schema's version is in `user_version`.
--
-- Ids from outside are blobs; inside, stripes have small integer keys, since random primary
-- keys ruin a large table. `*_sequence` is the catalog's logical clock, the only thing that
-- orders events; `*_ms` is the coordinator's time, which leases and people go by.

-- What there is one of. The row with `only` = 1 is made with the catalog.
CREATE TABLE meta (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    vault    BLOB    NOT NULL CHECK (length(vault) = 16),
    -- The vault record, once `arc init` made one.
    record   BLOB,
    -- The fencing number, raised at every start, and above the highest that a server has seen.
    epoch    INTEGER NOT NULL,
    -- The epoch since which this catalog is complete: a copy that was older than what servers had
    -- seen knows nothing of what was committed after it was made, and must not take that for left over.
    whole_since_epoch INTEGER NOT NULL,
    -- The logical clock's last tick.
    sequence INTEGER NOT NULL,
    -- The coordinator's time at the last commit: after a restart time goes on from here
    -- even when the wall clock was set back.
    time_ms  INTEGER NOT NULL
) STRICT;

-- Who may come in. Only hashes are kept; `id` is the origin that stripes and snapshots
-- are stamped with, and outlives a new secret.
CREATE TABLE tokens (
    id   INTEGER PRIMARY KEY,
    role TEXT    NOT NULL UNIQUE CHECK (role IN ('owner', 'join')),
    hash BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- Storage servers that have joined. Whether they are up is not here: a coordinator that
-- starts has to look again; but what it gave up for lost stays so until it is back.
CREATE TABLE servers (
    id              INTEGER PRIMARY KEY,
    name            TEXT    NOT NULL UNIQUE,
    zone            TEXT    NOT NULL,
    url             TEXT    NOT NULL,
    -- Makes receipts and hellos; known to this server and the coordinator only.
    shared_key      BLOB    NOT NULL CHECK (length(shared_key) = 32),
    -- The highest start number that a hello named: a lower one is a replay.
    starts          INTEGER NOT NULL,
    capacity_bytes  INTEGER NOT NULL,
    free_bytes      INTEGER NOT NULL,
    last_seen_ms    INTEGER,
    joined_sequence INTEGER NOT NULL,
    lost            INTEGER NOT NULL CHECK (lost IN (0, 1)),
    -- What people want of it.
    mode            TEXT    NOT NULL CHECK (mode IN ('normal', 'draining', 'read-only')),
    -- Hundredths that its capacity counts for where shards are placed.
    weight          INTEGER NOT NULL DEFAULT 100 CHECK (weight BETWEEN 1 AND 10000)
) STRICT;

-- Stripes with a committed set of shards.
CREATE TABLE stripes (
    key              INTEGER PRIMARY KEY,
    id               BLOB    NOT NULL UNIQUE CHECK (length(id) = 32),
    -- codec's number: 0 data, 1 metadata, 2 snapshot, 3 record.
    kind             INTEGER NOT NULL,
    k                INTEGER NOT NULL,
    m                INTEGER NOT NULL,
    pack_bytes       INTEGER NOT NULL,
    -- Bytes of each shard's body.
    shard_bytes      INTEGER NOT NULL,
    pack_key         BLOB    NOT NULL,
    -- Five bytes a frame: its kind, then where it ends as a little-endian u32.
    frames           BLOB    NOT NULL,
    origin           INTEGER NOT NULL REFERENCES tokens (id),
    created_sequence INTEGER NOT NULL,
    -- When `have` last vouched for it: collection spares what was touched since.
    touched_sequence INTEGER NOT NULL,
    -- Raised with every change of its shards, for compare-and-swap.
    version          INTEGER NOT NULL,
    -- How many different shards of it are good, on servers that are not lost; counted again
    -- with every change of them, or of whether a server is lost.
    good             INTEGER NOT NULL,
    -- How many rows of `shards` it has beyond one for each index; counted again likewise.
    surplus          INTEGER NOT NULL,
    -- When a client last read, decoded and opened all of it; kept for `arc verify`.
    opened_ms        INTEGER
) STRICT;

-- The few stripes that lack shards, so that no push counts those of all others.
CREATE INDEX stripes_below_target ON stripes (key) WHERE good < k + m;

-- The few stripes with shards that could go.
CREATE INDEX stripes_with_surplus ON stripes (key) WHERE surplus > 0;

-- Which server holds which shard. A row stands on a receipt; one shard of a stripe a server,
-- by the primary key. Damage and loss change the state, nothing but an order removes a row.
CREATE TABLE shards (
    stripe INTEGER NOT NULL REFERENCES stripes (key),
    server INTEGER NOT NULL REFERENCES servers (id),
    idx    INTEGER NOT NULL,
    state  TEXT    NOT NULL CHECK (state IN ('good', 'missing', 'damaged')),
    -- When `arc verify` last had every byte of it read, and it was good.
    read_ms INTEGER,
    PRIMARY KEY (stripe, server)
) STRICT, WITHOUT ROWID;

-- What a server holds, for its row in `arc servers`, a reconcile, a drain.
CREATE INDEX shards_by_server ON shards (server, stripe);

-- Where chunks are: by far the longest table, filled in sorted batches. A chunk may be in
-- several stripes. Its stripe is no foreign key: removing a stripe would search all rows.
CREATE TABLE chunks (
    id     BLOB    NOT NULL CHECK (length(id) = 32),
    stripe INTEGER NOT NULL,
    frame  INTEGER NOT NULL,
    PRIMARY KEY (id, stripe, frame)
) STRICT, WITHOUT ROWID;

-- Snapshots, each named by the stripe with its record.
CREATE TABLE snapshots (
    stripe      INTEGER PRIMARY KEY REFERENCES stripes (key),
    sequence    INTEGER NOT NULL UNIQUE,
    received_ms INTEGER NOT NULL,
    source_set  BLOB    NOT NULL CHECK (length(source_set) = 32),
    origin      INTEGER NOT NULL REFERENCES tokens (id),
    state       TEXT    NOT NULL CHECK (state IN ('kept', 'forgotten', 'collecting'))
) STRICT;

-- Pushes under way. An open lease past its end is over, but can be renewed until it is closed.
CREATE TABLE leases (
    id             INTEGER PRIMARY KEY,
    token          INTEGER NOT NULL REFERENCES tokens (id),
    -- The client's, so that a begin whose answer was lost can be repeated.
    nonce          BLOB    NOT NULL CHECK (length(nonce) = 16),
    begun_sequence INTEGER NOT NULL,
    begun_ms       INTEGER NOT NULL,
    expires_ms     INTEGER NOT NULL,
    state          TEXT    NOT NULL CHECK (state IN ('open', 'closed')),
    UNIQUE (token, nonce)
) STRICT;

-- Which shards may lie where: written before a ticket leaves, so that nothing is ever on a
-- server unknown to the catalog. Uncommitted under a lease that is over, it is a left-over;
-- committed, it takes no second receipt until the shard is placed again.
CREATE TABLE intents (
    lease     INTEGER NOT NULL REFERENCES leases (id),
    stripe    BLOB    NOT NULL CHECK (length(stripe) = 32),
    idx       INTEGER NOT NULL,
    server    INTEGER NOT NULL REFERENCES servers (id),
    epoch     INTEGER NOT NULL,
    committed INTEGER NOT NULL CHECK (committed IN (0, 1)),
    PRIMARY KEY (lease, stripe, idx, server)
) STRICT, WITHOUT ROWID;

-- Another place for the same stripe finds what was ticketed before, whatever the lease.
CREATE INDEX intents_by_stripe ON intents (stripe);

-- The ledger of repair: stripes that lack shards, or whose servers are away. A row goes only
-- when its stripe was found whole.
CREATE TABLE repairs (
    stripe   INTEGER PRIMARY KEY REFERENCES stripes (key),
    state    TEXT    NOT NULL CHECK (state IN ('waiting', 'failed', 'unknown', 'repaired')),
    found_ms INTEGER NOT NULL,
    -- The last try, and how many failed in a row.
    tried_ms INTEGER,
    attempts INTEGER NOT NULL,
    -- It is not tried before.
    due_ms   INTEGER NOT NULL,
    why      TEXT
) STRICT;

-- How many are in each state, and which is due next.
CREATE INDEX repairs_by_state ON repairs (state, due_ms);

-- What people set; all else is as the program has it.
CREATE TABLE settings (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Shards that their server shall move to the trash, left over or struck out of `shards`, and has
-- not said that it did. Until then no shard of the stripe is placed there, lest that one is
-- trashed, nor is one there taken over.
CREATE TABLE tombstones (
    server     INTEGER NOT NULL REFERENCES servers (id),
    stripe     BLOB    NOT NULL CHECK (length(stripe) = 32),
    idx        INTEGER NOT NULL,
    -- When the last order left: until its ticket has ended it could still be followed. No order
    -- leaves before.
    ordered_ms INTEGER NOT NULL,
    PRIMARY KEY (server, stripe, idx)
) STRICT, WITHOUT ROWID;

-- Placing a stripe asks for its own.
CREATE INDEX tombstones_by_stripe ON tombstones (stripe);

-- What was put on record for good, here and on servers: signed, each with the hash of the one
-- before, numbered without gaps. A snapshot whose stamp is not stored yet is none.
CREATE TABLE facts (
    number INTEGER PRIMARY KEY,
    bytes  BLOB    NOT NULL,
    -- So many servers must have it before it counts.
    copies INTEGER NOT NULL,
    -- Whether they had it, and all before it, once.
    stored INTEGER NOT NULL CHECK (stored IN (0, 1))
) STRICT;

-- The few that servers still have to be given.
CREATE INDEX facts_to_store ON facts (number) WHERE stored = 0;

-- Stripes that a rebuild found by their shards: what is in them is not known yet.
CREATE INDEX stripes_without_frames ON stripes (key) WHERE frames = x'';

-- What happened, told to people; the newest 10,000. Only ever added to, and a row's number is
-- nobody else's: the newest stay, and numbers go on from them.
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    at_ms  INTEGER NOT NULL,
    kind   TEXT    NOT NULL,
    -- The server's name at that time.
    server TEXT,
    stripe BLOB    CHECK (length(stripe) = 32),
    text   TEXT    NOT NULL,
    -- How often it happened within a minute, the last time as told here.
    times  INTEGER NOT NULL
) STRICT;

-- Drills that were held, by the coordinator's time: what was restored, and how that went.
CREATE TABLE drills (
    time_ms    INTEGER PRIMARY KEY,
    files      INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    bad_shards INTEGER NOT NULL,
    lost_files INTEGER NOT NULL,
    result     TEXT    NOT NULL
        CHECK (result IN ('well', 'repairable', 'out-of-reach', 'lost'))
) STRICT;

-- Backups of the coordinator's folder that are on the servers, each named by the stripe with its
-- record.
CREATE TABLE backups (
    record   INTEGER PRIMARY KEY REFERENCES stripes (key),
    -- The logical clock as it was, with the ticks of the backup itself: once it has moved on,
    -- there is something that this one lacks.
    sequence INTEGER NOT NULL,
    made_ms  INTEGER NOT NULL,
    -- Of the files in it.
    bytes    INTEGER NOT NULL
) STRICT;

-- The stripes of each backup, that of its record too: they go with it.
CREATE TABLE backup_stripes (
    stripe INTEGER PRIMARY KEY REFERENCES stripes (key),
    record INTEGER NOT NULL REFERENCES backups (record)
) STRICT;
