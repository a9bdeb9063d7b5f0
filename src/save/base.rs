//! Which chunk a changed one is stored as a difference to.
//!
//! The counterpart in the reference is nearest, and so costs the fewest bytes. But each link of a chain costs its
//! readers a frame more. A chain that has grown as long as it may begins again at its *root*, the frame without a base:
//! that is some saves back and costs a few more bytes, still far fewer than a frame without a base. Once it does not pay
//! any more, the codec does without, and a new root is made.

use crate::id::ChunkId;
use crate::store::PackSet;

/// The chunk to compare with, and the depth of its frame. `counterpart` is what the reference has in the same place.
pub(super) fn choose(set: &PackSet, counterpart: ChunkId, depth_max: u8) -> Option<(ChunkId, u8)> {
    let depth = set.how_stored(counterpart)?.depth;
    let root = root_of(set, counterpart);
    if depth < limit(root, depth_max) { Some((counterpart, depth)) } else { Some((root, set.how_stored(root)?.depth)) }
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
