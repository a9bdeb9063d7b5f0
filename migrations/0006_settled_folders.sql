-- Folders of packs in which every name was that of a known pack: when the folder had changed last, by its own clock. As
-- long as that is so, nobody has to look into it for packs that belong to nobody.
CREATE TABLE settled_folders (
    folder TEXT PRIMARY KEY,
    modified INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
