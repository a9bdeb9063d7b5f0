//! Seals: a row that lies, or is gone, shows before anything is decided by it.
//!
//! SQLite notices a file that makes no sense, not a row whose bits were turned, that has vanished, or that is as it was
//! some time ago. What data hangs on, the rows of checkpoints and packs, therefore carries a hash of itself, its *seal*,
//! and the exclusive or of the seals of 64 rows each stands in another table. A pack's seal covers who needs it, as the
//! exclusive or of a *token* of each checkpoint that does: whoever looks for its users knows that he has found them all.
//!
//! A row's own seal is checked whenever a set of packs or the state of a pack is read. Before something is decided that
//! cannot be undone, the rows that decide are checked with their neighbours; and every row before it is decided by there
//! being none. What does not fit makes the catalog a broken one: it is made anew from the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::packs::PackRef;
use super::{Catalog, PackRow, broken, packs};
use crate::error::Result;

pub(super) type Seal = [u8; 16];

/// What a checkpoint's seal covers.
pub(super) struct Sealed<'a> {
    pub(super) slot: u64,
    pub(super) run: i64,
    pub(super) step: u64,
    pub(super) status: u8,
    pub(super) manifest: [u8; 32],
    pub(super) manifest_bytes: u64,
    pub(super) packs: &'a [u8],
}

impl Sealed<'_> {
    pub(super) fn seal(&self) -> Seal {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.slot.to_le_bytes()).update(&self.run.to_le_bytes()).update(&self.step.to_le_bytes());
        hasher.update(&[self.status]).update(&self.manifest).update(&self.manifest_bytes.to_le_bytes());
        first_half(hasher.update(self.packs))
    }
}

pub(super) fn of_pack(pack: &PackRow) -> Seal {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pack.row.to_le_bytes()).update(&pack.pack.save.0).update(&pack.pack.index.to_le_bytes());
    hasher.update(&pack.bytes.to_le_bytes()).update(&pack.footer.0).update(&pack.refs.to_le_bytes());
    first_half(hasher.update(&pack.users).update(&[pack.state as u8]))
}

/// What a checkpoint adds to the users of a pack that it needs, and takes away again.
pub(super) fn token(slot: u64) -> Seal {
    first_half(blake3::Hasher::new().update(&slot.to_le_bytes()))
}

fn first_half(hasher: &blake3::Hasher) -> Seal {
    let mut seal = Seal::default();
    seal.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    seal
}

/// A table whose rows are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Checkpoints,
    Packs,
}

/// Rows, by their ids, whose seals have one sum.
const PART: i64 = 64;

/// The exclusive or of the seals of each part of a table.
type Sums = BTreeMap<i64, Seal>;

/// The part that a row is in.
pub(super) fn part_of(id: i64) -> i64 {
    id / PART
}

/// Changes the sum of a part by the exclusive or of what its rows had and have.
pub(super) fn change(tx: &Connection, table: Table, part: i64, by: Seal) -> Result<()> {
    let mut sum = sum_of(tx, table, part)?;
    xor(&mut sum, by);
    tx.prepare_cached("INSERT OR REPLACE INTO seals VALUES (?, ?, ?)")?.execute(params![table as i64, part, sum])?;
    Ok(())
}

fn sum_of(db: &Connection, table: Table, part: i64) -> Result<Seal> {
    let mut statement = db.prepare_cached("SELECT sum FROM seals WHERE of = ? AND part = ?")?;
    Ok(statement.query_row([table as i64, part], |row| row.get(0)).optional()?.unwrap_or_default())
}

pub(super) fn xor(sum: &mut Seal, seal: Seal) {
    sum.iter_mut().zip(seal).for_each(|(a, b)| *a ^= b);
}

const SEALED: &str = "slot, run, step, status, manifest, manifest_bytes, packs, seal";

/// The seal of a checkpoint's row as it stands, and the one that it carries.
pub(super) fn of_checkpoint(tx: &Connection, slot: u64) -> Result<(Seal, Seal)> {
    let sql = format!("SELECT {SEALED} FROM checkpoints WHERE slot = ?");
    Ok(tx.prepare_cached(&sql)?.query_row([slot], both)?)
}

fn both(row: &Row<'_>) -> rusqlite::Result<(Seal, Seal)> {
    let sealed = Sealed {
        slot: row.get(0)?,
        run: row.get(1)?,
        step: row.get(2)?,
        status: row.get(3)?,
        manifest: row.get(4)?,
        manifest_bytes: row.get(5)?,
        packs: row.get_ref(6)?.as_blob()?,
    };
    Ok((sealed.seal(), row.get(7)?))
}

/// A row that is about to decide something must be what was folded.
pub(super) fn check(tx: &Connection, slot: u64) -> Result<()> {
    let (is, carries) = of_checkpoint(tx, slot)?;
    if is == carries { Ok(()) } else { Err(broken("the row of a checkpoint is not what was folded")) }
}

/// Seals a row that was checked and then changed: what it had, and what it has.
pub(super) fn renew(tx: &Connection, slot: u64) -> Result<(Seal, Seal)> {
    let (is, carried) = of_checkpoint(tx, slot)?;
    tx.prepare_cached("UPDATE checkpoints SET seal = ? WHERE slot = ?")?.execute(params![is, slot])?;
    Ok((carried, is))
}

/// The rows of these packs are what was folded, and none of their neighbours is missing.
pub(super) fn check_packs(db: &Connection, rows: impl IntoIterator<Item = PackRef>) -> Result<()> {
    check_parts(db, Table::Packs, rows, |ids| read_packs(db, ids, |_| Ok(())))
}

/// The same of these checkpoints.
pub(super) fn check_checkpoints(db: &Connection, slots: impl IntoIterator<Item = u64>) -> Result<()> {
    let ids = slots.into_iter().map(|slot| slot as i64);
    check_parts(db, Table::Checkpoints, ids, |slots| read_checkpoints(db, slots, |_| Ok(())))
}

fn check_parts(
    db: &Connection,
    table: Table,
    ids: impl IntoIterator<Item = i64>,
    read: impl Fn(Range<i64>) -> Result<Sums>,
) -> Result<()> {
    let parts: BTreeSet<i64> = ids.into_iter().map(part_of).collect();
    for part in parts {
        let sums = read(part * PART..(part + 1) * PART)?;
        if sums.get(&part).copied().unwrap_or_default() != sum_of(db, table, part)? {
            return Err(broken("a row is missing, or is an old one"));
        }
    }
    Ok(())
}

/// The sums of these rows, each of which must carry its own seal.
fn read_checkpoints(db: &Connection, slots: Range<i64>, mut each: impl FnMut(&Row<'_>) -> Result<()>) -> Result<Sums> {
    let sql = format!("SELECT {SEALED} FROM checkpoints WHERE slot >= ? AND slot < ?");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([slots.start, slots.end])?;
    let mut sums = Sums::new();
    while let Some(row) = rows.next()? {
        let (is, carries) = both(row)?;
        if is != carries {
            return Err(broken("the row of a checkpoint is not what was folded"));
        }
        xor(sums.entry(part_of(row.get(0)?)).or_default(), is);
        each(row)?;
    }
    Ok(sums)
}

fn read_packs(db: &Connection, ids: Range<i64>, mut each: impl FnMut(&PackRow) -> Result<()>) -> Result<Sums> {
    let sql = format!("SELECT {} FROM packs WHERE id >= ? AND id < ?", packs::COLUMNS);
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([ids.start, ids.end])?;
    let mut sums = Sums::new();
    while let Some(row) = rows.next()? {
        let pack = packs::pack_row(row)?;
        xor(sums.entry(part_of(pack.row)).or_default(), of_pack(&pack));
        each(&pack)?;
    }
    Ok(sums)
}

impl Catalog {
    /// The rows of these checkpoints are what was folded, and none of their neighbours is missing.
    pub(crate) fn check_checkpoints(&self, slots: impl IntoIterator<Item = u64>) -> Result<()> {
        let _view = self.view()?;
        check_checkpoints(&self.db, slots)
    }

    /// Every row that data hangs on is what was folded, none is missing, and the users of packs are right.
    pub(crate) fn check_seals(&self) -> Result<()> {
        let _view = self.view()?;
        let mut users: HashMap<PackRef, (u64, Seal)> = HashMap::new();
        let checkpoints = read_checkpoints(&self.db, 0..i64::MAX, |row| {
            if row.get::<_, u8>(3)? < 2 {
                let token = token(row.get(0)?);
                for pack in packs::decode_set(row.get_ref(6)?.as_blob().map_err(rusqlite::Error::from)?)? {
                    let (count, sum) = users.entry(pack).or_default();
                    *count += 1;
                    xor(sum, token);
                }
            }
            Ok(())
        })?;
        let packs = read_packs(&self.db, 0..i64::MAX, |pack| {
            match users.remove(&pack.row).unwrap_or_default() == (pack.refs, pack.users) {
                true => Ok(()),
                false => Err(broken("the users of a pack are not what was folded")),
            }
        })?;
        let sums = |table: Table| -> Result<Sums> {
            let sums = self.rows("SELECT part, sum FROM seals WHERE of = ?", [table as i64], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
            Ok(sums.into_iter().collect())
        };
        if checkpoints != sums(Table::Checkpoints)? || packs != sums(Table::Packs)? || !users.is_empty() {
            return Err(broken("a row is missing, or is an old one"));
        }
        Ok(())
    }
}
