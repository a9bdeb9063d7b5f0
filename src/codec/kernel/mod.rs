//! The inner loops of the delta codec, for the machine's instruction set.
//!
//! [`rows`] is the portable code, to read and to trust. The others do the same faster, each the same to the last bit:
//! a test holds every kernel against its portable twin.

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "loads, stores and look-ups of vectors; each says why it stays within its slice")]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "as above")]
mod avx512;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vector;

use super::entropy::classes::{Counting, Counts};
use super::entropy::rans::{Decoder, Encoder};
use super::residual::{Elements, Kind, Xor};

/// An instruction set that the loops were written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Any machine.
    Portable,
    /// x86-64 with AVX2: elements of up to four bytes that are numbers. The others are left to the portable code.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same with the parts of AVX-512 that Zen 4 and Ice Lake brought.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// A chunk, its base, and which of their rows are coded: a bit for each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    pub(super) base: &'a [u8],
    pub(super) bytes: &'a [u8],
    pub(super) mask: &'a [u8],
}

impl<'a> Pair<'a> {
    /// The rows that are coded, of the base and of the chunk.
    #[inline(always)]
    fn rows(self, row_bytes: usize) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a [u8])> {
        let rows = self.base.chunks_exact(row_bytes).zip(self.bytes.chunks_exact(row_bytes)).enumerate();
        rows.filter(move |(row, _)| rows::coded(self.mask, *row)).map(|(_, row)| row)
    }
}

macro_rules! run {
    ($kernel:ident, $elements:ident, $loop:ident($($argument:expr),*)) => {
        match ($kernel, $elements.width, $elements.kind) {
            (_, _, Kind::Bits) => rows::$loop::<u32, 1>(Xor, $($argument),*),
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "functions of an instruction set")]
            // SAFETY: whoever has this kernel has asked whether the machine has the instructions.
            (Kernel::Avx2, width @ (1 | 2 | 4), _) => unsafe {
                match width {
                    1 => avx2::$loop::<1>($elements.numbers(), $($argument),*),
                    2 => avx2::$loop::<2>($elements.numbers(), $($argument),*),
                    _ => avx2::$loop::<4>($elements.numbers(), $($argument),*),
                }
            },
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "as above")]
            // SAFETY: as above.
            (Kernel::Avx512, width @ (1 | 2 | 4), _) => unsafe {
                match width {
                    1 => avx512::$loop::<1>($elements.numbers(), $($argument),*),
                    2 => avx512::$loop::<2>($elements.numbers(), $($argument),*),
                    _ => avx512::$loop::<4>($elements.numbers(), $($argument),*),
                }
            },
            (_, 1, _) => rows::$loop::<u32, 1>($elements.numbers(), $($argument),*),
            (_, 2, _) => rows::$loop::<u32, 2>($elements.numbers(), $($argument),*),
            (_, 4, _) => rows::$loop::<u32, 4>($elements.numbers(), $($argument),*),
            _ => rows::$loop::<u64, 8>($elements.numbers(), $($argument),*),
        }
    };
}

impl Kernel {
    /// Those that this machine can run, the best last.
    fn all() -> Vec<Kernel> {
        let mut all = vec![Kernel::Portable];
        #[cfg(target_arch = "x86_64")]
        if avx2::is_here() {
            all.push(Kernel::Avx2);
        }
        #[cfg(target_arch = "x86_64")]
        if avx512::is_here() {
            all.push(Kernel::Avx512);
        }
        all
    }

    /// The best for this machine.
    pub(super) fn detect() -> Kernel {
        Kernel::all().pop().unwrap_or(Kernel::Portable)
    }

    /// Adds how often each symbol occurs in each context.
    pub(super) fn count(self, elements: Elements, pair: Pair<'_>, counts: &mut Counts) {
        let mut counting = Counting::new(counts);
        run!(self, elements, count(pair, &mut counting));
    }

    /// Codes rows, from the last to the first.
    pub(super) fn encode(self, elements: Elements, pair: Pair<'_>, encoder: &mut Encoder<'_>) {
        run!(self, elements, encode(pair, encoder));
    }

    /// Decodes the rows of `mask`: `bytes` holds the base, and then what was saved.
    pub(super) fn decode(self, elements: Elements, bytes: &mut [u8], mask: &[u8], decoder: &mut Decoder<'_>) {
        run!(self, elements, decode(bytes, mask, decoder));
    }
}
