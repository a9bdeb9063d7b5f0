//! Which codec writes a chunk.
//!
//! Without a base, a look at a sample tells numbers from noise. With one, what a difference would take is counted
//! over the whole chunk, which encoding it begins with anyway; the other codecs are judged by the sample.

use super::{Codec, CodecId, Delta, Input, Patch, Planes, Raw, Scratch, Zstd, delta, patch, pays, planes, zstd};
use crate::tensor::Layout;

/// Chooses a codec and appends the body that it makes to `out`: at most as many bytes as the chunk has. A base that is
/// no help is not used: then the codec that is returned has none.
pub fn encode(input: Input<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) -> CodecId {
    let start = out.len();
    let patch = patch::promises(input);
    if patch.is_some_and(|bytes| bytes <= SMALL.min(input.bytes.len() as u64 / 2)) {
        Patch.encode(input, scratch, out);
        return Patch.id();
    }
    let alone = alone(input, scratch);
    let bytes_alone = alone.map_or(input.bytes.len() as u64, |(_, bytes)| bytes);
    let plan = delta::plan(input, scratch);
    let bytes_delta = plan.as_ref().map_or(u64::MAX, |plan| plan.bytes);
    if patch.is_some_and(|bytes| bytes <= bytes_delta && beats(bytes, bytes_alone)) {
        Patch.encode(input, scratch, out);
        return Patch.id();
    }
    if let Some(plan) = plan.filter(|plan| beats(plan.bytes, bytes_alone)) {
        plan.encode(input, scratch, out);
        if pays(out.len() - start, input.bytes.len()) {
            return Delta.id();
        }
        out.truncate(start);
    }
    if let Some((codec, _)) = alone {
        codec.encode(input, scratch, out);
        if pays(out.len() - start, input.bytes.len()) {
            return codec.id();
        }
        out.truncate(start);
    }
    Raw.encode(input, scratch, out);
    CodecId::RAW
}

/// The codec without a base that a look at a sample speaks for, and about what it would take; `None` if the bytes look
/// like noise.
fn alone(input: Input<'_>, scratch: &mut Scratch) -> Option<(&'static dyn Codec, u64)> {
    let planes = match input.layout {
        Layout::Bytes => None,
        Layout::Integer { .. } | Layout::Float { .. } => planes::promises(input, scratch),
    };
    let zstd = match input.layout {
        Layout::Bytes | Layout::Integer { .. } => zstd::promises(input.bytes, scratch),
        Layout::Float { .. } => None,
    };
    match (planes, zstd) {
        // Of integers, what repeats itself.
        (Some(planes), Some(zstd)) if zstd < planes / 2 => Some((&Zstd, zstd)),
        (Some(planes), _) => Some((&Planes, planes)),
        (None, zstd) => zstd.map(|bytes| (&Zstd as &dyn Codec, bytes)),
    }
}

/// A patch of so few bytes is taken without a look at anything else, as long as the chunk has more.
const SMALL: u64 = 64;

/// A difference has to be smaller by a hundredth: it costs its readers the base.
fn beats(delta: u64, alone: u64) -> bool {
    delta < alone - alone / 100
}
