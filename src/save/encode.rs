//! From a piece of input to a frame: read, hash, compare, encode, decode again, compare.
//!
//! Bytes are read once. They are hashed while they are warm, and only a chunk that is nowhere yet is encoded; what was
//! encoded is decoded again before anyone relies on it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::base;
use super::cut::{Part, Piece};
use super::ingest::Bytes;
use crate::catalog::PackRow;
use crate::error::{Error, Result};
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
    pub(super) lookup: Option<&'a Lookup>,
    /// Frames to decode before one of this save, at most.
    depth_max: u8,
    /// Chunks of this save that are in its packs already.
    pub(super) written: Mutex<HashSet<ChunkId>>,
    spare: Mutex<Vec<Vec<u8>>>,
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
        lookup: Option<&'a Lookup>,
        depth_max: u8,
    ) -> Shared<'a> {
        Shared { parts, reference, lookup, depth_max, written: Mutex::default(), spare: Mutex::default() }
    }

    /// Takes back the buffer of a frame that was written.
    pub(super) fn recycle(&self, mut frame: Vec<u8>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            frame.clear();
            spare.push(frame);
        }
    }

    /// True if the chunk is in this save's packs already; if not, it is from now on.
    pub(super) fn claim(&self, chunk: ChunkId) -> bool {
        !self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(chunk)
    }

    fn is_written(&self, chunk: ChunkId) -> bool {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).contains(&chunk)
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
                let Worker { check, base, tool, .. } = worker;
                let base = piece.expected.and_then(|counterpart| self.read_base(counterpart, bytes.len(), tool, base));
                let mut frame = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
                let info = encode_frame(chunk, bytes, part.layout, base, &mut tool.scratch, check, &mut frame)?;
                Outcome::New(info, frame)
            }
        };
        Ok(Done { part: piece.part, last: piece.last, chunk, length: piece.length, outcome })
    }

    /// Looks for the chunk, from the cheapest place to the dearest.
    fn find(&self, chunk: ChunkId, bytes: &[u8], expected: Option<ChunkId>) -> Result<Option<Outcome>> {
        if expected == Some(chunk) {
            return Ok(Some(Outcome::Unchanged));
        }
        if bytes.is_empty() || self.reference.is_some_and(|set| set.contains(chunk)) || self.is_written(chunk) {
            return Ok(Some(Outcome::Known));
        }
        let Some(lookup) = self.lookup else { return Ok(None) };
        Ok(lookup.find(chunk, bytes.len() as u32)?.map(Outcome::Elsewhere))
    }

    /// The base that a chunk is compared with, given what the reference has in its place. One that cannot be read is
    /// none: the chunk is then stored without.
    fn read_base<'b>(
        &self,
        counterpart: ChunkId,
        length: usize,
        tool: &mut ChunkTool,
        buffer: &'b mut Vec<u8>,
    ) -> Option<FrameBase<'b>> {
        let set = self.reference?;
        let (chunk, depth) = base::choose(set, counterpart, self.depth_max)?;
        if set.how_stored(chunk)?.chunk_bytes as usize != length {
            return None;
        }
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        set.read(chunk, tool, &mut buffer[..length]).ok()?;
        Some(FrameBase { chunk, bytes: &buffer[..length], depth })
    }
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
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    let bytes = &mut buffer[..length];
    let mut hasher = blake3::Hasher::new();
    for (n, step) in bytes.chunks_mut(STEP_BYTES).enumerate() {
        from.read_exact_at(step, offset + (n * STEP_BYTES) as u64)?;
        hasher.update(step);
    }
    Ok((ChunkId(*hasher.finalize().as_bytes()), bytes))
}
