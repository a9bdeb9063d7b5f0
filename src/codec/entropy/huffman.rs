//! One zstd frame out of bytes of a known length, and back.
//!
//! Frames are written and read in one piece: the reader needs no window of its own, whatever window a frame asks for,
//! and never looks past the bytes it was given. The frame always ends where its slice ends, and says the length that
//! the reader expects; two frames in a row, a skippable frame or another length are refused before anything is decoded.

use std::cell::Cell;

use ::zstd::zstd_safe::{self, CCtx, CParameter, DCtx, ParamSwitch};

use crate::codec::CodecError;
use crate::codec::scratch::at_least;

/// The fastest that zstd has. It steps over so much between two looks for a match that hardly more than its Huffman
/// stage is left, which is what the planes want.
const NO_MATCHES: i32 = -131_072;

const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

thread_local! {
    /// Left by the last reader of this thread. To make one, zstd asks the processor what it can do, which a virtual
    /// machine takes longer to answer than most frames take to decode.
    static SPARE: Cell<Option<DCtx<'static>>> = const { Cell::new(None) };
}

/// Writes frames at one level.
pub(crate) struct Compressor {
    level: i32,
    /// Made when it is first needed: it is large, and many a reader of small things needs none.
    context: Option<CCtx<'static>>,
    frame: Vec<u8>,
}

impl Compressor {
    /// Codes symbols by how often they occur.
    pub(crate) fn of_entropy() -> Compressor {
        Compressor::of_level(NO_MATCHES)
    }

    /// Finds repetitions as well.
    pub(crate) fn of_matches() -> Compressor {
        Compressor::of_level(1)
    }

    fn of_level(level: i32) -> Compressor {
        Compressor { level, context: None, frame: Vec::new() }
    }

    /// The frame of `bytes`, valid until the next call.
    pub(crate) fn compress(&mut self, bytes: &[u8]) -> &[u8] {
        // Always the whole bound: a tighter buffer could change what is written into it.
        let frame = at_least(&mut self.frame, zstd_safe::compress_bound(bytes.len()));
        let context = self.context.get_or_insert_with(|| context_of(self.level));
        let len = context.compress2(frame, bytes).expect("a frame within zstd's own bound");
        &frame[..len]
    }
}

fn context_of(level: i32) -> CCtx<'static> {
    let mut context = CCtx::create();
    // Below level 0 zstd would leave literals as they are if not told otherwise.
    let literals = CParameter::LiteralCompressionMode(ParamSwitch::Enable);
    for parameter in [CParameter::CompressionLevel(level), literals] {
        context.set_parameter(parameter).expect("zstd has this parameter");
    }
    context
}

/// Reads frames.
pub(crate) struct Decompressor {
    context: Option<DCtx<'static>>,
}

impl Decompressor {
    pub(crate) fn new() -> Decompressor {
        Decompressor { context: None }
    }

    /// Decodes the one frame that `frame` is into all of `out`.
    pub(crate) fn decompress(&mut self, frame: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
        if !frame.starts_with(&MAGIC) {
            return Err(CodecError("not a zstd frame"));
        }
        if zstd_safe::find_frame_compressed_size(frame).map_err(zstd_says)? != frame.len() {
            return Err(CodecError("bytes behind a zstd frame"));
        }
        match zstd_safe::get_frame_content_size(frame) {
            Ok(Some(len)) if len == out.len() as u64 => {}
            _ => return Err(CodecError("a zstd frame of another length than its contents")),
        }
        let context = self.context.get_or_insert_with(|| SPARE.take().unwrap_or_else(DCtx::create));
        match context.decompress(out, frame).map_err(zstd_says)? {
            len if len == out.len() => Ok(()),
            _ => Err(CodecError("a zstd frame that ends too soon")),
        }
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        if self.context.is_some() {
            // A thread that ends has none to leave it to.
            let _ = SPARE.try_with(|spare| spare.set(self.context.take()));
        }
    }
}

fn zstd_says(code: usize) -> CodecError {
    CodecError(zstd_safe::get_error_name(code))
}
