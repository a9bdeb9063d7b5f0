//! The end of the pipeline: what is new goes into packs, and the manifest is put together.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::encode::{Done, Outcome, Shared};
use crate::chunk;
use crate::codec::{CodecId, Scratch};
use crate::error::{Error, Result};
use crate::format::entry::Sizes;
use crate::format::manifest::{BLOCK_TENSORS, Block, Stored};
use crate::format::pack;
use crate::id::{ChunkId, PackId};
use crate::store::{FrameInfo, PackSet, PackWriter, encode_frame, put_bytes, stored_as};
use crate::tensor::Layout;

/// At a component's border a pack is closed already from this size on, so that dropping a component drops packs.
const BORDER_BYTES: u64 = 8 << 20;

/// Sees what became of each piece, in order.
pub(super) struct Writer<'a> {
    shared: &'a Shared<'a>,
    reference: Option<&'a PackSet>,
    pub(super) packs: PackWriter,
    pub(super) sizes: Sizes,
    /// Packs of other saves that hold chunks of this one.
    pub(super) needs: BTreeSet<PackId>,
    /// Each part, as it is stored.
    stored: Vec<Option<Stored>>,
    /// The chunks of each part instead, where another process puts them together.
    shares: Option<Vec<Vec<(ChunkId, u32)>>>,
    /// The part that was seen last.
    part: usize,
    recipe: Vec<(ChunkId, u32)>,
    scratch: Scratch,
    check: Vec<u8>,
}

impl<'a> Writer<'a> {
    /// With `in_shares`, the chunks of each part are for another process to put together.
    pub(super) fn new(
        shared: &'a Shared<'a>,
        reference: Option<&'a PackSet>,
        packs: PackWriter,
        in_shares: bool,
    ) -> Writer<'a> {
        Writer {
            shared,
            reference,
            packs,
            sizes: Sizes::default(),
            needs: BTreeSet::new(),
            stored: vec![None; shared.parts.len()],
            shares: in_shares.then(|| vec![Vec::new(); shared.parts.len()]),
            part: 0,
            recipe: Vec::new(),
            scratch: Scratch::default(),
            check: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, done: Done) -> Result<()> {
        let parts = self.shared.parts;
        let part = &parts[done.part];
        if part.group != parts[self.part].group {
            self.packs.border(BORDER_BYTES)?;
        }
        self.part = done.part;
        let length = u64::from(done.length);
        self.sizes.raw += length;
        match done.outcome {
            Outcome::Unchanged => {
                self.sizes.unchanged += length;
                self.need(done.chunk, self.reference)?;
            }
            Outcome::Known => {
                self.sizes.deduplicated += length;
                self.need(done.chunk, self.reference)?;
            }
            Outcome::Elsewhere(packs) => {
                self.sizes.deduplicated += length;
                self.needs.extend(packs.iter().map(|pack| pack.pack));
            }
            // Two workers may have met the same bytes at the same time: the first in order counts.
            Outcome::New(info, frame) if self.shared.claim(done.chunk, info.depth) => {
                self.sizes.deduplicated += length;
                self.shared.recycle(frame);
            }
            Outcome::New(mut info, mut frame) => {
                self.sizes.encoded += length;
                if info.codec == CodecId::CAST {
                    self.settle_depth(&mut info, &mut frame);
                }
                let bases = if info.codec == CodecId::CAST { self.reference } else { self.shared.bases() };
                info.bases.iter().try_for_each(|base| self.need(*base, bases))?;
                self.packs.put(info, &frame)?;
                self.shared.recycle(frame);
            }
        }
        self.recipe.push((done.chunk, done.length));
        if done.last { self.end_part(done.part) } else { Ok(()) }
    }

    /// Stores a byte string of the manifest.
    pub(super) fn put_bytes(&mut self, bytes: &[u8]) -> Result<Stored> {
        put_bytes(bytes, |chunk| self.put_chunk(chunk))
    }

    /// Stores the ids of a component's tensors; returns the blocks.
    pub(super) fn put_blocks(&mut self, tensors: &[Stored]) -> Result<Vec<ChunkId>> {
        let block = |tensors: &[Stored]| Block(tensors.iter().map(|t| (t.recipe, t.id)).collect()).encode();
        tensors.chunks(BLOCK_TENSORS).map(|tensors| self.put_chunk(&block(tensors))).collect()
    }

    /// Each part, as it is stored; once all of them were seen.
    pub(super) fn stored(&self) -> Result<Vec<Stored>> {
        let all: Option<Vec<Stored>> = self.stored.iter().copied().collect();
        all.ok_or_else(|| Error::Bug("a part that was not stored".into()))
    }

    /// One more than that of the base, which is in this save's packs by now, or else was there before.
    fn settle_depth(&self, info: &mut FrameInfo, frame: &mut [u8]) {
        let known = |base: &ChunkId| {
            let before = || self.reference.and_then(|set| set.how_stored(*base)).map(|how| how.depth);
            self.shared.depth_written(*base).or_else(before).unwrap_or(pack::DEPTH_MAX - 1)
        };
        info.depth = 1 + info.bases.iter().map(known).max().unwrap_or(0).min(pack::DEPTH_MAX - 1);
        frame[pack::DEPTH_AT] = info.depth;
    }

    fn end_part(&mut self, part: usize) -> Result<()> {
        let recipe = std::mem::take(&mut self.recipe);
        if let Some(shares) = &mut self.shares {
            // A part without bytes has one piece, which is no chunk.
            shares[part] = recipe.into_iter().filter(|(_, length)| *length > 0).collect();
            return Ok(());
        }
        let length = self.shared.parts[part].length;
        self.stored[part] = Some(self.put_recipe(recipe, length)?);
        Ok(())
    }

    /// A byte string whose chunks are stored.
    pub(super) fn put_recipe(&mut self, recipe: Vec<(ChunkId, u32)>, bytes: u64) -> Result<Stored> {
        stored_as(recipe, bytes, |chunk| self.put_chunk(chunk))
    }

    /// The chunks of each part; once all of them were seen.
    pub(super) fn take_shares(&mut self) -> Vec<Vec<(ChunkId, u32)>> {
        self.shares.take().unwrap_or_default()
    }

    fn put_chunk(&mut self, bytes: &[u8]) -> Result<ChunkId> {
        if bytes.len() > chunk::MAX {
            let limit = format!("{} bytes", chunk::MAX);
            return Err(Error::Limit { what: format!("a part of the manifest of {} bytes", bytes.len()), limit });
        }
        let id = ChunkId::of(bytes);
        if self.reference.is_some_and(|set| set.contains(id)) {
            self.need(id, self.reference)?;
        } else if !self.shared.claim(id, 0) {
            let mut frame = Vec::with_capacity(bytes.len() + 16);
            let info = encode_frame(id, bytes, Layout::Bytes, None, &mut self.scratch, &mut self.check, &mut frame)?;
            self.packs.put(info, &frame)?;
        }
        Ok(id)
    }

    /// The chunk is in these packs, if it is not in this save's: they stay needed, those of its bases included.
    fn need(&mut self, chunk: ChunkId, set: Option<&PackSet>) -> Result<()> {
        let Some(set) = set.filter(|set| set.contains(chunk)) else { return Ok(()) };
        match set.bases_of(chunk) {
            [] => self.needs.extend(set.pack_of(chunk)),
            _ => self.needs.extend(set.packs_for([chunk])?),
        }
        Ok(())
    }

    /// The chunks in this save's packs.
    pub(super) fn into_packs(self) -> PackWriter {
        drop(self.shared.written.lock().unwrap_or_else(PoisonError::into_inner));
        self.packs
    }
}
