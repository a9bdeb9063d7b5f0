//! Reading tensors into memory that the caller has: no file, and no copy in between.
//!
//! A [`Window`] is a stretch of a tensor and the memory for it. Many windows are read at once, chunk by chunk on all
//! threads; a chunk that lies whole in its window is decoded right where it is wanted. Only the chunks that a window
//! touches are read. A tensor that is stored in boxes is read box by box, and put in order from there.

use std::ops::Range;

use super::Checkpoint;
use crate::chunk;
use crate::error::{Error, Result};
use crate::format::names;
use crate::id::ChunkId;
use crate::monitor::Unit;
use crate::parallel;
use crate::store::{ChunkTool, PackSet};
use crate::tensor::TensorMeta;
use crate::tensor::boxes::{Runs, TensorBox};

/// Bytes of a tensor that are put in order at a time, at most: where a stretch ends, the chunks of all boxes are read twice.
const STRETCH_BYTES_MAX: usize = 64 << 20;

/// A stretch of a tensor's bytes, and where they are to go.
#[derive(Debug)]
pub struct Window<'a> {
    /// The tensor, by its place in [`Checkpoint::metas`].
    pub tensor: usize,
    /// The first byte that is wanted.
    pub start: u64,
    /// Filled with the bytes from there on.
    pub bytes: &'a mut [u8],
}

impl Checkpoint {
    /// Fills all windows. Every chunk is checked; if one is damaged, this fails, and the windows hold nothing of use.
    ///
    /// ```
    /// # use treering::save::{Inputs, MemoryTensor, SaveOptions};
    /// # use treering::tensor::{DType, TensorMeta};
    /// use treering::Store;
    /// use treering::restore::Window;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let store = Store::create(folder.path().join("store"), None, Default::default())?;
    /// # let meta = TensorMeta { name: "w".into(), dtype: DType::new("U8"), shape: vec![8], bytes: 8 };
    /// # let inputs = Inputs::tensors(vec![(None, MemoryTensor { meta, bytes: b"12345678" })])?;
    /// # store.save(&inputs, &SaveOptions { run: "mnist".into(), step: 1, ..Default::default() })?;
    /// let checkpoint = store.checkpoint(&"mnist@1".parse()?)?;
    /// let (mut whole, mut part) = ([0; 8], [0; 3]);
    /// checkpoint.read_into(vec![
    ///     Window { tensor: 0, start: 0, bytes: &mut whole },
    ///     Window { tensor: 0, start: 2, bytes: &mut part },
    /// ])?;
    /// assert_eq!((&whole, &part), (b"12345678", b"345"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_into(&self, windows: Vec<Window<'_>>) -> Result<()> {
        self.reading(windows, |windows| {
            let (boxed, plain): (Vec<_>, Vec<_>) = windows.into_iter().partition(|w| !self.boxes(w.tensor).is_empty());
            self.fill(plain)?;
            boxed.into_iter().try_for_each(|window| self.gather(window))
        })
    }

    /// The same in the order in which tensors are stored: [`Window::start`] counts the bytes of a tensor's boxes, one
    /// box after the other.
    pub fn read_boxes_into(&self, windows: Vec<Window<'_>>) -> Result<()> {
        self.reading(windows, |windows| self.fill(windows))
    }

    /// The boxes of a tensor, by its place in [`Checkpoint::metas`], in the order in which they are stored. None if its
    /// bytes are in row-major order: it was saved by one process, or sharded by rows.
    pub fn boxes(&self, tensor: usize) -> &[TensorBox] {
        self.manifest.schema.tensors.get(tensor).map_or(&[], |tensor| &tensor.boxes)
    }

    /// The id of each tensor, in the order of [`Checkpoint::metas`]: equal ids are equal bytes. `None` in a component
    /// that was dropped.
    pub fn ids(&self) -> impl Iterator<Item = Option<ChunkId>> + '_ {
        let each = self.tensors.iter().zip(&self.manifest.schema.tensors);
        each.map(|(stored, tensor)| stored.map(|stored| tensor.id_of(&stored)))
    }

    fn reading<'w>(&self, windows: Vec<Window<'w>>, read: impl FnOnce(Vec<Window<'w>>) -> Result<()>) -> Result<()> {
        let total = windows.iter().map(|window| window.bytes.len() as u64).sum();
        self.store.monitor().begin("reading", Some(total), Unit::Bytes);
        let done = read(windows);
        self.store.monitor().end();
        self.told(done)
    }

    /// Fills windows with bytes as they are stored.
    fn fill(&self, windows: Vec<Window<'_>>) -> Result<()> {
        let chunks = &self.manifest.chunks;
        let mut jobs = Jobs { checkpoint: self, windows: windows.into_iter(), tool: ChunkTool::default(), open: None };
        let threads = self.store.threads();
        parallel::ordered(
            threads,
            4 * threads,
            || self.store.check_stop().and_then(|()| jobs.next()),
            || (ChunkTool::default(), Vec::new()),
            |(tool, buffer), job| {
                self.store.monitor().advance(job.out.len() as u64);
                job.run(chunks, tool, buffer)
            },
            |()| Ok(()),
        )
    }

    /// Fills a window of a tensor that is stored in boxes.
    fn gather(&self, window: Window<'_>) -> Result<()> {
        let Window { tensor, start, bytes } = window;
        let meta = &self.manifest.schema.tensors[tensor].meta;
        if start.checked_add(bytes.len() as u64).is_none_or(|end| end > meta.bytes) {
            return Err(outside(meta, start, bytes.len()));
        }
        let boxes = self.boxes(tensor).iter().map(|of| Runs::new(of, meta)).collect::<Option<Vec<Runs>>>();
        let boxes = boxes.ok_or_else(|| Error::Bug("a box outside its tensor".into()))?;
        let mut buffer = Vec::new();
        for (out, start) in bytes.chunks_mut(self.stretch_bytes()).zip((start..).step_by(self.stretch_bytes())) {
            self.gather_stretch(tensor, &boxes, start, out, &mut buffer)?;
        }
        Ok(())
    }

    /// Reads what all boxes have of a stretch, at once and on all threads, and puts it in order.
    fn gather_stretch(
        &self,
        tensor: usize,
        boxes: &[Runs],
        start: u64,
        out: &mut [u8],
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        buffer.resize(out.len(), 0);
        let stretch = start..start + out.len() as u64;
        let wanted: Vec<Range<u64>> = boxes.iter().map(|runs| runs.within(&stretch)).collect();
        let (mut windows, mut rest, mut stored_at) = (Vec::new(), &mut buffer[..], 0);
        for (runs, part) in boxes.iter().zip(&wanted) {
            let (bytes, after) = rest.split_at_mut((part.end - part.start) as usize);
            windows.push(Window { tensor, start: stored_at + part.start, bytes });
            (rest, stored_at) = (after, stored_at + runs.bytes());
        }
        self.fill(windows)?;
        let mut rest = &buffer[..];
        for (at, length) in boxes.iter().zip(wanted).flat_map(|(runs, part)| runs.pieces(part)) {
            let (piece, after) = rest.split_at(length as usize);
            out[(at - start) as usize..][..piece.len()].copy_from_slice(piece);
            rest = after;
        }
        Ok(())
    }

    /// Bytes of a tensor that are put in order at a time: they are in memory twice.
    fn stretch_bytes(&self) -> usize {
        (self.store.options().memory_bytes / 4).clamp(chunk::MAX, STRETCH_BYTES_MAX)
    }

    /// Passes the bytes of a tensor that is stored in boxes to `sink`, in order, with the place of each stretch.
    pub(super) fn in_order(&self, tensor: usize, sink: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let total = self.manifest.schema.tensors[tensor].meta.bytes;
        let mut buffer = Vec::new();
        for start in (0..total).step_by(self.stretch_bytes()) {
            buffer.resize((total - start).min(self.stretch_bytes() as u64) as usize, 0);
            self.gather(Window { tensor, start, bytes: &mut buffer })?;
            sink(start, &buffer)?;
        }
        Ok(())
    }

    /// For each tensor, the earlier one that it was saved as the same memory of.
    pub fn ties(&self) -> impl Iterator<Item = Option<usize>> + '_ {
        self.manifest.schema.tensors.iter().map(|tensor| tensor.alias.map(|alias| alias as usize))
    }
}

fn outside(meta: &TensorMeta, start: u64, length: usize) -> Error {
    let what = format!("{length} bytes of tensor {} from {start}", names::printable(&meta.name));
    Error::invalid(what, format!("it is {} bytes long", meta.bytes))
}

/// Takes the windows apart into chunks.
struct Jobs<'a, 'w> {
    checkpoint: &'a Checkpoint,
    windows: std::vec::IntoIter<Window<'w>>,
    tool: ChunkTool,
    open: Option<Open<'w>>,
}

/// A window of which some chunks were handed out.
struct Open<'w> {
    /// What is left of it.
    bytes: &'w mut [u8],
    /// The place in the tensor of its first byte.
    start: u64,
    /// The chunks that are left, the last first, and the place in the tensor of the next one.
    recipe: Vec<(ChunkId, u32)>,
    next: u64,
}

/// A part of a chunk, and where it is to go.
struct Job<'w> {
    chunk: ChunkId,
    chunk_bytes: u32,
    part: Range<usize>,
    out: &'w mut [u8],
}

impl<'w> Jobs<'_, 'w> {
    fn next(&mut self) -> Result<Option<Job<'w>>> {
        loop {
            if let Some(job) = self.open.as_mut().and_then(Open::next) {
                return Ok(Some(job));
            }
            let Some(window) = self.windows.next() else { return Ok(None) };
            self.open = Some(self.open(window)?);
        }
    }

    fn open(&mut self, window: Window<'w>) -> Result<Open<'w>> {
        let Checkpoint { manifest, tensors, .. } = self.checkpoint;
        let named = manifest.schema.tensors.get(window.tensor).zip(tensors.get(window.tensor));
        let (tensor, stored) = named.ok_or_else(|| Error::PartUnknown {
            what: "tensor",
            name: format!("number {}", window.tensor),
            checkpoint: manifest.row.address(),
        })?;
        let stored = stored.ok_or_else(|| Error::Thinned {
            what: manifest.schema.components[tensor.component as usize].clone(),
            checkpoint: manifest.row.address(),
        })?;
        let end = window.start.checked_add(window.bytes.len() as u64);
        if end.is_none_or(|end| end > stored.bytes) {
            return Err(outside(&tensor.meta, window.start, window.bytes.len()));
        }
        let mut recipe = manifest.chunks.recipe(&stored, &mut self.tool)?.0;
        recipe.reverse();
        Ok(Open { bytes: window.bytes, start: window.start, recipe, next: 0 })
    }
}

impl<'w> Open<'w> {
    fn next(&mut self) -> Option<Job<'w>> {
        while !self.bytes.is_empty() {
            let (chunk, chunk_bytes) = self.recipe.pop()?;
            let begin = self.next;
            self.next += u64::from(chunk_bytes);
            if self.next <= self.start {
                continue;
            }
            let skipped = (self.start - begin) as usize;
            let length = self.bytes.len().min(chunk_bytes as usize - skipped);
            let (out, rest) = std::mem::take(&mut self.bytes).split_at_mut(length);
            self.bytes = rest;
            self.start += length as u64;
            return Some(Job { chunk, chunk_bytes, part: skipped..skipped + length, out });
        }
        None
    }
}

impl Job<'_> {
    fn run(self, chunks: &PackSet, tool: &mut ChunkTool, buffer: &mut Vec<u8>) -> Result<()> {
        if self.out.len() == self.chunk_bytes as usize {
            return chunks.read(self.chunk, tool, self.out);
        }
        buffer.resize(self.chunk_bytes as usize, 0);
        chunks.read(self.chunk, tool, buffer)?;
        self.out.copy_from_slice(&buffer[self.part]);
        Ok(())
    }
}
