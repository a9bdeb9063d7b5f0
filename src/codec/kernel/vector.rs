//! What the loops for vectors share.

use crate::codec::entropy::rans::ROW_WORDS;
use crate::codec::residual::Lane;

/// Bits of a symbol below its leading one.
pub(super) const BELOW: u32 = <u32 as Lane>::BELOW;

/// The words that a row gave so far, at the end of its room.
pub(super) struct Given<'a> {
    pub(super) room: &'a mut [[u8; 2]; ROW_WORDS],
    pub(super) count: usize,
}

/// The words of a row, and how many were taken.
pub(super) struct Ahead<'a> {
    pub(super) words: &'a [[u8; 2]; ROW_WORDS],
    pub(super) count: usize,
}
