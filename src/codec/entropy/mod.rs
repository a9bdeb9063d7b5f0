//! Entropy coding: symbols with known odds, in as few bits as these allow.
//!
//! * [`huffman`] hands whole planes to zstd's Huffman stage: for symbols that depend on nothing.
//! * [`rans`] is a coder of our own for symbols whose odds depend on a context that both sides know before. Contexts
//!   are merged into a few [`classes`], each with a [`table`] of odds that is stored with what it coded.
//!
//! Everything here is integers: the same input gives the same bytes on every machine.

pub(super) mod classes;
pub(super) mod huffman;
mod log2;
pub(super) mod rans;
pub(super) mod symbol;
pub(super) mod table;

pub(super) use log2::{FRACTION, log2};
