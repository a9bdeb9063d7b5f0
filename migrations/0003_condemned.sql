-- When a pack was condemned that somebody may have been reading: by the clock of whoever wrote the entry.
ALTER TABLE packs ADD COLUMN condemned INTEGER;
