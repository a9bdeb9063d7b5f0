//! Where to cut byte strings into chunks.
//!
//! Chunks are about a mebibyte: large enough that a checkpoint has hundreds and not millions of them, small enough that a
//! changed part of a tensor does not take the rest along, and that a few of them in flight fit a core's cache and any
//! memory budget. A tensor that was there before is cut where it was cut then ([`crate::save`] does that), so that every
//! chunk meets its counterpart; the content decides only where nothing else does.
//!
//! # What always holds
//! * Cuts fall between elements.
//! * No chunk is longer than [`MAX`]; only a byte string's last is shorter than [`MIN`] less an element.
//! * A cut depends on the bytes in front of it alone, not on how they were handed in.

mod inherit;

pub use inherit::{match_back, match_front};

/// Byte strings up to this length are one chunk.
pub const MIN: usize = 256 << 10;
/// What the content-defined cuts aim at.
pub const AVERAGE: usize = 1 << 20;
/// No chunk is longer. A multiple of every element's width.
pub const MAX: usize = 4 << 20;

const _: () = assert!(MIN < AVERAGE && AVERAGE < MAX && MAX.is_multiple_of(8) && MIN.is_multiple_of(8));

/// Cuts by content: FastCDC (Xia et al., 2020) with normalization level 1, rounded down to whole elements.
#[derive(Clone, Copy, Debug)]
pub struct Cutter {
    width: usize,
}

impl Cutter {
    /// For elements of so many bytes.
    pub fn new(width: usize) -> Cutter {
        Cutter { width: width.max(1) }
    }

    /// The length of the next chunk at the front of `window`, which holds [`MAX`] bytes or, with `is_end`, all that is left.
    pub fn next(self, window: &[u8], is_end: bool) -> usize {
        let window = &window[..window.len().min(MAX)];
        let all = is_end && window.len() < MAX;
        if window.len() <= MIN {
            return window.len();
        }
        let (_, end) = fastcdc::v2020::FastCDC::new(window, MIN, AVERAGE, MAX).cut(0, window.len());
        if end == window.len() && (all || window.len().is_multiple_of(self.width)) {
            return end;
        }
        (end - end % self.width).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(bytes: usize, mut seed: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes);
        while out.len() < bytes {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            out.extend((seed >> 24).to_le_bytes().iter().take(5));
        }
        out.truncate(bytes);
        out
    }

    fn cuts(mut bytes: &[u8], width: usize, window: usize) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        while !bytes.is_empty() {
            let seen = &bytes[..bytes.len().min(window)];
            let (chunk, rest) = bytes.split_at(Cutter::new(width).next(seen, seen.len() == bytes.len()));
            chunks.push(chunk.to_vec());
            bytes = rest;
        }
        chunks
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn chunks_cover_and_align(bytes in 0usize..6_000_000, seed: u64, width in prop::sample::select(vec![1usize, 2, 4, 8])) {
            let data = noise(bytes, seed);
            let chunks = cuts(&data, width, MAX);
            prop_assert_eq!(chunks.concat(), &data[..]);
            prop_assert_eq!(&chunks, &cuts(&data, width, MAX + 12345));
            for chunk in chunks.iter().rev().skip(1) {
                prop_assert!(chunk.len().is_multiple_of(width) && (MIN - width..=MAX).contains(&chunk.len()));
            }
        }
    }

    #[test]
    fn an_insertion_moves_few_cuts() {
        let data = noise(24 << 20, 7);
        let before: std::collections::HashSet<Vec<u8>> = cuts(&data, 4, MAX).into_iter().collect();
        let mut longer = data.clone();
        longer.splice(9_000_000..9_000_000, [0; 40]);
        let after = cuts(&longer, 4, MAX);
        let kept = after.iter().filter(|chunk| before.contains(*chunk)).count();
        assert!(kept + 4 >= after.len() && after.len() > 12, "{kept} of {}", after.len());
    }

    #[test]
    fn constant_bytes_are_cut_at_the_maximum() {
        let lengths: Vec<usize> = cuts(&vec![0; 10 << 20], 4, MAX).iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX, MAX, 2 << 20]);
    }
}
