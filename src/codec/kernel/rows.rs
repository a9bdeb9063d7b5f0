//! The loops over the rows of a chunk, written once: each instruction set compiles them for itself.

use super::Pair;
use crate::codec::entropy::classes::Counting;
use crate::codec::entropy::rans::{Decoder, Encoder, LANES, count_row, decode_row, encode_row};
use crate::codec::residual::{Lane, Residual};

/// Rows for which the bit of `mask` is set.
#[inline(always)]
pub(super) fn coded(mask: &[u8], row: usize) -> bool {
    mask[row / 8] >> (row % 8) & 1 == 1
}

/// The first rows for which the bit of a mask is set, in order.
pub(super) struct Coded<'a> {
    rows: usize,
    /// Bits that were taken from the mask, the row of their lowest, and the bytes behind them.
    bits: u64,
    row: usize,
    behind: &'a [u8],
}

impl<'a> Coded<'a> {
    /// Of so many rows.
    pub(super) fn new(mask: &'a [u8], rows: usize) -> Coded<'a> {
        Coded { rows, bits: 0, row: 0usize.wrapping_sub(64), behind: mask }
    }
}

impl Iterator for Coded<'_> {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        while self.bits == 0 && !self.behind.is_empty() {
            self.row = self.row.wrapping_add(64);
            (self.bits, self.behind) = match self.behind.split_first_chunk() {
                Some((bytes, behind)) => (u64::from_le_bytes(*bytes), behind),
                // No copy: vectors would have to leave their registers for the call.
                None => (self.behind.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte)), &[][..]),
            };
        }
        let row = self.row.wrapping_add(self.bits.trailing_zeros() as usize);
        self.bits &= self.bits.wrapping_sub(1);
        (row < self.rows).then_some(row)
    }
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
    pair: Pair<'_>,
    counting: &mut Counting<'_>,
) {
    for (base, bytes) in pair.rows(LANES * WIDTH) {
        count_row(residual, &read::<L, WIDTH>(base), &read::<L, WIDTH>(bytes), counting);
    }
}

#[inline(always)]
pub(super) fn encode<L: Lane, const WIDTH: usize>(
    residual: impl Residual<L>,
    pair: Pair<'_>,
    encoder: &mut Encoder<'_>,
) {
    for (base, bytes) in pair.rows(LANES * WIDTH).rev() {
        encode_row(residual, &read::<L, WIDTH>(base), &read::<L, WIDTH>(bytes), encoder);
    }
}

#[inline(always)]
pub(super) fn decode<L: Lane, const WIDTH: usize>(
    residual: impl Residual<L>,
    elements: &mut [u8],
    mask: &[u8],
    decoder: &mut Decoder<'_>,
) {
    for row in Coded::new(mask, elements.len() / (LANES * WIDTH)) {
        let bytes = &mut elements[row * LANES * WIDTH..][..LANES * WIDTH];
        let mut row = read::<L, WIDTH>(bytes);
        decode_row(residual, &mut row, decoder);
        for (element, bytes) in row.iter().zip(bytes.chunks_exact_mut(WIDTH)) {
            element.write(bytes);
        }
    }
}
