//! Whether a base is worth a trial.
//!
//! That no difference helps is found at the price of one: the base has to be read, decoded and counted. Of Adam's first
//! moments that is so at every save, for a third of its bytes. What was found stands in the store: where the reference has a
//! whole tensor without bases, and the checkpoint before has another one in its place without bases too, no difference
//! helped at the last save, for no chain begins anew right behind its root. Then one chunk in a few is tried, which is
//! enough to notice that times have changed: the next save sees its base, and tries them all. With an anchor, earlier saves may
//! have been compared with something else than their parents: nothing is learned from them.

use std::sync::OnceLock;

use super::cut::Part;
use super::reference::Counterpart;
use crate::catalog::{CheckpointRow, Status};
use crate::error::Result;
use crate::format::manifest::Stored;
use crate::id::ChunkId;
use crate::store::{ChunkTool, Manifest, PackSet, Store};

/// Of so many chunks one is tried all the same.
const ONE_IN: u8 = 8;
/// Of less than this, all are tried: to look at what was found before would cost as much.
const LEAST_BYTES: u64 = 256 << 10;

/// What trials of earlier saves found, looked at as far as it is asked for.
#[derive(Debug)]
pub(super) struct Trials<'a> {
    store: &'a Store,
    reference: &'a Manifest,
    /// The checkpoint that the reference continues, with how its tensors are stored; `None` if there is none to learn from.
    earlier: OnceLock<Option<(Manifest, Vec<Option<Stored>>)>>,
}

impl<'a> Trials<'a> {
    pub(super) fn new(store: &'a Store, reference: &'a Manifest) -> Trials<'a> {
        Trials { store, reference, earlier: OnceLock::new() }
    }

    /// Whether to try a base that is stored without one itself, the chunk `base` of the part's counterpart.
    pub(super) fn is_due(&self, part: &Part<'_>, base: ChunkId) -> bool {
        part.length < LEAST_BYTES
            || base.0[30].is_multiple_of(ONE_IN)
            || !*part.fruitless.get_or_init(|| self.failed(part))
    }

    /// True if no chunk of the part's tensor had a base in the reference, though each could have had one.
    fn failed(&self, part: &Part<'_>) -> bool {
        let Some(Counterpart { stored, number: Some(number), .. }) = part.counterpart else { return false };
        // What cannot be read is no reason not to try.
        let earlier = self.earlier.get_or_init(|| self.open_earlier().ok().flatten());
        let Some((earlier, tensors)) = earlier else { return false };
        let before = tensors.get(number).copied().flatten().filter(|before| before.id != stored.id);
        before.is_some_and(|before| alone(&earlier.chunks, &before) && alone(&self.reference.chunks, &stored))
    }

    fn open_earlier(&self) -> Result<Option<(Manifest, Vec<Option<Stored>>)>> {
        let reference = &self.reference.row;
        let row = reference.parent.map(|slot| self.store.catalog().checkpoint(slot)).transpose()?.flatten();
        let alike = |row: &CheckpointRow| row.status != Status::Forgotten && row.schema == reference.schema;
        let Some(row) = row.filter(alike) else { return Ok(None) };
        let earlier = Manifest::open(self.store, row)?;
        let tensors = earlier.tensors()?;
        Ok(Some((earlier, tensors)))
    }
}

/// True if all chunks of a tensor are stored without bases.
fn alone(chunks: &PackSet, stored: &Stored) -> bool {
    let is_alone = |chunk| chunks.how_stored(chunk).is_some_and(|how| how.depth == 0);
    let recipe = chunks.recipe(stored, &mut ChunkTool::default());
    recipe.is_ok_and(|recipe| recipe.0.into_iter().all(|(chunk, _)| is_alone(chunk)))
}
