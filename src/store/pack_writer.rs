//! Writing the packs of one save.
//!
//! Frames come in order and go into packs of about 64 MiB, of a large save into larger ones: its entry names each. A full
//! pack goes to the device while the next is filled. The footers come last, all of them, since each repeats the commit
//! that names the manifest; then every pack is synced, linked, and its folder synced. Only after that may an entry name
//! them.

use std::thread::JoinHandle;

use super::Store;
use crate::backend::{Sink, Staging};
use crate::codec::CodecId;
use crate::error::{Error, Result};
use crate::format::entry::NewPack;
use crate::format::pack::{self, Footer, HEADER_BYTES, Row};
use crate::id::{ChunkId, PackId, SaveId};

/// Frames are handed on in pieces of this size.
const BUFFER_BYTES: usize = 1 << 20;
/// After so many packs of a save, of all of its writers together, the next ones are twice as large.
const PACKS_OF_A_SIZE: u64 = 64;

/// A pack is full with so many bytes of frames, of which the writer has closed `closed`, as one of `writers`.
fn full_at(least_bytes: u64, closed: u64, writers: u64) -> u64 {
    let doubled = closed.saturating_mul(writers) / PACKS_OF_A_SIZE;
    least_bytes.saturating_mul(1 << doubled.min(63))
}

/// The packs of a save that has not committed.
#[derive(Debug)]
pub(crate) struct PackWriter {
    store: Store,
    save: SaveId,
    /// The number of its first pack.
    first: u32,
    /// How many processes write packs of this save.
    writers: u32,
    staging: Option<Box<dyn Staging>>,
    closed: Vec<Closed>,
    open: Option<Open>,
    stored: u64,
    /// Frames are counted, and go nowhere.
    dry: bool,
}

#[derive(Debug)]
struct Open {
    id: PackId,
    sink: Box<dyn Sink>,
    buffer: Vec<u8>,
    rows: Vec<Row>,
    end: u64,
}

#[derive(Debug)]
struct Closed {
    id: PackId,
    rows: Vec<Row>,
    flushing: JoinHandle<Result<Box<dyn Sink>>>,
}

/// Packs that are durable and that no entry names yet.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) packs: Vec<NewPack>,
    pub(crate) footers: Vec<Footer>,
    staging: Option<Box<dyn Staging>>,
}

/// What a frame is, for [`PackWriter::put`].
#[derive(Clone, Debug)]
pub(crate) struct FrameInfo {
    pub(crate) chunk: ChunkId,
    pub(crate) chunk_bytes: u32,
    pub(crate) codec: CodecId,
    pub(crate) depth: u8,
    pub(crate) bases: Vec<ChunkId>,
}

impl PackWriter {
    pub(crate) fn new(store: &Store, save: SaveId) -> PackWriter {
        let (closed, open) = (Vec::new(), None);
        PackWriter {
            store: store.clone(),
            save,
            first: 0,
            writers: 1,
            staging: None,
            closed,
            open,
            stored: 0,
            dry: false,
        }
    }

    /// One of several of a save: its packs are numbered from `first` on.
    pub(crate) fn shared(
        store: &Store,
        save: SaveId,
        first: u32,
        writers: u32,
        staging: Box<dyn Staging>,
    ) -> PackWriter {
        PackWriter { first, writers, staging: Some(staging), ..PackWriter::new(store, save) }
    }

    /// One that only counts.
    pub(crate) fn dry(store: &Store) -> PackWriter {
        PackWriter { dry: true, ..PackWriter::new(store, SaveId::default()) }
    }

    /// Adds a frame: its head and its body.
    pub(crate) fn put(&mut self, info: FrameInfo, frame: &[u8]) -> Result<()> {
        self.stored += frame.len() as u64;
        if self.dry {
            return Ok(());
        }
        let open = self.open()?;
        open.rows.push(Row {
            chunk: info.chunk,
            offset: open.end,
            frame_bytes: frame.len() as u32,
            chunk_bytes: info.chunk_bytes,
            crc: crc32fast::hash(frame),
            codec: info.codec,
            depth: info.depth,
            bases: info.bases,
        });
        open.end += frame.len() as u64;
        // A large frame is not copied, and so must find the buffer empty: the pack's bytes have an order.
        let large = frame.len() > BUFFER_BYTES / 2;
        if large || open.buffer.len() + frame.len() > BUFFER_BYTES {
            open.sink.append(&open.buffer)?;
            open.buffer.clear();
        }
        if large {
            open.sink.append(frame)?;
        } else {
            open.buffer.extend_from_slice(frame);
        }
        let frames_bytes = open.end - HEADER_BYTES;
        let full = full_at(self.store.options().pack_bytes, self.closed.len() as u64, self.writers.into());
        if frames_bytes >= full { self.close() } else { Ok(()) }
    }

    /// What follows may go another way than what was put so far: a pack of at least so many bytes is closed.
    pub(crate) fn border(&mut self, least_bytes: u64) -> Result<()> {
        match &self.open {
            Some(open) if open.end >= least_bytes => self.close(),
            _ => Ok(()),
        }
    }

    /// The chunks so far.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = ChunkId> {
        let closed = self.closed.iter().flat_map(|pack| &pack.rows);
        closed.chain(self.open.iter().flat_map(|pack| &pack.rows)).map(|row| row.chunk)
    }

    /// Bytes of frames so far.
    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    fn open(&mut self) -> Result<&mut Open> {
        if self.open.is_none() {
            let id = PackId { save: self.save, index: self.first + self.closed.len() as u32 };
            if self.staging.is_none() {
                self.staging = Some(self.store.backend().begin(self.save)?);
            }
            let staging = self.staging.as_ref().expect("it was just begun");
            let buffer = pack::header(self.store.id(), id);
            self.open = Some(Open { id, sink: staging.create(id)?, buffer, rows: Vec::new(), end: HEADER_BYTES });
        }
        Ok(self.open.as_mut().expect("it was just opened"))
    }

    fn close(&mut self) -> Result<()> {
        let Some(Open { id, mut sink, buffer, rows, .. }) = self.open.take() else { return Ok(()) };
        let flushing = std::thread::spawn(move || {
            sink.append(&buffer)?;
            sink.flush()?;
            Ok(sink)
        });
        self.closed.push(Closed { id, rows, flushing });
        Ok(())
    }

    /// Makes all packs visible and durable; `commit` is the body of the commit that is to name them.
    pub(crate) fn publish(mut self, commit: &[u8]) -> Result<Published> {
        let mut footers = Vec::new();
        let mut finishing = Vec::new();
        let last = self.open.take();
        let store = self.store.id();
        let footer = |id, rows| Footer { store, pack: id, rows, commit: commit.to_vec() };
        for Closed { id, rows, flushing } in self.closed.drain(..) {
            let footer = footer(id, rows);
            let end = footer.encode().0;
            footers.push(footer);
            finishing.push(std::thread::spawn(move || joined(flushing)?.finish(&end)));
        }
        if let Some(Open { id, sink, mut buffer, rows, .. }) = last {
            let footer = footer(id, rows);
            buffer.extend(footer.encode().0);
            footers.push(footer);
            sink.finish(&buffer)?;
        }
        finishing.into_iter().try_for_each(joined)?;
        let ids: Vec<PackId> = footers.iter().map(|footer| footer.pack).collect();
        if let Some(staging) = &self.staging {
            staging.publish(&ids)?;
        }
        let packs = footers.iter().map(|footer| {
            let (end, hash) = footer.encode();
            NewPack {
                index: footer.pack.index,
                bytes: HEADER_BYTES + footer.frames_bytes() + end.len() as u64,
                footer: hash,
            }
        });
        Ok(Published { packs: packs.collect(), footers, staging: self.staging.take() })
    }
}

impl Published {
    /// Adds packs of the same save that others published before.
    pub(crate) fn add(&mut self, others: Vec<(NewPack, Footer)>) {
        let (packs, footers): (Vec<_>, Vec<_>) = others.into_iter().unzip();
        self.packs.splice(0..0, packs);
        self.footers.splice(0..0, footers);
    }

    /// The entry that names the packs is in the log: what was staged can go.
    pub(crate) fn committed(mut self) {
        if let Some(staging) = self.staging.take() {
            staging.clear();
        }
    }

    /// No bytes of packs.
    pub(crate) fn bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.bytes).sum()
    }
}

fn joined<T>(handle: JoinHandle<Result<T>>) -> Result<T> {
    handle.join().unwrap_or_else(|_| Err(Error::Bug("a writer panicked".into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::entry::BYTES_MAX;
    use crate::format::pack::TARGET_BYTES;

    #[test]
    fn the_packs_of_a_large_save_fit_into_an_entry_and_are_not_too_many_at_once() {
        let new = NewPack { index: u32::MAX, bytes: u64::MAX, footer: crate::id::Hash([0; 32]) };
        let entry_bytes = serde_json::to_vec(&new).unwrap().len() as u64;
        for (writers, each_bytes) in [(1, 16 << 40), (8, 4 << 40), (64, 256 << 30), (1000, 32 << 30)] {
            let (mut closed, mut bytes) = (0, 0);
            while bytes < each_bytes {
                bytes += full_at(TARGET_BYTES, closed, writers);
                closed += 1;
            }
            assert!(closed <= 1000, "{closed} packs of one of {writers} writers");
            let all = closed * writers;
            assert!(all * entry_bytes < BYTES_MAX as u64 * 3 / 4, "{all} packs of {writers} writers");
        }
        assert_eq!((full_at(100, 63, 1), full_at(100, 64, 1), full_at(100, 0, 1000)), (100, 200, 100));
        assert_eq!(full_at(1 << 40, u64::MAX, 64), u64::MAX);
    }
}
