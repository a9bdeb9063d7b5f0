//! How bytes are encoded: in the whole store, and of one checkpoint, tensor by tensor, with the reason.
//!
//! Footers say how a frame is encoded, manifests who uses it. Nothing else is read, and nothing is decoded but manifests.

mod tensors;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::catalog::{Filter, PackState};
use crate::codec;
use crate::error::{Error, Result};
use crate::format::pack::Row;
use crate::id::{ChunkId, PackId};
use crate::monitor::Unit;
use crate::restore::Checkpoint;
use crate::store::{ChunkTool, Manifest, PackSet, Store};

pub use tensors::{Encoded, Origin, Why};

/// Every frame that lies in the store, once.
#[derive(Clone, Debug, Default)]
pub struct Encodings {
    /// Frames that checkpoints are made of, by encoding.
    pub by_encoding: BTreeMap<&'static str, Share>,
    /// The same frames, by how many others are decoded before them.
    pub by_depth: BTreeMap<u8, Share>,
    /// Those of tensors, by the tensor's type. What tensors share counts for the one that was saved first.
    pub by_dtype: BTreeMap<String, Share>,
    /// The same, by the tensor's component.
    pub by_component: BTreeMap<String, Share>,
    /// Those of headers, side files and states.
    pub files: Share,
    /// Those of manifests.
    pub manifests: Share,
    /// Frames that no checkpoint is made of, but that others are differences to.
    pub held: Share,
    /// Frames that nobody uses any more.
    pub garbage: Share,
}

/// Some frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// How many.
    pub frames: u64,
    /// The bytes of their chunks.
    pub raw_bytes: u64,
    /// Their bytes in the packs.
    pub stored_bytes: u64,
}

impl Share {
    fn add(&mut self, row: &Row) {
        self.frames += 1;
        self.raw_bytes += u64::from(row.chunk_bytes);
        self.stored_bytes += u64::from(row.frame_bytes);
    }
}

/// Who uses which frame.
#[derive(Default)]
struct Users {
    frames: HashMap<(PackId, ChunkId), Use>,
    /// Component and type of tensors.
    kinds: Vec<(String, String)>,
}

#[derive(Clone, Copy)]
enum Use {
    /// A tensor of this kind.
    Tensor(usize),
    File,
    Manifest,
    /// Only as a base.
    Base,
}

impl Store {
    /// How all that lies in the store is encoded. Reads every manifest.
    pub fn encodings(&self) -> Result<Encodings> {
        self.refresh()?;
        let (rows, packs) = {
            let catalog = self.catalog();
            (catalog.checkpoints(&Filter { superseded: true, ..Filter::default() })?, catalog.packs()?)
        };
        let mut users = Users::default();
        self.monitor().begin("reading manifests", Some(rows.len() as u64), Unit::Things);
        for row in rows {
            self.check_stop()?;
            match self.checkpoint_of(row) {
                Ok(checkpoint) => users.add(&checkpoint)?,
                Err(Error::Forgotten { .. }) => {} // a moment ago
                Err(error) => return Err(error),
            }
            self.monitor().advance(1);
        }
        self.monitor().end();
        let mut encodings = Encodings::default();
        for pack in packs.iter().filter(|pack| pack.state == PackState::Live) {
            for row in &self.footer(pack)?.rows {
                encodings.add(row, users.frames.get(&(pack.pack, row.chunk)), &users.kinds);
            }
        }
        Ok(encodings)
    }
}

impl Encodings {
    fn add(&mut self, row: &Row, used: Option<&Use>, kinds: &[(String, String)]) {
        match used {
            None => return self.garbage.add(row),
            Some(Use::Base) => return self.held.add(row),
            Some(Use::File) => self.files.add(row),
            Some(Use::Manifest) => self.manifests.add(row),
            Some(Use::Tensor(kind)) => {
                let (component, dtype) = &kinds[*kind];
                self.by_component.entry(component.clone()).or_default().add(row);
                self.by_dtype.entry(dtype.clone()).or_default().add(row);
            }
        }
        self.by_encoding.entry(codec::name_of(row.codec)).or_default().add(row);
        self.by_depth.entry(row.depth).or_default().add(row);
    }
}

impl Users {
    fn add(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let (manifest, tensors) = checkpoint.parts();
        let Manifest { root, schema, chunks, .. } = manifest;
        let mut tool = ChunkTool::default();
        for (tensor, stored) in schema.tensors.iter().zip(tensors) {
            let Some(stored) = stored else { continue };
            let kind = self.kind(&schema.components[tensor.component as usize], tensor.meta.dtype.name());
            for (chunk, _) in chunks.recipe(stored, &mut tool)?.0 {
                self.note(chunks, chunk, Use::Tensor(kind))?;
            }
        }
        let headers = root.files.iter().filter_map(|file| file.header.as_ref());
        for stored in headers.chain(root.side_files.iter().map(|(_, stored)| stored)).chain(&root.state) {
            for (chunk, _) in chunks.recipe(stored, &mut tool)?.0 {
                self.note(chunks, chunk, Use::File)?;
            }
        }
        let all = manifest.all_chunks()?;
        for &chunk in &all {
            self.note(chunks, chunk, Use::Manifest)?;
        }
        self.note_bases(chunks, all)
    }

    fn kind(&mut self, component: &str, dtype: &str) -> usize {
        let known = self.kinds.iter().position(|kind| kind.0 == component && kind.1 == dtype);
        known.unwrap_or_else(|| {
            self.kinds.push((component.into(), dtype.into()));
            self.kinds.len() - 1
        })
    }

    /// The first use counts, but any use counts more than that of a base.
    fn note(&mut self, chunks: &PackSet, chunk: ChunkId, used: Use) -> Result<()> {
        let pack = chunks.pack_of(chunk).ok_or(Error::ChunkMissing { chunk })?;
        let before = self.frames.entry((pack, chunk)).or_insert(used);
        if matches!(before, Use::Base) {
            *before = used;
        }
        Ok(())
    }

    fn note_bases(&mut self, chunks: &PackSet, of: Vec<ChunkId>) -> Result<()> {
        let mut seen = HashSet::new();
        let mut todo = of;
        while let Some(chunk) = todo.pop() {
            for &base in chunks.bases_of(chunk) {
                if seen.insert(base) {
                    self.note(chunks, base, Use::Base)?;
                    todo.push(base);
                }
            }
        }
        Ok(())
    }
}
