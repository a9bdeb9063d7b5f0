//! The odds of the symbols of one class: 4096 parts that are shared out among them.
//!
//! Every symbol that occurs has one part at least. The most frequent one, the *top*, has what the others leave. The
//! others have parts of four significant bits: finer odds would cost more to store than they save.
//!
//! # As bits
//! From the lowest bit of each byte on, a number's lowest bit first.
//!
//! | bits | what |
//! |---|---|
//! | 8, 8, 8 | the lowest symbol, the highest, and the top |
//! | for each symbol from the lowest to the highest but the top | its parts, as below |
//!
//! Parts are the length `l` of their number in bits (0 to 12; 0: the symbol does not occur), then the bits below its
//! leading one, the highest first as a number of `min(l - 1, 3)` bits; what is below those is zero. The length is said
//! by how it differs from that of the symbol before, which for the first is 4: as before, the bit 1; one more, the bits
//! 0 1 0; one less, 0 1 1; otherwise 0 0 and the length in four bits.

use super::symbol::SYMBOLS;
use crate::codec::CodecError;

/// Parts are counted in so many bits.
pub(crate) const PARTS_BITS: u32 = 12;
/// All parts.
pub(crate) const PARTS: u32 = 1 << PARTS_BITS;
/// Bits below the leading one that parts have.
const FINE: u32 = 3;
const FIRST_LENGTH: u32 = 4;

/// What parts are multiples of, as a power of two: a reader needs a slot for each grain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grain(u32);

impl Grain {
    /// Each part for itself: the fewest bytes.
    pub(crate) const FINE: Grain = Grain(0);
    /// Pairs of parts. What is rare has more than its due, but the slots of a frame's classes, half as many, stay in the
    /// nearest cache more often.
    pub(crate) const MEDIUM: Grain = Grain(1);
    /// Fours of parts.
    pub(crate) const COARSE: Grain = Grain(2);

    /// The largest of these that the parts of all tables are multiples of.
    pub(crate) fn of_all(tables: &[Table]) -> Grain {
        let bits = tables.iter().flat_map(|table| table.parts).fold(PARTS as u16, |bits, parts| bits | parts);
        Grain(bits.trailing_zeros().min(Grain::COARSE.0))
    }

    /// Parts of a grain, as a power of two.
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// The nearest number of parts that is a multiple, and at least one grain.
    fn round(self, parts: u32) -> u32 {
        ((parts + (1 << self.0 >> 1)) >> self.0).max(1) << self.0
    }
}

/// How many parts each symbol has; `PARTS` in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    parts: [u16; SYMBOLS],
    top: u8,
}

impl Table {
    /// The odds that `counts`, of which one at least is not zero, speak for, in parts that are multiples of the grain.
    pub(crate) fn of(counts: &[u32; SYMBOLS], grain: Grain) -> Table {
        let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        // Of equals the first.
        let top = (0..SYMBOLS).rev().max_by_key(|symbol| counts[*symbol]).unwrap_or(0);
        let mut parts = [0u16; SYMBOLS];
        // Rounding may give the others more than there is; then everyone gets a little less.
        let mut scale = u64::from(PARTS);
        loop {
            let mut others = 0;
            for (symbol, count) in counts.iter().enumerate().filter(|(symbol, count)| **count > 0 && *symbol != top) {
                parts[symbol] = grain.round(rounded(((u64::from(*count) * scale + total / 2) / total) as u32)) as u16;
                others += u32::from(parts[symbol]);
            }
            let wanted = u64::from(counts[top]) * u64::from(PARTS) / total;
            if others < PARTS && (u64::from(PARTS - others) * 2 > wanted || scale < 512) {
                parts[top] = (PARTS - others) as u16;
                return Table { parts, top: top as u8 };
            }
            scale -= scale / 32;
        }
    }

    /// The parts of each symbol.
    pub(crate) fn parts(&self) -> &[u16; SYMBOLS] {
        &self.parts
    }

    /// Appends it.
    pub(crate) fn put(&self, bits: &mut BitWriter) {
        let occurs = |symbol: &usize| self.parts[*symbol] > 0;
        let low = (0..SYMBOLS).find(occurs).unwrap_or(0);
        let high = (0..SYMBOLS).rev().find(occurs).unwrap_or(0);
        let top = usize::from(self.top);
        [low, high, top].into_iter().for_each(|symbol| bits.put(symbol as u32, 8));
        let mut before = FIRST_LENGTH;
        for symbol in (low..=high).filter(|symbol| *symbol != top) {
            let parts = u32::from(self.parts[symbol]);
            let length = u32::BITS - parts.leading_zeros();
            match length as i32 - before as i32 {
                0 => bits.put(1, 1),
                1 => bits.put(0b010, 3),
                -1 => bits.put(0b110, 3),
                _ => bits.put(length << 2, 6),
            }
            let fine = length.saturating_sub(1).min(FINE);
            bits.put((parts >> (length.saturating_sub(1) - fine)) & ((1 << fine) - 1), fine);
            before = length;
        }
    }

    /// Reads what [`put`](Table::put) wrote.
    pub(crate) fn take(bits: &mut BitReader<'_>) -> Result<Table, CodecError> {
        let mut symbol = || bits.take(8).map(|symbol| symbol as usize);
        let (low, high, top) = (symbol()?, symbol()?, symbol()?);
        if !(low..=high).contains(&top) {
            return Err(CodecError("a table whose most frequent symbol is outside"));
        }
        let mut parts = [0u16; SYMBOLS];
        let (mut before, mut others) = (FIRST_LENGTH, 0);
        for symbol in (low..=high).filter(|symbol| *symbol != top) {
            let length = match bits.take(1)? {
                1 => before,
                _ if bits.take(1)? == 0 => bits.take(4)?,
                _ if bits.take(1)? == 0 => before + 1,
                _ => before.wrapping_sub(1),
            };
            if length > PARTS_BITS {
                return Err(CodecError("parts of an impossible length"));
            }
            let fine = length.saturating_sub(1).min(FINE);
            let leading = u32::from(length > 0) << fine | bits.take(fine)?;
            let said = leading << (length.saturating_sub(1) - fine);
            parts[symbol] = said as u16;
            others += said;
            before = length;
        }
        if others >= PARTS {
            return Err(CodecError("a table with more parts than there are"));
        }
        parts[top] = (PARTS - others) as u16;
        Ok(Table { parts, top: top as u8 })
    }
}

/// To four significant bits.
fn rounded(parts: u32) -> u32 {
    let drop = (u32::BITS - parts.leading_zeros()).saturating_sub(1 + FINE);
    (parts + (1 << drop >> 1)) >> drop << drop
}

/// Appends numbers of a few bits.
#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    waiting: u64,
    bits: u32,
}

impl BitWriter {
    /// The lowest `bits` bits, at most 32, of a number that has no others.
    pub(crate) fn put(&mut self, number: u32, bits: u32) {
        self.waiting |= u64::from(number) << self.bits;
        self.bits += bits;
        while self.bits >= 8 {
            self.bytes.push(self.waiting as u8);
            self.waiting >>= 8;
            self.bits -= 8;
        }
    }

    /// All bytes; the last is filled up with zeros.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        if self.bits > 0 {
            self.bytes.push(self.waiting as u8);
        }
        self.bytes
    }
}

/// The inverse of [`BitWriter`].
#[derive(Debug)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    waiting: u64,
    bits: u32,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader { bytes, waiting: 0, bits: 0 }
    }

    /// The next `bits` bits, at most 32.
    pub(crate) fn take(&mut self, bits: u32) -> Result<u32, CodecError> {
        while self.bits < bits {
            let (first, rest) = self.bytes.split_first().ok_or(CodecError("a table that ends too soon"))?;
            self.waiting |= u64::from(*first) << self.bits;
            self.bits += 8;
            self.bytes = rest;
        }
        let number = self.waiting as u32 & ((1u64 << bits) - 1) as u32;
        self.waiting >>= bits;
        self.bits -= bits;
        Ok(number)
    }

    /// Everything was read: less than a byte is left, and that is zero.
    pub(crate) fn end(self) -> Result<(), CodecError> {
        if self.bytes.is_empty() && self.waiting == 0 { Ok(()) } else { Err(CodecError("bits behind a table")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Table, CodecError> {
        let mut bits = BitReader::new(bytes);
        let table = Table::take(&mut bits)?;
        bits.end()?;
        Ok(table)
    }

    proptest! {
        #[test]
        fn tables_come_back_and_give_each_symbol_its_due(
            counts in vec(prop_oneof![Just(0), 1u32..9, 1u32..1 << 21], SYMBOLS), one in 0..SYMBOLS,
            grain in prop_oneof![Just(Grain::FINE), Just(Grain::MEDIUM), Just(Grain::COARSE)],
        ) {
            let mut counts: [u32; SYMBOLS] = counts.try_into().unwrap();
            counts[one] += 1;
            let table = Table::of(&counts, grain);
            prop_assert!(Grain::of_all(std::slice::from_ref(&table)).bits() >= grain.bits());
            prop_assert_eq!(table.parts.iter().map(|parts| u32::from(*parts)).sum::<u32>(), PARTS);
            for (parts, count) in table.parts.iter().zip(&counts) {
                prop_assert_eq!(*parts > 0, *count > 0);
            }
            let mut bits = BitWriter::default();
            table.put(&mut bits);
            prop_assert_eq!(read(&bits.finish()), Ok(table));
        }

        #[test]
        fn any_bits_are_a_table_or_an_error(bytes: Vec<u8>) {
            if let Ok(table) = read(&bytes) {
                prop_assert_eq!(table.parts.iter().map(|parts| u32::from(*parts)).sum::<u32>(), PARTS);
            }
        }
    }

    #[test]
    fn one_symbol_alone_has_all_parts() {
        let mut counts = [0; SYMBOLS];
        counts[200] = 5;
        assert_eq!(Table::of(&counts, Grain::FINE).parts[200], PARTS as u16);
    }
}
