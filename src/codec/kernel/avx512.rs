//! The loops of [`rows`](super::rows) in AVX-512, for elements of one, two and four bytes: sixteen coders to a vector.
//!
//! They go the way of [`avx2`](super::avx2), with what these instructions add: the leading zeros of a lane tell the
//! symbol, the words of a set of lanes are expanded and compressed, and the class of a context is looked up in registers.

use std::arch::x86_64::*;

use super::Pair;
use super::rows::Coded;
use super::vector::{Ahead, BELOW, Given};
use crate::codec::entropy::classes::{CLASSES_MAX, CONTEXTS, Counting};
use crate::codec::entropy::rans::{Decoder, Encoder, LANES, LEAST, Put, RAW_STEP, ROW_WORDS};
use crate::codec::entropy::symbol::SYMBOLS;
use crate::codec::entropy::table::{PARTS, PARTS_BITS};
use crate::codec::residual::Numbers;

/// Lanes of a vector.
const WIDE: usize = 16;
/// Vectors of a row.
const VECTORS: usize = LANES / WIDE;
// Contexts and classes are looked up in the second byte of a lane, above a symbol.
const _: () = assert!(SYMBOLS == 1 << 8 && PARTS_BITS == 8 + PARTS_SHIFT);
/// How much further up a class is than there, above the parts.
const PARTS_SHIFT: u32 = 4;

/// True if the machine has what these loops are compiled for.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("popcnt")
}

/// What is done for both vectors of a row.
macro_rules! each {
    ($vector:ident => $value:expr) => {
        [each!(0, $vector => $value), each!(1, $vector => $value)]
    };
    ($number:literal, $vector:ident => $value:expr) => {{
        const $vector: usize = $number;
        $value
    }};
}

/// The arithmetic of floats or integers, in each lane.
#[derive(Clone, Copy)]
struct Arithmetic {
    keep: __m512i,
    flip: __m512i,
    top: __m512i,
    /// How far a context is turned to the left for its place in [`Arithmetic::context`], and that place.
    context_turn: __m512i,
    context: __m512i,
}

impl Arithmetic {
    #[target_feature(enable = "avx512f")]
    fn of(numbers: Numbers<u32>) -> Arithmetic {
        let Numbers { keep, flip, top, context_from } = numbers;
        Arithmetic {
            keep: all(keep),
            flip: all(flip),
            top: all(top),
            context_turn: all(8u32.wrapping_sub(context_from) % u32::BITS),
            context: all(((keep & flip) >> context_from) << 8),
        }
    }

    /// As in [`avx2`](super::avx2): `(m ^ s ^ base's s) - base's m`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn between(self, base: __m512i, element: __m512i) -> __m512i {
        let signs = _mm512_and_si512(_mm512_srai_epi32::<31>(_mm512_xor_si512(base, element)), self.flip);
        let element = _mm512_xor_si512(_mm512_and_si512(element, self.keep), signs);
        _mm512_sub_epi32(element, _mm512_and_si512(base, self.keep))
    }

    /// The inverse of `between`. Above an element of one or two bytes there is anything.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn apply(self, base: __m512i, difference: __m512i) -> __m512i {
        const SELECT: i32 = 0xca; // a ? b : c
        const XOR_AND: i32 = 0x78; // a ^ b & c
        let turned = _mm512_add_epi32(_mm512_and_si512(base, self.keep), difference);
        let whole = _mm512_ternarylogic_epi32::<SELECT>(self.top, base, turned);
        _mm512_ternarylogic_epi32::<XOR_AND>(whole, _mm512_srai_epi32::<31>(turned), self.flip)
    }

    /// The context of each base, in the second byte of its lane.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn context(self, base: __m512i) -> __m512i {
        _mm512_and_si512(_mm512_rolv_epi32(base, self.context_turn), self.context)
    }
}

/// Symbols, the numbers of their raw bits, and those: [`symbol::split`](crate::codec::entropy::symbol::split).
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd")]
fn split(difference: __m512i) -> (__m512i, __m512i, __m512i) {
    let magnitude = _mm512_abs_epi32(difference);
    let raw = _mm512_subs_epu16(all(u32::BITS - 1 - BELOW), _mm512_lzcnt_epi32(magnitude));
    let head = _mm512_srlv_epi32(magnitude, raw);
    let m = _mm512_add_epi32(_mm512_slli_epi32::<BELOW>(raw), head);
    // Twice m less one, and one more for a negative, whose sign is -1 in its lane.
    let symbol = _mm512_subs_epu16(_mm512_add_epi32(m, m), all(1));
    let symbol = _mm512_sub_epi32(symbol, _mm512_srai_epi32::<31>(difference));
    (symbol, raw, _mm512_xor_si512(magnitude, _mm512_sllv_epi32(head, raw)))
}

/// How many raw bits the symbol before `next` has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn raw_bits(next: __m512i) -> __m512i {
    _mm512_subs_epu16(_mm512_srli_epi32::<{ 1 + BELOW }>(next), all(1))
}

/// The symbol behind the one that a slot stands for: its bits are what a symbol is taken apart by, as in
/// [`symbol::join`](crate::codec::entropy::symbol::join).
#[inline]
#[target_feature(enable = "avx512f")]
fn next_symbol(slot: __m512i) -> __m512i {
    // Of 255 less the symbol: an addition would be taken for part of an average, which takes longer.
    _mm512_sub_epi32(all(SYMBOLS as u32), _mm512_andnot_si512(slot, all(SYMBOLS as u32 - 1)))
}

/// The magnitude of a symbol without its raw bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn head(next: __m512i, raw: __m512i) -> __m512i {
    _mm512_sub_epi32(_mm512_srli_epi32::<1>(next), _mm512_slli_epi32::<BELOW>(raw))
}

/// How many steps the raw bits of a row take.
#[inline]
#[target_feature(enable = "avx512f")]
fn steps(raw: &[__m512i; VECTORS]) -> u32 {
    let most = _mm512_max_epu32(raw[0], raw[1]);
    // Lanes of 32 bits have 31 raw bits at most.
    [0, RAW_STEP, 2 * RAW_STEP].into_iter().map(|limit| u32::from(any_above(most, limit))).sum()
}

/// How many raw bits a step has, of lanes that have so many in all.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bits_of_step<const STEP: u32>(raw: __m512i) -> __m512i {
    _mm512_min_epu32(_mm512_subs_epu16(raw, all(STEP * RAW_STEP)), all(RAW_STEP))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn all(word: u32) -> __m512i {
    _mm512_set1_epi32(word as i32)
}

/// Sixteen elements of a row, their signs extended.
#[inline]
#[target_feature(enable = "avx512f")]
fn read<const WIDTH: usize>(row: &[u8], vector: usize) -> __m512i {
    let bytes = &row[vector * WIDE * WIDTH..][..WIDE * WIDTH];
    // SAFETY: the slice has as many bytes as are loaded.
    unsafe {
        match WIDTH {
            1 => _mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())),
            2 => _mm512_cvtepi16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast())),
            _ => _mm512_loadu_si512(bytes.as_ptr().cast()),
        }
    }
}

/// The inverse of [`read`].
#[inline]
#[target_feature(enable = "avx512f")]
fn write<const WIDTH: usize>(elements: __m512i, row: &mut [u8], vector: usize) {
    let bytes = &mut row[vector * WIDE * WIDTH..][..WIDE * WIDTH];
    // SAFETY: the slice has as many bytes as are stored.
    unsafe {
        match WIDTH {
            1 => _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(elements)),
            2 => _mm256_storeu_si256(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(elements)),
            _ => _mm512_storeu_si512(bytes.as_mut_ptr().cast(), elements),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512vl,avx512vbmi,popcnt")]
pub(super) fn count<const WIDTH: usize>(numbers: Numbers<u32>, pair: Pair<'_>, counting: &mut Counting<'_>) {
    let numbers = Arithmetic::of(numbers);
    for (base, bytes) in pair.rows(LANES * WIDTH) {
        let (places, _) = counting.row().as_chunks_mut::<WIDE>();
        each!(V => {
            let base = read::<WIDTH>(base, V);
            let (symbol, _, _) = split(numbers.between(base, read::<WIDTH>(bytes, V)));
            let place = _mm512_or_si512(numbers.context(base), symbol);
            // SAFETY: sixteen places of two bytes are half a vector.
            unsafe { _mm256_storeu_si256(places[V].as_mut_ptr().cast(), _mm512_cvtepi32_epi16(place)) };
        });
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512vl,avx512vbmi,popcnt")]
pub(super) fn encode<const WIDTH: usize>(numbers: Numbers<u32>, pair: Pair<'_>, encoder: &mut Encoder<'_>) {
    let numbers = Arithmetic::of(numbers);
    let Encoder { classes, puts, states, words } = encoder;
    let of_contexts = OfContexts::of(classes, 0);
    assert!(classes.iter().all(|class| (usize::from(*class) + 1) * SYMBOLS <= puts.len()));
    let mut state = load_states(states);
    for (base, bytes) in pair.rows(LANES * WIDTH).rev() {
        let mut given = Given { room: words.room(), count: 0 };
        let base = each!(V => read::<WIDTH>(base, V));
        let parted = each!(V => split(numbers.between(base[V], read::<WIDTH>(bytes, V))));
        let put = each!(V => {
            let class = of_contexts.look_up(numbers.context(base[V]));
            let place = _mm512_or_si512(class, parted[V].0);
            // SAFETY: a class is below the number of tables and a symbol below 256: checked above, and by `split`.
            unsafe { put_of(puts, place) }
        });
        let steps = steps(&each!(V => parted[V].1));
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
unsafe fn give_step<const STEP: u32>(
    state: &mut [__m512i; VECTORS],
    parted: &[(__m512i, __m512i, __m512i); VECTORS],
    given: &mut Given<'_>,
) {
    let mut one = |state: __m512i, (_, raw, low): (__m512i, __m512i, __m512i)| {
        let bits = bits_of_step::<STEP>(raw);
        let low = match STEP {
            0 => low,
            1 => _mm512_srli_epi32::<RAW_STEP>(low),
            _ => _mm512_srli_epi32::<{ 2 * RAW_STEP }>(low),
        };
        let low = _mm512_and_si512(low, all((1 << RAW_STEP) - 1));
        let limit = _mm512_srlv_epi32(all(i32::MAX as u32), bits);
        // SAFETY: the caller's.
        let small = unsafe { give(state, limit, given) };
        _mm512_or_si512(_mm512_sllv_epi32(small, bits), low)
    };
    state[1] = one(state[1], parted[1]);
    state[0] = one(state[0], parted[0]);
}

/// States above the limit give their lower halves away.
///
/// # Safety
/// The row gave less than `ROW_WORDS - WIDE` words so far.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
unsafe fn give(state: __m512i, limit: __m512i, given: &mut Given<'_>) -> __m512i {
    let full = _mm512_cmpgt_epi32_mask(state, limit);
    let count = full.count_ones() as usize;
    // The words of the set come last, in order: from the front they are turned to the end.
    let first = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, state));
    let lanes = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let last = _mm256_permutexvar_epi16(_mm256_add_epi16(lanes, _mm256_set1_epi16(count as i16)), first);
    // SAFETY: sixteen words are 32 bytes, and as many are left in the room.
    unsafe {
        let room = given.room.as_mut_ptr().add(ROW_WORDS - WIDE - given.count);
        _mm256_storeu_si256(room.cast(), last);
    }
    given.count += count;
    _mm512_mask_srli_epi32::<16>(state, full, state)
}

/// What is looked up for sixteen symbols: the entries of the even lanes, and those of the odd ones.
type Looked = (__m512i, __m512i);

/// The entries at these places.
///
/// # Safety
/// Each lane of `place` is below the length of `puts`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put_of(puts: &[Put], place: __m512i) -> Looked {
    let (even, odd) = (_mm512_maskz_mov_epi32(EVEN, place), _mm512_srli_epi64::<32>(place));
    // SAFETY: the caller's.
    unsafe {
        (
            _mm512_i64gather_epi64::<8>(even, puts.as_ptr().cast()),
            _mm512_i64gather_epi64::<8>(odd, puts.as_ptr().cast()),
        )
    }
}

const EVEN: __mmask16 = 0x5555;
const ODD: __mmask16 = 0xaaaa;

/// Symbols are put into states.
///
/// # Safety
/// That of [`give`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
unsafe fn put_into(state: __m512i, (even, odd): Looked, given: &mut Given<'_>) -> __m512i {
    let rest = _mm512_mask_mov_epi32(_mm512_srli_epi64::<32>(even), ODD, odd);
    let others = _mm512_and_si512(_mm512_srli_epi32::<12>(rest), all(PARTS - 1));
    let limit = _mm512_sub_epi32(all(i32::MAX as u32), _mm512_slli_epi32::<19>(others));
    // SAFETY: the caller's.
    let small = unsafe { give(state, limit, given) };
    let times = |states: __m512i, entries: __m512i| {
        _mm512_srlv_epi64(_mm512_mul_epu32(states, entries), _mm512_srli_epi64::<56>(entries))
    };
    let of_odd = times(_mm512_srli_epi64::<32>(small), odd);
    let quotient = _mm512_mask_mov_epi32(times(small, even), ODD, _mm512_slli_epi64::<32>(of_odd));
    let begin = _mm512_and_si512(rest, all(PARTS - 1));
    _mm512_add_epi32(_mm512_add_epi32(small, begin), _mm512_mullo_epi32(quotient, others))
}

/// The class of each context, in four vectors.
struct OfContexts([__m512i; CONTEXTS / 64]);

impl OfContexts {
    /// Classes are looked up turned to the left by so many bits.
    #[target_feature(enable = "avx512f")]
    fn of(classes: &[u8; CONTEXTS], shift: u32) -> OfContexts {
        // So bytes that are no contexts, but zero, stay zero.
        assert!(classes[0] == 0 && classes.iter().all(|class| usize::from(*class) < CLASSES_MAX));
        let classes = classes.map(|class| class << shift);
        // SAFETY: a quarter of the classes is 64 bytes.
        OfContexts(std::array::from_fn(|n| unsafe { _mm512_loadu_si512(classes[64 * n..].as_ptr().cast()) }))
    }

    /// The class of each context, both in the second byte of their lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn look_up(&self, contexts: __m512i) -> __m512i {
        let [a, b, c, d] = self.0;
        let low = _mm512_permutex2var_epi8(a, contexts, b);
        let high = _mm512_permutex2var_epi8(c, contexts, d);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(contexts), low, high)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
pub(super) fn decode<const WIDTH: usize>(
    numbers: Numbers<u32>,
    bytes: &mut [u8],
    mask: &[u8],
    decoder: &mut Decoder<'_>,
) {
    // What holds for all rows is not asked for each.
    match decoder.raw_most.div_ceil(RAW_STEP) {
        0 | 1 => decode_rows::<WIDTH, 1>(numbers, bytes, mask, decoder),
        2 => decode_rows::<WIDTH, 2>(numbers, bytes, mask, decoder),
        _ => decode_rows::<WIDTH, 3>(numbers, bytes, mask, decoder),
    }
}

/// No symbol has more raw bits than `STEPS` steps.
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
#[inline(never)]
fn decode_rows<const WIDTH: usize, const STEPS: u32>(
    numbers: Numbers<u32>,
    bytes: &mut [u8],
    mask: &[u8],
    decoder: &mut Decoder<'_>,
) {
    let arithmetic = Arithmetic::of(numbers);
    let Decoder { classes, slots, grain, states, words, .. } = decoder;
    let of_contexts = OfContexts::of(classes, PARTS_SHIFT);
    assert!(classes.iter().all(|class| (usize::from(*class) + 1) * (PARTS >> grain.bits()) as usize <= slots.len()));
    let (within, grain) = (all((1 << grain.bits()) - 1), _mm_cvtsi32_si128(grain.bits() as i32));
    let mut state = load_states(states);
    let mut coded = Coded::new(mask, bytes.len() / (LANES * WIDTH));
    let Some(mut row) = coded.next() else { return };
    let mut first = classes_of::<WIDTH>(&arithmetic, &of_contexts, row_of::<WIDTH>(bytes, row));
    // What is left to do of the row before: at first nothing, which leaves a row as it is.
    let mut left = Left { row, magnitude: [_mm512_setzero_si512(); VECTORS], next_symbol: [all(1); VECTORS] };
    loop {
        let mut ahead = Ahead { words: words.ahead(), count: 0 };
        let slot = each!(V => {
            let place = _mm512_or_si512(first[V], _mm512_and_si512(state[V], all(PARTS - 1)));
            // SAFETY: a class is below the number of tables, checked above; a part is below their length.
            unsafe { _mm512_i32gather_epi32::<4>(_mm512_srl_epi32(place, grain), slots.as_ptr().cast()) }
        });
        // The states wait for the slots: meanwhile there is time for the rows before and behind.
        left.finish::<WIDTH>(&arithmetic, row_of::<WIDTH>(bytes, left.row));
        let next = coded.next();
        first = classes_of::<WIDTH>(&arithmetic, &of_contexts, row_of::<WIDTH>(bytes, next.unwrap_or(row)));
        state = each!(V => {
            let parts = _mm512_and_si512(_mm512_srli_epi32::<8>(slot[V]), all(PARTS - 1));
            let quotient = _mm512_srli_epi32::<PARTS_BITS>(state[V]);
            let product = _mm512_mullo_epi32(_mm512_add_epi32(parts, all(1)), quotient);
            let place = _mm512_add_epi32(_mm512_srli_epi32::<20>(slot[V]), _mm512_and_si512(state[V], within));
            // SAFETY: a row takes a word for each lane at most, and one for each lane and step below.
            unsafe { take(_mm512_add_epi32(product, place), &mut ahead) }
        });
        let next_symbol = each!(V => next_symbol(slot[V]));
        let raw = each!(V => raw_bits(next_symbol[V]));
        let mut magnitude = each!(V => head(next_symbol[V], raw[V]));
        // SAFETY: as above.
        unsafe { take_raw::<STEPS>(&mut state, &mut magnitude, &raw, &mut ahead) };
        let count = ahead.count;
        words.took(count);
        left = Left { row, magnitude, next_symbol };
        match next {
            Some(next) => row = next,
            None => break,
        }
    }
    left.finish::<WIDTH>(&arithmetic, row_of::<WIDTH>(bytes, left.row));
    store_states(state, states);
}

#[inline(always)]
fn row_of<const WIDTH: usize>(bytes: &mut [u8], row: usize) -> &mut [u8] {
    &mut bytes[row * LANES * WIDTH..][..LANES * WIDTH]
}

/// The classes of the elements of a row, above the places of their parts.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn classes_of<const WIDTH: usize>(
    arithmetic: &Arithmetic,
    of_contexts: &OfContexts,
    bases: &[u8],
) -> [__m512i; VECTORS] {
    each!(V => of_contexts.look_up(arithmetic.context(read::<WIDTH>(bases, V))))
}

/// What is known of a row whose elements were not put together yet.
struct Left {
    row: usize,
    magnitude: [__m512i; VECTORS],
    /// Odd for differences that are below zero.
    next_symbol: [__m512i; VECTORS],
}

impl Left {
    /// Turns the bases of the row into its elements.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn finish<const WIDTH: usize>(&self, arithmetic: &Arithmetic, row: &mut [u8]) {
        each!(V => {
            let magnitude = self.magnitude[V];
            let negative = _mm512_test_epi32_mask(self.next_symbol[V], all(1));
            let difference = _mm512_mask_sub_epi32(magnitude, negative, _mm512_setzero_si512(), magnitude);
            write::<WIDTH>(arithmetic.apply(read::<WIDTH>(row, V), difference), row, V);
        });
    }
}

/// Takes the raw bits of a row out of the states, and puts them below the magnitudes.
///
/// # Safety
/// That of [`take`], for all lanes and `STEPS` steps.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
unsafe fn take_raw<const STEPS: u32>(
    state: &mut [__m512i; VECTORS],
    magnitude: &mut [__m512i; VECTORS],
    raw: &[__m512i; VECTORS],
    ahead: &mut Ahead<'_>,
) {
    let most = _mm512_max_epu32(raw[0], raw[1]);
    // The steps come from the lowest bits to the highest, and are put below in the other order.
    // SAFETY: the caller's.
    unsafe {
        if any_above(most, 0) {
            let first = take_step::<0, STEPS>(state, raw, ahead);
            if STEPS > 1 && any_above(most, RAW_STEP) {
                let second = take_step::<1, STEPS>(state, raw, ahead);
                if STEPS > 2 && any_above(most, 2 * RAW_STEP) {
                    let third = take_step::<2, STEPS>(state, raw, ahead);
                    put_below(magnitude, &third);
                }
                put_below(magnitude, &second);
            }
            put_below(magnitude, &first);
        }
    }
}

/// States turned to the right by the raw bits that a step takes, and how many those are.
type Taken = [(__m512i, __m512i); VECTORS];

/// Takes the raw bits of a step out of the states.
///
/// # Safety
/// That of [`take`], for all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
unsafe fn take_step<const STEP: u32, const STEPS: u32>(
    state: &mut [__m512i; VECTORS],
    raw: &[__m512i; VECTORS],
    ahead: &mut Ahead<'_>,
) -> Taken {
    each!(V => {
        let bits = if STEPS == 1 { raw[V] } else { bits_of_step::<STEP>(raw[V]) };
        let turned = _mm512_rorv_epi32(state[V], bits);
        // SAFETY: the caller's.
        state[V] = unsafe { take(_mm512_srlv_epi32(state[V], bits), ahead) };
        (turned, bits)
    })
}

/// Moves magnitudes up, and the bits of a step below them.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
fn put_below(magnitude: &mut [__m512i; VECTORS], taken: &Taken) {
    *magnitude = each!(V => _mm512_shldv_epi32(magnitude[V], taken[V].0, taken[V].1));
}

/// True if any lane is above the limit.
#[inline]
#[target_feature(enable = "avx512f")]
fn any_above(lanes: __m512i, limit: u32) -> bool {
    _mm512_cmpgt_epu32_mask(lanes, all(limit)) != 0
}

/// States that became small take a word each.
///
/// # Safety
/// The row took less than `ROW_WORDS - WIDE` words so far.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
unsafe fn take(state: __m512i, ahead: &mut Ahead<'_>) -> __m512i {
    /// The words of a vector's lower half, each as the upper half of a lane.
    const UPPER: [u16; 2 * WIDE] = {
        let mut upper = [0; 2 * WIDE];
        let mut lane = 0;
        while lane < WIDE {
            upper[2 * lane + 1] = lane as u16;
            lane += 1;
        }
        upper
    };
    let small = _mm512_cmplt_epu32_mask(state, all(LEAST));
    // SAFETY: sixteen words are 32 bytes, and as many are left.
    let (next, upper) = unsafe {
        (_mm256_loadu_si256(ahead.words.as_ptr().add(ahead.count).cast()), _mm512_loadu_si512(UPPER.as_ptr().cast()))
    };
    ahead.count += small.count_ones() as usize;
    let next = _mm512_permutexvar_epi16(upper, _mm512_castsi256_si512(next));
    let next = _mm512_maskz_expand_epi32(small, next);
    _mm512_mask_shldi_epi32::<16>(state, small, state, next)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_states(states: &[u32; LANES]) -> [__m512i; VECTORS] {
    // SAFETY: a row of states is two vectors.
    std::array::from_fn(|vector| unsafe { _mm512_loadu_si512(states[vector * WIDE..].as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_states(state: [__m512i; VECTORS], states: &mut [u32; LANES]) {
    for (state, states) in state.into_iter().zip(states.chunks_exact_mut(WIDE)) {
        // SAFETY: sixteen states are 64 bytes.
        unsafe { _mm512_storeu_si512(states.as_mut_ptr().cast(), state) };
    }
}
