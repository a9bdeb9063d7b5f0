//! What is to be saved: files, folders or tensors in memory, looked at but not read.
//!
//! Input files are not the store's: they are opened here, read by position, and looked at again at the end, so that one
//! that changes or shrinks meanwhile is an error and not a checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::format::{names, safetensors};
use crate::tensor::boxes::{Runs, TensorBox};
use crate::tensor::{Layout, TensorMeta};

/// The name under which a single file is kept.
pub(crate) const SINGLE_FILE: &str = "checkpoint.safetensors";
/// Folders in folders, at most.
const NESTING_MAX: usize = 16;

/// What a save takes.
#[derive(Debug, Default)]
pub struct Inputs<'a> {
    pub(super) folder: bool,
    pub(super) files: Vec<InputFile<'a>>,
    pub(super) tensors: Vec<InputTensor>,
    pub(super) side_files: Vec<(String, Bytes<'a>)>,
    /// What tensors were in the parent, by component and name.
    before: HashMap<(String, String), MemoryTensor<'a>>,
}

/// A safetensors file, or tensors from memory.
#[derive(Debug)]
pub(super) struct InputFile<'a> {
    pub(super) name: String,
    /// The first bytes of the file, up to its first tensor.
    pub(super) header: Option<Vec<u8>>,
    pub(super) bytes: Vec<Bytes<'a>>,
}

/// A tensor and where its bytes are.
#[derive(Debug)]
pub(super) struct InputTensor {
    pub(super) component: String,
    pub(super) file: u32,
    pub(super) meta: TensorMeta,
    /// Which of the file's sources, and where in it.
    pub(super) source: usize,
    pub(super) offset: u64,
    /// What it is a box of.
    pub(super) of: Option<BoxOf>,
}

/// What a tensor is a box of: other processes have the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxOf {
    /// The shape of the whole tensor.
    pub shape: Vec<u64>,
    /// Where in it the box begins, in each dimension.
    pub offsets: Vec<u64>,
}

/// A tensor in memory.
#[derive(Clone, Debug)]
pub struct MemoryTensor<'a> {
    /// Name, type and shape.
    pub meta: TensorMeta,
    /// Its bytes, little-endian and without gaps.
    pub bytes: &'a [u8],
}

/// Where the bytes of a tensor are, little-endian and without gaps.
#[derive(Clone, Copy, Debug)]
pub enum TensorBytes<'a> {
    /// In memory.
    Memory(&'a [u8]),
    /// Elsewhere.
    Pieces(&'a dyn Pieces),
}

/// A tensor of which not more is in memory than is worked on.
pub trait Pieces: fmt::Debug + Sync {
    /// Fills `out` with its bytes from `offset` on. The same bytes each time: a save may ask twice.
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<()>;
}

/// Where bytes come from.
#[derive(Debug)]
pub(super) enum Bytes<'a> {
    Memory(&'a [u8]),
    Pieces(&'a dyn Pieces),
    Owned(Vec<u8>),
    Mapped(memmap2::Mmap),
    File(OpenFile),
}

/// An input file, and what it looked like when it was opened.
#[derive(Debug)]
pub(super) struct OpenFile {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    inode: u64,
    modified: (i64, i64),
}

impl<'a> Inputs<'a> {
    /// Files and folders. `COMPONENT` may be given with each; otherwise a tensor's component is the first part of its
    /// name. One file alone comes back as a file, anything else as a folder. `mapped` vouches that the files do not
    /// change.
    pub fn paths(paths: &[(Option<String>, PathBuf)], mapped: bool) -> Result<Inputs<'a>> {
        let mut inputs = Inputs { folder: paths.len() > 1, ..Inputs::default() };
        for (component, path) in paths {
            if let Some(component) = component {
                names::check_component(component)?;
            }
            let meta = std::fs::metadata(path).context("read", path)?;
            if meta.is_dir() {
                inputs.folder = true;
                inputs.add_folder(path, component.as_deref(), mapped)?;
            } else {
                let name = if paths.len() == 1 { SINGLE_FILE.to_string() } else { file_name(path)? };
                inputs.add_safetensors(path, name, component.as_deref(), mapped)?;
            }
        }
        inputs.check()
    }

    /// Tensors in memory, each with its component or, for `None`, the first part of its name. Tensors whose bytes are
    /// the very same slice are tied: they are stored once, and [`crate::restore::Checkpoint::ties`] tells.
    pub fn tensors(tensors: Vec<(Option<String>, MemoryTensor<'a>)>) -> Result<Inputs<'a>> {
        Inputs::shares(tensors.into_iter().map(|(component, tensor)| (component, tensor, None)).collect())
    }

    /// Tensors in memory, and boxes of tensors, for one part of a joint save.
    pub fn shares(tensors: Vec<(Option<String>, MemoryTensor<'a>, Option<BoxOf>)>) -> Result<Inputs<'a>> {
        let given = |(component, tensor, of): (_, MemoryTensor<'a>, _)| {
            (component, tensor.meta, TensorBytes::Memory(tensor.bytes), of)
        };
        Inputs::given(tensors.into_iter().map(given).collect())
    }

    /// Tensors, or boxes of tensors, that are in memory or are asked for piece by piece. Tied are also those of which the
    /// very same object is asked.
    pub fn given(tensors: Vec<(Option<String>, TensorMeta, TensorBytes<'a>, Option<BoxOf>)>) -> Result<Inputs<'a>> {
        let mut bytes = Vec::with_capacity(tensors.len());
        let mut inputs = Inputs::default();
        for (source, (component, meta, given, of)) in tensors.into_iter().enumerate() {
            let name = names::printable(&meta.name).into_owned();
            names::check_tensor(&meta.name)?;
            let length = match given {
                TensorBytes::Memory(bytes) => bytes.len() as u64,
                TensorBytes::Pieces(_) => meta.bytes,
            };
            if meta.bytes != length || !meta.fits() {
                return Err(Error::invalid(
                    format!("tensor {name}"),
                    format!("{length} bytes do not fit its type and shape"),
                ));
            }
            if of.as_ref().is_some_and(|of| !of.holds(&meta)) {
                return Err(Error::invalid(format!("tensor {name}"), "it is no box of the whole one"));
            }
            bytes.push(match given {
                TensorBytes::Memory(slice) => Bytes::Memory(slice),
                TensorBytes::Pieces(pieces) => Bytes::Pieces(pieces),
            });
            let component = component.unwrap_or_else(|| names::component_of(&meta.name).to_string());
            names::check_component(&component)?;
            inputs.tensors.push(InputTensor { component, file: 0, meta, source, offset: 0, of });
        }
        inputs.files.push(InputFile { name: SINGLE_FILE.into(), header: None, bytes });
        inputs.check()
    }

    /// Says what tensors were in the checkpoint that the save continues, where a caller still has it in memory. A chunk
    /// of it that another is stored as a difference to is then not read back and decoded. Nothing here is believed: a
    /// chunk is taken from memory only if it has the hash of the one in the store, and read from there otherwise.
    #[must_use]
    pub fn with_before(mut self, tensors: Vec<(Option<String>, MemoryTensor<'a>)>) -> Inputs<'a> {
        let key = |(component, tensor): (Option<String>, MemoryTensor<'a>)| {
            let component = component.unwrap_or_else(|| names::component_of(&tensor.meta.name).to_string());
            ((component, tensor.meta.name.clone()), tensor)
        };
        self.before = tensors.into_iter().map(key).collect();
        self
    }

    /// Adds files that are kept as they are, under their names.
    pub fn with_side_files(mut self, paths: &[PathBuf]) -> Result<Inputs<'a>> {
        for path in paths {
            self.side_files.push((file_name(path)?, Bytes::open(path, false)?));
        }
        self.check()
    }

    /// Adds bytes that are kept as a side file.
    pub fn with_side_bytes(mut self, name: &str, bytes: Vec<u8>) -> Result<Inputs<'a>> {
        // Many may come, one after the other: only this one is looked at.
        names::check_side_file(name)?;
        if self.names().any(|other| other == name) {
            return Err(taken(name));
        }
        self.side_files.push((name.to_string(), Bytes::Owned(bytes)));
        Ok(self)
    }

    /// The sum of all bytes.
    pub fn raw_bytes(&self) -> u64 {
        let headers = self.files.iter().filter_map(|file| file.header.as_ref()).map(|header| header.len() as u64);
        let tensors = self.tensors.iter().map(|tensor| tensor.meta.bytes);
        headers.chain(tensors).chain(self.side_files.iter().map(|(_, bytes)| bytes.len())).sum()
    }

    /// The memory that a tensor is, or what is asked for it: two tensors of the same are tied.
    pub(super) fn memory_of(&self, tensor: &InputTensor) -> Option<(*const u8, usize)> {
        match &self.files[tensor.file as usize].bytes[tensor.source] {
            Bytes::Memory(slice) if !slice.is_empty() => Some((slice.as_ptr(), slice.len())),
            Bytes::Pieces(pieces) if tensor.meta.bytes > 0 => {
                Some((std::ptr::from_ref(*pieces).cast(), tensor.meta.bytes as usize))
            }
            _ => None,
        }
    }

    /// What a tensor was in the parent, if a caller said so and it has the same type and shape.
    pub(super) fn before(&self, tensor: &InputTensor) -> Option<&'a [u8]> {
        if self.before.is_empty() || tensor.of.is_some() {
            return None;
        }
        let before = self.before.get(&(tensor.component.clone(), tensor.meta.name.clone()))?;
        (before.meta.dtype == tensor.meta.dtype && before.meta.shape == tensor.meta.shape).then_some(before.bytes)
    }

    /// Every file is still what it was when it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let all = self.files.iter().flat_map(|file| &file.bytes).chain(self.side_files.iter().map(|(_, bytes)| bytes));
        all.into_iter().try_for_each(Bytes::check_unchanged)
    }

    fn add_folder(&mut self, root: &Path, component: Option<&str>, mapped: bool) -> Result<()> {
        for (name, path) in files_below(root)? {
            if name.ends_with(".safetensors") {
                self.add_safetensors(&path, name, component, mapped)?;
            } else {
                self.side_files.push((name, Bytes::open(&path, mapped)?));
            }
        }
        if self.files.is_empty() {
            return Err(Error::invalid(root.display().to_string(), "no .safetensors file in this folder"));
        }
        Ok(())
    }

    fn add_safetensors(&mut self, path: &Path, name: String, component: Option<&str>, mapped: bool) -> Result<()> {
        let what = path.display().to_string();
        let bytes = Bytes::open(path, mapped)?;
        if bytes.len() < 8 {
            return Err(Error::invalid(what, format!("{} bytes are no safetensors file", bytes.len())));
        }
        let mut first = [0; 8];
        bytes.read_exact_at(&mut first, 0)?;
        let length = safetensors::header_len(&what, first, bytes.len())?;
        let mut header = vec![0; 8 + length as usize];
        bytes.read_exact_at(&mut header, 0)?;
        let parsed = safetensors::parse(&what, &header[8..], bytes.len() - 8 - length)?;
        let file = self.files.len() as u32;
        self.tensors.extend(parsed.tensors.into_iter().map(|entry| InputTensor {
            component: component.unwrap_or_else(|| names::component_of(&entry.meta.name)).to_string(),
            file,
            source: 0,
            offset: parsed.data_start + entry.begin,
            meta: entry.meta,
            of: None,
        }));
        self.files.push(InputFile { name, header: Some(header), bytes: vec![bytes] });
        Ok(())
    }

    /// Sorts the tensors as a manifest has them, and refuses what could not be told apart.
    fn check(mut self) -> Result<Inputs<'a>> {
        self.tensors.sort_by(|a, b| {
            (&a.component, a.file, a.source, a.offset).cmp(&(&b.component, b.file, b.source, b.offset))
        });
        let mut seen = HashSet::with_capacity(self.tensors.len());
        let keys =
            self.tensors.iter().map(|t| (&t.component, t.file, &t.meta.name, t.of.as_ref().map(|of| &of.offsets)));
        if let Some((twice, _)) = self.tensors.iter().zip(keys).find(|(_, key)| !seen.insert(*key)) {
            return Err(Error::invalid(format!("tensor {}", names::printable(&twice.meta.name)), "given twice"));
        }
        let mut names = BTreeSet::new();
        for name in self.names() {
            names::check_side_file(name)?;
            if !names.insert(name) {
                return Err(taken(name));
            }
        }
        Ok(self)
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.files.iter().map(|file| &file.name).chain(self.side_files.iter().map(|(name, _)| name))
    }
}

fn taken(name: &str) -> Error {
    Error::invalid(names::printable(name), "two inputs have this name")
}

/// Regular files below a folder by their relative names, sorted. Links are followed, as model folders are full of them.
pub(crate) fn files_below(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let mut todo = vec![(root.to_path_buf(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = todo.pop() {
        for entry in std::fs::read_dir(&folder).context("read", &folder)? {
            let path = entry.context("read", &folder)?.path();
            let name = file_name(&path)?;
            let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let meta = std::fs::metadata(&path).context("read", &path)?;
            if meta.is_dir() && depth < NESTING_MAX {
                todo.push((path, name, depth + 1));
            } else if meta.is_file() {
                files.insert(name, path);
            } else {
                return Err(Error::invalid(
                    path.display().to_string(),
                    "neither a file nor a folder that can be saved",
                ));
            }
        }
    }
    Ok(files)
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_string).ok_or_else(|| Error::invalid(path.display().to_string(), "not a name in UTF-8"))
}

impl Bytes<'_> {
    fn open(path: &Path, mapped: bool) -> Result<Bytes<'static>> {
        let file = File::open(path).context("open", path)?;
        let stamp = Stamp::of(&file, path)?;
        if mapped && stamp.bytes > 0 {
            #[expect(unsafe_code, reason = "the user vouches that the file does not change while it is read")]
            // SAFETY: a mapping is sound as long as nobody changes the file; `--mmap` says so in its help.
            let map = unsafe { memmap2::Mmap::map(&file) }.context("map", path)?;
            return Ok(Bytes::Mapped(map));
        }
        Ok(Bytes::File(OpenFile { path: path.to_path_buf(), file, stamp }))
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Bytes::File(open) => open.stamp.bytes,
            other => other.slice().map_or(0, |slice| slice.len() as u64),
        }
    }

    /// The bytes, if they are in memory.
    pub(super) fn slice(&self) -> Option<&[u8]> {
        match self {
            Bytes::Memory(slice) => Some(slice),
            Bytes::Owned(bytes) => Some(bytes),
            Bytes::Mapped(map) => Some(map),
            Bytes::File(_) | Bytes::Pieces(_) => None,
        }
    }

    pub(super) fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        if let Bytes::File(open) = self {
            return open.file.read_exact_at(out, offset).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => Error::InputChanged { path: open.path.clone() },
                _ => Error::Io { op: "read", path: open.path.clone(), source: e },
            });
        }
        if let Bytes::Pieces(pieces) = self {
            return pieces.read_exact_at(out, offset);
        }
        let slice = self.slice().unwrap_or_default();
        let start = usize::try_from(offset).ok();
        let found = start.and_then(|start| slice.get(start..start.checked_add(out.len())?));
        out.copy_from_slice(found.ok_or_else(|| Error::Bug("a tensor outside its input".into()))?);
        Ok(())
    }

    fn check_unchanged(&self) -> Result<()> {
        match self {
            Bytes::File(open) if Stamp::of(&open.file, &open.path)? != open.stamp => {
                Err(Error::InputChanged { path: open.path.clone() })
            }
            _ => Ok(()),
        }
    }
}

impl Stamp {
    fn of(file: &File, path: &Path) -> Result<Stamp> {
        let meta = file.metadata().context("read", path)?;
        if !meta.is_file() {
            return Err(Error::invalid(path.display().to_string(), "not a regular file"));
        }
        Ok(Stamp { bytes: meta.len(), inode: meta.ino(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }
}

impl BoxOf {
    /// This tensor is the box.
    fn holds(&self, tensor: &TensorMeta) -> bool {
        let runs = self.meta(tensor).and_then(|whole| Runs::new(&self.place(tensor), &whole));
        runs.is_some_and(|runs| runs.bytes() == tensor.bytes)
    }

    /// Which box of the whole tensor this one is.
    fn place(&self, tensor: &TensorMeta) -> TensorBox {
        TensorBox { offsets: self.offsets.clone(), lengths: tensor.shape.clone() }
    }

    /// The whole tensor.
    fn meta(&self, tensor: &TensorMeta) -> Option<TensorMeta> {
        let factors = self.shape.iter().copied().chain([tensor.dtype.bits()?.into()]);
        let bits = factors.into_iter().try_fold(1u64, |product, factor| product.checked_mul(factor))?;
        Some(TensorMeta { shape: self.shape.clone(), bytes: bits / 8, ..tensor.clone() })
    }
}

impl InputTensor {
    /// The whole tensor that this is, or is a box of.
    pub(super) fn whole(&self) -> TensorMeta {
        self.of.as_ref().and_then(|of| of.meta(&self.meta)).unwrap_or_else(|| self.meta.clone())
    }

    /// The shape of the same.
    pub(super) fn whole_shape(&self) -> &[u64] {
        self.of.as_ref().map_or(&self.meta.shape, |of| &of.shape)
    }

    /// Which box of the whole tensor it is.
    pub(super) fn place(&self) -> TensorBox {
        self.of.as_ref().map_or_else(|| TensorBox::whole(&self.meta.shape), |of| of.place(&self.meta))
    }

    pub(super) fn layout(&self) -> Layout {
        self.meta.dtype.layout()
    }
}
