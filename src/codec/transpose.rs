//! Elements to byte planes and back.
//!
//! Plane `k` holds byte `k` of every element, the least significant first. Elements are halved and halved again, a
//! block at a time, through arrays of a known length: this compilers make vector code of for any instruction set, also
//! for one that cannot shuffle bytes.

/// What happens to an element on its way into the planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Not,
    /// Its bits are rotated left by one: the sign comes last, and the exponent of a float begins on a byte's border.
    SignLast,
}

/// Splits `bytes`, whole elements of as many bytes as there are planes, into planes of as many bytes as elements.
pub(super) fn split(bytes: &[u8], turn: Turn, planes: &mut [&mut [u8]]) {
    match (planes, turn) {
        ([plane], _) => plane.copy_from_slice(bytes),
        (planes @ [_, _], Turn::Not) => split_words::<u16, false>(bytes, planes),
        (planes @ [_, _], Turn::SignLast) => split_words::<u16, true>(bytes, planes),
        (planes @ [_, _, _, _], Turn::Not) => split_words::<u32, false>(bytes, planes),
        (planes @ [_, _, _, _], Turn::SignLast) => split_words::<u32, true>(bytes, planes),
        (planes, Turn::Not) => split_words::<u64, false>(bytes, planes),
        (planes, Turn::SignLast) => split_words::<u64, true>(bytes, planes),
    }
}

/// The inverse of [`split`].
pub(super) fn merge(planes: &[&[u8]], turn: Turn, bytes: &mut [u8]) {
    match (planes, turn) {
        ([plane], _) => bytes.copy_from_slice(plane),
        ([_, _], Turn::Not) => merge_words::<u16, false>(planes, bytes),
        ([_, _], Turn::SignLast) => merge_words::<u16, true>(planes, bytes),
        ([_, _, _, _], Turn::Not) => merge_words::<u32, false>(planes, bytes),
        ([_, _, _, _], Turn::SignLast) => merge_words::<u32, true>(planes, bytes),
        (_, Turn::Not) => merge_words::<u64, false>(planes, bytes),
        (_, Turn::SignLast) => merge_words::<u64, true>(planes, bytes),
    }
}

/// Elements that are handled at once: enough that compilers write loops, and few enough for the first cache.
const BLOCK: usize = 256;

fn split_words<T: Word, const SIGN_LAST: bool>(bytes: &[u8], planes: &mut [&mut [u8]]) {
    let blocks = bytes.chunks_exact(BLOCK * T::BYTES);
    let (rest, whole) = (blocks.remainder(), blocks.len() * BLOCK);
    for (block, at) in blocks.zip((0..).step_by(BLOCK)) {
        let mut words = [T::default(); BLOCK];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(T::BYTES)) {
            *word = T::read::<SIGN_LAST>(bytes);
        }
        T::scatter(&words, planes, at);
    }
    for (bytes, at) in rest.chunks_exact(T::BYTES).zip(whole..) {
        let word = T::read::<SIGN_LAST>(bytes);
        planes.iter_mut().enumerate().for_each(|(k, plane)| plane[at] = word.byte(k));
    }
}

fn merge_words<T: Word, const SIGN_LAST: bool>(planes: &[&[u8]], bytes: &mut [u8]) {
    let mut blocks = bytes.chunks_exact_mut(BLOCK * T::BYTES);
    let whole = blocks.len() * BLOCK;
    for (block, at) in blocks.by_ref().zip((0..).step_by(BLOCK)) {
        let words = T::gather(planes, at);
        for (word, bytes) in words.iter().zip(block.chunks_exact_mut(T::BYTES)) {
            word.write::<SIGN_LAST>(bytes);
        }
    }
    for (bytes, at) in blocks.into_remainder().chunks_exact_mut(T::BYTES).zip(whole..) {
        let word = planes.iter().enumerate().fold(T::default(), |word, (k, plane)| word.with_byte(k, plane[at]));
        word.write::<SIGN_LAST>(bytes);
    }
}

/// An element as a number.
trait Word: Copy + Default {
    const BYTES: usize;
    fn read<const SIGN_LAST: bool>(bytes: &[u8]) -> Self;
    fn write<const SIGN_LAST: bool>(self, bytes: &mut [u8]);
    fn byte(self, k: usize) -> u8;
    /// With byte `k`, which is zero so far, set.
    fn with_byte(self, k: usize, byte: u8) -> Self;
    /// A block into its place in the planes, which begins at `at`.
    fn scatter(words: &[Self; BLOCK], planes: &mut [&mut [u8]], at: usize);
    /// The inverse of `scatter`.
    fn gather(planes: &[&[u8]], at: usize) -> [Self; BLOCK];
}

macro_rules! word {
    // A word of two halves, each of which has half of the planes.
    (two halves: $word:ty, $half:ty) => {
        word!(
            $word,
            fn scatter(words: &[Self; BLOCK], planes: &mut [&mut [u8]], at: usize) {
                let (low, high) = planes.split_at_mut(<$half>::BYTES);
                <$half>::scatter(&std::array::from_fn(|i| words[i] as $half), low, at);
                <$half>::scatter(&std::array::from_fn(|i| (words[i] >> <$half>::BITS) as $half), high, at);
            },
            fn gather(planes: &[&[u8]], at: usize) -> [Self; BLOCK] {
                let (low, high) = planes.split_at(<$half>::BYTES);
                let (low, high) = (<$half>::gather(low, at), <$half>::gather(high, at));
                std::array::from_fn(|i| <$word>::from(low[i]) | <$word>::from(high[i]) << <$half>::BITS)
            }
        );
    };
    ($word:ty, $scatter:item, $gather:item) => {
        impl Word for $word {
            const BYTES: usize = size_of::<$word>();
            #[inline(always)]
            fn read<const SIGN_LAST: bool>(bytes: &[u8]) -> Self {
                let word = <$word>::from_le_bytes(bytes.try_into().expect("as many bytes as an element has"));
                if SIGN_LAST { word.rotate_left(1) } else { word }
            }
            #[inline(always)]
            fn write<const SIGN_LAST: bool>(self, bytes: &mut [u8]) {
                let word = if SIGN_LAST { self.rotate_right(1) } else { self };
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            fn byte(self, k: usize) -> u8 {
                (self >> (8 * k)) as u8
            }
            fn with_byte(self, k: usize, byte: u8) -> Self {
                self | <$word>::from(byte) << (8 * k)
            }
            #[inline(always)]
            $scatter
            #[inline(always)]
            $gather
        }
    };
}

word!(
    u16,
    fn scatter(words: &[Self; BLOCK], planes: &mut [&mut [u8]], at: usize) {
        let [low, high] = planes else { unreachable!("two planes for two bytes") };
        low[at..][..BLOCK].iter_mut().zip(words).for_each(|(byte, word)| *byte = *word as u8);
        high[at..][..BLOCK].iter_mut().zip(words).for_each(|(byte, word)| *byte = (*word >> 8) as u8);
    },
    fn gather(planes: &[&[u8]], at: usize) -> [Self; BLOCK] {
        let [low, high] = planes else { unreachable!("two planes for two bytes") };
        let (low, high) = (&low[at..][..BLOCK], &high[at..][..BLOCK]);
        std::array::from_fn(|i| u16::from(low[i]) | u16::from(high[i]) << 8)
    }
);
word!(two halves: u32, u16);
word!(two halves: u64, u32);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the definition, for elements in whole blocks and behind them.
        #[test]
        fn planes_hold_the_bytes_of_turned_elements(
            seed: u64,
            count in 0..3 * BLOCK,
            width in proptest::sample::select(&[1usize, 2, 4, 8][..]),
            sign_last: bool,
        ) {
            let sign_last = sign_last && width > 1;
            let turn = if sign_last { Turn::SignLast } else { Turn::Not };
            let mut bytes = vec![0; count * width];
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);

            let mut planes = vec![vec![0; count]; width];
            split(&bytes, turn, &mut planes.iter_mut().map(|plane| &mut plane[..]).collect::<Vec<_>>());
            for (i, element) in bytes.chunks_exact(width).enumerate() {
                let bits = element.iter().rev().fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
                let turned = if sign_last { bits << 1 | bits >> (8 * width - 1) } else { bits };
                for (k, plane) in planes.iter().enumerate() {
                    prop_assert_eq!(plane[i], (turned >> (8 * k)) as u8);
                }
            }

            let mut merged = vec![0; count * width];
            merge(&planes.iter().map(|plane| &plane[..]).collect::<Vec<_>>(), turn, &mut merged);
            prop_assert_eq!(merged, bytes);
        }
    }
}
