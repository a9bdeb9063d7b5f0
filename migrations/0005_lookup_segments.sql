-- A run of the look-up is many short blobs, so that a question reads one of each run: `first` has the bits of the least
-- prefix in it. What was there is read again from the footers.
DROP TABLE lookups;
CREATE TABLE lookups (
    id INTEGER PRIMARY KEY,
    level INTEGER NOT NULL,
    run INTEGER NOT NULL,
    first INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE INDEX lookups_by_run ON lookups (level, run, first);
UPDATE packs SET indexed = 0;
