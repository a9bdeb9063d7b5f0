//! What each save of a run adds and how fast it is, and how fast steps come back: from the page cache to a store on disk
//! and one on tmpfs, and from there into memory that is used again.
//!
//! `cargo bench --bench series` makes a run of weights that move and moments that do not stay; `-- FOLDER` takes the steps
//! of a real one, `*STEP.safetensors`. Beside it stand, in turns, copying and syncing the file there, and copying all
//! tensors into the same memory.

mod kit;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use kit::seconds;
use treering::Store;
use treering::format::safetensors;
use treering::restore::Window;
use treering::save::{Encoding, Inputs, SaveOptions};

const ROUNDS: usize = 5;
const STEPS: u64 = 10;
const TENSOR_BYTES: usize = 4 << 20;

fn main() {
    let made = tempfile::tempdir().expect("a temporary folder");
    let steps = match &kit::arguments()[..] {
        [run] => kit::steps_of(Path::new(run)),
        _ => make_run(made.path()),
    };
    assert!(steps.len() > 1, "there are at least two steps");
    let files: Vec<&PathBuf> = steps.values().collect();
    let size = std::fs::metadata(files[0]).expect("a file").len();
    println!(
        "{} saves of {:.0} MB in {}",
        files.len(),
        size as f64 / 1e6,
        files[0].parent().expect("a folder").display()
    );
    for (place, folder) in kit::places() {
        for (encoding, name) in [(Encoding::Balanced, "balanced"), (Encoding::Small, "small")] {
            println!("{name}, store on {place}");
            let store = kit::create(&folder.path().join(name), None);
            saves(&store, &files, encoding, &folder.path().join("copy"));
            restores(&store, &files);
        }
    }
}

/// Weights, of which each step moves all a little, and as many moments, which are others at each.
fn make_run(folder: &Path) -> BTreeMap<u64, PathBuf> {
    let metas: Vec<_> = (0..8).map(|n| kit::meta(format!("{}.{n}", ["model", "m"][n % 2]), TENSOR_BYTES)).collect();
    let mut tensors: Vec<Vec<u8>> = (0..metas.len() as u64).map(|n| kit::weights(n, TENSOR_BYTES)).collect();
    let step = |step| {
        for (n, tensor) in tensors.iter_mut().enumerate() {
            let seed = 1000 * step + n as u64;
            *tensor = if n % 2 == 0 { kit::trained(tensor, seed) } else { kit::weights(seed, TENSOR_BYTES) };
        }
        let path = folder.join(format!("{step}.safetensors"));
        kit::write_file(&path, &metas, tensors.iter().map(|bytes| Cow::Borrowed(&bytes[..])));
        (step, path)
    };
    (1..=STEPS).map(step).collect()
}

fn saves(store: &Store, files: &[&PathBuf], encoding: Encoding, copy: &Path) {
    let (mut saving, mut copying, mut added, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (file, step) in files.iter().zip(1..) {
        // From now on it is in the page cache.
        bytes = std::fs::read(file).expect("a file").len() as u64;
        copying.push(seconds(|| kit::copy_and_sync(file, copy)));
        std::fs::remove_file(copy).expect("the copy");
        let inputs = Inputs::paths(&[(None, file.to_path_buf())], false).expect("a safetensors file");
        let options = SaveOptions { run: "run".into(), step, encoding, ..SaveOptions::default() };
        saving.push(seconds(|| added.push(store.save(&inputs, &options).expect("a save").new_bytes)));
    }
    let share = |bytes_added: &[u64]| {
        100.0 * bytes_added.iter().sum::<u64>() as f64 / (bytes_added.len() as u64 * bytes) as f64
    };
    println!("  a save adds {:.2} % of raw, the first {:.1} %", share(&added[1..]), share(&added[..1]));
    kit::compare("  saves after the first | copy and sync", bytes, &saving[1..], &copying[1..], "");
}

fn restores(store: &Store, files: &[&PathBuf]) {
    let depths: Vec<f64> = (1..=files.len() as u64).map(|step| depth(store, step)).collect();
    let deepest = (0..files.len()).max_by(|a, b| depths[*a].total_cmp(&depths[*b])).expect("a step");
    let mut memory: Vec<Vec<u8>> = Vec::new();
    for (what, n) in [("first", 0), ("deepest", deepest)] {
        let checkpoint = store.checkpoint(&kit::step(n as u64 + 1)).expect("a checkpoint");
        let file = std::fs::read(files[n]).expect("a file");
        let tensors = tensors_of(&file);
        let originals: Vec<&[u8]> = checkpoint.metas().map(|(_, meta)| tensors[&meta.name]).collect();
        memory.resize_with(originals.len(), Vec::new);
        memory.iter_mut().zip(&originals).for_each(|(memory, original)| memory.resize(original.len(), 0));
        let (mut reading, mut copying) = (Vec::new(), Vec::new());
        for _ in 0..=ROUNDS {
            let each = memory.iter_mut().zip(&originals);
            copying.push(seconds(|| each.for_each(|(memory, original)| memory.copy_from_slice(original))));
            memory.iter_mut().for_each(|memory| memory.fill(0));
            let windows = memory.iter_mut().enumerate();
            let windows = windows.map(|(tensor, bytes)| Window { tensor, start: 0, bytes: &mut bytes[..] }).collect();
            reading.push(seconds(|| checkpoint.read_into(windows).expect("a sound checkpoint")));
        }
        assert!(memory.iter().zip(&originals).all(|(memory, original)| memory == original), "other bytes came back");
        let bytes = originals.iter().map(|bytes| bytes.len() as u64).sum();
        let what = format!("  {what} step, depth {:.1} | a thread copies", depths[n]);
        kit::compare(&what, bytes, &reading[1..], &copying[1..], "");
    }
}

/// How deep the deepest chunk of a tensor is, on average over the bytes of a step.
fn depth(store: &Store, step: u64) -> f64 {
    let tensors = store.checkpoint(&kit::step(step)).and_then(|checkpoint| checkpoint.tensors()).expect("a checkpoint");
    let bytes: u64 = tensors.iter().map(|tensor| tensor.meta.bytes).sum();
    tensors.iter().map(|tensor| f64::from(tensor.depth) * tensor.meta.bytes as f64).sum::<f64>() / bytes as f64
}

/// The tensors of a file.
fn tensors_of(file: &[u8]) -> HashMap<String, &[u8]> {
    let (first, bytes) = (file[..8].try_into().expect("eight bytes"), file.len() as u64);
    let header = safetensors::header_len("a file", first, bytes).expect("a header") as usize;
    let data = bytes - 8 - header as u64;
    let header = safetensors::parse("a file", &file[8..8 + header], data).expect("a header");
    let start = |begin: u64| (header.data_start + begin) as usize;
    let tensors = header.tensors.iter();
    tensors.map(|t| (t.meta.name.clone(), &file[start(t.begin)..][..t.meta.bytes as usize])).collect()
}
