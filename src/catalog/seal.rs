//! Seals: a row that lies, or is gone, shows before anything is decided by it.
//!
//! SQLite notices a file that makes no sense, not a row whose bits were turned. What data hangs on, the rows of
//! checkpoints and packs, therefore carries a hash of itself, and the exclusive or of all hashes stands beside. A row is
//! checked whenever its set of packs is read; all of them are checked, and the counts of users made again, before a
//! collection decides anything. A seal that does not fit makes the catalog a broken one: it is made anew from the log.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::fold::PackRef;
use super::{Catalog, broken, packs};
use crate::error::Result;
use crate::id::PackId;

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

pub(super) fn of_pack(row: PackRef, pack: PackId, bytes: u64, footer: [u8; 32], state: u8) -> Seal {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&row.to_le_bytes()).update(&pack.save.0).update(&pack.index.to_le_bytes());
    first_half(hasher.update(&bytes.to_le_bytes()).update(&footer).update(&[state]))
}

fn first_half(hasher: &blake3::Hasher) -> Seal {
    let mut seal = Seal::default();
    seal.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    seal
}

/// Replaces one row's part of the sum of its table.
pub(super) fn change(tx: &Connection, column: &str, old: Seal, new: Seal) -> Result<()> {
    let sql = format!("SELECT {column} FROM seals");
    let mut sum: Seal = tx.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
    xor(&mut sum, old);
    xor(&mut sum, new);
    tx.prepare_cached(&format!("UPDATE seals SET {column} = ?"))?.execute([sum])?;
    Ok(())
}

fn xor(sum: &mut Seal, seal: Seal) {
    sum.iter_mut().zip(seal).for_each(|(a, b)| *a ^= b);
}

/// The seal of a checkpoint's row as it stands, and the one that it carries.
pub(super) fn of_checkpoint(tx: &Connection, slot: u64) -> Result<(Seal, Seal)> {
    let sql = "SELECT slot, run, step, status, manifest, manifest_bytes, packs, seal FROM checkpoints WHERE slot = ?";
    Ok(tx.prepare_cached(sql)?.query_row([slot], both)?)
}

fn both(row: &rusqlite::Row<'_>) -> rusqlite::Result<(Seal, Seal)> {
    let packs: Vec<u8> = row.get(6)?;
    let sealed = Sealed {
        slot: row.get(0)?,
        run: row.get(1)?,
        step: row.get(2)?,
        status: row.get(3)?,
        manifest: row.get(4)?,
        manifest_bytes: row.get(5)?,
        packs: &packs,
    };
    Ok((sealed.seal(), row.get(7)?))
}

/// A row that is about to decide something must be what was folded.
pub(super) fn check(tx: &Connection, slot: u64) -> Result<()> {
    let (is, carries) = of_checkpoint(tx, slot)?;
    if is == carries { Ok(()) } else { Err(broken("the row of a checkpoint is not what was folded")) }
}

/// Seals a row that was checked and then changed.
pub(super) fn renew(tx: &Connection, slot: u64) -> Result<()> {
    let (is, carried) = of_checkpoint(tx, slot)?;
    tx.prepare_cached("UPDATE checkpoints SET seal = ? WHERE slot = ?")?.execute(params![is, slot])?;
    change(tx, "checkpoints", carried, is)
}

impl Catalog {
    /// Every row that data hangs on is what was folded, none is missing, and the counts are right.
    pub(crate) fn check_seals(&self) -> Result<()> {
        let (mut checkpoints, mut of_packs) = self.db.query_row("SELECT checkpoints, packs FROM seals", [], |row| {
            Ok((row.get::<_, Seal>(0)?, row.get::<_, Seal>(1)?))
        })?;
        let mut counts: HashMap<PackRef, u64> = HashMap::new();
        let sql = "SELECT slot, run, step, status, manifest, manifest_bytes, packs, seal FROM checkpoints";
        let mut statement = self.db.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (is, carries) = both(row)?;
            if is != carries {
                return Err(broken("the row of a checkpoint is not what was folded"));
            }
            xor(&mut checkpoints, is);
            if row.get::<_, u8>(3)? < 2 {
                for pack in packs::decode_set(row.get_ref(6)?.as_blob().map_err(|_| broken("a set of packs"))?)? {
                    *counts.entry(pack).or_default() += 1;
                }
            }
        }
        let sql = "SELECT id, save, number, bytes, footer, refs, state, seal FROM packs";
        let all = self.rows(sql, [], |row| Ok((packs::pack_row(row)?, row.get::<_, Seal>(7)?)))?;
        for (pack, seal) in all {
            xor(&mut of_packs, seal);
            if counts.remove(&pack.row).unwrap_or(0) != pack.refs {
                return Err(broken("the users of a pack are not what was folded"));
            }
        }
        if checkpoints != Seal::default() || of_packs != Seal::default() || !counts.is_empty() {
            return Err(broken("a row is missing"));
        }
        Ok(())
    }
}
