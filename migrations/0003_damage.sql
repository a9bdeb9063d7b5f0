-- Damage that is known, and seals by which a row that lies shows. What was folded before has no seals: once more.

-- Slots whose entries a void entry put out of effect.
CREATE TABLE voids (slot INTEGER PRIMARY KEY) STRICT;

-- Damaged copies: of one chunk, or (an empty id) of all that the pack holds.
CREATE TABLE bad (
    pack INTEGER NOT NULL,
    chunk BLOB NOT NULL,
    PRIMARY KEY (pack, chunk)
) STRICT, WITHOUT ROWID;

-- A hash of what decides: place, status, manifest and packs of a checkpoint; name, length, footer and state of a pack.
-- `seals` holds the exclusive or of all of them, so that a row that vanished shows as well.
ALTER TABLE checkpoints ADD COLUMN seal BLOB NOT NULL DEFAULT x'';
ALTER TABLE packs ADD COLUMN seal BLOB NOT NULL DEFAULT x'';
CREATE TABLE seals (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    checkpoints BLOB NOT NULL,
    packs BLOB NOT NULL
) STRICT;

DELETE FROM position;
DELETE FROM runs;
DELETE FROM checkpoints;
DELETE FROM metrics;
DELETE FROM modes;
DELETE FROM tags;
DELETE FROM pins;
DELETE FROM packs;
DELETE FROM footers;
DELETE FROM aborted;
DELETE FROM damaged;
DELETE FROM lookups;
INSERT INTO seals VALUES (1, zeroblob(16), zeroblob(16));
