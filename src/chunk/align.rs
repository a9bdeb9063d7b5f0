//! Cuts by content, between elements.
//!
//! A rolling hash over the last bytes proposes a place (FastCDC); the cut is made at the last element boundary before
//! it. Chunks therefore start on elements, and whole rows put in or taken out leave later cuts where they were,
//! relative to the bytes around them. Bytes that are put in but are no multiple of an element shift the boundaries, and
//! with them all later cuts by less than an element: such tensors were not the same type.

use fastcdc::v2020;

use super::{AVG, MAX, MIN, WIDTH_MAX};

/// Cuts are four times rarer before the average and four times more frequent after it than without normalisation: few
/// small chunks, and next to none that [`MAX`] must end. A forced cut depends on where its chunk began, so that after a
/// change it takes longest to come back to the old cuts.
const NORMALISATION: usize = 2;

const MASK_BEFORE_AVG: u64 = v2020::MASKS[AVG.ilog2() as usize + NORMALISATION];
const MASK_AFTER_AVG: u64 = v2020::MASKS[AVG.ilog2() as usize - NORMALISATION];

/// Cuts a stream of elements into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutter {
    width: usize,
}

impl Cutter {
    /// For elements of `width` bytes: 1, 2, 4 or 8.
    pub fn new(width: usize) -> Cutter {
        assert!(width.is_power_of_two() && width <= WIDTH_MAX, "elements of {width} bytes");
        Cutter { width }
    }

    /// The length of the next chunk at the front of `window`; 0 only for an empty window.
    ///
    /// The window holds at least [`MAX`] bytes, or everything up to the end of the tensor (`is_end`).
    pub fn next(&self, window: &[u8], is_end: bool) -> usize {
        debug_assert!(is_end || window.len() >= MAX, "a window of {} bytes in the middle of a tensor", window.len());
        let (_, cut) = v2020::cut(
            window,
            MIN,
            AVG,
            MAX,
            MASK_BEFORE_AVG,
            MASK_AFTER_AVG,
            MASK_BEFORE_AVG << 1,
            MASK_AFTER_AVG << 1,
        );
        // The end is the end, whether or not the last element is whole.
        if cut == window.len() { cut } else { cut - cut % self.width }
    }

    /// The lengths of all chunks of a tensor that is in memory.
    pub fn lengths(&self, mut bytes: &[u8]) -> Vec<u32> {
        let mut lengths = Vec::with_capacity(bytes.len() / AVG + 1);
        while !bytes.is_empty() {
            let length = self.next(bytes, true);
            lengths.push(u32::try_from(length).expect("MAX fits"));
            bytes = &bytes[length..];
        }
        lengths
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Incompressible bytes, the same for the same seed everywhere.
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        out.truncate(len);
        out
    }

    fn chunks<'a>(bytes: &'a [u8], lengths: &[u32]) -> HashSet<&'a [u8]> {
        let mut rest = bytes;
        lengths
            .iter()
            .map(|&length| {
                let (chunk, tail) = rest.split_at(length as usize);
                rest = tail;
                chunk
            })
            .collect()
    }

    /// As a reader with a buffer of `window` bytes would cut.
    fn lengths_through_a_window(cutter: Cutter, bytes: &[u8], window: usize) -> Vec<u32> {
        let (mut at, mut lengths) = (0, Vec::new());
        while at < bytes.len() {
            let end = bytes.len().min(at + window);
            let length = cutter.next(&bytes[at..end], end == bytes.len());
            lengths.push(length as u32);
            at += length;
        }
        lengths
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn cuts_cover_exactly_and_lie_between_elements(seed: u64, len in 0usize..12 << 20, shift in 0u32..4) {
            let (bytes, width) = (noise(seed, len), 1 << shift);
            let lengths = Cutter::new(width).lengths(&bytes);
            prop_assert_eq!(lengths.iter().map(|&n| n as usize).sum::<usize>(), len);
            if let Some((&last, before)) = lengths.split_last() {
                prop_assert!(0 < last && last as usize <= MAX);
                for &length in before {
                    prop_assert!((MIN..=MAX).contains(&(length as usize)) && (length as usize).is_multiple_of(width));
                }
            }
        }

        #[test]
        fn a_larger_window_changes_nothing(seed: u64, len in 0usize..12 << 20, more in 0usize..1 << 20, shift in 0u32..4) {
            let (bytes, cutter) = (noise(seed, len), Cutter::new(1 << shift));
            let whole = cutter.lengths(&bytes);
            prop_assert_eq!(&lengths_through_a_window(cutter, &bytes, MAX), &whole);
            prop_assert_eq!(&lengths_through_a_window(cutter, &bytes, MAX + more), &whole);
        }

        #[test]
        fn rows_put_into_the_middle_move_only_the_cuts_around_them(seed: u64, at in 0usize..24 << 20, rows in 1usize..5000) {
            let (cutter, old) = (Cutter::new(4), noise(seed, 24 << 20));
            let at = at & !3;
            let new = [&old[..at], &noise(!seed, rows * 4), &old[at..]].concat();
            let (old_lengths, new_lengths) = (cutter.lengths(&old), cutter.lengths(&new));
            let shared = chunks(&old, &old_lengths).intersection(&chunks(&new, &new_lengths)).count();
            prop_assert!(shared * 2 > old_lengths.len(), "{} of {}", shared, old_lengths.len());
        }
    }

    #[test]
    fn a_small_tensor_is_one_chunk() {
        let cutter = Cutter::new(8);
        assert_eq!(cutter.next(&[], true), 0);
        assert!(cutter.lengths(&[]).is_empty());
        for len in [1, 7, 8, MIN - 1, MIN] {
            assert_eq!(cutter.lengths(&noise(1, len)), [len as u32]);
        }
    }

    #[test]
    fn bytes_without_a_feature_are_cut_at_the_maximum() {
        assert_eq!(Cutter::new(2).lengths(&vec![0; 2 * MAX + 3]), [MAX as u32, MAX as u32, 3]);
    }

    #[test]
    fn the_average_is_about_what_it_says() {
        let lengths = Cutter::new(1).lengths(&noise(3, 96 << 20));
        let mean = (96 << 20) / lengths.len();
        assert!((AVG * 3 / 4..AVG * 3 / 2).contains(&mean), "{mean}");
    }

    /// Stores live longer than versions of a crate: other cuts would share nothing with what is stored.
    #[test]
    fn cuts_stay_where_they_are_from_version_to_version() {
        let expected = [1117872, 1434480, 742364, 1069592, 1215448, 711700];
        assert_eq!(Cutter::new(4).lengths(&noise(7, 6 << 20)), expected);
    }
}
