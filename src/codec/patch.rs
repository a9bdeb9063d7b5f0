//! The few elements that changed: for chunks of which nearly all is as it was, and for small ones, where the tables and
//! states of [`delta`](super::delta) would weigh more than what they code.
//!
//! # Body
//! One byte: `w`, the bytes of an element, one of 1, 2, 4, 8, which divides the length. Then for each changed element,
//! in order: how many unchanged ones lie between it and the changed one before it, or the beginning, as a varint; and
//! its `w` bytes. The base has as many bytes as the chunk.

use super::{Base, Codec, CodecError, CodecId, Input, Scratch};
use crate::tensor::Layout;
use crate::wire::{Reader, Write};

/// Stores the elements that are not those of the base.
#[derive(Clone, Copy, Debug)]
pub struct Patch;

/// Elements that changed, at most one in so many, and at most so many in all: with more the other codecs are smaller, and
/// looking is in vain. Measured with elements that change to anything; with those that move a little it ends sooner.
const SPARSE: usize = 32;
const MANY: usize = 4096;

/// The length of the body, if few elements changed. A base of another length is none.
pub(super) fn promises(input: Input<'_>) -> Option<u64> {
    let base = input.base.filter(|base| base.len() == input.bytes.len())?;
    let width = width_of(input);
    let mut left = (input.bytes.len() / width / SPARSE).clamp(4, MANY);
    for (_, set) in strides(input.bytes, base, width) {
        left = left.checked_sub(set.count_ones() as usize)?;
    }
    let gaps = changes(input.bytes, base, width).map(|(gap, _)| u64::BITS - (gap as u64 | 1).leading_zeros());
    Some(1 + gaps.map(|bits| u64::from(bits.div_ceil(7)) + width as u64).sum::<u64>())
}

/// The layout of the elements that a body was made of, as far as it tells: nearly always floats, of the kind that is usual
/// for their width.
pub(super) fn layout_of(body: &[u8]) -> Layout {
    match body.first() {
        Some(&width @ (2 | 4 | 8)) => Layout::Float { width, mantissa_bits: [7, 23, 52][width.ilog2() as usize - 1] },
        _ => Layout::Bytes,
    }
}

impl Codec for Patch {
    fn id(&self) -> CodecId {
        CodecId::PATCH
    }

    fn encode(&self, input: Input<'_>, _: &mut Scratch, out: &mut Vec<u8>) {
        let base = input.base.filter(|base| base.len() == input.bytes.len()).expect("a base as long as the chunk");
        let width = width_of(input);
        out.put_u8(width as u8);
        for (gap, element) in changes(input.bytes, base, width) {
            out.put_varint(gap as u64);
            out.put(element);
        }
    }

    fn bases(&self) -> usize {
        1
    }

    fn decode(&self, body: &[u8], base: Base<'_>, _: &mut Scratch, out: &mut [u8]) -> Result<(), CodecError> {
        base.into_place(out)?;
        let mut body = Reader::new(body);
        let width = usize::from(body.u8().map_err(|_| CodecError("a patch without a width"))?);
        if !matches!(width, 1 | 2 | 4 | 8) || !out.len().is_multiple_of(width) {
            return Err(CodecError("elements of an unknown width"));
        }
        let mut elements = out.chunks_exact_mut(width);
        while body.left() > 0 {
            let gap = body.varint().ok().and_then(|gap| usize::try_from(gap).ok());
            let element = gap.and_then(|gap| elements.nth(gap)).ok_or(CodecError("a change outside the chunk"))?;
            element.copy_from_slice(body.bytes(width).map_err(|_| CodecError("half an element"))?);
        }
        Ok(())
    }
}

fn width_of(input: Input<'_>) -> usize {
    let width = input.layout.width();
    if input.bytes.len().is_multiple_of(width) { width } else { 1 }
}

/// The changed elements, each with the number of unchanged ones before it.
fn changes<'a>(bytes: &'a [u8], base: &'a [u8], width: usize) -> impl Iterator<Item = (usize, &'a [u8])> {
    let differing = strides(bytes, base, width).flat_map(move |(first, mut set)| {
        std::iter::from_fn(move || {
            let at = first + set.trailing_zeros() as usize;
            (set != 0).then(|| {
                set &= set - 1;
                (at, &bytes[at * width..][..width])
            })
        })
    });
    let mut next = 0;
    differing.map(move |(at, element)| (at - std::mem::replace(&mut next, at + 1), element))
}

/// Which of [`STRIDE`] elements differ, the first the lowest bit, with the number of that one, where any does.
fn strides<'a>(bytes: &'a [u8], base: &'a [u8], width: usize) -> impl Iterator<Item = (usize, u64)> + 'a {
    let strides = bytes.chunks(STRIDE * width).zip(base.chunks(STRIDE * width)).zip((0..).step_by(STRIDE));
    strides.filter(|((bytes, base), _)| bytes != base).map(move |((bytes, base), first)| {
        let set = match width {
            1 => changed::<1>(bytes, base),
            2 => changed::<2>(bytes, base),
            4 => changed::<4>(bytes, base),
            _ => changed::<8>(bytes, base),
        };
        (first, set)
    })
}

/// Elements that are compared at once.
const STRIDE: usize = u64::BITS as usize;

/// Which of at most 64 elements differ.
fn changed<const WIDTH: usize>(bytes: &[u8], base: &[u8]) -> u64 {
    let elements = bytes.as_chunks::<WIDTH>().0.iter().zip(base.as_chunks::<WIDTH>().0);
    elements.zip(0..STRIDE).fold(0, |set, ((element, base), n)| set | u64::from(element != base) << n)
}
