//! From a piece of input to a frame: read, hash, compare, encode, decode again, compare.
//!
//! Bytes are read once. They are hashed while they are warm, and only a chunk that is nowhere yet is encoded; what was
//! encoded is decoded again before anyone relies on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::cut::{Part, Piece};
use super::ingest::Bytes;
use super::trial::Trials;
use super::{Encoding, base};
use crate::catalog::PackRow;
use crate::codec::{Cast, Codec, CodecId, Input, Scratch, at_least, is_cast};
use crate::error::{Error, Result};
use crate::format::pack;
use crate::id::ChunkId;
use crate::store::{ChunkTool, FrameBase, FrameInfo, Lookup, PackSet, encode_frame};

/// Input is read and hashed in steps of this size: small enough to stay in a core's own cache in between.
const STEP_BYTES: usize = 128 << 10;
/// Frames that wait for reuse, at most.
const SPARE_MAX: usize = 64;

/// What became of a piece.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) part: usize,
    pub(super) last: bool,
    pub(super) chunk: ChunkId,
    pub(super) length: u32,
    pub(super) outcome: Outcome,
}

/// Where its chunk is.
#[derive(Debug)]
pub(super) enum Outcome {
    /// In the reference, at the same place.
    Unchanged,
    /// In the reference, elsewhere, or earlier in this save.
    Known,
    /// In other packs of the store: its own, and those of its bases.
    Elsewhere(Vec<PackRow>),
    /// Here.
    New(FrameInfo, Vec<u8>),
}

/// What all workers look at.
pub(super) struct Shared<'a> {
    pub(super) parts: &'a [Part<'a>],
    pub(super) reference: Option<&'a PackSet>,
    /// Where bases are taken from, if not from the reference.
    anchor: Option<&'a PackSet>,
    trials: Option<Trials<'a>>,
    pub(super) lookup: Option<&'a Lookup>,
    encoding: Encoding,
    /// Chunks of this save that are in its packs already, each with its depth.
    pub(super) written: Mutex<HashMap<ChunkId, u8>>,
    spare: Mutex<Vec<Vec<u8>>>,
    /// Bytes of bases that were not read from packs.
    in_memory: AtomicU64,
}

/// What each worker has for itself.
#[derive(Default)]
pub(super) struct Worker {
    input: Vec<u8>,
    check: Vec<u8>,
    base: Vec<u8>,
    tool: ChunkTool,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        parts: &'a [Part<'a>],
        reference: Option<&'a PackSet>,
        anchor: Option<&'a PackSet>,
        trials: Option<Trials<'a>>,
        lookup: Option<&'a Lookup>,
        encoding: Encoding,
    ) -> Shared<'a> {
        let (written, spare, in_memory) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Shared { parts, reference, anchor, trials, lookup, encoding, written, spare, in_memory }
    }

    /// Takes back the buffer of a frame that was written.
    pub(super) fn recycle(&self, mut frame: Vec<u8>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            frame.clear();
            spare.push(frame);
        }
    }

    /// Bytes of bases that a caller's memory had.
    pub(super) fn bases_in_memory(&self) -> u64 {
        self.in_memory.load(Ordering::Relaxed)
    }

    /// The chunks that bases are taken from.
    pub(super) fn bases(&self) -> Option<&'a PackSet> {
        self.anchor.or(self.reference)
    }

    /// True if the chunk is in this save's packs already; if not, it is from now on, at this depth.
    pub(super) fn claim(&self, chunk: ChunkId, depth: u8) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let known = written.contains_key(&chunk);
        if !known {
            written.insert(chunk, depth);
        }
        known
    }

    /// The depth of a chunk of this save's packs.
    pub(super) fn depth_written(&self, chunk: ChunkId) -> Option<u8> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).get(&chunk).copied()
    }

    fn is_written(&self, chunk: ChunkId) -> bool {
        self.depth_written(chunk).is_some()
    }

    pub(super) fn work(&self, worker: &mut Worker, piece: Piece) -> Result<Done> {
        let part = &self.parts[piece.part];
        let (chunk, bytes) = match &piece.bytes {
            Some(bytes) => (ChunkId::of(bytes), &bytes[..]),
            None => read_and_hash(part.bytes, piece.offset, piece.length as usize, &mut worker.input)?,
        };
        let outcome = match self.find(chunk, bytes, piece.expected)? {
            Some(found) => found,
            None => {
                if let Some((info, frame)) = self.as_cast(chunk, bytes, &piece, part, &mut worker.base)? {
                    let outcome = Outcome::New(info, frame);
                    return Ok(Done { part: piece.part, last: piece.last, chunk, length: piece.length, outcome });
                }
                let Worker { check, base, tool, .. } = worker;
                let base = self.base_of(&piece, part, tool, base);
                let mut frame = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
                let info = encode_frame(chunk, bytes, part.layout, base, &mut tool.scratch, check, &mut frame)?;
                Outcome::New(info, frame)
            }
        };
        Ok(Done { part: piece.part, last: piece.last, chunk, length: piece.length, outcome })
    }

    /// Looks for the chunk, from the cheapest place to the dearest.
    fn find(&self, chunk: ChunkId, bytes: &[u8], expected: Option<ChunkId>) -> Result<Option<Outcome>> {
        if expected == Some(chunk) && self.reference.is_some_and(|set| set.contains(chunk)) {
            return Ok(Some(Outcome::Unchanged));
        }
        if bytes.is_empty() || self.reference.is_some_and(|set| set.contains(chunk)) || self.is_written(chunk) {
            return Ok(Some(Outcome::Known));
        }
        let Some(lookup) = self.lookup else { return Ok(None) };
        Ok(lookup.find(chunk, bytes.len() as u32)?.map(Outcome::Elsewhere))
    }

    /// The frame of a chunk that is the cast of another of this checkpoint. Its depth is not known yet: it depends on how
    /// the other is stored.
    fn as_cast(
        &self,
        chunk: ChunkId,
        bytes: &[u8],
        piece: &Piece,
        part: &Part<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<(FrameInfo, Vec<u8>)>> {
        let Some((source, offset)) = piece.cast_of else { return Ok(None) };
        let (source, base) = read_and_hash(self.parts[source].bytes, offset, 2 * bytes.len(), buffer)?;
        if !is_cast(bytes, part.layout, base) {
            return Ok(None);
        }
        let (codec, depth, bases) = (CodecId::CAST, 1, vec![source]);
        let mut frame = Vec::new();
        pack::put_frame_head(&mut frame, codec, depth, &bases);
        Cast.encode(
            Input { bytes, layout: part.layout, base: Some(base), small: false },
            &mut Scratch::default(),
            &mut frame,
        );
        Ok(Some((FrameInfo { chunk, chunk_bytes: bytes.len() as u32, codec, depth, bases }, frame)))
    }

    /// The base that a chunk is compared with. One that cannot be read is none: the chunk is then stored without.
    fn base_of<'b>(
        &'b self,
        piece: &Piece,
        part: &Part<'b>,
        tool: &mut ChunkTool,
        buffer: &'b mut Vec<u8>,
    ) -> Option<FrameBase<'b>> {
        let set = self.bases()?;
        let (chunk, depth) = base::choose(set, piece.base?, self.encoding)?;
        let length = piece.length as usize;
        if set.how_stored(chunk)?.chunk_bytes as usize != length {
            return None;
        }
        // The root of a chain was of use before; a counterpart without a base may never have been.
        let unproven = depth == 0 && piece.expected == Some(chunk);
        if unproven && self.trials.as_ref().is_some_and(|trials| !trials.is_due(part, chunk)) {
            return None;
        }
        let bytes = at_least(buffer, length);
        if before(piece, part, chunk, bytes) {
            self.in_memory.fetch_add(length as u64, Ordering::Relaxed);
        } else {
            set.read(chunk, tool, bytes).ok()?;
        }
        Some(FrameBase { chunk, bytes, depth, small: self.encoding == Encoding::Small })
    }
}

/// True if a caller's memory has the chunk of the reference at a piece's place, which then is in `out`. What has its hash
/// is the chunk, whoever wrote to that memory meanwhile; all else is not.
fn before(piece: &Piece, part: &Part<'_>, chunk: ChunkId, out: &mut [u8]) -> bool {
    let start = (piece.offset - part.offset) as usize;
    let there = part.before.and_then(|all| all.get(start..start + out.len()));
    // Of another place, such as a chain's root, the memory is not.
    let Some(there) = there.filter(|_| piece.expected == Some(chunk)) else { return false };
    out.copy_from_slice(there);
    ChunkId::of(out) == chunk
}

fn read_and_hash<'b>(
    from: &'b Bytes<'_>,
    offset: u64,
    length: usize,
    buffer: &'b mut Vec<u8>,
) -> Result<(ChunkId, &'b [u8])> {
    if let Some(slice) = from.slice() {
        let start = offset as usize;
        let bytes = slice.get(start..start + length).ok_or_else(|| Error::Bug("a piece outside its input".into()))?;
        return Ok((ChunkId::of(bytes), bytes));
    }
    let bytes = at_least(buffer, length);
    // Who is asked for pieces is asked once for each.
    let step_bytes = if matches!(from, Bytes::File(_)) { STEP_BYTES } else { length.max(1) };
    let mut hasher = blake3::Hasher::new();
    for (n, step) in bytes.chunks_mut(step_bytes).enumerate() {
        from.read_exact_at(step, offset + (n * step_bytes) as u64)?;
        hasher.update(step);
    }
    Ok((ChunkId(*hasher.finalize().as_bytes()), bytes))
}
