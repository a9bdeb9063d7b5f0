//! A chunk becomes a frame, and is read back before anyone relies on it.

use super::FrameInfo;
use crate::codec::{self, Base, CodecId, Input, Scratch};
use crate::error::{Error, Result};
use crate::format::pack;
use crate::id::ChunkId;
use crate::tensor::Layout;

/// A chunk that another may be stored as a difference to.
#[derive(Debug)]
pub(crate) struct FrameBase<'a> {
    pub(crate) chunk: ChunkId,
    /// What is decoded to compare is decoded in their place.
    pub(crate) bytes: &'a mut [u8],
    /// Of the frame that it is read from.
    pub(crate) depth: u8,
    /// Bytes count, and time does not.
    pub(crate) small: bool,
}

/// Appends the frame of a chunk, with the base if that is of use, and makes sure that it can be decoded.
pub(crate) fn encode_frame(
    chunk: ChunkId,
    bytes: &[u8],
    layout: Layout,
    base: Option<FrameBase<'_>>,
    scratch: &mut Scratch,
    check: &mut Vec<u8>,
    frame: &mut Vec<u8>,
) -> Result<FrameInfo> {
    let mut info = FrameInfo { chunk, chunk_bytes: bytes.len() as u32, codec: CodecId(0), depth: 0, bases: Vec::new() };
    if let Some(base) = &base {
        (info.depth, info.bases) = (base.depth + 1, vec![base.chunk]);
    }
    // The codec is not known yet; it takes one byte whatever it is.
    let start = frame.len();
    pack::put_frame_head(frame, CodecId(0), info.depth, &info.bases);
    let head = frame.len();
    let small = base.as_ref().is_some_and(|base| base.small);
    let of = base.as_ref().map(|base| &*base.bytes);
    info.codec = codec::encode(Input { bytes, layout, base: of, small }, scratch, frame);
    let (base, check) = match base {
        Some(base) if codec::bases_of(info.codec) > 0 => (Base::InPlace, base.bytes),
        _ => (Base::None, codec::at_least(check, bytes.len())),
    };
    let decoded = codec::decode(info.codec, &frame[head..], base, scratch, check);
    if decoded.is_err() || check != bytes {
        return Err(Error::Bug(format!("codec {} does not give back what it was given", info.codec.0)));
    }
    if !info.bases.is_empty() && codec::bases_of(info.codec) == 0 {
        // Seldom: the base was looked at in vain, and the head is shorter without it.
        (info.depth, info.bases) = (0, Vec::new());
        let mut short = Vec::new();
        pack::put_frame_head(&mut short, info.codec, 0, &[]);
        frame.splice(start..head, short);
    }
    frame[start] = info.codec.0;
    Ok(info)
}
