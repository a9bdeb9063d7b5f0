//! The look-up of any chunk in the store: which packs may hold it.
//!
//! Sorted runs of (first 8 bytes of the chunk's id, pack), each cut into segments that are a blob each. A save adds a run;
//! eight runs of a level become one of the next, without the packs that are gone. So a save writes its own chunks and now
//! and then merges: no page is written per chunk; and a question reads one segment of each run. A hit is a hint: whether
//! the pack is live, and really has the chunk, is for the asker to check.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::ops::RangeInclusive;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Catalog, PackRow};
use crate::error::Result;
use crate::id::ChunkId;

const ROW: usize = 16;
/// Runs of one level before they are merged.
const FAN: usize = 8;
/// Rows of a segment; more only if they have one prefix.
const SEGMENT_ROWS: usize = 1024;
/// Bytes of segments that a series of questions keeps.
const KEPT_BYTES: usize = 16 << 20;

/// What was read for a series of questions.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// For each run the least prefix and the row of each of its segments, in order.
    directory: Option<Vec<Vec<(u64, i64)>>>,
    segments: HashMap<i64, Vec<u8>>,
    bytes: usize,
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
        let mut run = RunWriter::new(&tx, 0)?;
        rows.iter().try_for_each(|&row| run.put(row))?;
        run.end()?;
        for pack in rows.iter().map(|row| row.1).collect::<BTreeSet<_>>() {
            tx.prepare_cached("UPDATE packs SET indexed = 1 WHERE id = ?")?.execute([pack])?;
        }
        let mut level = 0;
        while merge(&tx, level)? {
            level += 1;
        }
        tx.commit()?;
        Ok(())
    }

    /// Packs that may hold the chunk.
    pub(crate) fn look_up(&self, runs: &mut Runs, chunk: ChunkId) -> Result<Vec<i64>> {
        let Runs { directory, segments, bytes } = runs;
        if directory.is_none() {
            *directory = Some(self::directory(&self.db, 0..=i64::MAX)?);
        }
        let prefix = chunk.prefix();
        let mut found = Vec::new();
        for run in directory.iter().flatten() {
            let Some(at) = run.partition_point(|(first, _)| *first <= prefix).checked_sub(1) else { continue };
            let id = run[at].1;
            if !segments.contains_key(&id) {
                if *bytes >= KEPT_BYTES {
                    segments.clear();
                    *bytes = 0;
                }
                // One that was merged meanwhile is only a hint that is missed.
                let data = segment(&self.db, id)?.unwrap_or_default();
                *bytes += data.len();
                segments.insert(id, data);
            }
            matches(&segments[&id], prefix, &mut found);
        }
        Ok(found)
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
fn matches(segment: &[u8], prefix: u64, found: &mut Vec<i64>) {
    let rows = segment.len() / ROW;
    let (mut low, mut high) = (0, rows);
    // The first row that is not below the prefix.
    let (mut floor, mut ceiling) = (0u64, u64::MAX);
    while low < high {
        let share = (prefix - floor) as f64 / ((ceiling - floor) as f64).max(1.0);
        let guess = low + ((high - low) as f64 * share) as usize;
        let middle = guess.clamp(low, high - 1);
        let (at, _) = row_at(segment, middle);
        if at < prefix {
            low = middle + 1;
            floor = at;
        } else {
            high = middle;
            ceiling = at;
        }
    }
    found.extend((low..rows).map(|n| row_at(segment, n)).take_while(|(at, _)| *at == prefix).map(|(_, pack)| pack));
}

fn row_at(segment: &[u8], n: usize) -> (u64, i64) {
    let word = |at: usize| segment.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
    (word(n * ROW), word(n * ROW + 8) as i64)
}

/// For each run of these levels the least prefix and the row of each of its segments, in order.
fn directory(db: &Connection, levels: RangeInclusive<i64>) -> Result<Vec<Vec<(u64, i64)>>> {
    let sql = "SELECT run, first, id FROM lookups WHERE level BETWEEN ? AND ?";
    let mut statement = db.prepare_cached(sql)?;
    let segments = statement.query_map([levels.start(), levels.end()], |row| {
        Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get(2)?))
    })?;
    let mut runs: BTreeMap<i64, Vec<(u64, i64)>> = BTreeMap::new();
    for segment in segments {
        let (run, first, id) = segment?;
        runs.entry(run).or_default().push((first, id));
    }
    // The bits of a prefix are no order of SQLite's.
    runs.values_mut().for_each(|segments| segments.sort_unstable());
    Ok(runs.into_values().collect())
}

fn segment(db: &Connection, id: i64) -> Result<Option<Vec<u8>>> {
    let mut statement = db.prepare_cached("SELECT data FROM lookups WHERE id = ?")?;
    Ok(statement.query_row([id], |row| row.get(0)).optional()?)
}

/// Writes a run: rows in order, without duplicates.
struct RunWriter<'a> {
    db: &'a Connection,
    level: i64,
    run: i64,
    rows: Vec<(u64, i64)>,
}

impl<'a> RunWriter<'a> {
    fn new(db: &'a Connection, level: i64) -> Result<RunWriter<'a>> {
        let run = db.query_row("SELECT coalesce(max(id), 0) + 1 FROM lookups", [], |row| row.get(0))?;
        Ok(RunWriter { db, level, run, rows: Vec::with_capacity(SEGMENT_ROWS) })
    }

    fn put(&mut self, row: (u64, i64)) -> Result<()> {
        // Rows of one prefix stay together: a question reads one segment.
        if self.rows.len() >= SEGMENT_ROWS && self.rows.last().is_some_and(|last| last.0 != row.0) {
            self.end_segment()?;
        }
        self.rows.push(row);
        Ok(())
    }

    fn end_segment(&mut self) -> Result<()> {
        let Some(&(first, _)) = self.rows.first() else { return Ok(()) };
        let data: Vec<u8> =
            self.rows.iter().flat_map(|(prefix, pack)| [prefix.to_be_bytes(), pack.to_be_bytes()]).flatten().collect();
        self.db
            .prepare_cached("INSERT INTO lookups (level, run, first, data) VALUES (?, ?, ?, ?)")?
            .execute(params![self.level, self.run, first as i64, data])?;
        self.rows.clear();
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.end_segment()
    }
}

/// Reads a run, one segment at a time.
struct RunReader<'a> {
    db: &'a Connection,
    segments: std::vec::IntoIter<(u64, i64)>,
    data: Vec<u8>,
    at: usize,
}

impl RunReader<'_> {
    fn next(&mut self) -> Result<Option<(u64, i64)>> {
        while self.at == self.data.len() / ROW {
            let Some((_, id)) = self.segments.next() else { return Ok(None) };
            (self.data, self.at) = (segment(self.db, id)?.unwrap_or_default(), 0);
        }
        self.at += 1;
        Ok(Some(row_at(&self.data, self.at - 1)))
    }
}

/// Makes one run of the next level of those of this one, if they are enough.
fn merge(db: &Connection, level: i64) -> Result<bool> {
    let runs = directory(db, level..=level)?;
    if runs.len() < FAN {
        return Ok(false);
    }
    let mut readers: Vec<RunReader<'_>> = Vec::new();
    let mut heads = BinaryHeap::new();
    for (n, segments) in runs.into_iter().enumerate() {
        let mut reader = RunReader { db, segments: segments.into_iter(), data: Vec::new(), at: 0 };
        heads.extend(reader.next()?.map(|row| Reverse((row, n))));
        readers.push(reader);
    }
    let mut alive = Alive { db, known: HashMap::new() };
    let mut merged = RunWriter::new(db, level + 1)?;
    let mut last = None;
    while let Some(Reverse((row, n))) = heads.pop() {
        if last != Some(row) && alive.is(row.1)? {
            merged.put(row)?;
        }
        last = Some(row);
        heads.extend(readers[n].next()?.map(|row| Reverse((row, n))));
    }
    merged.end()?;
    db.execute("DELETE FROM lookups WHERE level = ?", [level])?;
    Ok(true)
}

/// Which packs may be used.
struct Alive<'a> {
    db: &'a Connection,
    known: HashMap<i64, bool>,
}

impl Alive<'_> {
    fn is(&mut self, pack: i64) -> Result<bool> {
        if let Some(&known) = self.known.get(&pack) {
            return Ok(known);
        }
        let sql = "SELECT 1 FROM packs WHERE id = ? AND state = 0";
        let known = self.db.prepare_cached(sql)?.exists([pack])?;
        self.known.insert(pack, known);
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{Hash, StoreId};

    /// A catalog that knows packs of these rows, and nothing else of them.
    fn catalog(packs: i64) -> Catalog {
        let catalog = Catalog::in_memory(StoreId::default(), Hash::default()).unwrap();
        for id in 1..=packs {
            let sql =
                "INSERT INTO packs (id, save, number, bytes, footer, refs, state) VALUES (?, x'', ?, 0, x'', 0, 0)";
            catalog.db.execute(sql, [id, id]).unwrap();
        }
        catalog
    }

    fn chunk(number: i64) -> ChunkId {
        ChunkId::of(&number.to_le_bytes())
    }

    #[test]
    fn every_chunk_is_found_in_its_pack_whatever_was_merged() {
        let (packs, each) = (150, 100);
        let mut catalog = catalog(packs);
        for pack in 1..=packs {
            // Each has one chunk of the pack before.
            catalog.add_lookup((pack * each - 1..(pack + 1) * each).map(|n| (chunk(n), pack))).unwrap();
        }
        let segments: i64 = catalog.db.query_row("SELECT count(*) FROM lookups", [], |row| row.get(0)).unwrap();
        assert!((15..40).contains(&segments), "{segments} segments");
        let mut runs = Runs::default();
        for pack in 1..=packs {
            assert_eq!(catalog.look_up(&mut runs, chunk(pack * each)).unwrap(), [pack]);
            let mut both = catalog.look_up(&mut runs, chunk((pack + 1) * each - 1)).unwrap();
            both.sort_unstable();
            assert_eq!(both, (pack..=packs.min(pack + 1)).collect::<Vec<_>>());
        }
        assert!(catalog.look_up(&mut runs, chunk(7)).unwrap().is_empty());
    }

    #[test]
    fn a_merge_leaves_out_packs_that_are_gone() {
        let mut catalog = catalog(8);
        for pack in 1..=7 {
            catalog.add_lookup([(chunk(0), pack)].into_iter()).unwrap();
        }
        catalog.db.execute("UPDATE packs SET state = 2 WHERE id IN (2, 5)", []).unwrap();
        catalog.add_lookup([(chunk(1), 8)].into_iter()).unwrap();
        assert_eq!(catalog.look_up(&mut Runs::default(), chunk(0)).unwrap(), [1, 3, 4, 6, 7]);
    }

    #[test]
    fn rows_of_one_prefix_stay_in_one_segment() {
        let many = 3 * SEGMENT_ROWS as i64;
        let mut catalog = catalog(many);
        catalog.add_lookup((1..=many).map(|pack| (chunk(0), pack))).unwrap();
        assert_eq!(catalog.look_up(&mut Runs::default(), chunk(0)).unwrap().len(), many as usize);
    }

    proptest! {
        #[test]
        fn interpolation_finds_what_a_scan_finds(mut rows: Vec<(u64, i64)>, few in 0u64..5, ask: prop::sample::Index) {
            rows.iter_mut().step_by(2).for_each(|row| row.0 = few);
            rows.push((u64::MAX, 3));
            rows.sort_unstable();
            let segment: Vec<u8> = rows.iter().flat_map(|(a, b)| [a.to_be_bytes(), b.to_be_bytes()]).flatten().collect();
            for prefix in [rows[ask.index(rows.len())].0, few, 0, u64::MAX, 77] {
                let mut found = Vec::new();
                matches(&segment, prefix, &mut found);
                let scan: Vec<i64> = rows.iter().filter(|row| row.0 == prefix).map(|row| row.1).collect();
                prop_assert_eq!(found, scan);
            }
        }
    }
}
