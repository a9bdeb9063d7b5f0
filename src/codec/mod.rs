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
//! | 3 | [`Delta`] | differences to the elements of a base, coded by their odds given the exponents of the base |
//! | 4 | [`Cast`] | to which type the base is rounded |
//! | 5 | [`Patch`] | the few elements that are not those of the base |
//!
//! Each codec's module says exactly what its body is. A *zstd frame* is, wherever the word is used here, one frame as
//! in RFC 8878: with its magic number and its content size, without a dictionary; a checksum, if there is one, must be
//! right. Numbers are little-endian.

pub mod cast;
mod choose;
pub mod delta;
mod entropy;
mod kernel;
mod noise;
pub mod patch;
pub mod planes;
pub mod raw;
mod residual;
mod scratch;
#[cfg(test)]
mod tests;
mod transpose;
pub mod zstd;

use crate::tensor::Layout;

pub use cast::{Cast, is_cast};
pub use choose::encode;
pub use delta::Delta;
pub use patch::Patch;
pub use planes::Planes;
pub use raw::Raw;
pub use scratch::Scratch;
pub(crate) use scratch::at_least;
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
    /// The id of [`Delta`].
    pub const DELTA: CodecId = CodecId(3);
    /// The id of [`Cast`].
    pub const CAST: CodecId = CodecId(4);
    /// The id of [`Patch`].
    pub const PATCH: CodecId = CodecId(5);
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
    /// Bytes count, and time does not.
    pub small: bool,
}

/// Why a body could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(pub &'static str);

/// One way to write the bytes of a chunk. Choice, threads and framing are the caller's.
pub trait Codec: Sync {
    /// The number that frames know it by.
    fn id(&self) -> CodecId;

    /// Appends the body to `out`. Any bytes have a body, though it may be larger than they are. A codec that takes a
    /// base must be given one as long as the chunk.
    fn encode(&self, input: Input<'_>, scratch: &mut Scratch, out: &mut Vec<u8>);

    /// How many bases its frames have.
    fn bases(&self) -> usize {
        0
    }

    /// Fills all of `out`, whose length is that of the chunk, or fails and leaves anything in it. A codec without bases
    /// does not look at `base`.
    fn decode(&self, body: &[u8], base: Base<'_>, scratch: &mut Scratch, out: &mut [u8]) -> Result<(), CodecError>;
}

/// Where a decoder finds the bytes of the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base<'a> {
    /// There is none.
    None,
    /// Here.
    Bytes(&'a [u8]),
    /// Where the chunk is to be: a chain of differences is decoded in one buffer.
    InPlace,
}

impl Base<'_> {
    /// Puts the base where the chunk is to be.
    fn into_place(self, out: &mut [u8]) -> Result<(), CodecError> {
        match self {
            Base::InPlace => {}
            Base::Bytes(base) if base.len() == out.len() => out.copy_from_slice(base),
            Base::Bytes(_) => return Err(CodecError("a base of another length")),
            Base::None => return Err(CodecError("a difference without a base")),
        }
        Ok(())
    }
}

/// The codec of that id, or `None` if this version knows none.
pub fn by_id(id: CodecId) -> Option<&'static dyn Codec> {
    Some(match id {
        CodecId::RAW => &Raw,
        CodecId::PLANES => &Planes,
        CodecId::ZSTD => &Zstd,
        CodecId::DELTA => &Delta,
        CodecId::CAST => &Cast,
        CodecId::PATCH => &Patch,
        _ => return None,
    })
}

/// How many bases the frames of a codec have.
pub fn bases_of(id: CodecId) -> usize {
    by_id(id).map_or(0, Codec::bases)
}

/// The word for a codec, for people.
pub fn name_of(id: CodecId) -> &'static str {
    match id {
        CodecId::RAW => "raw",
        CodecId::PLANES => "planes",
        CodecId::ZSTD => "zstd",
        CodecId::DELTA => "delta",
        CodecId::CAST => "cast",
        CodecId::PATCH => "patch",
        _ => "unknown",
    }
}

/// How the elements of a chunk are seen that has this body: what its tensor's type said when it was encoded, as far as
/// the body tells.
pub fn layout_of(id: CodecId, body: &[u8]) -> Layout {
    match id {
        CodecId::PLANES => planes::layout_of(body),
        CodecId::DELTA => delta::layout_of(body),
        CodecId::CAST => cast::layout_of(body),
        CodecId::PATCH => patch::layout_of(body),
        _ => Layout::Bytes,
    }
}

/// Decodes a body of the codec `id` into all of `out`.
pub fn decode(
    id: CodecId,
    body: &[u8],
    base: Base<'_>,
    scratch: &mut Scratch,
    out: &mut [u8],
) -> Result<(), CodecError> {
    by_id(id).ok_or(CodecError("a codec that this version does not know"))?.decode(body, base, scratch, out)
}

/// Less than one byte in 64 is not worth decoding for: reading it raw is faster. zstd draws the line at the same place.
fn pays(encoded: usize, raw: usize) -> bool {
    encoded < raw - raw / 64
}
