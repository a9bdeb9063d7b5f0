//! Writing the files of a plan, on all threads, under temporary names.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Checkpoint;
use super::plan::{Plan, Source};
use crate::disk::Ahead;
use crate::error::{Context, Error, Result};
use crate::format::names;
use crate::id::{ChunkId, SaveId};
use crate::parallel;
use crate::store::{ChunkTool, PackSet, Store};

/// Writes the plan to `output`.
pub(super) fn write(checkpoint: &Checkpoint, plan: &Plan, output: &Path, force: bool) -> Result<()> {
    let target = Target::new(&checkpoint.store, output, plan.folder, force)?;
    let written = write_files(checkpoint, plan, &target.temporary);
    match written {
        Ok(()) => target.put_in_place(),
        Err(error) => {
            target.discard();
            Err(error)
        }
    }
}

fn write_files(checkpoint: &Checkpoint, plan: &Plan, root: &Path) -> Result<()> {
    let (store, chunks) = (&checkpoint.store, &checkpoint.manifest.chunks);
    let mut outputs = Vec::new();
    for file in &plan.files {
        let path = if plan.folder { below(root, &file.name)? } else { root.to_path_buf() };
        let open = OpenOptions::new().write(true).create_new(true).open(&path).context("create", &path)?;
        open.set_len(file.bytes).context("write", &path)?;
        outputs.push((path, open));
    }
    let mut jobs = Jobs { chunks, plan, tool: ChunkTool::default(), file: 0, piece: 0, recipe: Vec::new(), offset: 0 };
    let mut ahead: Vec<Ahead> = outputs.iter().map(|_| Ahead::default()).collect();
    let tool = || (ChunkTool::default(), Vec::new());
    parallel::ordered(
        store.threads(),
        4 * store.threads(),
        || store.check_stop().and_then(|()| jobs.next()),
        tool,
        |(tool, buffer), job| {
            let (path, file) = &outputs[job.file];
            let bytes: &[u8] = match job.bytes {
                JobBytes::Chunk(chunk, length) => {
                    // Not cleared: reading fills it to the last byte or fails.
                    buffer.resize(length as usize, 0);
                    chunks.read(chunk, tool, buffer)?;
                    buffer
                }
                JobBytes::Made(bytes) => bytes,
            };
            file.write_all_at(bytes, job.offset).context("write", path)?;
            store.monitor().advance(bytes.len() as u64);
            Ok((job.file, bytes.len() as u64))
        },
        |(file, bytes)| {
            ahead[file].wrote(&outputs[file].1, bytes);
            Ok(())
        },
    )?;
    for ((path, file), out) in outputs.iter().zip(&plan.files) {
        for piece in &out.pieces {
            let Source::Boxes(tensor, _) = piece.source else { continue };
            checkpoint.in_order(tensor, &mut |at, bytes| {
                file.write_all_at(bytes, piece.offset + at).context("write", path)
            })?;
        }
    }
    parallel::for_each(store.threads(), &outputs, || (), |(), (path, file)| file.sync_all().context("sync", path))
}

/// Goes through the pieces of a plan, chunk by chunk.
struct Jobs<'a> {
    chunks: &'a PackSet,
    plan: &'a Plan,
    tool: ChunkTool,
    file: usize,
    piece: usize,
    /// What is left of the piece, last chunk first.
    recipe: Vec<(ChunkId, u32)>,
    offset: u64,
}

struct Job<'a> {
    file: usize,
    offset: u64,
    bytes: JobBytes<'a>,
}

enum JobBytes<'a> {
    Chunk(ChunkId, u32),
    Made(&'a [u8]),
}

impl<'a> Jobs<'a> {
    fn next(&mut self) -> Result<Option<Job<'a>>> {
        loop {
            if let Some((chunk, length)) = self.recipe.pop() {
                let job = Job { file: self.file, offset: self.offset, bytes: JobBytes::Chunk(chunk, length) };
                self.offset += u64::from(length);
                return Ok(Some(job));
            }
            let Some(file) = self.plan.files.get(self.file) else { return Ok(None) };
            let Some(piece) = file.pieces.get(self.piece) else {
                self.file += 1;
                self.piece = 0;
                continue;
            };
            self.piece += 1;
            match &piece.source {
                Source::Made(bytes) => {
                    return Ok(Some(Job { file: self.file, offset: piece.offset, bytes: JobBytes::Made(bytes) }));
                }
                // Put in order in the end, one after the other.
                Source::Boxes(..) => {}
                Source::Stored(stored) => {
                    self.recipe = self.chunks.recipe(stored, &mut self.tool)?.0;
                    self.recipe.reverse();
                    self.offset = piece.offset;
                }
            }
        }
    }
}

/// The path of a stored name below a folder, its own folders made.
fn below(root: &Path, name: &str) -> Result<PathBuf> {
    let path = root.join(names::check_output_name(name)?);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).context("create folder", parent)?;
    }
    Ok(path)
}

/// Where the output goes, and what it is called until it is whole.
struct Target {
    output: PathBuf,
    parent: PathBuf,
    temporary: PathBuf,
    folder: bool,
    force: bool,
}

impl Target {
    fn new(store: &Store, output: &Path, folder: bool, force: bool) -> Result<Target> {
        let name = output
            .file_name()
            .ok_or_else(|| Error::invalid(output.display().to_string(), "not the name of a file or folder"))?;
        let parent = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let found = std::fs::symlink_metadata(output).ok();
        let empty_folder = folder && std::fs::read_dir(output).is_ok_and(|mut inside| inside.next().is_none());
        match found {
            Some(found) if !empty_folder => {
                if !force {
                    return Err(Error::OutputExists { path: output.to_path_buf() });
                }
                if found.is_dir() && !folder {
                    return Err(Error::invalid(
                        output.display().to_string(),
                        "a folder, and what is restored is one file",
                    ));
                }
            }
            _ => {}
        }
        let random = &SaveId(store.env().random()).to_hex()[..12];
        let temporary = parent.join(format!(".{}.{random}.part", name.to_string_lossy()));
        if folder {
            std::fs::create_dir(&temporary).context("create folder", &temporary)?;
        }
        Ok(Target { output: output.to_path_buf(), parent, temporary, folder, force })
    }

    fn put_in_place(self) -> Result<()> {
        let placed = if self.folder { self.place_folder() } else { self.place_file() };
        if placed.is_err() {
            self.discard();
        }
        placed?;
        File::open(&self.parent).and_then(|parent| parent.sync_all()).context("sync folder", &self.parent)
    }

    fn place_file(&self) -> Result<()> {
        if self.force {
            return std::fs::rename(&self.temporary, &self.output).context("rename to", &self.output);
        }
        // A link fails where a rename would replace what somebody put there meanwhile.
        match std::fs::hard_link(&self.temporary, &self.output) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::OutputExists { path: self.output.clone() })
            }
            Err(_) => std::fs::rename(&self.temporary, &self.output).context("rename to", &self.output),
            Ok(()) => std::fs::remove_file(&self.temporary).context("remove", &self.temporary),
        }
    }

    fn place_folder(&self) -> Result<()> {
        sync_folders(&self.temporary)?;
        let old = self.temporary.with_extension("old");
        let had = self.force && std::fs::rename(&self.output, &old).is_ok();
        // Renaming a folder over an empty one is allowed; over any other it fails.
        let placed = std::fs::rename(&self.temporary, &self.output).map_err(|e| match e.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                Error::OutputExists { path: self.output.clone() }
            }
            _ => Error::Io { op: "rename to", path: self.output.clone(), source: e },
        });
        if had {
            match &placed {
                Ok(()) => remove(&old),
                Err(_) => drop(std::fs::rename(&old, &self.output)),
            }
        }
        placed
    }

    fn discard(&self) {
        remove(&self.temporary);
    }
}

fn remove(path: &Path) {
    let _ = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        _ => std::fs::remove_file(path),
    };
}

fn sync_folders(root: &Path) -> Result<()> {
    for entry in std::fs::read_dir(root).context("read", root)? {
        let path = entry.context("read", root)?.path();
        if path.is_dir() {
            sync_folders(&path)?;
        }
    }
    File::open(root).and_then(|folder| folder.sync_all()).context("sync folder", root)
}
