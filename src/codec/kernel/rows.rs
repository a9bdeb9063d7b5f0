//! The loops over the rows of a chunk, written once: each instruction set compiles them for itself.

use crate::codec::entropy::classes::{CONTEXTS, Counts};
use crate::codec::entropy::rans::{LANES, Put, Words, WordsBack, count_row, decode_row, encode_row};
use crate::codec::residual::{Lane, Residual};

/// Rows for which the bit of `mask` is set.
#[inline(always)]
pub(super) fn coded(mask: &[u8], row: usize) -> bool {
    mask[row / 8] >> (row % 8) & 1 == 1
}

#[inline(always)]
fn read<L: Lane, const WIDTH: usize>(bytes: &[u8]) -> [L; LANES] {
    let mut elements = [L::from_bits(0); LANES];
    for (element, bytes) in elements.iter_mut().zip(bytes.chunks_exact(WIDTH)) {
        *element = L::read(bytes);
    }
    elements
}

#[inline(always)]
pub(super) fn count<L: Lane, const WIDTH: usize>(
    residual: impl Residual<L>,
    base: &[u8],
    bytes: &[u8],
    mask: &[u8],
    counts: &mut Counts,
) {
    let rows = base.chunks_exact(LANES * WIDTH).zip(bytes.chunks_exact(LANES * WIDTH));
    for (_, (base, bytes)) in rows.enumerate().filter(|(row, _)| coded(mask, *row)) {
        count_row(residual, &read::<L, WIDTH>(base), &read::<L, WIDTH>(bytes), counts);
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "what the tables and the states are is the caller's")]
pub(super) fn encode<L: Lane, const WIDTH: usize>(
    residual: impl Residual<L>,
    base: &[u8],
    bytes: &[u8],
    mask: &[u8],
    classes: &[u8; CONTEXTS],
    puts: &[Put],
    states: &mut [u32; LANES],
    words: &mut WordsBack<'_>,
) {
    let rows = base.chunks_exact(LANES * WIDTH).zip(bytes.chunks_exact(LANES * WIDTH));
    for (_, (base, bytes)) in rows.enumerate().rev().filter(|(row, _)| coded(mask, *row)) {
        encode_row(residual, &read::<L, WIDTH>(base), &read::<L, WIDTH>(bytes), classes, puts, states, words);
    }
}

#[inline(always)]
pub(super) fn decode<L: Lane, const WIDTH: usize>(
    residual: impl Residual<L>,
    elements: &mut [u8],
    mask: &[u8],
    classes: &[u8; CONTEXTS],
    slots: &[u32],
    states: &mut [u32; LANES],
    words: &mut Words<'_>,
) {
    let rows = elements.chunks_exact_mut(LANES * WIDTH);
    for (_, bytes) in rows.enumerate().filter(|(row, _)| coded(mask, *row)) {
        let mut row = read::<L, WIDTH>(bytes);
        decode_row(residual, &mut row, classes, slots, states, words);
        for (element, bytes) in row.iter().zip(bytes.chunks_exact_mut(WIDTH)) {
            element.write(bytes);
        }
    }
}
