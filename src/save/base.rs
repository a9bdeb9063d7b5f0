//! Which chunk a changed one is stored as a difference to.
//!
//! The counterpart in the reference is nearest, and so costs the fewest bytes. But each link of a chain costs its
//! readers a frame more. A chain that has grown as long as it may begins again at its *root*, the frame without a base:
//! that is some saves back and costs a few more bytes, still far fewer than a frame without a base. Once it does not pay
//! any more, the codec does without, and a new root is made. Where a difference saves little, being near saves less: the
//! less, the sooner such chains begin again.
//!
//! A base has to stay as long as what rests on it. Under a policy that lets the newest steps go after a while, chains
//! from step to step would soon hang on what is gone, and a collection would have to encode them again. Then bases are
//! taken from the newest checkpoint that the policy keeps for another reason than its age, and will keep for long: the
//! *anchor*. Of the best steps that is the very best, as the others go first.

use super::Encoding;
use crate::catalog::{Catalog, CheckpointRow, Status};
use crate::error::Result;
use crate::format::policy::Keep;
use crate::id::ChunkId;
use crate::store::PackSet;

/// The share of a chunk that a difference must save for its chain to grow as long as it may.
const MUCH: f64 = 0.25;
/// However little is saved, chains may grow as long as this.
const SHORT: u8 = 3;
/// Frames of at most this share of a chunk are read in next to no time, however many there are in a chain.
const TINY: f64 = 1.0 / 16.0;

/// The newest checkpoint that will be kept for long, to take bases from: the parent itself, if it is one. None where the
/// policy keeps nothing for long, or nothing goes.
pub(super) fn anchor(catalog: &Catalog, run: &str, parent: Option<&CheckpointRow>) -> Result<Option<CheckpointRow>> {
    let (Some(run), Some(parent)) = (catalog.run(run)?, parent) else { return Ok(None) };
    let ages = |keep: &Keep| matches!(keep, Keep::Last(_) | Keep::Within(_));
    if run.policy.keeps.is_empty() || parent.run != run.name || !run.policy.keeps.iter().any(ages) {
        return Ok(None);
    }
    let modes = catalog.modes(&run)?;
    let mut lasting: Vec<CheckpointRow> = Vec::new();
    for keep in &run.policy.keeps {
        match keep {
            Keep::Best { metric, .. } => {
                if let Some(mode) = modes.get(metric) {
                    lasting.extend(catalog.best(&run, metric, *mode, 1)?);
                }
            }
            Keep::Every(n) => lasting.extend(catalog.checkpoint_at(&run, parent.step - parent.step % (*n).max(1))?),
            Keep::Step(step) => lasting.extend(catalog.checkpoint_at(&run, *step)?),
            Keep::Last(_) | Keep::Within(_) | Keep::EveryDuration(_) | Keep::Tagged => {}
        }
    }
    if !parent.tags.is_empty() && run.policy.keeps.contains(&Keep::Tagged) {
        return Ok(Some(parent.clone()));
    }
    let stays = |row: &CheckpointRow| row.status == Status::Kept && row.dropped.is_empty() && row.step <= parent.step;
    Ok(lasting.into_iter().filter(stays).max_by_key(|row| row.step))
}

/// The chunk to compare with, and the depth of its frame. `counterpart` is what the reference has in the same place.
pub(super) fn choose(set: &PackSet, counterpart: ChunkId, encoding: Encoding) -> Option<(ChunkId, u8)> {
    let nearest = set.how_stored(counterpart)?;
    let root = root_of(set, counterpart);
    let first = set.how_stored(root)?;
    let (chunk, near) = (f64::from(nearest.chunk_bytes), f64::from(nearest.frame_bytes));
    let longest = encoding.depth_max();
    let depth_max = if encoding == Encoding::Small || near < TINY * chunk {
        longest
    } else {
        // No base can be worth more than what the nearest one saves beside none.
        let saved = f64::from(first.frame_bytes) - near;
        (f64::from(longest) * (saved / (MUCH * chunk)).min(1.0)).ceil().max(SHORT.into()) as u8
    };
    if nearest.depth < limit(root, depth_max) { Some((counterpart, nearest.depth)) } else { Some((root, first.depth)) }
}

/// The first chunk of the chain that ends in this one.
fn root_of(set: &PackSet, chunk: ChunkId) -> ChunkId {
    let mut root = chunk;
    while let [base] = *set.bases_of(root) {
        root = base;
    }
    root
}

/// How long the chains of a root may grow: the chains of a tensor begin at the same save, and are not to end at the
/// same, so up to a quarter is taken off by what is chance.
fn limit(root: ChunkId, depth_max: u8) -> u8 {
    depth_max - root.0[31] % (depth_max / 4).max(1)
}
