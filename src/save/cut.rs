//! Where the bytes of a save are cut, and in which order they are worked on.
//!
//! A [`Cutter`] goes through the parts of a save, one after the other, and hands out pieces: chunks to be. Pieces whose
//! bounds are known beforehand are read by the worker that hashes them; those that the content decides are read here.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::ingest::Bytes;
use super::reference::Counterpart;
use crate::chunk::{self, inherit};
use crate::error::{Error, Result};
use crate::format::manifest::Recipe;
use crate::id::ChunkId;
use crate::store::{ChunkTool, PackSet};
use crate::tensor::Layout;

/// Pieces are handed out together up to so many bytes, which take longer to hash than to hand out, ...
const BATCH_BYTES: usize = 128 << 10;
/// ... and up to so many of them.
const BATCH_PIECES: usize = 64;

/// A byte string of a save: a tensor, a header, a side file.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) bytes: &'a Bytes<'a>,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) layout: Layout,
    /// Its counterpart in the reference.
    pub(super) counterpart: Option<Counterpart>,
    /// Its counterpart in the checkpoint that bases are taken from, where that is not the reference.
    pub(super) anchor: Option<Counterpart>,
    /// Its bytes in the reference, if a caller has them in memory and they are what it says.
    pub(super) before: Option<&'a [u8]>,
    /// The part that it seems to be the cast of.
    pub(super) cast_of: Option<usize>,
    /// No difference helped its counterpart: looked at when it is first asked for.
    pub(super) fruitless: OnceLock<bool>,
    /// Which component it belongs to; 0 for what belongs to none.
    pub(super) group: usize,
}

/// A chunk to be.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) part: usize,
    /// The last of its part.
    pub(super) last: bool,
    pub(super) offset: u64,
    pub(super) length: u32,
    /// The chunk at the same place of the counterpart.
    pub(super) expected: Option<ChunkId>,
    /// The chunk that it may be stored as a difference to.
    pub(super) base: Option<ChunkId>,
    /// The chunk that it may be the cast of: twice its length, at this offset of that part's input.
    pub(super) cast_of: Option<(usize, u64)>,
    /// Its bytes, if they were read to find its end.
    pub(super) bytes: Option<Vec<u8>>,
}

/// Hands out the pieces of all parts.
pub(super) struct Cutter<'a> {
    parts: &'a [Part<'a>],
    chunks: Option<&'a PackSet>,
    bases: Option<&'a PackSet>,
    tool: ChunkTool,
    /// The parts in the order in which they are cut: casts come after all that they may be casts of.
    order: Vec<usize>,
    at: usize,
    /// Where parts that others are casts of were cut.
    lengths: HashMap<usize, Vec<u32>>,
    /// Bytes of the part that were handed out.
    done: u64,
    cuts: Cuts,
    /// The chunks of the part's counterpart in `bases`, by their offsets.
    anchor: HashMap<u64, (ChunkId, u32)>,
    window: Vec<u8>,
    /// Why a counterpart could not be read: the first time that this happened.
    pub(super) unreadable: Option<Error>,
}

/// How the rest of a part is cut.
enum Cuts {
    /// Not decided yet.
    Unknown,
    /// At the bounds of these chunks, from the given one on. One that is cut short has no name.
    Fixed(Vec<(Option<ChunkId>, u32)>, usize),
    /// At these chunks, then by content up to the given place, then at the others.
    Ends { front: Vec<(Option<ChunkId>, u32)>, next: usize, middle_end: u64, back: Vec<(Option<ChunkId>, u32)> },
    /// At these lengths, from the given one on: half of those of the part that it is the cast of.
    Halves(Vec<u32>, usize),
}

impl<'a> Cutter<'a> {
    pub(super) fn new(parts: &'a [Part<'a>], chunks: Option<&'a PackSet>, bases: Option<&'a PackSet>) -> Cutter<'a> {
        let (casts, others): (Vec<usize>, Vec<usize>) = (0..parts.len()).partition(|n| parts[*n].cast_of.is_some());
        Cutter {
            parts,
            chunks,
            bases,
            tool: ChunkTool::default(),
            lengths: casts.iter().filter_map(|n| Some((parts[*n].cast_of?, Vec::new()))).collect(),
            order: others.into_iter().chain(casts).collect(),
            at: 0,
            done: 0,
            cuts: Cuts::Unknown,
            anchor: HashMap::new(),
            window: Vec::new(),
            unreadable: None,
        }
    }

    /// The next pieces, or `None` after the last. Threads meet whenever one asks, so many small ones come at once.
    pub(super) fn next_batch(&mut self) -> Result<Option<Vec<Piece>>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES && batch.len() < BATCH_PIECES {
            let Some(piece) = self.next()? else { break };
            bytes += piece.length as usize;
            batch.push(piece);
        }
        Ok(Some(batch).filter(|batch| !batch.is_empty()))
    }

    /// The next piece, or `None` after the last. A part without bytes has one piece of length 0.
    fn next(&mut self) -> Result<Option<Piece>> {
        let Some(&number) = self.order.get(self.at) else { return Ok(None) };
        let part = &self.parts[number];
        if matches!(self.cuts, Cuts::Unknown) {
            self.cuts = self.cuts_of(part)?;
            self.anchor = self.anchor_of(part);
        }
        let (length, expected, bytes) = self.length_of_next(part)?;
        let base = match self.bases {
            Some(_) => self.anchor.get(&self.done).filter(|(_, theirs)| *theirs == length).map(|(chunk, _)| *chunk),
            None => expected,
        };
        if let Some(lengths) = self.lengths.get_mut(&number) {
            lengths.push(length);
        }
        let offset = part.offset + self.done;
        let as_source = matches!(self.cuts, Cuts::Halves(..)).then_some(part.cast_of).flatten();
        let cast_of = as_source.map(|source| (source, self.parts[source].offset + 2 * self.done));
        self.done += u64::from(length);
        let last = self.done == part.length;
        if last {
            self.at += 1;
            self.done = 0;
            self.cuts = Cuts::Unknown;
            self.window.clear();
        }
        Ok(Some(Piece { part: number, last, offset, length, expected, base, cast_of, bytes }))
    }

    fn length_of_next(&mut self, part: &Part<'_>) -> Result<(u32, Option<ChunkId>, Option<Vec<u8>>)> {
        let left = part.length - self.done;
        let fixed = match &mut self.cuts {
            Cuts::Fixed(chunks, next) => {
                *next += 1;
                chunks.get(*next - 1)
            }
            Cuts::Ends { front, next, middle_end, back } => {
                let in_middle = *next == front.len() && self.done < *middle_end;
                let number = *next;
                *next += usize::from(!in_middle);
                if in_middle { None } else { front.get(number).or_else(|| back.get(number.wrapping_sub(front.len()))) }
            }
            Cuts::Halves(lengths, next) => {
                *next += 1;
                return Ok((lengths.get(*next - 1).copied().unwrap_or(left as u32), None, None));
            }
            Cuts::Unknown => None,
        };
        if let Some(&(id, length)) = fixed {
            return Ok((length, id, None));
        }
        if left <= chunk::MIN as u64 {
            return Ok((left as u32, None, None));
        }
        let end = match &self.cuts {
            Cuts::Ends { middle_end, .. } => *middle_end,
            _ => part.length,
        };
        self.cut_by_content(part, end)
    }

    fn cut_by_content(&mut self, part: &Part<'_>, end: u64) -> Result<(u32, Option<ChunkId>, Option<Vec<u8>>)> {
        let cutter = chunk::Cutter::new(part.layout.width());
        let left = end - self.done;
        let wanted = left.min(chunk::MAX as u64) as usize;
        let start = part.offset + self.done;
        if let Some(slice) = part.bytes.slice() {
            let window = &slice[start as usize..start as usize + wanted];
            return Ok((cutter.next(window, wanted as u64 == left) as u32, None, None));
        }
        let have = self.window.len();
        if have < wanted {
            self.window.resize(wanted, 0);
            part.bytes.read_exact_at(&mut self.window[have..], start + have as u64)?;
        }
        let length = cutter.next(&self.window[..wanted], wanted as u64 == left);
        let rest = self.window.split_off(length);
        let bytes = std::mem::replace(&mut self.window, rest);
        Ok((length as u32, None, Some(bytes)))
    }

    /// An anchor that cannot be read is no help; the save does not depend on it.
    fn anchor_of(&mut self, part: &Part<'_>) -> HashMap<u64, (ChunkId, u32)> {
        let (Some(anchor), Some(bases)) = (part.anchor, self.bases) else { return HashMap::new() };
        let Ok(Recipe(chunks)) = bases.recipe(&anchor.stored, &mut self.tool) else { return HashMap::new() };
        let mut offset = 0;
        let at = |chunk: (ChunkId, u32)| {
            let at = offset;
            offset += u64::from(chunk.1);
            Some((u64::checked_sub(at, anchor.begin.unwrap_or(0))?, chunk))
        };
        chunks.into_iter().filter_map(at).collect()
    }

    fn cuts_of(&mut self, part: &Part<'_>) -> Result<Cuts> {
        let by_content = Cuts::Fixed(Vec::new(), 0);
        let source = part.cast_of.and_then(|source| self.lengths.get(&source));
        if let Some(lengths) = source.filter(|lengths| lengths.iter().all(|length| length % 4 == 0)) {
            return Ok(Cuts::Halves(lengths.iter().map(|length| length / 2).collect(), 0));
        }
        let (Some(counterpart), Some(chunks)) = (part.counterpart, self.chunks) else { return Ok(by_content) };
        let theirs = match chunks.recipe(&counterpart.stored, &mut self.tool) {
            Ok(Recipe(theirs)) => theirs,
            // It is no help; the save does not depend on it.
            Err(error) => {
                self.unreadable.get_or_insert(error);
                return Ok(by_content);
            }
        };
        if let Some(begin) = counterpart.begin
            && begin + part.length <= counterpart.stored.bytes
        {
            return Ok(Cuts::Fixed(within(&theirs, begin, part.length), 0));
        }
        if part.length <= chunk::MIN as u64 || theirs.is_empty() {
            return Ok(by_content);
        }
        let id_at = |offset: u64, length: usize| -> Result<ChunkId> {
            let mut bytes = vec![0; length];
            part.bytes.read_exact_at(&mut bytes, part.offset + offset)?;
            Ok(ChunkId::of(&bytes))
        };
        let ends = inherit::match_ends(&id_at, &theirs, part.length)?;
        let named = |chunks: &[(ChunkId, u32)]| chunks.iter().map(|(id, length)| (Some(*id), *length)).collect();
        let back = named(&theirs[theirs.len() - ends.back..]);
        Ok(Cuts::Ends { front: named(&theirs[..ends.front]), next: 0, middle_end: ends.middle.end, back })
    }
}

/// The chunks of a stretch of bytes. One that reaches beyond is cut short, and is another one then.
fn within(chunks: &[(ChunkId, u32)], begin: u64, length: u64) -> Vec<(Option<ChunkId>, u32)> {
    let (mut at, end) = (0, begin + length);
    let mut found = Vec::new();
    for &(id, bytes) in chunks {
        let (from, to) = (at.max(begin), (at + u64::from(bytes)).min(end));
        at += u64::from(bytes);
        if from < to {
            let whole = to - from == u64::from(bytes);
            found.push((whole.then_some(id), (to - from) as u32));
        }
    }
    found
}
