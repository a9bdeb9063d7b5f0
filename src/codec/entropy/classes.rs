//! Contexts that are alike share a table.
//!
//! Each context could have odds of its own, but tables cost bytes, and what few symbols say of their odds is chance.
//! Contexts are exponents: neighbours are alike. So classes are runs of contexts, found by merging the two neighbours
//! that lose least by it, as long as their table costs more than they lose.

use super::log2;
use super::rans::LANES;
use super::symbol::SYMBOLS;
use super::table::{Grain, Table};

/// Contexts are below this.
pub(crate) const CONTEXTS: usize = 256;
/// Classes of one frame, at most: their tables are to stay in a near cache.
pub(crate) const CLASSES_MAX: usize = 16;

/// What a table is taken to cost, in bits: some, and more for each symbol that lies in its range.
const TABLE_BITS: u64 = 24;
const SYMBOL_BITS: u64 = 5;

/// How often each symbol occurs in each context.
pub(crate) type Counts = [[u32; SYMBOLS]; CONTEXTS];

/// Counts symbols row by row: many rows are put down before any is counted. Counting between the work of vectors, with
/// an instruction for each lane, was measured to be several times slower.
pub(crate) struct Counting<'a> {
    counts: &'a mut Counts,
    places: [[u16; LANES]; ROWS],
    rows: usize,
}

const ROWS: usize = 32;

impl<'a> Counting<'a> {
    /// Adds to what the counts hold.
    pub(crate) fn new(counts: &'a mut Counts) -> Counting<'a> {
        Counting { counts, places: [[0; LANES]; ROWS], rows: 0 }
    }

    /// Where the places of the next row go: a context, and below it a symbol.
    #[inline(always)]
    pub(crate) fn row(&mut self) -> &mut [u16; LANES] {
        if self.rows == ROWS {
            self.count();
        }
        self.rows += 1;
        &mut self.places[self.rows - 1]
    }

    #[inline(never)]
    fn count(&mut self) {
        let counts = self.counts.as_flattened_mut();
        for place in self.places[..self.rows].as_flattened() {
            counts[usize::from(*place)] += 1;
        }
        self.rows = 0;
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        self.count();
    }
}

/// Runs of contexts, each with its odds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Classes {
    /// The first context of each class but the first, which begins with context 0. Increasing.
    pub(crate) firsts: Vec<u8>,
    /// One for each class.
    pub(crate) tables: Vec<Table>,
}

impl Classes {
    /// The classes that store symbols like these in the fewest bits, and what they promise. `None` if there are no
    /// symbols.
    pub(crate) fn of(counts: &Counts, grain: Grain) -> Option<(Classes, Promise)> {
        let mut groups: Vec<Group> =
            counts.iter().zip(0..=u8::MAX).filter_map(|(counts, context)| Group::of(context, counts)).collect();
        let mut joined: Vec<Group> = groups.windows(2).map(|pair| pair[0].with(&pair[1])).collect();
        while let Some((at, lost)) = (joined.iter().enumerate())
            .map(|(at, both)| (at, both.bits as i64 - groups[at].bits as i64 - groups[at + 1].bits as i64))
            .min_by_key(|(_, lost)| *lost)
            && (lost <= 0 || groups.len() > CLASSES_MAX)
        {
            groups[at] = joined.remove(at);
            groups.remove(at + 1);
            if let Some(before) = at.checked_sub(1) {
                joined[before] = groups[before].with(&groups[at]);
            }
            if let Some(both) = joined.get_mut(at) {
                *both = groups[at].with(&groups[at + 1]);
            }
        }
        let mut promise = Promise { bits: groups.iter().map(|group| group.bits).sum(), occur: [0; SYMBOLS] };
        for group in &groups {
            promise.occur.iter_mut().zip(&group.counts).for_each(|(all, count)| *all += u64::from(*count));
        }
        let firsts = groups.iter().skip(1).map(|group| group.first).collect();
        let tables: Vec<Table> = groups.iter().map(|group| Table::of(&group.counts, grain)).collect();
        (!tables.is_empty()).then_some((Classes { firsts, tables }, promise))
    }

    /// The class of each context.
    pub(crate) fn of_contexts(&self) -> [u8; CONTEXTS] {
        let mut class = [0; CONTEXTS];
        for first in &self.firsts {
            class[usize::from(*first)..].iter_mut().for_each(|class| *class += 1);
        }
        class
    }
}

/// What symbols take in their classes.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    /// About how many bits symbols and tables have, without raw bits.
    pub(crate) bits: u64,
    /// How often each symbol occurs.
    pub(crate) occur: [u64; SYMBOLS],
}

/// Neighbouring contexts taken together.
#[derive(Clone, Debug)]
struct Group {
    first: u8,
    counts: [u32; SYMBOLS],
    total: u32,
    /// What its symbols and its table take.
    bits: u64,
}

impl Group {
    fn of(first: u8, counts: &[u32; SYMBOLS]) -> Option<Group> {
        let total = counts.iter().sum();
        (total > 0).then(|| Group { first, bits: bits_of(counts, total), counts: *counts, total })
    }

    fn with(&self, next: &Group) -> Group {
        let counts = std::array::from_fn(|symbol| self.counts[symbol] + next.counts[symbol]);
        let total = self.total + next.total;
        Group { first: self.first, bits: bits_of(&counts, total), counts, total }
    }
}

fn bits_of(counts: &[u32; SYMBOLS], total: u32) -> u64 {
    let weighted = |count: u32| u64::from(count) * log2(count);
    let (mut low, mut high, mut sum) = (SYMBOLS, 0, 0);
    for (symbol, &count) in counts.iter().enumerate() {
        if count > 0 {
            low = low.min(symbol);
            high = symbol;
            sum += weighted(count);
        }
    }
    ((weighted(total) - sum) >> super::FRACTION) + TABLE_BITS + SYMBOL_BITS * (high + 1 - low) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: impl Fn(usize, usize) -> u32) -> Box<Counts> {
        let mut counts = Box::new([[0; SYMBOLS]; CONTEXTS]);
        for (context, row) in counts.iter_mut().enumerate() {
            row.iter_mut().enumerate().for_each(|(symbol, count)| *count = of(context, symbol));
        }
        counts
    }

    #[test]
    fn contexts_that_are_alike_share_a_class_and_others_do_not() {
        let two = counts(|context, symbol| u32::from(symbol / 8 == context / 128) * 1000);
        let (classes, Promise { bits, .. }) = Classes::of(&two, Grain::FINE).unwrap();
        assert_eq!(classes.firsts, [128]);
        assert_eq!(classes.of_contexts()[127..129], [0, 1]);
        let (symbols, tables) = (256 * 8 * 1000 * 3, 2 * (TABLE_BITS + 8 * SYMBOL_BITS));
        assert!(bits.abs_diff(symbols + tables) < symbols / 1000, "{bits}");
    }

    #[test]
    fn there_are_never_too_many() {
        let different = counts(|context, symbol| u32::from(symbol == context) * 100_000);
        let (classes, _) = Classes::of(&different, Grain::FINE).unwrap();
        assert_eq!(classes.tables.len(), CLASSES_MAX);
        assert!(Classes::of(&counts(|_, _| 0), Grain::FINE).is_none());
    }
}
