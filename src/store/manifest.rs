//! A checkpoint's manifest, opened: what it is made of, and which packs that takes.
//!
//! It knows no journey: a save compares with it, a restore reads it, a collection thins it.

use std::collections::{BTreeMap, BTreeSet};

use super::{ChunkTool, PackSet, Store};
use crate::catalog::{Catalog, CheckpointRow, PackState, Status};
use crate::chunk;
use crate::error::{Error, Result};
use crate::format::entry::Needs;
use crate::format::manifest::{Block, Recipe, Root, Schema, Stored};
use crate::id::{ChunkId, PackId};

/// A checkpoint that was opened for comparison or reading.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) row: CheckpointRow,
    pub(crate) root: Root,
    pub(crate) schema: Schema,
    pub(crate) chunks: PackSet,
}

impl Manifest {
    /// Reads root and schema of a checkpoint.
    pub(crate) fn open(store: &Store, row: CheckpointRow) -> Result<Manifest> {
        Manifest::open_from(store.pack_set_of(row.slot)?, row)
    }

    /// The same from packs that are open already.
    pub(crate) fn open_from(chunks: PackSet, row: CheckpointRow) -> Result<Manifest> {
        let mut tool = ChunkTool::default();
        let root = Root::decode(&chunks.read_stored(&row.manifest, &mut tool)?)?;
        let schema = Schema::decode(&chunks.read_stored(&root.schema, &mut tool)?)?;
        if root.components.len() != schema.components.len() || root.files.len() != schema.files as usize {
            return Err(Error::damaged(format!("the manifest of {}", row.address()), "its root and its schema differ"));
        }
        Ok(Manifest { row, root, schema, chunks })
    }

    /// How each tensor is stored; `None` in a dropped component.
    pub(crate) fn tensors(&self) -> Result<Vec<Option<Stored>>> {
        let mut tool = ChunkTool::default();
        let mut all = Vec::with_capacity(self.schema.tensors.len());
        for (component, blocks) in self.root.components.iter().enumerate() {
            let range = self.schema.of_component(component);
            let Some(blocks) = blocks else {
                all.extend(range.map(|_| None));
                continue;
            };
            let mut ids = Vec::with_capacity(range.len());
            for &block in blocks {
                ids.extend(Block::decode(&self.chunks.read_whole(block, &mut tool)?)?.0);
            }
            if ids.len() != range.len() {
                return Err(Error::damaged(format!("the manifest of {}", self.row.address()), "tensors without ids"));
            }
            let metas = &self.schema.tensors[range];
            all.extend(
                ids.into_iter().zip(metas).map(|((recipe, id), t)| Some(Stored { id, recipe, bytes: t.meta.bytes })),
            );
        }
        Ok(all)
    }

    /// The names of the parts that cannot be had if these copies are bad: a chunk is lost once no copy of it is good.
    pub(crate) fn lost(&self, is_bad: &dyn Fn(PackId, ChunkId) -> bool) -> Result<Vec<String>> {
        let mut tool = ChunkTool::default();
        let mut lost = Vec::new();
        let mut look = |name: &dyn Fn() -> String, stored: &Stored| {
            let chunks = self.chunks.recipe(stored, &mut tool);
            let gone = |chunk: ChunkId| self.chunks.is_lost(chunk, is_bad);
            if chunks.map_or(true, |recipe| recipe.0.into_iter().any(|(chunk, _)| gone(chunk))) {
                lost.push(name());
            }
        };
        for (tensor, stored) in self.schema.tensors.iter().zip(self.tensors()?) {
            stored.iter().for_each(|stored| look(&|| tensor.meta.name.clone(), stored));
        }
        for file in &self.root.files {
            file.header.iter().for_each(|stored| look(&|| format!("the header of {}", file.name), stored));
        }
        for (name, stored) in &self.root.side_files {
            look(&|| name.clone(), stored);
        }
        self.root.state.iter().for_each(|stored| look(&|| "its state".into(), stored));
        Ok(lost)
    }

    /// Takes components out of it. Its root is then no more what the row says, and is not stored yet.
    pub(crate) fn drop_components(&mut self, names: &[String]) {
        self.row.manifest = Stored::empty();
        for (name, blocks) in self.schema.components.iter().zip(&mut self.root.components) {
            if names.contains(name) {
                *blocks = None;
            }
        }
    }

    /// Every chunk of the checkpoint: of its tensors, files and the manifest itself.
    pub(crate) fn all_chunks(&self) -> Result<Vec<ChunkId>> {
        let mut tool = ChunkTool::default();
        let root = &self.root;
        let mut stored: Vec<Stored> = vec![self.row.manifest, root.schema];
        stored.extend(root.files.iter().filter_map(|file| file.header));
        stored.extend(root.side_files.iter().map(|(_, stored)| *stored));
        stored.extend(root.state);
        stored.extend(self.tensors()?.into_iter().flatten());
        let mut chunks: Vec<ChunkId> = root.components.iter().flatten().flatten().copied().collect();
        for stored in &stored {
            if stored.recipe {
                chunks.push(stored.id);
            }
            chunks.extend(self.chunks.recipe(stored, &mut tool)?.0.into_iter().map(|(id, _)| id));
        }
        let empty = ChunkId::of(b"");
        chunks.retain(|&chunk| chunk != empty);
        Ok(chunks)
    }

    /// The chunks of the checkpoint as far as what is left of its manifest names them.
    pub(crate) fn named_chunks(&self) -> Vec<ChunkId> {
        let mut tool = ChunkTool::default();
        let root = &self.root;
        let mut stored: Vec<Stored> = vec![self.row.manifest, root.schema];
        stored.extend(root.files.iter().filter_map(|file| file.header));
        stored.extend(root.side_files.iter().map(|(_, stored)| *stored));
        stored.extend(root.state);
        let mut chunks: Vec<ChunkId> = root.components.iter().flatten().flatten().copied().collect();
        stored.extend(self.tensors().unwrap_or_default().into_iter().flatten());
        for stored in &stored {
            chunks.push(stored.id);
            let recipe = self.chunks.recipe(stored, &mut tool).map_or(Vec::new(), |recipe| recipe.0);
            chunks.extend(recipe.into_iter().map(|(id, _)| id));
        }
        chunks
    }
}

/// The needed packs as a difference to the base's, or as they are if that is shorter. Each of them must be live, or
/// it is [`Error::Stale`].
pub(crate) fn needs_from(catalog: &Catalog, base: Option<&CheckpointRow>, needs: &BTreeSet<PackId>) -> Result<Needs> {
    let base = base.filter(|row| row.status != Status::Forgotten).map(|row| row.slot);
    let theirs = base.map(|slot| catalog.packs_of(slot)).transpose()?.unwrap_or_default();
    let theirs: BTreeMap<PackId, PackState> = theirs.into_iter().map(|pack| (pack.pack, pack.state)).collect();
    for &pack in needs {
        let state = match theirs.get(&pack) {
            Some(state) => Some(*state),
            None => catalog.pack(pack)?.map(|row| row.state),
        };
        if state != Some(PackState::Live) {
            return Err(Error::Stale { what: format!("pack {pack}") });
        }
    }
    let plus: Vec<PackId> = needs.iter().filter(|pack| !theirs.contains_key(pack)).copied().collect();
    let minus: Vec<PackId> = theirs.into_keys().filter(|pack| !needs.contains(pack)).collect();
    if base.is_none() || plus.len() + minus.len() >= needs.len() {
        return Ok(Needs { base: None, plus: needs.iter().copied().collect(), minus: Vec::new() });
    }
    Ok(Needs { base, plus, minus })
}

/// Stores a byte string of a manifest: `put` gets its chunks, and its recipe if there are several.
pub(crate) fn put_bytes(bytes: &[u8], mut put: impl FnMut(&[u8]) -> Result<ChunkId>) -> Result<Stored> {
    let mut recipe = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = if rest.len() <= chunk::MIN {
            rest.len()
        } else {
            let window = &rest[..rest.len().min(chunk::MAX)];
            chunk::Cutter::new(1).next(window, window.len() == rest.len())
        };
        let (chunk, after) = rest.split_at(length);
        recipe.push((put(chunk)?, length as u32));
        rest = after;
    }
    stored_as(recipe, bytes.len() as u64, put)
}

/// A byte string whose chunks are stored; `put` gets its recipe if there are several.
pub(crate) fn stored_as(
    recipe: Vec<(ChunkId, u32)>,
    bytes: u64,
    mut put: impl FnMut(&[u8]) -> Result<ChunkId>,
) -> Result<Stored> {
    Ok(match recipe[..] {
        _ if bytes == 0 => Stored::empty(),
        [(id, _)] => Stored { id, recipe: false, bytes },
        _ => Stored { id: put(&Recipe(recipe).encode())?, recipe: true, bytes },
    })
}
