//! Logarithms in fixed point, the same on every machine.

/// Bits behind the point.
pub(crate) const FRACTION: u32 = 16;

/// Bits of a value that the table looks at, beside its leading one.
const INDEX: u32 = 10;

/// log2(1 + i / 2^INDEX) for each i, by squaring: a number doubles its logarithm, whose next bit is then in front.
static TABLE: [u32; (1 << INDEX) + 1] = {
    let mut table = [0; (1 << INDEX) + 1];
    let mut i = 0;
    while i <= 1 << INDEX {
        let (mut x, mut log) = (((1 << INDEX) + i as u64) << (32 - INDEX), 0u32);
        let mut bit = 0;
        while bit <= FRACTION {
            if x >= 2 << 32 {
                log += 1 << FRACTION >> bit;
                x >>= 1;
            }
            x = ((x as u128 * x as u128) >> 32) as u64;
            bit += 1;
        }
        table[i] = log;
        i += 1;
    }
    table
};

/// The base-2 logarithm with [`FRACTION`] bits behind the point, right to within 1/10,000; that of 0 is taken as 0.
pub(crate) fn log2(value: u32) -> u64 {
    let Some(whole) = value.checked_ilog2() else { return 0 };
    // Bits behind the leading one: the first index the table, the rest lie between two of its entries.
    let behind = (u64::from(value) << (32 - whole)) as u32;
    let (index, rest) = ((behind >> (32 - INDEX)) as usize, u64::from(behind << INDEX >> INDEX));
    let (low, high) = (u64::from(TABLE[index]), u64::from(TABLE[index + 1]));
    (u64::from(whole) << FRACTION) + low + (((high - low) * rest) >> (32 - INDEX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_logarithm_is_one(value in 1u32.., shift in 0u32..32) {
            let value = (value >> shift).max(1);
            let log = log2(value) as f64 / f64::from(1 << FRACTION);
            prop_assert!((log - f64::from(value).log2()).abs() < 1e-4, "{log}");
        }
    }
}
