//! The loops of [`rows`](super::rows) in AVX2, for elements of one, two and four bytes: eight coders to a vector.
//!
//! A row is four vectors. Each step of the coder is done for all four before the next, in the order in which the
//! portable code goes through the lanes, so the words come out the same. Where it differs is how: the symbol of a
//! difference is found by the exponent that the machine gives the magnitude as a float; the lanes that take or give a
//! word are brought together by a shuffle that [`SPREAD`] and [`PACK`] know for each of the 256 cases.

use std::arch::x86_64::*;

use super::Pair;
use super::rows::Coded;
use super::vector::{Ahead, BELOW, Given};
use crate::codec::entropy::classes::{CONTEXTS, Counting};
use crate::codec::entropy::rans::{Decoder, Encoder, LANES, LEAST, Put, RAW_STEP, ROW_WORDS};
use crate::codec::entropy::symbol::SYMBOLS;
use crate::codec::entropy::table::{PARTS, PARTS_BITS};
use crate::codec::residual::Numbers;

/// Lanes of a vector.
const WIDE: usize = 8;
/// Vectors of a row.
const VECTORS: usize = LANES / WIDE;

/// True if the machine has what these loops are compiled for.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt")
}

/// For each set of lanes, how bytes are shuffled: 0x80 makes a zero.
#[repr(align(32))]
struct Shuffles<const BYTES: usize>([[u8; BYTES]; 256]);

/// Each lane of the set takes a word into its lower half, in order; the others are zero.
static SPREAD: Shuffles<32> = {
    let mut spread = [[0x80; 32]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut rank) = (0, 0);
        while lane < WIDE {
            if set >> lane & 1 == 1 {
                spread[set][4 * lane] = 2 * rank;
                spread[set][4 * lane + 1] = 2 * rank + 1;
                rank += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    Shuffles(spread)
};

/// The words of the set come last, in order.
static PACK: Shuffles<16> = {
    let mut pack = [[0x80; 16]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut place) = (WIDE, WIDE);
        while lane > 0 {
            lane -= 1;
            if set >> lane & 1 == 1 {
                place -= 1;
                pack[set][2 * place] = 2 * lane as u8;
                pack[set][2 * place + 1] = 2 * lane as u8 + 1;
            }
        }
        set += 1;
    }
    Shuffles(pack)
};

/// What is done for each vector of a row, written out: so that all of them stay in registers.
macro_rules! each {
    ($vector:ident => $value:expr) => {
        [each!(0, $vector => $value), each!(1, $vector => $value), each!(2, $vector => $value), each!(3, $vector => $value)]
    };
    ($number:literal, $vector:ident => $value:expr) => {{
        const $vector: usize = $number;
        $value
    }};
}

/// The arithmetic of floats or integers, in each lane.
#[derive(Clone, Copy)]
struct Arithmetic {
    keep: __m256i,
    flip: __m256i,
    top: __m256i,
    context: __m256i,
    context_from: __m128i,
}

impl Arithmetic {
    #[target_feature(enable = "avx2")]
    fn of(numbers: Numbers<u32>) -> Arithmetic {
        let all = |word: u32| _mm256_set1_epi32(word as i32);
        let Numbers { keep, flip, top, context_from } = numbers;
        Arithmetic {
            keep: all(keep),
            flip: all(flip),
            top: all(top),
            context: all(keep & flip),
            context_from: _mm_cvtsi32_si128(context_from as i32),
        }
    }

    /// `(number(element) - number(base))`, turned by the base's sign. With `m` and `s` for an element's bits below its
    /// sign and for its sign as ones or zeros, its number is `m ^ s`; turned, this is `(m ^ s ^ base's s) - base's m`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn between(self, base: __m256i, element: __m256i) -> __m256i {
        let signs = _mm256_and_si256(_mm256_srai_epi32::<31>(_mm256_xor_si256(base, element)), self.flip);
        let element = _mm256_xor_si256(_mm256_and_si256(element, self.keep), signs);
        _mm256_sub_epi32(element, _mm256_and_si256(base, self.keep))
    }

    /// The inverse of `between`: `base's m` plus the difference is the element's number, turned by the base's sign.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn apply(self, base: __m256i, difference: __m256i) -> __m256i {
        let turned = _mm256_add_epi32(_mm256_and_si256(base, self.keep), difference);
        let sign = _mm256_and_si256(_mm256_srai_epi32::<31>(turned), self.flip);
        let magnitude = _mm256_and_si256(_mm256_xor_si256(turned, sign), self.keep);
        let sign = _mm256_xor_si256(sign, _mm256_srai_epi32::<31>(base));
        _mm256_or_si256(magnitude, _mm256_and_si256(sign, self.top))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn context(self, base: __m256i) -> __m256i {
        _mm256_srl_epi32(_mm256_and_si256(base, self.context), self.context_from)
    }
}

/// Symbols, the numbers of their raw bits, and those: [`symbol::split`](crate::codec::entropy::symbol::split).
#[inline]
#[target_feature(enable = "avx2")]
fn split(difference: __m256i) -> (__m256i, __m256i, __m256i) {
    let one = _mm256_set1_epi32(1);
    let negative = _mm256_srai_epi32::<31>(difference);
    let magnitude = _mm256_abs_epi32(difference);
    // The exponent of a float counts bits. Without the bit below each other, none is rounded up to the next power.
    let sparse = _mm256_andnot_si256(_mm256_srli_epi32::<1>(magnitude), magnitude);
    let exponent = _mm256_srli_epi32::<23>(_mm256_castps_si256(_mm256_cvtepi32_ps(sparse)));
    // Less what a number without raw bits has, in the lowest byte; 2^31 became a negative float, whose sign goes.
    let raw = _mm256_subs_epu8(exponent, _mm256_set1_epi32((0xffff_ff00_u32 | (127 + BELOW)) as i32));
    let head = _mm256_srlv_epi32(magnitude, raw);
    let m = _mm256_add_epi32(_mm256_slli_epi32::<{ BELOW as i32 }>(raw), head);
    // Twice m, plus one for a negative, whose sign is -1 in its lane, less one.
    let symbol = _mm256_subs_epu16(_mm256_sub_epi32(_mm256_add_epi32(m, m), negative), one);
    (symbol, raw, _mm256_xor_si256(magnitude, _mm256_sllv_epi32(head, raw)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn raw_bits(symbol: __m256i) -> __m256i {
    let one = _mm256_set1_epi32(1);
    _mm256_subs_epu16(_mm256_srli_epi32::<{ 1 + BELOW as i32 }>(_mm256_add_epi32(symbol, one)), one)
}

/// The inverse of [`split`].
#[inline]
#[target_feature(enable = "avx2")]
fn join(symbol: __m256i, raw: __m256i, low: __m256i) -> __m256i {
    let one = _mm256_set1_epi32(1);
    let next = _mm256_add_epi32(symbol, one);
    let m = _mm256_srli_epi32::<1>(next);
    let negative = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_and_si256(next, one));
    let head = _mm256_sub_epi32(m, _mm256_slli_epi32::<{ BELOW as i32 }>(raw));
    let magnitude = _mm256_or_si256(_mm256_sllv_epi32(head, raw), low);
    _mm256_sub_epi32(_mm256_xor_si256(magnitude, negative), negative)
}

/// How many steps the raw bits of a row take.
#[inline]
#[target_feature(enable = "avx2")]
fn steps(symbol: &[__m256i; VECTORS]) -> u32 {
    let most = _mm256_max_epi16(_mm256_max_epi16(symbol[0], symbol[1]), _mm256_max_epi16(symbol[2], symbol[3]));
    // The first symbol that has so many raw bits.
    let some = |raw: u32| {
        let before = _mm256_set1_epi32((((raw + 1) << (1 + BELOW)) - 2) as i32);
        u32::from(set_of(_mm256_cmpgt_epi32(most, before)) != 0)
    };
    // Lanes of 32 bits have 31 raw bits at most.
    some(1) + some(RAW_STEP + 1) + some(2 * RAW_STEP + 1)
}

/// How many raw bits a step has, of lanes that have so many in all.
#[inline]
#[target_feature(enable = "avx2")]
fn bits_of_step<const STEP: u32>(raw: __m256i) -> __m256i {
    let left = _mm256_subs_epu16(raw, _mm256_set1_epi32((STEP * RAW_STEP) as i32));
    _mm256_min_epu32(left, _mm256_set1_epi32(RAW_STEP as i32))
}

/// Eight elements of a row, their signs extended.
#[inline]
#[target_feature(enable = "avx2")]
fn read<const WIDTH: usize>(row: &[u8], vector: usize) -> __m256i {
    let bytes = &row[vector * WIDE * WIDTH..][..WIDE * WIDTH];
    // SAFETY: the slice has as many bytes as are loaded.
    unsafe {
        match WIDTH {
            1 => _mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast())),
            2 => _mm256_cvtepi16_epi32(_mm_loadu_si128(bytes.as_ptr().cast())),
            _ => _mm256_loadu_si256(bytes.as_ptr().cast()),
        }
    }
}

/// The inverse of [`read`].
#[inline]
#[target_feature(enable = "avx2")]
fn write<const WIDTH: usize>(elements: __m256i, row: &mut [u8], vector: usize) {
    let bytes = &mut row[vector * WIDE * WIDTH..][..WIDE * WIDTH];
    if WIDTH == 4 {
        // SAFETY: the slice has as many bytes as are stored.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), elements) };
        return;
    }
    let words = narrow(_mm256_and_si256(elements, _mm256_set1_epi32(if WIDTH == 1 { 0xff } else { 0xffff })));
    // SAFETY: as above.
    unsafe {
        if WIDTH == 2 {
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), words);
        } else {
            _mm_storel_epi64(bytes.as_mut_ptr().cast(), _mm_packus_epi16(words, words));
        }
    }
}

/// Numbers below 65,536 as 16 bits each.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow(words: __m256i) -> __m128i {
    _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
}

/// The lanes that are all ones.
#[inline]
#[target_feature(enable = "avx2")]
fn set_of(lanes: __m256i) -> usize {
    _mm256_movemask_ps(_mm256_castsi256_ps(lanes)) as usize & 0xff
}

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn count<const WIDTH: usize>(numbers: Numbers<u32>, pair: Pair<'_>, counting: &mut Counting<'_>) {
    let numbers = Arithmetic::of(numbers);
    for (base, bytes) in pair.rows(LANES * WIDTH) {
        let place = each!(V => {
            let base = read::<WIDTH>(base, V);
            let (symbol, _, _) = split(numbers.between(base, read::<WIDTH>(bytes, V)));
            _mm256_or_si256(_mm256_slli_epi32::<{ SYMBOLS.ilog2() as i32 }>(numbers.context(base)), symbol)
        });
        // In any order.
        for (half, places) in counting.row().as_chunks_mut::<{ 2 * WIDE }>().0.iter_mut().enumerate() {
            let both = _mm256_packus_epi32(place[2 * half], place[2 * half + 1]);
            // SAFETY: sixteen places of two bytes are a vector.
            unsafe { _mm256_storeu_si256(places.as_mut_ptr().cast(), both) };
        }
    }
}

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn encode<const WIDTH: usize>(numbers: Numbers<u32>, pair: Pair<'_>, encoder: &mut Encoder<'_>) {
    let numbers = Arithmetic::of(numbers);
    let Encoder { classes, puts, states, words } = encoder;
    let of_contexts = OfContexts::of(classes);
    assert!(classes.iter().all(|class| (usize::from(*class) + 1) * SYMBOLS <= puts.len()));
    let mut state = load_states(states);
    for (base, bytes) in pair.rows(LANES * WIDTH).rev() {
        let mut given = Given { room: words.room(), count: 0 };
        let base = each!(V => read::<WIDTH>(base, V));
        let class = of_contexts.look_up(each!(V => numbers.context(base[V])));
        let parted = each!(V => split(numbers.between(base[V], read::<WIDTH>(bytes, V))));
        let symbol = each!(V => parted[V].0);
        let place = each!(V => {
            _mm256_or_si256(_mm256_slli_epi32::<{ SYMBOLS.ilog2() as i32 }>(class[V]), symbol[V])
        });
        // SAFETY: a class is below the number of tables and a symbol below 256: checked above, and by `split`.
        let put = unsafe { each!(V => put_of(puts, place[V])) };
        let steps = steps(&symbol);
        // SAFETY: a row gives a word for each lane and step at most, and one for each lane below.
        unsafe {
            if steps > 2 {
                give_step::<2>(&mut state, &parted, &mut given);
            }
            if steps > 1 {
                give_step::<1>(&mut state, &parted, &mut given);
            }
            if steps > 0 {
                give_step::<0>(&mut state, &parted, &mut given);
            }
        }
        // SAFETY: as above.
        unsafe {
            state[3] = put_into(state[3], put[3], &mut given);
            state[2] = put_into(state[2], put[2], &mut given);
            state[1] = put_into(state[1], put[1], &mut given);
            state[0] = put_into(state[0], put[0], &mut given);
        }
        let count = given.count;
        words.wrote(count);
    }
    store_states(state, states);
}

/// Puts the raw bits of a step into the states.
///
/// # Safety
/// That of [`give`], for all lanes.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn give_step<const STEP: u32>(
    state: &mut [__m256i; VECTORS],
    parted: &[(__m256i, __m256i, __m256i); VECTORS],
    given: &mut Given<'_>,
) {
    let mut one = |state: __m256i, (_, raw, low): (__m256i, __m256i, __m256i)| {
        let bits = bits_of_step::<STEP>(raw);
        let low = match STEP {
            0 => low,
            1 => _mm256_srli_epi32::<{ RAW_STEP as i32 }>(low),
            _ => _mm256_srli_epi32::<{ 2 * RAW_STEP as i32 }>(low),
        };
        let low = _mm256_and_si256(low, _mm256_set1_epi32((1 << RAW_STEP) - 1));
        let limit = _mm256_srlv_epi32(_mm256_set1_epi32(i32::MAX), bits);
        // SAFETY: the caller's.
        let small = unsafe { give(state, limit, given) };
        _mm256_or_si256(_mm256_sllv_epi32(small, bits), low)
    };
    state[3] = one(state[3], parted[3]);
    state[2] = one(state[2], parted[2]);
    state[1] = one(state[1], parted[1]);
    state[0] = one(state[0], parted[0]);
}

/// States above the limit give their lower halves away.
///
/// # Safety
/// The row gave less than `ROW_WORDS - WIDE` words so far.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn give(state: __m256i, limit: __m256i, given: &mut Given<'_>) -> __m256i {
    let full = _mm256_cmpgt_epi32(state, limit);
    let set = set_of(full);
    let halves = narrow(_mm256_blend_epi16::<0b1010_1010>(state, _mm256_setzero_si256()));
    // SAFETY: the shuffle of a set is 16 bytes; so are eight words, and as many are left in the room.
    unsafe {
        let shuffle = _mm_load_si128(PACK.0[set].as_ptr().cast());
        let room = given.room.as_mut_ptr().add(ROW_WORDS - WIDE - given.count);
        _mm_storeu_si128(room.cast(), _mm_shuffle_epi8(halves, shuffle));
    }
    given.count += set.count_ones() as usize;
    _mm256_srlv_epi32(state, _mm256_and_si256(full, _mm256_set1_epi32(16)))
}

/// What is looked up for eight symbols: four entries whose lower halves are lanes 0, 1, 4 and 5; those of the others.
type Looked = (__m256i, __m256i);

/// The entries at these places.
///
/// # Safety
/// Each lane of `place` is below the length of `puts`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn put_of(puts: &[Put], place: __m256i) -> Looked {
    let at = lanes(place);
    // SAFETY: the caller's.
    unsafe {
        let pair = |a: usize, b: usize| {
            let first = _mm_castsi128_pd(_mm_loadl_epi64(puts.as_ptr().add(at[a]).cast()));
            _mm_castpd_si128(_mm_loadh_pd(first, puts.as_ptr().add(at[b]).cast()))
        };
        (_mm256_set_m128i(pair(4, 5), pair(0, 1)), _mm256_set_m128i(pair(6, 7), pair(2, 3)))
    }
}

/// Symbols are put into states.
///
/// # Safety
/// That of [`give`].
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn put_into(state: __m256i, (first, second): Looked, given: &mut Given<'_>) -> __m256i {
    let rest = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(
        _mm256_castsi256_ps(first),
        _mm256_castsi256_ps(second),
    ));
    let others = _mm256_and_si256(_mm256_srli_epi32::<12>(rest), _mm256_set1_epi32(0xfff));
    // A state of as many times 2^19 as there are parts is full: less than 2^31 by as much as others have.
    let limit = _mm256_sub_epi32(_mm256_set1_epi32(i32::MAX), _mm256_slli_epi32::<19>(others));
    // SAFETY: the caller's.
    let small = unsafe { give(state, limit, given) };
    let times = |states: __m256i, entries: __m256i| {
        let product = _mm256_mul_epu32(states, entries);
        _mm256_castsi256_ps(_mm256_srlv_epi64(product, _mm256_srli_epi64::<56>(entries)))
    };
    let (low, high) = (_mm256_unpacklo_epi32(small, small), _mm256_unpackhi_epi32(small, small));
    let quotient = _mm256_shuffle_ps::<0b10_00_10_00>(times(low, first), times(high, second));
    let begin = _mm256_and_si256(rest, _mm256_set1_epi32(0xfff));
    let moved = _mm256_add_epi32(small, begin);
    _mm256_add_epi32(moved, _mm256_mullo_epi32(_mm256_castps_si256(quotient), others))
}

/// The lanes one by one.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes(vector: __m256i) -> [usize; WIDE] {
    let (low, high) = (_mm256_castsi256_si128(vector), _mm256_extracti128_si256::<1>(vector));
    let pairs = [
        _mm_cvtsi128_si64(low) as u64,
        _mm_extract_epi64::<1>(low) as u64,
        _mm_cvtsi128_si64(high) as u64,
        _mm_extract_epi64::<1>(high) as u64,
    ];
    [
        pairs[0] as u32 as usize,
        (pairs[0] >> 32) as usize,
        pairs[1] as u32 as usize,
        (pairs[1] >> 32) as usize,
        pairs[2] as u32 as usize,
        (pairs[2] >> 32) as usize,
        pairs[3] as u32 as usize,
        (pairs[3] >> 32) as usize,
    ]
}

/// The class of each context. Where the classes begin within 32 contexts, as they nearly always do, it is looked up in
/// registers.
struct OfContexts {
    table: [u32; CONTEXTS],
    narrow: bool,
    /// The first context of the window, and the classes in it.
    first: __m256i,
    low: __m256i,
    high: __m256i,
}

impl OfContexts {
    #[target_feature(enable = "avx2")]
    fn of(classes: &[u8; CONTEXTS]) -> OfContexts {
        const WINDOW: usize = 32;
        // Everything up to the first of the window is in class 0, everything from its last on in the last class.
        let first = classes.iter().take_while(|class| **class == 0).count().saturating_sub(1).min(CONTEXTS - WINDOW);
        let window = &classes[first..][..WINDOW];
        // SAFETY: half a window is 16 bytes.
        let half = |at: usize| unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(window[at..].as_ptr().cast())) };
        OfContexts {
            table: classes.map(u32::from),
            narrow: window.last() == classes.last(),
            first: _mm256_set1_epi32(first as i32),
            low: half(0),
            high: half(WINDOW / 2),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn look_up(&self, contexts: [__m256i; VECTORS]) -> [__m256i; VECTORS] {
        if self.narrow {
            each!(V => {
                let at = _mm256_min_epu8(_mm256_subs_epu8(contexts[V], self.first), _mm256_set1_epi32(31));
                // A byte with its highest bit set gives zero: the three upper bytes, and the place in the other half.
                let low = _mm256_add_epi8(at, _mm256_set1_epi32(0x8080_8070_u32 as i32));
                let high = _mm256_add_epi8(at, _mm256_set1_epi32(0x8080_80f0_u32 as i32));
                _mm256_or_si256(_mm256_shuffle_epi8(self.low, low), _mm256_shuffle_epi8(self.high, high))
            })
        } else {
            each!(V => {
                let at = _mm256_and_si256(contexts[V], _mm256_set1_epi32(0xff));
                // SAFETY: the table has an entry for each number below 256.
                unsafe { _mm256_i32gather_epi32::<4>(self.table.as_ptr().cast(), at) }
            })
        }
    }
}

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn decode<const WIDTH: usize>(
    numbers: Numbers<u32>,
    bytes: &mut [u8],
    mask: &[u8],
    decoder: &mut Decoder<'_>,
) {
    let arithmetic = Arithmetic::of(numbers);
    let Decoder { classes, slots, grain, states, words, .. } = decoder;
    let of_contexts = OfContexts::of(classes);
    assert!(classes.iter().all(|class| (usize::from(*class) + 1) * (PARTS >> grain.bits()) as usize <= slots.len()));
    let within = _mm256_set1_epi32((1 << grain.bits()) - 1);
    let grain = _mm_cvtsi32_si128(grain.bits() as i32);
    let mut state = load_states(states);
    for row in Coded::new(mask, bytes.len() / (LANES * WIDTH)) {
        let bytes = &mut bytes[row * LANES * WIDTH..][..LANES * WIDTH];
        let mut ahead = Ahead { words: words.ahead(), count: 0 };
        let base = each!(V => read::<WIDTH>(bytes, V));
        let class = of_contexts.look_up(each!(V => arithmetic.context(base[V])));
        let slot = each!(V => {
            let first = _mm256_slli_epi32::<{ PARTS_BITS as i32 }>(class[V]);
            let part = _mm256_and_si256(state[V], _mm256_set1_epi32(PARTS as i32 - 1));
            // SAFETY: a class is below the number of tables, checked above; a part is below their length.
            unsafe { slot_of(slots, _mm256_srl_epi32(_mm256_or_si256(first, part), grain)) }
        });
        state = each!(V => {
            let parts = _mm256_and_si256(_mm256_srli_epi32::<8>(slot[V]), _mm256_set1_epi32(0xfff));
            let quotient = _mm256_srli_epi32::<{ PARTS_BITS as i32 }>(state[V]);
            let product = _mm256_mullo_epi32(_mm256_add_epi32(parts, _mm256_set1_epi32(1)), quotient);
            let place = _mm256_add_epi32(_mm256_srli_epi32::<20>(slot[V]), _mm256_and_si256(state[V], within));
            // SAFETY: a row takes a word for each lane at most, and one for each lane and step below.
            unsafe { take(_mm256_add_epi32(product, place), &mut ahead) }
        });
        let symbol = each!(V => _mm256_and_si256(slot[V], _mm256_set1_epi32(0xff)));
        let raw = each!(V => raw_bits(symbol[V]));
        let mut low = [_mm256_setzero_si256(); VECTORS];
        let steps = steps(&symbol);
        // SAFETY: as above.
        unsafe {
            if steps > 0 {
                take_step::<0>(&mut state, &mut low, &raw, &mut ahead);
            }
            if steps > 1 {
                take_step::<1>(&mut state, &mut low, &raw, &mut ahead);
            }
            if steps > 2 {
                take_step::<2>(&mut state, &mut low, &raw, &mut ahead);
            }
        }
        let count = ahead.count;
        words.took(count);
        each!(V => write::<WIDTH>(arithmetic.apply(base[V], join(symbol[V], raw[V], low[V])), bytes, V));
    }
    store_states(state, states);
}

/// Takes the raw bits of a step out of the states.
///
/// # Safety
/// That of [`take`], for all lanes.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn take_step<const STEP: u32>(
    state: &mut [__m256i; VECTORS],
    low: &mut [__m256i; VECTORS],
    raw: &[__m256i; VECTORS],
    ahead: &mut Ahead<'_>,
) {
    *state = each!(V => {
        let bits = bits_of_step::<STEP>(raw[V]);
        let rest = _mm256_srlv_epi32(state[V], bits);
        let part = _mm256_xor_si256(state[V], _mm256_sllv_epi32(rest, bits));
        low[V] = _mm256_or_si256(low[V], shifted::<STEP>(part));
        // SAFETY: the caller's.
        unsafe { take(rest, ahead) }
    });
}

/// The raw bits of a step in their place.
#[inline]
#[target_feature(enable = "avx2")]
fn shifted<const STEP: u32>(part: __m256i) -> __m256i {
    match STEP {
        0 => part,
        1 => _mm256_slli_epi32::<{ RAW_STEP as i32 }>(part),
        _ => _mm256_slli_epi32::<{ 2 * RAW_STEP as i32 }>(part),
    }
}

/// The slots at these places.
///
/// # Safety
/// Each lane of `place` is below the length of `slots`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn slot_of(slots: &[u32], place: __m256i) -> __m256i {
    // A load for each lane: faster than a gather on Zen 3, where it was measured.
    // SAFETY: the caller's.
    let [a, b, c, d, e, f, g, h] = lanes(place).map(|at| unsafe { *slots.get_unchecked(at) } as i32);
    _mm256_setr_epi32(a, b, c, d, e, f, g, h)
}

/// States that became small take a word each.
///
/// # Safety
/// The row took less than `ROW_WORDS - WIDE` words so far.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn take(state: __m256i, ahead: &mut Ahead<'_>) -> __m256i {
    let small = _mm256_cmpgt_epi32(_mm256_set1_epi32(LEAST as i32), state);
    let set = set_of(small);
    // SAFETY: eight words are 16 bytes, and as many are left; the shuffle of a set is 32 bytes.
    let (next, shuffle) = unsafe {
        let next = _mm_loadu_si128(ahead.words.as_ptr().add(ahead.count).cast());
        (_mm256_broadcastsi128_si256(next), _mm256_load_si256(SPREAD.0[set].as_ptr().cast()))
    };
    ahead.count += set.count_ones() as usize;
    let shifted = _mm256_sllv_epi32(state, _mm256_and_si256(small, _mm256_set1_epi32(16)));
    _mm256_or_si256(shifted, _mm256_shuffle_epi8(next, shuffle))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_states(states: &[u32; LANES]) -> [__m256i; VECTORS] {
    // SAFETY: a row of states is four vectors.
    std::array::from_fn(|vector| unsafe { _mm256_loadu_si256(states[vector * WIDE..].as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_states(state: [__m256i; VECTORS], states: &mut [u32; LANES]) {
    for (state, states) in state.into_iter().zip(states.chunks_exact_mut(WIDE)) {
        // SAFETY: eight states are 32 bytes.
        unsafe { _mm256_storeu_si256(states.as_mut_ptr().cast(), state) };
    }
}
