//! A chunk becomes a frame, and is read back before anyone relies on it.

use crate::codec::{self, CodecId, Input, Scratch};
use crate::error::{Error, Result};
use crate::format::pack;
use crate::tensor::Layout;

/// Appends the frame of a chunk without a base, and makes sure that it can be decoded.
pub(crate) fn encode_frame(
    bytes: &[u8],
    layout: Layout,
    scratch: &mut Scratch,
    check: &mut Vec<u8>,
    frame: &mut Vec<u8>,
) -> Result<CodecId> {
    // The codec is not known yet; it takes one byte whatever it is.
    pack::put_frame_head(frame, CodecId(0), 0, &[]);
    let head = frame.len();
    let codec = codec::encode(Input { bytes, layout, base: None }, scratch, frame);
    frame[0] = codec.0;
    check.resize(bytes.len(), 0);
    let decoded = codec::decode(codec, &frame[head..], None, scratch, check);
    if decoded.is_err() || check != bytes {
        return Err(Error::Bug(format!("codec {} does not give back what it was given", codec.0)));
    }
    Ok(codec)
}
