//! zstd for bytes without elements: text, records, small integers.
//!
//! # Body
//! One zstd frame whose content is the chunk. A reader refuses bytes behind the frame and a content size that is not
//! the chunk's length.

use super::scratch::at_least;
use super::{Base, Codec, CodecError, CodecId, Input, Scratch, pays};

/// Finds repetitions and codes what is left by how often it occurs.
#[derive(Clone, Copy, Debug)]
pub struct Zstd;

impl Codec for Zstd {
    fn id(&self) -> CodecId {
        CodecId::ZSTD
    }

    fn encode(&self, input: Input<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) {
        out.extend_from_slice(scratch.matches.compress(input.bytes));
    }

    fn decode(&self, body: &[u8], _: Base<'_>, scratch: &mut Scratch, out: &mut [u8]) -> Result<(), CodecError> {
        scratch.frames.decompress(body, out)
    }
}

/// Pieces of the sample that noise is recognised by, and the bytes of each.
const PIECES: usize = 8;
const PIECE: usize = 2 << 10;

/// About how many bytes the body would have, by a sample if there are many; `None` if it would not shrink.
pub(super) fn promises(bytes: &[u8], scratch: &mut Scratch) -> Option<u64> {
    let Scratch { matches, planes, .. } = scratch;
    if bytes.len() <= 4 * PIECES * PIECE {
        let body = matches.compress(bytes).len();
        return pays(body, bytes.len()).then_some(body as u64);
    }
    let sample = at_least(planes, PIECES * PIECE);
    let between = (bytes.len() - PIECE) / (PIECES - 1);
    for (i, piece) in sample.chunks_exact_mut(PIECE).enumerate() {
        piece.copy_from_slice(&bytes[i * between..][..PIECE]);
    }
    let body = matches.compress(sample).len();
    pays(body, sample.len()).then(|| body as u64 * bytes.len() as u64 / sample.len() as u64)
}
