//! Packs: what the log says of them, their footers, and the sets that checkpoints need.

use std::collections::{BTreeSet, HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::seal::{self, Seal};
use super::{Catalog, broken};
use crate::env::Time;
use crate::error::Result;
use crate::format::entry::NewPack;
use crate::id::{ChunkId, Hash, PackId, SaveId};
use crate::wire::{Reader, Write};

/// A pack's row in this catalog.
pub(super) type PackRef = i64;

/// What the log says of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackRow {
    /// Its row in this catalog.
    pub(crate) row: i64,
    /// Its name.
    pub pack: PackId,
    /// Its length.
    pub bytes: u64,
    /// The hash of its footer.
    pub footer: Hash,
    /// How many checkpoints that are not forgotten need it.
    pub refs: u64,
    /// The exclusive or of the tokens of those checkpoints.
    pub(super) users: Seal,
    /// Where it stands.
    pub state: PackState,
    /// When it was condemned, if somebody may have been reading it.
    pub condemned: Option<Time>,
}

impl PackRow {
    /// One that no entry names yet, and that has no row.
    pub(crate) fn of_new(pack: PackId, new: &NewPack) -> PackRow {
        PackRow {
            row: 0,
            pack,
            bytes: new.bytes,
            footer: new.footer,
            refs: 0,
            users: Seal::default(),
            state: PackState::Live,
            condemned: None,
        }
    }
}

/// Where a pack stands between its commit and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackState {
    /// It may be used.
    Live,
    /// It will be deleted; nothing may use it any more.
    Condemned,
    /// It is gone.
    Swept,
}

/// What is kept of a pack beside its row.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Copies that are known to be damaged; an empty id stands for all of them.
    pub(crate) bad: HashSet<ChunkId>,
    /// Its footer, if it was read or written here. Its hash is for the reader to check.
    pub(crate) footer: Option<Vec<u8>>,
}

pub(super) const COLUMNS: &str = "id, save, number, bytes, footer, refs, users, state, seal, condemned";

pub(super) fn pack_row(row: &Row<'_>) -> rusqlite::Result<PackRow> {
    let state: u8 = row.get(7)?;
    let found = PackRow {
        row: row.get(0)?,
        pack: PackId { save: SaveId(row.get(1)?), index: row.get(2)? },
        bytes: row.get(3)?,
        footer: Hash(row.get(4)?),
        refs: row.get(5)?,
        users: row.get(6)?,
        state: match state {
            0 => PackState::Live,
            1 => PackState::Condemned,
            2 => PackState::Swept,
            other => return Err(rusqlite::Error::IntegralValueOutOfRange(7, other.into())),
        },
        condemned: row.get::<_, Option<i64>>(9)?.map(Time),
    };
    // Whoever asks decides something by it.
    if row.get::<_, Seal>(8)? != seal::of_pack(&found) || found.refs == 0 && found.users != Seal::default() {
        return Err(rusqlite::Error::IntegralValueOutOfRange(8, 0));
    }
    Ok(found)
}

impl Catalog {
    /// What the log says of this pack.
    pub fn pack(&self, pack: PackId) -> Result<Option<PackRow>> {
        let sql = format!("SELECT {COLUMNS} FROM packs WHERE save = ? AND number = ?");
        Ok(self.db.prepare_cached(&sql)?.query_row(params![pack.save.0, pack.index], pack_row).optional()?)
    }

    /// The packs that a checkpoint needs.
    pub fn packs_of(&self, slot: u64) -> Result<Vec<PackRow>> {
        let _view = self.view()?;
        seal::check(&self.db, slot)?;
        let set: Option<Vec<u8>> = self
            .db
            .prepare_cached("SELECT packs FROM checkpoints WHERE slot = ?")?
            .query_row([slot], |row| row.get(0))
            .optional()?;
        let sql = format!("SELECT {COLUMNS} FROM packs WHERE id = ?");
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut packs = Vec::new();
        for id in decode_set(&set.unwrap_or_default())? {
            packs.push(statement.query_row([id], pack_row)?);
        }
        Ok(packs)
    }

    /// Every pack that was not swept.
    pub fn packs(&self) -> Result<Vec<PackRow>> {
        self.rows(&format!("SELECT {COLUMNS} FROM packs WHERE state < 2 ORDER BY id"), [], pack_row)
    }

    /// Live packs that no checkpoint needs, and condemned ones that were not swept.
    pub fn collectable(&self) -> Result<Vec<PackRow>> {
        self.decisive("refs = 0 AND state < 2")
    }

    /// Live packs that some checkpoint needs, and that lost a user since they were last looked through.
    pub fn suspects(&self) -> Result<Vec<PackRow>> {
        self.decisive("suspect = 1 AND state = 0 AND refs > 0 ORDER BY id")
    }

    /// Packs that are deleted, or written anew, because this is so.
    fn decisive(&self, condition: &str) -> Result<Vec<PackRow>> {
        let _view = self.view()?;
        let found = self.rows(&format!("SELECT {COLUMNS} FROM packs WHERE {condition}"), [], pack_row)?;
        seal::check_packs(&self.db, found.iter().map(|pack| pack.row))?;
        Ok(found)
    }

    /// Notes that a pack was looked through and is worth keeping as it is.
    pub fn set_checked(&self, pack: &PackRow) -> Result<()> {
        self.db.prepare_cached("UPDATE packs SET suspect = 0 WHERE id = ?")?.execute([pack.row])?;
        Ok(())
    }

    /// The slots of checkpoints, not forgotten, that need any of these packs, each with the packs that it needs.
    pub fn users_of(&self, packs: &BTreeSet<PackRef>) -> Result<Vec<(u64, BTreeSet<PackRef>)>> {
        let _view = self.view()?;
        users_of(&self.db, packs)
    }

    /// Copies in this pack that are known to be damaged; an empty id stands for all of them.
    pub fn bad_in(&self, pack: &PackRow) -> Result<HashSet<ChunkId>> {
        let mut statement = self.db.prepare_cached("SELECT chunk FROM bad WHERE pack = ?")?;
        let chunks = statement.query_map([pack.row], |row| Ok(ChunkId(row.get(0)?)))?;
        Ok(chunks.collect::<rusqlite::Result<_>>()?)
    }

    /// All copies that are known to be damaged, with their packs.
    pub fn bad(&self) -> Result<Vec<(PackRow, ChunkId)>> {
        let rows = self.rows("SELECT pack, chunk FROM bad", [], |row| Ok((row.get(0)?, ChunkId(row.get(1)?))))?;
        let mut bad = Vec::new();
        for (pack, chunk) in rows {
            bad.extend(self.pack_by_row(pack)?.map(|pack| (pack, chunk)));
        }
        Ok(bad)
    }

    /// True if that save's packs may never be committed.
    pub fn is_aborted(&self, save: SaveId) -> Result<bool> {
        Ok(self.db.prepare_cached("SELECT 1 FROM aborted WHERE save = ?")?.exists([save.0])?)
    }

    /// True if the log has any pack.
    pub fn has_packs(&self) -> Result<bool> {
        Ok(self.db.prepare_cached("SELECT 1 FROM packs WHERE state = 0 LIMIT 1")?.exists([])?)
    }

    /// True if the log has packs of this save.
    pub fn has_packs_of(&self, save: SaveId) -> Result<bool> {
        Ok(self.db.prepare_cached("SELECT 1 FROM packs WHERE save = ?")?.exists([save.0])?)
    }

    /// Those of these packs that the log has not named, and those of which it says that they are gone.
    pub fn unknown_and_swept(&self, packs: &[PackId]) -> Result<(Vec<PackId>, Vec<PackId>)> {
        let _view = self.view()?;
        let (mut unknown, mut swept) = (Vec::new(), Vec::new());
        for &pack in packs {
            match self.pack(pack)? {
                None => unknown.push(pack),
                Some(row) if row.state == PackState::Swept => swept.push(pack),
                Some(_) => {}
            }
        }
        Ok((unknown, swept))
    }

    /// When every row, and every pack, was looked at last.
    pub fn inspected(&self) -> Result<Time> {
        Ok(Time(self.db.query_row("SELECT inspected FROM position", [], |row| row.get(0))?))
    }

    /// Notes that they were.
    pub fn set_inspected(&self, now: Time) -> Result<()> {
        self.db.execute("UPDATE position SET inspected = ?", [now.0])?;
        Ok(())
    }

    /// What the catalog keeps of each of these packs.
    pub(crate) fn kept(&self, packs: &[PackRow]) -> Result<Vec<Kept>> {
        let _view = self.view()?;
        let any_bad = self.db.prepare_cached("SELECT 1 FROM bad LIMIT 1")?.exists([])?;
        let bad = |pack| if any_bad { self.bad_in(pack) } else { Ok(HashSet::new()) };
        packs.iter().map(|pack| Ok(Kept { bad: bad(pack)?, footer: self.footer(pack)? })).collect()
    }

    /// A pack's footer, if it was kept here. Its hash is for the reader to check.
    pub fn footer(&self, pack: &PackRow) -> Result<Option<Vec<u8>>> {
        let mut statement = self.db.prepare_cached("SELECT bytes FROM footers WHERE pack = ?")?;
        Ok(statement.query_row([pack.row], |row| row.get(0)).optional()?)
    }

    /// Keeps a pack's footer. A catalog that cannot be written does without.
    pub fn put_footer(&self, pack: &PackRow, bytes: &[u8]) {
        let put = || -> rusqlite::Result<usize> {
            self.db.prepare_cached("INSERT OR REPLACE INTO footers VALUES (?, ?)")?.execute(params![pack.row, bytes])
        };
        let _ = put();
    }
}

/// All checkpoints that need one of these packs, and no other: that is what the packs say of their users.
pub(super) fn users_of(db: &Connection, packs: &BTreeSet<PackRef>) -> Result<Vec<(u64, BTreeSet<PackRef>)>> {
    let mut tokens: HashMap<PackRef, Seal> = HashMap::new();
    let mut users = Vec::new();
    let mut statement = db.prepare_cached("SELECT slot, packs FROM checkpoints WHERE status < 2")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let set = decode_set(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?)?;
        if !set.is_disjoint(packs) {
            let slot = row.get(0)?;
            for &pack in set.intersection(packs) {
                seal::xor(tokens.entry(pack).or_default(), seal::token(slot));
            }
            users.push((slot, set));
        }
    }
    seal::check_packs(db, packs.iter().copied())?;
    seal::check_checkpoints(db, users.iter().map(|(slot, _)| *slot))?;
    for &pack in packs {
        if by_row(db, pack)?.users != tokens.remove(&pack).unwrap_or_default() {
            return Err(broken("the users of a pack are not what was folded"));
        }
    }
    Ok(users)
}

pub(super) fn by_row(db: &Connection, row: PackRef) -> Result<PackRow> {
    let sql = format!("SELECT {COLUMNS} FROM packs WHERE id = ?");
    Ok(db.prepare_cached(&sql)?.query_row([row], pack_row)?)
}

/// A set of packs as it stands in a row: the differences of the sorted ids.
pub(super) fn encode_set(set: &BTreeSet<PackRef>) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * set.len());
    let mut last = 0;
    for &id in set {
        out.put_varint((id - last) as u64);
        last = id;
    }
    out
}

pub(super) fn decode_set(bytes: &[u8]) -> Result<BTreeSet<PackRef>> {
    let mut from = Reader::new(bytes);
    let mut set = BTreeSet::new();
    let mut last = 0i64;
    while from.left() > 0 {
        let step = from.varint().map_err(|e| broken(&e.0))?;
        last = i64::try_from(step).ok().and_then(|step| last.checked_add(step)).ok_or_else(|| broken("a pack id"))?;
        set.insert(last);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_comes_back(set: BTreeSet<u32>) {
            let set: BTreeSet<PackRef> = set.into_iter().map(|id| i64::from(id) + 1).collect();
            prop_assert_eq!(decode_set(&encode_set(&set)).unwrap(), set);
        }
    }
}
