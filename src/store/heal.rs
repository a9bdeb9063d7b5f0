//! Healing: a good copy of what lies damaged elsewhere becomes everybody's.
//!
//! A known-bad copy is never relied on by anything new. So a save that has the same chunk writes it again, and an entry
//! gives the pack with the good copy to every checkpoint that needs the damaged one.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::pack_writer::PackWriter;
use super::{Published, Store};
use crate::catalog::PackState;
use crate::error::Result;
use crate::format::entry::{Body, Heal, NewPack};
use crate::format::pack::Footer;
use crate::id::{ChunkId, PackId, SaveId};

impl Store {
    /// Packs with damaged copies of these chunks.
    fn damaged_copies_of(&self, chunks: impl Iterator<Item = ChunkId>) -> Result<BTreeSet<PackId>> {
        let bad = self.catalog().bad()?;
        if bad.is_empty() {
            return Ok(BTreeSet::new());
        }
        let chunks: HashSet<ChunkId> = chunks.collect();
        Ok(bad.into_iter().filter(|(_, chunk)| chunks.contains(chunk)).map(|(pack, _)| pack.pack).collect())
    }

    /// These packs are in the log by now. If they hold good copies of what is damaged elsewhere, they heal it.
    pub(crate) fn heal_with(&self, published: &Published) -> Result<()> {
        let mut heals: BTreeMap<BTreeSet<PackId>, Vec<PackId>> = BTreeMap::new();
        for footer in &published.footers {
            let damaged = self.damaged_copies_of(footer.rows.iter().map(|row| row.chunk))?;
            if !damaged.is_empty() {
                heals.entry(damaged).or_default().push(footer.pack);
            }
        }
        for (damaged, with) in heals {
            self.heal(damaged, with)?;
        }
        Ok(())
    }

    /// Gives packs with good copies to all who need damaged ones.
    pub(crate) fn heal(&self, damaged: BTreeSet<PackId>, with: Vec<PackId>) -> Result<()> {
        self.append(SaveId::default(), 0, |catalog| {
            let live = |pack: &PackId| matches!(catalog.pack(*pack), Ok(Some(row)) if row.state == PackState::Live);
            let heals: Vec<PackId> = damaged.iter().copied().filter(live).collect();
            let usable = !heals.is_empty() && with.iter().all(live);
            Ok(usable.then(|| Body::Heal(Heal { packs: Vec::new(), with: with.clone(), heals })))
        })?;
        Ok(())
    }

    /// A save whose checkpoint is there already: what it wrote anew, because it is damaged there, is kept all the same.
    /// `others` are packs of the same save that are published already.
    pub(crate) fn heal_identical(&self, save: SaveId, packs: PackWriter, others: Vec<(NewPack, Footer)>) -> Result<()> {
        let theirs = others.iter().flat_map(|(_, footer)| &footer.rows).map(|row| row.chunk);
        let damaged = self.damaged_copies_of(packs.chunks().chain(theirs))?;
        if damaged.is_empty() {
            return Ok(());
        }
        let packs_of_others = others.iter().map(|(pack, _)| *pack).collect();
        let mut heal = Heal { packs: packs_of_others, with: Vec::new(), heals: damaged.into_iter().collect() };
        let mut published = packs.publish(&Body::Heal(heal.clone()).encode())?;
        published.add(others);
        heal.packs.clone_from(&published.packs);
        let written = self.append(save, 0, |catalog| {
            let live = |pack: &PackId| matches!(catalog.pack(*pack), Ok(Some(row)) if row.state == PackState::Live);
            Ok((!catalog.is_aborted(save)? && heal.heals.iter().all(live)).then(|| Body::Heal(heal.clone())))
        })?;
        if written.is_some() {
            published.committed();
        }
        Ok(())
    }
}
