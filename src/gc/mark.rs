//! Which chunks of a pack are needed: the one question that the log alone does not answer.
//!
//! A chunk is *live* if a checkpoint is made of it. A chunk that is not may still be needed, as the base that a live one
//! is stored as a difference to: then it is *dead* and held. A live chunk whose base is dead *hangs* on it: stored as a
//! difference to something live, or without a base, it would let go. Where nothing of a chain is left, one of those that
//! hung on its root becomes the new root, and the others rest on that: the *heir*.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::GcVerdict;
use crate::catalog::{Catalog, PackRow};
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::store::{HowStored, Manifest, Store};

/// Checkpoints whose manifests are read for one pack, at most. A pack that more of them need is left as it is: reading
/// them all would cost more than its dead bytes.
const USERS_MAX: u64 = 4096;

/// A frame: its chunk, in that pack.
pub(super) type Copy = (PackId, ChunkId);

/// What is needed of some packs.
#[derive(Debug, Default)]
pub(super) struct Marked {
    /// The slots of the checkpoints that were looked at.
    users: BTreeSet<u64>,
    /// The packs that somebody needs, and whose every user was looked at.
    packs: HashSet<PackId>,
    /// Every frame that those checkpoints read.
    used: HashMap<Copy, Used>,
    /// Every chunk that they are made of.
    live: HashSet<ChunkId>,
    /// For each dead root, and each length of what hangs on it: who takes its place.
    heirs: HashMap<(ChunkId, u32), NewBase>,
}

/// How a frame is used.
#[derive(Debug)]
struct Used {
    bytes: u32,
    chunk_bytes: u32,
    bases: Vec<Copy>,
    /// A checkpoint that reads it.
    slot: u64,
}

/// What is to become of a frame that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is read as it is by the checkpoint in this slot, among others.
    Stays(u64),
    /// It hangs on something dead: it is to be stored as a difference to this chunk, or without a base.
    Hangs(u64, Option<NewBase>),
}

/// What a frame that hung is to rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewBase {
    pub(super) chunk: ChunkId,
    /// A checkpoint that reads it.
    pub(super) slot: u64,
    /// It hangs itself, and will be stored without a base.
    pub(super) is_heir: bool,
}

impl Store {
    /// Reads the manifests of every checkpoint that needs one of these packs. Those that the verdicts let go, and the
    /// components that they drop, need nothing: that is for a collection which is only planned.
    pub(super) fn mark(&self, packs: &[PackRow], planned: &[GcVerdict]) -> Result<Marked> {
        let planned: HashMap<u64, &GcVerdict> = planned.iter().map(|v| (v.checkpoint.slot, v)).collect();
        let goes = |slot: &u64| planned.get(slot).is_some_and(|verdict| verdict.goes());
        let small: BTreeSet<i64> = packs.iter().filter(|pack| pack.refs <= USERS_MAX).map(|pack| pack.row).collect();
        let mut marked = Marked::default();
        if small.is_empty() {
            return Ok(marked);
        }
        let mut users = self.catalog().users_of(&small)?;
        users.retain(|(slot, _)| !goes(slot));
        let needed: BTreeSet<i64> = users.iter().flat_map(|(_, set)| set.intersection(&small)).copied().collect();
        marked.packs.extend(packs.iter().filter(|pack| needed.contains(&pack.row)).map(|pack| pack.pack));
        marked.users = users.iter().map(|(slot, _)| *slot).collect();
        for (slot, _) in users {
            self.check_stop()?;
            let Some(row) = self.catalog().checkpoint(slot)? else { continue };
            // A manifest that cannot be read keeps everything it may need: the error ends the collection.
            let mut manifest = Manifest::open(self, row)?;
            if let Some(verdict) = planned.get(&slot).filter(|verdict| !verdict.thin.is_empty()) {
                manifest.drop_components(&verdict.thin);
            }
            let mut seen = HashSet::new();
            for chunk in manifest.all_chunks()? {
                marked.live.insert(chunk);
                marked.add(&manifest, slot, chunk, &mut seen)?;
            }
        }
        Ok(marked)
    }
}

impl Marked {
    /// True if no other checkpoint needs one of these packs by now: it may need other chunks of them.
    pub(super) fn is_current(&self, catalog: &Catalog, packs: &BTreeSet<i64>) -> Result<bool> {
        Ok(catalog.users_of(packs)?.iter().all(|(slot, _)| self.users.contains(slot)))
    }

    /// True if somebody needs this pack, and everyone who does was looked at.
    pub(super) fn knows(&self, pack: PackId) -> bool {
        self.packs.contains(&pack)
    }

    /// The bytes of all frames that are held only as bases, and of those that are not.
    pub(super) fn dead_and_live_bytes(&self) -> (u64, u64) {
        self.used.iter().fold((0, 0), |(dead, live), (copy, used)| {
            let bytes = u64::from(used.bytes);
            if self.is_dead(*copy) { (dead + bytes, live) } else { (dead, live + bytes) }
        })
    }

    /// The packs of the frames that hang on something dead.
    pub(super) fn packs_that_hang(&self) -> BTreeSet<PackId> {
        self.used.iter().filter(|(copy, used)| self.hangs(**copy, used)).map(|(copy, _)| copy.0).collect()
    }

    /// What is to become of a frame; `None` if nobody needs it. `rebase` lets go of what is dead.
    pub(super) fn fate(&self, copy: Copy, rebase: bool) -> Option<Fate> {
        let used = self.used.get(&copy)?;
        match rebase {
            true if self.is_dead(copy) => None,
            true if self.hangs(copy, used) => Some(Fate::Hangs(used.slot, self.new_base(copy.1, used))),
            _ => Some(Fate::Stays(used.slot)),
        }
    }

    /// Names the heirs, among frames of packs that will be rewritten: the newest, as what is oldest goes soonest.
    pub(super) fn name_heirs(&mut self, is_rewritten: impl Fn(PackId) -> bool) {
        let mut heirs: HashMap<(ChunkId, u32), NewBase> = HashMap::new();
        for (copy, used) in self.used.iter().filter(|(copy, used)| is_rewritten(copy.0) && self.hangs(**copy, used)) {
            let Some(End::Dead(root)) = self.end_of_chain(used) else { continue };
            let next = NewBase { chunk: copy.1, slot: used.slot, is_heir: true };
            let heir = heirs.entry((root, used.chunk_bytes)).or_insert(next);
            if (heir.slot, heir.chunk) < (next.slot, next.chunk) {
                *heir = next;
            }
        }
        self.heirs = heirs;
    }

    /// A chunk is needed where it is read from, and so are its bases. Two checkpoints that share a frame may read its
    /// base from different packs, so each is followed to the end of its chains; `seen` is what this one has followed.
    fn add(&mut self, manifest: &Manifest, slot: u64, chunk: ChunkId, seen: &mut HashSet<ChunkId>) -> Result<()> {
        let place = |chunk: ChunkId| -> Result<(Copy, HowStored)> {
            let how = manifest.chunks.how_stored(chunk).ok_or(Error::ChunkMissing { chunk })?;
            Ok(((how.pack, chunk), how))
        };
        let mut todo = vec![chunk];
        while let Some(chunk) = todo.pop() {
            if !seen.insert(chunk) {
                continue;
            }
            let (copy, HowStored { frame_bytes: bytes, chunk_bytes, .. }) = place(chunk)?;
            let bases = manifest.chunks.bases_of(chunk);
            todo.extend(bases);
            let used = self.used.entry(copy).or_insert_with(|| Used { bytes, chunk_bytes, bases: Vec::new(), slot });
            for base in bases {
                let base = place(*base)?.0;
                if !used.bases.contains(&base) {
                    used.bases.push(base);
                }
            }
        }
        Ok(())
    }

    /// Only where every user of the pack is known.
    fn is_dead(&self, (pack, chunk): Copy) -> bool {
        !self.live.contains(&chunk) && self.knows(pack)
    }

    fn hangs(&self, copy: Copy, used: &Used) -> bool {
        !self.is_dead(copy) && used.bases.iter().any(|base| self.is_dead(*base))
    }

    /// What a frame that hangs is to rest on: what is left of its chain, or the heir of its root.
    fn new_base(&self, chunk: ChunkId, used: &Used) -> Option<NewBase> {
        match self.end_of_chain(used)? {
            End::Live(chunk) => Some(NewBase { chunk, slot: used.slot, is_heir: false }),
            End::Dead(root) => self.heirs.get(&(root, used.chunk_bytes)).filter(|heir| heir.chunk != chunk).copied(),
        }
    }

    /// The nearest chunk of the chain that is not dead, or its root. `None` if checkpoints read a link from different
    /// packs: their chains may part there.
    fn end_of_chain<'a>(&'a self, mut used: &'a Used) -> Option<End> {
        loop {
            let [base] = used.bases[..] else { return None };
            if !self.is_dead(base) {
                return Some(End::Live(base.1));
            }
            used = self.used.get(&base)?;
            if used.bases.is_empty() {
                return Some(End::Dead(base.1));
            }
        }
    }
}

/// Where a chain of dead bases ends.
enum End {
    Live(ChunkId),
    Dead(ChunkId),
}
