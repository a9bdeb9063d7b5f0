//! A chunk that is another one in fewer bits: the 16-bit copy of weights that a trainer keeps in 32 bits.
//!
//! Rounded to nearest, ties to even, as trainers do (IEEE 754, `roundTiesToEven`); too large becomes infinity. A NaN
//! becomes `0x7fc0` as a bf16; as an f16 its sign and the upper bits of its payload, with the highest of them set.
//!
//! # Body
//! One byte: 0 if the elements are bf16, 1 if they are f16. The base is as many f32.

use super::{Base, Codec, CodecError, CodecId, Input, Scratch};
use crate::tensor::Layout;

/// Stores nothing but what the base becomes.
#[derive(Clone, Copy, Debug)]
pub struct Cast;

/// What an f32 becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Bf16,
    F16,
}

/// True if the chunk is the cast of the base.
pub fn is_cast(bytes: &[u8], layout: Layout, base: &[u8]) -> bool {
    let Some(target) = Target::of(layout).filter(|_| base.len() == 2 * bytes.len()) else { return false };
    let mut pairs = bytes.chunks_exact(2).zip(base.chunks_exact(4));
    pairs.all(|(element, base)| element == target.cast(base))
}

impl Codec for Cast {
    fn id(&self) -> CodecId {
        CodecId::CAST
    }

    fn encode(&self, input: Input<'_>, _: &mut Scratch, out: &mut Vec<u8>) {
        out.push((Target::of(input.layout) == Some(Target::F16)).into());
    }

    fn bases(&self) -> usize {
        1
    }

    fn decode(&self, body: &[u8], base: Base<'_>, _: &mut Scratch, out: &mut [u8]) -> Result<(), CodecError> {
        let target = match body {
            [0] => Target::Bf16,
            [1] => Target::F16,
            _ => return Err(CodecError("a cast to an unknown type")),
        };
        let Base::Bytes(base) = base else { return Err(CodecError("a cast without its base")) };
        if base.len() != 2 * out.len() || !out.len().is_multiple_of(2) {
            return Err(CodecError("a base of another length"));
        }
        for (element, base) in out.chunks_exact_mut(2).zip(base.chunks_exact(4)) {
            element.copy_from_slice(&target.cast(base));
        }
        Ok(())
    }
}

/// The layout of the elements that a body was made of.
pub(super) fn layout_of(body: &[u8]) -> Layout {
    Layout::Float { width: 2, mantissa_bits: if body == [1] { 10 } else { 7 } }
}

impl Target {
    fn of(layout: Layout) -> Option<Target> {
        match layout {
            Layout::Float { width: 2, mantissa_bits: 7 } => Some(Target::Bf16),
            Layout::Float { width: 2, mantissa_bits: 10 } => Some(Target::F16),
            _ => None,
        }
    }

    #[inline]
    fn cast(self, base: &[u8]) -> [u8; 2] {
        let bits = u32::from_le_bytes(base.try_into().expect("four bytes of a base"));
        let cast = if self == Target::Bf16 { bf16(bits) } else { f16(bits) };
        cast.to_le_bytes()
    }
}

fn bf16(bits: u32) -> u16 {
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return 0x7fc0;
    }
    // Half of what is cut off, less one if the number below is even: a tie goes to that.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn f16(bits: u32) -> u16 {
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let rounded = match magnitude {
        // NaN.
        0x7f80_0001.. => 0x7e00 | (magnitude >> 13 & 0x3ff),
        // From 65,520 on, the nearest is beyond the largest f16.
        0x477f_f000.. => 0x7c00,
        // Normal: the exponent is counted from 15 instead of 127.
        0x3880_0000.. => (magnitude - (112 << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13,
        // Subnormal: units of 2^-24.
        _ => {
            let exponent = magnitude >> 23;
            let drop = 126u32.saturating_sub(exponent);
            let mantissa = magnitude & 0x7f_ffff | u32::from(exponent > 0) << 23;
            if drop > 24 {
                0
            } else {
                let (whole, rest, half) = (mantissa >> drop, mantissa & ((1 << drop) - 1), 1u32 << drop >> 1);
                whole + u32::from(rest > half || rest == half && whole & 1 == 1)
            }
        }
    };
    sign | rounded as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The value of an f16.
    fn value(half: u16) -> f64 {
        let (exponent, mantissa) = (i32::from(half >> 10 & 31), f64::from(half & 0x3ff));
        let magnitude = match exponent {
            0 => mantissa * 2f64.powi(-24),
            31 if mantissa == 0.0 => f64::INFINITY,
            31 => f64::NAN,
            _ => (1024.0 + mantissa) * 2f64.powi(exponent - 25),
        };
        if half >> 15 == 1 { -magnitude } else { magnitude }
    }

    proptest! {
        /// No f16 is nearer, and of two that are as near the even one was taken.
        #[test]
        fn an_f16_is_the_nearest(bits in prop_oneof![any::<u32>(), 0x3000_0000u32..0x4800_0000]) {
            let float = f32::from_bits(bits);
            let half = f16(bits);
            if float.is_nan() {
                prop_assert!(value(half).is_nan());
            } else if value(half).is_infinite() {
                prop_assert!(float.abs() >= 65_520.0 && half >> 15 == (bits >> 31) as u16);
            } else {
                let off = (value(half) - f64::from(float)).abs();
                for other in [half.wrapping_sub(1), half.wrapping_add(1)].map(value).into_iter().filter(|v| v.is_finite()) {
                    let theirs = (other - f64::from(float)).abs();
                    prop_assert!(off < theirs || off == theirs && half & 1 == 0, "{} as {}", float, half);
                }
            }
        }

        #[test]
        fn a_bf16_is_the_nearest(bits: u32) {
            let (float, half) = (f32::from_bits(bits), bf16(bits));
            let value = |half: u16| f64::from(f32::from_bits(u32::from(half) << 16));
            if float.is_nan() {
                prop_assert!(value(half).is_nan());
            } else if value(half).is_finite() {
                let off = (value(half) - f64::from(float)).abs();
                for other in [half.wrapping_sub(1), half.wrapping_add(1)].map(value).into_iter().filter(|v| v.is_finite()) {
                    let theirs = (other - f64::from(float)).abs();
                    prop_assert!(off < theirs || off == theirs && half & 1 == 0 || theirs == 0.0 && off == 0.0);
                }
            }
        }

        #[test]
        fn a_cast_comes_back(base in proptest::collection::vec(any::<u32>(), 0..100), mantissa_bits in prop_oneof![Just(7u8), Just(10)]) {
            let layout = Layout::Float { width: 2, mantissa_bits };
            let target = Target::of(layout).unwrap();
            let base: Vec<u8> = base.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            let bytes: Vec<u8> = base.chunks_exact(4).flat_map(|base| target.cast(base)).collect();
            prop_assert!(is_cast(&bytes, layout, &base));
            let (mut scratch, mut body) = (Scratch::new(), Vec::new());
            Cast.encode(Input { bytes: &bytes, layout, base: Some(&base), small: false }, &mut scratch, &mut body);
            let mut out = vec![0xa5; bytes.len()];
            prop_assert_eq!(Cast.decode(&body, Base::Bytes(&base), &mut scratch, &mut out), Ok(()));
            prop_assert_eq!(out, bytes);
        }
    }

    #[test]
    fn what_is_no_cast_is_refused() {
        let layout = Layout::Float { width: 2, mantissa_bits: 7 };
        assert!(is_cast(&[0x80, 0x3f], layout, &1f32.to_le_bytes()));
        assert!(!is_cast(&[0x81, 0x3f], layout, &1f32.to_le_bytes()));
        assert!(!is_cast(&[0x80, 0x3f], layout, &[0; 8]));
        assert!(!is_cast(&[0x80, 0x3f], Layout::Bytes, &1f32.to_le_bytes()));
        let mut scratch = Scratch::new();
        let mut decode = |body: &[u8], base, out: &mut [u8]| Cast.decode(body, base, &mut scratch, out).is_err();
        assert!(decode(&[], Base::Bytes(&[0; 4]), &mut [0; 2]) && decode(&[2], Base::Bytes(&[0; 4]), &mut [0; 2]));
        assert!(decode(&[0], Base::Bytes(&[0; 6]), &mut [0; 3]) && decode(&[0], Base::InPlace, &mut [0; 2]));
        assert!(decode(&[0], Base::None, &mut [0; 2]));
    }
}
