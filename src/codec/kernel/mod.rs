//! The inner loops of the delta codec, for the machine's instruction set.
//!
//! [`rows`] is the portable code, to read and to trust. The others do the same faster, each the same to the last bit:
//! a test holds every kernel against its portable twin.

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "loads, stores and look-ups of vectors; each says why it stays within its slice")]
mod avx2;
mod rows;
#[cfg(test)]
mod tests;

use super::entropy::classes::{CONTEXTS, Counts};
use super::entropy::rans::{LANES, Put, Words, WordsBack};
use super::residual::{Elements, Kind, Xor};

/// An instruction set that the loops were written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Any machine.
    Portable,
    /// x86-64 with AVX2: elements of up to four bytes that are numbers. The others are left to the portable code.
    #[cfg(target_arch = "x86_64")]
    Avx2,
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
        all
    }

    /// The best for this machine.
    pub(super) fn detect() -> Kernel {
        Kernel::all().pop().unwrap_or(Kernel::Portable)
    }

    /// Adds how often each symbol occurs in each context, in the rows of `mask`.
    pub(super) fn count(self, elements: Elements, base: &[u8], bytes: &[u8], mask: &[u8], counts: &mut Counts) {
        run!(self, elements, count(base, bytes, mask, counts));
    }

    /// Puts the rows of `mask` into the states, from the last to the first.
    #[expect(clippy::too_many_arguments, reason = "what the tables and the states are is the caller's")]
    pub(super) fn encode(
        self,
        elements: Elements,
        base: &[u8],
        bytes: &[u8],
        mask: &[u8],
        classes: &[u8; CONTEXTS],
        puts: &[Put],
        states: &mut [u32; LANES],
        words: &mut WordsBack<'_>,
    ) {
        run!(self, elements, encode(base, bytes, mask, classes, puts, states, words));
    }

    /// Takes the rows of `mask` out of the states: `bytes` holds the base, and then what was saved.
    #[expect(clippy::too_many_arguments, reason = "as above")]
    pub(super) fn decode(
        self,
        elements: Elements,
        bytes: &mut [u8],
        mask: &[u8],
        classes: &[u8; CONTEXTS],
        slots: &[u32],
        states: &mut [u32; LANES],
        words: &mut Words<'_>,
    ) {
        run!(self, elements, decode(bytes, mask, classes, slots, states, words));
    }
}
