//! Where to cut the bytes of a tensor into chunks.
//!
//! Cuts decide what can be shared. A tensor takes the cuts of its parent where it has one ([`inherit`]), so that every
//! chunk has its base at hand; else the bytes themselves say where to cut ([`align`]), so that rows put in or taken out
//! move only the cuts around them. This module sees bytes and lengths; it knows no stores and no encodings.
//!
//! # What always holds
//! * Cuts cover the bytes exactly, in order, without an empty chunk.
//! * They depend on the bytes and the width of an element alone: not on how the bytes arrive, on the CPU or on threads.
//! * No chunk is longer than [`MAX`]. All but the last have at least [`MIN`] bytes and end between two elements.

pub mod align;
pub mod inherit;

pub use align::Cutter;

/// The least bytes of a chunk that is not the last. A tensor of no more is one chunk: biases and norms are not worth a
/// recipe.
pub const MIN: usize = 256 << 10;

/// What a chunk has on average. Each chunk costs a frame and a line in a footer: about a ten-thousandth of this.
pub const AVG: usize = 1 << 20;

/// The most bytes of a chunk: what a reader must hold to have a single element checked, and a writer for each thread.
pub const MAX: usize = 4 << 20;

/// The widest element that cuts respect.
pub const WIDTH_MAX: usize = 8;

const _: () = assert!(MIN < AVG && AVG < MAX && MAX <= u32::MAX as usize);
// So that rounding a cut down to an element never leaves less than MIN, and a forced cut at MAX needs no rounding.
const _: () = assert!(MIN.is_multiple_of(WIDTH_MAX) && MAX.is_multiple_of(WIDTH_MAX));
