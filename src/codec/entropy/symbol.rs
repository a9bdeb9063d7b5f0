//! A difference as a symbol to be coded and bits that are noise.
//!
//! The symbol is a small float: sign, length in bits, and the first bits below the leading one (two of them in lanes of
//! 32 bits, one in lanes of 64). All lower bits are left as they are. With `p` such bits, a magnitude `a` of `l` bits
//! has `r = max(l - p - 1, 0)` raw bits, `m = r 2^p + (a >> r)`, and the symbol is 0 for `a = 0`, else `2m - 1`, plus 1
//! if the difference is negative. Up to `2^(p + 1) - 1`, `m` is the magnitude itself.

use crate::codec::residual::Lane;

/// Symbols are below this.
pub(crate) const SYMBOLS: usize = 256;

/// The symbol of a difference, the number of its raw bits, and those.
#[inline(always)]
pub(crate) fn split<L: Lane>(difference: L) -> (u32, u32, L) {
    let negative = difference.sign();
    let magnitude = (difference ^ negative).minus(negative);
    let raw = magnitude.length().saturating_sub(1 + L::BELOW);
    let m = (raw << L::BELOW) + (magnitude >> raw).low_bits();
    let symbol = (2 * m + (negative.low_bits() & 1)).saturating_sub(1);
    (symbol, raw, magnitude & (L::from_bits(1) << raw).minus(L::from_bits(1)))
}

/// The difference of a symbol and its raw bits.
#[inline(always)]
pub(crate) fn join<L: Lane>(symbol: u32, low: L) -> L {
    let m = (symbol + 1) >> 1;
    let negative = L::from_bits(0).minus(L::from_bits((symbol + 1) & 1));
    let raw = raw_bits::<L>(symbol);
    let magnitude = (L::from_bits(m - (raw << L::BELOW)) << raw) | low;
    (magnitude ^ negative).minus(negative)
}

/// How many raw bits follow a symbol: below the bits of a lane, whatever the symbol.
#[inline(always)]
pub(crate) fn raw_bits<L: Lane>(symbol: u32) -> u32 {
    (((symbol + 1) >> 1) >> L::BELOW).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn comes_back<L: Lane + std::fmt::Debug>(difference: L) {
        let (symbol, raw, low) = split(difference);
        assert!((symbol as usize) < SYMBOLS, "{difference:?}");
        assert_eq!(raw, raw_bits::<L>(symbol), "{difference:?}");
        assert_eq!(join::<L>(symbol, low), difference);
    }

    proptest! {
        #[test]
        fn any_difference_comes_back(difference: u64, length in 0u32..64) {
            comes_back((difference >> length) as u32);
            comes_back(((difference >> length) as u32).wrapping_neg());
            comes_back(difference >> length);
            comes_back((difference >> length).wrapping_neg());
        }

        #[test]
        fn any_symbol_stays_within_its_lane(symbol in 0..SYMBOLS as u32) {
            prop_assert!(raw_bits::<u32>(symbol) < u32::BITS && raw_bits::<u64>(symbol) < u64::BITS);
            let _ = (join::<u32>(symbol, 0), join::<u64>(symbol, 0));
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        [0, 1, i32::MAX as u32, i32::MIN as u32, u32::MAX].into_iter().for_each(comes_back::<u32>);
        [0, 1, i64::MAX as u64, i64::MIN as u64, u64::MAX].into_iter().for_each(comes_back::<u64>);
    }
}
