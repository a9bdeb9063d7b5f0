//! The journey of a restore: resolve, plan, fetch, decode, write, report.
//!
//! A plan says which bytes go where; carrying it out reads each chunk once, on all threads, and checks its hash before
//! a byte of it is written. Outputs are written under a temporary name beside their place, synced, and then renamed: a
//! restore that fails leaves nothing, and what was there before stays until the new is whole.

mod memory;
mod plan;
mod write;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::catalog::CheckpointRow;
use crate::error::{Error, Result};
use crate::format::manifest::{SchemaTensor, Stored};
use crate::format::names;
use crate::monitor::Unit;
use crate::store::{Address, ChunkTool, Manifest, Store};
use crate::tensor::TensorMeta;
use crate::tensor::boxes::TensorBox;

pub use memory::Window;

use plan::{Plan, Selection};

/// What to restore, and in which form.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// This component alone, its prefix taken off the names.
    pub component: Option<String>,
    /// Tensors whose name matches one of these globs; all if there are none.
    pub include: Vec<String>,
    /// And none of these.
    pub exclude: Vec<String>,
    /// Files of at most so many bytes, with an index.
    pub max_shard_bytes: Option<u64>,
    /// Take the place of what is there.
    pub force: bool,
}

/// How a restore ended.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    /// The checkpoint.
    pub checkpoint: CheckpointRow,
    /// What was made: a file or a folder.
    pub output: PathBuf,
    /// The files in it, relative to it; empty for a single file.
    pub files: Vec<String>,
    /// Bytes written.
    pub bytes: u64,
    /// Tensors written.
    pub tensors: u64,
    /// The same bytes as were saved, file for file.
    pub identical: bool,
    /// Components that the checkpoint does not have any more.
    pub dropped: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// A checkpoint that was opened for reading.
#[derive(Debug)]
pub struct Checkpoint {
    store: Store,
    manifest: Manifest,
    tensors: Vec<Option<Stored>>,
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its component.
    pub component: String,
    /// Name, type, shape, length.
    pub meta: TensorMeta,
    /// Its id: the hash of its bytes, or of the list of its chunks if it has several; `None` if its component was
    /// dropped.
    pub id: Option<crate::id::ChunkId>,
    /// The boxes that it is stored in, if it is not stored as a whole.
    pub boxes: Vec<TensorBox>,
    /// Chunks.
    pub chunks: u64,
    /// Bytes of their frames in the packs.
    pub stored_bytes: u64,
    /// How its chunks are encoded, each with its number.
    pub encodings: Vec<(String, u64)>,
    /// Frames to decode for one of its chunks, at most, beside its own.
    pub depth: u8,
    /// Packs that hold its chunks.
    pub packs: Vec<crate::id::PackId>,
}

impl Store {
    /// Opens a checkpoint for reading.
    pub fn checkpoint(&self, address: &Address) -> Result<Checkpoint> {
        let row = self.resolve(address)?;
        self.checkpoint_of(row)
    }

    pub(crate) fn checkpoint_of(&self, row: CheckpointRow) -> Result<Checkpoint> {
        let (slot, address) = (row.slot, row.address());
        let open = || -> Result<Checkpoint> {
            let manifest = Manifest::open(self, row.clone())?;
            let tensors = manifest.tensors()?;
            Ok(Checkpoint { store: self.clone(), manifest, tensors })
        };
        open().or_else(|error| self.explain(slot, &address, error)).or_else(|error| match error {
            // A repack moved its chunks while it was being opened: look again.
            Error::ObjectMissing { .. } | Error::Stale { .. } => open(),
            other => Err(other),
        })
    }

    /// A reader that loses its checkpoint to a collection is told so.
    fn explain<T>(&self, slot: u64, address: &str, error: Error) -> Result<T> {
        if matches!(error, Error::ObjectMissing { .. } | Error::Stale { .. }) {
            self.refresh()?;
            let now = self.catalog().checkpoint(slot)?;
            if now.is_none_or(|row| row.status == crate::catalog::Status::Forgotten) {
                return Err(Error::Forgotten { checkpoint: address.to_string() });
            }
        }
        Err(error)
    }

    /// Writes a checkpoint, or a part of it, to `output`: a file if one file was saved, else a folder.
    pub fn restore(&self, address: &Address, output: &Path, options: &RestoreOptions) -> Result<RestoreReport> {
        self.checkpoint(address)?.restore(output, options)
    }
}

impl Checkpoint {
    /// What the log says of it.
    pub fn info(&self) -> &CheckpointRow {
        &self.manifest.row
    }

    /// What it is made of: its manifest, and how each tensor is stored.
    pub(crate) fn parts(&self) -> (&Manifest, &[Option<Stored>]) {
        (&self.manifest, &self.tensors)
    }

    /// It comes back as a folder.
    pub fn is_folder(&self) -> bool {
        let root = &self.manifest.root;
        root.folder || root.files.len() + root.side_files.len() > 1
    }

    /// The names and lengths of its side files.
    pub fn side_files(&self) -> Vec<(String, u64)> {
        self.manifest.root.side_files.iter().map(|(name, stored)| (name.clone(), stored.bytes)).collect()
    }

    /// The names of its safetensors files.
    pub fn files(&self) -> Vec<String> {
        self.manifest.root.files.iter().map(|file| file.name.clone()).collect()
    }

    /// Its tensors, with how they are stored.
    pub fn tensors(&self) -> Result<Vec<TensorInfo>> {
        let mut tool = ChunkTool::default();
        let each = self.manifest.schema.tensors.iter().zip(&self.tensors);
        each.map(|(tensor, stored)| self.tensor_info(tensor, stored.as_ref(), &mut tool)).collect()
    }

    /// Names, types and shapes alone: nothing but the manifest is read.
    pub fn metas(&self) -> impl Iterator<Item = (&str, &TensorMeta)> {
        let schema = &self.manifest.schema;
        schema.tensors.iter().map(|t| (schema.components[t.component as usize].as_str(), &t.meta))
    }

    /// The bytes of one tensor, by its name or `COMPONENT:NAME`; `sink` gets them in order, each checked.
    pub fn read_tensor(&self, name: &str, sink: &mut dyn Write) -> Result<TensorMeta> {
        let (number, stored) = self.find(name)?;
        self.told(match self.boxes(number) {
            [] => self.copy(&stored, sink),
            _ => self.in_order(number, &mut |_, bytes| write_to(sink, bytes)),
        })?;
        Ok(self.manifest.schema.tensors[number].meta.clone())
    }

    /// The bytes of a side file.
    pub fn read_side_file(&self, name: &str, sink: &mut dyn Write) -> Result<()> {
        let found = self.manifest.root.side_files.iter().find(|(file, _)| file == name);
        let (_, stored) = found.ok_or_else(|| Error::PartUnknown {
            what: "side file",
            name: names::printable(name).into_owned(),
            checkpoint: self.info().address(),
        })?;
        self.told(self.copy(stored, sink))
    }

    /// The values saved beside the tensors.
    pub fn state(&self) -> Result<Option<Value>> {
        let Some(stored) = &self.manifest.root.state else { return Ok(None) };
        let bytes = self.told(self.manifest.chunks.read_stored(stored, &mut ChunkTool::default()))?;
        let value = serde_json::from_slice(&bytes);
        value.map(Some).map_err(|e| Error::damaged(format!("the state of {}", self.info().address()), e.to_string()))
    }

    /// Writes it, or a part of it.
    pub fn restore(&self, output: &Path, options: &RestoreOptions) -> Result<RestoreReport> {
        let started = Instant::now();
        let plan = self.plan(options)?;
        let bytes = plan.bytes();
        self.store.monitor().begin("restoring", Some(bytes), Unit::Bytes);
        let done = write::write(self, &plan, output, options.force);
        self.store.monitor().end();
        self.told(done)?;
        let files = if plan.folder { plan.files.iter().map(|file| file.name.clone()).collect() } else { Vec::new() };
        Ok(RestoreReport {
            checkpoint: self.info().clone(),
            output: output.to_path_buf(),
            files,
            bytes,
            tensors: plan.tensors,
            identical: plan.identical,
            dropped: self.info().dropped.clone(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// What was read, or that the checkpoint was collected meanwhile.
    fn told<T>(&self, read: Result<T>) -> Result<T> {
        read.or_else(|error| self.store.explain(self.info().slot, &self.info().address(), error))
    }

    fn plan(&self, options: &RestoreOptions) -> Result<Plan> {
        let selection = Selection::new(options, &self.manifest.schema.components, &self.info().address())?;
        if selection.is_all() && self.tensors.iter().all(Option::is_some) && options.max_shard_bytes.is_none() {
            let headers = self.manifest.root.files.iter().all(|file| file.header.is_some());
            if headers && self.manifest.schema.tensors.iter().all(|tensor| tensor.boxes.is_empty()) {
                return plan::whole(&self.manifest, &self.tensors);
            }
        }
        plan::selected(&self.manifest, &self.tensors, &selection, options.max_shard_bytes)
    }

    /// The number of a tensor, and how it is stored.
    fn find(&self, name: &str) -> Result<(usize, Stored)> {
        let schema = &self.manifest.schema;
        let address = self.info().address();
        let named = |t: &&SchemaTensor| {
            let component = &schema.components[t.component as usize];
            t.meta.name == name
                || name.strip_prefix(component.as_str()).and_then(|rest| rest.strip_prefix(':')) == Some(&t.meta.name)
        };
        let mut found = schema.tensors.iter().enumerate().filter(|(_, t)| named(t));
        let (at, tensor) = found.next().ok_or_else(|| Error::PartUnknown {
            what: "tensor",
            name: names::printable(name).into_owned(),
            checkpoint: address.clone(),
        })?;
        if found.next().is_some() {
            return Err(Error::invalid(
                format!("tensor {}", names::printable(name)),
                "several components have it; write COMPONENT:NAME",
            ));
        }
        let component = schema.components[tensor.component as usize].clone();
        let stored = self.tensors[at].ok_or(Error::Thinned { what: component, checkpoint: address })?;
        Ok((at, stored))
    }

    fn copy(&self, stored: &Stored, sink: &mut dyn Write) -> Result<()> {
        let mut tool = ChunkTool::default();
        let mut bytes = Vec::new();
        for (chunk, length) in self.manifest.chunks.recipe(stored, &mut tool)?.0 {
            bytes.resize(length as usize, 0);
            self.manifest.chunks.read(chunk, &mut tool, &mut bytes)?;
            write_to(sink, &bytes)?;
        }
        Ok(())
    }

    fn tensor_info(&self, tensor: &SchemaTensor, stored: Option<&Stored>, tool: &mut ChunkTool) -> Result<TensorInfo> {
        let mut info = TensorInfo {
            component: self.manifest.schema.components[tensor.component as usize].clone(),
            meta: tensor.meta.clone(),
            id: stored.map(|stored| tensor.id_of(stored)),
            boxes: tensor.boxes.clone(),
            chunks: 0,
            stored_bytes: 0,
            encodings: Vec::new(),
            depth: 0,
            packs: Vec::new(),
        };
        let Some(stored) = stored else { return Ok(info) };
        let mut encodings = std::collections::BTreeMap::new();
        let mut packs = std::collections::BTreeSet::new();
        for (chunk, _) in self.manifest.chunks.recipe(stored, tool)?.0 {
            let how = self.manifest.chunks.how_stored(chunk).ok_or(Error::ChunkMissing { chunk })?;
            info.chunks += 1;
            info.stored_bytes += u64::from(how.frame_bytes);
            info.depth = info.depth.max(how.depth);
            *encodings.entry(crate::codec::name_of(how.codec)).or_insert(0) += 1;
            packs.insert(how.pack);
        }
        info.encodings = encodings.into_iter().map(|(name, count)| (name.to_string(), count)).collect();
        info.packs = packs.into_iter().collect();
        Ok(info)
    }
}

fn write_to(sink: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    let written = sink.write_all(bytes);
    written.map_err(|source| Error::Io { op: "write", path: PathBuf::from("the output"), source })
}
