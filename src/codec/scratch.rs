//! What the codecs keep between calls, so that a chunk costs no allocation.
//!
//! Nothing in here carries meaning from one call to the next: buffers are overwritten before they are read, and a zstd
//! context begins each frame afresh.

use std::fmt;

use super::delta::DeltaScratch;
use super::entropy::huffman::{Compressor, Decompressor};

/// Buffers and zstd contexts for one thread.
pub struct Scratch {
    /// Codes symbols by how often they occur, and looks for nothing else.
    pub(super) entropy: Compressor,
    /// Looks for repetitions too.
    pub(super) matches: Compressor,
    pub(super) frames: Decompressor,
    /// Planes between the transposition and the coder.
    pub(super) planes: Vec<u8>,
    pub(super) delta: DeltaScratch,
}

impl Scratch {
    /// Empty; it grows to what the largest chunk needs.
    pub fn new() -> Scratch {
        Scratch {
            entropy: Compressor::of_entropy(),
            matches: Compressor::of_matches(),
            frames: Decompressor::new(),
            planes: Vec::new(),
            delta: DeltaScratch::default(),
        }
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// The first `len` elements of a buffer that never shrinks. They hold whatever was there.
pub(crate) fn at_least<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}
