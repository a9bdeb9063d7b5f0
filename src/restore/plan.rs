//! Which bytes go into which file: decided before anything is read or written.

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::RestoreOptions;
use crate::error::{Error, Result};
use crate::format::manifest::{SchemaTensor, Stored};
use crate::format::{names, safetensors};
use crate::store::{ChunkTool, Manifest};
use crate::tensor::TensorMeta;

/// The files to write.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) folder: bool,
    pub(super) files: Vec<OutFile>,
    pub(super) tensors: u64,
    /// Nothing is left out or made up.
    pub(super) identical: bool,
}

/// One file.
#[derive(Debug)]
pub(super) struct OutFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) pieces: Vec<Piece>,
}

/// Bytes at a place of a file.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) source: Source,
}

/// Where they come from.
#[derive(Debug)]
pub(super) enum Source {
    Stored(Stored),
    /// A tensor that is stored in boxes: its number, and its length.
    Boxes(usize, u64),
    Made(Vec<u8>),
}

/// Which tensors are wanted, and under which names.
#[derive(Debug)]
pub(super) struct Selection {
    component: Option<String>,
    include: Option<GlobSet>,
    exclude: Option<GlobSet>,
}

impl Plan {
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

impl OutFile {
    fn new(name: &str) -> OutFile {
        OutFile { name: name.to_string(), bytes: 0, pieces: Vec::new() }
    }

    fn push(&mut self, source: Source) {
        let offset = self.bytes;
        self.bytes += match &source {
            Source::Stored(stored) => stored.bytes,
            Source::Boxes(_, bytes) => *bytes,
            Source::Made(bytes) => bytes.len() as u64,
        };
        self.pieces.push(Piece { offset, source });
    }
}

impl Selection {
    pub(super) fn new(options: &RestoreOptions, components: &[String], address: &str) -> Result<Selection> {
        if let Some(name) = &options.component
            && !components.contains(name)
        {
            let name = format!("{} (it has {})", names::printable(name), components.join(", "));
            return Err(Error::PartUnknown { what: "component", name, checkpoint: address.to_string() });
        }
        Ok(Selection {
            component: options.component.clone(),
            include: globs(&options.include)?,
            exclude: globs(&options.exclude)?,
        })
    }

    pub(super) fn is_all(&self) -> bool {
        self.component.is_none() && self.include.is_none() && self.exclude.is_none()
    }

    /// Globs see the name as it was saved.
    fn wants(&self, component: &str, name: &str) -> bool {
        self.component.as_deref().is_none_or(|wanted| wanted == component)
            && self.include.as_ref().is_none_or(|globs| globs.is_match(name))
            && self.exclude.as_ref().is_none_or(|globs| !globs.is_match(name))
    }

    /// A component alone is named as a framework names it.
    fn name<'a>(&self, name: &'a str) -> &'a str {
        let prefix = self.component.as_deref();
        prefix
            .and_then(|prefix| name.strip_prefix(prefix)?.strip_prefix('.'))
            .filter(|rest| !rest.is_empty())
            .unwrap_or(name)
    }
}

fn globs(patterns: &[String]) -> Result<Option<GlobSet>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let bad = |e: globset::Error| Error::invalid("glob", e.to_string());
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(bad)?);
    }
    set.build().map(Some).map_err(bad)
}

/// Every file as it was saved.
pub(super) fn whole(manifest: &Manifest, tensors: &[Option<Stored>]) -> Result<Plan> {
    let root = &manifest.root;
    let mut tool = ChunkTool::default();
    let mut files = Vec::new();
    for (number, file) in root.files.iter().enumerate() {
        let mut out = OutFile::new(&file.name);
        let header = file.header.ok_or_else(|| Error::Bug("a whole file without a header".into()))?;
        let bytes = manifest.chunks.read_stored(&header, &mut tool)?;
        out.push(Source::Made(bytes.clone()));
        let members = manifest.schema.tensors.iter().zip(tensors).filter(|(t, _)| t.file as usize == number);
        for stored in in_file_order(&bytes, members, &manifest.row.address())? {
            out.push(Source::Stored(stored));
        }
        files.push(out);
    }
    files.extend(side_files(manifest));
    Ok(Plan { folder: root.folder || files.len() > 1, files, tensors: tensors.len() as u64, identical: true })
}

/// The stored tensors of a file in the order of its original header.
fn in_file_order<'a>(
    header: &[u8],
    members: impl Iterator<Item = (&'a SchemaTensor, &'a Option<Stored>)>,
    address: &str,
) -> Result<Vec<Stored>> {
    let damaged = || Error::damaged(format!("the manifest of {address}"), "a header that does not fit the schema");
    let mut by_name: std::collections::HashMap<&str, Stored> =
        members.filter_map(|(t, s)| Some((t.meta.name.as_str(), (*s)?))).collect();
    let total: u64 = by_name.values().map(|stored| stored.bytes).sum();
    let parsed =
        safetensors::parse("a stored header", header.get(8..).ok_or_else(damaged)?, total).map_err(|_| damaged())?;
    let ordered: Option<Vec<Stored>> =
        parsed.tensors.iter().map(|entry| by_name.remove(entry.meta.name.as_str())).collect();
    ordered.filter(|_| by_name.is_empty()).ok_or_else(damaged)
}

fn side_files(manifest: &Manifest) -> impl Iterator<Item = OutFile> {
    manifest.root.side_files.iter().map(|(name, stored)| {
        let mut out = OutFile::new(name);
        out.push(Source::Stored(*stored));
        out
    })
}

/// Some tensors, in one new file or in shards with an index.
pub(super) fn selected(
    manifest: &Manifest,
    tensors: &[Option<Stored>],
    selection: &Selection,
    shard_bytes: Option<u64>,
) -> Result<Plan> {
    let address = manifest.row.address();
    let mut chosen: Vec<(TensorMeta, Source)> = Vec::new();
    for (number, (tensor, stored)) in manifest.schema.tensors.iter().zip(tensors).enumerate() {
        let component = &manifest.schema.components[tensor.component as usize];
        if !selection.wants(component, &tensor.meta.name) {
            continue;
        }
        match stored {
            Some(stored) => {
                let name = selection.name(&tensor.meta.name).to_string();
                let source = match tensor.boxes.is_empty() {
                    true => Source::Stored(*stored),
                    false => Source::Boxes(number, stored.bytes),
                };
                chosen.push((TensorMeta { name, ..tensor.meta.clone() }, source));
            }
            // What was dropped is only an error if it was asked for by name.
            None if selection.component.is_none() => {}
            None => return Err(Error::Thinned { what: component.clone(), checkpoint: address }),
        }
    }
    let mut seen = std::collections::HashSet::new();
    if let Some((twice, _)) = chosen.iter().find(|(meta, _)| !seen.insert(&meta.name)) {
        let why = "several files or components have it; restore one --component, or all of it";
        return Err(Error::invalid(format!("tensor {}", names::printable(&twice.name)), why));
    }
    if chosen.is_empty() {
        return Err(Error::PartUnknown { what: "tensor", name: "that matches".into(), checkpoint: address });
    }
    let metas: Vec<TensorMeta> = chosen.iter().map(|(meta, _)| meta.clone()).collect();
    let metadata = [("format".to_string(), "pt".to_string())];
    let shards = safetensors::plan_shards(&metas, shard_bytes.unwrap_or(u64::MAX));
    let sharded = shard_bytes.is_some() && shards.len() > 1;
    let mut files = Vec::new();
    for (number, range) in shards.iter().enumerate() {
        let name =
            if sharded { safetensors::shard_name("model", number, shards.len()) } else { "model.safetensors".into() };
        let mut out = OutFile::new(&name);
        out.push(Source::Made(safetensors::write_header(&metas[range.clone()], &metadata)));
        chosen.drain(..range.len()).for_each(|(_, source)| out.push(source));
        files.push(out);
    }
    if sharded {
        let list: Vec<(String, &[TensorMeta])> =
            files.iter().zip(&shards).map(|(file, range)| (file.name.clone(), &metas[range.clone()])).collect();
        let mut index = OutFile::new(&format!("model{}", safetensors::INDEX_SUFFIX));
        index.push(Source::Made(safetensors::write_index(&list)));
        files.push(index);
    }
    // A selection of everything that is left brings the side files along, but no index of files that are no more.
    if selection.is_all() {
        files.extend(side_files(manifest).filter(|file| !file.name.ends_with(safetensors::INDEX_SUFFIX)));
    }
    let folder = sharded || shard_bytes.is_some() || files.len() > 1;
    Ok(Plan { folder, files, tensors: metas.len() as u64, identical: false })
}
