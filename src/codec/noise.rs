//! How a plane looks, from a sample of its bytes.
//!
//! Integers only: what a sample looks like must not depend on how a machine computes a logarithm.

use super::entropy::{FRACTION, log2};

/// What to expect of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Every byte value about as often as any other: coding it would gain nothing.
    Noise,
    /// Some values occur more often than others.
    Skewed,
    /// A good part repeats itself at once: runs of one value, short periods.
    Repeats,
}

/// Too small a sample says nothing about noise.
const LEAST: usize = 1 << 10;
/// Bytes that count as repeated if the same stand right before them.
const GROUP: usize = 16;

/// Looks at a sample of at most a few thousand bytes: how it looks, and about how many of 4096 bytes an entropy coder
/// would leave of such a plane.
pub(super) fn look(sample: &[u8]) -> (Look, u64) {
    let groups = || sample.chunks_exact(GROUP);
    let repeated = groups().zip(groups().skip(1)).filter(|(before, group)| before == group).count();
    let bits = bits_of(sample);
    // zstd too begins to think it worth coding at about 7 7/8 bits a byte.
    let skewed = bits < sample.len() as u64 * (8 * ONE - ONE / 8);
    let look = match () {
        () if repeated * 16 > groups().len() => Look::Repeats,
        () if sample.len() < LEAST || skewed => Look::Skewed,
        () => Look::Noise,
    };
    (look, if look == Look::Noise { 4096 } else { (bits * 512 / (sample.len().max(1) as u64 * ONE)).min(4096) })
}

/// The entropy of the sample as part of the whole, in the fixed point of [`log2`].
fn bits_of(sample: &[u8]) -> u64 {
    let mut counts = [0u32; 256];
    for byte in sample {
        counts[usize::from(*byte)] += 1;
    }
    let weighted = |count: u32| u64::from(count) * log2(count);
    let seen = counts.iter().filter(|count| **count > 0).count() as u64;
    // A sample looks more skewed than its source by (values seen - 1) / (2 ln 2) bits in all (Miller and Madow).
    let correction = seen.saturating_sub(1) * (ONE * 7213 / 10_000);
    weighted(sample.len() as u32) - counts.iter().map(|count| weighted(*count)).sum::<u64>() + correction
}

/// One, in the fixed point of [`log2`].
const ONE: u64 = 1 << FRACTION;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks() {
        let noise = |len| {
            let mut bytes = vec![0; len];
            blake3::Hasher::new().finalize_xof().fill(&mut bytes);
            bytes
        };
        assert_eq!(look(&noise(4096)), (Look::Noise, 4096));
        assert_eq!(look(&noise(LEAST)).0, Look::Noise);
        assert_eq!(look(&noise(LEAST - 1)).0, Look::Skewed);
        let seven_bits: Vec<u8> = noise(4096).iter().map(|byte| byte & 0x7f).collect();
        assert_eq!(look(&seven_bits).0, Look::Skewed);
        let mut half = noise(4096);
        half[1024..3072].fill(7);
        assert_eq!(look(&half).0, Look::Repeats);
        assert_eq!(look(&[]).0, Look::Skewed);
    }
}
