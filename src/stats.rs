//! How many bytes there are, of what, and whose.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{CheckpointRow, Filter};
use crate::error::Result;
use crate::store::Store;

/// The whole store.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Runs.
    pub runs: u64,
    /// Kept checkpoints.
    pub checkpoints: u64,
    /// Superseded ones.
    pub superseded: u64,
    /// Forgotten ones, collected or not.
    pub forgotten: u64,
    /// The sum of the sizes of all checkpoints that are not forgotten: what plain copies would take.
    pub raw_bytes: u64,
    /// Packs and log.
    pub stored_bytes: u64,
    /// Of them, packs that no checkpoint needs: a collection frees them.
    pub garbage_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Entries of the log.
    pub entries: u64,
    /// The catalog, which can be made again.
    pub catalog_bytes: u64,
    /// Raw bytes by component.
    pub components: BTreeMap<String, u64>,
}

/// A checkpoint's share of the store.
#[derive(Clone, Debug)]
pub struct Usage {
    /// The checkpoint.
    pub checkpoint: CheckpointRow,
    /// All packs that it needs.
    pub stored_bytes: u64,
    /// Of them, those that nobody else needs: what forgetting it alone would free.
    pub unique_bytes: u64,
    /// The rest.
    pub shared_bytes: u64,
}

impl Store {
    /// Sizes and numbers of the whole store.
    pub fn stats(&self) -> Result<Stats> {
        self.refresh()?;
        let filter = Filter { superseded: true, ..Filter::default() };
        let (rows, packs, counts, runs, position) = {
            let catalog = self.catalog();
            (
                catalog.checkpoints(&filter)?,
                catalog.packs()?,
                catalog.count_checkpoints()?,
                catalog.runs()?,
                catalog.position()?,
            )
        };
        let mut stats =
            Stats { runs: runs.len() as u64, packs: packs.len() as u64, entries: position.next, ..Stats::default() };
        [stats.checkpoints, stats.superseded, stats.forgotten] = counts;
        for row in &rows {
            stats.raw_bytes += row.sizes.raw;
            for (name, bytes) in row.components.iter().filter(|(name, _)| !row.dropped.contains(name)) {
                *stats.components.entry(name.clone()).or_default() += bytes;
            }
        }
        stats.stored_bytes = packs.iter().map(|pack| pack.bytes).sum::<u64>() + self.backend().log_bytes()?;
        stats.garbage_bytes = packs.iter().filter(|pack| pack.refs == 0).map(|pack| pack.bytes).sum();
        stats.catalog_bytes = self.catalog_bytes();
        Ok(stats)
    }

    /// What each checkpoint takes, in the order of the log.
    pub fn usage(&self, run: Option<&str>) -> Result<Vec<Usage>> {
        self.refresh()?;
        if let Some(run) = run {
            self.run_row(run)?;
        }
        let filter = Filter { run: run.map(str::to_string), superseded: true, ..Filter::default() };
        let catalog = self.catalog();
        let rows = catalog.checkpoints(&filter)?;
        rows.into_iter()
            .map(|checkpoint| {
                let packs = catalog.packs_of(checkpoint.slot)?;
                let stored_bytes = packs.iter().map(|pack| pack.bytes).sum();
                let unique_bytes = packs.iter().filter(|pack| pack.refs == 1).map(|pack| pack.bytes).sum();
                Ok(Usage { checkpoint, stored_bytes, unique_bytes, shared_bytes: stored_bytes - unique_bytes })
            })
            .collect()
    }

    /// Bytes of the packs that these checkpoints need, each pack once, and of those that nobody else needs.
    pub fn usage_of(&self, usages: &[Usage]) -> Result<(u64, u64)> {
        let catalog = self.catalog();
        let mut users: BTreeMap<crate::id::PackId, (u64, u64, u64)> = BTreeMap::new();
        let slots: BTreeSet<u64> = usages.iter().map(|usage| usage.checkpoint.slot).collect();
        for slot in slots {
            for pack in catalog.packs_of(slot)? {
                users.entry(pack.pack).or_insert((pack.bytes, pack.refs, 0)).2 += 1;
            }
        }
        let stored = users.values().map(|(bytes, ..)| bytes).sum();
        let unique = users.values().filter(|(_, refs, here)| refs <= here).map(|(bytes, ..)| bytes).sum();
        Ok((stored, unique))
    }

    fn catalog_bytes(&self) -> u64 {
        let path = self.catalog().path().map(std::path::Path::to_path_buf);
        let size = |path: std::path::PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
        path.map_or(0, |path| {
            let with = |suffix: &str| std::path::PathBuf::from(format!("{}{suffix}", path.display()));
            size(with("")) + size(with("-wal"))
        })
    }
}
