//! Lossless codecs for the bytes of one chunk.
//!
//! A codec turns a chunk into the body of a frame, and back. It sees bytes, the layout of their elements and, if it
//! takes one, the bytes of a base. It knows no tensors, packs or stores, and does no I/O. Whoever stores the body also
//! stores the id of its codec and the length of the chunk: a decoder is given both.
//!
//! # What always holds
//! * `decode(encode(x)) == x` for any bytes: NaN payloads, negative zero, a ragged last element, nothing at all.
//! * The body depends on the input alone, not on the CPU, the thread or an earlier call.
//! * No body that [`encode`] chooses is larger than its chunk: [`Raw`] is always a candidate.
//! * A decoder survives any body: it fills all of `out` or says why not, and allocates by the length of `out` alone.
//! * A released [`CodecId`] keeps its meaning for ever. A new layout of the body is a new id.
//!
//! # The bodies
//! | id | codec | body |
//! |---|---|---|
//! | 0 | [`Raw`] | the bytes of the chunk |
//! | 1 | [`Planes`] | byte planes, each raw, constant or a zstd frame |
//! | 2 | [`Zstd`] | one zstd frame |
//!
//! Each codec's module says exactly what its body is. A *zstd frame* is, wherever the word is used here, one frame as
//! in RFC 8878: with its magic number and its content size, without a dictionary; a checksum, if there is one, must be
//! right. Numbers are little-endian.

mod frame;
mod noise;
pub mod planes;
pub mod raw;
mod scratch;
#[cfg(test)]
mod tests;
mod transpose;
pub mod zstd;

use crate::tensor::Layout;

pub use planes::Planes;
pub use raw::Raw;
pub use scratch::Scratch;
pub use zstd::Zstd;

/// Which codec wrote a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodecId(pub u8);

impl CodecId {
    /// The id of [`Raw`].
    pub const RAW: CodecId = CodecId(0);
    /// The id of [`Planes`].
    pub const PLANES: CodecId = CodecId(1);
    /// The id of [`Zstd`].
    pub const ZSTD: CodecId = CodecId(2);
}

/// What a codec makes a body of.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The bytes of the chunk.
    pub bytes: &'a [u8],
    /// How to see them.
    pub layout: Layout,
    /// The bytes of the base, for codecs that take one; the others ignore it.
    pub base: Option<&'a [u8]>,
}

/// Why a body could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(pub &'static str);

/// One way to write the bytes of a chunk. Choice, threads and framing are the caller's.
pub trait Codec: Sync {
    /// The number that frames know it by.
    fn id(&self) -> CodecId;

    /// Appends the body to `out`. Any bytes have a body, though it may be larger than they are.
    fn encode(&self, input: Input<'_>, scratch: &mut Scratch, out: &mut Vec<u8>);

    /// Fills all of `out`, whose length is that of the chunk, or fails and leaves anything in it.
    fn decode(&self, body: &[u8], base: Option<&[u8]>, scratch: &mut Scratch, out: &mut [u8])
    -> Result<(), CodecError>;
}

/// The codec of that id, or `None` if this version knows none.
pub fn by_id(id: CodecId) -> Option<&'static dyn Codec> {
    Some(match id {
        CodecId::RAW => &Raw,
        CodecId::PLANES => &Planes,
        CodecId::ZSTD => &Zstd,
        _ => return None,
    })
}

/// The word for a codec, for people.
pub fn name_of(id: CodecId) -> &'static str {
    match id {
        CodecId::RAW => "raw",
        CodecId::PLANES => "planes",
        CodecId::ZSTD => "zstd",
        _ => "unknown",
    }
}

/// Chooses a codec and appends the body that it makes to `out`: at most as many bytes as the chunk has.
pub fn encode(input: Input<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) -> CodecId {
    let start = out.len();
    if let Some(codec) = promising(input, scratch) {
        codec.encode(input, scratch, out);
        if pays(out.len() - start, input.bytes.len()) {
            return codec.id();
        }
        out.truncate(start);
    }
    Raw.encode(input, scratch, out);
    CodecId::RAW
}

/// Decodes a body of the codec `id` into all of `out`.
pub fn decode(
    id: CodecId,
    body: &[u8],
    base: Option<&[u8]>,
    scratch: &mut Scratch,
    out: &mut [u8],
) -> Result<(), CodecError> {
    by_id(id).ok_or(CodecError("a codec that this version does not know"))?.decode(body, base, scratch, out)
}

/// The codec that a look at a sample speaks for; `None` if the bytes look like noise.
fn promising(input: Input<'_>, scratch: &mut Scratch) -> Option<&'static dyn Codec> {
    match input.layout {
        Layout::Bytes => zstd::promises(input.bytes, scratch).then_some(&Zstd),
        Layout::Integer { .. } | Layout::Float { .. } => planes::promises(input, scratch).then_some(&Planes),
    }
}

/// Less than one byte in 64 is not worth decoding for: reading it raw is faster. zstd draws the line at the same place.
fn pays(encoded: usize, raw: usize) -> bool {
    encoded < raw - raw / 64
}
