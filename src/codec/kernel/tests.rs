//! Every kernel against its portable twin.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::codec::entropy::classes::{CONTEXTS, Classes};
use crate::codec::entropy::rans::{LANES, LEAST};
use crate::codec::entropy::symbol::SYMBOLS;
use crate::codec::entropy::table::Grain;
use crate::tensor::Layout;
use proptest::prelude::*;

const LAYOUTS: [Layout; 10] = [
    Layout::Bytes,
    Layout::Integer { width: 1 },
    Layout::Integer { width: 2 },
    Layout::Integer { width: 4 },
    Layout::Integer { width: 8 },
    Layout::Float { width: 1, mantissa_bits: 3 },
    Layout::Float { width: 2, mantissa_bits: 7 },
    Layout::Float { width: 2, mantissa_bits: 10 },
    Layout::Float { width: 4, mantissa_bits: 23 },
    Layout::Float { width: 8, mantissa_bits: 52 },
];

const GRAINS: [Grain; 3] = [Grain::FINE, Grain::MEDIUM, Grain::COARSE];

/// Rows of noise, and the same with `moved` low bits of each element changed: from hardly anything to everything.
fn pair(elements: Elements, rows: usize, moved: u32, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut noise = vec![0; 2 * rows * LANES * elements.width];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    let (base, change) = noise.split_at(rows * LANES * elements.width);
    let mut bytes = base.to_vec();
    for (element, change) in bytes.chunks_exact_mut(elements.width).zip(change.chunks_exact(elements.width)) {
        for (k, (byte, change)) in element.iter_mut().zip(change).enumerate() {
            let bits = moved.saturating_sub(8 * k as u32).min(8);
            *byte ^= change & ((1u16 << bits) - 1) as u8;
        }
    }
    (base.to_vec(), bytes)
}

fn counted(kernel: Kernel, elements: Elements, pair: Pair<'_>) -> Vec<[u32; SYMBOLS]> {
    let mut counts = vec![[0; SYMBOLS]; CONTEXTS];
    kernel.count(elements, pair, counts.as_mut_slice().try_into().unwrap());
    counts
}

proptest! {
    #[test]
    fn kernels_agree(
        layout in proptest::sample::select(&LAYOUTS[..]),
        rows in 1usize..40,
        moved in 0u32..=64,
        mask: u64,
        seed: u64,
        grain in proptest::sample::select(&GRAINS[..]),
    ) {
        let elements = Elements::of(layout);
        let (base, bytes) = pair(elements, rows, moved, seed);
        let mask = (mask | 1).to_le_bytes();

        let pair = Pair { base: &base, bytes: &bytes, mask: &mask };
        let counts = counted(Kernel::Portable, elements, pair);
        let (classes, _) = Classes::of(counts.as_slice().try_into().unwrap(), grain).unwrap();
        let encoded = |kernel: Kernel| {
            let (mut puts, mut words) = (Vec::new(), vec![[0; 2]; 8 * rows * LANES + 64]);
            let mut encoder = Encoder::new(&classes, &mut puts, &mut words);
            kernel.encode(elements, pair, &mut encoder);
            (encoder.states, encoder.words.written().to_vec())
        };
        let (states, words) = encoded(Kernel::Portable);
        for kernel in Kernel::all() {
            prop_assert!(counted(kernel, elements, pair) == counts, "{:?}", kernel);
            prop_assert_eq!(encoded(kernel), (states, words.clone()), "{:?}", kernel);

            let (mut slots, mut out) = (Vec::new(), base.clone());
            let mut decoder = Decoder::new(&classes, &mut slots, states, &words).unwrap();
            kernel.decode(elements, &mut out, &mask, &mut decoder);
            prop_assert_eq!(decoder.end(), Ok(()), "{:?}", kernel);
            let row = LANES * elements.width;
            for (n, (out, (base, bytes))) in
                out.chunks_exact(row).zip(base.chunks_exact(row).zip(bytes.chunks_exact(row))).enumerate()
            {
                prop_assert_eq!(out, if rows::coded(&mask, n) { bytes } else { base }, "{:?}", kernel);
            }
        }
    }

    #[test]
    fn rows_are_those_of_the_bits(mask: Vec<u8>, short in 0usize..12) {
        let rows = (8 * mask.len()).saturating_sub(short);
        let found: Vec<usize> = rows::Coded::new(&mask, rows).collect();
        let expected: Vec<usize> = (0..rows).filter(|row| rows::coded(&mask, *row)).collect();
        prop_assert_eq!(found, expected);
    }

    /// Whatever the tables, the states and the words, kernels make the same of them, and stay in their slices.
    #[test]
    fn kernels_agree_on_nonsense(
        layout in proptest::sample::select(&LAYOUTS[..]), body: Vec<u8>, states: [u32; LANES], seed: u64,
        grain in proptest::sample::select(&GRAINS[..]),
        any_symbol: bool,
    ) {
        let elements = Elements::of(layout);
        let (base, bytes) = pair(elements, 7, 64, seed);
        let mut counts = counted(Kernel::Portable, elements, Pair { base: &base, bytes: &bytes, mask: &[0xff] });
        if any_symbol {
            // Also such as no element has: of more raw bits than elements, and of more steps.
            counts.as_flattened_mut().fill(1);
        }
        let (classes, _) = Classes::of(counts.as_slice().try_into().unwrap(), grain).unwrap();
        let states = states.map(|state| state % (LEAST << 15) + LEAST);
        let body = &body[..body.len() & !1];
        let decoded = |kernel: Kernel| {
            let (mut slots, mut out) = (Vec::new(), base.clone());
            let mut decoder = Decoder::new(&classes, &mut slots, states, body).unwrap();
            kernel.decode(elements, &mut out, &[0xff], &mut decoder);
            (decoder.states, decoder.words.end(), out)
        };
        let expected = decoded(Kernel::Portable);
        for kernel in Kernel::all() {
            prop_assert!(decoded(kernel) == expected, "{:?}", kernel);
        }
    }
}
