//! The loops of [`rows`](super::rows) in AVX-512, for elements of one, two and four bytes: sixteen coders to a vector.
//!
//! They go the way of [`avx2`](super::avx2), with what these instructions add: the leading zeros of a lane tell the
//! symbol, the words of a set of lanes are expanded and compressed, and the class of a context is looked up in registers.

use std::arch::x86_64::*;

use super::Pair;
use super::vector::{Ahead, BELOW, Given};
use crate::codec::entropy::classes::{CONTEXTS, Counting};
use crate::codec::entropy::rans::{Decoder, Encoder, LANES, LEAST, Put, RAW_STEP, ROW_WORDS};
use crate::codec::entropy::symbol::SYMBOLS;
use crate::codec::entropy::table::{PARTS, PARTS_BITS};
use crate::codec::residual::Numbers;

/// Lanes of a vector.
const WIDE: usize = 16;
/// Vectors of a row.
const VECTORS: usize = LANES / WIDE;
const CONTEXT_SHIFT: u32 = SYMBOLS.ilog2();

/// True if the machine has what these loops are compiled for.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
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
    context: __m512i,
    context_from: __m128i,
}

impl Arithmetic {
    #[target_feature(enable = "avx512f")]
    fn of(numbers: Numbers<u32>) -> Arithmetic {
        let Numbers { keep, flip, top, context_from } = numbers;
        Arithmetic {
            keep: all(keep),
            flip: all(flip),
            top: all(top),
            context: all(keep & flip),
            context_from: _mm_cvtsi32_si128(context_from as i32),
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

    /// The inverse of `between`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn apply(self, base: __m512i, difference: __m512i) -> __m512i {
        let turned = _mm512_add_epi32(_mm512_and_si512(base, self.keep), difference);
        let sign = _mm512_and_si512(_mm512_srai_epi32::<31>(turned), self.flip);
        let magnitude = _mm512_and_si512(_mm512_xor_si512(turned, sign), self.keep);
        let sign = _mm512_xor_si512(sign, _mm512_srai_epi32::<31>(base));
        _mm512_or_si512(magnitude, _mm512_and_si512(sign, self.top))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn context(self, base: __m512i) -> __m512i {
        _mm512_srl_epi32(_mm512_and_si512(base, self.context), self.context_from)
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

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn raw_bits(symbol: __m512i) -> __m512i {
    _mm512_subs_epu16(_mm512_srli_epi32::<{ 1 + BELOW }>(_mm512_add_epi32(symbol, all(1))), all(1))
}

/// The inverse of [`split`].
#[inline]
#[target_feature(enable = "avx512f")]
fn join(symbol: __m512i, raw: __m512i, low: __m512i) -> __m512i {
    let next = _mm512_add_epi32(symbol, all(1));
    let m = _mm512_srli_epi32::<1>(next);
    let head = _mm512_sub_epi32(m, _mm512_slli_epi32::<BELOW>(raw));
    let magnitude = _mm512_or_si512(_mm512_sllv_epi32(head, raw), low);
    let negative = _mm512_test_epi32_mask(next, all(1));
    _mm512_mask_sub_epi32(magnitude, negative, _mm512_setzero_si512(), magnitude)
}

/// How many steps the raw bits of a row take.
#[inline]
#[target_feature(enable = "avx512f")]
fn steps(symbol: &[__m512i; VECTORS]) -> u32 {
    let most = _mm512_max_epu32(symbol[0], symbol[1]);
    // The first symbol that has so many raw bits.
    let some = |raw: u32| u32::from(_mm512_cmpge_epu32_mask(most, all(((raw + 1) << (1 + BELOW)) - 1)) != 0);
    // Lanes of 32 bits have 31 raw bits at most.
    some(1) + some(RAW_STEP + 1) + some(2 * RAW_STEP + 1)
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
            let place = _mm512_or_si512(_mm512_slli_epi32::<CONTEXT_SHIFT>(numbers.context(base)), symbol);
            // SAFETY: sixteen places of two bytes are half a vector.
            unsafe { _mm256_storeu_si256(places[V].as_mut_ptr().cast(), _mm512_cvtepi32_epi16(place)) };
        });
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512vl,avx512vbmi,popcnt")]
pub(super) fn encode<const WIDTH: usize>(numbers: Numbers<u32>, pair: Pair<'_>, encoder: &mut Encoder<'_>) {
    let numbers = Arithmetic::of(numbers);
    let Encoder { classes, puts, states, words } = encoder;
    let of_contexts = OfContexts::of(classes);
    assert!(classes.iter().all(|class| (usize::from(*class) + 1) * SYMBOLS <= puts.len()));
    let mut state = load_states(states);
    for (base, bytes) in pair.rows(LANES * WIDTH).rev() {
        let mut given = Given { room: words.room(), count: 0 };
        let base = each!(V => read::<WIDTH>(base, V));
        let parted = each!(V => split(numbers.between(base[V], read::<WIDTH>(bytes, V))));
        let put = each!(V => {
            let class = of_contexts.look_up(numbers.context(base[V]));
            let place = _mm512_or_si512(_mm512_slli_epi32::<CONTEXT_SHIFT>(class), parted[V].0);
            // SAFETY: a class is below the number of tables and a symbol below 256: checked above, and by `split`.
            unsafe { put_of(puts, place) }
        });
        let steps = steps(&each!(V => parted[V].0));
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
    #[target_feature(enable = "avx512f")]
    fn of(classes: &[u8; CONTEXTS]) -> OfContexts {
        // SAFETY: a quarter of the classes is 64 bytes.
        OfContexts(std::array::from_fn(|n| unsafe { _mm512_loadu_si512(classes[64 * n..].as_ptr().cast()) }))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn look_up(&self, contexts: __m512i) -> __m512i {
        const LOWEST: __mmask64 = 0x1111_1111_1111_1111;
        let [a, b, c, d] = self.0;
        let low = _mm512_maskz_permutex2var_epi8(LOWEST, a, contexts, b);
        let high = _mm512_maskz_permutex2var_epi8(LOWEST, c, contexts, d);
        _mm512_mask_mov_epi32(low, _mm512_test_epi32_mask(contexts, all(128)), high)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512vl,avx512vbmi,popcnt")]
pub(super) fn decode<const WIDTH: usize>(
    numbers: Numbers<u32>,
    bytes: &mut [u8],
    mask: &[u8],
    decoder: &mut Decoder<'_>,
) {
    let arithmetic = Arithmetic::of(numbers);
    let Decoder { classes, slots, grain, states, words } = decoder;
    let of_contexts = OfContexts::of(classes);
    assert!(classes.iter().all(|class| (usize::from(*class) + 1) * (PARTS >> grain.bits()) as usize <= slots.len()));
    let (within, grain) = (all((1 << grain.bits()) - 1), _mm_cvtsi32_si128(grain.bits() as i32));
    let mut state = load_states(states);
    for (row, bytes) in bytes.chunks_exact_mut(LANES * WIDTH).enumerate() {
        if !super::rows::coded(mask, row) {
            continue;
        }
        let mut ahead = Ahead { words: words.ahead(), count: 0 };
        let base = each!(V => read::<WIDTH>(bytes, V));
        let slot = each!(V => {
            let class = of_contexts.look_up(arithmetic.context(base[V]));
            let part = _mm512_and_si512(state[V], all(PARTS - 1));
            let place = _mm512_or_si512(_mm512_slli_epi32::<PARTS_BITS>(class), part);
            // SAFETY: a class is below the number of tables, checked above; a part is below their length.
            unsafe { _mm512_i32gather_epi32::<4>(_mm512_srl_epi32(place, grain), slots.as_ptr().cast()) }
        });
        state = each!(V => {
            let parts = _mm512_and_si512(_mm512_srli_epi32::<8>(slot[V]), all(PARTS - 1));
            let quotient = _mm512_srli_epi32::<PARTS_BITS>(state[V]);
            let product = _mm512_mullo_epi32(_mm512_add_epi32(parts, all(1)), quotient);
            let place = _mm512_add_epi32(_mm512_srli_epi32::<20>(slot[V]), _mm512_and_si512(state[V], within));
            // SAFETY: a row takes a word for each lane at most, and one for each lane and step below.
            unsafe { take(_mm512_add_epi32(product, place), &mut ahead) }
        });
        let symbol = each!(V => _mm512_and_si512(slot[V], all(0xff)));
        let raw = each!(V => raw_bits(symbol[V]));
        let mut low = [_mm512_setzero_si512(); VECTORS];
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
unsafe fn take_step<const STEP: u32>(
    state: &mut [__m512i; VECTORS],
    low: &mut [__m512i; VECTORS],
    raw: &[__m512i; VECTORS],
    ahead: &mut Ahead<'_>,
) {
    *state = each!(V => {
        let bits = bits_of_step::<STEP>(raw[V]);
        let rest = _mm512_srlv_epi32(state[V], bits);
        let part = _mm512_xor_si512(state[V], _mm512_sllv_epi32(rest, bits));
        let part = match STEP {
            0 => part,
            1 => _mm512_slli_epi32::<RAW_STEP>(part),
            _ => _mm512_slli_epi32::<{ 2 * RAW_STEP }>(part),
        };
        low[V] = _mm512_or_si512(low[V], part);
        // SAFETY: the caller's.
        unsafe { take(rest, ahead) }
    });
}

/// States that became small take a word each.
///
/// # Safety
/// The row took less than `ROW_WORDS - WIDE` words so far.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,popcnt")]
unsafe fn take(state: __m512i, ahead: &mut Ahead<'_>) -> __m512i {
    let small = _mm512_cmplt_epu32_mask(state, all(LEAST));
    // SAFETY: sixteen words are 32 bytes, and as many are left.
    let next = unsafe { _mm256_loadu_si256(ahead.words.as_ptr().add(ahead.count).cast()) };
    ahead.count += small.count_ones() as usize;
    let next = _mm512_maskz_expand_epi32(small, _mm512_cvtepu16_epi32(next));
    _mm512_or_si512(_mm512_mask_slli_epi32::<16>(state, small, state), next)
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
