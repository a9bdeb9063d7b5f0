//! Differences to a base: what a chunk costs when every weight moved a little.
//!
//! Each element is compared with the element at the same place of the base (`residual`), the difference is split into a
//! symbol and noise (`entropy::symbol`), and the symbol is coded by its odds given the exponent of the base
//! (`entropy::rans`). The base has as many bytes as the chunk.
//!
//! # Body
//! With `w` the bytes of an element, the chunk is `length / (32 w)` *rows* of 32 elements, and what is left over is
//! its tail.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | bits 0 and 1: log2 of `w`; bits 2 and 3: what elements are, 0 bits (then `w` is 1), 1 integers, 2 floats; bit 4: some rows are not coded; bits 5 to 7: zero |
//! | 1 | floats: the lowest bit of the context, below the sign and at most 8 below it; else zero |
//! | varies | if some rows are not coded: 4 bytes, the length of a zstd frame; then that, whose content is a bit for each row, the lowest of a byte first: 1 if it is coded. Bits behind the last row are zero |
//! | varies | the tail, as it is |
//!
//! A row that is not coded is that of the base. If any row is coded, there follow
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the number `c` of classes, 1 to 16 |
//! | `c - 1` | the first context of each class but the first, increasing, from 1 on |
//! | 2 | how many bytes the tables take |
//! | varies | a table for each class, one behind the other without gaps; then zero bits up to a whole byte |
//! | 128 | the state of each of the 32 coders |
//! | varies | words of two bytes, up to the end of the body |
//!
//! The context of an element is that of its base: for a float the bits from the lowest bit of the context on, without
//! the sign; for others it is zero. Its class is the last whose first context is not above it. Rows are decoded in
//! order: first the symbols of all 32 elements, in order, then the lowest 15 raw bits of all, then the next, as long as
//! any element of the row has more. Element `i` comes from coder `i`. At the end each state is 32,768, and no word is
//! left.

use super::entropy::classes::{CLASSES_MAX, CONTEXTS, Classes, Counts};
use super::entropy::huffman::Compressor;
use super::entropy::rans::{Decoder, Encoder, LANES, Put, ROW_WORDS};
use super::entropy::symbol::{self, SYMBOLS};
use super::entropy::table::{BitReader, BitWriter, Grain, PARTS_BITS, Table};
use super::entropy::{FRACTION, log2};
use super::kernel::{Kernel, Pair};
use super::residual::{Elements, Kind};
use super::scratch::at_least;
use super::{Base, Codec, CodecError, CodecId, Input, Scratch};
use crate::tensor::Layout;
use crate::wire::{Reader, Write};

/// Codes each element by its difference to the base.
#[derive(Clone, Copy, Debug)]
pub struct Delta;

const MASKED: u8 = 1 << 4;
/// What a coder needs for tables, words and rows.
#[derive(Debug, Default)]
pub(super) struct DeltaScratch {
    counts: Vec<[u32; SYMBOLS]>,
    puts: Vec<Put>,
    slots: Vec<u32>,
    words: Vec<[u8; 2]>,
    /// A bit for each row: it is coded.
    mask: Vec<u8>,
}

/// How a chunk would be coded.
pub(super) struct Plan {
    elements: Elements,
    rows: usize,
    coded: usize,
    /// `None` if no row is coded.
    classes: Option<Classes>,
    raw_bits: u64,
    /// About the length of the body.
    pub(super) bytes: u64,
}

/// Looks at a whole chunk, and says what a difference to its base would take. A base of another length is none.
pub(super) fn plan(input: Input<'_>, scratch: &mut Scratch) -> Option<Plan> {
    let elements = Elements::of(input.layout);
    let base = input.base.filter(|base| base.len() == input.bytes.len())?;
    let row_bytes = LANES * elements.width;
    let rows = input.bytes.len() / row_bytes;
    let Scratch { matches, delta: DeltaScratch { counts, mask, .. }, .. } = scratch;
    let mask = at_least(mask, rows.div_ceil(8));
    let mut coded = mark(input.bytes, base, row_bytes, mask);
    counts.clear();
    counts.resize(CONTEXTS, [0; SYMBOLS]);
    let counts: &mut Counts = counts.as_mut_slice().try_into().expect("a row for each context");
    Kernel::detect().count(elements, Pair { base, bytes: input.bytes, mask }, counts);
    if coded < rows && !pays_to_pass(input.small, mask, rows, coded, counts, matches) {
        let ones = u8::MAX >> ((8 - rows % 8) % 8);
        let last = mask.len() - 1;
        mask.iter_mut().enumerate().for_each(|(n, bits)| *bits = !*bits & if n == last { ones } else { u8::MAX });
        Kernel::detect().count(elements, Pair { base, bytes: input.bytes, mask }, counts);
        mask.fill(u8::MAX);
        mask[last] = ones;
        coded = rows;
    }
    let raw_of = |symbol: usize| {
        let bits = if elements.width == 8 { symbol::raw_bits::<u64> } else { symbol::raw_bits::<u32> };
        u64::from(bits(symbol as u32))
    };
    // Of wider elements the look-ups are a smaller part of the time, and what is rare is more.
    let grain = match elements.width {
        _ if input.small => Grain::FINE,
        1 | 2 => Grain::COARSE,
        _ => Grain::MEDIUM,
    };
    let (classes, promise) = Classes::of(counts, grain).unzip();
    let occur = promise.iter().flat_map(|promise| promise.occur.iter().enumerate());
    let raw_bits = occur.map(|(symbol, count)| raw_of(symbol) * count).sum();
    let bits = promise.as_ref().map_or(0, |promise| promise.bits) + raw_bits;
    let states = if coded > 0 { 4 * LANES } else { 0 };
    let tail = input.bytes.len() - rows * row_bytes;
    let masked = if coded < rows { rows as u64 / 8 } else { 0 };
    let bytes = bits / 8 + masked + (states + tail) as u64 + 8;
    Some(Plan { elements, rows, coded, classes, raw_bits, bytes })
}

/// Sets the bits of the rows that are not those of the base, and says how many there are.
fn mark(bytes: &[u8], base: &[u8], row_bytes: usize, mask: &mut [u8]) -> usize {
    mask.fill(0);
    let mut coded = 0;
    for (row, (bytes, base)) in bytes.chunks_exact(row_bytes).zip(base.chunks_exact(row_bytes)).enumerate() {
        // In pieces of a known length, which are compared without a call.
        let pieces = bytes.as_chunks::<LANES>().0.iter().zip(base.as_chunks::<LANES>().0);
        let differs = pieces.fold(false, |differs, (piece, base)| differs | (piece != base));
        mask[row / 8] |= u8::from(differs) << (row % 8);
        coded += usize::from(differs);
    }
    coded
}

/// Whether it takes fewer bits to say which rows are coded than to code them all, or a few more if time counts too.
/// `counts` is of the coded rows; in the others every symbol is 0.
fn pays_to_pass(
    small: bool,
    mask: &[u8],
    rows: usize,
    coded: usize,
    counts: &Counts,
    matches: &mut Compressor,
) -> bool {
    // What it takes to tell zeros from others: the rest is the same.
    let bits = |zeros: u64, all: u64| {
        let weighted = |count: u64| count * log2(count as u32); // elements of a chunk
        (weighted(all) - weighted(zeros) - weighted(all - zeros)) >> FRACTION
    };
    let zeros: u64 = counts.iter().map(|row| u64::from(row[0])).sum();
    let (all, passed) = ((coded * LANES) as u64, ((rows - coded) * LANES) as u64);
    let without = bits(zeros + passed, all + passed);
    let bound = if small { without } else { without + without / 8 };
    8 * matches.compress(mask).len() as u64 + bits(zeros, all) <= bound
}

impl Plan {
    /// Appends the body. The input and the scratch are those that the plan was made with.
    pub(super) fn encode(&self, input: Input<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) {
        let base = input.base.expect("a plan was made with a base");
        let Scratch { matches, delta: DeltaScratch { puts, words, mask, .. }, .. } = scratch;
        let mask = &mask[..self.rows.div_ceil(8)];
        let masked = if self.coded < self.rows { MASKED } else { 0 };
        let (kind, from) = match self.elements.kind {
            Kind::Bits => (0, 0),
            Kind::Integers => (1, 0),
            Kind::Floats { context_from } => (2, context_from as u8),
        };
        out.put(&[self.elements.width.trailing_zeros() as u8 | kind << 2 | masked, from]);
        if masked != 0 {
            let frame = matches.compress(mask);
            out.put_u32(frame.len() as u32); // of a bit for each row
            out.put(frame);
        }
        out.put(&input.bytes[self.rows * LANES * self.elements.width..]);
        let Some(classes) = &self.classes else { return };
        put_classes(classes, out);

        // A symbol adds 12 bits to a state at most; a word takes 16.
        let bits = (self.coded * LANES) as u64 * u64::from(PARTS_BITS) + self.raw_bits;
        let words = at_least(words, bits.div_ceil(16) as usize + ROW_WORDS);
        let mut encoder = Encoder::new(classes, puts, words);
        Kernel::detect().encode(self.elements, Pair { base, bytes: input.bytes, mask }, &mut encoder);
        encoder.states.iter().for_each(|state| out.put_u32(*state));
        out.put(encoder.words.written());
    }
}

/// The layout of the elements that a body was made of.
pub(super) fn layout_of(body: &[u8]) -> Layout {
    let elements = body.first_chunk().and_then(|[shape, from]| elements_of(*shape, *from).ok());
    match elements {
        Some(Elements { width, kind: Kind::Integers }) => Layout::Integer { width: width as u8 },
        Some(Elements { width, kind: Kind::Floats { context_from } }) => {
            // Of a double, not all of the exponent is context.
            let mantissa_bits = if width == 8 { 52 } else { context_from as u8 };
            Layout::Float { width: width as u8, mantissa_bits }
        }
        Some(Elements { kind: Kind::Bits, .. }) | None => Layout::Bytes,
    }
}

impl Codec for Delta {
    fn id(&self) -> CodecId {
        CodecId::DELTA
    }

    fn encode(&self, input: Input<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) {
        plan(input, scratch).expect("a base as long as the chunk").encode(input, scratch, out);
    }

    fn bases(&self) -> usize {
        1
    }

    fn decode(&self, body: &[u8], base: Base<'_>, scratch: &mut Scratch, out: &mut [u8]) -> Result<(), CodecError> {
        base.into_place(out)?;
        let Scratch { frames, delta: DeltaScratch { slots, mask, .. }, .. } = scratch;
        let mut body = Reader::new(body);
        let [shape, from] = body.array().map_err(|_| SHORT)?;
        let elements = elements_of(shape, from)?;
        let rows = out.len() / (LANES * elements.width);
        let mask = at_least(mask, rows.div_ceil(8));
        if shape & MASKED == 0 {
            mask.fill(0xff);
        } else {
            let len = body.u32().map_err(|_| SHORT)?;
            frames.decompress(body.bytes(len as usize).map_err(|_| SHORT)?, mask)?;
        }
        if let Some(last) = mask.last_mut().filter(|_| !rows.is_multiple_of(8)) {
            let behind = 0xff << (rows % 8);
            if shape & MASKED != 0 && *last & behind != 0 {
                return Err(CodecError("rows behind the last"));
            }
            *last &= !behind;
        }
        let (whole, tail) = out.split_at_mut(rows * LANES * elements.width);
        tail.copy_from_slice(body.bytes(tail.len()).map_err(|_| SHORT)?);
        if mask.iter().all(|bits| *bits == 0) {
            return body.end().map_err(|_| CodecError("bytes behind the tail"));
        }

        let classes = take_classes(&mut body)?;
        let mut states = [0; LANES];
        for state in &mut states {
            *state = body.u32().map_err(|_| SHORT)?;
        }
        let words = body.bytes(body.left()).map_err(|_| SHORT)?;
        let mut decoder = Decoder::new(&classes, slots, states, words)?;
        Kernel::detect().decode(elements, whole, mask, &mut decoder);
        decoder.end()
    }
}

const SHORT: CodecError = CodecError("a body that ends too soon");

fn elements_of(shape: u8, from: u8) -> Result<Elements, CodecError> {
    let (width, from) = (1usize << (shape & 3), u32::from(from));
    let sign = 8 * width as u32 - 1;
    let kind = match shape >> 2 & 3 {
        0 if width == 1 && from == 0 => Kind::Bits,
        1 if from == 0 => Kind::Integers,
        2 if from < sign && sign - from <= 8 => Kind::Floats { context_from: from },
        _ => return Err(CodecError("elements of an unknown kind")),
    };
    if shape >> 5 == 0 { Ok(Elements { width, kind }) } else { Err(CodecError("elements of an unknown shape")) }
}

fn put_classes(classes: &Classes, out: &mut Vec<u8>) {
    out.put_u8(classes.tables.len() as u8); // at most CLASSES_MAX
    out.put(&classes.firsts);
    let mut bits = BitWriter::default();
    classes.tables.iter().for_each(|table| table.put(&mut bits));
    let tables = bits.finish();
    out.put_u16(tables.len() as u16); // of 16 classes with 256 symbols of 6 bits and 3
    out.put(&tables);
}

fn take_classes(body: &mut Reader<'_>) -> Result<Classes, CodecError> {
    let count = usize::from(body.u8().map_err(|_| SHORT)?);
    if !(1..=CLASSES_MAX).contains(&count) {
        return Err(CodecError("an impossible number of classes"));
    }
    let firsts = body.bytes(count - 1).map_err(|_| SHORT)?.to_vec();
    if firsts.first() == Some(&0) || firsts.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(CodecError("classes that do not increase"));
    }
    let len = body.u16().map_err(|_| SHORT)?;
    let mut bits = BitReader::new(body.bytes(len.into()).map_err(|_| SHORT)?);
    let tables = (0..count).map(|_| Table::take(&mut bits)).collect::<Result<_, _>>()?;
    bits.end()?;
    Ok(Classes { firsts, tables })
}
