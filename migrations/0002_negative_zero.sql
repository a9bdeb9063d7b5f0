-- SQLite keeps no sign of a zero: it stands here. A zero that was folded before gets it back with the next rebuild.
ALTER TABLE metrics ADD COLUMN minus INTEGER NOT NULL DEFAULT 0;
