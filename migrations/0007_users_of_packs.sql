-- Who needs a pack is sealed with it: `users` is the exclusive or of a hash of each checkpoint that does, so that a count
-- of zero shows by itself that it is right. What was folded before has none: once more.
ALTER TABLE packs ADD COLUMN users BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';

-- inspected: when all rows were checked, and packs that belong to nobody looked for, by the clock of whoever did; 0: never.
ALTER TABLE position ADD COLUMN inspected INTEGER NOT NULL DEFAULT 0;
DROP TABLE settled_folders;

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
DELETE FROM voids;
DELETE FROM bad;
DELETE FROM lookups;

-- The exclusive or of the seals of 64 rows each of a table (0 checkpoints, 1 packs), by their ids: what vanished, or is as
-- it was some time ago, shows among few.
DROP TABLE seals;
CREATE TABLE seals (
    of INTEGER NOT NULL,
    part INTEGER NOT NULL,
    sum BLOB NOT NULL,
    PRIMARY KEY (of, part)
) STRICT, WITHOUT ROWID;
