//! The loops of [`rows`](super::rows) in AVX2, for elements of one, two and four bytes: eight coders to a vector.
//!
//! A row is four vectors. Each step of the coder is done for all four before the next, in the order in which the
//! portable code goes through the lanes, so the words come out the same. Where it differs is how: the symbol of a
//! difference is found by the exponent that the machine gives the magnitude as a float; the lanes that take or give a
//! word are brought together by a permutation that [`Gathered`] knows for each of the 256 cases.

use std::arch::x86_64::*;

use crate::codec::entropy::classes::{CONTEXTS, Counts};
use crate::codec::entropy::rans::{LANES, LEAST, Put, RAW_STEP, Words, WordsBack};
use crate::codec::entropy::symbol::SYMBOLS;
use crate::codec::entropy::table::{PARTS, PARTS_BITS};
use crate::codec::residual::Numbers;

/// Lanes of a vector.
const WIDE: usize = 8;
/// Vectors of a row.
const VECTORS: usize = LANES / WIDE;
/// Bits of a symbol below its leading one.
const BELOW: i32 = 2;

/// True if the machine has what these loops are compiled for.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt")
}

/// For each set of lanes, where each lane's word comes from or goes to.
struct Gathered {
    /// Lane `i` takes the word of this place: its rank in the set.
    spread: [[u8; WIDE]; 256],
    /// Place `i` takes the word of this lane: those of the set come last, in order.
    pack: [[u8; WIDE]; 256],
}

static GATHERED: Gathered = {
    let mut gathered = Gathered { spread: [[0; WIDE]; 256], pack: [[0; WIDE]; 256] };
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut rank, count) = (0, 0, (set as u32).count_ones() as usize);
        while lane < WIDE {
            if set >> lane & 1 == 1 {
                gathered.spread[set][lane] = rank as u8;
                gathered.pack[set][WIDE - count + rank] = lane as u8;
                rank += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    gathered
};

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

    #[inline]
    #[target_feature(enable = "avx2")]
    fn number(self, element: __m256i) -> __m256i {
        let sign = _mm256_and_si256(_mm256_srai_epi32::<31>(element), self.flip);
        _mm256_xor_si256(_mm256_and_si256(element, self.keep), sign)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn between(self, base: __m256i, element: __m256i) -> __m256i {
        let turn = _mm256_and_si256(_mm256_srai_epi32::<31>(base), self.flip);
        let difference = _mm256_sub_epi32(self.number(element), self.number(base));
        _mm256_sub_epi32(_mm256_xor_si256(difference, turn), turn)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn apply(self, base: __m256i, difference: __m256i) -> __m256i {
        let turn = _mm256_and_si256(_mm256_srai_epi32::<31>(base), self.flip);
        let difference = _mm256_sub_epi32(_mm256_xor_si256(difference, turn), turn);
        let number = _mm256_add_epi32(self.number(base), difference);
        let sign = _mm256_and_si256(_mm256_srai_epi32::<31>(number), self.flip);
        let magnitude = _mm256_and_si256(_mm256_xor_si256(number, sign), self.keep);
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
    let zero = _mm256_setzero_si256();
    let negative = _mm256_srai_epi32::<31>(difference);
    let magnitude = _mm256_abs_epi32(difference);
    // The exponent of a float counts bits. Without the bit below each other, none is rounded up to the next power.
    let sparse = _mm256_andnot_si256(_mm256_srli_epi32::<1>(magnitude), magnitude);
    let exponent = _mm256_srli_epi32::<23>(_mm256_castps_si256(_mm256_cvtepi32_ps(sparse)));
    // 2^31 became a negative float; 0 has the exponent 0.
    let length = _mm256_sub_epi32(_mm256_and_si256(exponent, _mm256_set1_epi32(0xff)), _mm256_set1_epi32(126));
    let raw = _mm256_max_epi32(_mm256_sub_epi32(length, _mm256_set1_epi32(1 + BELOW)), zero);
    let m = _mm256_add_epi32(_mm256_slli_epi32::<BELOW>(raw), _mm256_srlv_epi32(magnitude, raw));
    // Twice m, less one, plus one for a negative: the sign is -1 in its lane.
    let symbol = _mm256_sub_epi32(_mm256_sub_epi32(_mm256_add_epi32(m, m), one), negative);
    let low = _mm256_and_si256(magnitude, _mm256_sub_epi32(_mm256_sllv_epi32(one, raw), one));
    (_mm256_max_epi32(symbol, zero), raw, low)
}

#[inline]
#[target_feature(enable = "avx2")]
fn raw_bits(symbol: __m256i) -> __m256i {
    let m = _mm256_srli_epi32::<1>(_mm256_add_epi32(symbol, _mm256_set1_epi32(1)));
    let less = _mm256_sub_epi32(_mm256_srli_epi32::<BELOW>(m), _mm256_set1_epi32(1));
    _mm256_max_epi32(less, _mm256_setzero_si256())
}

/// The inverse of [`split`].
#[inline]
#[target_feature(enable = "avx2")]
fn join(symbol: __m256i, raw: __m256i, low: __m256i) -> __m256i {
    let one = _mm256_set1_epi32(1);
    let next = _mm256_add_epi32(symbol, one);
    let m = _mm256_srli_epi32::<1>(next);
    let negative = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_and_si256(next, one));
    let head = _mm256_sub_epi32(m, _mm256_slli_epi32::<BELOW>(raw));
    let magnitude = _mm256_or_si256(_mm256_sllv_epi32(head, raw), low);
    _mm256_sub_epi32(_mm256_xor_si256(magnitude, negative), negative)
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

/// The permutation of a set of lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn permutation(table: &[[u8; WIDE]; 256], set: u8) -> __m256i {
    _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(table[usize::from(set)])))
}

/// The lanes that are all ones.
#[inline]
#[target_feature(enable = "avx2")]
fn set_of(lanes: __m256i) -> u8 {
    _mm256_movemask_ps(_mm256_castsi256_ps(lanes)) as u8
}

/// The raw bits of a step, of lanes that have so many in all.
#[inline]
#[target_feature(enable = "avx2")]
fn bits_of_step(raw: __m256i, step: u32) -> __m256i {
    let left = _mm256_sub_epi32(raw, _mm256_set1_epi32((step * RAW_STEP) as i32));
    _mm256_min_epi32(_mm256_max_epi32(left, _mm256_setzero_si256()), _mm256_set1_epi32(RAW_STEP as i32))
}

/// The most raw bits of a lane.
#[inline]
#[target_feature(enable = "avx2")]
fn steps(raw: &[__m256i; VECTORS]) -> u32 {
    let some = |least: u32| {
        let least = _mm256_set1_epi32(least as i32);
        let more = raw.map(|raw| _mm256_cmpgt_epi32(raw, least));
        let any = _mm256_or_si256(_mm256_or_si256(more[0], more[1]), _mm256_or_si256(more[2], more[3]));
        _mm256_testz_si256(any, any) == 0
    };
    // Lanes of 32 bits have 31 raw bits at most.
    u32::from(some(0)) + u32::from(some(RAW_STEP)) + u32::from(some(2 * RAW_STEP))
}

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn count<const WIDTH: usize>(
    numbers: Numbers<u32>,
    base: &[u8],
    bytes: &[u8],
    mask: &[u8],
    counts: &mut Counts,
) {
    let numbers = Arithmetic::of(numbers);
    let counts = counts.as_flattened_mut();
    let rows = base.chunks_exact(LANES * WIDTH).zip(bytes.chunks_exact(LANES * WIDTH));
    for (_, (base, bytes)) in rows.enumerate().filter(|(row, _)| super::rows::coded(mask, *row)) {
        let mut places = [0u32; LANES];
        for (vector, places) in places.chunks_exact_mut(WIDE).enumerate() {
            let base = read::<WIDTH>(base, vector);
            let (symbol, _, _) = split(numbers.between(base, read::<WIDTH>(bytes, vector)));
            let place = _mm256_or_si256(_mm256_slli_epi32::<8>(numbers.context(base)), symbol);
            // SAFETY: the places of eight lanes are 32 bytes.
            unsafe { _mm256_storeu_si256(places.as_mut_ptr().cast(), place) };
        }
        for place in places {
            counts[(place & 0xffff) as usize] += 1;
        }
    }
}

/// What an encoder gathers for a symbol: its reciprocal, and the rest of its [`Put`] in one number.
fn packed(puts: &[Put]) -> Vec<u64> {
    puts.iter()
        .map(|put| {
            let rest = u32::from(put.begin) | u32::from(put.parts) << 12 | u32::from(put.drop - 31) << 25;
            u64::from(put.reciprocal) | u64::from(rest) << 32
        })
        .collect()
}

#[target_feature(enable = "avx2,popcnt")]
#[expect(clippy::too_many_arguments, reason = "what the tables and the states are is the caller's")]
pub(super) fn encode<const WIDTH: usize>(
    numbers: Numbers<u32>,
    base: &[u8],
    bytes: &[u8],
    mask: &[u8],
    classes: &[u8; CONTEXTS],
    puts: &[Put],
    states: &mut [u32; LANES],
    words: &mut WordsBack<'_>,
) {
    let numbers = Arithmetic::of(numbers);
    let puts = packed(puts);
    let of_contexts = OfContexts::of(classes);
    assert!(classes.iter().all(|class| (usize::from(*class) + 1) * SYMBOLS <= puts.len()));
    let mut state = load_states(states);
    let rows = base.chunks_exact(LANES * WIDTH).zip(bytes.chunks_exact(LANES * WIDTH));
    for (_, (base, bytes)) in rows.enumerate().rev().filter(|(row, _)| super::rows::coded(mask, *row)) {
        let zero = [_mm256_setzero_si256(); VECTORS];
        let (mut place, mut raw, mut low) = (zero, zero, zero);
        for vector in 0..VECTORS {
            let base = read::<WIDTH>(base, vector);
            let difference = numbers.between(base, read::<WIDTH>(bytes, vector));
            let symbol;
            (symbol, raw[vector], low[vector]) = split(difference);
            let class = of_contexts.look_up(numbers.context(base));
            place[vector] = _mm256_add_epi32(_mm256_slli_epi32::<{ SYMBOLS.ilog2() as i32 }>(class), symbol);
        }
        for step in (0..steps(&raw)).rev() {
            for vector in (0..VECTORS).rev() {
                let bits = bits_of_step(raw[vector], step);
                let ones = _mm256_set1_epi32(-1);
                let raw = _mm256_srl_epi32(low[vector], _mm_cvtsi32_si128((step * RAW_STEP) as i32));
                let raw = _mm256_andnot_si256(_mm256_sllv_epi32(ones, bits), raw);
                let limit = _mm256_srlv_epi32(_mm256_set1_epi32(i32::MAX), bits);
                let small = give(state[vector], limit, words);
                state[vector] = _mm256_or_si256(_mm256_sllv_epi32(small, bits), raw);
            }
        }
        for vector in (0..VECTORS).rev() {
            // SAFETY: a class is below the number of tables and a symbol below 256: checked above, and by `split`.
            let (reciprocal, rest) = unsafe { gather_puts(&puts, place[vector]) };
            let parts = _mm256_and_si256(_mm256_srli_epi32::<12>(rest), _mm256_set1_epi32(0x1fff));
            let limit = _mm256_sub_epi32(_mm256_slli_epi32::<19>(parts), _mm256_set1_epi32(1));
            let small = give(state[vector], limit, words);
            let quotient = high_product(small, reciprocal, _mm256_srli_epi32::<25>(rest));
            let begin = _mm256_and_si256(rest, _mm256_set1_epi32(0xfff));
            let others = _mm256_sub_epi32(_mm256_set1_epi32(PARTS as i32), parts);
            let moved = _mm256_add_epi32(small, begin);
            state[vector] = _mm256_add_epi32(moved, _mm256_mullo_epi32(quotient, others));
        }
    }
    store_states(state, states);
}

/// States above the limit give their lower halves away.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
fn give(state: __m256i, limit: __m256i, words: &mut WordsBack<'_>) -> __m256i {
    let full = _mm256_cmpgt_epi32(state, limit);
    let set = set_of(full);
    let halves = _mm256_and_si256(state, _mm256_set1_epi32(0xffff));
    let last = narrow(_mm256_permutevar8x32_epi32(halves, permutation(&GATHERED.pack, set)));
    let room: &mut [u16; WIDE] = words.before(set.count_ones() as usize);
    // SAFETY: eight words are 16 bytes.
    unsafe { _mm_storeu_si128(room.as_mut_ptr().cast(), last) };
    _mm256_blendv_epi8(state, _mm256_srli_epi32::<16>(state), full)
}

/// `(a * b) >> (31 + shift)` in each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn high_product(a: __m256i, b: __m256i, shift: __m256i) -> __m256i {
    let low_half = _mm256_set1_epi64x(0xffff_ffff);
    let even = _mm256_srl_epi64(_mm256_mul_epu32(a, b), _mm_cvtsi32_si128(31));
    let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
    let odd = _mm256_srl_epi64(odd, _mm_cvtsi32_si128(31));
    let even = _mm256_srlv_epi64(even, _mm256_and_si256(shift, low_half));
    let odd = _mm256_srlv_epi64(odd, _mm256_srli_epi64::<32>(shift));
    _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd))
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
    fn look_up(&self, context: __m256i) -> __m256i {
        if self.narrow {
            let at = _mm256_max_epi32(_mm256_sub_epi32(context, self.first), _mm256_setzero_si256());
            let at = _mm256_min_epi32(at, _mm256_set1_epi32(31));
            // A byte with its highest bit set gives zero: the three upper bytes, and the place in the other half.
            let upper = _mm256_set1_epi32(0x8080_8080_u32 as i32 & !0xff);
            let low = _mm256_add_epi8(_mm256_or_si256(at, upper), _mm256_set1_epi32(0x70));
            let high = _mm256_or_si256(_mm256_sub_epi32(at, _mm256_set1_epi32(16)), upper);
            _mm256_or_si256(_mm256_shuffle_epi8(self.low, low), _mm256_shuffle_epi8(self.high, high))
        } else {
            let at = _mm256_and_si256(context, _mm256_set1_epi32(0xff));
            // SAFETY: the table has an entry for each number below 256.
            unsafe { _mm256_i32gather_epi32::<4>(self.table.as_ptr().cast(), at) }
        }
    }
}

/// The two halves of the entries.
///
/// # Safety
/// Each lane of `at` is below the length of `puts`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn gather_puts(puts: &[u64], at: __m256i) -> (__m256i, __m256i) {
    // SAFETY: the caller's.
    let (low, high) = unsafe {
        let first = _mm256_i32gather_epi64::<8>(puts.as_ptr().cast(), _mm256_castsi256_si128(at));
        let second = _mm256_i32gather_epi64::<8>(puts.as_ptr().cast(), _mm256_extracti128_si256::<1>(at));
        (_mm256_castsi256_ps(first), _mm256_castsi256_ps(second))
    };
    // In each half of a register: two lanes of the first four, two of the others.
    let order = |mixed| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(mixed));
    (order(_mm256_shuffle_ps::<0b10_00_10_00>(low, high)), order(_mm256_shuffle_ps::<0b11_01_11_01>(low, high)))
}

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn decode<const WIDTH: usize>(
    numbers: Numbers<u32>,
    bytes: &mut [u8],
    mask: &[u8],
    classes: &[u8; CONTEXTS],
    slots: &[u32],
    states: &mut [u32; LANES],
    words: &mut Words<'_>,
) {
    let arithmetic = Arithmetic::of(numbers);
    let of_contexts = OfContexts::of(classes);
    assert!(classes.iter().all(|class| (usize::from(*class) + 1) * PARTS as usize <= slots.len()));
    let mut state = load_states(states);
    for (row, bytes) in bytes.chunks_exact_mut(LANES * WIDTH).enumerate() {
        if !super::rows::coded(mask, row) {
            continue;
        }
        let zero = [_mm256_setzero_si256(); VECTORS];
        let (mut base, mut symbol, mut raw, mut low) = (zero, zero, zero, zero);
        for vector in 0..VECTORS {
            base[vector] = read::<WIDTH>(bytes, vector);
            let class = of_contexts.look_up(arithmetic.context(base[vector]));
            let first = _mm256_slli_epi32::<{ PARTS_BITS as i32 }>(class);
            let part = _mm256_and_si256(state[vector], _mm256_set1_epi32(PARTS as i32 - 1));
            // SAFETY: a class is below the number of tables, checked above; a part is below their length.
            let slot = unsafe { _mm256_i32gather_epi32::<4>(slots.as_ptr().cast(), _mm256_add_epi32(first, part)) };
            symbol[vector] = _mm256_and_si256(slot, _mm256_set1_epi32(0xff));
            let parts = _mm256_and_si256(_mm256_srli_epi32::<8>(slot), _mm256_set1_epi32(0xfff));
            let parts = _mm256_add_epi32(parts, _mm256_set1_epi32(1));
            let quotient = _mm256_srli_epi32::<{ PARTS_BITS as i32 }>(state[vector]);
            let product = _mm256_mullo_epi32(parts, quotient);
            state[vector] = take(_mm256_add_epi32(product, _mm256_srli_epi32::<20>(slot)), words);
            raw[vector] = raw_bits(symbol[vector]);
        }
        for step in 0..steps(&raw) {
            for vector in 0..VECTORS {
                let bits = bits_of_step(raw[vector], step);
                let ones = _mm256_set1_epi32(-1);
                let part = _mm256_andnot_si256(_mm256_sllv_epi32(ones, bits), state[vector]);
                let part = _mm256_sll_epi32(part, _mm_cvtsi32_si128((step * RAW_STEP) as i32));
                low[vector] = _mm256_or_si256(low[vector], part);
                state[vector] = take(_mm256_srlv_epi32(state[vector], bits), words);
            }
        }
        for vector in 0..VECTORS {
            let difference = join(symbol[vector], raw[vector], low[vector]);
            write::<WIDTH>(arithmetic.apply(base[vector], difference), bytes, vector);
        }
    }
    store_states(state, states);
}

/// States that became small take a word each.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
fn take(state: __m256i, words: &mut Words<'_>) -> __m256i {
    let small = _mm256_cmpgt_epi32(_mm256_set1_epi32(LEAST as i32), state);
    let set = set_of(small);
    let next: [[u8; 2]; WIDE] = words.take(set.count_ones() as usize);
    // SAFETY: eight words are 16 bytes.
    let next = unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(next.as_ptr().cast())) };
    let spread = _mm256_permutevar8x32_epi32(next, permutation(&GATHERED.spread, set));
    let filled = _mm256_or_si256(_mm256_slli_epi32::<16>(state), spread);
    _mm256_blendv_epi8(state, filled, small)
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
