//! How a plane looks, from a sample of its bytes.
//!
//! Integers only: what a sample looks like must not depend on how a machine computes a logarithm.

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

/// Looks at a sample of at most a few thousand bytes.
pub(super) fn look(sample: &[u8]) -> Look {
    let groups = || sample.chunks_exact(GROUP);
    let repeated = groups().zip(groups().skip(1)).filter(|(before, group)| before == group).count();
    match () {
        () if repeated * 16 > groups().len() => Look::Repeats,
        () if sample.len() < LEAST || is_skewed(sample) => Look::Skewed,
        () => Look::Noise,
    }
}

/// Whether the entropy of the whole is likely below 7 7/8 bits a byte, where zstd too begins to think it worth coding.
fn is_skewed(sample: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    for byte in sample {
        counts[usize::from(*byte)] += 1;
    }
    let len = sample.len() as u64;
    let weighted = |count: u32| u64::from(count) * log2(count);
    let seen = counts.iter().filter(|count| **count > 0).count() as u64;
    // A sample looks more skewed than its source by (values seen - 1) / (2 ln 2) bits in all (Miller and Madow).
    let correction = (seen - 1) * (ONE * 7213 / 10_000);
    let bits = len * log2(sample.len() as u32) - counts.iter().map(|c| weighted(*c)).sum::<u64>() + correction;
    bits < len * (8 * ONE - ONE / 8)
}

/// One, in the fixed point of [`log2`].
const ONE: u64 = 1 << FRACTION;
const FRACTION: u32 = 12;

/// The base-2 logarithm in fixed point, to within a hundredth; that of 0 is taken as 0.
fn log2(value: u32) -> u64 {
    let Some(whole) = value.checked_ilog2() else { return 0 };
    // With the value as 2^whole (1 + x), a parabola stands in for log2(1 + x): it is right at both ends.
    let x = ((u64::from(value) << FRACTION) >> whole) - ONE;
    u64::from(whole) * ONE + x + x * (ONE - x) * 346 / (1000 * ONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_logarithm_is_one(value in 1u32..) {
            let log = log2(value) as f64 / ONE as f64;
            prop_assert!((log - f64::from(value).log2()).abs() < 1e-2, "{log}");
        }
    }

    #[test]
    fn looks() {
        let noise = |len| {
            let mut bytes = vec![0; len];
            blake3::Hasher::new().finalize_xof().fill(&mut bytes);
            bytes
        };
        assert_eq!(look(&noise(4096)), Look::Noise);
        assert_eq!(look(&noise(LEAST)), Look::Noise);
        assert_eq!(look(&noise(LEAST - 1)), Look::Skewed);
        let seven_bits: Vec<u8> = noise(4096).iter().map(|byte| byte & 0x7f).collect();
        assert_eq!(look(&seven_bits), Look::Skewed);
        let mut half = noise(4096);
        half[1024..3072].fill(7);
        assert_eq!(look(&half), Look::Repeats);
        assert_eq!(look(&[]), Look::Skewed);
    }
}
