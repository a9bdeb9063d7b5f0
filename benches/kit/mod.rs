//! What the benchmarks share: data that looks like training state, disks that count or do not sync, and stopwatches.
#![allow(dead_code, reason = "no benchmark uses all of it")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use treering::Store;
use treering::disk::{Disk, DiskFile, FileSystem, Lock, Name, RealDisk};
use treering::format::safetensors;
use treering::save::{Inputs, SaveOptions, SaveReport};
use treering::store::{Address, Options, Point};
use treering::tensor::{DType, TensorMeta};

/// A tensor of 32-bit floats with its bytes.
pub(crate) type Tensor = (TensorMeta, Vec<u8>);

/// What a tensor of `bytes` bytes is called and how it looks.
pub(crate) fn meta(name: impl Into<String>, bytes: usize) -> TensorMeta {
    TensorMeta { name: name.into(), dtype: DType::new("F32"), shape: vec![bytes as u64 / 4], bytes: bytes as u64 }
}

/// Random bytes: the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Floats with the exponents of weights, as the sum of uniform numbers gives them, and mantissas of noise.
pub(crate) fn weights(seed: u64, len: usize) -> Vec<u8> {
    let uniform = |half: &[u8]| f32::from(u16::from_le_bytes([half[0], half[1]])) / 65536.0;
    let weight = |noise: &[u8]| 0.02 * (noise.chunks_exact(2).map(uniform).sum::<f32>() - 2.0);
    noise(seed, 2 * len).chunks_exact(8).flat_map(|noise| weight(noise).to_le_bytes()).collect()
}

/// The same floats after a step of training: each has moved a little.
pub(crate) fn trained(floats: &[u8], seed: u64) -> Vec<u8> {
    let moved = |(float, noise): (&[u8], &[u8])| {
        let float = f32::from_le_bytes(float.try_into().expect("four bytes"));
        let move_by = f32::from(i16::from_le_bytes([noise[0], noise[1]])) / 32768.0 / 1000.0;
        (float + float * move_by).to_le_bytes()
    };
    floats.chunks_exact(4).zip(noise(seed, floats.len() / 2).chunks_exact(2)).flat_map(moved).collect()
}

/// Writes a safetensors file.
pub(crate) fn write_file<'a>(
    path: &Path,
    metas: &[TensorMeta],
    tensors: impl Iterator<Item = std::borrow::Cow<'a, [u8]>>,
) {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).expect("a new file"));
    out.write_all(&safetensors::write_header(metas, &[])).expect("room on the disk");
    tensors.for_each(|bytes| out.write_all(&bytes).expect("room on the disk"));
    out.flush().expect("room on the disk");
}

/// A folder that is removed at the end, with the name of the place that it lies in.
pub(crate) fn places() -> Vec<(&'static str, tempfile::TempDir)> {
    let mut places = vec![("disk", tempfile::tempdir().expect("a temporary folder"))];
    if let Ok(folder) = tempfile::tempdir_in("/dev/shm") {
        places.push(("tmpfs", folder));
    }
    places
}

/// A new store through this disk.
pub(crate) fn create(root: &Path, disk: Option<Arc<dyn Disk>>) -> Store {
    Store::create(root, None, Options { disk, ..Options::default() }).expect("a new store")
}

/// Saves a file as a step of `run`.
pub(crate) fn save(store: &Store, path: &Path, step: u64, mapped: bool) -> SaveReport {
    let inputs = Inputs::paths(&[(None, path.to_path_buf())], mapped).expect("a safetensors file");
    store.save(&inputs, &SaveOptions { run: "run".into(), step, ..SaveOptions::default() }).expect("a save")
}

/// `run@STEP`.
pub(crate) fn step(step: u64) -> Address {
    Address { run: "run".into(), point: Point::Step(step) }
}

/// How long it takes, in seconds.
pub(crate) fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a figure beside its baseline, both as the median of rounds in turns, and the ratio of round to round.
pub(crate) fn compare(what: &str, bytes: u64, ours: &[f64], baseline: &[f64], target: &str) {
    let ratios: Vec<f64> = ours.iter().zip(baseline).map(|(ours, baseline)| ours / baseline).collect();
    let best = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let (ours, baseline) = (median(ours), median(baseline));
    let speed = |seconds: f64| bytes as f64 / seconds / 1e6;
    println!(
        "{what:<44} {:>8.1} ms {:>7.0} MB/s | {:>8.1} ms {:>7.0} MB/s | ratio {:.2}, best {best:.2}{target}",
        ours * 1e3,
        speed(ours),
        baseline * 1e3,
        speed(baseline),
        median(&ratios),
    );
}

/// Copies a file as plainly as can be, and syncs it.
pub(crate) fn copy_and_sync(from: &Path, to: &Path) {
    let (mut from, mut to) = (File::open(from).expect("a file"), File::create(to).expect("a new file"));
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut buffer).expect("a readable file");
        if count == 0 {
            break;
        }
        to.write_all(&buffer[..count]).expect("room on the disk");
    }
    to.sync_all().expect("a sync");
}

/// Both files have the same bytes.
pub(crate) fn assert_same(a: &Path, b: &Path) {
    let (mut a, mut b) = (File::open(a).expect("a file"), File::open(b).expect("a file"));
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = a.read(&mut left).expect("a readable file");
        b.read_exact(&mut right[..count]).expect("a file that is as long");
        assert!(left[..count] == right[..count], "other bytes came back");
        if count == 0 {
            break;
        }
    }
    assert_eq!(b.read(&mut right).expect("a readable file"), 0, "more bytes came back");
}

/// Packs and log.
pub(crate) fn stored_bytes(store: &Store) -> u64 {
    store.stats().expect("a readable store").stored_bytes
}

/// The operating system's disk, which counts what it writes and syncs, or does not sync at all.
#[derive(Debug, Default)]
pub(crate) struct BenchDisk {
    disk: RealDisk,
    syncs: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
    idle: bool,
}

impl BenchDisk {
    /// One that syncs nothing.
    pub(crate) fn without_syncs() -> BenchDisk {
        BenchDisk { idle: true, ..BenchDisk::default() }
    }

    /// Syncs of files and folders so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Bytes of all files so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(BenchFile { file, syncs: self.syncs.clone(), written: self.written.clone(), idle: self.idle })
    }
}

impl Disk for BenchDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(path).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(path)
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open_append(path).map(|file| self.file(file))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.make_folder(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if self.idle { Ok(()) } else { self.disk.sync_folder(path) }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Name>> {
        self.disk.list(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.disk.lock(path)
    }

    fn kind(&self, path: &Path) -> FileSystem {
        self.disk.kind(path)
    }
}

#[derive(Debug)]
struct BenchFile {
    file: Box<dyn DiskFile>,
    syncs: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
    idle: bool,
}

impl DiskFile for BenchFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if self.idle { Ok(()) } else { self.file.sync() }
    }

    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
}

/// The files of a real run by their steps: `*STEP.safetensors`.
pub(crate) fn steps_of(run: &Path) -> BTreeMap<u64, PathBuf> {
    let files = std::fs::read_dir(run).expect("a folder").map(|entry| entry.expect("a name").path());
    let of = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(".safetensors")?;
        let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        Some((digits.parse().ok()?, path))
    };
    files.filter_map(of).collect()
}

/// The arguments that are not cargo's.
pub(crate) fn arguments() -> Vec<String> {
    std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect()
}

/// Two files of the command line, if they were given.
pub(crate) fn given_files() -> Option<(PathBuf, PathBuf)> {
    match &arguments()[..] {
        [first, second] => Some((first.into(), second.into())),
        _ => None,
    }
}
