//! Which chunks of a pack are needed: the one question that the log alone does not answer.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::catalog::{Catalog, PackRow};
use crate::error::Result;
use crate::id::{ChunkId, PackId};
use crate::store::{Manifest, Store};

/// Checkpoints whose manifests are read for one pack, at most. A pack that more of them need is left as it is: reading
/// them all would cost more than its dead bytes.
const USERS_MAX: usize = 4096;

/// What is needed of some packs.
#[derive(Debug, Default)]
pub(super) struct Marked {
    /// The slots of the checkpoints that were looked at.
    users: BTreeSet<u64>,
    needed: HashMap<PackId, HashSet<ChunkId>>,
}

impl Marked {
    /// True if no other checkpoint needs one of these packs by now: it may need other chunks of them.
    pub(super) fn is_current(&self, catalog: &Catalog, packs: &BTreeSet<i64>) -> Result<bool> {
        Ok(catalog.users_of(packs)?.iter().all(|(slot, _)| self.users.contains(slot)))
    }

    /// The needed chunks of a pack; `None` if that is not known.
    pub(super) fn of(&self, pack: PackId) -> Option<&HashSet<ChunkId>> {
        self.needed.get(&pack)
    }
}

impl Store {
    /// Reads the manifests of every checkpoint that needs one of these packs.
    pub(super) fn mark(&self, packs: &[PackRow]) -> Result<Marked> {
        let rows: BTreeSet<i64> = packs.iter().map(|pack| pack.row).collect();
        let users = self.catalog().users_of(&rows)?;
        let mut counts: HashMap<i64, usize> = HashMap::new();
        for row in users.iter().flat_map(|(_, set)| set.intersection(&rows)) {
            *counts.entry(*row).or_default() += 1;
        }
        let small: BTreeSet<i64> =
            rows.iter().copied().filter(|row| counts.get(row).copied().unwrap_or(0) <= USERS_MAX).collect();
        let mut marked = Marked::default();
        for pack in packs.iter().filter(|pack| small.contains(&pack.row)) {
            marked.needed.insert(pack.pack, HashSet::new());
        }
        marked.users = users.iter().map(|(slot, _)| *slot).collect();
        for (slot, set) in users {
            if set.is_disjoint(&small) {
                continue;
            }
            self.check_stop()?;
            let Some(row) = self.catalog().checkpoint(slot)? else { continue };
            // A manifest that cannot be read keeps everything it may need: the error ends the collection.
            let manifest = Manifest::open(self, row)?;
            for chunk in manifest.all_chunks()? {
                marked.add(&manifest, chunk)?;
            }
        }
        Ok(marked)
    }
}

impl Marked {
    /// A chunk is needed where it is read from, and so are its bases.
    fn add(&mut self, manifest: &Manifest, chunk: ChunkId) -> Result<()> {
        let mut todo = vec![chunk];
        while let Some(chunk) = todo.pop() {
            let pack = manifest.chunks.pack_of(chunk).ok_or(crate::Error::ChunkMissing { chunk })?;
            if let Some(needed) = self.needed.get_mut(&pack) {
                needed.insert(chunk);
            }
            todo.extend(manifest.chunks.bases_of(chunk));
        }
        Ok(())
    }
}
