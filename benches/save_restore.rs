//! How fast saves and restores are, beside hashing and copying the same bytes.
//!
//! `cargo bench --bench save_restore` makes 172 MB of 32-bit floats as an optimizer has them; with
//! `-- FIRST.safetensors SECOND.safetensors` it takes two steps of a real run. Every figure is measured in turns with its
//! baseline, behind a round that does not count. Results are asserted, times are not.

mod kit;

use std::borrow::Cow;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kit::{BenchDisk, seconds};
use treering::restore::RestoreOptions;
use treering::store::Options;

const ROUNDS: usize = 5;
const STEP_BYTES: usize = 1 << 20;

fn main() {
    let threads = Options::default().threads;
    println!("{threads} threads; figure | baseline | ratio, the median of rounds in turns");
    let made = tempfile::tempdir().expect("a temporary folder");
    let (first, second) = kit::given_files().unwrap_or_else(|| make_steps(made.path()));
    for (place, folder) in kit::places() {
        let (a, b) = (folder.path().join("first.safetensors"), folder.path().join("second.safetensors"));
        kit::copy_and_sync(&first, &a);
        kit::copy_and_sync(&second, &b);
        unchanged(place, folder.path(), &a, threads);
        changed(place, folder.path(), &a, &b);
    }
    one_of_a_thousand();
}

/// Weights and two moments in 4 MiB tensors, and the same a step later.
fn make_steps(folder: &Path) -> (PathBuf, PathBuf) {
    let bytes = 4 << 20;
    let metas: Vec<_> = (0..41).map(|n| kit::meta(format!("{}.{n:02}", ["model", "m", "v"][n % 3]), bytes)).collect();
    let first: Vec<Vec<u8>> = (0..metas.len() as u64).map(|n| kit::weights(n, bytes)).collect();
    let (a, b) = (folder.join("first.safetensors"), folder.join("second.safetensors"));
    kit::write_file(&a, &metas, first.iter().map(|bytes| Cow::Borrowed(&bytes[..])));
    kit::write_file(&b, &metas, first.iter().zip(100..).map(|(bytes, seed)| Cow::Owned(kit::trained(bytes, seed))));
    (a, b)
}

fn unchanged(place: &str, folder: &Path, file: &Path, threads: usize) {
    let store = kit::create(&folder.join("unchanged"), None);
    kit::save(&store, file, 0, false);
    let bytes = std::fs::read(file).expect("a file");
    let (mut from_file, mut from_map, mut hashing) = (Vec::new(), Vec::new(), Vec::new());
    let (mut hashing_file, mut hashing_map) = (Vec::new(), Vec::new());
    for round in 0..=2 * ROUNDS {
        let mut written = Vec::new();
        let number = 2 * round as u64;
        hashing.push(seconds(|| hash(&bytes, threads)));
        hashing_file.push(seconds(|| hash_file(file, threads)));
        hashing_map.push(seconds(|| hash_mapped(file, threads)));
        from_file.push(seconds(|| written.push(kit::save(&store, file, number + 1, false))));
        from_map.push(seconds(|| written.push(kit::save(&store, file, number + 2, true))));
        for report in written {
            assert_eq!(report.sizes.unchanged, report.sizes.raw, "something was taken for a change");
            assert!(report.new_bytes < 30 << 10, "{} bytes written for nothing", report.new_bytes);
        }
    }
    let size = bytes.len() as u64;
    let compare = |what: &str, figure: &[f64], baseline: &[f64], target| {
        kit::compare(&format!("unchanged save, {place}, {what}"), size, &figure[1..], &baseline[1..], target);
    };
    compare("file | BLAKE3", &from_file, &hashing, " (at most 1.4)");
    compare("mapped | BLAKE3", &from_map, &hashing, " (at most 1.15)");
    compare("file | BLAKE3 of the file", &from_file, &hashing_file, "");
    compare("mapped | BLAKE3 of the map", &from_map, &hashing_map, "");
}

/// BLAKE3 of all bytes, in memory, on as many threads as a save has.
fn hash(bytes: &[u8], threads: usize) {
    let next = AtomicUsize::new(0);
    let pieces: Vec<&[u8]> = bytes.chunks(STEP_BYTES).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    black_box(blake3::hash(piece));
                }
            });
        }
    });
}

/// The same of a file's bytes, read in pieces: what hashing a file costs, and nothing else.
fn hash_file(file: &Path, threads: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(file).expect("a file");
    let bytes = file.metadata().expect("a length").len();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = vec![0; STEP_BYTES];
                loop {
                    let at = (next.fetch_add(1, Ordering::Relaxed) * STEP_BYTES) as u64;
                    if at >= bytes {
                        break;
                    }
                    let piece = &mut buffer[..(bytes - at).min(STEP_BYTES as u64) as usize];
                    file.read_exact_at(piece, at).expect("bytes");
                    black_box(blake3::hash(piece));
                }
            });
        }
    });
}

#[allow(unsafe_code, reason = "a mapping is what is measured")]
fn hash_mapped(file: &Path, threads: usize) {
    let file = std::fs::File::open(file).expect("a file");
    // SAFETY: nobody changes the file while it is mapped.
    let map = unsafe { memmap2::Mmap::map(&file) }.expect("a map");
    hash(&map, threads);
}

fn changed(place: &str, folder: &Path, a: &Path, b: &Path) {
    let size = std::fs::metadata(b).expect("a file").len();
    let (copy, restored, root) = (folder.join("copy"), folder.join("restored"), folder.join("changed"));
    let (mut saving, mut restoring, mut copying, mut stored) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..=ROUNDS {
        let store = kit::create(&root, None);
        kit::save(&store, a, 1, false);
        copying.push(seconds(|| kit::copy_and_sync(b, &copy)));
        std::fs::remove_file(&copy).expect("the copy");
        saving.push(seconds(|| stored = kit::save(&store, b, 2, false).new_bytes));
        let restore = || {
            store.restore(&kit::step(2), &restored, &RestoreOptions::default()).expect("a restore");
        };
        restoring.push(seconds(restore));
        kit::assert_same(b, &restored);
        std::fs::remove_file(&restored).expect("what was restored");
        drop(store);
        std::fs::remove_dir_all(&root).expect("the store");
    }
    kit::compare(
        &format!("changed save, {place} | copy and sync"),
        size,
        &saving[1..],
        &copying[1..],
        " (at most 1.3)",
    );
    kit::compare(&format!("restore, {place} | copy and sync"), size, &restoring[1..], &copying[1..], " (at most 1.3)");
    println!("{:<44} {:.1} % of {:.1} MB", "    it stored", 100.0 * stored as f64 / size as f64, size as f64 / 1e6);
}

/// A save of 100 KB among 1,000 small tensors: what it writes beside them, and how often it waits for the disk.
fn one_of_a_thousand() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("small.safetensors");
    let metas: Vec<_> = (0..1000).map(|n| kit::meta(format!("layers.{n:03}"), 100_000)).collect();
    let mut tensors: Vec<Vec<u8>> = (0..1000).map(|n| kit::weights(n, 100_000)).collect();
    let disk = Arc::new(BenchDisk::default());
    let store = kit::create(&folder.path().join("store"), Some(disk.clone()));
    kit::write_file(&file, &metas, tensors.iter().map(|bytes| Cow::Borrowed(&bytes[..])));
    kit::save(&store, &file, 1, false);

    tensors[500] = kit::weights(5000, 100_000);
    kit::write_file(&file, &metas, tensors.iter().map(|bytes| Cow::Borrowed(&bytes[..])));
    let catalog = store.stats().expect("a readable store").catalog_bytes;
    let before = disk.syncs();
    let mut saved = None;
    let time = seconds(|| saved = Some(kit::save(&store, &file, 2, false)));
    let (syncs, saved) = (disk.syncs() - before, saved.expect("a save"));
    let catalog = store.stats().expect("a readable store").catalog_bytes as i64 - catalog as i64;
    let stored = store.checkpoint(&kit::step(2)).and_then(|checkpoint| checkpoint.tensors()).expect("a checkpoint");
    let frames = stored[500].stored_bytes;
    let beyond = saved.new_bytes - frames;
    println!(
        "one of 1,000 tensors of 100 KB: {} objects, {syncs} syncs, {beyond} bytes beyond {frames} of its frames, \
         catalog {catalog:+} bytes, {:.1} ms (2 objects, 4 syncs, below 20,000 bytes)",
        saved.new_objects,
        time * 1e3
    );
    assert_eq!((saved.new_objects, syncs), (2, 4));
    assert!(beyond < 20_000);
}
