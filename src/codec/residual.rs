//! What is left of an element once its base is known.
//!
//! Floats are compared as *ordered integers*: their bits mapped so that the order of the numbers is the order of the
//! integers (sign and magnitude become two's complement), which turns "the next float" into 1. The difference is turned
//! by the sign of the base: positive means away from zero. Integers are subtracted as they are. Both wrap around, so
//! they are exact for every bit pattern: NaN payloads, infinities, -0.0. Of what is no number, the bits are compared.
//!
//! The *context* of a difference is the exponent of its base: how far a step moves a float, in units of its last place,
//! depends on that more than on anything else that is known beforehand.

use std::ops::{Add, BitAnd, BitOr, BitXor, Shl, Shr};

use crate::tensor::Layout;

/// The integers that elements are worked on in: 32 bits for elements of up to four bytes, else 64.
pub(super) trait Lane:
    Copy
    + PartialEq
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
    + Add<Output = Self>
    + Shl<u32, Output = Self>
    + Shr<u32, Output = Self>
{
    /// The bits below the leading one of a difference that are part of its symbol: as many as leave 256 symbols.
    const BELOW: u32;
    fn from_bits(bits: u32) -> Self;
    fn low_bits(self) -> u32;
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    /// All ones if it is negative, else zero.
    fn sign(self) -> Self;
    /// How many bits it has from the leading one on.
    fn length(self) -> u32;
    /// An element of as many bytes, its sign extended.
    fn read(bytes: &[u8]) -> Self;
    /// Its lowest bytes.
    fn write(self, bytes: &mut [u8]);
}

macro_rules! lane {
    ($lane:ty, $signed:ty, $below:literal, $read:item, $write:item) => {
        impl Lane for $lane {
            const BELOW: u32 = $below;
            #[inline(always)]
            fn from_bits(bits: u32) -> Self {
                <$lane>::from(bits)
            }
            #[inline(always)]
            fn low_bits(self) -> u32 {
                self as u32
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn sign(self) -> Self {
                (self as $signed >> (<$lane>::BITS - 1)) as $lane
            }
            #[inline(always)]
            fn length(self) -> u32 {
                <$lane>::BITS - self.leading_zeros()
            }
            #[inline(always)]
            $read
            #[inline(always)]
            $write
        }
    };
}

lane!(
    u32,
    i32,
    2,
    fn read(bytes: &[u8]) -> u32 {
        match *bytes {
            [a] => a as i8 as u32,
            [a, b] => i16::from_le_bytes([a, b]) as u32,
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("elements of up to four bytes"),
        }
    },
    fn write(self, bytes: &mut [u8]) {
        match bytes {
            [a] => *a = self as u8,
            [_, _] => bytes.copy_from_slice(&(self as u16).to_le_bytes()),
            _ => bytes.copy_from_slice(&self.to_le_bytes()),
        }
    }
);
lane!(
    u64,
    i64,
    1,
    fn read(bytes: &[u8]) -> u64 {
        u64::from_le_bytes(bytes.try_into().expect("elements of eight bytes"))
    },
    fn write(self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.to_le_bytes());
    }
);

/// How an element in a lane is compared with its base, and got back. The inverse of `between` is `apply`.
pub(super) trait Residual<L>: Copy {
    /// The difference of an element to its base.
    fn between(self, base: L, element: L) -> L;
    /// The element that has this difference to the base. Any difference gives one.
    fn apply(self, base: L, difference: L) -> L;
    /// What is known beforehand of a difference to this base: below 256.
    fn context(self, base: L) -> u32;
}

/// How elements of one kind are compared with their bases: what a body says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Elements {
    /// Bytes of one: 1, 2, 4 or 8.
    pub(super) width: usize,
    pub(super) kind: Kind,
}

/// What elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Floats; the lowest bit of the base that is part of its context.
    Floats {
        context_from: u32,
    },
    Integers,
    /// Bits that are no numbers, a byte at a time.
    Bits,
}

impl Elements {
    /// The elements of that layout.
    pub(super) fn of(layout: Layout) -> Elements {
        match layout {
            Layout::Bytes => Elements { width: 1, kind: Kind::Bits },
            Layout::Integer { width } => Elements { width: width.into(), kind: Kind::Integers },
            Layout::Float { width, mantissa_bits } => {
                let width = usize::from(width);
                // No more than 256 contexts: of a long exponent, the upper bits.
                let context_from = u32::from(mantissa_bits).max((8 * width as u32).saturating_sub(9));
                Elements { width, kind: Kind::Floats { context_from } }
            }
        }
    }

    /// The arithmetic of floats and integers.
    pub(super) fn numbers<L: Lane>(self) -> Numbers<L> {
        let zero = L::from_bits(0);
        let ones = zero.minus(L::from_bits(1));
        let top = L::from_bits(1) << (8 * self.width as u32 - 1);
        match self.kind {
            Kind::Floats { context_from } => {
                Numbers { keep: top.minus(L::from_bits(1)), flip: ones, top, context_from }
            }
            Kind::Integers | Kind::Bits => Numbers { keep: ones, flip: zero, top: zero, context_from: 0 },
        }
    }
}

/// The difference of two numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers<L> {
    /// The bits that are taken as they are: all but the sign of a float.
    pub(super) keep: L,
    /// All ones if a sign turns what is below it; zero for integers.
    pub(super) flip: L,
    /// The sign of a float; zero for integers.
    pub(super) top: L,
    pub(super) context_from: u32,
}

impl<L: Lane> Numbers<L> {
    /// The place of an element among all of its kind.
    #[inline(always)]
    fn number(self, element: L) -> L {
        (element & self.keep) ^ (element.sign() & self.flip)
    }
}

impl<L: Lane> Residual<L> for Numbers<L> {
    #[inline(always)]
    fn between(self, base: L, element: L) -> L {
        let turn = base.sign() & self.flip;
        (self.number(element).minus(self.number(base)) ^ turn).minus(turn)
    }

    #[inline(always)]
    fn apply(self, base: L, difference: L) -> L {
        let turn = base.sign() & self.flip;
        let number = self.number(base).plus((difference ^ turn).minus(turn));
        let sign = number.sign() & self.flip;
        ((number ^ sign) & self.keep) | (sign & self.top)
    }

    #[inline(always)]
    fn context(self, base: L) -> u32 {
        ((base & self.keep & self.flip) >> self.context_from).low_bits()
    }
}

/// The bits that differ.
#[derive(Clone, Copy, Debug)]
pub(super) struct Xor;

impl<L: Lane> Residual<L> for Xor {
    #[inline(always)]
    fn between(self, base: L, element: L) -> L {
        base ^ element
    }

    #[inline(always)]
    fn apply(self, base: L, difference: L) -> L {
        base ^ difference
    }

    #[inline(always)]
    fn context(self, _: L) -> u32 {
        0
    }
}
