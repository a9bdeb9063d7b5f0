//! The look-up of any chunk in the store: which packs may hold it.
//!
//! Sorted runs of (first 8 bytes of the chunk's id, pack), each one blob. A save adds a run; eight runs of a level
//! become one of the next, without the packs that are gone. So a save writes its own chunks and now and then merges: no
//! page is written per chunk. A hit is a hint: whether the pack is live, and really has the chunk, is for the asker to
//! check.

use std::collections::{BTreeSet, HashMap};

use rusqlite::params;

use super::{Catalog, PackRow};
use crate::error::Result;
use crate::id::ChunkId;

const ROW: usize = 16;
/// Runs of one level before they are merged.
const FAN: i64 = 8;
/// Runs up to this size are read whole when the first chunk is looked for.
const RESIDENT_BYTES: u64 = 4 << 20;

/// Runs that have been read, for a series of questions.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    resident: Vec<Vec<u8>>,
    large: Vec<(i64, u64)>,
    opened: bool,
}

impl Catalog {
    /// Live packs whose chunks cannot be looked up yet.
    pub(crate) fn not_indexed(&self) -> Result<Vec<PackRow>> {
        let ids = self.rows("SELECT id FROM packs WHERE indexed = 0 AND state = 0", [], |row| row.get::<_, i64>(0))?;
        ids.into_iter().filter_map(|id| self.pack_by_row(id).transpose()).collect()
    }

    /// Adds the chunks of packs, each with the pack's row.
    pub(crate) fn add_lookup(&mut self, chunks: impl Iterator<Item = (ChunkId, i64)>) -> Result<()> {
        let rows: BTreeSet<(u64, i64)> = chunks.map(|(chunk, pack)| (chunk.prefix(), pack)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        insert(&tx, 0, &rows)?;
        for pack in rows.iter().map(|row| row.1).collect::<BTreeSet<_>>() {
            tx.prepare_cached("UPDATE packs SET indexed = 1 WHERE id = ?")?.execute([pack])?;
        }
        let mut level = 0;
        while runs_at(&tx, level)? >= FAN {
            merge(&tx, level)?;
            level += 1;
        }
        tx.commit()?;
        Ok(())
    }

    /// Packs that may hold the chunk.
    pub(crate) fn look_up(&self, runs: &mut Runs, chunk: ChunkId) -> Result<Vec<i64>> {
        if !runs.opened {
            self.open_runs(runs)?;
        }
        let prefix = chunk.prefix();
        let mut found = Vec::new();
        for run in &runs.resident {
            let row = |n: u64| Ok(row_at(run, n as usize));
            matches(run.len() as u64 / ROW as u64, prefix, row, &mut found)?;
        }
        for &(id, rows) in &runs.large {
            // A run that was merged meanwhile is only a hint that is missed.
            let Ok(blob) = self.db.blob_open("main", "lookups", "data", id, true) else { continue };
            let row = |n: u64| {
                let mut bytes = [0; ROW];
                blob.read_at_exact(&mut bytes, n as usize * ROW)?;
                Ok(row_at(&bytes, 0))
            };
            matches(rows, prefix, row, &mut found)?;
        }
        Ok(found)
    }

    fn open_runs(&self, runs: &mut Runs) -> Result<()> {
        runs.opened = true;
        // One question: another process may merge runs between two.
        let sql = "SELECT id, rows, CASE WHEN rows * 16 <= ? THEN data END FROM lookups";
        let found = self.rows(sql, [RESIDENT_BYTES], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, u64>(1)?, row.get::<_, Option<Vec<u8>>>(2)?))
        })?;
        for (id, rows, data) in found {
            match data {
                Some(data) => runs.resident.push(data),
                None => runs.large.push((id, rows)),
            }
        }
        Ok(())
    }

    /// The pack of a row, and whether it may be used.
    pub(crate) fn pack_by_row(&self, row: i64) -> Result<Option<PackRow>> {
        let sql = "SELECT save, number FROM packs WHERE id = ? AND state = 0";
        let found = self.rows(sql, [row], |row| {
            Ok(crate::id::PackId { save: crate::id::SaveId(row.get(0)?), index: row.get(1)? })
        })?;
        match found.first() {
            Some(&pack) => self.pack(pack),
            None => Ok(None),
        }
    }
}

/// Ids are uniform, so the place of a prefix can be guessed: interpolation, then a step at a time.
fn matches(
    rows: u64,
    prefix: u64,
    row: impl Fn(u64) -> rusqlite::Result<(u64, i64)>,
    found: &mut Vec<i64>,
) -> Result<()> {
    let (mut low, mut high) = (0, rows);
    // The first row that is not below the prefix.
    let (mut floor, mut ceiling) = (0u64, u64::MAX);
    while low < high {
        let share = (prefix - floor) as f64 / ((ceiling - floor) as f64).max(1.0);
        let guess = low + ((high - low) as f64 * share) as u64;
        let middle = guess.clamp(low, high - 1);
        let (at, _) = row(middle)?;
        if at < prefix {
            low = middle + 1;
            floor = at;
        } else {
            high = middle;
            ceiling = at;
        }
    }
    while low < rows {
        let (at, pack) = row(low)?;
        if at != prefix {
            break;
        }
        found.push(pack);
        low += 1;
    }
    Ok(())
}

fn row_at(run: &[u8], n: usize) -> (u64, i64) {
    let word = |at: usize| run.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
    (word(n * ROW), word(n * ROW + 8) as i64)
}

fn insert(tx: &rusqlite::Transaction<'_>, level: i64, rows: &BTreeSet<(u64, i64)>) -> Result<()> {
    let mut data = Vec::with_capacity(rows.len() * ROW);
    for (prefix, pack) in rows {
        data.extend(prefix.to_be_bytes());
        data.extend(pack.to_be_bytes());
    }
    tx.execute("INSERT INTO lookups (level, rows, data) VALUES (?, ?, ?)", params![level, rows.len(), data])?;
    Ok(())
}

fn runs_at(tx: &rusqlite::Transaction<'_>, level: i64) -> Result<i64> {
    Ok(tx.query_row("SELECT count(*) FROM lookups WHERE level = ?", [level], |row| row.get(0))?)
}

fn merge(tx: &rusqlite::Transaction<'_>, level: i64) -> Result<()> {
    let mut live = HashMap::new();
    let mut alive = |pack: i64| -> Result<bool> {
        if let Some(&known) = live.get(&pack) {
            return Ok(known);
        }
        let known = tx.prepare_cached("SELECT 1 FROM packs WHERE id = ? AND state = 0")?.exists([pack])?;
        live.insert(pack, known);
        Ok(known)
    };
    let mut rows = BTreeSet::new();
    let mut statement = tx.prepare("SELECT data FROM lookups WHERE level = ?")?;
    let runs = statement.query_map([level], |row| row.get::<_, Vec<u8>>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    for run in runs {
        for n in 0..run.len() / ROW {
            let (prefix, pack) = row_at(&run, n);
            if alive(pack)? {
                rows.insert((prefix, pack));
            }
        }
    }
    tx.execute("DELETE FROM lookups WHERE level = ?", [level])?;
    insert(tx, level + 1, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn interpolation_finds_what_a_scan_finds(mut rows: Vec<(u64, i64)>, few in 0u64..5, ask: prop::sample::Index) {
            rows.iter_mut().step_by(2).for_each(|row| row.0 = few);
            rows.push((u64::MAX, 3));
            rows.sort_unstable();
            for prefix in [rows[ask.index(rows.len())].0, few, 0, u64::MAX, 77] {
                let mut found = Vec::new();
                matches(rows.len() as u64, prefix, |n| Ok(rows[n as usize]), &mut found).unwrap();
                let scan: Vec<i64> = rows.iter().filter(|row| row.0 == prefix).map(|row| row.1).collect();
                prop_assert_eq!(found, scan);
            }
        }
    }
}
