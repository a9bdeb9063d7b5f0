//! What a store would make of somebody's own checkpoints: a series of them is saved in a temporary store, beside a plain
//! copy and zstd, restored and compared, and collected under a few policies.
//!
//! # What always holds
//! * The inputs are only read.
//! * What is written lies in one temporary folder, which is gone in the end, whatever the end is.
//! * Every file that is restored is compared with its original, byte for byte; a difference is an error.
//! * Each checkpoint is read once before anything is timed, so nobody pays for a cold cache that another has warmed.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::env::Env;
use crate::error::{Context, Error, Result};
use crate::format::policy::{Keep, Policy};
use crate::gc::GcOptions;
use crate::id::SaveId;
use crate::monitor::{Monitor, Unit};
use crate::restore::RestoreOptions;
use crate::save::{Encoding, Inputs, SaveOptions, files_below};
use crate::store::{Address, CatalogPlace, Options, Point, Store, is_network};

/// What zstd is told.
const ZSTD_LEVEL: i32 = 3;
/// Bytes that are copied, compressed or compared at a time.
const PIECE_BYTES: usize = 1 << 20;
/// The run in the temporary store.
const RUN: &str = "measured";

/// How to measure.
#[derive(Clone, Debug)]
pub struct MeasureOptions {
    /// The temporary store is made in this folder.
    pub folder: PathBuf,
    /// How much time a smaller store is worth.
    pub encoding: Encoding,
    /// Leave zstd out.
    pub quick: bool,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Each checkpoint, in the order of the series.
    pub saves: Vec<MeasuredSave>,
    /// The checkpoints that were restored, from the store of all.
    pub restores: Vec<MeasuredRestore>,
    /// What a store holds after all saves, under each policy.
    pub policies: Vec<MeasuredPolicy>,
}

/// One checkpoint of the series.
#[derive(Clone, Debug)]
pub struct MeasuredSave {
    /// The name of its file or folder.
    pub name: String,
    /// Its bytes.
    pub raw_bytes: u64,
    /// What the save added to the store, packs and log.
    pub new_bytes: u64,
    /// How long the save took until it was durable.
    pub seconds: f64,
    /// How long copying and syncing it took.
    pub copy_seconds: f64,
    /// What zstd made of it, and how long that took with writing and syncing; one thread.
    pub zstd: Option<(u64, f64)>,
}

/// A checkpoint that was restored, and was the same.
#[derive(Clone, Debug)]
pub struct MeasuredRestore {
    /// Which of [`Measured::saves`].
    pub save: usize,
    /// Bytes.
    pub bytes: u64,
    /// How long it took until the files were durable.
    pub seconds: f64,
}

/// A store under a policy.
#[derive(Clone, Debug)]
pub struct MeasuredPolicy {
    /// Its rules; without any, everything stays.
    pub policy: Policy,
    /// Checkpoints that are left.
    pub checkpoints: u64,
    /// What plain copies of them take.
    pub raw_bytes: u64,
    /// What the store takes, packs and log.
    pub stored_bytes: u64,
}

/// Measures a series of checkpoints.
pub fn measure(series: &[PathBuf], options: &MeasureOptions, monitor: Arc<dyn Monitor>) -> Result<Measured> {
    // What cannot be saved is found before anything takes time.
    let sizes = series.iter().map(|path| Ok(inputs(path)?.raw_bytes())).collect::<Result<Vec<u64>>>()?;
    let rounds = if options.quick { 3 } else { 4 };
    let again: u64 = to_restore(series.len()).map(|at| sizes[at]).sum();
    let bench = Bench { folder: Folder::new(&options.folder)?, options, monitor };
    bench.monitor.begin("measuring", Some(sizes.iter().sum::<u64>() * rounds + again), Unit::Bytes);
    let measured = bench.run(series);
    bench.monitor.end();
    measured
}

/// The checkpoints that these paths mean, in the natural order of their names, at most `limit` of them. One folder
/// stands for the safetensors files in it or, if there are none, for the folders in it that have some.
pub fn series(paths: &[PathBuf], limit: Option<usize>) -> Result<Vec<PathBuf>> {
    let mut series = match paths {
        [folder] if folder.is_dir() => in_folder(folder)?,
        paths => paths.to_vec(),
    };
    series.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    series.truncate(limit.unwrap_or(usize::MAX));
    Ok(series)
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).context("read", folder)? {
        let path = entry.context("read", folder)?.path();
        if is_safetensors(&path) {
            files.push(path);
        } else if path.is_dir() && has_safetensors(&path)? {
            folders.push(path);
        }
    }
    let bad = |why: &str| Error::invalid(folder.display().to_string(), why);
    match (files.is_empty(), folders.is_empty()) {
        (true, true) => Err(bad("no .safetensors file in this folder, nor in one of its folders")),
        // Shards are parts of one checkpoint.
        (false, _) if folder.join("model.safetensors.index.json").exists() => {
            Err(bad("this is one checkpoint, in several files; name the folder that holds the series"))
        }
        (false, _) => Ok(files),
        (true, false) => Ok(folders),
    }
}

fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors") && path.is_file()
}

fn has_safetensors(folder: &Path) -> Result<bool> {
    let mut entries = std::fs::read_dir(folder).context("read", folder)?;
    Ok(entries.any(|entry| entry.is_ok_and(|entry| is_safetensors(&entry.path()))))
}

/// Numbers in names count as numbers: `step-20` comes before `step-100`.
fn natural(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(String, String)> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (word, tail) = rest.split_at(digits);
            let (number, tail) = tail.split_at(tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len()));
            parts.push((word.to_string(), number.trim_start_matches('0').to_string()));
            rest = tail;
        }
        parts
    };
    let both = (parts(a), parts(b));
    let by_part = both.0.iter().zip(&both.1).map(|((word, number), (other_word, other_number))| {
        word.cmp(other_word).then(number.len().cmp(&other_number.len())).then(number.cmp(other_number))
    });
    by_part.fold(Ordering::Equal, Ordering::then).then(both.0.len().cmp(&both.1.len())).then(a.cmp(b))
}

/// The last of a series, and one in its middle.
fn to_restore(count: usize) -> impl Iterator<Item = usize> {
    let last = count.checked_sub(1);
    let middle = Some(count / 2).filter(|&middle| Some(middle) < last);
    last.into_iter().chain(middle)
}

/// Beside keeping everything: the newest with some of the older ones, and the newest alone. Steps are counted from 1.
fn policies(saves: usize) -> [Policy; 2] {
    let every = if saves < 20 { 4 } else { 10 };
    let keeps = [vec![Keep::Last(3), Keep::Every(every)], vec![Keep::Last(3)]];
    keeps.map(|keeps| Policy { keeps, thins: Vec::new() })
}

fn inputs(path: &Path) -> Result<Inputs<'static>> {
    Inputs::paths(&[(None, path.to_path_buf())], false)
}

/// The files of a checkpoint, each with its name in it.
fn files_of(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    if path.is_dir() {
        return Ok(files_below(path)?.into_iter().collect());
    }
    Ok(vec![(String::new(), path.to_path_buf())])
}

struct Bench<'a> {
    folder: Folder,
    options: &'a MeasureOptions,
    monitor: Arc<dyn Monitor>,
}

impl Bench<'_> {
    fn run(&self, series: &[PathBuf]) -> Result<Measured> {
        // On a network file system the catalog would lie elsewhere, and stay there.
        let catalog = if is_network(&self.folder.0) { CatalogPlace::Memory } else { CatalogPlace::Auto };
        let store = Store::create(self.folder.0.join("store"), None, Options { catalog, ..Options::default() })?;
        let store = store.with_monitor(Arc::new(Part(self.monitor.clone())));
        let mut measured = Measured::default();
        for (n, path) in series.iter().enumerate() {
            measured.saves.push(self.save(&store, path, n as u64 + 1)?);
        }
        for save in to_restore(series.len()) {
            measured.restores.push(self.restore(&store, &series[save], save)?);
        }
        measured.policies.push(under(&store, Policy::default())?);
        // Each keeps less than the one before it, so one store does for all.
        for policy in policies(series.len()) {
            store.set_policy(RUN, &policy)?;
            store.gc(&GcOptions::default())?;
            measured.policies.push(under(&store, policy)?);
        }
        Ok(measured)
    }

    fn save(&self, store: &Store, path: &Path, step: u64) -> Result<MeasuredSave> {
        let files = files_of(path)?;
        for (_, file) in &files {
            self.pieces(file, |_| Ok(()))?;
        }
        let copy_seconds = self.copy(&files)?;
        let zstd = if self.options.quick { None } else { Some(self.zstd(&files)?) };
        let started = Instant::now();
        let options = SaveOptions { run: RUN.into(), step, encoding: self.options.encoding, ..SaveOptions::default() };
        let report = store.save(&inputs(path)?, &options)?;
        let seconds = started.elapsed().as_secs_f64();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let (raw_bytes, new_bytes) = (report.sizes.raw, report.new_bytes);
        Ok(MeasuredSave { name, raw_bytes, new_bytes, seconds, copy_seconds, zstd })
    }

    /// Copies and syncs each file, as plainly as can be.
    fn copy(&self, files: &[(String, PathBuf)]) -> Result<f64> {
        let target = self.folder.0.join("copy");
        let mut seconds = 0.0;
        for (_, file) in files {
            let started = Instant::now();
            let mut copy = File::create(&target).context("create", &target)?;
            self.pieces(file, |piece| copy.write_all(piece).context("write", &target))?;
            copy.sync_all().context("sync", &target)?;
            seconds += started.elapsed().as_secs_f64();
            std::fs::remove_file(&target).context("remove", &target)?;
        }
        Ok(seconds)
    }

    fn zstd(&self, files: &[(String, PathBuf)]) -> Result<(u64, f64)> {
        let target = self.folder.0.join("zstd");
        let started = Instant::now();
        let output = File::create(&target).context("create", &target)?;
        let mut encoder = zstd::stream::Encoder::new(output, ZSTD_LEVEL).context("compress to", &target)?;
        for (_, file) in files {
            self.pieces(file, |piece| encoder.write_all(piece).context("compress to", &target))?;
        }
        let output = encoder.finish().context("compress to", &target)?;
        output.sync_all().context("sync", &target)?;
        let seconds = started.elapsed().as_secs_f64();
        let bytes = output.metadata().context("read", &target)?.len();
        std::fs::remove_file(&target).context("remove", &target)?;
        Ok((bytes, seconds))
    }

    fn restore(&self, store: &Store, original: &Path, save: usize) -> Result<MeasuredRestore> {
        let address = Address { run: RUN.into(), point: Point::Step(save as u64 + 1) };
        let output = self.folder.0.join("restored");
        let report = store.restore(&address, &output, &RestoreOptions::default())?;
        self.compare(original, &output)?;
        let removed = if output.is_dir() { std::fs::remove_dir_all(&output) } else { std::fs::remove_file(&output) };
        removed.context("remove", &output)?;
        Ok(MeasuredRestore { save, bytes: report.bytes, seconds: report.seconds })
    }

    /// The restored files must be the original ones: no other names, no other bytes.
    fn compare(&self, original: &Path, restored: &Path) -> Result<()> {
        let differs = || Error::damaged(original.display().to_string(), "it came back different from a restore");
        let (ours, theirs) = (files_of(original)?, files_of(restored)?);
        if !ours.iter().map(|(name, _)| name).eq(theirs.iter().map(|(name, _)| name)) {
            return Err(differs());
        }
        for ((_, original), (_, restored)) in ours.iter().zip(&theirs) {
            let mut theirs = File::open(restored).context("open", restored)?;
            let mut buffer = vec![0; PIECE_BYTES];
            let mut compared = 0;
            self.pieces_quietly(original, |piece| {
                let same = theirs.read_exact(&mut buffer[..piece.len()]).is_ok() && piece == &buffer[..piece.len()];
                compared += piece.len() as u64;
                if same { Ok(()) } else { Err(differs()) }
            })?;
            if theirs.metadata().context("read", restored)?.len() != compared {
                return Err(differs());
            }
        }
        Ok(())
    }

    /// Reads a file from front to back.
    fn pieces(&self, path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.pieces_quietly(path, |piece| {
            take(piece)?;
            self.monitor.advance(piece.len() as u64);
            Ok(())
        })
    }

    fn pieces_quietly(&self, path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut file = File::open(path).context("open", path)?;
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            if self.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
            match file.read(&mut buffer).context("read", path)? {
                0 => return Ok(()),
                count => take(&buffer[..count])?,
            }
        }
    }
}

fn under(store: &Store, policy: Policy) -> Result<MeasuredPolicy> {
    let stats = store.stats()?;
    Ok(MeasuredPolicy {
        policy,
        checkpoints: stats.checkpoints,
        raw_bytes: stats.raw_bytes,
        stored_bytes: stats.stored_bytes,
    })
}

/// A folder that goes in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(above: &Path) -> Result<Folder> {
        let path = above.join(format!("treering-bench-{}", SaveId(Env::system().random()).to_hex()));
        std::fs::create_dir(&path).context("create", &path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the journeys of a measurement report to: they move its one stage on.
#[derive(Debug)]
struct Part(Arc<dyn Monitor>);

impl Monitor for Part {
    fn advance(&self, amount: u64) {
        self.0.advance(amount);
    }

    fn warn(&self, message: &str) {
        self.0.warn(message);
    }

    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let mut names = ["step-100", "step-20", "step-020b", "step-3", "a10/x2", "a9/x10", "a10/x1", "step"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a9/x10", "a10/x1", "a10/x2", "step", "step-3", "step-20", "step-020b", "step-100"]);
        assert_eq!(natural("x1", "x01"), natural("x01", "x1").reverse());
    }

    #[test]
    fn the_last_and_one_in_the_middle() {
        let which = |count| to_restore(count).collect::<Vec<_>>();
        assert_eq!(
            [which(0), which(1), which(2), which(3), which(10)],
            [vec![], vec![0], vec![1], vec![2, 1], vec![9, 5]]
        );
    }
}
