//! Byte planes: the bytes of all elements that mean the same, next to each other.
//!
//! The exponents of a tensor's floats are much alike and its mantissas are noise. Apart, the former shrink well by a
//! Huffman code and the latter are left as they are, which costs no more than copying them. The sign of a float is
//! moved behind its mantissa first, so that the exponent has a byte to itself.
//!
//! # Body
//! With `w` the bytes of an element, the chunk is `n = length / w` elements and `length % w` bytes of tail.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | bits 0 to 3: `w`, one of 1, 2, 4, 8; bits 4 to 6: zero; bit 7: elements are rotated (never with `w` = 1) |
//! | 2 | the mode of plane `k` in bits `2k` and `2k + 1`: 0 raw, 1 constant, 2 frame, 3 refused; bits from `2w` on: zero |
//! | `length % w` | the tail: the last bytes of the chunk |
//! | `n` for each | the raw planes, in the order of `k` |
//! | varies | the other planes, in the order of `k`. Constant: 1 byte, which all `n` are. Frame: 4 bytes, the length of the frame; then a zstd frame of `n` bytes |
//!
//! Nothing follows. Plane `k` is byte `k` of every element, 0 being the least significant. If elements are rotated, an
//! element of `8w` bits is what the planes hold rotated right by one: its lowest bit becomes its highest.

use super::noise::{Look, look};
use super::scratch::at_least;
use super::transpose::{Turn, merge, split};
use super::{Base, Codec, CodecError, CodecId, Input, Scratch};
use crate::tensor::Layout;
use crate::wire::{Reader, Write};

/// Codes each byte of the elements on its own.
#[derive(Clone, Copy, Debug)]
pub struct Planes;

impl Codec for Planes {
    fn id(&self) -> CodecId {
        CodecId::PLANES
    }

    fn encode(&self, input: Input<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) {
        let shape = Shape::of(input.layout);
        let (looks, _) = shape.looks(input.bytes, scratch);
        let Scratch { entropy, matches, planes, .. } = scratch;
        let (elements, tail) = shape.cut(input.bytes);
        let count = elements.len() / shape.width;

        let header = out.len();
        out.put(&[0; HEADER]);
        out.put(tail);

        // The raw planes go where they stay, the others where the coders find them.
        let raw_start = out.len();
        let raw_planes = looks[..shape.width].iter().filter(|look| **look == Look::Noise).count();
        out.resize(raw_start + raw_planes * count, 0);
        let mut raw = &mut out[raw_start..];
        let mut coded = at_least(planes, (shape.width - raw_planes) * count);
        let mut targets: [&mut [u8]; WIDEST] = Default::default();
        for (target, look) in targets.iter_mut().zip(&looks[..shape.width]) {
            let place = if *look == Look::Noise { &mut raw } else { &mut coded };
            *target = place.split_off_mut(..count).expect("a place for each plane");
        }
        split(elements, shape.turn, &mut targets[..shape.width]);

        let mut modes = [Mode::Raw; WIDEST];
        let coded = planes.chunks_exact(count.max(1));
        let kept = looks[..shape.width].iter().enumerate().filter(|(_, look)| **look != Look::Noise);
        for ((k, look), plane) in kept.zip(coded) {
            if let Some(value) = constant(plane) {
                modes[k] = Mode::Constant;
                out.put_u8(value);
            } else {
                modes[k] = Mode::Frame;
                let compressor = if *look == Look::Repeats { &mut *matches } else { &mut *entropy };
                let frame = compressor.compress(plane);
                out.put_u32(frame.len() as u32); // a chunk has at most some MiB
                out.put(frame);
            }
        }
        out[header..][..HEADER].copy_from_slice(&shape.header(&modes));
    }

    fn decode(&self, body: &[u8], _: Base<'_>, scratch: &mut Scratch, out: &mut [u8]) -> Result<(), CodecError> {
        let mut body = Reader::new(body);
        let (shape, modes) = Shape::from_header(body.array().map_err(|_| SHORT)?)?;
        let (elements, tail) = shape.cut_mut(out);
        let count = elements.len() / shape.width;
        tail.copy_from_slice(body.bytes(tail.len()).map_err(|_| SHORT)?);

        let Scratch { frames, planes: room, .. } = scratch;
        let mut room = at_least(room, shape.width * count);
        let mut planes: [&[u8]; WIDEST] = Default::default();
        let of = |wanted: fn(&Mode) -> bool| (0..shape.width).filter(move |k| wanted(&modes[*k]));
        for k in of(|mode| *mode == Mode::Raw) {
            planes[k] = body.bytes(count).map_err(|_| SHORT)?;
        }
        for k in of(|mode| *mode != Mode::Raw) {
            let plane = room.split_off_mut(..count).expect("room for each plane");
            if modes[k] == Mode::Constant {
                plane.fill(body.u8().map_err(|_| SHORT)?);
            } else {
                let len = body.u32().map_err(|_| SHORT)?;
                frames.decompress(body.bytes(len as usize).map_err(|_| SHORT)?, plane)?;
            }
            planes[k] = plane;
        }
        body.end().map_err(|_| CodecError("bytes behind the last plane"))?;
        merge(&planes[..shape.width], shape.turn, elements);
        Ok(())
    }
}

/// About how many bytes the body would have; `None` if every plane looks like noise.
pub(super) fn promises(input: Input<'_>, scratch: &mut Scratch) -> Option<u64> {
    let shape = Shape::of(input.layout);
    let (looks, left) = shape.looks(input.bytes, scratch);
    let worth = looks[..shape.width].iter().any(|look| *look != Look::Noise);
    worth.then(|| HEADER as u64 + left.iter().sum::<u64>() * (input.bytes.len() / shape.width) as u64 / 4096)
}

/// The layout of the elements that a body was made of, as far as it tells: rotated ones are floats, of whatever kind is
/// usual for their width.
pub(super) fn layout_of(body: &[u8]) -> Layout {
    match body.first_chunk().map(|head| Shape::from_header(*head)) {
        Some(Ok((Shape { width, turn: Turn::SignLast }, _))) => {
            let mantissa_bits = [7, 23, 52][width.ilog2() as usize - 1];
            Layout::Float { width: width as u8, mantissa_bits }
        }
        Some(Ok((Shape { width, turn: Turn::Not }, _))) => Layout::Integer { width: width as u8 },
        _ => Layout::Bytes,
    }
}

const SHORT: CodecError = CodecError("a body that ends too soon");
const WIDEST: usize = 8;
const HEADER: usize = 3;
const ROTATED: u8 = 0x80;

/// How a plane is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Raw,
    Constant,
    Frame,
}

/// How elements become planes.
#[derive(Clone, Copy, Debug)]
struct Shape {
    width: usize,
    turn: Turn,
}

impl Shape {
    fn of(layout: Layout) -> Shape {
        match (layout, layout.width()) {
            (Layout::Float { .. }, width @ (2 | 4 | 8)) => Shape { width, turn: Turn::SignLast },
            (_, width @ (2 | 4 | 8)) => Shape { width, turn: Turn::Not },
            _ => Shape { width: 1, turn: Turn::Not },
        }
    }

    fn header(self, modes: &[Mode; WIDEST]) -> [u8; HEADER] {
        let bits = modes.iter().rev().fold(0u16, |bits, mode| bits << 2 | *mode as u16);
        let [low, high] = bits.to_le_bytes();
        let turn = if self.turn == Turn::SignLast { ROTATED } else { 0 };
        [self.width as u8 | turn, low, high]
    }

    fn from_header([shape, low, high]: [u8; HEADER]) -> Result<(Shape, [Mode; WIDEST]), CodecError> {
        let turn = if shape & ROTATED == 0 { Turn::Not } else { Turn::SignLast };
        let shape = match usize::from(shape & !ROTATED) {
            1 if turn == Turn::Not => Shape { width: 1, turn },
            width @ (2 | 4 | 8) => Shape { width, turn },
            _ => return Err(CodecError("elements of an unknown shape")),
        };
        let bits = u16::from_le_bytes([low, high]);
        let mut modes = [Mode::Raw; WIDEST];
        for (k, mode) in modes.iter_mut().enumerate() {
            *mode = match bits >> (2 * k) & 3 {
                0 => Mode::Raw,
                1 if k < shape.width => Mode::Constant,
                2 if k < shape.width => Mode::Frame,
                _ => return Err(CodecError("a plane of an unknown mode")),
            };
        }
        Ok((shape, modes))
    }

    /// The whole elements, and the tail.
    fn cut(self, bytes: &[u8]) -> (&[u8], &[u8]) {
        bytes.split_at(bytes.len() - bytes.len() % self.width)
    }

    fn cut_mut(self, bytes: &mut [u8]) -> (&mut [u8], &mut [u8]) {
        bytes.split_at_mut(bytes.len() - bytes.len() % self.width)
    }

    /// How each plane looks, and how many of 4096 bytes are left of it, by pieces spread evenly over the chunk; all of
    /// it if it is small.
    fn looks(self, bytes: &[u8], scratch: &mut Scratch) -> ([Look; WIDEST], [u64; WIDEST]) {
        const PIECES: usize = 64;
        const PIECE: usize = 64;
        let (elements, _) = self.cut(bytes);
        let count = elements.len() / self.width;
        let sampled = count.min(PIECES * PIECE);
        let (pieces, planes) =
            at_least(&mut scratch.planes, 2 * self.width * sampled).split_at_mut(self.width * sampled);
        if sampled < count {
            let between = (count - PIECE) / (PIECES - 1);
            for (i, piece) in pieces.chunks_exact_mut(PIECE * self.width).enumerate() {
                piece.copy_from_slice(&elements[i * between * self.width..][..piece.len()]);
            }
        } else {
            pieces.copy_from_slice(elements);
        }

        let mut places: [&mut [u8]; WIDEST] = Default::default();
        places.iter_mut().zip(planes.chunks_exact_mut(sampled.max(1))).for_each(|(place, plane)| *place = plane);
        split(pieces, self.turn, &mut places[..self.width]);
        let (mut looks, mut left) = ([Look::Noise; WIDEST], [0; WIDEST]);
        for (k, plane) in planes.chunks_exact(sampled.max(1)).enumerate() {
            (looks[k], left[k]) = look(plane);
        }
        (looks, left)
    }
}

/// The value that all bytes have, if they have one.
fn constant(plane: &[u8]) -> Option<u8> {
    let (first, rest) = plane.split_first()?;
    (rest == &plane[..rest.len()]).then_some(*first)
}
