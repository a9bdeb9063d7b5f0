-- The catalog: what the log adds up to. It can be deleted at any time, and is made again from the log.

-- One row: how far the log was folded, and the hash of the last entry. inspected: when all rows were checked, and
-- packs that belong to nobody looked for, by the clock of whoever did; 0: never.
CREATE TABLE position (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    store BLOB NOT NULL,
    next INTEGER NOT NULL,
    head BLOB NOT NULL,
    inspected INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL,
    config TEXT,
    provenance TEXT,
    policy TEXT
) STRICT;

-- status: 0 kept, 1 superseded, 2 forgotten. packs: the ids of all packs that it needs, as varints of differences.
-- seal: a hash of its place, status, manifest and packs.
CREATE TABLE checkpoints (
    slot INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    step INTEGER NOT NULL,
    save BLOB NOT NULL,
    parent INTEGER,
    created INTEGER NOT NULL,
    status INTEGER NOT NULL,
    manifest BLOB NOT NULL,
    recipe INTEGER NOT NULL,
    manifest_bytes INTEGER NOT NULL,
    schema BLOB NOT NULL,
    tensors INTEGER NOT NULL,
    raw INTEGER NOT NULL,
    unchanged INTEGER NOT NULL,
    deduplicated INTEGER NOT NULL,
    encoded INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    components TEXT NOT NULL,
    dropped TEXT NOT NULL,
    packs BLOB NOT NULL,
    note TEXT,
    reason TEXT,
    seal BLOB NOT NULL
) STRICT;
CREATE INDEX checkpoints_by_step ON checkpoints (run, status, step);
CREATE INDEX checkpoints_by_schema ON checkpoints (schema, slot);
CREATE INDEX checkpoints_by_save ON checkpoints (save);

-- value is NULL for a NaN. minus: a zero has a sign, which SQLite does not keep.
CREATE TABLE metrics (
    slot INTEGER NOT NULL,
    name TEXT NOT NULL,
    run INTEGER NOT NULL,
    value REAL,
    minus INTEGER NOT NULL,
    PRIMARY KEY (slot, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX metrics_by_value ON metrics (run, name, value);

CREATE TABLE modes (
    run INTEGER NOT NULL,
    metric TEXT NOT NULL,
    mode TEXT NOT NULL,
    PRIMARY KEY (run, metric)
) STRICT, WITHOUT ROWID;

CREATE TABLE tags (
    run INTEGER NOT NULL,
    tag TEXT NOT NULL,
    slot INTEGER NOT NULL,
    PRIMARY KEY (run, tag)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_by_slot ON tags (slot);

CREATE TABLE pins (
    slot INTEGER PRIMARY KEY,
    checkpoint INTEGER NOT NULL,
    until INTEGER NOT NULL,
    purpose TEXT NOT NULL
) STRICT;

-- state: 0 live, 1 condemned, 2 swept. refs: how many checkpoints that are not forgotten need it; users: the
-- exclusive or of a hash of each of them. indexed: its chunks are in `lookups`. suspect: it lost a user, so some of
-- its frames may be dead. seal: a hash of its name, length, footer, state and users.
CREATE TABLE packs (
    id INTEGER PRIMARY KEY,
    save BLOB NOT NULL,
    number INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    footer BLOB NOT NULL,
    refs INTEGER NOT NULL DEFAULT 0,
    users BLOB NOT NULL DEFAULT x'00000000000000000000000000000000',
    state INTEGER NOT NULL,
    indexed INTEGER NOT NULL DEFAULT 0,
    suspect INTEGER NOT NULL DEFAULT 0,
    seal BLOB NOT NULL DEFAULT x'',
    UNIQUE (save, number)
) STRICT;
CREATE INDEX packs_to_index ON packs (id) WHERE indexed = 0 AND state = 0;
CREATE INDEX packs_to_mark ON packs (id) WHERE suspect = 1 AND state = 0;
CREATE INDEX packs_to_collect ON packs (state, refs) WHERE refs = 0 AND state < 2;

-- The exclusive or of the seals of 64 rows each of a table (0 checkpoints, 1 packs), by their ids: what vanished, or
-- is as it was some time ago, shows among few.
CREATE TABLE seals (
    of INTEGER NOT NULL,
    part INTEGER NOT NULL,
    sum BLOB NOT NULL,
    PRIMARY KEY (of, part)
) STRICT, WITHOUT ROWID;

-- Footers of packs, as they stand in them: read once, checked against the hash in `packs` at every use.
CREATE TABLE footers (
    pack INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

-- Saves that will never commit.
CREATE TABLE aborted (
    save BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- Entries that could not be read, and that their successor vouches for.
CREATE TABLE damaged (
    slot INTEGER PRIMARY KEY,
    why TEXT NOT NULL
) STRICT;

-- Slots whose entries a void entry put out of effect.
CREATE TABLE voids (slot INTEGER PRIMARY KEY) STRICT;

-- Damaged copies: of one chunk, or (an empty id) of all that the pack holds.
CREATE TABLE bad (
    pack INTEGER NOT NULL,
    chunk BLOB NOT NULL,
    PRIMARY KEY (pack, chunk)
) STRICT, WITHOUT ROWID;

-- The look-up of any chunk: sorted runs of (first 8 bytes of the chunk's id, pack), merged as they grow. A run is
-- many short blobs, so that a question reads one of each run: `first` has the bits of the least prefix in it.
CREATE TABLE lookups (
    id INTEGER PRIMARY KEY,
    level INTEGER NOT NULL,
    run INTEGER NOT NULL,
    first INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE INDEX lookups_by_run ON lookups (level, run, first);
