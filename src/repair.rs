//! Repair: saving what can be saved, and saying what is gone.
//!
//! Nothing is changed or deleted: repair only adds entries. In this order, each step of use without the next:
//! 1. Slots that cannot be read become *void*, so that every reader agrees on what they say. Where packs still say it,
//!    the entry is made again and stands in its place.
//! 2. Copies of chunks that are damaged are marked *bad*: nothing new relies on them.
//! 3. Checkpoints that need a bad copy get a pack with a good one, if the store has any: they are *healed*.
//!
//! What is still lost then is lost, until the same content is saved again.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::catalog::{CheckpointRow, Filter, PackRow};
use crate::error::{Error, Result};
use crate::format::entry::{Bad, BadCopies, Body, Void, VoidSlot};
use crate::id::{ChunkId, PackId, SaveId};
use crate::store::{Manifest, Store, Voids, WHOLE};
use crate::verify::{Affected, Damage, Depth, Findings};

/// Entries that are voided may take others along that speak of them, and those others again.
const ROUNDS_MAX: usize = 16;
/// Copies in one entry: well below the size that an entry may have.
const PER_ENTRY: usize = 4096;

/// What a repair did, or would do.
#[derive(Clone, Debug, Default)]
pub struct RepairReport {
    /// What was found to be damaged, and was not known.
    pub damage: Vec<Damage>,
    /// Slots of the log that have no effect of their own any more.
    pub voided: Vec<u64>,
    /// Of these, the ones whose entry was made again.
    pub remade: Vec<u64>,
    /// Damaged copies that were marked.
    pub marked: u64,
    /// Packs whose damage was made good by copies in others.
    pub healed: Vec<PackId>,
    /// Checkpoints that are still not whole, with what is gone of them.
    pub gone: Vec<Affected>,
}

impl Store {
    /// Reads everything, and repairs what can be repaired; or only says what it would begin with.
    pub fn repair(&self, dry_run: bool) -> Result<RepairReport> {
        let mut report = RepairReport::default();
        if dry_run {
            let (found, findings) = self.look_through(Depth::Deep)?;
            let cold = self.cold()?;
            let voids = cold.remake(&cold.unreadable()?)?;
            note(&voids, &mut report);
            report.marked = self.unmarked(&findings)?.len() as u64;
            (report.damage, report.gone) = (found.damage, found.affected);
            return Ok(report);
        }
        report.damage = self.look_through(Depth::Deep)?.0.damage;
        self.void_unreadable(&mut report)?;
        self.refresh()?;
        self.check_catalog()?;
        let (_, findings) = self.look_through(Depth::Deep)?;
        self.mark_bad(&findings, &mut report)?;
        self.heal_from_others(&findings, &mut report)?;
        report.gone = self.look_through(Depth::Deep)?.0.affected;
        Ok(report)
    }

    fn void_unreadable(&self, report: &mut RepairReport) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            let cold = self.cold()?;
            let damaged = cold.catalog().damaged()?;
            if damaged.is_empty() {
                return Ok(());
            }
            for (slot, _) in &damaged {
                self.check_known(*slot)?;
            }
            let mut voids = cold.remake(&cold.unreadable()?)?;
            cold.fold_as_if(&voids)?;
            // What makes no sense without the others has no effect, and says so from now on.
            voids.extend(cold.catalog().damaged()?.into_iter().map(|(slot, _)| (slot, None)));
            self.put_voids(&voids)?;
            note(&voids, report);
        }
        Err(Error::damaged("the log", "more of it makes no sense with every round of repair"))
    }

    fn put_voids(&self, voids: &Voids) -> Result<()> {
        let slots = |voids: &Voids| -> Vec<VoidSlot> {
            voids.iter().map(|(&slot, entry)| VoidSlot { slot, entry: entry.clone() }).collect()
        };
        match self.append_void(&self.cold()?, Void { slots: slots(voids) }) {
            // Too much for one entry: one at a time, those that bring packs first.
            Err(Error::Limit { .. }) if voids.len() > 1 => {
                voids.iter().try_for_each(|(slot, entry)| self.put_voids(&[(*slot, entry.clone())].into()))
            }
            done => done,
        }
    }

    /// Damaged copies that the log does not know of, by pack; of a whole pack also what is known to be lost with it.
    fn unmarked(&self, findings: &Findings) -> Result<Vec<(PackId, ChunkId)>> {
        let mut copies: BTreeSet<(PackId, ChunkId)> = findings.bad_chunks.clone();
        for &pack in &findings.bad_packs {
            copies.insert((pack, WHOLE));
            copies.extend(self.chunks_lost_with(pack, findings)?.into_iter().map(|chunk| (pack, chunk)));
        }
        let known: HashSet<(PackId, ChunkId)> =
            self.catalog().bad()?.into_iter().map(|(pack, chunk)| (pack.pack, chunk)).collect();
        Ok(copies.into_iter().filter(|copy| !known.contains(copy)).collect())
    }

    fn mark_bad(&self, findings: &Findings, report: &mut RepairReport) -> Result<()> {
        let copies = self.unmarked(findings)?;
        for some in copies.chunks(PER_ENTRY) {
            let mut by_pack: BTreeMap<PackId, Vec<ChunkId>> = BTreeMap::new();
            some.iter().for_each(|&(pack, chunk)| by_pack.entry(pack).or_default().push(chunk));
            let mut bad = Vec::new();
            for (pack, mut chunks) in by_pack {
                if chunks.contains(&WHOLE) {
                    chunks.retain(|&chunk| chunk != WHOLE);
                    bad.push(BadCopies { pack, chunks: Vec::new() });
                }
                if !chunks.is_empty() {
                    bad.push(BadCopies { pack, chunks });
                }
            }
            self.append(SaveId::default(), 0, |_| Ok(Some(Body::Bad(Bad { copies: bad.clone() }))))?;
            report.marked += some.len() as u64;
        }
        Ok(())
    }

    /// The chunks that checkpoints need and that only a pack has of which nothing can be read.
    fn chunks_lost_with(&self, pack: PackId, findings: &Findings) -> Result<BTreeSet<ChunkId>> {
        let mut lost = BTreeSet::new();
        for row in self.users_of(pack)? {
            let sound: Vec<PackRow> = self.sound_packs_of(&row, findings)?;
            let set = self.pack_set(sound)?;
            let roots = [row.manifest.id, row.schema];
            lost.extend(roots.into_iter().filter(|&chunk| !set.contains(chunk)));
            if let Ok(manifest) = Manifest::open_from(set, row) {
                lost.extend(manifest.named_chunks().into_iter().filter(|&chunk| !manifest.chunks.contains(chunk)));
            }
        }
        lost.remove(&ChunkId::of(b""));
        Ok(lost)
    }

    fn users_of(&self, pack: PackId) -> Result<Vec<CheckpointRow>> {
        let Some(found) = self.catalog().pack(pack)? else { return Ok(Vec::new()) };
        let users: BTreeSet<u64> =
            self.catalog().users_of(&[found.row].into())?.into_iter().map(|(slot, _)| slot).collect();
        let rows = self.catalog().checkpoints(&Filter { superseded: true, ..Filter::default() })?;
        Ok(rows.into_iter().filter(|row| users.contains(&row.slot)).collect())
    }

    fn sound_packs_of(&self, row: &CheckpointRow, findings: &Findings) -> Result<Vec<PackRow>> {
        let packs = self.catalog().packs_of(row.slot)?;
        Ok(packs.into_iter().filter(|pack| !findings.bad_packs.contains(&pack.pack)).collect())
    }

    /// Looks for good copies of what is damaged in every pack of the store.
    fn heal_from_others(&self, findings: &Findings, report: &mut RepairReport) -> Result<()> {
        let bad = self.catalog().bad()?;
        if bad.is_empty() {
            return Ok(());
        }
        let wanted: HashSet<ChunkId> = bad.iter().map(|(_, chunk)| *chunk).collect();
        let good = self.good_copies(&wanted, findings)?;
        let mut heals: BTreeMap<PackId, BTreeSet<PackId>> = BTreeMap::new();
        for (damaged, chunk) in bad {
            let Some(copies) = good.get(&chunk) else { continue };
            let users = self.catalog().users_of(&[damaged.row].into())?;
            for (slot, _) in users {
                let has: HashSet<PackId> = self.catalog().packs_of(slot)?.into_iter().map(|pack| pack.pack).collect();
                if !copies.iter().any(|copy| has.contains(copy)) {
                    heals.entry(damaged.pack).or_default().extend(copies.first());
                }
            }
        }
        for (damaged, with) in heals {
            self.heal([damaged].into(), with.into_iter().collect())?;
            report.healed.push(damaged);
        }
        Ok(())
    }

    /// Packs with a good copy of these chunks that rests on no other.
    fn good_copies(
        &self,
        wanted: &HashSet<ChunkId>,
        findings: &Findings,
    ) -> Result<BTreeMap<ChunkId, BTreeSet<PackId>>> {
        let mut good: BTreeMap<ChunkId, BTreeSet<PackId>> = BTreeMap::new();
        let packs = self.catalog().packs()?;
        for pack in packs.iter().filter(|pack| pack.state == crate::catalog::PackState::Live) {
            if findings.bad_packs.contains(&pack.pack) {
                continue;
            }
            for row in self.footer(pack)?.rows {
                let is_good = row.bases.is_empty() && !findings.bad_chunks.contains(&(pack.pack, row.chunk));
                if is_good && wanted.contains(&row.chunk) {
                    good.entry(row.chunk).or_default().insert(pack.pack);
                }
            }
        }
        Ok(good)
    }
}

fn note(voids: &Voids, report: &mut RepairReport) {
    report.voided.extend(voids.keys());
    report.remade.extend(voids.iter().filter(|(_, entry)| entry.is_some()).map(|(slot, _)| *slot));
}
