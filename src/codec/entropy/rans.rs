//! Range asymmetric numeral systems: the coder (Duda, arXiv:1311.2540; in the form of Giesen's rANS, interleaved).
//!
//! [`LANES`] coders run side by side, the element `i` of a row with coder `i`: their steps do not wait for each other,
//! and a machine with vectors does several at once. A state is a number of 31 bits. A symbol that has `f` of the 4096
//! parts, which begin at part `b`, is put into a state `x` as `x / f * 4096 + b + x % f`; raw bits are put in as symbols
//! of equal odds, up to 15 at a time. A state that would grow too large gives its lower 16 bits away as a *word* first,
//! and takes one back as soon as it has become small again.
//!
//! What is put in last comes out first. So elements are coded from the last to the first, and the words are written
//! from the end of the buffer to its front; a reader goes through everything forward.

use super::classes::{CONTEXTS, Classes, Counting};
use super::symbol::{self, SYMBOLS};
use super::table::{Grain, PARTS, PARTS_BITS, Table};
use crate::codec::CodecError;
use crate::codec::residual::{Lane, Residual};
use crate::codec::scratch::at_least;

/// Coders side by side, and elements of a row.
pub(crate) const LANES: usize = 32;
/// States are at least this large and below 65,536 times as much.
pub(crate) const LEAST: u32 = 1 << 15;
/// Raw bits that are put into a state at a time.
pub(crate) const RAW_STEP: u32 = 15;

const STATE_BITS: u32 = 31;
// So that dividing by multiplying is exact, and vectors can compare states as signed numbers.
const _: () = assert!(LEAST << 16 == 1 << STATE_BITS && PARTS_BITS < 15);

/// How a symbol is put into a state, in 64 bits, so that vectors look it up as it is: from bit 0 on a reciprocal, from
/// bit 32 on where the symbol's parts begin, from bit 44 on the parts of all others, from bit 56 on how many bits of a
/// product with the reciprocal drop.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub(crate) struct Put(u64);

impl Put {
    fn new(begin: u16, parts: u16) -> Put {
        let f = u32::from(parts).max(1);
        // 2^(bits - 1) < f <= 2^bits. The quotient is exact for x < f 2^19: the reciprocal is at most 1 too large, so x
        // times it over 2^(31 + bits) is at most 2^-12 too large, and a fraction of f parts is never closer to the next.
        let bits = u32::BITS - (f - 1).leading_zeros();
        let reciprocal = (1u64 << (31 + bits)).div_ceil(u64::from(f));
        Put(reciprocal | u64::from(begin) << 32 | u64::from(PARTS - f) << 44 | u64::from(31 + bits) << 56)
    }

    fn begin(self) -> u32 {
        (self.0 >> 32) as u32 & (PARTS - 1)
    }

    fn others(self) -> u32 {
        (self.0 >> 44) as u32 & (PARTS - 1)
    }

    /// A state of as many times 2^19 as there are parts is full: less than 2^31 by as much as others have.
    #[inline(always)]
    fn limit(self) -> u32 {
        (1 << STATE_BITS) - (self.others() << (STATE_BITS - PARTS_BITS))
    }

    #[inline(always)]
    fn into(self, state: u32) -> u32 {
        let quotient = ((u64::from(state) * (self.0 & u64::from(u32::MAX))) >> (self.0 >> 56)) as u32;
        // quotient * 4096 + begin + remainder, since the remainder is the state without quotient * parts.
        state + self.begin() + quotient * self.others()
    }
}

/// What the tables of all classes become for an encoder: a [`Put`] for each symbol of each class.
fn puts<'a>(classes: &Classes, room: &'a mut Vec<Put>) -> &'a [Put] {
    room.clear();
    for table in &classes.tables {
        let mut begin = 0;
        for &parts in table.parts() {
            room.push(if parts > 0 { Put::new(begin, parts) } else { Put::default() });
            begin += parts;
        }
    }
    room
}

/// What the tables of all classes become for a decoder: for each grain of each class its symbol in bits 0 to 7, the
/// symbol's parts less one in bits 8 to 19, and the place of its first part among them in bits 20 to 31.
fn slots<'a>(classes: &Classes, grain: Grain, room: &'a mut Vec<u32>) -> &'a [u32] {
    let slots = at_least(room, classes.tables.len() * (PARTS >> grain.bits()) as usize);
    let mut at = 0;
    for table in &classes.tables {
        for (symbol, &parts) in table.parts().iter().enumerate().filter(|(_, parts)| **parts > 0) {
            let first = symbol as u32 | (u32::from(parts) - 1) << 8;
            let grains = usize::from(parts) >> grain.bits();
            for (slot, place) in slots[at..][..grains].iter_mut().zip(0u32..) {
                *slot = first | place << (20 + grain.bits());
            }
            at += grains;
        }
    }
    slots
}

/// More words than a row gives or takes: a coder has a word for the symbol, and one for each step of raw bits.
pub(crate) const ROW_WORDS: usize = 256;
const _: () = assert!(ROW_WORDS >= LANES * (1 + u64::BITS.div_ceil(RAW_STEP) as usize) && ROW_WORDS.is_power_of_two());

/// Writes words from the end of a buffer to its front.
#[derive(Debug)]
pub(crate) struct WordsBack<'a> {
    words: &'a mut [[u8; 2]],
    at: usize,
}

impl<'a> WordsBack<'a> {
    pub(crate) fn new(words: &'a mut [[u8; 2]]) -> WordsBack<'a> {
        WordsBack { at: words.len(), words }
    }

    /// The bytes of the words that were written.
    pub(crate) fn written(&self) -> &[u8] {
        self.words[self.at..].as_flattened()
    }

    /// Where the words of a row go, from the end to the front.
    #[inline(always)]
    pub(crate) fn room(&mut self) -> &mut [[u8; 2]; ROW_WORDS] {
        self.words[..self.at].last_chunk_mut().expect("a buffer with room for one row more")
    }

    /// So many words at the end of the room count as written from now on.
    #[inline(always)]
    pub(crate) fn wrote(&mut self, count: usize) {
        self.at -= count;
    }
}

/// Reads words from the front of a slice. Past its end there are zeros, and the reader has failed.
#[derive(Debug)]
pub(crate) struct Words<'a> {
    words: &'a [[u8; 2]],
    at: usize,
    /// The last words, with zeros behind them.
    last: [[u8; 2]; ROW_WORDS],
}

impl<'a> Words<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Words<'a>, CodecError> {
        match bytes.as_chunks() {
            (words, []) => Ok(Words { words, at: 0, last: [[0; 2]; ROW_WORDS] }),
            _ => Err(CodecError("half a word")),
        }
    }

    /// The next words, enough for a row; zeros where there are none.
    #[inline(always)]
    pub(crate) fn ahead(&mut self) -> &[[u8; 2]; ROW_WORDS] {
        match self.words.get(self.at..).and_then(|words| words.first_chunk()) {
            Some(ahead) => ahead,
            None => self.ahead_at_the_end(),
        }
    }

    #[cold]
    #[inline(never)]
    fn ahead_at_the_end(&mut self) -> &[[u8; 2]; ROW_WORDS] {
        let left = self.words.get(self.at..).unwrap_or_default();
        let (there, behind) = self.last.split_at_mut(left.len());
        there.copy_from_slice(left);
        behind.fill([0; 2]);
        &self.last
    }

    /// So many of those ahead count as read from now on.
    #[inline(always)]
    pub(crate) fn took(&mut self, count: usize) {
        self.at += count;
    }

    /// All were read, and no more.
    pub(crate) fn end(&self) -> Result<(), CodecError> {
        if self.at == self.words.len() { Ok(()) } else { Err(CodecError("another number of words than it takes")) }
    }
}

/// The coders of a chunk that is written.
#[derive(Debug)]
pub(crate) struct Encoder<'a> {
    /// The class of each context.
    pub(crate) classes: [u8; CONTEXTS],
    /// For each class, how its symbols are put.
    pub(crate) puts: &'a [Put],
    pub(crate) states: [u32; LANES],
    pub(crate) words: WordsBack<'a>,
}

impl<'a> Encoder<'a> {
    /// Coders that have not begun, with so many words as room.
    pub(crate) fn new(classes: &Classes, puts: &'a mut Vec<Put>, words: &'a mut [[u8; 2]]) -> Encoder<'a> {
        Encoder {
            classes: classes.of_contexts(),
            puts: self::puts(classes, puts),
            states: [LEAST; LANES],
            words: WordsBack::new(words),
        }
    }
}

/// The coders of a chunk that is read.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    /// The class of each context.
    pub(crate) classes: [u8; CONTEXTS],
    /// For each class, what its grains of parts stand for.
    pub(crate) slots: &'a [u32],
    pub(crate) grain: Grain,
    /// The most raw bits that a symbol of the tables has, in lanes of 32 bits.
    pub(crate) raw_most: u32,
    pub(crate) states: [u32; LANES],
    pub(crate) words: Words<'a>,
}

impl<'a> Decoder<'a> {
    /// Coders that left these states and words.
    pub(crate) fn new(
        classes: &Classes,
        slots: &'a mut Vec<u32>,
        states: [u32; LANES],
        words: &'a [u8],
    ) -> Result<Decoder<'a>, CodecError> {
        if states.iter().any(|state| !(LEAST..LEAST << 16).contains(state)) {
            return Err(CodecError("an impossible state"));
        }
        let grain = Grain::of_all(&classes.tables);
        let slots = self::slots(classes, grain, slots);
        let last = |table: &Table| table.parts().iter().rposition(|parts| *parts > 0).unwrap_or(0);
        let last = classes.tables.iter().map(last).max().unwrap_or(0);
        let raw_most = symbol::raw_bits::<u32>(last as u32); // below 256
        Ok(Decoder { classes: classes.of_contexts(), slots, grain, raw_most, states, words: Words::new(words)? })
    }

    /// All that was written was read, and the coders are where those of the writer began.
    pub(crate) fn end(&self) -> Result<(), CodecError> {
        self.words.end()?;
        if self.states == [LEAST; LANES] { Ok(()) } else { Err(CodecError("states that do not end as they began")) }
    }
}

/// A row of elements as they are coded.
struct Coded<L> {
    /// Where their symbols' `Put` or `Slot` is counted from.
    class: [u32; LANES],
    symbol: [u32; LANES],
    raw_bits: [u32; LANES],
    low: [L; LANES],
}

/// Counts the symbols of a row in their contexts.
#[inline(always)]
pub(crate) fn count_row<L: Lane>(
    residual: impl Residual<L>,
    bases: &[L; LANES],
    elements: &[L; LANES],
    counting: &mut Counting<'_>,
) {
    for ((place, &base), &element) in counting.row().iter_mut().zip(bases).zip(elements) {
        let (symbol, _, _) = symbol::split(residual.between(base, element));
        *place = (residual.context(base) << 8 | symbol) as u16; // both below 256
    }
}

/// Puts a row into the states.
#[inline(always)]
pub(crate) fn encode_row<L: Lane>(
    residual: impl Residual<L>,
    bases: &[L; LANES],
    elements: &[L; LANES],
    encoder: &mut Encoder<'_>,
) {
    let Encoder { classes, puts, states, words } = encoder;
    let mut row = Coded { class: [0; LANES], symbol: [0; LANES], raw_bits: [0; LANES], low: [L::from_bits(0); LANES] };
    for lane in 0..LANES {
        let (symbol, raw_bits, low) = symbol::split(residual.between(bases[lane], elements[lane]));
        (row.symbol[lane], row.raw_bits[lane], row.low[lane]) = (symbol, raw_bits, low);
        row.class[lane] = residual.context(bases[lane]);
    }
    let room = words.room();
    let mut count = 0;
    // Writes a word, or leaves what is there.
    let mut give = |state: u32, full: bool| {
        room[(ROW_WORDS - 1 - count) % ROW_WORDS] = (state as u16).to_le_bytes();
        count += usize::from(full);
        if full { state >> 16 } else { state }
    };
    let most = row.raw_bits.iter().fold(0, |most, bits| most.max(*bits));
    for step in (0..most.div_ceil(RAW_STEP)).rev() {
        for lane in (0..LANES).rev() {
            let bits = row.raw_bits[lane].saturating_sub(step * RAW_STEP).min(RAW_STEP);
            let raw = (row.low[lane] >> (step * RAW_STEP)).low_bits() & ((1 << bits) - 1);
            let full = states[lane] >= 1 << (STATE_BITS - bits);
            states[lane] = give(states[lane], full) << bits | raw;
        }
    }
    for lane in (0..LANES).rev() {
        let class = usize::from(classes[row.class[lane] as usize]);
        let put = puts[class * SYMBOLS + row.symbol[lane] as usize];
        states[lane] = put.into(give(states[lane], states[lane] >= put.limit()));
    }
    words.wrote(count);
}

/// Takes a row out of the states: `elements` holds the bases, and then what was saved.
#[inline(always)]
pub(crate) fn decode_row<L: Lane>(residual: impl Residual<L>, elements: &mut [L; LANES], decoder: &mut Decoder<'_>) {
    let Decoder { classes, slots, grain, states, words, .. } = decoder;
    let mut row = Coded { class: [0; LANES], symbol: [0; LANES], raw_bits: [0; LANES], low: [L::from_bits(0); LANES] };
    for (class, &base) in row.class.iter_mut().zip(elements.iter()) {
        *class = u32::from(classes[residual.context(base) as usize]);
    }
    let ahead = words.ahead();
    let mut count = 0;
    let mut refill = |state: u32| {
        let small = state < LEAST;
        let filled = state << 16 | u32::from(u16::from_le_bytes(ahead[count % ROW_WORDS]));
        count += usize::from(small);
        if small { filled } else { state }
    };
    for lane in 0..LANES {
        let state = states[lane];
        let slot = slots[((row.class[lane] * PARTS + state % PARTS) >> grain.bits()) as usize];
        row.symbol[lane] = slot & 0xff;
        let place = (slot >> 20) + state % (1 << grain.bits());
        states[lane] = refill(((slot >> 8 & 0xfff) + 1) * (state >> PARTS_BITS) + place);
    }
    for (bits, &symbol) in row.raw_bits.iter_mut().zip(&row.symbol) {
        *bits = symbol::raw_bits::<L>(symbol);
    }
    let most = row.raw_bits.iter().fold(0, |most, bits| most.max(*bits));
    for step in 0..most.div_ceil(RAW_STEP) {
        for ((state, &bits), low) in states.iter_mut().zip(&row.raw_bits).zip(&mut row.low) {
            let bits = bits.saturating_sub(step * RAW_STEP).min(RAW_STEP);
            *low = *low | L::from_bits(*state & ((1 << bits) - 1)) << (step * RAW_STEP);
            *state = refill(*state >> bits);
        }
    }
    words.took(count);
    for (lane, element) in elements.iter_mut().enumerate() {
        *element = residual.apply(*element, symbol::join(row.symbol[lane], row.low[lane]));
    }
}
